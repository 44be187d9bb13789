//! Where an inbound connection stopped, and how that is told.

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
use crate::proxy::tls::BrokenHandshake;

/// A connection that goes no further.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) stage: Stage,
    /// Where the peer can still be told.
    pub(super) stream: Option<TcpStream>,
}

impl Stopped {
    pub(super) fn at(stage: Stage) -> Self {
        Self { stage, stream: None }
    }

    pub(super) fn in_handshake(broken: BrokenHandshake, verdict: Option<Verdict>) -> Self {
        let BrokenHandshake { error, tcp } = broken;
        Self { stage: Stage::Handshake { error, verdict }, stream: Some(tcp) }
    }
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Ended or broke before its first byte.
    Silent,
    NotTls {
        looks_like: &'static str,
    },
    /// By us, before the peer was asked who it is.
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
    /// Tells a refusal. A peer that comes and goes without a byte, as a health check does, is none.
    pub(super) fn tell(&self, from: SocketAddr, registration: &Registration, stopped: &Stopped) {
        let Some((from, reason, detail)) = record(&stopped.stage, from) else { return };
        registration.record(|record| record.refused(reason, &detail));
        let from = match &stopped.stage {
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
    /// How the handshake ended, unless nobody began one.
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

/// Who, the stable word, and the words.
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

/// Whom the limit has hit.
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

/// What a TLS error means. A peer that leaves in the middle is told as such, for a scan shows like this.
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
