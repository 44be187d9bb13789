//! A new process that cannot take over: the old one goes on as if nothing had happened.

use postern_integration::shop::Shop;
use postern_integration::{Program, eventually};

use crate::fixture::{
    give_policy, goes_on, load, none_failed, other_config, shop, start, start_without_policy,
};

/// The new process exits with `code` after `says`; meanwhile and afterwards nobody notices, and the next one succeeds.
async fn refused(shop: &mut Shop, mut new: Program, code: i32, says: &[&str]) {
    let load = load(shop).await;
    new.line_with(says).await;
    assert_eq!(new.exit().await.code(), Some(code), "{}", new.output());
    goes_on(&load).await;
    assert!(!shop.payments.restart_socket().with_extension("sock.new").exists(), "it leaves nothing");
    succeeds_then(shop).await;
    none_failed(load).await;
}

async fn succeeds_then(shop: &mut Shop) {
    let mut old = shop.payments.succeed().await;
    assert_eq!(old.exit().await.code(), Some(0), "{}", old.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_configuration() {
    let mut shop = shop().await;
    let new = start(&other_config(&shop.payments, "protocol", "protocoll"));
    refused(&mut shop, new, 2, &["protocoll"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_further_listener_whose_port_is_taken() {
    let mut shop = shop().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let further = format!(
        "[[inbound]]\nname = \"other\"\nlisten = \"{address}\"\napp = \"127.0.0.1:1\"\nprotocol = \"tcp\"\n[[inbound]]"
    );
    let new = start(&other_config(&shop.payments, "[[inbound]]", &further));
    refused(&mut shop, new, 1, &["cannot listen", &address, "inbound other"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_not_ready_in_time_says_what_is_missing() {
    let mut shop = shop().await;
    let quick = "[restart]\nready_within = \"200ms\"\n";
    let config = other_config(&shop.payments, "[restart]\n", quick);
    let text = std::fs::read_to_string(&config).unwrap().replace("/policy.toml\"", "/late.toml\"");
    std::fs::write(&config, text).unwrap();
    refused(&mut shop, start(&config), 1, &["restart.ready_within = 200ms", "missing: policy"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_or_told_to_end_while_it_waits() {
    let mut shop = shop().await;
    let load = load(&shop).await;
    let mut killed = start_without_policy(&shop.payments).await;
    killed.kill().await;
    shop.payments.program.line_with(&["not taken over; going on", "broke off"]).await;
    goes_on(&load).await;
    let mut told = start_without_policy(&shop.payments).await;
    told.signal("TERM");
    assert_eq!(told.exit().await.code(), Some(0));
    goes_on(&load).await;
    succeeds_then(&mut shop).await;
    none_failed(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_of_two_at_once_is_refused_and_the_first_succeeds() {
    let mut shop = shop().await;
    let load = load(&shop).await;
    let first = start_without_policy(&shop.payments).await;
    let mut second = shop.payments.another();
    second.line_with(&["another process is about to take over"]).await;
    assert_eq!(second.exit().await.code(), Some(1));
    give_policy(&shop);
    first.line_with(&["took over"]).await;
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
    shop.payments.program = first;
    goes_on(&load).await;
    succeeds_then(&mut shop).await;
    none_failed(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_at_once_leave_exactly_one() {
    let mut shop = shop().await;
    let load = load(&shop).await;
    let new: Vec<Program> = (0..4).map(|_| shop.payments.another()).collect();
    // Each is refused, or takes over and is perhaps succeeded.
    let (refused, took_over) = ("postern-sidecar: ", "took over from the old process");
    let decided = |one: &Program| one.lines_with(&[refused]) + one.lines_with(&[took_over]) > 0;
    eventually("all decided", async || new.iter().all(decided).then_some(())).await;
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
    goes_on(&load).await;
    none_failed(load).await;
    let serves = |one: &&Program| one.lines_with(&[took_over]) > one.lines_with(&["this one ends"]);
    eventually("one is left", async || (new.iter().filter(serves).count() == 1).then_some(())).await;
    shop.payments.program = new.into_iter().find(|one| serves(&one)).unwrap();
    assert_eq!(shop.payments.get("/ready").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_another_user_is_refused_also_where_the_file_lets_it_in() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let mut shop = shop().await;
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(shop.mesh.path()).unwrap());
    if owner != 0 {
        // Only root can start a program as somebody else; the rule itself is a test of takeover/door.rs.
        return;
    }
    let socket = shop.payments.restart_socket();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    for (path, mode) in [(shop.mesh.path(), 0o755), (socket.parent().unwrap(), 0o755), (&socket, 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let binary = shop.mesh.path().join("postern-sidecar");
    // Copied by another process: a program that this one still had open for writing could not be started.
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg(postern_integration::sidecar_binary()).arg(&binary).status().unwrap().success());
    let mut command = std::process::Command::new(&binary);
    command.arg("run").arg("--config").arg(&shop.payments.config).uid(65_534).gid(65_534);
    let new = Program::start_command("somebody else", command.into());
    refused(&mut shop, new, 1, &["user 65534 may not take over from user 0"]).await;
}
