//! The own app's way to one service, whose exact identity must answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use postern_proto::identity::VerifiedSvid;
use postern_proto::mtls::{Admission, Denial, Exactly, Judge, Verdict, client_config, server_name};
use rustls::Error as TlsError;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::{Outbound, Target};
use crate::ending::reset_on_close;
use crate::holder::in_one_line;
use crate::listen::Serve;
use crate::live::{Facts, Registration};
use crate::metrics::Direction;
use crate::plane::Plane;
use crate::refusals::Refusal;
use crate::relay::{RelayError, relay};
use crate::upstream::connect;

/// Serves the app's connections to one service.
#[derive(Debug)]
pub struct OutboundServer {
    plane: Arc<Plane>,
    index: usize,
    outbound: Outbound,
    name: String,
}

impl OutboundServer {
    pub fn new(plane: Arc<Plane>, index: usize, outbound: Outbound) -> Self {
        let name = outbound.target.to_string();
        Self { plane, index, outbound, name }
    }
}

impl Serve for OutboundServer {
    fn direction(&self) -> Direction {
        Direction::Outbound
    }

    fn name(&self) -> &str {
        &self.name
    }

    async fn serve(self: Arc<Self>, mut app: TcpStream, _: SocketAddr, abort: CancellationToken) {
        let registration = Arc::new(self.plane.register.enter(Facts {
            direction: Direction::Outbound,
            listener: self.index,
            service: self.name.clone(),
            peer: None,
            since: self.plane.clock.now(),
        }));
        // Boxed, so that the handshake's state is gone while bytes are relayed.
        let dialled = tokio::select! {
            dialled = Box::pin(self.dial(registration.clone())) => dialled,
            () = abort.cancelled() => None,
        };
        let Some(mut tls) = dialled else { return reset_on_close(&app) };
        let ended = tokio::select! {
            ended = relay(&mut app, &mut tls, &registration.bytes) => ended,
            () = registration.cut.cancelled() => Err(RelayError::Peer(io::ErrorKind::ConnectionAborted.into())),
            () = abort.cancelled() => Err(RelayError::Peer(io::ErrorKind::ConnectionAborted.into())),
        };
        if let Err(error) = ended {
            self.tell_alert(&error);
            reset_on_close(&app);
            reset_on_close(tls.get_ref().0);
        }
    }
}

impl OutboundServer {
    /// Reaches the service and demands its identity; why it is not reached is told.
    async fn dial(&self, registration: Arc<Registration>) -> Option<TlsStream<TcpStream>> {
        match self.try_dial(registration).await {
            Ok(tls) => Some(tls),
            Err(denial) => {
                self.tell(denial.code, denial.detail, None);
                None
            }
        }
    }

    async fn try_dial(&self, registration: Arc<Registration>) -> Result<TlsStream<TcpStream>, Denial> {
        let credentials = self.plane.valid_credentials()?;
        let limits = &self.plane.config.limits;
        self.plane.expected(&self.outbound.target)?;
        let stream = connect(&self.outbound.to, limits.connect_timeout)
            .await
            .map_err(|error| Denial { code: "unreachable", detail: in_one_line(&error) })?;
        let far = stream.peer_addr().map_or_else(|_| "a peer".to_owned(), |address| address.to_string());
        let target = self.outbound.target.clone();
        let door = Door { plane: self.plane.clone(), target, registration };
        let judge = Arc::new(Judge::new(credentials.bundles.clone(), Arc::new(door)));
        let config = client_config(Some(&credentials.tls), judge.clone(), &[])
            .map_err(|error| Denial { code: "tls_config", detail: error.to_string() })?;
        let connecting = TlsConnector::from(config).connect(server_name(), stream);
        match tokio::time::timeout(limits.handshake_timeout, connecting).await {
            Ok(Ok(tls)) => Ok(tls),
            Ok(Err(error)) => Err(why(&error, judge.verdict(), &far)),
            Err(_) => {
                let detail =
                    format!("{far} did not finish the handshake within {:?}", limits.handshake_timeout);
                Err(Denial { code: "handshake_timeout", detail })
            }
        }
    }

    /// In TLS 1.3 a server's refusal comes after the client's handshake is done: as an alert while bytes are relayed.
    fn tell_alert(&self, error: &RelayError) {
        let RelayError::Peer(error) = error else { return };
        let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        let Some(TlsError::AlertReceived(alert)) = alert else { return };
        let reason = match alert {
            rustls::AlertDescription::AccessDenied => "peer_denied",
            _ => "peer_refused",
        };
        let detail = format!(
            "{} answered with the TLS alert {alert:?}: its policy lets no rule apply to this caller, or it does not \
             believe our certificate",
            self.name
        );
        self.tell(reason, detail, Some(self.explain()));
    }

    fn tell(&self, reason: &'static str, detail: String, explain: Option<String>) {
        let own = self.plane.credentials.current().map(|credentials| credentials.svid.id().to_string());
        let to = match self.plane.expected(&self.outbound.target) {
            Ok(id) => format!("{} ({id})", self.name),
            Err(_) => self.name.clone(),
        };
        let from = own.unwrap_or_else(|| "this sidecar, which has no identity yet".to_owned());
        self.plane.refusals.tell(Refusal {
            direction: Direction::Outbound,
            from,
            to,
            reason,
            detail,
            explain,
        });
    }

    fn explain(&self) -> String {
        let policy = self.plane.policy.current();
        let file = policy.as_ref().map_or("POLICY", |policy| policy.file());
        let own = self.plane.credentials.current();
        let own = own.as_ref().map_or("OWN_ID", |credentials| credentials.svid.id().as_str());
        format!("postern-ca policy explain {file} --from {own} --to {}", self.name)
    }
}

fn why(error: &io::Error, verdict: Option<&Verdict>, far: &str) -> Denial {
    match verdict {
        Some(Verdict::Denied(_, denial)) => {
            Denial { code: denial.code, detail: format!("{far} is not who was called: {}", denial.detail) }
        }
        Some(Verdict::Unverified(refused)) => {
            Denial { code: refused.code(), detail: format!("the certificate of {far} is refused: {refused}") }
        }
        _ => Denial {
            code: "handshake_failed",
            detail: format!("no TLS handshake with {far}: {}", in_one_line(error)),
        },
    }
}

/// Lets in exactly the service that was called.
#[derive(Debug)]
struct Door {
    plane: Arc<Plane>,
    target: Target,
    registration: Arc<Registration>,
}

impl Admission for Door {
    fn admit(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        // First known to the register, then asked again whom the policy names now.
        self.registration.identify(peer);
        Exactly(self.plane.expected(&self.target)?).admit(peer)
    }
}
