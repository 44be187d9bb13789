//! The called service, reached over mTLS: connections to it are kept for the next request, as long as they are made
//! with the newest own certificate and to the identity that is demanded now.

use std::sync::Arc;

use http::StatusCode;
use hyper_util::rt::TokioIo;
use postern_proto::identity::SpiffeId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::app::{Failure, http1_builder, http2_builder};
use super::exchange::Lend;
use super::pool::{Dial, Dialed, End, Kind, Leased, Pool};
use super::tasks::ConnectionTasks;
use super::watched::Watched;
use super::{ALPN, ALPN_H1, ALPN_H2};
use crate::config::Http;
use crate::holder::in_one_line;
use crate::outbound::OutboundServer;
use crate::refusals::Refusal;

/// The peers behind one outbound.
#[derive(Debug)]
pub(super) struct Peers {
    pool: Arc<Pool<Epoch, Failure>>,
    connections: TaskTracker,
    /// Ends all connections at once.
    over: CancellationToken,
}

/// What connections are made under.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Epoch {
    /// Of the own credentials.
    generation: u64,
    expected: SpiffeId,
}

impl Peers {
    pub(super) fn new(limits: &Http) -> Self {
        let pool = Arc::new(Pool::new(limits.idle_timeout));
        Self { pool, connections: TaskTracker::new(), over: CancellationToken::new() }
    }

    /// The tasks of a connection that ends when this is cancelled.
    fn tasks(&self, cut: &CancellationToken) -> ConnectionTasks {
        ConnectionTasks::new(&self.connections, cut)
    }

    /// Closes what is kept.
    pub(super) async fn end(&self) {
        self.pool.retire();
        self.over.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// Lends connections to the called service.
#[derive(Debug)]
pub(super) struct ToPeer<'a> {
    pub(super) peers: &'a Peers,
    pub(super) server: &'a OutboundServer,
    pub(super) kind: Kind,
}

impl Lend for ToPeer<'_> {
    async fn lease(&self) -> Result<Leased, Failure> {
        let plane = &self.server.plane;
        let denied = |denial| Failure::from(vec![self.server.of_denial(denial)]);
        let own = plane.valid_credentials().map_err(denied)?;
        let expected = plane.expected(&self.server.outbound.target).map_err(denied)?;
        let epoch = Epoch { generation: own.generation, expected };
        self.peers.pool.lease(&epoch, self.kind, plane.clock.now(), self).await
    }
}

/// Lends connections that no other request uses, and that can switch to another protocol.
#[derive(Debug)]
pub(super) struct ToPeerAlone<'a>(pub(super) ToPeer<'a>);

impl Lend for ToPeerAlone<'_> {
    async fn lease(&self) -> Result<Leased, Failure> {
        self.0.dial(Kind::Single).await.map(Leased::fresh)
    }
}

impl Dial<Failure> for ToPeer<'_> {
    fn spread(&self) -> usize {
        self.server.upstreams.spread()
    }

    async fn dial(&self, kind: Kind) -> Result<Dialed, Failure> {
        let server = self.server;
        let registration = Arc::new(server.plane.register.enter(server.facts(), &self.peers.over));
        let alpn: &[&[u8]] = if kind == Kind::Single { &[ALPN_H1] } else { &ALPN };
        let (reached, leased) = Box::pin(server.dial(&registration, alpn)).await?;
        let shared = reached.secured.alpn.as_deref() == Some(ALPN_H2);
        let vouched_until = registration.verified().map(|peer| server.plane.good_until(&peer));
        let (address, listing) = (Some(leased.address()), leased.listing());
        let (cut, tasks) = (registration.cut.clone(), self.peers.tasks(&registration.cut));
        let end = End { address, vouched_until, listing, cut, ..End::default() };
        let stream = Watched::new(reached.secured.stream);
        let stream = stream.alert(end.alert.clone()).lease(leased).registered(registration);
        let (stream, limits) = (TokioIo::new(stream), &server.plane.config.http);
        let broken = |error: hyper::Error| Failure::broken(in_one_line(&error));
        if shared {
            let (sender, connection) =
                http2_builder(limits, server.plane.config.limits.dead_after, tasks.clone())
                    .handshake(stream)
                    .await
                    .map_err(broken)?;
            drive(&tasks, connection);
            Ok(Dialed::Shared(sender, end))
        } else {
            let (sender, connection) = http1_builder(limits).handshake(stream).await.map_err(broken)?;
            drive(&tasks, connection.with_upgrades());
            Ok(Dialed::Single(sender, end))
        }
    }
}

fn drive(tasks: &ConnectionTasks, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tasks.spawn(async move {
        if let Err(error) = connection.await {
            debug!(error = in_one_line(&error), "a connection to a peer broke");
        }
    });
}

impl From<Vec<Refusal>> for Failure {
    fn from(refused: Vec<Refusal>) -> Self {
        let details: Vec<_> = refused.iter().map(|refusal| refusal.detail.as_str()).collect();
        let detail = details.join("; ");
        // What a peer said weighs more than that another was not there.
        let told = refused.iter().find(|refusal| refusal.reason != "unreachable").or(refused.first());
        let (reason, explain) =
            told.map_or(("unreachable", None), |told| (told.reason, told.explain.clone()));
        let status = match reason {
            "access_denied" => StatusCode::FORBIDDEN,
            "handshake_timeout" => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, reason, detail, explain }
    }
}
