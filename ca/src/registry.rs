//! What an attested workload may be.

use std::time::Duration;

use postern_proto::identity::{SpiffeId, TrustBundle, TrustDomain};
use thiserror::Error;
use time::OffsetDateTime;

use crate::attest::Attestation;
use crate::store::{Authorisation, RepeatDeadline};

/// An identity that may be issued once, to the one who was attested.
#[derive(Debug)]
pub struct Grant {
    id: SpiffeId,
    attestation: Attestation,
    deadline: RepeatDeadline,
}

/// Why there is no grant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrantError {
    #[error("{id} is not of this CA's trust domain {own}")]
    ForeignTrustDomain { id: SpiffeId, own: TrustDomain },
    #[error("{id} has no path, so it names no workload")]
    NoPath { id: SpiffeId },
    #[error("{id} is reserved for Postern itself")]
    Reserved { id: SpiffeId },
    #[error("this join token was made by another CA, or before the roots changed")]
    OtherCa,
    #[error("the certificate that asks expired at {not_after}, too long ago to renew it")]
    ExpiredTooLongAgo { not_after: OffsetDateTime },
}

impl Grant {
    /// Says which identity the attested workload may hold. Whether a token is unused or a certificate on record is
    /// decided in the transaction that records the issuance.
    pub fn new(
        attestation: Attestation,
        own: &TrustBundle,
        renew_after_expiry: Duration,
        now: OffsetDateTime,
    ) -> Result<Self, GrantError> {
        let id = match &attestation {
            Attestation::JoinToken { token, .. } if token.pin() != own.pin() => {
                return Err(GrantError::OtherCa);
            }
            Attestation::JoinToken { token, .. } => token.id().clone(),
            // The handshake looked at this, too, but a connection can be old.
            Attestation::Svid { svid, .. } if now - svid.not_after() > renew_after_expiry => {
                return Err(GrantError::ExpiredTooLongAgo { not_after: svid.not_after() });
            }
            Attestation::Svid { svid, .. } => svid.id().clone(),
        };
        check_grantable(&id, own.trust_domain())?;
        let grace = i64::try_from(renew_after_expiry.as_secs()).unwrap_or(i64::MAX);
        Ok(Self { id, attestation, deadline: RepeatDeadline { now: now.unix_timestamp(), grace } })
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub fn attestation(&self) -> &Attestation {
        &self.attestation
    }

    pub(crate) fn deadline(&self) -> RepeatDeadline {
        self.deadline
    }

    /// What must hold for the grant to be used up, in the words of the store.
    pub(crate) fn into_authorisation(self) -> Authorisation {
        let spiffe_id = self.id.to_string();
        match self.attestation {
            Attestation::JoinToken { hash, .. } => {
                Authorisation::Token { hash, spiffe_id, deadline: self.deadline }
            }
            Attestation::Svid { serial, expired, .. } => Authorisation::Svid { serial, spiffe_id, expired },
        }
    }
}

/// Whether this CA gives such an identity to anybody.
pub fn check_grantable(id: &SpiffeId, own: &TrustDomain) -> Result<(), GrantError> {
    if id.trust_domain() != own {
        return Err(GrantError::ForeignTrustDomain { id: id.clone(), own: own.clone() });
    }
    if id.path().is_empty() {
        return Err(GrantError::NoPath { id: id.clone() });
    }
    if id.is_reserved() {
        return Err(GrantError::Reserved { id: id.clone() });
    }
    Ok(())
}
