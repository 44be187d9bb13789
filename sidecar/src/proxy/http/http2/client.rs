//! The client side of an HTTP/2 connection, which many requests share.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::{Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::batch::BatchedWrites;
use super::body::StreamBody;
use super::liveness::{Liveness, Pings};
use super::pipe::{OutgoingBody, Pipe, Unsent};
use crate::proxy::http::tasks::ConnectionTasks;

/// Sends requests on one connection.
#[derive(Clone)]
pub(in crate::proxy::http) struct SendRequest {
    send: h2::client::SendRequest<Bytes>,
    /// Active requests.
    open: Arc<AtomicUsize>,
    /// The connection has ended.
    ended: Arc<AtomicBool>,
    /// Tasks of the connection.
    tasks: ConnectionTasks,
}

/// Counts an active request until it is dropped.
#[derive(Debug)]
pub(super) struct ActiveRequest(Arc<AtomicUsize>);

impl ActiveRequest {
    fn begin(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Marks its connection as ended when it is dropped.
struct EndedFlag(Arc<AtomicBool>);

impl Drop for EndedFlag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Why there is no response.
#[derive(Debug)]
pub(in crate::proxy::http) struct SendError<B> {
    pub(in crate::proxy::http) error: h2::Error,
    /// The request, if it is returned.
    pub(in crate::proxy::http) unsent: Option<Box<Request<B>>>,
    /// Nothing was sent, whether or not the request is returned.
    pub(in crate::proxy::http) is_unsent: bool,
}

/// Starts HTTP/2 on a connection. The future drives it, and ends when it has no request and no sender; dropping it
/// closes the connection at once. `tasks` send the request bodies.
pub(in crate::proxy::http) async fn handshake<S>(
    stream: S,
    builder: &h2::client::Builder,
    pings: Option<Pings>,
    tasks: &ConnectionTasks,
) -> Result<(SendRequest, impl Future<Output = ()> + Send + use<S>), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (stream, mut batch) = BatchedWrites::new(stream);
    let (send, mut connection) = builder.handshake(stream).await?;
    let mut liveness = Liveness::new(pings, pings.and_then(|_| connection.ping_pong()));
    let open = Arc::<AtomicUsize>::default();
    let under_way = open.clone();
    let ended = Arc::<AtomicBool>::default();
    let ends = EndedFlag(ended.clone());
    let driven = async move {
        let _ends = ends;
        let ended = poll_fn(|cx| {
            let is_busy = under_way.load(Ordering::Relaxed) > 0;
            if let Some(liveness) = &mut liveness
                && liveness.poll_dead(cx, is_busy).is_ready()
            {
                debug!("a connection did not answer a PING");
                return Poll::Ready(Ok(()));
            }
            batch.poll(cx, |cx| Pin::new(&mut connection).poll(cx))
        })
        .await;
        if let Err(error) = ended {
            debug!(%error, "an HTTP/2 connection broke");
        }
    };
    Ok((SendRequest { send, open, ended, tasks: tasks.clone() }, driven))
}

impl SendRequest {
    /// Whether the connection has ended.
    pub(in crate::proxy::http) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Sends a request, and its body while the response arrives. `interim` receives the interim responses.
    pub(in crate::proxy::http) async fn send<B>(
        &self,
        request: Request<B>,
        mut interim: impl FnMut(Response<()>) + Send,
    ) -> Result<Response<StreamBody>, SendError<B>>
    where
        B: OutgoingBody + Unpin + Send + 'static,
        B::Error: Error + Send + 'static,
    {
        let mut send = self.send.clone();
        if let Err(error) = poll_fn(|cx| send.poll_ready(cx)).await {
            return Err(SendError { error, unsent: Some(Box::new(request)), is_unsent: true });
        }
        let under_way = ActiveRequest::begin(&self.open);
        let (mut response, stream, body) = begin(&mut send, request)?;
        let ends = body.is_end_stream();
        let mut pipe = (!ends).then(|| Pipe::new(stream, body));
        let answered = poll_fn(|cx| {
            if let Some(sending) = &mut pipe
                && let Poll::Ready(sent) = sending.poll(cx)
            {
                // The response, or its error, explains why the body was not sent completely.
                log_unsent(&sent);
                pipe = None;
            }
            poll_answer(&mut response, &mut interim, cx)
        });
        let response = answered.await.map_err(SendError::broken)?;
        if let Some(mut sending) = pipe {
            let under_way = ActiveRequest::begin(&self.open);
            self.tasks.spawn(async move {
                log_unsent(&poll_fn(|cx| sending.poll(cx)).await);
                drop(under_way);
            });
        }
        let (parts, receive) = response.into_parts();
        let body = StreamBody::new(receive, &parts.headers).counted(under_way);
        Ok(Response::from_parts(parts, body))
    }
}

impl<B> SendError<B> {
    fn broken(error: h2::Error) -> Self {
        Self { error, unsent: None, is_unsent: false }
    }

    /// The connection accepted no request. Any other error would recur on another connection.
    fn refused(error: h2::Error) -> Self {
        let is_unsent = error.is_go_away() || error.is_io();
        Self { error, unsent: None, is_unsent }
    }
}

/// Sends the head of a request. The connection may have ended since the last check.
pub(super) fn begin<B: Body>(
    send: &mut h2::client::SendRequest<Bytes>,
    request: Request<B>,
) -> Result<(ResponseFuture, SendStream<Bytes>, B), SendError<B>> {
    let (parts, body) = request.into_parts();
    let sent = send.send_request(Request::from_parts(parts, ()), body.is_end_stream());
    let (response, stream) = sent.map_err(SendError::refused)?;
    Ok((response, stream, body))
}

fn poll_answer(
    response: &mut ResponseFuture,
    interim: &mut (impl FnMut(Response<()>) + Send),
    cx: &mut Context<'_>,
) -> Poll<Result<Response<h2::RecvStream>, h2::Error>> {
    while let Poll::Ready(Some(told)) = response.poll_informational(cx) {
        interim(told?);
    }
    Pin::new(response).poll(cx)
}

fn log_unsent(sent: &Result<(), Unsent>) {
    if let Err(unsent) = sent {
        debug!(?unsent, "a body was not sent whole");
    }
}

impl std::fmt::Debug for SendRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendRequest").field("has_ended", &self.has_ended()).finish_non_exhaustive()
    }
}
