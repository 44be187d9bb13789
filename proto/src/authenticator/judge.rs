//! Judges the answer to a request (RFC 9261 §5.2.4 and §7.4).

use thiserror::Error;
use time::OffsetDateTime;

use super::extension::ExtensionType;
use super::keys::Keys;
use super::messages::{Certificate, CertificateVerify, Parts, write_certificate};
use super::reader::DecodeError;
use super::{AUTHENTICATOR_BYTES_MAX, Request};
use crate::crypto::verify_handshake_signature;
use crate::identity::{SpiffeId, TrustBundles, VerifiedSvid, VerifyError, verify};
use crate::mtls::ExporterSecret;

/// Who must be at the other end, and what is believed.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Who the peer was until now.
    pub id: &'a SpiffeId,
    /// The roots that are trusted now.
    pub bundles: &'a TrustBundles,
    /// The time.
    pub now: OffsetDateTime,
}

/// Judges `authenticator`, the peer's answer to our `request` over the connection whose exporter this is, and says
/// what the peer is now. The request is used up.
pub fn judge(
    exporter: &ExporterSecret,
    request: Request,
    authenticator: &[u8],
    expected: Expected<'_>,
) -> Result<VerifiedSvid, AuthenticatorError> {
    if authenticator.len() > AUTHENTICATOR_BYTES_MAX {
        return Err(AuthenticatorError::TooLarge { bytes: authenticator.len() });
    }
    let keys = Keys::of(exporter, request.answerer());
    match Parts::parse(authenticator, keys.mac_bytes())? {
        Parts::Refusal(mac) => Err(refusal(&keys, &request, mac)),
        Parts::Proof(certificate, verify, mac) => {
            let peer = verify_chain(&certificate, &request, expected)?;
            check_signature(&keys, &request, &certificate, &verify)?;
            if !keys.is_finished([request.as_bytes(), certificate.whole, verify.whole], mac) {
                return Err(AuthenticatorError::Finished);
            }
            follows(expected.id, &peer)?;
            Ok(peer)
        }
    }
}

/// Only the same identity may take over a connection.
pub fn follows(before: &SpiffeId, now: &VerifiedSvid) -> Result<(), AnotherIdentity> {
    if now.id() == before {
        return Ok(());
    }
    Err(AnotherIdentity { expected: before.clone(), found: now.id().clone() })
}

fn verify_chain(
    certificate: &Certificate<'_>,
    request: &Request,
    expected: Expected<'_>,
) -> Result<VerifiedSvid, AuthenticatorError> {
    if certificate.context != request.context() {
        return Err(AuthenticatorError::Context);
    }
    Ok(verify(&certificate.chain, expected.bundles, expected.now)?)
}

fn check_signature(
    keys: &Keys,
    request: &Request,
    certificate: &Certificate<'_>,
    verify: &CertificateVerify<'_>,
) -> Result<(), AuthenticatorError> {
    if !request.schemes().contains(&verify.scheme) {
        return Err(AuthenticatorError::Scheme { scheme: verify.scheme.into() });
    }
    let content = keys.signed_content(request.as_bytes(), certificate.whole);
    let leaf = certificate.chain.first().ok_or(VerifyError::EmptyChain)?;
    if !verify_handshake_signature(leaf, verify.scheme, &content, verify.signature) {
        return Err(AuthenticatorError::Signature);
    }
    Ok(())
}

/// RFC 9261 §6: the Finished of a refusal is over a Certificate without entries, and no CertificateVerify.
fn refusal(keys: &Keys, request: &Request, mac: &[u8]) -> AuthenticatorError {
    let certificate = write_certificate(request.context(), &[]);
    if keys.is_finished([request.as_bytes(), &certificate, &[]], mac) {
        return AuthenticatorError::Refused;
    }
    AuthenticatorError::Finished
}

/// A peer that proves to be somebody else than before.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the peer was {expected}, and proves to be {found}")]
pub struct AnotherIdentity {
    /// Who it was.
    pub expected: SpiffeId,
    /// Who it is.
    pub found: SpiffeId,
}

/// Why an authenticator is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthenticatorError {
    /// A bound, checked before anything is read.
    #[error("authenticator has {bytes} bytes, more than the {max} allowed", max = AUTHENTICATOR_BYTES_MAX)]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// RFC 8446 §4.4.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// RFC 9261 §5.2.1: only extensions that the request has.
    #[error("a certificate has the extension {extension}, which was not asked for")]
    Extension {
        /// Which.
        extension: ExtensionType,
    },
    /// RFC 9261 §5.2.1: the context is the request's.
    #[error("authenticator answers another request")]
    Context,
    /// The chain is refused.
    #[error(transparent)]
    Certificate(#[from] VerifyError),
    /// RFC 9261 §5.2.2: one of the request's schemes.
    #[error("authenticator is signed with scheme {scheme:#06x}, which was not asked for")]
    Scheme {
        /// Its code.
        scheme: u16,
    },
    /// RFC 9261 §5.2.2.
    #[error("signature is not the certificate's over this connection, request and certificate")]
    Signature,
    /// RFC 9261 §5.2.3.
    #[error("finished MAC is not this connection's over this request and its answer")]
    Finished,
    /// RFC 9261 §6: an empty authenticator is authentic, and no proof.
    #[error("peer refuses to authenticate")]
    Refused,
    /// A connection stays its peer's.
    #[error(transparent)]
    AnotherIdentity(#[from] AnotherIdentity),
}

impl AuthenticatorError {
    /// A stable word for logs, metrics and JSON; of a certificate, that of its own cause.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "authenticator_too_large",
            Self::Decode(_) => "authenticator_malformed",
            Self::Extension { .. } => "authenticator_extension",
            Self::Context => "authenticator_context",
            Self::Certificate(error) => error.code(),
            Self::Scheme { .. } => "authenticator_scheme",
            Self::Signature => "authenticator_signature",
            Self::Finished => "authenticator_finished",
            Self::Refused => "authenticator_refused",
            Self::AnotherIdentity(_) => "wrong_identity",
        }
    }
}
