//! Why a request has no answer of the app or peer that it was for.

use http::StatusCode;

use super::call::TerminatedBy;
use super::exchange::ExchangeError;
use super::preface::Preface;
use crate::error_text::one_line;

/// Why the app, or a peer, cannot be asked.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    /// A stable word.
    pub(super) reason: &'static str,
    pub(super) detail: String,
    /// What to type to learn more.
    pub(super) explain: Option<String>,
    /// Nobody was there to say anything.
    pub(super) is_unreachable: bool,
}

impl Failure {
    /// Of several, all that went wrong. What a peer said weighs more than that another was not there.
    pub(super) fn joined(mut failures: Vec<Self>) -> Self {
        let details: Vec<_> = failures.iter().map(|failure| &*failure.detail).collect();
        let detail = details.join("; ");
        let told = failures.iter().position(|failure| !failure.is_unreachable).unwrap_or_default();
        match failures.get_mut(told) {
            Some(told) => Self { detail, ..told.clone() },
            None => Self::unreachable("unreachable", detail),
        }
    }

    /// Nobody answers.
    pub(super) fn unreachable(reason: &'static str, detail: String) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { status, reason, detail, explain: None, is_unreachable: true }
    }

    /// An answer that broke off, or never came.
    pub(super) fn broken(detail: String) -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            reason: "broke_off",
            detail,
            explain: None,
            is_unreachable: false,
        }
    }

    /// One identity has all under way that it may.
    pub(super) fn busy(max: usize) -> Self {
        let detail =
            format!("{max} requests of this identity are under way, as many as it may have here at once");
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self { status, reason: "requests_per_peer_max", detail, explain: None, is_unreachable: false }
    }

    /// The heads of one identity's requests have gained all that they may.
    pub(super) fn expanded(max: usize) -> Self {
        let detail = format!(
            "the header fields of this identity's requests under way are {max} bytes longer than what it sent of them \
             (HPACK), as much as they may be here at once"
        );
        Self { reason: "expanded_bytes_per_peer_max", detail, ..Self::busy(max) }
    }

    /// A tunnel is asked for, which no policy can see into.
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
                Some(end) if !leased.is_shared() && end.says.preface() == Preface::Http2 => {
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
