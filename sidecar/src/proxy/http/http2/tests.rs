//! Both sides of a connection in one process.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody as Frames};
use hyper::service::service_fn;
use tokio::io::DuplexStream;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::StreamBody;
use super::client::{SendRequest, handshake};
use super::interim::StreamInterim;
use super::liveness::Pings;
use super::pipe::OutgoingBody;
use super::server::Connection;
use crate::proxy::http::interim::INTERIM_MAX;
use crate::proxy::http::tasks::ConnectionTasks;

type Said = Frames<
    tokio_stream::adapters::Map<
        ReceiverStream<Result<Frame<Bytes>, h2::Error>>,
        fn(Result<Frame<Bytes>, h2::Error>) -> Result<Frame<Bytes>, h2::Error>,
    >,
>;

impl OutgoingBody for Said {}
impl OutgoingBody for Full<Bytes> {}
impl OutgoingBody for StreamBody {}

/// A body that a test writes step by step.
fn said() -> (mpsc::Sender<Result<Frame<Bytes>, h2::Error>>, Said) {
    let (say, said) = mpsc::channel(4);
    (say, Frames::new(ReceiverStream::new(said).map((|frame| frame) as fn(_) -> _)))
}

/// The client's side of a connection that `tasks` drive.
async fn connected(stream: DuplexStream, pings: Option<Pings>, tasks: &ConnectionTasks) -> SendRequest {
    let builder = h2::client::Builder::new();
    let (send, connection) = handshake(stream, &builder, pings, tasks).await.unwrap();
    tasks.spawn(connection);
    send
}

struct Pair {
    send: SendRequest,
    tracker: TaskTracker,
    termination: CancellationToken,
}

/// A client and a server that responds by `answer`.
async fn pair<F>(answer: impl Fn(Request<StreamBody>) -> F + Clone + Unpin + Send + 'static) -> Pair
where
    F: Future<Output = Response<Said>> + Send + 'static,
{
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (tracker, termination) = (TaskTracker::new(), CancellationToken::new());
    let tasks = ConnectionTasks::new(&tracker, &termination);
    let service = service_fn(move |request| {
        let answer = answer.clone();
        Box::pin(async move { Ok::<_, Infallible>(answer(request).await) })
            as Pin<Box<dyn Future<Output = Result<Response<Said>, Infallible>> + Send>>
    });
    let served: Connection<DuplexStream, _> =
        Connection::new(far, &h2::server::Builder::new(), None, service, tasks.clone());
    tasks.spawn(async move {
        let _ended = served.await;
    });
    let send = connected(near, None, &tasks).await;
    Pair { send, tracker, termination }
}

fn request<B>(body: B) -> Request<B> {
    Request::post("https://payments/charge").body(body).unwrap()
}

fn whole() -> Full<Bytes> {
    Full::from("word")
}

#[tokio::test]
async fn a_request_and_its_answer_pass_with_trailers_both_ways() {
    let pair = pair(async |request: Request<StreamBody>| {
        let body = request.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap();
        let (say, answer) = said();
        say.send(Ok(Frame::data(body.to_bytes()))).await.unwrap();
        say.send(Ok(Frame::trailers(trailers))).await.unwrap();
        Response::new(answer)
    })
    .await;
    let (say, body) = said();
    let sent = pair.send.send(request(body), |_| ());
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), "4".parse().unwrap())]);
    let saying = async {
        say.send(Ok(Frame::data(Bytes::from_static(b"wo")))).await.unwrap();
        say.send(Ok(Frame::data(Bytes::from_static(b"rd")))).await.unwrap();
        say.send(Ok(Frame::trailers(trailers.clone()))).await.unwrap();
    };
    let (answer, ()) = tokio::join!(sent, saying);
    let answer = answer.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers(), Some(&trailers));
    assert_eq!(answer.to_bytes(), "word");
}

#[tokio::test]
async fn interim_answers_come_in_their_order_before_the_answer_and_a_flood_is_bounded() {
    for count in [3, INTERIM_MAX * 10] {
        let pair = pair(move |request: Request<StreamBody>| async move {
            let interim = request.extensions().get::<StreamInterim>().unwrap();
            for at in 0..count {
                let link = (http::header::LINK, at.to_string().parse().unwrap());
                interim.send(StatusCode::EARLY_HINTS, HeaderMap::from_iter([link]));
                tokio::task::yield_now().await;
            }
            Response::new(said().1)
        })
        .await;
        let mut told = Vec::new();
        let answer = pair.send.send(request(whole()), |response| told.push(response)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(told.len(), count.min(INTERIM_MAX));
        assert!(told.iter().enumerate().all(|(at, response)| response.headers()["link"] == at.to_string()));
    }
}

#[tokio::test]
async fn a_body_that_breaks_resets_its_stream_and_never_ends_it() {
    for failed_with in [Reason::NO_ERROR, Reason::CANCEL] {
        let go_on = Arc::<Notify>::default();
        let when = go_on.clone();
        let pair = pair(move |_| {
            let when = when.clone();
            async move {
                let (say, answer) = said();
                say.send(Ok(Frame::data(Bytes::from_static(b"half")))).await.unwrap();
                tokio::spawn(async move {
                    when.notified().await;
                    say.send(Err(failed_with.into())).await.unwrap();
                });
                Response::new(answer)
            }
        })
        .await;
        let mut body = pair.send.send(request(whole()), |_| ()).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        go_on.notify_one();
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(
            error.reason(),
            Some(Reason::INTERNAL_ERROR),
            "{failed_with:?} was no reset of the other side"
        );
    }
}

/// What resets one stream resets the one to which it is passed on.
#[tokio::test]
async fn the_code_of_a_reset_passes_through() {
    let go_on = Arc::<Notify>::default();
    for (code, passed) in [
        (Reason::CANCEL, Reason::CANCEL),
        (Reason::ENHANCE_YOUR_CALM, Reason::ENHANCE_YOUR_CALM),
        (Reason::NO_ERROR, Reason::CANCEL),
    ] {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let when = go_on.clone();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"half"), false).unwrap();
            loop {
                tokio::select! {
                    () = when.notified() => body.send_reset(code),
                    accepted = connection.accept() => if accepted.is_none() { return },
                }
            }
        });
        let (tracker, termination) = (TaskTracker::new(), CancellationToken::new());
        let tasks = ConnectionTasks::new(&tracker, &termination);
        let behind = connected(near, None, &tasks).await;
        let answer = behind.send(request(whole()), |_| ()).await.unwrap();
        let answer = Arc::new(std::sync::Mutex::new(Some(answer.into_body())));
        let (near, far) = tokio::io::duplex(64 * 1024);
        let service = service_fn(move |_| {
            let body = answer.lock().unwrap().take().unwrap();
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        });
        let served = Connection::new(far, &h2::server::Builder::new(), None, service, tasks.clone());
        tasks.spawn(async move {
            let _ended = served.await;
        });
        let front = connected(near, None, &tasks).await;
        let mut body = front.send(request(whole()), |_| ()).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        go_on.notify_one();
        assert_eq!(body.frame().await.unwrap().unwrap_err().reason(), Some(passed));
    }
}

#[tokio::test]
async fn an_abandoned_stream_is_reset_with_cancel() {
    let (tell, mut told) = mpsc::channel(1);
    let pair = pair(move |request: Request<StreamBody>| {
        let tell = tell.clone();
        async move {
            let reset = request.extensions().get::<super::server::StreamReset>().unwrap().clone();
            let _reported = Report(tell, reset);
            std::future::pending::<()>().await;
            Response::new(said().1)
        }
    })
    .await;
    let (_say, body) = said();
    {
        let asked = pair.send.send(request(body), |_| ());
        tokio::pin!(asked);
        let mut turns = 0;
        poll_fn(|cx| {
            turns += 1;
            assert!(asked.as_mut().poll(cx).is_pending());
            if turns > 1 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
    assert_eq!(told.recv().await.unwrap(), Some(Reason::CANCEL));
}

/// Tells, when it is dropped, with which code its request was taken back.
struct Report(mpsc::Sender<Option<Reason>>, super::server::StreamReset);

impl Drop for Report {
    fn drop(&mut self) {
        self.0.try_send(self.1.reason()).unwrap();
    }
}

#[tokio::test]
async fn a_connection_ends_when_it_has_no_sender_and_no_request() {
    let pair = pair(async |_| Response::new(said().1)).await;
    pair.send.send(request(whole()), |_| ()).await.unwrap();
    drop(pair.send);
    pair.tracker.close();
    pair.tracker.wait().await;
}

#[tokio::test]
async fn termination_fails_every_stream_and_leaves_no_task() {
    let pair = pair(async |_| {
        let (say, answer) = said();
        say.send(Ok(Frame::data(Bytes::from_static(b"half")))).await.unwrap();
        tokio::spawn(async move { say.closed().await });
        Response::new(answer)
    })
    .await;
    let mut body = pair.send.send(request(whole()), |_| ()).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    pair.termination.cancel();
    body.frame().await.unwrap().unwrap_err();
    pair.tracker.close();
    pair.tracker.wait().await;
    assert!(pair.send.has_ended());
    let refused = pair.send.send(request(whole()), |_| ()).await.unwrap_err();
    assert!(refused.is_unsent && refused.unsent.is_some(), "nothing of it was sent");
}

/// It may end between the question whether it takes a request and the request.
#[tokio::test]
async fn a_request_on_an_ended_connection_is_not_sent() {
    let (near, _far) = tokio::io::duplex(64 * 1024);
    let (mut send, connection) = h2::client::handshake(near).await.unwrap();
    poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
    drop(connection);
    let refused = super::client::begin(&mut send, request(whole())).unwrap_err();
    assert!(refused.is_unsent && refused.error.is_io(), "{refused:?}");

    let (near, _far) = tokio::io::duplex(64 * 1024);
    let (mut send, _connection) = h2::client::handshake(near).await.unwrap();
    let malformed = Request::get("http://payments/").header("keep-alive", "1").body(whole()).unwrap();
    let refused = super::client::begin(&mut send, malformed).unwrap_err();
    assert!(!refused.is_unsent, "it is malformed on each connection: {refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_ping_ack_is_dead_only_while_requests_are_active() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (tracker, termination) = (TaskTracker::new(), CancellationToken::new());
    let tasks = ConnectionTasks::new(&tracker, &termination);
    let second = Duration::from_secs(1);
    let pings = Some(Pings { after: second, answer_within: second });
    let send = connected(near, pings, &tasks).await;
    let asked = Arc::new(AtomicUsize::new(0));
    tokio::time::sleep(10 * second).await;
    assert!(!send.has_ended(), "an idle connection is not asked");
    // Holds the other end open, and never answers.
    let _far = far;
    let error = send
        .send(request(whole()), |_| {
            asked.fetch_add(1, Ordering::Relaxed);
        })
        .await
        .unwrap_err();
    assert!(error.unsent.is_none() && error.error.is_io(), "{error:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}
