//! `payments` without a sidecar, as HTTP servers of any kind behind mTLS.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity, server_config};
use postern_proto::policy::Protocol;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::apps::App;
use crate::authority::{Authority, Validity, id};
use crate::live::policy;
use crate::sidecar::{Sidecar, Spec};

/// Shakes hands as `payments`.
pub fn acceptor(authority: &Authority, alpn: &[&[u8]]) -> TlsAcceptor {
    let validity = Validity::of(time::Duration::hours(1), OffsetDateTime::now_utc());
    let identity = TlsIdentity::new(&authority.svid(&id("payments"), validity)).unwrap();
    let judge = Arc::new(PeerVerifier::new(Arc::new(authority.bundles()), Arc::new(AuthorizeAny)));
    TlsAcceptor::from(server_config(&identity, judge, alpn).unwrap())
}

/// What a peer has seen.
#[derive(Debug, Default)]
pub struct Count {
    pub connections: AtomicUsize,
    pub http1: AtomicUsize,
    pub http2: AtomicUsize,
}

impl Count {
    pub fn requests(&self) -> usize {
        self.http1.load(Ordering::Relaxed) + self.http2.load(Ordering::Relaxed)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn seen(&self, version: Version) {
        let counter = if version == Version::HTTP_2 { &self.http2 } else { &self.http1 };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// An HTTP server behind mTLS that allows so many streams on a connection, counts, and answers with the request's body
/// as it comes.
pub async fn counting(
    authority: &Authority,
    alpn: &'static [&'static [u8]],
    streams: u32,
) -> (App, Arc<Count>) {
    counting_at(authority, "127.0.0.1:0", alpn, streams).await
}

/// The same at this address.
pub async fn counting_at(
    authority: &Authority,
    at: &str,
    alpn: &'static [&'static [u8]],
    streams: u32,
) -> (App, Arc<Count>) {
    let (acceptor, count) = (acceptor(authority, alpn), Arc::<Count>::default());
    let counted = count.clone();
    let app = App::serve_at(at, move |stream: TcpStream| {
        let (acceptor, count) = (acceptor.clone(), counted.clone());
        async move {
            let stream = TokioIo::new(acceptor.accept(stream).await?);
            count.connections.fetch_add(1, Ordering::Relaxed);
            let is_http2 = stream.inner().get_ref().1.alpn_protocol() == Some(b"h2");
            let answer = service_fn(move |request: Request<Incoming>| {
                count.seen(request.version());
                let body: BoxBody<Bytes, hyper::Error> = match request.method().as_str() {
                    "POST" => request.into_body().boxed(),
                    _ => Full::from("ok").map_err(|never| match never {}).boxed(),
                };
                async move { Ok::<_, Infallible>(Response::new(body)) }
            });
            // What ends a connection is the client's to see.
            if is_http2 {
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ended = builder.max_concurrent_streams(streams).serve_connection(stream, answer).await;
            } else {
                let _ended =
                    hyper::server::conn::http1::Builder::new().serve_connection(stream, answer).await;
            }
            Ok(())
        }
    })
    .await;
    (app, count)
}

/// `orders`, which may call all that `payments` has.
pub fn orders(authority: &Authority, spec: impl FnOnce(Spec) -> Spec) -> Sidecar {
    let mut spec = spec(Spec::new(authority, "orders"));
    spec.protocol = Protocol::Http;
    let orders = spec.start(authority);
    orders.apply(&policy(None, None));
    orders
}
