//! Why a chain is refused: one variant for each rule.

use std::fmt;

use thiserror::Error;
use time::OffsetDateTime;

use super::{CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX};
use crate::identity::{SpiffeId, SpiffeIdError, TrustDomain};

/// Where in a path a certificate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The certificate that is verified.
    Leaf,
    /// An intermediate: 1 issued the leaf.
    Issuer {
        /// Steps from the leaf.
        above_leaf: usize,
    },
    /// A certificate of the bundle.
    Root,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf => f.write_str("leaf"),
            Self::Issuer { above_leaf } => write!(f, "issuer {above_leaf} above the leaf"),
            Self::Root => f.write_str("root"),
        }
    }
}

macro_rules! verify_errors {
    ($($(#[doc = $doc:literal])+ $name:ident $({ $($field:ident: $kind:ty),+ })? $code:literal $text:literal $(, $extra:expr)*;)+) => {
        /// Why a chain is refused. Each variant is one rule.
        #[derive(Debug, Clone, PartialEq, Eq, Error)]
        #[allow(missing_docs, reason = "the fields say what they are; each variant has its rule")]
        pub enum VerifyError {
            $($(#[doc = $doc])+ #[error($text $(, $extra)*)] $name $({ $($field: $kind),+ })?,)+
        }

        impl VerifyError {
            /// A stable word for logs, metrics and JSON.
            pub fn code(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $code,)+
                }
            }
        }
    };
}

verify_errors! {
    /// There is nothing to verify.
    EmptyChain "empty_chain" "certificate chain is empty";
    /// A bound, checked before anything is parsed.
    TooManyCertificates { count: usize } "too_many_certificates"
        "chain has {count} certificates, more than the {max} allowed", max = CHAIN_CERTIFICATES_MAX;
    /// A bound, checked before anything is parsed.
    TooLarge { bytes: usize } "chain_too_large"
        "chain has {bytes} bytes, more than the {max} allowed", max = CHAIN_BYTES_MAX;
    /// X.690 and RFC 5280 §4.1.
    Malformed { place: Place, detail: String } "malformed" "{place} is malformed: {detail}";
    /// RFC 5280 §4.2: an extension appears at most once.
    RepeatedExtension { place: Place, oid: String } "repeated_extension" "{place} has extension {oid} more than once";
    /// RFC 5280 §4.1.2.2.
    Serial { place: Place, rule: &'static str } "serial" "serial number of {place} {rule}";
    /// RFC 5280 §4.1.1.2.
    SignatureAlgorithmMismatch { place: Place } "signature_algorithm_mismatch"
        "{place} names two different signature algorithms";
    /// SHA-256 or better.
    SignatureAlgorithm { place: Place, algorithm: String } "signature_algorithm"
        "{place} is signed with {algorithm}, which is not accepted";
    /// P-256, P-384, Ed25519, or RSA of 2,048 to 8,192 bits.
    Key { place: Place, kind: String } "key" "{place} has a key that is not accepted: {kind}";
    /// X509-SVID §2.
    NoUri "no_uri_san" "leaf has no URI name, so no SPIFFE ID";
    /// X509-SVID §2.
    ManyUris { place: Place, count: usize } "many_uri_sans" "{place} has {count} URI names; exactly one is allowed";
    /// RFC 5280 §4.2.1.6: an IA5String.
    UriNotText { place: Place } "uri_not_text" "{place} has a URI name that is not text";
    /// SPIFFE-ID §2.
    SpiffeId { place: Place, error: SpiffeIdError } "spiffe_id" "{place} has a bad SPIFFE ID: {error}";
    /// X509-SVID §4.1: a leaf's ID has a path.
    NoPath { id: SpiffeId } "no_path_in_id" "{id} names a trust domain, not a workload: it has no path";
    /// X509-SVID §4.1: a signing certificate's ID has none.
    IssuerWithPath { place: Place, id: SpiffeId } "issuer_with_path" "{place} is {id}, but a signer's ID has no path";
    /// X509-SVID §5: only the bundle of the ID's own trust domain counts.
    UnknownTrustDomain { trust_domain: TrustDomain } "unknown_trust_domain"
        "no trust bundle for trust domain {trust_domain}";
    /// A root is an unexpired CA of the ID's trust domain that keeps the rules of any certificate.
    NoUsableRoot { trust_domain: TrustDomain, passed_over: PassedOver } "no_usable_root"
        "no root in the bundle of {trust_domain} can be used: {passed_over}";
    /// The same, where other roots can be used and none of them issued the chain.
    IssuerPassedOver { passed_over: PassedOver } "issuer_passed_over"
        "no path from the leaf to a root of its trust domain; a root of the issuer's name cannot be used: {passed_over}";
    /// A root belongs to the domain of its own URI name.
    RootOfOtherDomain { trust_domain: TrustDomain } "root_of_other_domain"
        "root is of trust domain {trust_domain}";
    /// RFC 5280 §4.1.2.1: only version 3 has extensions, which say what a certificate may do.
    Version { place: Place, version: u32 } "version" "{place} is of X.509 version {version}; version 3 is needed";
    /// RFC 5280 §4.1.2.5.
    Expired { not_after: OffsetDateTime, now: OffsetDateTime } "expired"
        "certificate expired: it was valid until {not_after}, now is {now}";
    /// RFC 5280 §4.1.2.5.
    NotYetValid { not_before: OffsetDateTime, now: OffsetDateTime } "not_yet_valid"
        "certificate is not yet valid: it will be from {not_before}, now is {now}";
    /// X509-SVID §4.2 and §5.2.
    LeafIsCa "leaf_is_ca" "leaf is a CA certificate";
    /// RFC 5280 §4.2.1.9: no pathLenConstraint without cA.
    LeafPathLen "leaf_path_len" "leaf has a path length but is no CA";
    /// X509-SVID §4.3, RFC 5280 §4.2.1.3.
    NoKeyUsage { place: Place } "no_key_usage" "{place} has no key usage";
    /// X509-SVID §4.3.
    KeyUsageNotCritical { place: Place } "key_usage_not_critical" "key usage of {place} is not critical";
    /// X509-SVID §4.3.
    NoDigitalSignature "no_digital_signature" "leaf's key usage lacks digitalSignature";
    /// X509-SVID §4.3 and §5.2.
    LeafSignsCertificates "leaf_signs_certificates" "leaf's key usage has keyCertSign";
    /// X509-SVID §4.3 and §5.2.
    LeafSignsCrls "leaf_signs_crls" "leaf's key usage has cRLSign";
    /// X509-SVID §4.4: both, where there is any.
    ExtendedKeyUsage { place: Place } "extended_key_usage"
        "extended key usage of {place} does not have both serverAuth and clientAuth";
    /// RFC 5280 §4.2.1.6.
    SanNotCritical "san_not_critical" "leaf has an empty subject, so its subject alternative name must be critical";
    /// RFC 5280 §6.1.4 (k).
    IssuerNotCa { place: Place } "issuer_not_ca" "{place} is not a CA";
    /// RFC 5280 §6.1.4 (n).
    IssuerDoesNotSign { place: Place } "issuer_does_not_sign" "key usage of {place} lacks keyCertSign";
    /// RFC 5280 §6.1.3 (a) (4).
    UnknownIssuer "unknown_issuer" "no path from the leaf to a root of its trust domain";
    /// RFC 5280 §6.1.3 (a) (1).
    BadSignature "bad_signature" "a signature in the path is wrong";
    /// RFC 5280 §6.1.3 (a) (2).
    IssuerExpired "issuer_expired" "a certificate above the leaf has expired";
    /// RFC 5280 §6.1.3 (a) (2).
    IssuerNotYetValid "issuer_not_yet_valid" "a certificate above the leaf is not yet valid";
    /// RFC 5280 §6.1.4 (m), and the depth of eight.
    PathLength "path_length" "path is longer than a CA in it, or the limit of eight, allows";
    /// RFC 5280 §4.2.1.10.
    NameConstraints "name_constraints" "a name constraint in the path does not allow the leaf's names";
    /// RFC 5280 §4.2.1.10, on URIs: rustls-webpki cannot check them.
    UriConstraints { place: Place } "uri_constraints"
        "{place} has a name constraint on URIs, and these are not supported";
    /// RFC 5280 §4.2.
    CriticalExtension "critical_extension" "a certificate in the path has a critical extension that is not understood";
    /// RFC 5280 §6.1.3 (a) (1): an algorithm that does not fit the issuer's key.
    PathSignatureAlgorithm "path_signature_algorithm"
        "a signature in the path is of an algorithm that is not accepted, or not for the issuer's key";
    /// A bound on the work that one chain may cost.
    PathTooCostly "path_too_costly" "more certificates and signatures must be tried for a path than are allowed";
    /// X.690, in a certificate above the leaf.
    PathMalformed { what: &'static str } "path_malformed" "a certificate in the path is malformed: {what}";
    /// Anything else that path validation refuses.
    Path { rule: &'static str } "path" "no valid path to a root: {rule}";
}

/// So many roots are named in one refusal.
const ROOTS_NAMED_MAX: usize = 5;

/// The roots that were not used, each by its subject and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver(pub(super) Vec<(String, VerifyError)>);

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the bundle has none");
        }
        for (at, (subject, error)) in self.0.iter().take(ROOTS_NAMED_MAX).enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{subject:?}: {error}")?;
        }
        match self.0.len().saturating_sub(ROOTS_NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
