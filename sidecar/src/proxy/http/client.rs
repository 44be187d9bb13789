//! HTTP clients of the app and of peers.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::body::RequestBody;
use super::http2::liveness::Pings;
use super::incoming::Incoming;
use super::pool::Unanswered;
use super::tasks::ConnectionTasks;
use super::{BUFFER_BYTES_MAX, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, STREAM_WINDOW_BYTES};
use crate::config::Http;
use crate::error_text::one_line;

/// Silence after which a PING is sent while streams are open. gRPC servers allow one in five minutes (gRFC A8), and
/// close connections that send more.
pub(super) const PING_AFTER: Duration = Duration::from_secs(5 * 60 + 30);

/// Fields that hyper accepts beyond our own limit, which is checked afterwards with a precise error: hyper has one
/// error for too many fields and too many bytes. hyper initializes room for all of them per response, so they are
/// few.
const FIELDS_PARSED_MORE: usize = 64;

/// When an idle connection is sent a PING, and how long the peer has to answer. Not on this machine, where the kernel
/// reports the end of a process. Elsewhere TCP keepalive also applies, and sooner; but it only proves that the next
/// hop is alive.
pub(super) fn pings(peer: IpAddr, answer_within: Duration) -> Option<Pings> {
    (!peer.is_loopback()).then_some(Pings { after: PING_AFTER, answer_within })
}

/// HTTP/1.1.
pub(super) fn http1_builder(limits: &Http) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_headers(limits.headers_max + FIELDS_PARSED_MORE)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(BUFFER_BYTES_MAX.max(limits.header_bytes_max));
    builder
}

/// HTTP/2.
pub(super) fn http2_builder(limits: &Http) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        // Until the server sends SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 §6.5.2).
        .initial_max_send_streams(STREAMS_AT_FIRST)
        .max_header_list_size(header_list_max(limits))
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}

/// Most requests sent before the server's SETTINGS arrive.
const STREAMS_AT_FIRST: usize = 100;
/// Bytes added to a header block before it reaches h2.
const HEADER_BYTES_ADDED: usize = 256;

/// The header list limit of h2: our own limit plus the added bytes.
pub(super) fn header_list_max(limits: &Http) -> u32 {
    u32::try_from(limits.header_bytes_max + HEADER_BYTES_ADDED).unwrap_or(u32::MAX)
}

/// Sends requests on a connection of HTTP/1.1, one after another.
pub(super) struct Http1Sender {
    send: http1::SendRequest<RequestBody>,
    /// Cancelled when the connection has ended. A request that hyper accepts at the same moment would get neither
    /// response nor error from hyper.
    ended: CancellationToken,
}

impl Http1Sender {
    /// Starts HTTP/1.1 on a connection, which `tasks` drive until it ends.
    pub(super) async fn begin<S>(
        builder: &http1::Builder,
        stream: S,
        tasks: &ConnectionTasks,
    ) -> hyper::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let ended = CancellationToken::new();
        let ends = ended.clone().drop_guard();
        tasks.spawn(async move {
            let _ends = ends;
            if let Err(error) = connection.with_upgrades().await {
                debug!(error = one_line(&error), "an HTTP/1.1 connection broke");
            }
        });
        Ok(Self { send, ended })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    /// Sends a request. It is returned if nothing of it was sent.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let Self { send, ended } = self;
        let sent = async {
            // A connection that was just returned to the pool may still be finishing its last request.
            let _closed_shows_below = send.ready().await;
            send.try_send_request(request).await
        };
        tokio::select! {
            biased;
            answered = sent => answered.map(|response| response.map(Into::into)).map_err(|mut error| Unanswered {
                unsent: error.take_message(),
                error: error.into_error().into(),
            }),
            () = ended.cancelled() => {
                Err(Unanswered { unsent: None, error: io::Error::from(io::ErrorKind::ConnectionReset).into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, ready};

    use bytes::Bytes;
    use http::Method;
    use http_body_util::{BodyExt as _, Empty};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf};
    use tokio::time::{Instant, sleep};
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::proxy::connections::RequestInfo;
    use crate::proxy::http::body::Destination;
    use crate::proxy::http::call::Calls;
    use crate::proxy::http::framing::RawHeadCheck;
    use crate::proxy::http::http2::client::{SendRequest, handshake};
    use crate::proxy::http::http2::pipe::OutgoingBody;
    use crate::proxy::http::replay::is_repeatable;

    const DEAD_AFTER: Duration = Duration::from_secs(30);
    /// The shortest interval between PINGs that gRPC servers accept by default, unless they have sent data meanwhile.
    const PINGS_ALLOWED_EACH: Duration = Duration::from_secs(5 * 60);
    const PING: u8 = 6;

    impl OutgoingBody for Empty<Bytes> {}

    /// The server side, recording what was read and when.
    struct Recorded(DuplexStream, Arc<Mutex<Vec<Read>>>);

    /// Time and bytes of a read.
    type Read = (Instant, Vec<u8>);

    impl AsyncRead for Recorded {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.0).poll_read(cx, buffer))?;
            self.1.lock().unwrap().push((Instant::now(), buffer.filled()[before..].to_vec()));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Recorded {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    async fn connected(stream: DuplexStream, pings: Option<Pings>) -> SendRequest {
        let tasks = ConnectionTasks::new(&TaskTracker::new(), &CancellationToken::new());
        let builder = http2_builder(&Http::default());
        let (sender, connection) = handshake(stream, &builder, pings, &tasks).await.unwrap();
        tasks.spawn(connection);
        sender
    }

    fn request() -> Request<Empty<Bytes>> {
        Request::get("http://payments/").body(Empty::new()).unwrap()
    }

    /// Times of the PINGs during an hour without data.
    async fn pings_in_an_hour(address: &str) -> Vec<Instant> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let read = Arc::<Mutex<Vec<_>>>::default();
        let recorded = Recorded(theirs, read.clone());
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(recorded).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            tokio::spawn(async move {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                sleep(Duration::from_secs(60 * 60)).await;
                body.send_data(Bytes::from_static(b"late"), true).unwrap();
            });
            while connection.accept().await.is_some() {}
        });
        let sender = connected(ours, pings(address.parse().unwrap(), DEAD_AFTER)).await;
        let response = sender.send(request(), |_| ()).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "late");
        let read = read.lock().unwrap();
        // Only PINGs are sent while the stream is idle, so each read starts with one.
        read.iter().filter(|(_, bytes)| bytes.get(3..5) == Some(&[PING, 0])).map(|(at, _)| *at).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn pings_are_no_more_frequent_than_grpc_servers_allow() {
        let pings = pings_in_an_hour("192.0.2.1").await;
        assert!(pings.len() >= 8, "{pings:?}");
        assert!(pings.windows(2).all(|two| two[1] - two[0] > PINGS_ALLOWED_EACH), "{pings:?}");
        assert_eq!(pings_in_an_hour("127.0.0.1").await.len(), 0, "the kernel tells");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_ping_ack_is_dead() {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let sender = connected(ours, pings("192.0.2.1".parse().unwrap(), DEAD_AFTER)).await;
        theirs.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let began = Instant::now();
        tokio::spawn(async move {
            // It reads everything and sends nothing.
            while theirs.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
            drop(theirs);
        });
        sender.send(request(), |_| ()).await.unwrap_err();
        let took = began.elapsed();
        assert!(took >= PING_AFTER && took <= PING_AFTER + DEAD_AFTER + Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test]
    async fn a_request_that_hyper_keeps_when_its_connection_ends_is_an_error() {
        let (stream, _server) = tokio::io::duplex(1024);
        // The connection is not driven: what is sent stays in hyper.
        let (send, _connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await.unwrap();
        let ended = CancellationToken::new();
        let mut sender = Http1Sender { send, ended: ended.clone() };
        let facts = RequestInfo { method: "GET".to_owned(), path: "/".to_owned() };
        let call = Arc::<Calls>::default().enter(facts);
        let heads = Arc::new(RawHeadCheck::new(Http::default()));
        let request = RequestBody::of(Request::new(Incoming::Empty), call, Destination::App, heads);
        let (sent, ()) = tokio::join!(sender.send(request), async { ended.cancel() });
        let unanswered = sent.unwrap_err();
        assert!(unanswered.unsent.is_none());
        assert!(is_repeatable(&*unanswered.error, &Method::GET), "another connection may answer it");
        assert!(!is_repeatable(&*unanswered.error, &Method::POST));
    }
}
