//! The listeners of one sidecar: opened all or none, then served.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::config::Config;
use crate::lifecycle::handover::{Key, Kind, Takeover};
use crate::observability::Direction;
use crate::proxy::inbound::InboundServer;
use crate::proxy::listener::{self, Families, ShutdownTokens};
use crate::proxy::outbound::OutboundServer;
use crate::proxy::state::ProxyState;

/// Why a listener is not there.
#[derive(Debug, Error)]
#[error("cannot listen on {address} ({what})")]
pub struct ListenError {
    what: String,
    address: SocketAddr,
    #[source]
    error: io::Error,
}

/// Opened, and not served yet.
pub(super) struct Listeners {
    inbounds: Vec<TcpListener>,
    outbounds: Vec<TcpListener>,
}

pub(super) fn open_admin(takeover: &mut Takeover, config: &Config) -> Result<TcpListener, ListenError> {
    open(takeover, config, (Kind::Admin, String::new(), config.admin))
}

impl Listeners {
    /// Opens all, or takes them over.
    pub(super) fn open(proxy: &ProxyState, takeover: &mut Takeover) -> Result<Self, ListenError> {
        let config = &proxy.control.config;
        let inbounds = config
            .inbounds
            .iter()
            .map(|inbound| open(takeover, config, (Kind::Inbound, inbound.name.clone(), inbound.listen)))
            .collect::<Result<_, _>>()?;
        let outbounds = config
            .outbounds
            .iter()
            .map(|outbound| {
                open(takeover, config, (Kind::Outbound, outbound.target.to_string(), outbound.listen))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { inbounds, outbounds })
    }

    /// Accepts on all of them.
    pub(super) fn serve(self, proxy: &Arc<ProxyState>, until: &ShutdownTokens) -> JoinSet<()> {
        let config = &proxy.control.config;
        let mut tasks = JoinSet::new();
        for (index, (listener, inbound)) in self.inbounds.into_iter().zip(&config.inbounds).enumerate() {
            note(proxy, Direction::Inbound, index, &listener);
            let server = Arc::new(InboundServer::new(proxy.clone(), index, inbound.clone()));
            tasks.spawn(listener::run(listener, server, proxy.clone(), until.clone()));
        }
        for (index, (listener, outbound)) in self.outbounds.into_iter().zip(&config.outbounds).enumerate() {
            note(proxy, Direction::Outbound, index, &listener);
            let server = Arc::new(OutboundServer::new(proxy.clone(), index, outbound.clone()));
            tasks.spawn(listener::run(listener, server, proxy.clone(), until.clone()));
        }
        tasks
    }
}

/// `/status` shows where it really listens.
fn note(proxy: &ProxyState, direction: Direction, index: usize, listener: &TcpListener) {
    match listener.local_addr() {
        Ok(address) => proxy.listening.enter(direction, index, address),
        Err(error) => error!(%error, direction = direction.as_str(), "a listener has no address"),
    }
}

fn open(
    takeover: &mut Takeover,
    config: &Config,
    (kind, name, address): (Kind, String, SocketAddr),
) -> Result<TcpListener, ListenError> {
    let key = Key { kind, name, address };
    let what = key.to_string();
    let families = Families::of(address, config.listen_addresses());
    let opened = takeover.listener(key, families).and_then(|listener| {
        let address = listener.local_addr()?;
        info!(what, %address, ipv4_callers = address.is_ipv4() || families == Families::Both, "opened");
        Ok(listener)
    });
    opened.map_err(|error| ListenError { what, address, error })
}
