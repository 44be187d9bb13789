//! Reports at which stage an inbound connection was refused, and why.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use postern_proto::identity::SpiffeId;
use postern_proto::mtls::{Denial, Verdict};
use postern_server::HandshakeStage;
use rustls::{Error as TlsError, PeerIncompatible};
use tokio::net::TcpStream;

use super::InboundServer;
use crate::error_text::one_line;
use crate::network::Unreached;
use crate::observability::Direction;
use crate::observability::metrics::HandshakeResult;
use crate::observability::refusals::{Called, Refusal, explain_command};
use crate::proxy::connections::Registration;
use crate::proxy::tls::HandshakeFailure;

/// A refused connection.
#[derive(Debug)]
pub(super) struct RefusedConnection {
    pub(super) stage: Stage,
    /// Set if the peer may still read an alert.
    pub(super) stream: Option<TcpStream>,
}

impl RefusedConnection {
    pub(super) fn at(stage: Stage) -> Self {
        Self { stage, stream: None }
    }

    pub(super) fn in_handshake(broken: HandshakeFailure, verdict: Option<Verdict>) -> Self {
        let HandshakeFailure { error, tcp } = broken;
        Self { stage: Stage::Handshake { error, verdict }, stream: Some(tcp) }
    }
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Closed or reset before its first byte.
    Silent,
    NotTls {
        looks_like: &'static str,
    },
    /// Refused before the peer's certificate was requested.
    Denied(Denial),
    Config(TlsError),
    Handshake {
        error: io::Error,
        verdict: Option<Verdict>,
    },
    TimedOut {
        limit: Duration,
    },
    Evicted {
        max: usize,
        progress: HandshakeStage,
    },
    AppUnreachable(Unreached),
}

impl InboundServer {
    /// Reports a refusal. A peer that connects and disconnects without a byte, such as a health check, is not
    /// reported.
    pub(super) fn tell(&self, from: SocketAddr, registration: &Registration, refused: &RefusedConnection) {
        let Some((from, reason, detail)) = record(&refused.stage, from) else { return };
        registration.record(|record| record.refused(reason, &detail));
        let from = match &refused.stage {
            Stage::AppUnreachable(_) => registration.peer().map_or(from, |peer| peer.to_string()),
            _ => from,
        };
        let called = self.called();
        let explain = match &called.id {
            Some(own) if reason == "denied" => {
                let policy = self.proxy.control.policy.current();
                Some(explain_command(policy.as_deref(), &from, own, Some(&self.inbound.name)))
            }
            _ => None,
        };
        self.proxy.refusals.tell(Refusal {
            direction: Direction::Inbound,
            from,
            called,
            reason,
            detail,
            explain,
            instance: None,
        });
    }

    pub(super) fn called(&self) -> Called {
        let own = self.proxy.control.credentials.current();
        let own = own.as_ref().map(|credentials| credentials.svid.id());
        let policy = self.proxy.control.policy.current();
        let service = own.and_then(|own| policy.as_ref()?.service_of(own).map(str::to_owned));
        let port = Some(self.inbound.name.clone());
        Called { id: own.map(SpiffeId::to_string), service, port, address: None }
    }
}

impl Stage {
    /// The result of the handshake, unless none was started.
    pub(super) fn result(&self) -> Option<HandshakeResult> {
        Some(match self {
            Self::Silent => return None,
            Self::TimedOut { .. } => HandshakeResult::TimedOut,
            Self::Evicted { .. } => HandshakeResult::Evicted,
            Self::Denied(_)
            | Self::Handshake { verdict: Some(Verdict::Denied(..) | Verdict::Unverified(_)), .. } => {
                HandshakeResult::Refused
            }
            Self::NotTls { .. } | Self::Config(_) | Self::Handshake { .. } | Self::AppUnreachable(_) => {
                HandshakeResult::Failed
            }
        })
    }
}

/// Client, reason code and detail.
fn record(stage: &Stage, from: SocketAddr) -> Option<(String, &'static str, String)> {
    let address = from.to_string();
    Some(match stage {
        Stage::Silent => return None,
        Stage::NotTls { looks_like } => {
            (address, "not_tls", format!("not TLS: the first bytes look like {looks_like}"))
        }
        Stage::Denied(denial) => (address, denial.code, denial.detail.clone()),
        Stage::Config(error) => (address, "tls_config", error.to_string()),
        Stage::TimedOut { limit } => (address, "handshake_timeout", format!("no handshake within {limit:?}")),
        Stage::Evicted { max, progress } => (address, "handshakes_pending", evicted(*max, *progress)),
        Stage::AppUnreachable(error) => (address, "app_unreachable", error.to_string()),
        Stage::Handshake { error, verdict } => of_handshake(error, verdict.as_ref(), address),
    })
}

/// The detail for a handshake evicted by the limit.
pub(super) fn evicted(max: usize, progress: HandshakeStage) -> String {
    let who = match progress {
        HandshakeStage::AwaitingClientHello => "one that had sent no ClientHello",
        HandshakeStage::Handshaking => "one that had sent its ClientHello, as a sidecar does,",
        HandshakeStage::Authenticated => "one whose peer had proved its identity and opened no connection",
        HandshakeStage::Closing => "one that had been refused",
    };
    format!(
        "{max} handshakes are under way, as many as handshakes_pending_max allows: {who} gave way to a newer one"
    )
}

fn of_handshake(
    error: &io::Error,
    verdict: Option<&Verdict>,
    address: String,
) -> (String, &'static str, String) {
    match verdict {
        Some(Verdict::Denied(peer, denial)) => (peer.id().to_string(), denial.code, denial.detail.clone()),
        Some(Verdict::Unverified(refused)) => (address, refused.code(), refused.to_string()),
        _ => {
            let (reason, detail) = of_tls(error);
            (address, reason, detail)
        }
    }
}

/// The reason code and detail of a TLS error. A peer that disconnects during the handshake is reported as such: a
/// port scan looks like this.
fn of_tls(error: &io::Error) -> (&'static str, String) {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let reason = match tls {
        None => "handshake_aborted",
        Some(TlsError::NoCertificatesPresented) => "no_certificate",
        Some(TlsError::AlertReceived(_)) => "peer_alert",
        Some(TlsError::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            // TLS 1.2 clients may and TLS 1.3 clients must send it (RFC 8446 §4.2.3).
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        )) => "tls_version",
        Some(TlsError::PeerIncompatible(_)) => "tls_incompatible",
        Some(TlsError::InvalidMessage(_)) => "not_tls",
        Some(_) => "handshake_failed",
    };
    let detail = match reason {
        "tls_version" => {
            format!("TLS 1.3 is required, and the client does not offer it: {}", one_line(error))
        }
        _ => one_line(error),
    };
    (reason, detail)
}
