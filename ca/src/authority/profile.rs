//! What our certificates say (X509-SVID §4; `docs/ARCHITECTURE.md`).

use postern_proto::identity::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use time::{Duration, OffsetDateTime};

use super::disk::Stored;
use super::{AuthorityError, BACKDATE, CaKey, KeyError, Signer};

/// Serial numbers are 128 random bits (RFC 5280 §4.1.2.2 allows 20 octets).
pub const SERIAL_BYTES: usize = 16;

/// A random serial, positive and minimal in DER whatever its bits.
pub(crate) fn serial_number() -> Result<[u8; SERIAL_BYTES], KeyError> {
    let mut serial = [0; SERIAL_BYTES];
    SystemRandom::new().fill(&mut serial).map_err(|_| KeyError::Generate)?;
    // A leading zero octet would be dropped in DER, and the number would be shown shorter than it is.
    if let Some(first) = serial.first_mut() {
        *first |= 1;
    }
    Ok(serial)
}

pub(crate) fn serial_hex(serial: &[u8]) -> String {
    serial.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A leaf: empty subject, critical SAN with one URI, digitalSignature, both purposes.
pub(crate) fn leaf_params(
    id: &SpiffeId,
    serial: [u8; SERIAL_BYTES],
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = id.as_str().try_into().map(SanType::URI).into_iter().collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    (params.not_before, params.not_after) = (whole_second(not_before), whole_second(not_after));
    params
}

fn whole_second(time: OffsetDateTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.unix_timestamp()).unwrap_or(time)
}

/// A CA certificate. Every one has a subject of its own, so that paths are found by name at once.
fn ca_params(
    trust_domain: &TrustDomain,
    role: &str,
    now: OffsetDateTime,
    life: Duration,
) -> Result<(CertificateParams, String), AuthorityError> {
    let serial = serial_number()?;
    let hex = serial_hex(&serial);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Postern");
    let mark = hex.get(..8).unwrap_or_default();
    params.distinguished_name.push(DnType::CommonName, format!("{role} {mark} of {trust_domain}"));
    let own = format!("spiffe://{trust_domain}");
    params.subject_alt_names = vec![SanType::URI(own.as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    (params.not_before, params.not_after) = (whole_second(now - BACKDATE), whole_second(now + life));
    Ok((params, hex))
}

pub(super) fn make_root(
    trust_domain: &TrustDomain,
    now: OffsetDateTime,
    life: Duration,
) -> Result<Stored, AuthorityError> {
    let key = CaKey::generate()?;
    let (params, _) = ca_params(trust_domain, "root", now, life)?;
    let certificate = params.self_signed(&key)?.der().clone();
    Ok(Stored { certificate, key })
}

pub(super) fn make_issuer(
    trust_domain: &TrustDomain,
    root: &Signer,
    now: OffsetDateTime,
    life: Duration,
) -> Result<Stored, AuthorityError> {
    let key = CaKey::generate()?;
    let (mut params, _) = ca_params(trust_domain, "issuer", now, life)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &root.issuer)?.der().clone();
    Ok(Stored { certificate, key })
}
