//! rustls-webpki's findings as rules of ours.

use webpki::Error;

use super::{Place, VerifyError};

/// The rule that a path breaks. Each finding is a sentence: webpki's own words are names of Rust.
pub(super) fn path_error(error: &Error) -> VerifyError {
    let malformed = |what| VerifyError::PathMalformed { what };
    let rule = |rule| VerifyError::Path { rule };
    match error {
        Error::UnknownIssuer => VerifyError::UnknownIssuer,
        Error::InvalidSignatureForPublicKey => VerifyError::BadSignature,
        Error::CertExpired { .. } => VerifyError::IssuerExpired,
        Error::CertNotValidYet { .. } => VerifyError::IssuerNotYetValid,
        Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => VerifyError::PathLength,
        Error::NameConstraintViolation => VerifyError::NameConstraints,
        Error::UnsupportedCriticalExtension => VerifyError::CriticalExtension,
        Error::EndEntityUsedAsCa => VerifyError::IssuerNotCa { place: Place::Issuer { above_leaf: 1 } },
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
            VerifyError::ExtendedKeyUsage { place: Place::Issuer { above_leaf: 1 } }
        }
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => VerifyError::PathSignatureAlgorithm,
        Error::MaximumNameConstraintComparisonsExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumSignatureChecksExceeded => VerifyError::PathTooCostly,
        Error::CaUsedAsEndEntity => VerifyError::LeafIsCa,
        Error::BadDer | Error::TrailingData(_) => malformed("its encoding is not DER (X.690)"),
        Error::BadDerTime => malformed("its validity cannot be read"),
        Error::InvalidCertValidity => malformed("its validity ends before it begins"),
        Error::InvalidSerialNumber => malformed("its serial number is not positive or too long"),
        Error::MalformedExtensions | Error::ExtensionValueInvalid => {
            malformed("its extensions cannot be read")
        }
        Error::MalformedNameConstraint | Error::InvalidNetworkMaskConstraint | Error::UnsupportedNameType => {
            malformed("its name constraints cannot be read")
        }
        Error::SignatureAlgorithmMismatch => malformed("it names two different signature algorithms"),
        Error::UnsupportedCertVersion => malformed("it is not of X.509 version 3"),
        Error::CertNotValidForName(_) | Error::MalformedDnsIdentifier => rule("a name in it is not allowed"),
        _ => rule("a certificate breaks a rule of RFC 5280 that has no name here"),
    }
}
