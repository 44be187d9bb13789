//! One attempt to get a certificate: renew, or enrol where only that helps.

use std::time::Duration;

use postern_proto::identity::SpiffeId;
use thiserror::Error;
use time::OffsetDateTime;

use super::Renewal;
use crate::error_text::one_line;
use crate::identity::ca_client::{CaError, Issued};
use crate::identity::credentials::Credentials;
use crate::identity::join_token::{self, ReadToken, ReadTokenError};

/// What an attempt brought, by what it cost.
pub(super) enum Success {
    /// A join token, which is used up.
    Enrolled(Issued),
    Renewed(Issued),
}

impl Renewal {
    pub(super) async fn attempt(&mut self) -> Result<Success, AttemptError> {
        let Some(credentials) = self.holder.credentials() else {
            let read = self.fresh_token().await?;
            return self.enrol(read).await.map_err(AttemptError::Enrol);
        };
        let now = self.holder.now();
        let request = self.request_for(credentials.svid.id()).await.map_err(AttemptError::Renew)?;
        let refusal = match self.client.renew(&credentials, request, now).await {
            Ok(issued) => return Ok(Success::Renewed(issued)),
            Err(refusal) => refusal,
        };
        if !lost_for_renewal(&credentials, &refusal, now) {
            return Err(AttemptError::Renew(refusal));
        }
        match self.fresh_token_for(credentials.svid.id()).await {
            Ok(read) => {
                let enrolled = self.enrol(read).await;
                enrolled.map_err(|cause| AttemptError::EnrolAfter { refusal: one_line(&refusal), cause })
            }
            Err(token) => Err(AttemptError::RenewWithoutToken { refusal, token: one_line(&token) }),
        }
    }

    async fn enrol(&mut self, read: ReadToken) -> Result<Success, CaError> {
        let request = self.request_for(read.token.id()).await?;
        let issued = self.client.enrol(&read.token, request, self.holder.now()).await?;
        self.used = Some(read.fingerprint);
        Ok(Success::Enrolled(issued))
    }

    async fn fresh_token(&self) -> Result<ReadToken, TokenError> {
        let source = self.join_token.as_ref().ok_or(TokenError::NotConfigured)?;
        let read = join_token::read(source).await?;
        if self.used == Some(read.fingerprint) {
            return Err(TokenError::Used);
        }
        Ok(read)
    }

    /// Whoever runs as one identity does not become another without a restart.
    pub(super) async fn fresh_token_for(&self, id: &SpiffeId) -> Result<ReadToken, TokenError> {
        let read = self.fresh_token().await?;
        if read.token.id() != id {
            return Err(TokenError::OtherIdentity { own: id.clone(), found: read.token.id().clone() });
        }
        Ok(read)
    }
}

/// Whether only a join token can help. An expired certificate's refusal may show as a broken connection only.
fn lost_for_renewal(credentials: &Credentials, refusal: &CaError, now: OffsetDateTime) -> bool {
    refusal.wants_join_token() || credentials.is_expired(now) && matches!(refusal, CaError::Broken { .. })
}

/// Why an attempt brought no certificate.
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

/// Why there is no join token to enrol with.
#[derive(Debug, Error)]
pub(super) enum TokenError {
    #[error("no join token is configured")]
    NotConfigured,
    #[error("the join token has been used already; put a fresh one in its place")]
    Used,
    #[error("the join token is for {found}, but the identity at hand is {own}")]
    OtherIdentity { own: SpiffeId, found: SpiffeId },
    #[error(transparent)]
    Unreadable(#[from] ReadTokenError),
}
