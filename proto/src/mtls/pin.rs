//! The trust bundle that a server shows in its chain, checked against a join token's pin.

use rustls_pki_types::CertificateDer;

use super::Verdict;
use crate::identity::{BundlePin, Place, TrustBundle, TrustBundles, TrustDomain, VerifyError};

/// The bundle of self-issued certificates in the chain, if it is the pinned one.
pub(super) fn pinned_bundle(
    trust_domain: &TrustDomain,
    pin: BundlePin,
    chain: &[CertificateDer<'_>],
) -> Result<TrustBundles, Box<Verdict>> {
    let roots = chain.iter().filter(|der| is_self_issued(der)).map(|der| der.clone().into_owned());
    let bundle = TrustBundle::new(trust_domain.clone(), roots.collect()).map_err(|error| {
        let detail = error.to_string();
        Box::new(Verdict::Unverified(VerifyError::Malformed { place: Place::Root, detail }))
    })?;
    if bundle.pin() != pin {
        return Err(Box::new(Verdict::WrongPin { expected: pin, found: bundle.pin() }));
    }
    Ok([bundle].into_iter().collect())
}

fn is_self_issued(der: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(der).is_ok_and(|cert| cert.issuer() == cert.subject())
}
