//! The admin endpoint: read-only HTTP on loopback, without secrets.

mod readiness;
mod serve;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{Config, HostPort, IdentitySource, ProxyProtocol};
use crate::identity::IdentityStatus;
use crate::observability::Direction;
use crate::observability::metrics::ExternalValues;
use crate::proxy::listener::ShutdownTokens;
use crate::proxy::state::ProxyState;

pub use serve::{CONNECTION_LIFE_MAX, CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADER_TIMEOUT};

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The phase of the process lifecycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Listeners are not open yet.
    Starting,
    Serving,
    /// The process is shutting down.
    Ending,
}

/// The state that the endpoints show.
#[derive(Debug, Clone)]
pub struct Admin {
    pub proxy: Arc<ProxyState>,
    pub identity: watch::Receiver<IdentityStatus>,
    pub phase: watch::Receiver<Phase>,
    pub log_lines_dropped: LogLinesDropped,
}

/// A counter of log lines that were dropped because their queue was full.
#[derive(Clone)]
pub struct LogLinesDropped(pub Arc<dyn Fn() -> usize + Send + Sync>);

impl std::fmt::Debug for LogLinesDropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogLinesDropped")
    }
}

impl Admin {
    /// Serves new connections until `until.stop`, and open ones until `until.abort`.
    pub async fn run(self, listener: TcpListener, until: ShutdownTokens) {
        let admin = Arc::new(self);
        let routes = Router::new()
            .route("/live", get(async || "live\n"))
            .route("/ready", get(readiness::ready))
            .route("/metrics", get(metrics))
            .route("/status", get(async |State(admin): State<Arc<Self>>| Json(admin.status())))
            .route(
                "/connections",
                get(async |State(admin): State<Arc<Self>>| Json(admin.proxy.connections())),
            )
            .route(
                "/config",
                get(async |State(admin): State<Arc<Self>>| Json(config_json(&admin.proxy.control.config))),
            )
            .layer(from_fn_with_state(admin.clone(), local_only))
            .with_state(admin);
        serve::serve(listener, routes, until).await;
    }

    fn status(&self) -> Value {
        let missing = self.missing();
        let identity = self.identity.borrow().clone();
        let config = &self.proxy.control.config;
        let (begun, live) = self.proxy.control.metrics.connections();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ready": missing.is_empty(),
            "missing": missing,
            "identity": identity,
            "policy": self.proxy.control.policy.status(),
            "unenforceable": self.proxy.control.unenforceable(),
            "subscription": *self.proxy.control.subscription.borrow(),
            "revoked": self.proxy.control.revoked.current().len(),
            "inbounds": self.with_upstreams(Direction::Inbound, config.inbounds.iter().map(inbound_json)),
            "outbounds": self.with_upstreams(Direction::Outbound, config.outbounds.iter().map(outbound_json)),
            "connections": { "live": live, "begun": begun },
            "access_log": access_log_json(&self.proxy),
            "refusals": self.proxy.refusals.newest(),
        })
    }

    /// Adds the actual listen address and the state of its upstreams to each listener.
    fn with_upstreams(&self, direction: Direction, listeners: impl Iterator<Item = Value>) -> Vec<Value> {
        let with = |(at, mut shown): (usize, Value)| {
            if let Some(fields) = shown.as_object_mut() {
                fields.insert("upstreams".to_owned(), self.proxy.upstreams.shown(direction, at));
                if let Some(address) = self.proxy.listening.of(direction, at) {
                    fields.insert("listen".to_owned(), json!(address));
                }
            }
            shown
        };
        listeners.enumerate().map(with).collect()
    }

    fn metrics(&self) -> Result<String, std::fmt::Error> {
        let metrics = &self.proxy.control.metrics;
        metrics.tunnels_idle(self.proxy.pools.idle());
        let (access_log_lines_dropped, access_log_lines_failed) = self.proxy.access_log.lost_lines();
        let identity = self.identity.borrow();
        metrics.record_external(&ExternalValues {
            svid_not_after: identity.not_after,
            svid_rotations: identity.rotations,
            log_lines_dropped: u64::try_from((self.log_lines_dropped.0)()).unwrap_or(u64::MAX),
            access_log_lines_dropped,
            access_log_lines_failed,
        });
        drop(identity);
        metrics.text()
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let proxy = admin.proxy.clone();
    // Counting 10,000 descriptors takes milliseconds, so it must not block a worker thread.
    if let Err(error) = tokio::task::spawn_blocking(move || proxy.measure()).await {
        tracing::error!(%error, "the levels cannot be measured");
    }
    match admin.metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Protects against web pages that read the endpoint through a browser: refuses requests with an Origin, and requests
/// whose Host is a name (DNS rebinding).
async fn local_only(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let own = admin.proxy.control.config.admin;
    let headers = request.headers();
    let ours = headers
        .get_all(header::HOST)
        .iter()
        .all(|host| host.to_str().is_ok_and(|host| is_local_host(host, own)));
    if headers.contains_key(header::ORIGIN) || !ours {
        let rule = format!(
            "this endpoint is for operators on this host: send no Origin, and no Host or one that is an address of this \
             host, as in \"Host: {own}\" or \"Host: localhost\"\n"
        );
        return (StatusCode::FORBIDDEN, rule).into_response();
    }
    next.run(request).await
}

/// Whether a Host is this machine independently of DNS: an address or `localhost`.
fn is_local_host(host: &str, own: SocketAddr) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, port)| match port.parse::<u16>() {
        Ok(_) => name,
        Err(_) => host,
    });
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_ours = |address: IpAddr| {
        let address = address.to_canonical();
        address.is_loopback() || address == own.ip().to_canonical() || own.ip().is_unspecified()
    };
    // Hosts are compared case-insensitively (RFC 9110 §4.2.3).
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(is_ours)
}

fn inbound_json(inbound: &crate::config::Inbound) -> Value {
    json!({
        "name": inbound.name,
        "listen": inbound.listen,
        "app": inbound.app.to_string(),
        "protocol": inbound.protocol.as_str(),
        "proxy_protocol": inbound.proxy_protocol.map(|ProxyProtocol::V2| "v2"),
    })
}

fn outbound_json(outbound: &crate::config::Outbound) -> Value {
    json!({
        "listen": outbound.listen,
        "target": outbound.target.to_string(),
        "to": outbound.to.iter().map(HostPort::to_string).collect::<Vec<_>>(),
        "protocol": outbound.protocol.as_str(),
    })
}

/// The configuration in force, with defaults. It contains the paths of secret files, never their contents.
fn config_json(config: &Config) -> Value {
    let identity = match &config.identity {
        IdentitySource::Ca { ca, join_token, state_dir } => json!({
            "ca": format!("https://{ca}"),
            "join_token": join_token.is_some(),
            "state_dir": state_dir,
        }),
        IdentitySource::Files { svid, key, bundle } => {
            json!({ "svid_file": svid, "key_file": key, "bundle_file": bundle })
        }
    };
    let (limits, shutdown) = (&config.limits, &config.shutdown);
    json!({
        "identity": identity,
        "inbound": config.inbounds.iter().map(inbound_json).collect::<Vec<_>>(),
        "outbound": config.outbounds.iter().map(outbound_json).collect::<Vec<_>>(),
        "policy": { "file": config.policy_file },
        "admin": { "listen": config.admin },
        "limits": {
            "handshakes_pending_max": limits.handshakes_pending_max,
            "handshake_timeout": format!("{:?}", limits.handshake_timeout),
            "connect_timeout": format!("{:?}", limits.connect_timeout),
            "connections_max": limits.connections_max,
            "connections_per_peer_max": limits.connections_per_peer_max,
            "dead_after": format!("{:?}", limits.dead_after),
            "idle_timeout": format!("{:?}", limits.idle_timeout),
            "half_closed_timeout": format!("{:?}", limits.half_closed_timeout),
            "max_connection_age": limits.max_connection_age.show(),
            "peer_series_max": limits.peer_series_max,
        },
        "shutdown": {
            "drain_delay": format!("{:?}", shutdown.drain_delay),
            "drain_deadline": format!("{:?}", shutdown.drain_deadline),
        },
        "restart": config.restart.as_ref().map(|restart| json!({
            "socket": restart.socket,
            "ready_within": format!("{:?}", restart.ready_within),
        })),
    })
}

fn access_log_json(proxy: &ProxyState) -> Value {
    let (dropped, failed) = proxy.access_log.lost_lines();
    json!({ "on": proxy.access_log.is_on(), "lines_dropped": dropped, "lines_failed": failed })
}
