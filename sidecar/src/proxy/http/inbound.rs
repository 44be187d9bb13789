//! Requests of peers: each decided, cleaned of claims, told who calls, and passed to the own app.

mod refusing;

use std::fmt::Write as _;
use std::sync::Arc;

use http::header::HeaderValue;
use http::uri::Authority;
use http::{Request, Response};
use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::Denial;
use postern_proto::policy::{Call, Decision};
use ring::digest::{SHA256, digest};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ALPN_H2;
use super::answer::InvalidAnswer;
use super::app::{App, ToApp};
use super::body::{Answer, To};
use super::call::{Calls, OpenCall, RequestRecorder};
use super::exchange::{ConnectionSource, ExchangeError, PreparedRequest};
use super::failure::Failure;
use super::fields;
use super::frames::Streams;
use super::framing::RawHeadCheck;
use super::handler::{HandlerService, RequestHandler};
use super::incoming::Incoming;
use super::instrumented_io::InstrumentedIo;
use super::pool::Kind;
use super::problem::{Asked, Problem};
use super::serve::{Session, Speaks, serve};
use super::target::{self, InvalidMessage, Target};
use super::tasks::ConnectionTasks;
use crate::config::{Inbound, TellCallers};
use crate::identity::credentials::is_valid_at;
use crate::observability::Direction;
use crate::observability::refusals::Called;
use crate::proxy::connections::{Registration, RequestInfo};
use crate::proxy::listener::ShutdownTokens;
use crate::proxy::peer_limits::{Full, PeerLimits, PeerUsage};
use crate::proxy::state::ProxyState;
use crate::proxy::tls::{Secured, TlsStream};
use crate::proxy::upstream::Upstreams;
use refusing::Denied;

/// One inbound that speaks HTTP.
#[derive(Debug)]
pub struct HttpInbound {
    proxy: Arc<ProxyState>,
    inbound: Arc<Inbound>,
    app: App,
    shares: Arc<PeerLimits>,
    /// Of all its connections.
    tasks: TaskTracker,
}

impl HttpInbound {
    pub fn new(proxy: Arc<ProxyState>, inbound: Arc<Inbound>, at: Arc<Upstreams>) -> Self {
        let app = App::new(at, inbound.app_http, &proxy.control.config);
        Self { proxy, inbound, app, shares: Arc::default(), tasks: TaskTracker::new() }
    }

    /// Serves an admitted peer's connection to its end.
    pub async fn serve(
        self: Arc<Self>,
        secured: Secured,
        registration: Arc<Registration>,
        calls: Arc<Calls>,
        until: ShutdownTokens,
    ) {
        let Secured { stream, alpn, leaf, .. } = secured;
        let speaks = if alpn.as_deref() == Some(ALPN_H2) { Speaks::Http2 } else { Speaks::Http1 };
        let hash = leaf.map(|leaf| hex(digest(&SHA256, &leaf).as_ref())).unwrap_or_default();
        let Some((peer, own)) = registration.verified().zip(self.proxy.control.credentials.current()) else {
            return;
        };
        let own = own.svid.id().clone();
        // Both are SPIFFE IDs: there is nothing in them that a header may not have.
        let Some(client_cert) = fields::client_cert(&own, &hash, peer.id()) else { return };
        calls.recorded_by(RequestRecorder {
            proxy: self.proxy.clone(),
            series: registration.series(),
            direction: Direction::Inbound,
            from: peer.id().to_string(),
            called: self.called(&own),
            connection: Some(registration.number()),
        });
        let heads = Arc::new(RawHeadCheck::new(self.proxy.control.config.http));
        let streams = Arc::<Streams>::default();
        let session = Session {
            proxy: self.proxy.clone(),
            traffic: Some(registration.traffic.clone()),
            calls: calls.clone(),
            heads: heads.clone(),
            streams: streams.clone(),
            tasks: ConnectionTasks::new(&self.tasks, &registration.cut),
            stop: until.stop.clone(),
        };
        let stream = InstrumentedIo::new(stream).registered(registration.clone());
        let switched = TaskTracker::new();
        let client = Arc::new(Client {
            share: self.shares.of(peer.id()),
            service: target::authority_of(self.called(&own).service.as_deref()),
            server: self,
            peer,
            own,
            client_cert,
            calls,
            heads,
            streams,
            registration,
            switched: switched.clone(),
        });
        serve(stream, speaks, HandlerService(client), &session).await;
        switched.close();
        switched.wait().await;
    }

    fn called(&self, own: &SpiffeId) -> Called {
        let policy = self.proxy.control.policy.current();
        let service = policy.and_then(|policy| policy.service_of(own).map(str::to_owned));
        Called { id: Some(own.to_string()), service, port: Some(self.inbound.name.clone()), address: None }
    }

    /// Closes what is of no use any more.
    pub fn maintain(&self) {
        self.app.maintain();
    }

    /// Waits for the tasks of its connections, which have ended, and closes the connections to the app.
    pub async fn end(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.app.end().await;
    }
}

/// One peer's connection.
#[derive(Debug)]
struct Client {
    server: Arc<HttpInbound>,
    peer: VerifiedSvid,
    own: SpiffeId,
    client_cert: HeaderValue,
    /// The host of a request that names none.
    service: Authority,
    calls: Arc<Calls>,
    share: Arc<PeerUsage>,
    heads: Arc<RawHeadCheck>,
    streams: Arc<Streams>,
    registration: Arc<Registration>,
    /// What stopped being HTTP on this connection.
    switched: TaskTracker,
}

impl RequestHandler for Client {
    type Client = InstrumentedIo<TlsStream>;
    type Called = InstrumentedIo<TcpStream>;

    const CALLED: &'static str = "the app";
    const ANSWERS_TO: To = To::Peer;

    fn proxy(&self) -> &ProxyState {
        &self.server.proxy
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

    fn refusal(&self, call: &OpenCall, asked: Asked) -> Option<Response<Answer>> {
        if let Err(denied) = self.decide(call) {
            return Some(self.refuse(call, *denied, asked));
        }
        let limits = &self.server.proxy.control.config.http;
        let (most, bytes_max) = (limits.requests_per_peer_max, limits.expanded_bytes_per_peer_max);
        match self.share.enter_request(most, call.expanded_bytes(), bytes_max) {
            Ok(place) => {
                call.hold(place);
                None
            }
            Err(Full::Requests) => Some(self.fail(call, Failure::busy(most), asked)),
            Err(Full::ExpandedBytes) => Some(self.fail(call, Failure::expanded(bytes_max), asked)),
        }
    }

    fn kind(&self, is_grpc: bool) -> Result<Kind, Failure> {
        self.server.app.kind(is_grpc)
    }

    fn lender(&self, kind: Kind) -> impl ConnectionSource {
        ToApp(&self.server.app, kind)
    }

    /// Takes away what is of this hop or claims an identity, and says who calls.
    fn prepare(&self, request: Request<Incoming>, target: Target, call: &Arc<OpenCall>) -> PreparedRequest {
        let mut prepared = PreparedRequest::new(request, target, call, To::App, self.heads.clone());
        let headers = prepared.request.headers_mut();
        fields::remove_claims(headers);
        headers.insert(fields::CLIENT_CERT, self.client_cert.clone());
        prepared
    }

    fn failed(&self, error: ExchangeError) -> Failure {
        match &error {
            ExchangeError::Broken(broken, _) => {
                InvalidAnswer::of_head(broken, &self.proxy().control.config.http)
            }
            ExchangeError::Unreached(_) => None,
        }
        .map_or_else(|| error.into(), Failure::from)
    }

    fn spawn_switched(&self, relayed: impl Future<Output = ()> + Send + 'static) {
        self.switched.spawn(self.server.tasks.track_future(relayed));
    }

    fn cut(&self) -> CancellationToken {
        self.registration.cut.clone()
    }

    fn refuse_bad(&self, call: &OpenCall, bad: &InvalidMessage, asked: Asked) -> Response<Answer> {
        let instance = self.tell(call, bad.code(), &bad.to_string(), None);
        let mut problem = Problem::new(bad.status(), bad.code(), instance);
        problem.detail = Some(bad.to_string());
        problem.response(asked)
    }

    fn fail(&self, call: &OpenCall, failure: Failure, asked: Asked) -> Response<Answer> {
        let instance = self.tell(call, failure.reason, &failure.detail, None);
        let mut problem = Problem::new(failure.status, failure.reason, instance);
        problem.detail = self.may_be_told().then_some(failure.detail);
        problem.response(asked)
    }
}

impl Client {
    /// Whether callers are told more than that they got no answer.
    fn may_be_told(&self) -> bool {
        self.server.inbound.tell_callers == TellCallers::Everything
    }

    fn decide(&self, call: &OpenCall) -> Result<(), Box<Denied>> {
        let proxy = &self.server.proxy;
        let bare = |denial: Denial| Box::new(Denied { denial, policy: None });
        proxy.control.still_believes(&self.peer).map_err(bare)?;
        self.still_vouched_for().map_err(bare)?;
        let RequestInfo { method, path } = &call.facts;
        let (peer, inbound) = (self.peer.id(), &self.server.inbound);
        let (decision, policy) =
            proxy.control.decide_call(peer, &self.own, inbound, Call { method, path }).map_err(bare)?;
        proxy.control.count(&decision, &policy, Some((method, path)));
        call.record(|record| record.decided(&decision, &policy));
        match &decision {
            Decision::Allow { .. } => Ok(()),
            Decision::Observed { .. } => {
                let (port, reason) = (inbound.name.as_str(), decision.reason());
                tracing::info!(%peer, service = %self.own, port, method, path = %path.escape_debug(), reason, "observed");
                Ok(())
            }
            Decision::Deny { .. } => {
                let denial = Denial { code: "denied", detail: decision.reason() };
                Err(Box::new(Denied { denial, policy: Some(policy) }))
            }
        }
    }

    /// A connection may be older than its peer's certificate is good for; its requests are not.
    fn still_vouched_for(&self) -> Result<(), Denial> {
        let not_after = self.peer.not_after();
        if is_valid_at(not_after, self.server.proxy.control.clock.now()) {
            return Ok(());
        }
        let detail = format!("the certificate with which this connection began expired at {not_after}");
        Err(Denial { code: "peer_expired", detail })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _always_ok = write!(text, "{byte:02x}");
        text
    })
}
