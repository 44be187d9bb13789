//! The result of verifying a peer, and the TLS alert that it becomes.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};

use super::{Denial, OVER_LIMIT, REVOKED};
use crate::identity::{BundlePin, VerifiedSvid, VerifyError};

/// The result of verifying the peer of one handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Certificate believed, peer admitted.
    Admitted(VerifiedSvid),
    /// Certificate believed, peer not admitted.
    Denied(VerifiedSvid, Denial),
    /// Certificate not believed.
    Unverified(VerifyError),
    /// The pinned bundle is not the one the server showed.
    WrongPin {
        /// What the join token carries.
        expected: BundlePin,
        /// What the server's roots hash to.
        found: BundlePin,
    },
}

impl Verdict {
    /// What rustls is told: its error becomes the alert that the peer receives.
    pub(super) fn handshake_result(&self) -> Result<(), rustls::Error> {
        match self {
            Self::Admitted(_) => Ok(()),
            // RFC 8446 §6.2 has an alert of its own for it.
            Self::Denied(_, denial) if denial.code == REVOKED => Err(CertificateError::Revoked.into()),
            // Another alert than for what the policy says: rustls makes `handshake_failure` of it (RFC 8446 §6.2).
            Self::Denied(_, denial) if denial.code == OVER_LIMIT => {
                Err(rustls::Error::General(denial.detail.clone()))
            }
            Self::Denied(..) => Err(CertificateError::ApplicationVerificationFailure.into()),
            Self::Unverified(error) => Err(certificate_error(error).into()),
            Self::WrongPin { .. } => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}

/// The rustls error whose alert says most precisely what is wrong (RFC 8446 §6.2).
fn certificate_error(error: &VerifyError) -> CertificateError {
    match error {
        VerifyError::Expired { .. } | VerifyError::IssuerExpired => CertificateError::Expired,
        VerifyError::NotYetValid { .. } | VerifyError::IssuerNotYetValid => CertificateError::NotValidYet,
        VerifyError::UnknownTrustDomain { .. }
        | VerifyError::NoUsableRoot { .. }
        | VerifyError::IssuerPassedOver { .. }
        | VerifyError::UnknownIssuer => CertificateError::UnknownIssuer,
        VerifyError::BadSignature => CertificateError::BadSignature,
        VerifyError::ExtendedKeyUsage { .. } => CertificateError::InvalidPurpose,
        VerifyError::Malformed { .. }
        | VerifyError::PathMalformed { .. }
        | VerifyError::RepeatedExtension { .. }
        | VerifyError::Serial { .. }
        | VerifyError::SignatureAlgorithmMismatch { .. } => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other.clone()))),
    }
}
