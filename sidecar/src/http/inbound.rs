//! Requests of peers: each decided, cleaned of claims, told who calls, and passed to the own app.

mod refusing;

use std::fmt::Write as _;
use std::sync::Arc;

use http::header::HeaderValue;
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode};
use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::Denial;
use postern_proto::policy::{Call, Decision};
use ring::digest::{SHA256, digest};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::ALPN_H2;
use super::answer::{self, BadAnswer};
use super::answering::{Answering, Side};
use super::app::{App, ToApp};
use super::body::{Answer, RequestBody, To};
use super::call::{CallFacts, Calls, OpenCall, RequestRecorder};
use super::exchange::{ExchangeError, Prepared};
use super::expect::Held;
use super::failure::Failure;
use super::frames::Streams;
use super::framing::Heads;
use super::incoming::Incoming;
use super::interim::Interim;
use super::pool::Kind;
use super::problem::{Asked, Problem, is_grpc};
use super::serve::{Session, Speaks, serve};
use super::target::{self, Bad, Target};
use super::tasks::ConnectionTasks;
use super::upgrade::{self, Switching};
use super::watched::Watched;
use super::{EXPANDED_BYTES_PER_PEER_MAX, expect, fields};
use crate::config::{Inbound, TellCallers};
use crate::credentials::holds_until;
use crate::listen::Until;
use crate::live::Registration;
use crate::metrics::Direction;
use crate::plane::Plane;
use crate::refusals::Called;
use crate::share::{Full, Share, Shares};
use crate::tls::{Secured, TlsStream};
use crate::upstream::Upstreams;
use refusing::Denied;

/// One inbound that speaks HTTP.
#[derive(Debug)]
pub struct HttpInbound {
    plane: Arc<Plane>,
    inbound: Arc<Inbound>,
    app: App,
    shares: Arc<Shares>,
    /// Of all its connections.
    tasks: TaskTracker,
}

impl HttpInbound {
    pub fn new(plane: Arc<Plane>, inbound: Arc<Inbound>, at: Arc<Upstreams>) -> Self {
        let app = App::new(at, inbound.app_http, &plane.config);
        Self { plane, inbound, app, shares: Arc::default(), tasks: TaskTracker::new() }
    }

    /// Serves an admitted peer's connection to its end.
    pub async fn serve(
        self: Arc<Self>,
        secured: Secured,
        registration: Arc<Registration>,
        calls: Arc<Calls>,
        until: Until,
    ) {
        let Secured { stream, alpn, leaf, .. } = secured;
        let speaks = if alpn.as_deref() == Some(ALPN_H2) { Speaks::Http2 } else { Speaks::Http1 };
        let hash = leaf.map(|leaf| hex(digest(&SHA256, &leaf).as_ref())).unwrap_or_default();
        let Some((peer, own)) = registration.verified().zip(self.plane.credentials.current()) else { return };
        let own = own.svid.id().clone();
        // Both are SPIFFE IDs: there is nothing in them that a header may not have.
        let Some(client_cert) = fields::client_cert(&own, &hash, peer.id()) else { return };
        calls.recorded_by(RequestRecorder {
            plane: self.plane.clone(),
            series: registration.series(),
            direction: Direction::Inbound,
            from: peer.id().to_string(),
            called: self.called(&own),
            connection: Some(registration.number()),
        });
        let heads = Arc::new(Heads::new(self.plane.config.http));
        let streams = Arc::<Streams>::default();
        let session = Session {
            plane: self.plane.clone(),
            traffic: Some(registration.traffic.clone()),
            calls: calls.clone(),
            heads: heads.clone(),
            streams: streams.clone(),
            tasks: ConnectionTasks::new(&self.tasks, &registration.cut),
            stop: until.stop.clone(),
        };
        let stream = Watched::new(stream).registered(registration.clone());
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
        serve(stream, speaks, Answering(client), &session).await;
        switched.close();
        switched.wait().await;
    }

    fn called(&self, own: &SpiffeId) -> Called {
        let policy = self.plane.policy.current();
        let service = policy.and_then(|policy| policy.service_of(own).map(str::to_owned));
        Called { id: Some(own.to_string()), service, port: Some(self.inbound.name.clone()), address: None }
    }

    /// Closes what is of no use any more.
    pub fn look(&self) {
        self.app.look();
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
    share: Arc<Share>,
    heads: Arc<Heads>,
    streams: Arc<Streams>,
    registration: Arc<Registration>,
    /// What stopped being HTTP on this connection.
    switched: TaskTracker,
}

impl Side for Client {
    fn plane(&self) -> &Plane {
        &self.server.plane
    }

    fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    fn heads(&self) -> &Heads {
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
        let most = self.server.plane.config.http.requests_per_peer_max;
        match self.share.enter_request(most, call.expanded_bytes(), EXPANDED_BYTES_PER_PEER_MAX) {
            Ok(place) => {
                call.hold(place);
                None
            }
            Err(Full::Requests) => Some(self.fail(call, Failure::busy(most), asked)),
            Err(Full::ExpandedBytes) => {
                Some(self.fail(call, Failure::expanded(EXPANDED_BYTES_PER_PEER_MAX), asked))
            }
        }
    }

    async fn pass(
        &self,
        request: Request<Incoming>,
        target: Target,
        call: &Arc<OpenCall>,
    ) -> Result<Response<Answer>, Failure> {
        let app = &self.server.app;
        let kind = app.kind(is_grpc(request.headers()))?;
        let prepared = self.prepare(request, target, call);
        let (mut response, lease) =
            prepared.exchange(&ToApp(app, kind)).await.map_err(|error| self.failed(error))?;
        answer::check(&mut response, &lease, &self.plane().config.http)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::broken("the app switched protocols unasked".to_owned()));
        }
        fields::remove_hop(response.headers_mut());
        Ok(Answer::carried(response, call.clone(), To::Peer, lease))
    }

    async fn switch(
        &self,
        mut request: Request<Incoming>,
        target: Target,
        protocol: HeaderValue,
        call: &Arc<OpenCall>,
    ) -> Result<Response<Answer>, Failure> {
        let peer = hyper::upgrade::on(&mut request);
        let app = &self.server.app;
        let mut prepared = self.prepare(request, target, call);
        upgrade::name_protocol(prepared.request.headers_mut(), protocol.clone());
        let (mut response, lease) =
            prepared.exchange(&ToApp(app, Kind::Fresh)).await.map_err(|error| self.failed(error))?;
        answer::check(&mut response, &lease, &self.plane().config.http)?;
        let chosen = fields::switched_to(&protocol, response.headers());
        fields::remove_hop(response.headers_mut());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(chosen) = chosen else {
                return Err(Failure::broken(
                    "the app switched to a protocol that was not offered".to_owned(),
                ));
            };
            let switching = Switching {
                app: hyper::upgrade::on(&mut response),
                peer,
                call: call.clone(),
                direction: Direction::Inbound,
                limits: self.server.plane.config.limits,
                cut: [self.registration.cut.clone(), lease.cut()],
            };
            upgrade::name_protocol(response.headers_mut(), chosen);
            self.heads.upgraded();
            let carried = switching.carry::<Watched<TcpStream>, Watched<TlsStream>>();
            self.switched.spawn(self.server.tasks.track_future(carried));
            return Ok(response.map(|_| Answer::empty()));
        }
        Ok(Answer::carried(response, call.clone(), To::Peer, lease))
    }

    fn refuse_bad(&self, call: &OpenCall, bad: &Bad, asked: Asked) -> Response<Answer> {
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

    /// What a failed exchange means.
    fn failed(&self, error: ExchangeError) -> Failure {
        match &error {
            ExchangeError::Broken(broken, _) => BadAnswer::of_head(broken, &self.plane().config.http),
            ExchangeError::Unreached(_) => None,
        }
        .map_or_else(|| error.into(), Failure::from)
    }

    fn decide(&self, call: &OpenCall) -> Result<(), Box<Denied>> {
        let plane = &self.server.plane;
        let bare = |denial: Denial| Box::new(Denied { denial, policy: None });
        plane.still_believes(&self.peer).map_err(bare)?;
        self.still_vouched_for().map_err(bare)?;
        let CallFacts { method, path } = &call.facts;
        let (peer, inbound) = (self.peer.id(), &self.server.inbound);
        let (decision, policy) =
            plane.decide_call(peer, &self.own, inbound, Call { method, path }).map_err(bare)?;
        plane.count(&decision, &policy, Some((method, path)));
        call.tell(|story| story.decided(&decision, &policy));
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
        if holds_until(not_after, self.server.plane.clock.now()) {
            return Ok(());
        }
        let detail = format!("the certificate with which this connection began expired at {not_after}");
        Err(Denial { code: "peer_expired", detail })
    }

    /// Takes away what is of this hop or claims an identity, and says who calls.
    fn prepare(&self, request: Request<Incoming>, target: Target, call: &Arc<OpenCall>) -> Prepared {
        let mut request = RequestBody::of(request, call.clone(), To::App, self.heads.clone());
        let held = expect::hold(&request);
        let interim = Interim::new(&mut request, call.clone(), held.as_ref().map(Held::asked));
        request.body().hold(held);
        let headers = request.headers_mut();
        let trailers = fields::remove_hop(headers);
        fields::remove_claims(headers);
        headers.insert(fields::CLIENT_CERT, self.client_cert.clone());
        Prepared { request, target, scheme: Scheme::HTTP, trailers, interim }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _always_ok = write!(text, "{byte:02x}");
        text
    })
}
