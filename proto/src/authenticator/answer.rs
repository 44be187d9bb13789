//! The authenticator that answers a request (RFC 9261 §5.2).

use thiserror::Error;

use super::Request;
use super::keys::Keys;
use super::messages::{write_certificate, write_certificate_verify, write_finished};
use crate::identity::{CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX};
use crate::mtls::{ExporterSecret, TlsIdentity};

/// Proves that we hold `identity`, to who sent `request` over the connection whose exporter this is: Certificate,
/// CertificateVerify and Finished, one after another.
pub fn authenticate(
    exporter: &ExporterSecret,
    request: &Request,
    identity: &TlsIdentity,
) -> Result<Vec<u8>, AuthenticateError> {
    let chain = identity.chain();
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    if chain.len() > CHAIN_CERTIFICATES_MAX || bytes > CHAIN_BYTES_MAX {
        return Err(AuthenticateError::Chain { certificates: chain.len(), bytes });
    }
    let keys = Keys::of(exporter, request.answerer());
    let asked = request.as_bytes();
    let certificate = write_certificate(request.context(), chain);
    let signed = identity.sign(request.schemes(), &keys.signed_content(asked, &certificate))?;
    let (scheme, signature) = signed.ok_or(AuthenticateError::NoCommonScheme)?;
    let verify = write_certificate_verify(scheme, &signature);
    let finished = write_finished(keys.finished([asked, &certificate, &verify]).as_ref());
    Ok([certificate, verify, finished].concat())
}

/// Why no authenticator is made.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum AuthenticateError {
    /// RFC 9261 §5.2.2: then none should be.
    #[error("own key can sign with none of the schemes that the request allows")]
    NoCommonScheme,
    /// The peer would refuse it for its size.
    #[error(
        "own chain has {certificates} certificates and {bytes} bytes, more than the {} and {} allowed",
        CHAIN_CERTIFICATES_MAX,
        CHAIN_BYTES_MAX
    )]
    Chain {
        /// How many certificates it has.
        certificates: usize,
        /// How many bytes of DER they are.
        bytes: usize,
    },
    /// The key does not sign.
    #[error("own key cannot sign")]
    Sign(#[from] rustls::Error),
}
