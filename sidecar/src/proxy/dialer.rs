//! Reaching a service: its addresses are dialled, and whoever answers must prove the identity that was called.

mod dial;
mod refused;
mod slots;

use std::sync::Arc;

use super::connections::Facts;
use super::state::ProxyState;
use super::upstream::Upstreams;
use crate::config::Outbound;
use crate::observability::Direction;
pub(super) use dial::{Found, PeerDialError, Reached};
pub(super) use refused::PEER_FAILED;
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

    /// What the register knows of a connection before its peer is known.
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
