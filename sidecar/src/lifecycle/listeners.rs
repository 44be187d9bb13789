//! The listeners of the sidecar. Either all are opened or the start fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::config::Config;
use crate::lifecycle::handover::{ListenerKey, ListenerKind, Takeover};
use crate::observability::Direction;
use crate::proxy::inbound::InboundServer;
use crate::proxy::listener::{self, Families, ShutdownTokens};
use crate::proxy::outbound::OutboundServer;
use crate::proxy::state::ProxyState;

/// Why a listener could not be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {address} ({what})")]
pub struct ListenError {
    what: String,
    address: SocketAddr,
    #[source]
    error: io::Error,
}

/// Listeners that are open but do not accept yet.
pub(super) struct Listeners {
    inbounds: Vec<TcpListener>,
    outbounds: Vec<TcpListener>,
}

pub(super) fn open_admin(takeover: &mut Takeover, config: &Config) -> Result<TcpListener, ListenError> {
    open(takeover, config, (ListenerKind::Admin, String::new(), config.admin))
}

impl Listeners {
    /// Opens all listeners, or takes them over from the old process.
    pub(super) fn open(proxy: &ProxyState, takeover: &mut Takeover) -> Result<Self, ListenError> {
        let config = &proxy.control.config;
        let inbounds = config
            .inbounds
            .iter()
            .map(|inbound| {
                open(takeover, config, (ListenerKind::Inbound, inbound.name.clone(), inbound.listen))
            })
            .collect::<Result<_, _>>()?;
        let outbounds = config
            .outbounds
            .iter()
            .map(|outbound| {
                open(takeover, config, (ListenerKind::Outbound, outbound.target.to_string(), outbound.listen))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { inbounds, outbounds })
    }

    /// Starts to accept on all listeners.
    pub(super) fn serve(self, proxy: &Arc<ProxyState>, until: &ShutdownTokens) -> JoinSet<()> {
        let config = &proxy.control.config;
        let mut tasks = JoinSet::new();
        for (index, (listener, inbound)) in self.inbounds.into_iter().zip(&config.inbounds).enumerate() {
            record_address(proxy, Direction::Inbound, index, &listener);
            let server = Arc::new(InboundServer::new(proxy.clone(), index, inbound.clone()));
            tasks.spawn(listener::run(listener, server, proxy.clone(), until.clone()));
        }
        for (index, (listener, outbound)) in self.outbounds.into_iter().zip(&config.outbounds).enumerate() {
            record_address(proxy, Direction::Outbound, index, &listener);
            let server = Arc::new(OutboundServer::new(proxy.clone(), index, outbound.clone()));
            tasks.spawn(listener::run(listener, server, proxy.clone(), until.clone()));
        }
        tasks
    }
}

/// Records the actual listen address for `/status`.
fn record_address(proxy: &ProxyState, direction: Direction, index: usize, listener: &TcpListener) {
    match listener.local_addr() {
        Ok(address) => proxy.listening.enter(direction, index, address),
        Err(error) => error!(%error, direction = direction.as_str(), "a listener has no address"),
    }
}

fn open(
    takeover: &mut Takeover,
    config: &Config,
    (kind, name, address): (ListenerKind, String, SocketAddr),
) -> Result<TcpListener, ListenError> {
    let key = ListenerKey { kind, name, address };
    let what = key.to_string();
    let families = Families::of(address, config.listen_addresses());
    let opened = takeover.listener(key, families).and_then(|listener| {
        let address = listener.local_addr()?;
        info!(what, %address, ipv4_callers = address.is_ipv4() || families == Families::Both, "opened");
        Ok(listener)
    });
    opened.map_err(|error| ListenError { what, address, error })
}
