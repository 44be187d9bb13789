//! Connects to a service: dials its addresses, and verifies the identity of the server.

mod dial;
mod refusal;
mod slots;

use std::sync::Arc;

use super::connections::Facts;
use super::state::ProxyState;
use super::upstream::Upstreams;
use crate::config::Outbound;
use crate::observability::Direction;
pub(super) use dial::{ConnectedPeer, PeerDialError, PeerPath};
pub(super) use refusal::PEER_FAILED;
pub(super) use slots::HandshakeSlots;

/// Dials the service of one outbound.
#[derive(Debug)]
pub struct PeerDialer {
    pub(super) proxy: Arc<ProxyState>,
    index: usize,
    pub(super) outbound: Outbound,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) slots: HandshakeSlots,
}

impl PeerDialer {
    pub(super) fn new(proxy: Arc<ProxyState>, index: usize, outbound: Outbound) -> Self {
        let target = outbound.target.to_string();
        let series = proxy.control.metrics.series.listener(Direction::Outbound, &target);
        let upstreams = proxy.upstreams(series, index, &outbound.to);
        Self { proxy, index, outbound, upstreams, slots: HandshakeSlots::default() }
    }

    /// The register entry of a connection before its peer is known.
    pub(super) fn facts(&self) -> Facts {
        Facts {
            direction: Direction::Outbound,
            listener: self.index,
            peer: None,
            since: self.proxy.control.clock.now(),
            is_tunnel: false,
            calls: None,
        }
    }
}
