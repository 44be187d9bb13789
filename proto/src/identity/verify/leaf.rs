//! Rules for the leaf alone (X509-SVID §2, §4 and §5).

use time::OffsetDateTime;

use super::{ParsedCertificate, VerifyError};
use crate::identity::SpiffeId;

/// The leaf's identity: exactly one URI name, canonical, with a path.
pub(super) fn check_identity(leaf: &ParsedCertificate<'_>) -> Result<SpiffeId, VerifyError> {
    let id = leaf.spiffe_id()?.ok_or(VerifyError::NoUri)?;
    if id.path().is_empty() {
        return Err(VerifyError::NoPath { id });
    }
    Ok(id)
}

/// Everything a leaf must be and must not be.
pub(super) fn check_leaf(leaf: &ParsedCertificate<'_>) -> Result<(), VerifyError> {
    leaf.check_form()?;
    match leaf.basic_constraints() {
        (true, _) => return Err(VerifyError::LeafIsCa),
        // RFC 5280 §4.2.1.9: no pathLenConstraint without cA.
        (false, Some(_)) => return Err(VerifyError::LeafPathLen),
        (false, None) => {}
    }
    let usage = leaf.critical_key_usage()?;
    if usage.key_cert_sign() {
        return Err(VerifyError::LeafSignsCertificates);
    }
    if usage.crl_sign() {
        return Err(VerifyError::LeafSignsCrls);
    }
    if !usage.digital_signature() {
        return Err(VerifyError::NoDigitalSignature);
    }
    if let Some(usage) = leaf.extended_key_usage()
        && !(usage.server_auth && usage.client_auth)
    {
        return Err(VerifyError::ExtendedKeyUsage { place: leaf.place.clone() });
    }
    // RFC 5280 §4.2.1.6.
    if leaf.subject_is_empty() && !leaf.san_is_critical() {
        return Err(VerifyError::SanNotCritical);
    }
    Ok(())
}

/// The leaf's time.
pub(super) fn check_time(leaf: &ParsedCertificate<'_>, now: OffsetDateTime) -> Result<(), VerifyError> {
    check_validity(leaf.not_before(), leaf.not_after(), now)
}

/// Valid from notBefore through the whole second of notAfter.
pub(super) fn check_validity(
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<(), VerifyError> {
    if now < not_before {
        return Err(VerifyError::NotYetValid { not_before, now });
    }
    if now.unix_timestamp() > not_after.unix_timestamp() {
        return Err(VerifyError::Expired { not_after, now });
    }
    Ok(())
}
