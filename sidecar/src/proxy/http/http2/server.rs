//! The server side of an HTTP/2 connection.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::{Handshake, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use hyper::service::Service;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::batch::{BatchControl, BatchedWrites};
use super::body::StreamBody;
use super::interim::StreamInterim;
use super::liveness::{Liveness, Pings};
use super::pipe::{OutgoingBody, Pipe, Unsent};
use crate::proxy::http::tasks::ConnectionTasks;

/// The client's RST_STREAM code, as an extension of its request.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy::http) struct StreamReset(Arc<OnceLock<Reason>>);

impl StreamReset {
    pub(in crate::proxy::http) fn reason(&self) -> Option<Reason> {
        self.0.get().copied()
    }
}

/// Serves one connection until it ends; each request has a task of its own.
pub(in crate::proxy::http) struct Connection<S, V> {
    state: State<S>,
    batch: BatchControl,
    pings: Option<Pings>,
    service: V,
    tasks: ConnectionTasks,
    /// GOAWAY is to be sent.
    finishing: bool,
}

enum State<S> {
    Handshaking(Handshake<BatchedWrites<S>, Bytes>),
    Serving { connection: h2::server::Connection<BatchedWrites<S>, Bytes>, liveness: Option<Liveness> },
}

impl<S, V, B> Connection<S, V>
where
    S: AsyncRead + AsyncWrite + Unpin,
    V: Service<Request<StreamBody>, Response = Response<B>, Error = Infallible>,
    V::Future: Send + 'static,
    B: OutgoingBody + Unpin + Send + 'static,
    B::Error: Error + Send + 'static,
{
    pub(in crate::proxy::http) fn new(
        stream: S,
        builder: &h2::server::Builder,
        pings: Option<Pings>,
        service: V,
        tasks: ConnectionTasks,
    ) -> Self {
        let (stream, batch) = BatchedWrites::new(stream);
        let state = State::Handshaking(builder.handshake(stream));
        Self { state, batch, pings, service, tasks, finishing: false }
    }

    /// Sends GOAWAY, and ends when the active requests have.
    pub(in crate::proxy::http) fn graceful_shutdown(self: Pin<&mut Self>)
    where
        V: Unpin,
    {
        let this = self.get_mut();
        match &mut this.state {
            State::Handshaking(_) => this.finishing = true,
            State::Serving { connection, .. } => connection.graceful_shutdown(),
        }
    }

    fn poll_serving(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            let Self { state, batch, .. } = self;
            match state {
                State::Handshaking(handshake) => {
                    let mut connection = ready!(Pin::new(handshake).poll(cx))?;
                    if self.finishing {
                        connection.graceful_shutdown();
                    }
                    let liveness = Liveness::new(self.pings, self.pings.and_then(|_| connection.ping_pong()));
                    self.state = State::Serving { connection, liveness };
                }
                State::Serving { connection, liveness } => {
                    if let Some(liveness) = liveness
                        && liveness.poll_dead(cx, connection.has_streams()).is_ready()
                    {
                        debug!("a connection did not answer a PING");
                        return Poll::Ready(Ok(()));
                    }
                    let Some(accepted) = ready!(batch.poll(cx, |cx| connection.poll_accept(cx))) else {
                        return Poll::Ready(Ok(()));
                    };
                    let (request, respond) = accepted?;
                    self.begin(request, respond);
                }
            }
        }
    }

    fn begin(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let respond = Arc::new(Mutex::new(respond));
        let reset = StreamReset::default();
        let (mut parts, receive) = request.into_parts();
        let body = StreamBody::new(receive, &parts.headers);
        parts.extensions.insert(StreamInterim::new(respond.clone()));
        parts.extensions.insert(reset.clone());
        let answering = self.service.call(Request::from_parts(parts, body));
        self.tasks.spawn(async move { answer(answering, &respond, &reset).await });
    }
}

impl<S, V, B> Future for Connection<S, V>
where
    S: AsyncRead + AsyncWrite + Unpin,
    V: Service<Request<StreamBody>, Response = Response<B>, Error = Infallible> + Unpin,
    V::Future: Send + 'static,
    B: OutgoingBody + Unpin + Send + 'static,
    B::Error: Error + Send + 'static,
{
    type Output = Result<(), h2::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_serving(cx)
    }
}

/// Responds to one request, unless the client cancels it.
async fn answer<B>(
    answering: impl Future<Output = Result<Response<B>, Infallible>>,
    respond: &Mutex<SendResponse<Bytes>>,
    reset: &StreamReset,
) where
    B: OutgoingBody + Unpin,
    B::Error: Error + 'static,
{
    // Set before the handler is dropped, which records it.
    let client_cancelled = poll_fn(|cx| {
        if let Ok(reason) = ready!(lock(respond).poll_reset(cx)) {
            let _once = reset.0.set(reason);
        }
        Poll::Ready(())
    });
    let response = tokio::select! {
        biased;
        answered = answering => match answered {
            Ok(response) => response,
            Err(never) => match never {},
        },
        () = client_cancelled => return,
    };
    let (parts, body) = response.into_parts();
    let ends = body.is_end_stream();
    let sent = lock(respond).send_response(Response::from_parts(parts, ()), ends);
    let stream = match sent {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%error, "an answer could not be sent");
            return lock(respond).send_reset(Reason::INTERNAL_ERROR);
        }
    };
    if !ends {
        let mut pipe = Pipe::new(stream, body);
        if let Err(unsent) = poll_fn(|cx| pipe.poll(cx)).await {
            if let Unsent::Stream(error) = &unsent
                && let Some(reason) = error.reason()
            {
                let _once = reset.0.set(reason);
            }
            debug!(?unsent, "an answer was not sent whole");
        }
    }
}

fn lock(respond: &Mutex<SendResponse<Bytes>>) -> std::sync::MutexGuard<'_, SendResponse<Bytes>> {
    respond.lock().unwrap_or_else(PoisonError::into_inner)
}
