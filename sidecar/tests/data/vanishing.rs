//! A machine that vanishes is found dead in the stated time, and one that lives and takes nothing never is. Two network
//! namespaces are the machines; the link between them goes down.

use std::io;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use postern_sidecar::network::socket::prepare;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const ROLE: &str = "POSTERN_TEST_ROLE";
const HERE: &str = "here";
const THERE: &str = "there";
/// The least for which one second between two tries is not too much.
const DEAD_AFTER: Duration = Duration::from_secs(16);
/// However slow this machine is.
const PATIENCE: Duration = Duration::from_secs(10 * 16);
const RECEIVE_BUFFER_BYTES: u32 = 4096;

fn there() -> SocketAddr {
    SocketAddr::from(([10, 9, 0, 2], 8443))
}

/// This test in a namespace of its own, if this user may have one.
fn in_namespaces() -> Option<Command> {
    let ways: [&[&str]; 2] = [&["--net", "--mount"], &["--net", "--mount", "--user", "--map-root-user"]];
    let script = "mount -t tmpfs none /run && ip netns add there";
    ways.into_iter().find_map(|way| {
        let mut attempt = Command::new("unshare");
        attempt.args(way).args(["sh", "-ec", script]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut command = Command::new("unshare");
        command.args(way);
        attempt.status().is_ok_and(|status| status.success()).then_some(command)
    })
}

fn this_test(mut command: Command, role: &str) -> Command {
    let name = "vanishing::a_machine_that_vanishes_is_dead_and_one_that_takes_nothing_is_not";
    command.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]).env(ROLE, role);
    command
}

fn run(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
}

#[tokio::test]
async fn a_machine_that_vanishes_is_dead_and_one_that_takes_nothing_is_not() {
    match std::env::var(ROLE).as_deref() {
        Ok(THERE) => take_nothing().await,
        Ok(_) => look_on().await,
        Err(_) => {
            let Some(command) = in_namespaces() else {
                return eprintln!("skipped: this user may have no network namespaces");
            };
            assert!(this_test(command, HERE).status().unwrap().success());
        }
    }
}

/// Accepts whoever comes, and reads nothing, as long as it lives.
async fn take_nothing() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
    socket.bind(there()).unwrap();
    let listener: TcpListener = socket.listen(8).unwrap();
    let mut accepted = Vec::new();
    loop {
        accepted.push(listener.accept().await.unwrap());
    }
}

async fn look_on() {
    run(
        "mount -t tmpfs none /run; ip netns add there; ip link add here type veth peer name there netns there
         ip addr add 10.9.0.1/24 dev here; ip link set here up
         ip -n there addr add 10.9.0.2/24 dev there; ip -n there link set there up",
    );
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "there"]);
    let mut machine = this_test(command, THERE).spawn().unwrap();
    let (mut quiet, mut in_flight) = (connected().await, connected().await);
    let closed_window = connected().await;
    while tokio::time::timeout(Duration::from_secs(1), closed_window.writable()).await.is_ok() {
        // It may be full again by now.
        let _written = closed_window.try_write(&[7; 64 * 1024]);
    }
    tokio::time::sleep(DEAD_AFTER * 2).await;
    for stream in [&quiet, &in_flight, &closed_window] {
        assert!(stream.take_error().unwrap().is_none(), "it lives");
    }

    run("ip -n there link set there down");
    in_flight.write_all(b"under way").await.unwrap();
    let mut closed_window = closed_window;
    let dead = async |stream: &mut TcpStream| stream.read(&mut [0]).await.unwrap_err().kind();
    let all = async { tokio::join!(dead(&mut quiet), dead(&mut in_flight), dead(&mut closed_window)) };
    let kinds = tokio::time::timeout(PATIENCE, all).await.expect("they are found dead");
    for kind in [kinds.0, kinds.1, kinds.2] {
        assert!(matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable), "{kind}");
    }
    machine.kill().unwrap();
    machine.wait().unwrap();
}

/// A connection as the sidecar makes it.
async fn connected() -> TcpStream {
    let connecting = async {
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            prepare(&socket, there().ip(), DEAD_AFTER).unwrap();
            if let Ok(stream) = socket.connect(there()).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connecting).await.unwrap()
}
