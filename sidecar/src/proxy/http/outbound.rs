//! The HTTP outbound: forwards the own app's requests to the service, on an existing connection where possible.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{Request, Response};
use postern_proto::identity::SpiffeId;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Destination, ResponseBody};
use super::call::{Calls, OpenCall, RequestRecorder};
use super::exchange::{ConnectionSource, ExchangeError, PreparedRequest};
use super::failure::Failure;
use super::frames::Streams;
use super::framing::RawHeadCheck;
use super::handler::{HandlerService, RequestHandler};
use super::incoming::Incoming;
use super::instrumented_io::InstrumentedIo;
use super::peer::{PeerConnections, PeerTarget, Peers};
use super::pool::Kind;
use super::problem::{Problem, Question, ReplyFormat};
use super::response_check::InvalidResponse;
use super::serve::{Session, first_bytes, serve};
use super::target::{self, InvalidMessage, Target};
use super::tasks::ConnectionTasks;
use crate::config::Http;
use crate::observability::Direction;
use crate::observability::metrics::UNKNOWN_PEER;
use crate::observability::refusals::{Instance, Refusal};
use crate::proxy::dialer::PeerDialer;
use crate::proxy::listener::ShutdownTokens;
use crate::proxy::state::ProxyState;
use crate::proxy::tls::TlsStream;
use crate::proxy::upstream::Upstreams;

/// An outbound with `protocol = "http"`.
#[derive(Debug)]
pub struct HttpOutbound {
    peers: Arc<Peers>,
    /// Tasks of all app connections.
    tasks: TaskTracker,
}

impl HttpOutbound {
    pub fn new(upstreams: Arc<Upstreams>, limits: &Http) -> Self {
        Self { peers: Arc::new(Peers::new(upstreams, limits)), tasks: TaskTracker::new() }
    }

    /// Serves an app connection until it ends.
    pub async fn serve(&self, dialer: &Arc<PeerDialer>, mut stream: TcpStream, until: ShutdownTokens) {
        let limits = dialer.proxy.control.config.http;
        let first = tokio::select! {
            biased;
            first = first_bytes(&mut stream) => first,
            () = until.abort.cancelled() => return,
            () = tokio::time::sleep(limits.idle_timeout) => return,
            () = at_the_end(&until, limits.header_timeout) => return,
        };
        let Ok((first, speaks)) = first else { return };
        if first.is_empty() {
            return;
        }
        let (calls, heads) = (Arc::<Calls>::default(), Arc::new(RawHeadCheck::new(limits)));
        let streams = Arc::<Streams>::default();
        let own = dialer.proxy.control.credentials.current();
        let expected = dialer.proxy.control.expected(&dialer.outbound.target).ok();
        let peer = expected.as_ref().map_or(UNKNOWN_PEER, SpiffeId::as_str);
        calls.recorded_by(RequestRecorder {
            proxy: dialer.proxy.clone(),
            series: dialer.proxy.register.peer_series(&dialer.facts(), peer),
            direction: Direction::Outbound,
            from: own.map_or_else(|| "-".to_owned(), |own| own.svid.id().to_string()),
            called: dialer.called(None),
            connection: None,
        });
        let session = Session {
            proxy: dialer.proxy.clone(),
            traffic: None,
            calls: calls.clone(),
            heads: heads.clone(),
            streams: streams.clone(),
            tasks: ConnectionTasks::new(&self.tasks, &until.abort),
            stop: until.stop.clone(),
        };
        let switched = TaskTracker::new();
        let called = dialer.called(None);
        let app = App {
            service: target::authority_of(called.service.as_deref()),
            target: PeerTarget { dialer: dialer.clone(), peers: self.peers.clone() },
            calls,
            heads,
            streams,
            switched: switched.clone(),
            tasks: self.tasks.clone(),
            abort: until.abort.clone(),
        };
        let served = async {
            serve(InstrumentedIo::new(stream).after(first), speaks, HandlerService(Arc::new(app)), &session)
                .await;
            switched.close();
            switched.wait().await;
        };
        until.abort.run_until_cancelled(served).await;
    }

    /// Closes unusable connections.
    pub fn maintain(&self, dialer: &PeerDialer) {
        self.peers.maintain(dialer);
    }

    /// Waits for the tasks of the app's connections, which have ended, and closes the connections to peers.
    pub async fn end(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.peers.end().await;
    }
}

/// How long a connection without a request may stay open when the listener stops.
async fn at_the_end(until: &ShutdownTokens, time: Duration) {
    until.stop.cancelled().await;
    tokio::time::sleep(time).await;
}

/// One connection of the app.
#[derive(Debug)]
struct App {
    target: PeerTarget,
    calls: Arc<Calls>,
    heads: Arc<RawHeadCheck>,
    streams: Arc<Streams>,
    /// The host for requests without one.
    service: Authority,
    /// Relays of upgraded requests of this connection.
    switched: TaskTracker,
    tasks: TaskTracker,
    abort: CancellationToken,
}

impl RequestHandler for App {
    type Client = InstrumentedIo<TcpStream>;
    type Server = InstrumentedIo<TlsStream>;

    const SERVER_NAME: &'static str = "the service";
    const CLIENT_SIDE: Destination = Destination::App;

    fn proxy(&self) -> &ProxyState {
        &self.target.dialer.proxy
    }

    fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    fn heads(&self) -> &RawHeadCheck {
        &self.heads
    }

    fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    fn service(&self) -> &Authority {
        &self.service
    }

    /// The server authorizes the request.
    fn refusal(&self, _: &OpenCall, _: ReplyFormat) -> Option<Response<ResponseBody>> {
        None
    }

    fn kind(&self, _is_grpc: bool) -> Result<Kind, Failure> {
        Ok(Kind::Any)
    }

    fn connections(&self, kind: Kind) -> impl ConnectionSource {
        PeerConnections { target: &self.target, kind }
    }

    /// Removes hop-by-hop fields. The server removes identity claims from every client.
    fn prepare(&self, request: Request<Incoming>, target: Target, call: &Arc<OpenCall>) -> PreparedRequest {
        PreparedRequest::new(request, target, call, Destination::Peer, self.heads.clone())
    }

    /// A TLS alert is more informative than the connection error that it caused.
    fn failed(&self, error: ExchangeError) -> Failure {
        if let ExchangeError::Broken(_, lease) = &error
            && let Some(alert) = lease.alert()
            && let Some(end) = lease.end()
        {
            return self.target.dialer.of_alert(alert, end.address).into();
        }
        if let ExchangeError::Broken(broken, _) = &error
            && let Some(bad) = InvalidResponse::of_head(broken, &self.proxy().control.config.http)
        {
            return bad.into();
        }
        error.into()
    }

    fn spawn_switched(&self, relayed: impl Future<Output = ()> + Send + 'static) {
        self.switched.spawn(self.tasks.track_future(relayed));
    }

    fn termination(&self) -> CancellationToken {
        self.abort.clone()
    }

    fn fail(&self, call: &OpenCall, failure: Failure, format: ReplyFormat) -> Response<ResponseBody> {
        let Failure { status, reason, detail, explain, .. } = failure;
        let explain = explain.map(|explain| format!("{explain} --call {}", call.facts.quoted()));
        let refusal = self.target.dialer.refusal(reason, detail.clone(), None, explain.clone());
        let question = Question {
            caller: Some(refusal.from.clone()),
            service: refusal.called.id.clone().or(refusal.called.service.clone()),
            port: None,
            call: Some(call.facts.to_string()),
            policy: self
                .target
                .dialer
                .proxy
                .control
                .policy
                .current()
                .map(|policy| policy.digest().to_owned()),
            explain,
        };
        let mut problem = Problem::new(status, reason, self.report(call, refusal));
        (problem.detail, problem.question) = (Some(detail), Some(question));
        problem.response(format)
    }

    fn refuse_invalid(
        &self,
        call: &OpenCall,
        bad: &InvalidMessage,
        format: ReplyFormat,
    ) -> Response<ResponseBody> {
        let refusal = self.target.dialer.refusal(bad.code(), bad.to_string(), None, None);
        let mut problem = Problem::new(bad.status(), bad.code(), self.report(call, refusal));
        problem.detail = Some(bad.to_string());
        problem.response(format)
    }
}

impl App {
    fn report(&self, call: &OpenCall, refusal: Refusal) -> Instance {
        let refusals = &self.target.dialer.proxy.refusals;
        let instance = refusals.number();
        call.record(|record| {
            record.refused(refusal.reason, &refusal.detail);
            record.instance = Some(instance);
        });
        refusals.tell(Refusal { instance: Some(instance.to_string()), ..refusal });
        instance
    }
}
