//! The HTTP inbound: authorizes requests of peers, replaces identity claims, and forwards them to the own app.

mod refusal;

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
use super::app::{App, AppConnections};
use super::body::{Destination, ResponseBody};
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
use super::problem::{Problem, ReplyFormat};
use super::response_check::InvalidResponse;
use super::serve::{DetectedVersion, Session, serve};
use super::target::{self, InvalidMessage, Target};
use super::tasks::ConnectionTasks;
use crate::config::{Inbound, TellCallers};
use crate::identity::credentials::is_valid_at;
use crate::observability::Direction;
use crate::observability::refusals::Called;
use crate::proxy::connections::{Registration, RequestInfo};
use crate::proxy::listener::ShutdownTokens;
use crate::proxy::peer_limits::{PeerLimitReached, PeerLimits, PeerUsage};
use crate::proxy::state::ProxyState;
use crate::proxy::tls::{EstablishedTls, TlsStream};
use crate::proxy::upstream::Upstreams;
use refusal::Denied;

/// An inbound with `protocol = "http"`.
#[derive(Debug)]
pub struct HttpInbound {
    proxy: Arc<ProxyState>,
    inbound: Arc<Inbound>,
    app: App,
    peer_limits: Arc<PeerLimits>,
    /// Tasks of all its connections.
    tasks: TaskTracker,
}

impl HttpInbound {
    pub fn new(proxy: Arc<ProxyState>, inbound: Arc<Inbound>, at: Arc<Upstreams>) -> Self {
        let app = App::new(at, inbound.app_http, &proxy.control.config);
        Self { proxy, inbound, app, peer_limits: Arc::default(), tasks: TaskTracker::new() }
    }

    /// Serves an admitted peer's connection until it ends.
    pub async fn serve(
        self: Arc<Self>,
        secured: EstablishedTls,
        registration: Arc<Registration>,
        calls: Arc<Calls>,
        until: ShutdownTokens,
    ) {
        let EstablishedTls { stream, alpn, leaf, .. } = secured;
        let speaks =
            if alpn.as_deref() == Some(ALPN_H2) { DetectedVersion::Http2 } else { DetectedVersion::Http1 };
        let hash = leaf.map(|leaf| hex(digest(&SHA256, &leaf).as_ref())).unwrap_or_default();
        let Some((peer, own)) = registration.verified().zip(self.proxy.control.credentials.current()) else {
            return;
        };
        let own = own.svid.id().clone();
        // Both are SPIFFE IDs, which contain no characters that are invalid in a header.
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
            tasks: ConnectionTasks::new(&self.tasks, &registration.termination),
            stop: until.stop.clone(),
        };
        let stream = InstrumentedIo::new(stream).registered(registration.clone());
        let switched = TaskTracker::new();
        let client = Arc::new(Client {
            usage: self.peer_limits.of(peer.id()),
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

    /// Closes unusable connections.
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
    /// The host for requests without one.
    service: Authority,
    calls: Arc<Calls>,
    usage: Arc<PeerUsage>,
    heads: Arc<RawHeadCheck>,
    streams: Arc<Streams>,
    registration: Arc<Registration>,
    /// Relays of upgraded requests of this connection.
    switched: TaskTracker,
}

impl RequestHandler for Client {
    type Client = InstrumentedIo<TlsStream>;
    type Server = InstrumentedIo<TcpStream>;

    const SERVER_NAME: &'static str = "the app";
    const CLIENT_SIDE: Destination = Destination::Peer;

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

    fn refusal(&self, call: &OpenCall, format: ReplyFormat) -> Option<Response<ResponseBody>> {
        if let Err(denied) = self.decide(call) {
            return Some(self.refuse(call, *denied, format));
        }
        let limits = &self.server.proxy.control.config.http;
        let (most, bytes_max) = (limits.requests_per_peer_max, limits.expanded_bytes_per_peer_max);
        match self.usage.enter_request(most, call.expanded_bytes(), bytes_max) {
            Ok(permit) => {
                call.hold(permit);
                None
            }
            Err(PeerLimitReached::Requests) => Some(self.fail(call, Failure::busy(most), format)),
            Err(PeerLimitReached::ExpandedBytes) => {
                Some(self.fail(call, Failure::expanded(bytes_max), format))
            }
        }
    }

    fn kind(&self, is_grpc: bool) -> Result<Kind, Failure> {
        self.server.app.kind(is_grpc)
    }

    fn connections(&self, kind: Kind) -> impl ConnectionSource {
        AppConnections(&self.server.app, kind)
    }

    /// Removes hop-by-hop fields and identity claims, and adds the client certificate field.
    fn prepare(&self, request: Request<Incoming>, target: Target, call: &Arc<OpenCall>) -> PreparedRequest {
        let mut prepared = PreparedRequest::new(request, target, call, Destination::App, self.heads.clone());
        let headers = prepared.request.headers_mut();
        fields::remove_claims(headers);
        headers.insert(fields::CLIENT_CERT, self.client_cert.clone());
        prepared
    }

    fn failed(&self, error: ExchangeError) -> Failure {
        match &error {
            ExchangeError::Broken(broken, _) => {
                InvalidResponse::of_head(broken, &self.proxy().control.config.http)
            }
            ExchangeError::Unreached(_) => None,
        }
        .map_or_else(|| error.into(), Failure::from)
    }

    fn spawn_switched(&self, relayed: impl Future<Output = ()> + Send + 'static) {
        self.switched.spawn(self.server.tasks.track_future(relayed));
    }

    fn termination(&self) -> CancellationToken {
        self.registration.termination.clone()
    }

    fn refuse_invalid(
        &self,
        call: &OpenCall,
        bad: &InvalidMessage,
        format: ReplyFormat,
    ) -> Response<ResponseBody> {
        let instance = self.report(call, bad.code(), &bad.to_string(), None);
        let mut problem = Problem::new(bad.status(), bad.code(), instance);
        problem.detail = Some(bad.to_string());
        problem.response(format)
    }

    fn fail(&self, call: &OpenCall, failure: Failure, format: ReplyFormat) -> Response<ResponseBody> {
        let instance = self.report(call, failure.reason, &failure.detail, None);
        let mut problem = Problem::new(failure.status, failure.reason, instance);
        problem.detail = self.may_see_details().then_some(failure.detail);
        problem.response(format)
    }
}

impl Client {
    /// Whether clients get details of a refusal.
    fn may_see_details(&self) -> bool {
        self.server.inbound.tell_callers == TellCallers::Everything
    }

    fn decide(&self, call: &OpenCall) -> Result<(), Box<Denied>> {
        let proxy = &self.server.proxy;
        let bare = |denial: Denial| Box::new(Denied { denial, policy: None });
        proxy.control.still_believes(&self.peer).map_err(bare)?;
        self.check_peer_expiry().map_err(bare)?;
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

    /// A connection may outlive its peer's certificate; its requests may not.
    fn check_peer_expiry(&self) -> Result<(), Denial> {
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
        // Writing to a string cannot fail.
        let _always_ok = write!(text, "{byte:02x}");
        text
    })
}
