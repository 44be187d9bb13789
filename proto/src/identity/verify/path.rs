//! The path from the leaf to a root: built by rustls-webpki, then looked at for what it leaves out.

use std::cell::RefCell;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};

use super::error::PassedOver;
use super::path_error::path_error;
use super::root::{Fingerprint, Root};
use super::{ParsedCertificate, Place, VerifyError};
use crate::crypto::signature_algorithms;
use crate::identity::{TrustBundle, TrustDomain};

/// Finds a path whose every certificate keeps the rules, and returns the subjects from the leaf's issuer to the root.
pub(super) fn check_path(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: OffsetDateTime,
) -> Result<VerifiedPath, VerifyError> {
    let trust_domain = bundle.trust_domain();
    let (roots, anchors) = usable(bundle, trust_domain, now);
    if anchors.is_empty() {
        let passed_over = passed_over(bundle, now, |_| true);
        return Err(VerifyError::NoUsableRoot { trust_domain: trust_domain.clone(), passed_over });
    }
    let Some((leaf, issuers)) = chain.split_first() else { return Err(VerifyError::EmptyChain) };
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| path_error(&error))?;
    let found = RefCell::new(Found::default());
    let look = |path: &webpki::VerifiedPath<'_>| match look_at(path, &roots) {
        Ok(verified) => {
            found.borrow_mut().verified = Some(verified);
            Ok(())
        }
        Err(error) => {
            found.borrow_mut().error.get_or_insert(error);
            Err(webpki::Error::UnknownIssuer)
        }
    };
    // One pass for client authentication; `look_at` asks for server authentication, so signatures are checked once.
    let result = leaf.verify_for_usage(
        signature_algorithms().all,
        &anchors,
        issuers,
        unix_time(now),
        KeyUsage::client_auth(),
        None,
        Some(&look),
    );
    let outcome = result.map(|_| ()).map_err(|error| path_error(&error));
    let Found { verified, error } = found.into_inner();
    match (outcome, error) {
        (Ok(()), _) => verified.ok_or(VerifyError::UnknownIssuer),
        (Err(_), Some(specific)) => Err(specific),
        (Err(VerifyError::UnknownIssuer), None) => Err(unknown_issuer(chain, bundle, now)),
        (Err(error), None) => Err(match error {
            VerifyError::NameConstraints
            | VerifyError::PathSignatureAlgorithm
            | VerifyError::PathMalformed { .. }
            | VerifyError::Path { .. } => first_fault(issuers).unwrap_or(error),
            specific => specific,
        }),
    }
}

/// Says of a root with the name of a presented certificate's issuer why it was not used.
fn unknown_issuer(chain: &[CertificateDer<'_>], bundle: &TrustBundle, now: OffsetDateTime) -> VerifyError {
    let presented = chain.iter().enumerate();
    let parsed = presented
        .filter_map(|(above_leaf, der)| ParsedCertificate::parse(Place::Issuer { above_leaf }, der).ok());
    let issuers: Vec<Vec<u8>> = parsed.map(|certificate| certificate.raw_issuer().to_vec()).collect();
    let passed_over = passed_over(bundle, now, |root| issuers.iter().any(|issuer| root.is_named(issuer)));
    if passed_over.0.is_empty() {
        VerifyError::UnknownIssuer
    } else {
        VerifyError::IssuerPassedOver { passed_over }
    }
}

/// The roots that are not used, each with the rule that it breaks.
fn passed_over(bundle: &TrustBundle, now: OffsetDateTime, which: impl Fn(&Root) -> bool) -> PassedOver {
    let roots = bundle.parsed_roots().iter().filter(|root| which(root));
    let broken = roots.filter_map(|root| {
        let rule = root.anchor_for(bundle.trust_domain(), now).err()?;
        Some((root.subject().to_owned(), rule))
    });
    PassedOver(broken.collect())
}

/// A rule that one of the presented issuers breaks: says more than webpki does of an issuer it cannot read.
fn first_fault(issuers: &[CertificateDer<'_>]) -> Option<VerifyError> {
    let check = |(at, der)| {
        let certificate = ParsedCertificate::parse(Place::Issuer { above_leaf: at + 1 }, der)?;
        check_issuer(&certificate)
    };
    issuers.iter().enumerate().find_map(|issuer| check(issuer).err())
}

/// Who vouches for a leaf.
pub(super) struct VerifiedPath {
    /// From the leaf's issuer to the root.
    pub(super) subjects: Vec<String>,
    pub(super) root: Fingerprint,
}

#[derive(Default)]
struct Found {
    verified: Option<VerifiedPath>,
    error: Option<VerifyError>,
}

fn usable<'b>(
    bundle: &'b TrustBundle,
    trust_domain: &TrustDomain,
    now: OffsetDateTime,
) -> (Vec<&'b Root>, Vec<TrustAnchor<'b>>) {
    let roots = bundle.parsed_roots().iter();
    roots.filter_map(|root| Some((root, root.anchor_for(trust_domain, now).ok()?.clone()))).unzip()
}

fn unix_time(now: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.unix_timestamp()).unwrap_or(0)))
}

/// What webpki does not look at, on every issuer of a path that it would accept.
fn look_at(path: &webpki::VerifiedPath<'_>, roots: &[&Root]) -> Result<VerifiedPath, VerifyError> {
    let mut subjects = Vec::new();
    for (below, issuer) in path.intermediate_certificates().enumerate() {
        let der = issuer.der();
        let certificate = ParsedCertificate::parse(Place::Issuer { above_leaf: below + 1 }, &der)?;
        check_issuer(&certificate)?;
        subjects.push(certificate.subject());
    }
    let anchor = path.anchor();
    let of_anchor = |root: &&&Root| root.is_anchor(anchor);
    let root = roots.iter().find(of_anchor).ok_or(VerifyError::UnknownIssuer)?;
    // webpki does not apply a root's own constraint.
    if root.path_len().is_some_and(|longest| subjects.len() > longest as usize) {
        return Err(VerifyError::PathLength);
    }
    subjects.push(root.subject().to_owned());
    Ok(VerifiedPath { subjects, root: root.fingerprint() })
}

fn check_issuer(issuer: &ParsedCertificate<'_>) -> Result<(), VerifyError> {
    issuer.check_form()?;
    issuer.check_name_constraints()?;
    let place = || issuer.place.clone();
    let (ca, _) = issuer.basic_constraints();
    if !ca {
        return Err(VerifyError::IssuerNotCa { place: place() });
    }
    if !issuer.critical_key_usage()?.key_cert_sign() {
        return Err(VerifyError::IssuerDoesNotSign { place: place() });
    }
    if issuer.extended_key_usage().is_some_and(|usage| !(usage.server_auth && usage.client_auth)) {
        return Err(VerifyError::ExtendedKeyUsage { place: place() });
    }
    // X509-SVID §4.1.
    match issuer.spiffe_id()? {
        Some(id) if !id.path().is_empty() => Err(VerifyError::IssuerWithPath { place: place(), id }),
        _ => Ok(()),
    }
}
