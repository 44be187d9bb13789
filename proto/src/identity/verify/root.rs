//! A certificate of a bundle, and whether it may vouch.

use ring::digest;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use time::OffsetDateTime;

use super::leaf::check_validity;
use super::path_error::path_error;
use super::{ParsedCertificate, Place, VerifyError};
use crate::identity::{SpiffeId, TrustDomain};

/// SHA-256 of a certificate's DER.
pub(crate) type Fingerprint = [u8; 32];

/// A bundle's certificate, parsed once for any number of verifications.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    fingerprint: Fingerprint,
    subject: String,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    path_len: Option<u32>,
    /// Its own URI name.
    id: Option<SpiffeId>,
    /// The rule that it breaks, where it vouches for nothing, not even for itself.
    anchor: Result<TrustAnchor<'static>, VerifyError>,
    /// The subject in DER, by which its issuing is recognised.
    raw_subject: Vec<u8>,
}

impl Root {
    /// Reads a certificate. One that is readable but no CA, or that breaks a rule, is kept and never used.
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, VerifyError> {
        let certificate = ParsedCertificate::parse(Place::Root, der)?;
        let (_, path_len) = certificate.basic_constraints();
        let id = certificate.spiffe_id();
        let anchor = check_root(&certificate).and_then(|()| names_a_domain(&id)).and_then(|()| {
            let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| path_error(&error))?;
            Ok(anchor.to_owned())
        });
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        Ok(Self {
            fingerprint,
            subject: certificate.subject(),
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
            path_len,
            id: id.ok().flatten(),
            anchor,
            raw_subject: certificate.raw_subject().to_vec(),
        })
    }

    /// The trust domain that its URI name claims; without one it belongs to whom its bundle was given for.
    pub(crate) fn trust_domain(&self) -> Option<&TrustDomain> {
        self.id.as_ref().map(SpiffeId::trust_domain)
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    pub(super) fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// What it vouches with for `trust_domain` at `now`, or the rule by which it does not.
    pub(super) fn anchor_for(
        &self,
        trust_domain: &TrustDomain,
        now: OffsetDateTime,
    ) -> Result<&TrustAnchor<'static>, VerifyError> {
        let anchor = self.anchor.as_ref().map_err(VerifyError::clone)?;
        if let Some(claimed) = self.trust_domain().filter(|claimed| *claimed != trust_domain) {
            return Err(VerifyError::RootOfOtherDomain { trust_domain: claimed.clone() });
        }
        check_validity(self.not_before, self.not_after, now)?;
        Ok(anchor)
    }

    /// Whether it has the name by which a certificate names its issuer.
    pub(super) fn is_named(&self, issuer: &[u8]) -> bool {
        self.raw_subject == issuer
    }

    /// Whether webpki's anchor is this root.
    pub(super) fn is_anchor(&self, anchor: &TrustAnchor<'_>) -> bool {
        self.anchor.as_ref().is_ok_and(|own| {
            own.subject == anchor.subject && own.subject_public_key_info == anchor.subject_public_key_info
        })
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    pub(super) fn path_len(&self) -> Option<u32> {
        self.path_len
    }
}

/// A root is a CA, signs certificates where it says what it is for, and keeps the rules of any certificate.
fn check_root(certificate: &ParsedCertificate<'_>) -> Result<(), VerifyError> {
    certificate.check_version()?;
    certificate.check_form()?;
    certificate.check_name_constraints()?;
    if certificate.has_unknown_critical_extension() {
        return Err(VerifyError::CriticalExtension);
    }
    let (ca, _) = certificate.basic_constraints();
    let signs = certificate.key_usage().is_none_or(|usage| usage.key_cert_sign());
    let place = || certificate.place.clone();
    match (ca, signs) {
        (true, true) => Ok(()),
        (false, _) => Err(VerifyError::IssuerNotCa { place: place() }),
        (true, false) => Err(VerifyError::IssuerDoesNotSign { place: place() }),
    }
}

/// X509-SVID §4.1: a signing certificate's SPIFFE ID has no path.
fn names_a_domain(id: &Result<Option<SpiffeId>, VerifyError>) -> Result<(), VerifyError> {
    match id {
        Err(error) => Err(error.clone()),
        Ok(Some(id)) if !id.path().is_empty() => {
            Err(VerifyError::IssuerWithPath { place: Place::Root, id: id.clone() })
        }
        Ok(_) => Ok(()),
    }
}
