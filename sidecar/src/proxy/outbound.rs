//! The outbound server: connects the own app to one service and verifies its exact identity.

mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::policy::Protocol;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::config::Outbound;
use crate::network::socket::{close_cleanly, reset_on_close};
use crate::observability::Direction;
use crate::observability::refusals::Called;
use crate::proxy::connection_recorder::ConnectionRecorder;
use crate::proxy::connections::Registration;
use crate::proxy::connections::RelayError;
use crate::proxy::dialer::{PEER_FAILED, PeerDialer};
use crate::proxy::http::HttpOutbound;
use crate::proxy::listener::{Serve, ShutdownTokens};
use crate::proxy::relay::relay;
use crate::proxy::state::ProxyState;
use crate::proxy::tls::TlsStream;
use crate::proxy::tunnel::Pool;
use crate::proxy::upstream::SelectedAddress;

/// How long the outbound waits, when it stops, for peers of retired tunnels to close.
const RETIRED_AT_THE_END_TIMEOUT: Duration = Duration::from_secs(1);
/// The polling interval of that wait.
const RETIRED_LOOK_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct OutboundServer {
    dialer: Arc<PeerDialer>,
    /// Set if `protocol = "http"`.
    http: Option<HttpOutbound>,
    /// Idle tunnels.
    pool: Arc<Pool>,
}

impl OutboundServer {
    pub fn new(proxy: Arc<ProxyState>, index: usize, outbound: Outbound) -> Self {
        let dialer = Arc::new(PeerDialer::new(proxy, index, outbound));
        let pool = dialer.proxy.pool(&dialer.upstreams.series);
        let http = (dialer.outbound.protocol == Protocol::Http)
            .then(|| HttpOutbound::new(dialer.upstreams.clone(), &dialer.proxy.control.config.http));
        Self { dialer, http, pool }
    }
}

impl Serve for OutboundServer {
    fn direction(&self) -> Direction {
        Direction::Outbound
    }

    fn called(&self) -> Called {
        self.dialer.called(None)
    }

    fn serve(
        self: Arc<Self>,
        app: TcpStream,
        from: SocketAddr,
        until: &ShutdownTokens,
    ) -> impl Future<Output = ()> + Send + use<> {
        let until = until.clone();
        // Only connections to peers are registered. Over HTTP, many app connections share one.
        let registration = self
            .http
            .is_none()
            .then(|| Arc::new(self.dialer.proxy.register.enter(self.dialer.facts(), &until.abort)));
        async move {
            match (&self.http, registration) {
                // Boxed, so that a connection of `tcp` does not have its size.
                (Some(http), _) => Box::pin(http.serve(&self.dialer, app, until)).await,
                (None, Some(registration)) => {
                    let _told_at_the_end = ConnectionRecorder::new(self.clone(), registration.clone(), from);
                    reset_on_close(&app);
                    self.forward(app, &registration).await;
                }
                (None, None) => {}
            }
        }
    }

    fn proxy(&self) -> &ProxyState {
        &self.dialer.proxy
    }

    fn speaks_http(&self) -> bool {
        self.http.is_some()
    }

    fn maintain(&self) {
        self.maintain_pool();
        self.dialer.slots.forget_unused();
        if let Some(http) = &self.http {
            http.maintain(&self.dialer);
        }
    }

    async fn run_background(&self, over: CancellationToken) {
        self.dialer.upstreams.run_background(over).await;
    }

    async fn end(&self) {
        self.pool.retire(|_| false);
        let closed = async {
            let mut look = tokio::time::interval(RETIRED_LOOK_INTERVAL);
            while !self.pool.close_retired() {
                look.tick().await;
            }
        };
        if tokio::time::timeout(RETIRED_AT_THE_END_TIMEOUT, closed).await.is_err() {
            tracing::debug!("peers have not ended the tunnels that were retired");
        }
        if let Some(http) = &self.http {
            http.end().await;
        }
    }
}

impl OutboundServer {
    /// Carries one connection of the app in plain mTLS.
    async fn forward_direct(
        &self,
        mut app: TcpStream,
        mut tls: TlsStream,
        mut leased: SelectedAddress,
        registration: &Arc<Registration>,
    ) {
        reset_on_close(tls.tcp());
        registration.established();
        match relay(&mut app, &mut tls, &registration.traffic).await {
            Ok(()) => {
                registration.ended();
                close_cleanly(&app);
                close_cleanly(tls.tcp());
            }
            // In TLS 1.3 a server's refusal arrives after the client's handshake is complete, while bytes are
            // relayed.
            Err(RelayError::Peer(error)) => {
                match self.dialer.read_alert(&mut tls, &error, leased.address()).await {
                    Some(refusal) => {
                        if refusal.reason == PEER_FAILED {
                            leased.failed();
                        }
                        registration.record(|record| record.refused(refusal.reason, &refusal.detail));
                        self.dialer.proxy.refusals.tell(refusal);
                    }
                    None => registration.failed_with(&RelayError::Peer(error)),
                }
            }
            Err(error) => registration.failed_with(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_proto::policy::Protocol;

    use super::*;
    use crate::clock::SystemClock;
    use crate::config::{Config, HostPort, Target};

    /// A waiting connection holds its task, so what is needed only at its beginning and end must not be part of the
    /// task.
    #[tokio::test]
    async fn the_task_of_a_connection_is_small() {
        let text = "[identity]\nsvid_file = \"a\"\nkey_file = \"b\"\nbundle_file = \"c\"\n";
        let config = Config::parse("sidecar.toml".as_ref(), text).unwrap();
        let proxy = Arc::new(ProxyState::new(config, Arc::new(SystemClock)));
        let nobody = HostPort { host: "127.0.0.1".to_owned(), port: 1 };
        let outbound = Outbound {
            listen: ([127, 0, 0, 1], 0).into(),
            target: Target::Service("payments".to_owned()),
            to: vec![nobody],
            protocol: Protocol::Tcp,
            port: None,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = Arc::new(OutboundServer::new(proxy, 0, outbound));
        let from = listener.local_addr().unwrap();
        let task = server.serve(stream, from, &ShutdownTokens::default());
        assert!(size_of_val(&task) <= TASK_BYTES_MAX, "{}", size_of_val(&task));
    }

    const TASK_BYTES_MAX: usize = 1_536;
}
