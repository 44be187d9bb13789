//! Why a request has no response from the app or peer.

use http::StatusCode;

use super::call::TerminatedBy;
use super::exchange::ExchangeError;
use super::preface::Preface;
use crate::error_text::one_line;

/// A failure to reach the app or a peer.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    /// A stable reason code.
    pub(super) reason: &'static str,
    pub(super) detail: String,
    /// The command that explains the decision.
    pub(super) explain: Option<String>,
    /// No server was reached.
    pub(super) is_unreachable: bool,
}

impl Failure {
    /// Joins several failures. A peer's refusal has precedence over an unreachable address.
    pub(super) fn joined(mut failures: Vec<Self>) -> Self {
        let details: Vec<_> = failures.iter().map(|failure| &*failure.detail).collect();
        let detail = details.join("; ");
        let reported = failures.iter().position(|failure| !failure.is_unreachable).unwrap_or_default();
        match failures.get_mut(reported) {
            Some(reported) => Self { detail, ..reported.clone() },
            None => Self::unreachable("unreachable", detail),
        }
    }

    /// No server was reached.
    pub(super) fn unreachable(reason: &'static str, detail: String) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { status, reason, detail, explain: None, is_unreachable: true }
    }

    /// The response was truncated or never arrived.
    pub(super) fn broken(detail: String) -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            reason: "broke_off",
            detail,
            explain: None,
            is_unreachable: false,
        }
    }

    /// The identity has reached its limit of active requests.
    pub(super) fn busy(max: usize) -> Self {
        let detail =
            format!("{max} requests of this identity are under way, as many as it may have here at once");
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self { status, reason: "requests_per_peer_max", detail, explain: None, is_unreachable: false }
    }

    /// The identity has reached its limit of header expansion.
    pub(super) fn expanded(max: usize) -> Self {
        let detail = format!(
            "the header fields of this identity's requests under way are {max} bytes longer than what it sent of them \
             (HPACK), as much as they may be here at once"
        );
        Self { reason: "expanded_bytes_per_peer_max", detail, ..Self::busy(max) }
    }

    /// CONNECT: the policy cannot authorize what a tunnel carries.
    pub(super) fn connect() -> Self {
        let detail = "CONNECT is not supported: no rule could say what passes through it".to_owned();
        Self {
            status: StatusCode::NOT_IMPLEMENTED,
            reason: "connect",
            detail,
            explain: None,
            is_unreachable: false,
        }
    }
}

impl From<TerminatedBy> for Failure {
    fn from(by: TerminatedBy) -> Self {
        let (status, detail) = match by {
            TerminatedBy::Policy => (StatusCode::FORBIDDEN, "the call is no longer allowed"),
            TerminatedBy::Idle => (StatusCode::GATEWAY_TIMEOUT, "nothing of the call moved for too long"),
        };
        Self { status, reason: by.code(), detail: detail.to_owned(), explain: None, is_unreachable: false }
    }
}

impl From<ExchangeError> for Failure {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Unreached(failure) => failure,
            ExchangeError::Broken(error, leased) => match leased.end() {
                Some(end) if !leased.is_shared() && end.server_state.preface() == Preface::Http2 => {
                    let detail = format!(
                        "{} was asked in HTTP/1.1 and answered in HTTP/2: set app_http = \"auto\" or app_http = \"2\"; \
                         an upgrade needs an app that speaks HTTP/1.1, or takes WebSockets over HTTP/2 (RFC 8441)",
                        end.address
                    );
                    Self { reason: "app_http", ..Self::broken(detail) }
                }
                _ => Self::broken(one_line(&*error)),
            },
        }
    }
}
