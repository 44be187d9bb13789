//! One attempt to get a certificate: renew, or enrol if renewal is impossible.

use std::time::Duration;

use postern_proto::identity::SpiffeId;
use thiserror::Error;
use time::OffsetDateTime;

use super::Renewal;
use crate::error_text::one_line;
use crate::identity::ca_client::{CaError, IssuedIdentity};
use crate::identity::credentials::Credentials;
use crate::identity::join_token::{self, JoinTokenReadError, LoadedJoinToken};

/// How a certificate was obtained.
pub(super) enum Success {
    /// With a join token, which cannot be used again.
    Enrolled(IssuedIdentity),
    Renewed(IssuedIdentity),
}

impl Renewal {
    pub(super) async fn attempt(&mut self) -> Result<Success, AttemptError> {
        let Some(credentials) = self.writer.credentials() else {
            let read = self.unused_token().await?;
            return self.enrol(read).await.map_err(AttemptError::Enrol);
        };
        let now = self.writer.now();
        let request = self.request_for(credentials.svid.id()).await.map_err(AttemptError::Renew)?;
        let refusal = match self.client.renew(&credentials, request, now).await {
            Ok(issued) => return Ok(Success::Renewed(issued)),
            Err(refusal) => refusal,
        };
        if !requires_enrolment(&credentials, &refusal, now) {
            return Err(AttemptError::Renew(refusal));
        }
        match self.unused_token_for(credentials.svid.id()).await {
            Ok(read) => {
                let enrolled = self.enrol(read).await;
                enrolled.map_err(|cause| AttemptError::EnrolAfter { refusal: one_line(&refusal), cause })
            }
            Err(token) => Err(AttemptError::RenewWithoutToken { refusal, token: one_line(&token) }),
        }
    }

    async fn enrol(&mut self, read: LoadedJoinToken) -> Result<Success, CaError> {
        let request = self.request_for(read.token.id()).await?;
        let issued = self.client.enrol(&read.token, request, self.writer.now()).await?;
        self.used_token = Some(read.fingerprint);
        Ok(Success::Enrolled(issued))
    }

    async fn unused_token(&self) -> Result<LoadedJoinToken, TokenError> {
        let source = self.join_token.as_ref().ok_or(TokenError::NotConfigured)?;
        let read = join_token::read(source).await?;
        if self.used_token == Some(read.fingerprint) {
            return Err(TokenError::Used);
        }
        Ok(read)
    }

    /// A running sidecar does not change its identity without a restart, so the token must be for `id`.
    pub(super) async fn unused_token_for(&self, id: &SpiffeId) -> Result<LoadedJoinToken, TokenError> {
        let read = self.unused_token().await?;
        if read.token.id() != id {
            return Err(TokenError::OtherIdentity { own: id.clone(), found: read.token.id().clone() });
        }
        Ok(read)
    }
}

/// Whether only a join token helps. The rejection of an expired certificate may show only as a broken connection.
fn requires_enrolment(credentials: &Credentials, refusal: &CaError, now: OffsetDateTime) -> bool {
    refusal.needs_join_token() || credentials.is_expired(now) && matches!(refusal, CaError::Broken { .. })
}

/// Why an attempt failed.
#[derive(Debug, Error)]
pub(super) enum AttemptError {
    #[error("not enrolled")]
    Enrol(#[source] CaError),
    #[error("not enrolled for want of a join token")]
    Token(#[from] TokenError),
    #[error("not renewed")]
    Renew(#[source] CaError),
    #[error("not renewed, nor enrolled anew ({token})")]
    RenewWithoutToken {
        #[source]
        refusal: CaError,
        token: String,
    },
    #[error("not renewed ({refusal}), nor enrolled anew")]
    EnrolAfter {
        refusal: String,
        #[source]
        cause: CaError,
    },
    #[error("certificate cannot be used for TLS")]
    Unusable(#[source] rustls::Error),
}

impl AttemptError {
    fn ca(&self) -> Option<&CaError> {
        match self {
            Self::Enrol(error) | Self::Renew(error) => Some(error),
            Self::RenewWithoutToken { refusal, .. } => Some(refusal),
            Self::EnrolAfter { cause, .. } => Some(cause),
            Self::Token(_) | Self::Unusable(_) => None,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.ca().and_then(CaError::retry_after)
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Token(_) => "join_token",
            Self::Unusable(_) => "bad_answer",
            _ => self.ca().map_or("ca_unreachable", CaError::code),
        }
    }
}

/// Why there is no usable join token.
#[derive(Debug, Error)]
pub(super) enum TokenError {
    #[error("no join token is configured")]
    NotConfigured,
    #[error("the join token has been used already; put a fresh one in its place")]
    Used,
    #[error("the join token is for {found}, but the identity at hand is {own}")]
    OtherIdentity { own: SpiffeId, found: SpiffeId },
    #[error(transparent)]
    Unreadable(#[from] JoinTokenReadError),
}
