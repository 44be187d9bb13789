//! A full disk, a read-only root and logs that nobody reads cost log lines and the memory of a restart, never traffic.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use postern_integration::apps::App;
use postern_integration::load::{Load, Style};
use postern_integration::shop::{HTTP_POLICY, POLICY, Shop};
use postern_integration::{CaOptions, Program, Sidecar, SidecarSpec, eventually, sidecar_binary, web};

/// Starts a stopped sidecar again, by a shell script in which `"$@"` is its command.
async fn restart_by(sidecar: &mut Sidecar, mut shell: Command, script: &str) {
    sidecar.program.signal("TERM");
    assert_eq!(sidecar.program.exit().await.code(), Some(0));
    shell.args(["sh", "-ec", script, "sh"]).arg(sidecar_binary());
    shell.args(["run".as_ref(), "--config".as_ref(), sidecar.config.as_path()]);
    sidecar.program = Program::start_command(&sidecar.name, shell.into());
}

fn shell() -> Command {
    Command::new("env")
}

/// A shell with mounts of its own, where this user may have them.
fn shell_with_mounts() -> Option<Command> {
    let script = "mount -t tmpfs none /mnt && mount -o remount,bind,ro /";
    let mut attempt = Command::new("unshare");
    attempt.args(["--mount", "sh", "-ec", script]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut shell = Command::new("unshare");
    shell.arg("--mount");
    attempt.status().is_ok_and(|status| status.success()).then_some(shell)
}

/// Lets some more be served, and none fail.
async fn serves(load: &Load, requests: u64) {
    let before = load.served();
    eventually("more load", async || (load.served() > before + requests).then_some(())).await;
}

async fn none_failed(load: Load) {
    let outcome = load.stop().await;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {}", outcome.served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_nobody_reads_stall_neither_traffic_nor_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let pipes = ["log", "access"].map(|name| dir.path().join(name));
    // Open, so that it is not broken; never read.
    let _ends = pipes.each_ref().map(|pipe| {
        assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        OpenOptions::new().read(true).write(true).open(pipe).unwrap()
    });
    let extra = format!(
        "[log]\nlevel = \"trace\"\n[access_log]\nto = \"{}\"\nlines_waiting_max = 16\n[shutdown]\ndrain_delay = \"0s\"\n",
        pipes[1].display()
    );
    let change = |spec: SidecarSpec| spec.http();
    let mut shop = Shop::start_as(CaOptions::default(), web::app().await, HTTP_POLICY, change).await;
    let text = std::fs::read_to_string(&shop.payments.config).unwrap();
    std::fs::write(&shop.payments.config, text + &extra).unwrap();
    let script = format!("exec \"$@\" 2>'{}'", pipes[0].display());
    restart_by(&mut shop.payments, shell(), &script).await;
    shop.payments.ready().await;
    let load = Load::start(shop.orders_to_payments(), Style::FreshHttp1, 8);
    for lost in ["postern_log_lines_dropped_total", "postern_access_log_lines_dropped_total"] {
        eventually(lost, async || (shop.payments.metric(lost, &[]).await > 0.0).then_some(())).await;
    }
    serves(&load, 100).await;
    none_failed(load).await;
    shop.payments.program.signal("TERM");
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_on_a_full_disk_are_lost_and_counted_and_stall_nothing() {
    let change = |spec: SidecarSpec| spec.extra("[access_log]\nto = \"/dev/full\"\n");
    let mut shop = Shop::start_as(CaOptions::default(), App::echo().await, POLICY, change).await;
    restart_by(&mut shop.payments, shell(), "exec \"$@\" 2>/dev/full").await;
    shop.payments.ready().await;
    let load = Load::start(shop.orders_to_payments(), Style::FreshConnections, 4);
    let failed = "postern_access_log_lines_failed_total";
    eventually(failed, async || (shop.payments.metric(failed, &[]).await > 0.0).then_some(())).await;
    serves(&load, 50).await;
    none_failed(load).await;
    shop.payments.program.signal("TERM");
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_what_would_be_kept_and_stalls_neither_traffic_nor_rotation() {
    let Some(shell) = shell_with_mounts() else { return };
    let options = CaOptions { svid_ttl: "10s", extra: "" };
    let mut shop = Shop::start_as(options, App::echo().await, POLICY, |spec| spec).await;
    // What is there already is kept; then there is no room for anything more.
    let full = "mount -t tmpfs none /mnt; cp -a STATE /mnt/kept; mount -t tmpfs -o size=32k,mode=700 none STATE; \
                cp -a /mnt/kept/. STATE; cat /dev/zero > STATE/zero || true; exec \"$@\"";
    let state = shop.payments.config.with_extension("state").display().to_string();
    restart_by(&mut shop.payments, shell, &full.replace("STATE", &state)).await;
    shop.payments.ready().await;
    let load = Load::start(shop.orders_to_payments(), Style::FreshConnections, 4);
    shop.payments.program.line_with(&["identity not kept for a restart", "No space left"]).await;
    let rotations = async || shop.payments.metric("postern_svid_rotations_total", &[]).await;
    eventually("two rotations", async || (rotations().await >= 2.0).then_some(())).await;
    serves(&load, 50).await;
    none_failed(load).await;
    shop.payments.program.signal("TERM");
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_root_costs_what_would_be_kept_and_nothing_else() {
    let Some(shell) = shell_with_mounts() else { return };
    let options = CaOptions { svid_ttl: "10s", extra: "" };
    let mut shop = Shop::start_as(options, App::echo().await, POLICY, |spec| spec).await;
    restart_by(&mut shop.payments, shell, READ_ONLY).await;
    shop.payments.program.line_with(&["identity not kept for a restart", "Read-only"]).await;
    shop.payments.ready().await;
    let load = Load::start(shop.orders_to_payments(), Style::FreshConnections, 4);
    serves(&load, 50).await;
    none_failed(load).await;
    assert!(shop.payments.metric("postern_svid_rotations_total", &[]).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_socket_that_cannot_be_made_is_an_error_at_the_start() {
    let Some(shell) = shell_with_mounts() else { return };
    let change = |spec: SidecarSpec| spec.restartable();
    let mut shop = Shop::start_as(CaOptions::default(), App::echo().await, POLICY, change).await;
    restart_by(&mut shop.payments, shell, READ_ONLY).await;
    let socket = shop.payments.restart_socket().display().to_string();
    shop.payments.program.line_with(&["restart.socket", &socket, "Read-only"]).await;
    assert_eq!(shop.payments.program.exit().await.code(), Some(1));
}

const READ_ONLY: &str = "mount -o remount,bind,ro /; exec \"$@\"";
