//! A certificate of a bundle, and whether it may vouch.

use ring::digest;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use time::OffsetDateTime;

use super::{Facts, Place, VerifyError};
use crate::identity::{SpiffeId, TrustDomain};

/// SHA-256 of a certificate's DER.
pub(crate) type Fingerprint = [u8; 32];

/// A bundle's certificate, parsed once for any number of judgements.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    fingerprint: Fingerprint,
    subject: String,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    path_len: Option<u32>,
    /// Its own URI name.
    id: Option<SpiffeId>,
    /// Absent where the certificate vouches for nothing, not even for itself.
    anchor: Option<TrustAnchor<'static>>,
}

impl Root {
    /// Reads a certificate. One that is readable but no CA, or that breaks a rule, is kept and never used.
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, VerifyError> {
        let facts = Facts::parse(Place::Root, der)?;
        let (_, path_len) = facts.basic_constraints();
        let id = facts.spiffe_id();
        let fit = check_root(&facts).is_ok() && id.as_ref().is_ok_and(names_a_domain);
        let anchor = webpki::anchor_from_trusted_cert(der).ok().filter(|_| fit);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        Ok(Self {
            fingerprint,
            subject: facts.subject(),
            not_before: facts.not_before(),
            not_after: facts.not_after(),
            path_len,
            id: id.ok().flatten(),
            anchor: anchor.map(|anchor| anchor.to_owned()),
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

    /// What it vouches with for `trust_domain` at `now`, if it does.
    pub(super) fn anchor_for(
        &self,
        trust_domain: &TrustDomain,
        now: OffsetDateTime,
    ) -> Option<&TrustAnchor<'static>> {
        let own = self.trust_domain().is_none_or(|claimed| claimed == trust_domain);
        let valid = self.not_before <= now && now.unix_timestamp() <= self.not_after.unix_timestamp();
        self.anchor.as_ref().filter(|_| own && valid)
    }

    /// Whether webpki's anchor is this root.
    pub(super) fn is_anchor(&self, anchor: &TrustAnchor<'_>) -> bool {
        self.anchor.as_ref().is_some_and(|own| {
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
fn check_root(facts: &Facts<'_>) -> Result<(), VerifyError> {
    facts.check_form()?;
    if facts.has_unknown_critical_extension() {
        return Err(VerifyError::CriticalExtension);
    }
    let (ca, _) = facts.basic_constraints();
    let signs = facts.key_usage().is_none_or(|usage| usage.key_cert_sign());
    if ca && signs { Ok(()) } else { Err(VerifyError::IssuerNotCa { place: facts.place.clone() }) }
}

/// X509-SVID §4.1: a signing certificate's SPIFFE ID has no path.
fn names_a_domain(id: &Option<SpiffeId>) -> bool {
    id.as_ref().is_none_or(|id| id.path().is_empty())
}
