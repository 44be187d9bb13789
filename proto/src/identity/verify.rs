//! The only judge of a certificate chain (X509-SVID §5, RFC 5280 §6).

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{SpiffeId, SpiffeIdError, TrustBundles, TrustDomain};

/// A chain holds at most this many certificates.
pub const CHAIN_CERTIFICATES_MAX: usize = 16;
/// A chain holds at most this many bytes of DER.
pub const CHAIN_BYTES_MAX: usize = 64 * 1024;

/// A leaf that [`verify`] accepted: nothing else makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSvid {
    id: SpiffeId,
    serial: Vec<u8>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    issuer_path: Vec<String>,
}

impl VerifiedSvid {
    /// Whose identity it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The leaf's serial number, big endian.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Valid from this second.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// Valid through the whole of this second.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// The subjects from the leaf's issuer up to the root.
    pub fn issuer_path(&self) -> &[String] {
        &self.issuer_path
    }
}

/// Judges `chain` (DER, leaf first, then issuers in any order) against the roots of the trust domain that its leaf
/// names, at the time `now`.
pub fn verify(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    now: OffsetDateTime,
) -> Result<VerifiedSvid, VerifyError> {
    // SKELETON: replaced whole by the judge of svid.md.
    let leaf = chain.first().ok_or(VerifyError::EmptyChain)?;
    let (_, cert) =
        X509Certificate::from_der(leaf).map_err(|e| VerifyError::Malformed { detail: e.to_string() })?;
    let san = cert.subject_alternative_name().ok().flatten().ok_or(VerifyError::NoUriSan)?;
    let uri = san
        .value
        .general_names
        .iter()
        .find_map(|n| match n {
            GeneralName::URI(u) => Some(*u),
            _ => None,
        })
        .ok_or(VerifyError::NoUriSan)?;
    let id = SpiffeId::parse_canonical(uri)?;
    let bundle = bundles
        .of(id.trust_domain())
        .ok_or_else(|| VerifyError::UnknownTrustDomain { trust_domain: id.trust_domain().clone() })?;
    let anchors: Vec<_> =
        bundle.roots().iter().filter_map(|r| webpki::anchor_from_trusted_cert(r).ok()).collect();
    let end = webpki::EndEntityCert::try_from(leaf)
        .map_err(|e| VerifyError::Malformed { detail: e.to_string() })?;
    let secs = u64::try_from(now.unix_timestamp()).unwrap_or(0);
    let time = rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs));
    let validity = cert.validity();
    if now > validity.not_after.to_datetime() {
        return Err(VerifyError::Expired { not_after: validity.not_after.to_datetime(), now });
    }
    end.verify_for_usage(
        crate::mtls::signature_algorithms().all,
        &anchors,
        chain.get(1..).unwrap_or_default(),
        time,
        webpki::KeyUsage::client_auth(),
        None,
        None,
    )
    .map_err(|e| VerifyError::Path { detail: e.to_string() })?;
    Ok(VerifiedSvid {
        serial: cert.raw_serial().to_vec(),
        not_before: validity.not_before.to_datetime(),
        not_after: validity.not_after.to_datetime(),
        issuer_path: Vec::new(),
        id,
    })
}

/// Why a chain is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// No certificate at all.
    #[error("certificate chain is empty")]
    EmptyChain,
    /// The leaf names nobody.
    #[error("leaf has no URI name")]
    NoUriSan,
    /// The leaf's name is no SPIFFE ID.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// No bundle for the leaf's trust domain.
    #[error("no trust bundle for trust domain {trust_domain}")]
    UnknownTrustDomain {
        /// The domain the leaf names.
        trust_domain: TrustDomain,
    },
    /// The leaf's time is over.
    #[error("certificate expired at {not_after}, now is {now}")]
    Expired {
        /// The last second it was valid.
        not_after: OffsetDateTime,
        /// The time it was judged at.
        now: OffsetDateTime,
    },
    /// Not readable.
    #[error("certificate is malformed: {detail}")]
    Malformed {
        /// What the reader met.
        detail: String,
    },
    /// No path to a root.
    #[error("no valid path to a root: {detail}")]
    Path {
        /// What path building met.
        detail: String,
    },
}

impl VerifyError {
    /// A stable word for logs, metrics and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::EmptyChain => "empty_chain",
            Self::NoUriSan => "no_uri_san",
            Self::Id(_) => "bad_spiffe_id",
            Self::UnknownTrustDomain { .. } => "unknown_trust_domain",
            Self::Expired { .. } => "expired",
            Self::Malformed { .. } => "malformed",
            Self::Path { .. } => "no_path",
        }
    }
}
