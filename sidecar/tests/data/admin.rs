//! What the admin endpoint answers, to whom, and what it does about those who only hold it up.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_sidecar::admin::{Admin, CONNECTIONS_MAX, LogLinesDropped, Phase};
use postern_sidecar::identity::IdentityStatus;
use postern_sidecar::proxy::listener::{self, Families, ShutdownTokens};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::sidecar::{PATIENCE, Sidecar, Spec};

struct Asked {
    at: SocketAddr,
    sidecar: Sidecar,
    phase: watch::Sender<Phase>,
    _identity: watch::Sender<IdentityStatus>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Asked {
    fn new(prepare: impl FnOnce(&mut Spec)) -> Self {
        let authority = Authority::new();
        let mut spec = Spec::new(&authority, "payments");
        prepare(&mut spec);
        let sidecar = spec.start(&authority);
        let listener = listener::open(SocketAddr::from(([127, 0, 0, 1], 0)), Families::Own).unwrap();
        let at = listener.local_addr().unwrap();
        let (phase, phases) = watch::channel(Phase::Serving);
        let (identity, status) = watch::channel(IdentityStatus::default());
        let log_lines_dropped = LogLinesDropped(Arc::new(|| 0));
        let admin =
            Admin { proxy: sidecar.proxy.clone(), identity: status, phase: phases, log_lines_dropped };
        let cancel = CancellationToken::new();
        let task = tokio::spawn(
            admin.run(listener, ShutdownTokens { abort: cancel.clone(), ..ShutdownTokens::default() }),
        );
        Self { at, sidecar, phase, _identity: identity, cancel, task }
    }

    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        answer(&mut stream).await
    }

    async fn ask(&self, path: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.at)).await
    }
}

/// All that comes until the end, also when that is a reset.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it never ends");
    drop(read);
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn it_is_ready_only_with_identity_policy_and_listeners_and_says_what_is_missing() {
    let all = Asked::new(|_| {});
    assert!(all.ask("/ready").await.starts_with("HTTP/1.1 200"));
    all.phase.send_replace(Phase::Ending);
    let ending = all.ask("/ready").await;
    assert!(ending.starts_with("HTTP/1.1 503") && ending.contains("ending"), "{ending}");
    let none = Asked::new(|spec| (spec.svid, spec.policy) = (None, None));
    none.phase.send_replace(Phase::Starting);
    let missing = none.ask("/ready").await;
    assert!(missing.starts_with("HTTP/1.1 503"), "{missing}");
    for what in ["identity: ", "policy: ", "listeners: "] {
        assert!(missing.contains(what), "{what} in {missing}");
    }
    assert!(none.ask("/live").await.starts_with("HTTP/1.1 200"), "alive all the same");
}

#[tokio::test]
async fn a_web_page_gets_nothing_by_its_origin_or_a_name_made_to_point_here() {
    let asked = Asked::new(|_| {});
    for path in ["/live", "/ready", "/metrics", "/status", "/connections", "/config"] {
        assert!(asked.ask(path).await.contains("\r\n\r\n"), "{path}");
        for foreign in ["host: evil.example", "host: 127.0.0.1\r\norigin: https://evil.example"] {
            let answer =
                asked.send(&format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{foreign}\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{path} {foreign}: {answer}");
        }
    }
}

#[tokio::test]
async fn one_that_listens_everywhere_answers_to_addresses_only() {
    let asked = Asked::new(|spec| spec.admin = SocketAddr::from(([0, 0, 0, 0], 15000)));
    for host in ["10.1.2.3:15000", "[fd00::1]:15000", "localhost", "127.0.0.1"] {
        let answer =
            asked.send(&format!("GET /live HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
    }
    for host in ["evil.example:15000", "10.1.2.3.evil.example", "localhost.evil.example", ""] {
        let answer =
            asked.send(&format!("GET /live HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn the_status_names_the_source_of_the_policy_and_the_state_of_the_stream() {
    let asked = Asked::new(|_| {});
    let status = asked.ask("/status").await;
    let (_, body) = status.split_once("\r\n\r\n").unwrap();
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&status["policy"]["source"], &status["subscription"]["state"]),
        (&"none".into(), &"off".into())
    );
    assert_eq!((&status["unenforceable"], &status["revoked"]), (&serde_json::json!([]), &0.into()));
    assert!(status["policy"]["digest"].as_str().unwrap().starts_with("sha256:"));
}

#[tokio::test]
async fn a_revoked_sidecar_is_not_ready_and_says_so() {
    let asked = Asked::new(|_| {});
    asked.sidecar.proxy.control.revoked.replace([crate::authority::id("payments")].into());
    let missing = asked.ask("/ready").await;
    assert!(missing.starts_with("HTTP/1.1 503") && missing.contains("identity revoked: "), "{missing}");
}

#[tokio::test]
async fn it_can_only_be_read() {
    let asked = Asked::new(|_| {});
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let request = format!(
            "{method} /status HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            asked.at
        );
        let answer = asked.send(&request).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
    }
    assert!(asked.ask("/../etc/passwd").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_request_of_endless_headers_is_refused() {
    let asked = Asked::new(|_| {});
    let flood = "x".repeat(1024 * 1024);
    let mut stream = TcpStream::connect(asked.at).await.unwrap();
    // The answer may come, and the connection end, before all of it is written.
    let _refused = stream.write_all(format!("GET /live HTTP/1.1\r\nx: {flood}\r\n\r\n").as_bytes()).await;
    let answer = answer(&mut stream).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(asked.ask("/live").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn those_who_say_nothing_are_bounded_and_keep_nobody_out() {
    let asked = Asked::new(|_| {});
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX * 2 {
        silent.push(TcpStream::connect(asked.at).await.unwrap());
    }
    assert!(asked.ask("/live").await.starts_with("HTTP/1.1 200"));
    assert_eq!(answer(&mut silent[0]).await, "", "the oldest has given way");
}

#[tokio::test(start_paused = true)]
async fn half_a_request_is_given_up_and_so_is_a_connection_without_another() {
    let asked = Asked::new(|_| {});
    for begun in ["GET /live HTT", "GET /live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"] {
        let mut stream = TcpStream::connect(asked.at).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let told = answer(&mut stream).await;
        assert_eq!(told.ends_with("live\n"), begun.ends_with("\r\n\r\n"), "{told}");
    }
}

#[tokio::test]
async fn its_connections_end_with_it() {
    let asked = Asked::new(|_| {});
    let mut silent = TcpStream::connect(asked.at).await.unwrap();
    assert!(asked.ask("/live").await.starts_with("HTTP/1.1 200"));
    asked.cancel.cancel();
    tokio::time::timeout(PATIENCE, asked.task).await.unwrap().unwrap();
    assert_eq!(answer(&mut silent).await, "");
    asked.sidecar.all_ended().await;
}

#[tokio::test]
async fn checks_of_load_balancers_are_answered_and_web_pages_are_not() {
    let all = Asked::new(|_| {});
    for (request, status) in [
        ("GET /live HTTP/1.0\r\n\r\n", "200"),
        ("HEAD /live HTTP/1.0\r\n\r\n", "200"),
        ("OPTIONS /live HTTP/1.0\r\n\r\n", "405"),
        ("GET /live HTTP/1.1\r\nhost: LOCALHOST\r\nconnection: close\r\n\r\n", "200"),
        ("GET /live HTTP/1.1\r\nhost: [::ffff:127.0.0.1]:1\r\nconnection: close\r\n\r\n", "200"),
        ("GET /live HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n", "403"),
        ("GET /live HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\nconnection: close\r\n\r\n", "403"),
        ("GET /live HTTP/1.0\r\norigin: http://evil.example\r\n\r\n", "403"),
    ] {
        let answer = all.send(request).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request:?}: {answer}");
        if status == "403" {
            assert!(
                answer.contains(&format!("Host: {}", all.at)) || answer.contains("Host: localhost"),
                "{answer}"
            );
        }
    }
}
