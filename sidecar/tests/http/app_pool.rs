//! Connections to an app whose version of HTTP is found out: a dial that fails, or a limit that is reached, takes nothing away
//! from those that are open.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use postern_sidecar::config::HostPort;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::app_versions::is_http2;
use crate::apps::App;
use crate::live::{Http2, Live};
use crate::name_server::{NameServer, Says};
use crate::shop::{Seen, ask};
use crate::sidecar::{INBOUND, eventually};

/// As `sidecar/src/proxy/http/pool/endpoint.rs` has it.
const NO_HTTP2_FOR: Duration = Duration::from_secs(5);
const CHAT: &str = "/shop.Charges/Chat";

/// The versions that an app speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
    Both,
}

impl Speaks {
    /// Connections of an app that are open when its first request has been answered, or have been. The first finds out
    /// whether it speaks HTTP/2, and the next either whether it speaks HTTP/1.1, too, or it carries the request.
    const CONNECTIONS_AT_FIRST: usize = 2;

    /// Echoes each body as it comes. A connection of HTTP/2 carries one request at a time.
    async fn serve(self, stream: TcpStream) -> io::Result<()> {
        let speaks = if is_http2(&stream).await? { Self::Http2 } else { Self::Http1 };
        if self != Self::Both && self != speaks {
            return Ok(());
        }
        let echo = service_fn(async |request: Request<Incoming>| {
            Ok::<_, hyper::Error>(Response::new(request.into_body()))
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http2().max_concurrent_streams(1);
        builder.serve_connection(TokioIo::new(stream), echo).await.map_err(io::Error::other)
    }

    /// An app that takes so many connections and refuses all further ones.
    async fn refusing_after(self, count: usize) -> App {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, mut tasks) = (listener.local_addr().unwrap(), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for _ in 1..count {
                connections.spawn(self.serve(listener.accept().await.unwrap().0));
            }
            let last = listener.accept().await.unwrap().0;
            // Nobody listens any more when the last one is served.
            drop(listener);
            connections.spawn(self.serve(last));
            while connections.join_next().await.is_some() {}
        });
        App::of(address, tasks)
    }
}

async fn charged(live: &Live) -> u16 {
    ask(&live.orders, "POST /charge HTTP/1.1\r\ncontent-length: 0").await.status()
}

async fn grpc(live: &Live) -> Seen {
    let head = "POST /shop.Charges/Chat HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 0";
    ask(&live.orders, head).await
}

#[tokio::test]
async fn a_dial_that_is_refused_leaves_the_open_connections_to_the_app_usable() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let live = Live::with(speaks.refusing_after(Speaks::CONNECTIONS_AT_FIRST).await).await;
        let first = Http2::through(&live.orders).await.open("/charge").await;
        assert_eq!(charged(&live).await, 503, "{speaks:?}: the only connection is in use");
        first.end().await;
        let idle = || (live.payments.pool_connections(INBOUND) == (0, 1)).then_some(());
        eventually("its connection is idle", idle).await;
        assert_eq!(charged(&live).await, 200, "{speaks:?}: after a dial for a further request");
        eventually("its connection is idle", idle).await;
        let upgrade = "GET /socket HTTP/1.1\r\nconnection: upgrade\r\nupgrade: echo";
        assert_eq!(ask(&live.orders, upgrade).await.status(), 503, "{speaks:?}");
        assert_eq!(charged(&live).await, 200, "{speaks:?}: after a dial for an upgrade");
    }
}

#[tokio::test]
async fn grpc_on_all_connections_of_http_2_leaves_other_requests_an_answer() {
    for speaks in [Speaks::Http2, Speaks::Both] {
        let app = App::serve(move |stream| speaks.serve(stream)).await;
        let live = Live::with_payments(app, |payments| payments.http.http2_connections_max = 1).await;
        let mut chat = Http2::through(&live.orders).await.open(CHAT).await;
        assert_eq!(charged(&live).await, 200, "{speaks:?}");
        chat.echoed().await.unwrap();
    }
}

#[tokio::test]
async fn an_address_without_http_2_is_not_dialed_again_for_each_grpc_request() {
    let dials = Arc::<AtomicUsize>::default();
    let counted = dials.clone();
    let without = App::serve_at("127.0.0.2:0", move |stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        Speaks::Http1.serve(stream)
    })
    .await;
    let port = without.address.port();
    let with = App::serve_at(&format!("127.0.0.3:{port}"), |stream| Speaks::Http2.serve(stream)).await;
    let addresses = [&without, &with].map(|app| app.address.ip()).to_vec();
    let names = NameServer::new(Says::Addresses(addresses, 60)).await;
    let live = Live::with_payments(with, |payments| {
        payments.app = Some(HostPort { host: "app.example".to_owned(), port });
        payments.name_servers = names.asked();
    })
    .await;
    let began = Instant::now();
    assert_eq!(grpc(&live).await.status(), 200);
    eventually("it has been found out", || (live.payments.pool_dials(INBOUND)[1] > 0).then_some(())).await;
    for _ in 0..30 {
        assert_eq!(grpc(&live).await.status(), 200);
    }
    let allowed = 1 + began.elapsed().as_secs() / NO_HTTP2_FOR.as_secs();
    assert!(dials.load(Ordering::Relaxed) as u64 <= allowed, "{dials:?} dials, {allowed} allowed");
}
