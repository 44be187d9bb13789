//! Sidecars under test: the whole data plane with an identity and a policy put in place by the test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::{SpiffeId, Svid};
use postern_proto::policy::{Policy, Protocol};
use postern_sidecar::clock::{Clock, SystemClock};
use postern_sidecar::config::{
    AccessLogConfig, AppHttp, Config, HostPort, Http, IdentitySource, Inbound, Limits, Log, Outbound,
    ProxyProtocol, Shutdown, Target, TellCallers, Tunnels,
};
use postern_sidecar::network::resolver::NameServers;
use postern_sidecar::observability::access_log::AccessLog;
use postern_sidecar::proxy::inbound::InboundServer;
use postern_sidecar::proxy::listener::{self, Families, ShutdownTokens};
use postern_sidecar::proxy::outbound::OutboundServer;
use postern_sidecar::proxy::state::ProxyState;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, Validity, id};

/// A test that waits longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// `orders` may call `payments`, `reports` may not.
pub const POLICY: &str = r#"trust_domain = "shop.example"

[service.payments]
ports = { api = "tcp" }

[[service.payments.allow]]
from = ["orders"]
port = "api"

[service.orders]
[service.reports]
"#;

/// The labels of the listeners.
pub const INBOUND: &str = r#"direction="inbound",listener="api""#;
pub const OUTBOUND: &str = r#"direction="outbound",listener="payments""#;
/// No TCP connection can be made to all of the network: the kernel has no route for it.
pub const NO_ROUTE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::BROADCAST), 1);

/// Where nobody listens.
pub fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub struct Sidecar {
    pub proxy: Arc<ProxyState>,
    /// Where peers reach it, if it has an inbound.
    pub inbound: Option<SocketAddr>,
    /// Where its app reaches the other service, if it has an outbound.
    pub outbound: Option<SocketAddr>,
    pub stop: CancellationToken,
    pub abort: CancellationToken,
    tasks: JoinSet<()>,
}

/// What a sidecar starts with.
pub struct Spec {
    pub svid: Option<Svid>,
    pub policy: Option<&'static str>,
    pub limits: Limits,
    pub http: Http,
    pub protocol: Protocol,
    pub app_http: AppHttp,
    pub tell_callers: TellCallers,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub access_log: Option<AccessLogConfig>,
    pub identity: IdentitySource,
    pub policy_file: Option<PathBuf>,
    pub clock: Arc<dyn Clock>,
    pub admin: SocketAddr,
    /// Where the inbound listens.
    pub listen: SocketAddr,
    pub app: Option<HostPort>,
    pub to: Vec<HostPort>,
    pub name_servers: NameServers,
    target: Target,
}

impl Spec {
    pub fn new(authority: &Authority, name: &str) -> Self {
        let validity = Validity::of(time::Duration::hours(1), OffsetDateTime::now_utc());
        Self {
            svid: Some(authority.svid(&id(name), validity)),
            policy: Some(POLICY),
            limits: Limits::default(),
            http: Http::default(),
            protocol: Protocol::Tcp,
            app_http: AppHttp::default(),
            tell_callers: TellCallers::default(),
            proxy_protocol: None,
            access_log: None,
            identity: IdentitySource::Files {
                svid: Path::new("svid.pem").to_owned(),
                key: Path::new("key.pem").to_owned(),
                bundle: Path::new("bundle.pem").to_owned(),
            },
            policy_file: None,
            clock: Arc::new(SystemClock),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            app: None,
            to: Vec::new(),
            name_servers: NameServers::default(),
            target: Target::Service("payments".to_owned()),
        }
    }

    /// With an inbound `api` to this app.
    pub fn app(mut self, app: SocketAddr) -> Self {
        self.app = Some(host_port(app));
        self
    }

    /// With an outbound to these addresses of `payments`.
    pub fn to(mut self, to: &[SocketAddr]) -> Self {
        self.to = to.iter().copied().map(host_port).collect();
        self
    }

    /// With an outbound to where this name leads, by the word of these name servers.
    pub fn calling(mut self, host: &str, port: u16, name_servers: NameServers) -> Self {
        self.to = vec![HostPort { host: host.to_owned(), port }];
        self.name_servers = name_servers;
        self
    }

    /// Whose outbound demands exactly this identity.
    pub fn expecting(mut self, id: SpiffeId) -> Self {
        self.target = Target::Id(id);
        self
    }

    pub fn start(self, authority: &Authority) -> Sidecar {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let inbound = self.app.map(|app| Inbound {
            name: "api".to_owned(),
            listen: self.listen,
            app,
            protocol: self.protocol,
            app_http: self.app_http,
            tell_callers: self.tell_callers,
            proxy_protocol: self.proxy_protocol,
        });
        let outbound = (!self.to.is_empty()).then_some(Outbound {
            port: None,
            listen: any,
            target: self.target,
            to: self.to,
            protocol: self.protocol,
        });
        let config = Config {
            tunnels: Tunnels::default(),
            identity: self.identity,
            inbounds: inbound.into_iter().collect(),
            outbounds: outbound.into_iter().collect(),
            policy_file: self.policy_file,
            admin: self.admin,
            limits: self.limits,
            http: self.http,
            shutdown: Shutdown::default(),
            restart: None,
            log: Log::default(),
            access_log: self.access_log,
        };
        let mut proxy = ProxyState::new(config, self.clock);
        Arc::get_mut(&mut proxy.control).unwrap().name_servers = self.name_servers;
        if let Some(AccessLogConfig { to, lines_waiting_max }) = &proxy.control.config.access_log {
            proxy.access_log = AccessLog::open(to, *lines_waiting_max).unwrap();
        }
        let proxy = Arc::new(proxy);
        if let Some(svid) = self.svid {
            proxy.control.credentials.replace(svid, Arc::new(authority.bundles())).unwrap();
        }
        let sidecar = Sidecar::run(proxy);
        if let Some(policy) = self.policy {
            sidecar.apply(policy);
        }
        sidecar
    }
}

impl Sidecar {
    fn run(proxy: Arc<ProxyState>) -> Self {
        let (stop, abort, mut tasks) = (CancellationToken::new(), CancellationToken::new(), JoinSet::new());
        tasks.spawn(proxy.clone().watch(abort.clone()));
        let open = |address| {
            let listener: TcpListener = listener::open(address, Families::Own).unwrap();
            (listener.local_addr().unwrap(), listener)
        };
        let inbound = proxy.control.config.inbounds.first().map(|inbound| {
            let (address, listener) = open(inbound.listen);
            let server = Arc::new(InboundServer::new(proxy.clone(), 0, inbound.clone()));
            tasks.spawn(listener::run(
                listener,
                server,
                proxy.clone(),
                ShutdownTokens { stop: stop.clone(), abort: abort.clone() },
            ));
            address
        });
        let outbound = proxy.control.config.outbounds.first().map(|outbound| {
            let (address, listener) = open(outbound.listen);
            let server = Arc::new(OutboundServer::new(proxy.clone(), 0, outbound.clone()));
            tasks.spawn(listener::run(
                listener,
                server,
                proxy.clone(),
                ShutdownTokens { stop: stop.clone(), abort: abort.clone() },
            ));
            address
        });
        Self { proxy, inbound, outbound, stop, abort, tasks }
    }

    pub fn apply(&self, policy: &str) {
        let policy = Policy::parse("policy.toml", policy).unwrap_or_else(|problems| panic!("{problems:?}"));
        self.proxy.control.policy.replace(policy, OffsetDateTime::now_utc());
    }

    /// The newest refusal, once there is one with this reason.
    pub async fn refusal(&self, reason: &str) -> Value {
        eventually(&format!("a refusal for {reason}"), || {
            let newest = self.proxy.refusals.newest();
            newest.as_array().unwrap().iter().find(|told| told["reason"] == reason).cloned()
        })
        .await
    }

    /// Active and idle connections of the pools of this listener.
    pub fn pool_connections(&self, listener: &str) -> (u64, u64) {
        let count = |state| self.metric(&format!("postern_pool_connections{{{listener},state=\"{state}\"}}"));
        (count("active"), count("idle"))
    }

    /// Its dials: ok, failed, refused, local fault.
    pub fn pool_dials(&self, listener: &str) -> [u64; 4] {
        ["ok", "failed", "refused", "local_fault"]
            .map(|result| self.metric(&format!("postern_pool_dials_total{{{listener},result=\"{result}\"}}")))
    }

    /// The value of one series.
    pub fn metric(&self, series: &str) -> u64 {
        let text = self.proxy.control.metrics.text().unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
    }

    /// How many connections are live.
    pub fn live(&self) -> u64 {
        self.proxy.register.shown()["live"].as_u64().unwrap()
    }

    /// Waits until all tasks have ended, as they must once no connection is left.
    pub async fn all_ended(mut self) {
        self.stop.cancel();
        let ended = async {
            while self.live() > 0 {
                self.tasks.join_next().await.unwrap().unwrap();
            }
            self.abort.cancel();
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
    }
}

pub fn host_port(address: SocketAddr) -> HostPort {
    HostPort { host: address.ip().to_string(), port: address.port() }
}

/// Asks again and again until there is an answer, for what has no event to wait on.
pub async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}
