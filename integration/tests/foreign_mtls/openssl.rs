//! openssl's own client and server, and curl, with the commands of `docs/OPERATING.md`.

use std::net::SocketAddr;
use std::process::Stdio;

use postern_integration::{CaOptions, Program, Sidecar, tools};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::app::{ECHO, GREETING};
use crate::called::Payments;
use crate::calling::Orders;
use crate::documented::{self, Ports};
use crate::papers::Papers;
use crate::program::{Places, free, listens};
use crate::traffic::{self, within};

/// A command of the document with more arguments, in a shell as a reader would run it.
fn shell(title: &str, papers: &Papers, ports: Ports<'_>, arguments: &str) -> Command {
    let text = documented::configuration(title, &papers.dir, ports);
    let mut command = Command::new("sh");
    // exec: what is killed shall be the program, not its shell.
    command.args(["-c", &format!("exec {} {arguments}", text.trim())]).kill_on_drop(true);
    command
}

fn client(papers: &Papers, to: SocketAddr, arguments: &str) -> Child {
    let ports = [(8443, to.port())];
    let mut command = shell("openssl calls payments as orders", papers, &ports, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[tokio::test]
async fn openssl_as_a_client_is_greeted_and_served_whatever_alpn_it_offers() {
    if !tools::has("openssl") {
        return;
    }
    let mut payments = Payments::start(CaOptions::default()).await;
    let papers = Papers::of(&payments.mesh, &payments.ca, "orders").await;
    for alpn in ["", "-alpn http/1.1", "-alpn h2,http/1.1", "-alpn acme-tls/1", "-alpn grpc-exp,x"] {
        let mut client = client(&papers, payments.places().tcp, alpn);
        let (mut say, mut hear) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
        let mut greeting = GREETING.map(|_| 0);
        within("the greeting", hear.read_exact(&mut greeting)).await.unwrap();
        say.write_all(&[ECHO, b'w', b'o', b'r', b'd']).await.unwrap();
        let mut word = [0; 4];
        within("the echo", hear.read_exact(&mut word)).await.unwrap();
        assert_eq!((greeting, &word), (GREETING, b"word"), "{alpn}");
        client.start_kill().unwrap();
        assert!(payments.app.end().await.how.is_err(), "{alpn}: killed is not a clean end");
    }
}

#[tokio::test]
async fn openssl_as_a_client_that_ends_in_order_is_a_clean_end() {
    if !tools::has("openssl") {
        return;
    }
    let mut payments = Payments::start(CaOptions::default()).await;
    let papers = Papers::of(&payments.mesh, &payments.ca, "orders").await;
    let mut client = client(&papers, payments.places().tcp, "-no_ign_eof");
    let mut hear = client.stdout.take().unwrap();
    within("the greeting", hear.read_exact(&mut GREETING.map(|_| 0))).await.unwrap();
    let mut say = client.stdin.take().unwrap();
    say.write_all(&[ECHO, 7]).await.unwrap();
    within("the echo", hear.read_u8()).await.unwrap();
    drop(say);
    let end = payments.app.end().await;
    assert!(end.bytes == 1 && end.how.is_ok(), "{end:?}");
}

#[tokio::test]
async fn openssl_as_a_client_that_is_refused_shows_the_alert() {
    if !tools::has("openssl") {
        return;
    }
    let payments = Payments::start(CaOptions::default()).await;
    let papers = Papers::of(&payments.mesh, &payments.ca, "reports").await;
    let client = client(&papers, payments.places().tcp, "");
    let output = within("its end", client.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("access denied") && output.stdout.is_empty(), "{said}");
    assert!(!output.status.success());
    let words = ["refused", "spiffe://shop.example/reports", "no rule matches"];
    payments.sidecar.program.line_with(&words).await;
}

#[tokio::test]
async fn curl_as_documented_is_served() {
    if !tools::has("curl") {
        return;
    }
    let payments = Payments::start(CaOptions::default()).await;
    let papers = Papers::of(&payments.mesh, &payments.ca, "orders").await;
    let ports = [(8444, payments.places().http.port())];
    let output = shell("curl calls payments as orders", &papers, &ports, "").output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("\"target\":\"/charge\"") && said.contains("/orders\""), "{said} {output:?}");
}

/// `openssl s_server`, and a sidecar that calls it.
struct Served {
    server: Program,
    _sidecar: Sidecar,
    /// Where the calling app connects.
    entry: SocketAddr,
}

async fn served(orders: &Orders, papers: &Papers, arguments: &str) -> Served {
    let at = free();
    let ports = [(8443, at.port())];
    let command = shell("openssl is called as payments", papers, &ports, arguments);
    let server = Program::start_command("openssl s_server", command);
    listens(&server, at).await;
    let sidecar = orders.sidecar(Places { tcp: at, http: at }).await;
    Served { server, entry: sidecar.outbounds[0], _sidecar: sidecar }
}

#[tokio::test]
async fn openssl_as_a_server_answers_and_ends_as_it_says_whatever_alpn_it_insists_on() {
    if !tools::has("openssl") {
        return;
    }
    let orders = Orders::start().await;
    let papers = Papers::of(&orders.mesh, &orders.ca, "payments").await;
    for alpn in ["", "-alpn http/1.1", "-alpn acme-tls/1"] {
        // It sends each line back, reversed, until there is one that says CLOSE.
        let mut served = served(&orders, &papers, &format!("-rev {alpn}")).await;
        for _ in 0..2 {
            let mut stream = TcpStream::connect(served.entry).await.unwrap();
            let mut word = [0; 5];
            stream.write_all(b"word\n").await.unwrap();
            within("an answer", stream.read_exact(&mut word)).await.unwrap();
            assert_eq!(&word, b"drow\n", "{alpn}");
            stream.write_all(b"CLOSE\n").await.unwrap();
            let end = within("an end", stream.read(&mut word)).await;
            assert_eq!(end.unwrap(), 0, "{alpn}: a clean end");
        }
        let mut stream = TcpStream::connect(served.entry).await.unwrap();
        stream.write_all(b"word\n").await.unwrap();
        within("an answer", stream.read_u8()).await.unwrap();
        served.server.kill().await;
        let rest = within("an end", stream.read_to_end(&mut Vec::new())).await;
        assert!(rest.is_err(), "{alpn}: killed is not a clean end");
    }
}

#[tokio::test]
async fn a_server_that_closes_without_close_notify_is_a_reset() {
    if !tools::has("openssl") {
        return;
    }
    let orders = Orders::start().await;
    let papers = Papers::of(&orders.mesh, &orders.ca, "payments").await;
    let at = free();
    let mut command = shell("openssl is called as payments", &papers, &[(8443, at.port())], "");
    let mut server =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut printed = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut line_with = async |what: &str| {
        within(what, async { while !printed.next_line().await.unwrap().unwrap().contains(what) {} }).await;
    };
    line_with("ACCEPT").await;
    let sidecar = orders.sidecar(Places { tcp: at, http: at }).await;
    let mut stream = TcpStream::connect(sidecar.outbounds[0]).await.unwrap();
    stream.write_all(b"a line of the caller\n").await.unwrap();
    line_with("a line of the caller").await;
    // What s_server takes for: close the socket, and say nothing.
    server.stdin.as_mut().unwrap().write_all(b"q\n").await.unwrap();
    traffic::is_reset(&mut stream).await;
}
