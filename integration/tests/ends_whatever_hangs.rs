//! A program that is told to end does so by its deadline, whatever hangs in it, and its exit code says how it ended.

use std::path::Path;
use std::process::Command;

use postern_integration::apps::App;
use postern_integration::shop::Shop;
use postern_integration::{CaOptions, Mesh, Program, SidecarSpec, sidecar_binary};
use tokio::net::TcpStream;

/// A file that nobody writes: to open it waits for ever, like a file system whose server is gone.
fn fifo(path: &Path) {
    // Removed where it replaces a file.
    let _absent = std::fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

const SOON: &str = "[shutdown]\ndrain_delay = \"0s\"\ndrain_deadline = \"1s\"\n";

#[tokio::test]
async fn a_file_that_hangs_while_it_is_read_again_holds_up_nothing() {
    let mut shop = Shop::start_with(CaOptions::default(), App::echo().await, SOON).await;
    fifo(&shop.policy);
    shop.payments.program.signal("HUP");
    shop.payments.program.line_with(&["SIGHUP: looking at the policy file"]).await;
    shop.payments.program.signal("TERM");
    assert_eq!(shop.payments.program.exit().await.code(), Some(0), "{}", shop.payments.program.output());
}

#[tokio::test]
async fn an_access_log_that_nobody_reads_holds_up_neither_the_start_nor_the_end() {
    let mesh = Mesh::default();
    fifo(&mesh.path().join("access.log"));
    let text = format!(
        "[identity]\nsvid_file = \"a\"\nkey_file = \"b\"\nbundle_file = \"c\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [access_log]\nto = \"{}\"\n{SOON}",
        mesh.path().join("access.log").display()
    );
    let config = mesh.write("sidecar.toml", &text);
    let args = ["run".as_ref(), "--config".as_ref(), config.as_path()];
    let mut unread = Program::start("unread", &sidecar_binary(), args);
    unread.line_with(&["opened"]).await;
    unread.signal("TERM");
    assert_eq!(unread.exit().await.code(), Some(0), "{}", unread.output());
}

#[tokio::test]
async fn name_servers_that_are_silent_and_a_policy_file_that_hangs_do_not_outlive_the_first_signal() {
    let mesh = Mesh::default();
    let policy = mesh.path().join("policy.toml");
    fifo(&policy);
    let text = format!(
        "[identity]\nca = \"https://nobody.invalid:7443\"\njoin_token_file = \"token\"\n\
         [policy]\nfile = \"{}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{SOON}",
        policy.display()
    );
    let config = mesh.write("sidecar.toml", &text);
    let args = ["run".as_ref(), "--config".as_ref(), config.as_path()];
    let mut starting = Program::start("starting", &sidecar_binary(), args);
    starting.line_with(&["opened"]).await;
    starting.signal("TERM");
    assert_eq!(starting.exit().await.code(), Some(0), "{}", starting.output());
}

#[tokio::test]
async fn a_ca_ends_with_0_and_by_a_second_signal_at_once_with_4() {
    let mesh = Mesh::default();
    let patient = CaOptions { extra: "drain_deadline = \"10m\"\n", ..CaOptions::default() };
    let mut ca = mesh.ca(patient).await;
    // A subscription is a call that does not end by itself.
    let sidecar = mesh.sidecar(&ca, &SidecarSpec::new("orders"));
    sidecar.program.line_with(&["listening"]).await;
    let _caller = TcpStream::connect(ca.address).await.unwrap();
    ca.stop().await;
    ca.restart().await;
    ca.program.signal("TERM");
    ca.program.signal("TERM");
    let code = ca.program.exit().await.code();
    assert!(matches!(code, Some(0 | 4)), "{code:?}: it may have ended by the first");
}
