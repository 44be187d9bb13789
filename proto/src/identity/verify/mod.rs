//! The only verification of a certificate chain (X509-SVID §5, RFC 5280 §6).

mod algorithms;
mod der;
mod error;
mod leaf;
mod parsed_certificate;
mod path;
mod path_error;
mod points;
mod root;
mod rsa;
mod window;

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

pub use algorithms::{PublicKeyError, check_public_key};
pub use error::{PassedOver, Place, VerifyError};
use parsed_certificate::ParsedCertificate;
use root::Fingerprint;
pub(super) use root::Root;
pub(super) use window::Window;

use super::{SpiffeId, TrustBundles};

/// A chain holds at most this many certificates.
pub const CHAIN_CERTIFICATES_MAX: usize = 16;
/// A chain holds at most this many bytes of DER.
pub const CHAIN_BYTES_MAX: usize = 64 * 1024;

/// A leaf that [`verify`] accepted: nothing else makes one. Clones share what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSvid(Arc<Found>);

#[derive(Debug, PartialEq, Eq)]
struct Found {
    id: SpiffeId,
    serial: Vec<u8>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    issuer_path: Vec<String>,
    root: Fingerprint,
}

impl VerifiedSvid {
    /// Whose identity it is.
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// The leaf's serial number, big endian, as in its DER.
    pub fn serial(&self) -> &[u8] {
        &self.0.serial
    }

    /// Valid from this second.
    pub fn not_before(&self) -> OffsetDateTime {
        self.0.not_before
    }

    /// Valid through the whole of this second.
    pub fn not_after(&self) -> OffsetDateTime {
        self.0.not_after
    }

    /// The subjects from the leaf's issuer up to the root. They are the peer's text: escape them.
    pub fn issuer_path(&self) -> &[String] {
        &self.0.issuer_path
    }

    /// Whether the root that vouched for it is still believed.
    pub fn is_still_vouched_for(&self, bundles: &TrustBundles) -> bool {
        let bundle = bundles.of(self.0.id.trust_domain());
        bundle
            .is_some_and(|bundle| bundle.parsed_roots().iter().any(|root| root.fingerprint() == self.0.root))
    }
}

/// Verifies `chain` (DER, leaf first, then issuers in any order) at the time `now` against the roots of the trust
/// domain that its leaf names, and of no other.
pub fn verify(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    now: OffsetDateTime,
) -> Result<VerifiedSvid, VerifyError> {
    check_bounds(chain)?;
    let first = chain.first().ok_or(VerifyError::EmptyChain)?;
    let leaf = ParsedCertificate::parse(Place::Leaf, first)?;
    let id = leaf::check_identity(&leaf)?;
    let bundle = bundles.of(id.trust_domain());
    let bundle =
        bundle.ok_or_else(|| VerifyError::UnknownTrustDomain { trust_domain: id.trust_domain().clone() })?;
    leaf::check_leaf(&leaf)?;
    leaf::check_time(&leaf, now)?;
    let path = path::check_path(chain, bundle, now)?;
    Ok(VerifiedSvid(Arc::new(Found {
        id,
        serial: leaf.serial().to_vec(),
        not_before: leaf.not_before(),
        not_after: leaf.not_after(),
        issuer_path: path.subjects,
        root: path.root,
    })))
}

/// The ID that a chain's leaf claims, believed by nobody yet.
pub fn claimed_id(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, VerifyError> {
    check_bounds(chain)?;
    let first = chain.first().ok_or(VerifyError::EmptyChain)?;
    leaf::check_identity(&ParsedCertificate::parse(Place::Leaf, first)?)
}

/// Before anything is parsed: webpki would spend most of a second on some hundreds of cross-signed certificates.
pub(in crate::identity) fn check_bounds(chain: &[CertificateDer<'_>]) -> Result<(), VerifyError> {
    if chain.len() > CHAIN_CERTIFICATES_MAX {
        return Err(VerifyError::TooManyCertificates { count: chain.len() });
    }
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    if bytes > CHAIN_BYTES_MAX {
        return Err(VerifyError::TooLarge { bytes });
    }
    Ok(())
}
