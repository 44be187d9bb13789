//! Connections to the remote service over mTLS, pooled while they use the current own certificate and the expected
//! peer identity.

use std::sync::Arc;

use http::StatusCode;
use postern_proto::identity::SpiffeId;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::app::no_streams;
use super::client::{Http1Sender, http1_builder, http2_builder, pings};
use super::exchange::ConnectionSource;
use super::failure::Failure;
use super::frames::Frames;
use super::http2::client::handshake;
use super::instrumented_io::InstrumentedIo;
use super::pool::{
    self, Bounds, ConnectionLease, ConnectionType, DialError, DialFailure, Dialed, Kind, Pool, ServerEnd,
};
use super::preface::Preface;
use super::tasks::ConnectionTasks;
use super::{ALPN, ALPN_H1, ALPN_H2};
use crate::config::Http;
use crate::error_text::one_line;
use crate::observability::metrics::DialResult;
use crate::observability::refusals::Refusal;
use crate::proxy::dialer::{PeerDialError, PeerDialer};
use crate::proxy::tls::TlsStream;
use crate::proxy::upstream::load_balancer::HttpVersion;
use crate::proxy::upstream::{self, Upstreams};

/// The peers behind one outbound.
#[derive(Debug)]
pub(super) struct Peers {
    pool: Arc<Pool<PeerTarget>>,
    connections: TaskTracker,
    /// Closes all connections.
    over: CancellationToken,
}

/// The state under which connections are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Epoch {
    /// Generation of the own credentials.
    generation: u64,
    expected: SpiffeId,
}

impl Peers {
    pub(super) fn new(upstreams: Arc<Upstreams>, limits: &Http) -> Self {
        let (connections, over) = (TaskTracker::new(), CancellationToken::new());
        let bounds = Bounds { idle_timeout: limits.idle_timeout, shared_max: limits.http2_connections_max };
        let pool = Pool::new(upstreams, bounds, ConnectionTasks::new(&connections, &over));
        Self { pool, connections, over }
    }

    /// Closes unusable connections.
    pub(super) fn maintain(&self, dialer: &PeerDialer) {
        self.pool.clean(dialer.proxy.control.clock.now());
    }

    /// Closes all pooled connections.
    pub(super) async fn end(&self) {
        self.pool.retire();
        self.over.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// Leases connections to the remote service.
#[derive(Debug)]
pub(super) struct PeerConnections<'a> {
    pub(super) target: &'a PeerTarget,
    pub(super) kind: Kind,
}

/// The dial target of the pool.
#[derive(Debug, Clone)]
pub(super) struct PeerTarget {
    pub(super) dialer: Arc<PeerDialer>,
    pub(super) peers: Arc<Peers>,
}

impl ConnectionSource for PeerConnections<'_> {
    async fn lease(&self) -> Result<ConnectionLease, Failure> {
        let PeerTarget { dialer, peers } = self.target;
        let proxy = &dialer.proxy;
        let denied = |denial| Failure::from(dialer.denial_refusal(denial));
        let own = proxy.control.valid_credentials().map_err(denied)?;
        let expected = proxy.control.expected(&dialer.outbound.target).map_err(denied)?;
        let epoch = Epoch { generation: own.generation, expected };
        peers.pool.lease(&epoch, self.kind, proxy.control.clock.now(), self.target).await
    }
}

impl PeerTarget {
    async fn shared(
        &self,
        stream: InstrumentedIo<TlsStream>,
        end: ServerEnd,
        tasks: ConnectionTasks,
    ) -> Result<Dialed, DialError> {
        let (proxy, address) = (&self.dialer.proxy, end.address);
        let limits = proxy.control.config.limits;
        let (builder, pings) =
            (http2_builder(&proxy.control.config.http), pings(address.ip(), limits.dead_after));
        let handshake = handshake(stream, &builder, pings, &tasks);
        let (sender, connection) = handshake.await.map_err(|error| broken(&error))?;
        tasks.spawn(connection);
        // In TLS 1.3 a server's refusal of the client arrives after the client's handshake is complete.
        match timeout(limits.handshake_timeout, end.server_state.begun()).await {
            Ok(Preface::Http2) if end.server_state.streams_max() == 0 => {
                Err(failed(no_streams(&address.to_string())))
            }
            Ok(Preface::Http2) => Ok(Dialed::Shared(sender, end)),
            Ok(_) if end.alert.get().is_some() => {
                let alert = end.alert.get().copied().map(|alert| self.dialer.of_alert(alert, address));
                Err(refused(alert.into_iter().collect(), DialResult::Refused))
            }
            Ok(_) => {
                Err(failed(Failure::broken(format!("{address} ended the connection before it spoke HTTP/2"))))
            }
            Err(_) => {
                let detail = format!("{address} spoke no HTTP/2 within {:?}", limits.handshake_timeout);
                let refusal = self.dialer.refusal("handshake_timeout", detail, Some(address), None);
                Err(refused(vec![refusal], DialResult::Failed))
            }
        }
    }
}

impl pool::PoolTarget for PeerTarget {
    type Epoch = Epoch;

    fn upstreams(&self) -> &Arc<Upstreams> {
        &self.dialer.upstreams
    }

    async fn dial(
        &self,
        mut leased: upstream::SelectedAddress,
        kind: Kind,
        _: ConnectionType,
    ) -> Result<Dialed, DialError> {
        let Self { dialer, peers } = self;
        let registration = Arc::new(dialer.proxy.register.enter(dialer.facts(), &peers.over));
        // ALPN negotiates the version for each connection.
        let alpn: &[&[u8]] = if kind == Kind::Any { &ALPN } else { &[ALPN_H1] };
        let reached = match Box::pin(dialer.dial(&mut leased, &registration, alpn)).await {
            Ok(reached) => reached,
            Err(PeerDialError::Unreached(error)) => {
                let failure = Failure::unreachable("unreachable", one_line(&error));
                let failure = DialFailure::new(failure, None).counted_as(error.dial_result());
                return Err(DialError::Failed(failure));
            }
            Err(PeerDialError::Refused(refusal, result)) => return Err(refused(vec![refusal], result)),
        };
        registration.opened();
        let shared = reached.secured.alpn.as_deref() == Some(ALPN_H2);
        if kind == Kind::Any {
            leased.handle().learn(Some(if shared { HttpVersion::Http2 } else { HttpVersion::Http1 }));
        }
        let peer_not_after = registration.verified().map(|peer| dialer.proxy.control.good_until(&peer));
        let tasks = ConnectionTasks::new(&peers.connections, &registration.termination);
        let mut end =
            ServerEnd { peer_not_after, ..ServerEnd::new(&leased, registration.termination.clone()) };
        let stream = InstrumentedIo::new(reached.secured.stream).server_state(end.server_state.clone());
        let mut stream = stream.alert(end.alert.clone()).lease(leased).registered(registration);
        if shared {
            let streams = end.streams.insert(Arc::default());
            stream = stream.frames(Frames::for_responses(dialer.proxy.control.config.http, streams.clone()));
        }
        if shared {
            return self.shared(stream, end, tasks).await;
        }
        let builder = http1_builder(&dialer.proxy.control.config.http);
        let sender = Http1Sender::begin(&builder, stream, &tasks).await.map_err(|error| broken(&error))?;
        Ok(Dialed::Single(sender, end))
    }

    fn report(&self, refusal: Refusal) {
        self.dialer.proxy.refusals.tell(refusal);
    }

    fn unreached(&self, detail: String) -> Failure {
        Failure::unreachable("unreachable", detail)
    }
}

fn failed(failure: Failure) -> DialError {
    DialError::Failed(DialFailure::new(failure, None))
}

fn refused(refusals: Vec<Refusal>, result: DialResult) -> DialError {
    let failures = refusals.iter().cloned().map(Failure::from).collect();
    let failure = DialFailure::new(Failure::joined(failures), refusals.into_iter().next());
    DialError::Failed(failure.counted_as(result))
}

fn broken(error: &dyn std::error::Error) -> DialError {
    failed(Failure::broken(one_line(error)))
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let Refusal { reason, detail, explain, .. } = refusal;
        let status = match reason {
            "access_denied" => StatusCode::FORBIDDEN,
            "handshake_timeout" => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, reason, detail, explain, is_unreachable: reason == "unreachable" }
    }
}
