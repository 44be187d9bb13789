//! Requests of the own app: each passed to the called service, on a connection that is there already where possible.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{Request, Response};
use postern_proto::identity::SpiffeId;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::InvalidAnswer;
use super::body::{Answer, To};
use super::call::{Calls, OpenCall, RequestRecorder};
use super::exchange::{ConnectionSource, ExchangeError, PreparedRequest};
use super::failure::Failure;
use super::frames::Streams;
use super::framing::RawHeadCheck;
use super::handler::{HandlerService, RequestHandler};
use super::incoming::Incoming;
use super::instrumented_io::InstrumentedIo;
use super::peer::{PeerPlace, Peers, ToPeer};
use super::pool::Kind;
use super::problem::{Asked, Problem, Question};
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

/// One outbound that speaks HTTP.
#[derive(Debug)]
pub struct HttpOutbound {
    peers: Arc<Peers>,
    /// Of all connections of the app.
    tasks: TaskTracker,
}

impl HttpOutbound {
    pub fn new(upstreams: Arc<Upstreams>, limits: &Http) -> Self {
        Self { peers: Arc::new(Peers::new(upstreams, limits)), tasks: TaskTracker::new() }
    }

    /// Serves a connection of the app to its end.
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
            place: PeerPlace { dialer: dialer.clone(), peers: self.peers.clone() },
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

    /// Closes what is of no use any more.
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

/// Who has said nothing yet when the listener stops is given this time.
async fn at_the_end(until: &ShutdownTokens, time: Duration) {
    until.stop.cancelled().await;
    tokio::time::sleep(time).await;
}

/// One connection of the app.
#[derive(Debug)]
struct App {
    place: PeerPlace,
    calls: Arc<Calls>,
    heads: Arc<RawHeadCheck>,
    streams: Arc<Streams>,
    /// The host of a request that names none.
    service: Authority,
    /// What stopped being HTTP on this connection.
    switched: TaskTracker,
    tasks: TaskTracker,
    abort: CancellationToken,
}

impl RequestHandler for App {
    type Client = InstrumentedIo<TcpStream>;
    type Called = InstrumentedIo<TlsStream>;

    const CALLED: &'static str = "the service";
    const ANSWERS_TO: To = To::App;

    fn proxy(&self) -> &ProxyState {
        &self.place.dialer.proxy
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

    /// The called side decides.
    fn refusal(&self, _: &OpenCall, _: Asked) -> Option<Response<Answer>> {
        None
    }

    fn kind(&self, _is_grpc: bool) -> Result<Kind, Failure> {
        Ok(Kind::Any)
    }

    fn lender(&self, kind: Kind) -> impl ConnectionSource {
        ToPeer { place: &self.place, kind }
    }

    /// Takes away what is of this hop only. What claims an identity the called side removes, whoever sends it.
    fn prepare(&self, request: Request<Incoming>, target: Target, call: &Arc<OpenCall>) -> PreparedRequest {
        PreparedRequest::new(request, target, call, To::Peer, self.heads.clone())
    }

    /// An alert says more than the connection that broke with it.
    fn failed(&self, error: ExchangeError) -> Failure {
        if let ExchangeError::Broken(_, lease) = &error
            && let Some(alert) = lease.alert()
            && let Some(end) = lease.end()
        {
            return self.place.dialer.of_alert(alert, end.address).into();
        }
        if let ExchangeError::Broken(broken, _) = &error
            && let Some(bad) = InvalidAnswer::of_head(broken, &self.proxy().control.config.http)
        {
            return bad.into();
        }
        error.into()
    }

    fn spawn_switched(&self, relayed: impl Future<Output = ()> + Send + 'static) {
        self.switched.spawn(self.tasks.track_future(relayed));
    }

    fn cut(&self) -> CancellationToken {
        self.abort.clone()
    }

    fn fail(&self, call: &OpenCall, failure: Failure, asked: Asked) -> Response<Answer> {
        let Failure { status, reason, detail, explain, .. } = failure;
        let explain = explain.map(|explain| format!("{explain} --call {}", call.facts.quoted()));
        let refusal = self.place.dialer.refusal(reason, detail.clone(), None, explain.clone());
        let question = Question {
            caller: Some(refusal.from.clone()),
            service: refusal.called.id.clone().or(refusal.called.service.clone()),
            port: None,
            call: Some(call.facts.to_string()),
            policy: self.place.dialer.proxy.control.policy.current().map(|policy| policy.digest().to_owned()),
            explain,
        };
        let mut problem = Problem::new(status, reason, self.tell(call, refusal));
        (problem.detail, problem.question) = (Some(detail), Some(question));
        problem.response(asked)
    }

    fn refuse_bad(&self, call: &OpenCall, bad: &InvalidMessage, asked: Asked) -> Response<Answer> {
        let refusal = self.place.dialer.refusal(bad.code(), bad.to_string(), None, None);
        let mut problem = Problem::new(bad.status(), bad.code(), self.tell(call, refusal));
        problem.detail = Some(bad.to_string());
        problem.response(asked)
    }
}

impl App {
    fn tell(&self, call: &OpenCall, refusal: Refusal) -> Instance {
        let refusals = &self.place.dialer.proxy.refusals;
        let instance = refusals.number();
        call.record(|record| {
            record.refused(refusal.reason, &refusal.detail);
            record.instance = Some(instance);
        });
        refusals.tell(Refusal { instance: Some(instance.to_string()), ..refusal });
        instance
    }
}
