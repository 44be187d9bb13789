//! Verification of the CA's issue response. An issued certificate must pass the same checks that peers apply to it.

use std::sync::Arc;

use postern_proto::identity::{
    BundleError, BundlePin, PrivateKey, SpiffeId, Svid, SvidError, TrustBundle, TrustBundles, TrustDomain,
    TrustDomainError,
};
use postern_proto::wire::v1;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use time::OffsetDateTime;
use tracing::debug;

use super::IssuedIdentity;

/// Maximum number of trust bundles in a response.
pub const BUNDLES_MAX: usize = 100;

/// The identity that the response must contain.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpectedIdentity<'a> {
    pub(super) id: &'a SpiffeId,
    /// The expected pin of the own trust domain's bundle; set when a join token supplies it.
    pub(super) pin: Option<BundlePin>,
}

/// Accepts a chain that matches `key`, is valid at `now` under the bundles of the response, and has the expected
/// identity.
pub(super) fn verify(
    response: v1::IssueResponse,
    expected: ExpectedIdentity<'_>,
    key: PrivateKey,
    now: OffsetDateTime,
) -> Result<IssuedIdentity, ResponseError> {
    for ignored in response.ignored.iter().take(IGNORED_SHOWN_MAX) {
        debug!(ignored = %ignored.escape_debug(), "CA left something out");
    }
    let bundles = trust_bundles(response.bundles)?;
    let own = bundles.of(expected.id.trust_domain());
    let own =
        own.ok_or_else(|| ResponseError::NoOwnBundle { trust_domain: expected.id.trust_domain().clone() })?;
    if let Some(pin) = expected.pin
        && own.pin() != pin
    {
        return Err(ResponseError::WrongPin { expected: pin, found: own.pin() });
    }
    let chain = response.chain.into_iter().map(CertificateDer::from).collect();
    let svid = Svid::new(chain, key, &bundles, now)?;
    if svid.id() != expected.id {
        return Err(ResponseError::OtherIdentity { expected: expected.id.clone(), found: svid.id().clone() });
    }
    Ok(IssuedIdentity { svid, bundles: Arc::new(bundles) })
}

fn trust_bundles(bundles: Vec<v1::TrustBundle>) -> Result<TrustBundles, ResponseError> {
    if bundles.len() > BUNDLES_MAX {
        return Err(ResponseError::TooManyBundles { bundles: bundles.len() });
    }
    let mut read: Vec<TrustBundle> = Vec::with_capacity(bundles.len());
    for bundle in bundles {
        let trust_domain = TrustDomain::new(&bundle.trust_domain)?;
        if read.iter().any(|earlier| *earlier.trust_domain() == trust_domain) {
            return Err(ResponseError::BundleTwice { trust_domain });
        }
        let roots = bundle.roots.into_iter().map(CertificateDer::from).collect();
        read.push(TrustBundle::new(trust_domain, roots)?);
    }
    Ok(read.into_iter().collect())
}

/// Maximum number of ignored items of one response that are logged.
const IGNORED_SHOWN_MAX: usize = 16;

/// Why a response is rejected.
#[derive(Debug, Error)]
pub enum ResponseError {
    #[error("{bundles} trust bundles are more than the {BUNDLES_MAX} allowed")]
    TooManyBundles { bundles: usize },
    #[error("a trust bundle names no trust domain")]
    TrustDomain(#[from] TrustDomainError),
    #[error("trust domain {trust_domain} has two bundles")]
    BundleTwice { trust_domain: TrustDomain },
    #[error("a trust bundle is refused")]
    Bundle(#[from] BundleError),
    #[error("the bundle of the own trust domain {trust_domain} is missing")]
    NoOwnBundle { trust_domain: TrustDomain },
    #[error("the own trust domain's bundle has the pin {found}, not {expected} as the join token says")]
    WrongPin { expected: BundlePin, found: BundlePin },
    #[error("chain or key is refused")]
    Svid(#[from] SvidError),
    #[error("expected a certificate of {expected}, found {found}")]
    OtherIdentity { expected: SpiffeId, found: SpiffeId },
}
