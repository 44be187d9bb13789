//! Signatures of handshakes and of what proves like one: made with an own key, checked with a certificate's.

use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;

use super::signature_algorithms;

/// How handshakes are signed: those schemes of TLS 1.3 (RFC 8446 §4.2.3) whose keys a certificate may have.
pub const HANDSHAKE_SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// Whether `signature` is `leaf`'s over `message`. The scheme also says the curve, as TLS 1.3 has it.
pub(crate) fn verify_handshake_signature(
    leaf: &CertificateDer<'_>,
    scheme: SignatureScheme,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let supported = signature_algorithms();
    let mut known = supported.mapping.iter().filter(|_| HANDSHAKE_SCHEMES.contains(&scheme));
    // The first algorithm is the one of TLS 1.3; others are for TLS 1.2, whose schemes do not say the curve.
    let algorithm = known.find(|(name, _)| *name == scheme).and_then(|(_, algorithms)| algorithms.first());
    let (Some(algorithm), Ok(leaf)) = (algorithm, webpki::EndEntityCert::try_from(leaf)) else {
        return false;
    };
    leaf.verify_signature(*algorithm, message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_is_one_that_handshakes_are_checked_with() {
        let supported = signature_algorithms().supported_schemes();
        assert!(HANDSHAKE_SCHEMES.iter().all(|scheme| supported.contains(scheme)), "{supported:?}");
    }
}
