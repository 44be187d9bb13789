//! A request's body over HTTP/2 that waits for the app to take more of it ends with its request: nothing waits for room
//! that nobody wants any more.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, SendStream};
use http::{Request, Response};
use postern_sidecar::config::AppHttp;
use postern_sidecar::observability::Direction;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::apps::{App, reset};
use crate::live::{Live, Switch, policy, switching};
use crate::sidecar::{INBOUND, OUTBOUND, PATIENCE, Sidecar, eventually};

/// What an app takes of a body (RFC 9113 §6.9.2).
const WINDOW_BYTES: usize = 65_535;
/// More than what all the windows and buffers on the way take.
const UPLOAD_BYTES: usize = 64 * 1024 * 1024;

/// What an app answers before it has read the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Nothing,
    /// A head, and no end.
    Head,
    /// A whole answer, and no reset of what it does not read.
    Whole,
}

/// What an app sees of a request's body.
#[derive(Debug, PartialEq, Eq)]
enum Saw {
    /// All that it takes.
    Window,
    Reset(Reason),
}

/// Takes no more of a body than its window, and reports that, and with which code the stream is reset.
async fn stalling(answers: Answers, saw: mpsc::Sender<Saw>) -> App {
    App::serve(move |stream: TcpStream| {
        let saw = saw.clone();
        async move {
            let mut connection = h2::server::Builder::new()
                .enable_connect_protocol()
                .handshake::<_, Bytes>(stream)
                .await
                .map_err(std::io::Error::other)?;
            let mut streams = JoinSet::new();
            while let Some(accepted) = connection.accept().await {
                let (request, mut respond) = accepted.map_err(std::io::Error::other)?;
                let is_socket = request.extensions().get::<Protocol>().is_some();
                let answered = match answers {
                    Answers::Nothing if !is_socket => None,
                    Answers::Nothing | Answers::Head => respond.send_response(Response::new(()), false).ok(),
                    Answers::Whole => respond.send_response(Response::new(()), true).ok(),
                };
                let (saw, mut body) = (saw.clone(), request.into_body());
                streams.spawn(async move {
                    let _unanswered = (respond, answered);
                    let mut bytes = 0;
                    while let Some(Ok(data)) = body.data().await {
                        bytes += data.len();
                        if bytes == WINDOW_BYTES {
                            saw.send(Saw::Window).await.unwrap();
                        }
                    }
                    let error = body.data().await.unwrap().unwrap_err();
                    saw.send(Saw::Reset(error.reason().unwrap())).await.unwrap();
                });
            }
            Ok(())
        }
    })
    .await
}

/// A service whose app takes no more of a body than its window.
struct Stalled {
    live: Live,
    saw: mpsc::Receiver<Saw>,
}

impl Stalled {
    async fn new(answers: Answers) -> Self {
        let (tell, saw) = mpsc::channel(4);
        let app = stalling(answers, tell).await;
        let live = Live::with_payments(app, |payments| {
            payments.app_http = AppHttp::Http2;
            // The shortest that a configuration may name.
            payments.limits.half_closed_timeout = Duration::from_secs(1);
        })
        .await;
        Self { live, saw }
    }

    async fn saw(&mut self, what: Saw) {
        assert_eq!(timeout(PATIENCE, self.saw.recv()).await.expect("the app sees it").unwrap(), what);
    }

    /// Waits until the app has all that it takes, and more has been read for it.
    async fn waits_for_room(&mut self) {
        self.saw(Saw::Window).await;
        eventually("the upload waits for room", || {
            let shown = self.live.payments.proxy.register.shown();
            let read = shown["connections"][0]["bytes_to_app"].as_u64()?;
            (read > WINDOW_BYTES as u64).then_some(())
        })
        .await;
    }

    /// Waits until the app has seen this reset, and nothing of any request is left.
    async fn ends(&mut self, with: Reason) {
        self.saw(Saw::Reset(with)).await;
        let Live { payments, orders, .. } = &self.live;
        let left = || requests(payments, Direction::Inbound) + requests(orders, Direction::Outbound);
        eventually("no request is left", || (left() == 0).then_some(())).await;
        for (sidecar, listener) in [(payments, INBOUND), (orders, OUTBOUND)] {
            let active = || sidecar.metric(&format!("postern_http_active_requests{{{listener}}}"));
            eventually("no request is active", || (active() == 0).then_some(())).await;
        }
    }
}

/// Requests under way at the addresses to which this listener leads.
fn requests(sidecar: &Sidecar, direction: Direction) -> u64 {
    let shown = sidecar.proxy.upstreams.shown(direction, 0);
    shown["addresses"].as_array().unwrap().iter().map(|one| one["requests"].as_u64().unwrap()).sum()
}

/// An upload of an app over HTTP/2, which goes on as long as there is room.
struct Upload {
    body: SendStream<Bytes>,
    answer: h2::client::ResponseFuture,
    connection: JoinSet<()>,
}

impl Upload {
    async fn begin(live: &Live) -> Self {
        let stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
        let (mut send, driven) = h2::client::handshake(stream).await.unwrap();
        let mut connection = JoinSet::new();
        connection.spawn(async move {
            // Whatever ends it shows in its streams.
            let _ended = driven.await;
        });
        let request = Request::post("http://payments/charge").body(()).unwrap();
        let (answer, mut body) = send.send_request(request, false).unwrap();
        body.send_data(Bytes::from(vec![b'x'; UPLOAD_BYTES]), false).unwrap();
        Self { body, answer, connection }
    }
}

#[tokio::test]
async fn an_upload_that_waits_for_room_ends_when_its_caller_leaves() {
    for answers in [Answers::Nothing, Answers::Head] {
        for leaves_with_its_connection in [false, true] {
            let mut stalled = Stalled::new(answers).await;
            let mut upload = Upload::begin(&stalled.live).await;
            stalled.waits_for_room().await;
            if answers == Answers::Head {
                (&mut upload.answer).await.unwrap();
            }
            if leaves_with_its_connection {
                upload.connection.abort_all();
            } else {
                upload.body.send_reset(Reason::CANCEL);
            }
            stalled.ends(Reason::CANCEL).await;
        }
    }
}

#[tokio::test]
async fn an_upload_that_waits_for_room_ends_when_it_is_no_longer_allowed() {
    for answers in [Answers::Nothing, Answers::Head] {
        let mut stalled = Stalled::new(answers).await;
        let mut upload = Upload::begin(&stalled.live).await;
        stalled.waits_for_room().await;
        if answers == Answers::Head {
            (&mut upload.answer).await.unwrap();
        }
        stalled.live.payments.apply(&policy(Some(r#""POST /refund""#), None));
        let unanswered = answers == Answers::Nothing;
        stalled.ends(if unanswered { Reason::CANCEL } else { Reason::INTERNAL_ERROR }).await;
    }
}

#[tokio::test]
async fn a_websocket_that_waits_for_room_ends_when_its_relay_breaks() {
    let mut stalled = Stalled::new(Answers::Head).await;
    let mut socket = switching(stalled.live.orders.outbound.unwrap(), Switch::WebSocket).await;
    let (mut read, mut write) = socket.split();
    let mut endless = tokio::io::repeat(b'x');
    let filled = tokio::io::copy(&mut endless, &mut write);
    tokio::select! {
        ended = filled => panic!("{ended:?}"),
        read = read.read_u8() => panic!("{read:?}"),
        () = stalled.waits_for_room() => {}
    }
    reset(socket);
    stalled.ends(Reason::CANCEL).await;
}

#[tokio::test]
async fn an_upload_that_nobody_reads_after_a_whole_answer_ends_without_an_error() {
    for leaves in [false, true] {
        let mut stalled = Stalled::new(Answers::Whole).await;
        let Upload { mut body, answer, mut connection } = Upload::begin(&stalled.live).await;
        let answer = answer.await.unwrap();
        assert!(answer.status() == 200 && answer.body().is_end_stream(), "{answer:?}");
        stalled.waits_for_room().await;
        if leaves {
            connection.abort_all();
        } else {
            let reset = timeout(PATIENCE, poll_fn(|cx| body.poll_reset(cx))).await;
            let reason = reset.expect("a reset at the caller").unwrap();
            assert_eq!(reason, Reason::NO_ERROR, "RFC 9113 §8.1");
        }
        stalled.ends(Reason::CANCEL).await;
    }
}
