//! Reports why a service was not reached: own identity, service, address and reason.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use postern_proto::mtls::{Denial, Verdict};
use postern_proto::policy::{Policy, Port, may_connect};
use postern_server::lingering_close;
use rustls::{AlertDescription, Error as TlsError};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

use super::PeerDialer;
use super::dial::SILENT_CLOSE_TRIES_MAX;
use super::slots::HANDSHAKES_PER_ADDRESS_MAX;
use crate::config::Target;
use crate::error_text::one_line;
use crate::network::socket::alert_in;
use crate::network::{ConnectError, Unreached};
use crate::observability::Direction;
use crate::observability::metrics::DialResult;
use crate::observability::refusals::{Called, Refusal, explain_command};
use crate::proxy::tls::TlsStream;

/// The only refusal by a peer that concerns the peer itself, not the client.
pub(in crate::proxy) const PEER_FAILED: &str = "peer_failed";
/// Reads of a broken connection in search of the peer's alert.
const ALERT_READS_MAX: usize = 64;
const LAST_WORD_READ_BYTES: usize = 1024;

/// How a handshake failed.
#[derive(Debug)]
pub(in crate::proxy) enum Failure {
    Config(TlsError),
    /// We refused the peer.
    Judged {
        verdict: Verdict,
        stream: TcpStream,
    },
    /// The peer refused us, or is no TLS server.
    Handshake(io::Error),
    TooLate(Duration),
    /// Connecting failed.
    Unreached(ConnectError),
}

impl Failure {
    /// Whether the server closed the connection without an alert.
    pub(in crate::proxy) fn closed_silently(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Self::Handshake(error) if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
    }

    /// Whether the server insists on its own protocol choice (RFC 7301 §3.2).
    pub(in crate::proxy) fn is_about_alpn(&self) -> bool {
        match self {
            Self::Handshake(error) => {
                crate::network::socket::alert_in(error)
                    == Some(rustls::AlertDescription::NoApplicationProtocol)
            }
            _ => false,
        }
    }

    /// The result that the metrics count.
    pub(in crate::proxy) fn dial_result(&self) -> DialResult {
        match self {
            Self::Config(_) => DialResult::LocalFault,
            Self::Judged { .. } => DialResult::Refused,
            Self::Handshake(error) if alert_in(error).is_some() => DialResult::Refused,
            Self::Handshake(_) | Self::TooLate(_) => DialResult::Failed,
            Self::Unreached(error) => error.dial_result(),
        }
    }
}

impl PeerDialer {
    pub(in crate::proxy) fn report_all(&self, refused: Vec<Refusal>) {
        refused.into_iter().for_each(|refusal| self.proxy.refusals.tell(refusal));
    }

    pub(in crate::proxy) async fn of_failure(&self, failure: Failure, address: SocketAddr) -> Refusal {
        match failure {
            Failure::Config(error) => self.refusal("tls_config", one_line(&error), Some(address), None),
            Failure::Unreached(error) => self.refusal("unreachable", one_line(&error), Some(address), None),
            Failure::TooLate(limit) => {
                let detail = format!("{address} did not finish the handshake within {limit:?}");
                self.refusal("handshake_timeout", detail, Some(address), None)
            }
            failure if failure.closed_silently() => {
                let detail = format!(
                    "{address} ended {SILENT_CLOSE_TRIES_MAX} connections in their handshakes without a word, as a sidecar does \
                     that has reached a limit (handshakes_pending_max, connections_max): its own log says which"
                );
                self.refusal("handshake_failed", detail, Some(address), None)
            }
            Failure::Handshake(error) => match alert_in(&error) {
                Some(alert) => self.of_alert(alert, address),
                None => {
                    let detail = format!("no TLS handshake with {address}: {}", one_line(&error));
                    self.refusal("handshake_failed", detail, Some(address), None)
                }
            },
            Failure::Judged { verdict, stream } => {
                let (reason, detail) = of_verdict(&verdict, address);
                lingering_close(stream).await;
                self.refusal(reason, detail, Some(address), None)
            }
        }
    }

    /// There was no progress at this address.
    pub(in crate::proxy) fn stalled_refusal(&self, address: SocketAddr) -> Refusal {
        let patience = self.proxy.control.config.limits.connect_timeout;
        let detail = format!(
            "{HANDSHAKES_PER_ADDRESS_MAX} handshakes with {address} are under way, as many as are made at a time, and for \
             {patience:?} neither has one succeeded nor a tunnel become free"
        );
        self.refusal("handshakes_per_address", detail, Some(address), None)
    }

    pub(crate) fn denial_refusal(&self, denial: Denial) -> Refusal {
        self.refusal(denial.code, denial.detail, None, None)
    }

    /// The addresses that could not be connected to, if any.
    pub(in crate::proxy) fn unreached_refusal(&self, unreached: &Unreached) -> Option<Refusal> {
        let any = !unreached.errors.is_empty();
        any.then(|| self.refusal("unreachable", unreached.to_string(), None, None))
    }

    /// Reads the alert that the peer sent before closing. A write may have failed before it was read.
    pub(in crate::proxy) async fn read_alert(
        &self,
        tls: &mut TlsStream,
        error: &io::Error,
        address: SocketAddr,
    ) -> Option<Refusal> {
        let alert = match alert_in(error) {
            Some(alert) => Some(alert),
            None => read_alert(tls).await,
        };
        alert.map(|alert| self.of_alert(alert, address))
    }

    pub(crate) fn of_alert(&self, alert: AlertDescription, address: SocketAddr) -> Refusal {
        let (reason, meaning) = meaning_of(alert);
        let detail = format!("{address} refused us with the TLS alert {alert:?}: {meaning}");
        match alert {
            AlertDescription::AccessDenied => self.with_local_decision(reason, detail, address),
            _ => self.refusal(reason, detail, Some(address), None),
        }
    }

    /// A refusal by the server's policy, with the decision of the local policy. The command to run never comes from
    /// the peer.
    pub(in crate::proxy) fn with_local_decision(
        &self,
        reason: &'static str,
        mut detail: String,
        address: SocketAddr,
    ) -> Refusal {
        let (verdict, explain) = self.local_decision().unzip();
        if let Some(verdict) = verdict.flatten() {
            detail = format!("{detail}; {verdict}");
        }
        self.refusal(reason, detail, Some(address), explain)
    }

    /// The decision of the local policy on the same question, and the command that explains it. A slice from the CA
    /// has no rules of other services, so then only the command can answer.
    fn local_decision(&self) -> Option<(Option<String>, String)> {
        let (policy, credentials) =
            (self.proxy.control.policy.current()?, self.proxy.control.credentials.current()?);
        let (own, expected) =
            (credentials.svid.id(), self.proxy.control.expected(&self.outbound.target).ok()?);
        let mut ports =
            policy.service_with(&expected).and_then(|service| service.ports()).into_iter().flatten();
        let first = ports.next().map(|(name, protocol)| Port { name, protocol });
        // The port is known only if the service has a single one.
        let port = match &self.outbound.port {
            Some(name) => Some(Port { name, protocol: self.outbound.protocol }),
            None => first.filter(|_| ports.next().is_none()),
        };
        let asked = port.or(first).unwrap_or(Port { name: "any", protocol: self.outbound.protocol });
        let decision = may_connect(&policy, own, &expected, asked, self.proxy.control.clock.now());
        let verdict = format!("by the policy here ({}): {}", policy.digest(), decision.reason());
        let verdict = policy.version().is_none().then_some(verdict);
        let to = self.outbound.target.to_string();
        Some((verdict, explain_command(Some(&policy), own.as_str(), &to, port.map(|port| port.name))))
    }

    pub(crate) fn refusal(
        &self,
        reason: &'static str,
        detail: String,
        address: Option<SocketAddr>,
        explain: Option<String>,
    ) -> Refusal {
        let own =
            self.proxy.control.credentials.current().map(|credentials| credentials.svid.id().to_string());
        let from = own.unwrap_or_else(|| "this sidecar, which has no identity yet".to_owned());
        let (direction, called) = (Direction::Outbound, self.called(address));
        Refusal { direction, from, called, reason, detail, explain, instance: None }
    }

    pub(in crate::proxy) fn called(&self, address: Option<SocketAddr>) -> Called {
        let policy = self.proxy.control.policy.current();
        let id = self.proxy.control.expected(&self.outbound.target).ok();
        let service = match &self.outbound.target {
            Target::Service(name) => Some(name.clone()),
            Target::Id(id) => {
                policy.as_deref().and_then(|policy: &Policy| policy.service_of(id)).map(str::to_owned)
            }
        };
        let address = address.map(|address| address.to_string());
        Called { id: id.map(|id| id.to_string()), service, port: None, address }
    }
}

fn of_verdict(verdict: &Verdict, address: SocketAddr) -> (&'static str, String) {
    match verdict {
        Verdict::Denied(_, denial) => {
            (denial.code, format!("{address} is not who was called: {}", denial.detail))
        }
        Verdict::Unverified(error) => {
            (error.code(), format!("the certificate of {address} is refused: {error}"))
        }
        Verdict::Admitted(_) | Verdict::WrongPin { .. } => {
            ("handshake_failed", format!("{address} was believed, but its handshake did not hold"))
        }
    }
}

/// The reason code and description of an alert (RFC 8446 §6.2).
fn meaning_of(alert: AlertDescription) -> (&'static str, &'static str) {
    match alert {
        AlertDescription::AccessDenied => ("access_denied", "its policy does not let this caller in"),
        AlertDescription::CertificateExpired => (
            "certificate_expired",
            "it takes our certificate for expired: compare the clocks of both machines",
        ),
        AlertDescription::UnknownCA => ("unknown_ca", "it does not trust the root of our certificate"),
        AlertDescription::CertificateRequired => {
            ("certificate_required", "it has seen no certificate of ours")
        }
        AlertDescription::CertificateRevoked => {
            ("certificate_revoked", "it knows our identity to be revoked")
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => {
            ("certificate_refused", "it does not believe our certificate")
        }
        AlertDescription::HandshakeFailure => (
            "peer_limit",
            "it has as many connections of our identity as its connections_per_peer_max allows, or no algorithm in common \
             with us: its own log says which",
        ),
        AlertDescription::InternalError => {
            (PEER_FAILED, "it cannot serve anybody now: its own status says why")
        }
        _ => ("peer_alert", "it broke off"),
    }
}

/// The alert among the received data, if there is one.
async fn read_alert(tls: &mut TlsStream) -> Option<AlertDescription> {
    let mut scratch = [0; LAST_WORD_READ_BYTES];
    poll_fn(|cx| {
        for _ in 0..ALERT_READS_MAX {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *tls).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(Err(error)) => return Poll::Ready(alert_in(&error)),
                Poll::Ready(Ok(())) | Poll::Pending => return Poll::Ready(None),
            }
        }
        Poll::Ready(None)
    })
    .await
}
