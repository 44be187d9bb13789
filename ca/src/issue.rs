//! An issuance as a chain of types, so that any other order does not compile:
//! `Attestation → Grant → Template → Issued`, and only a recorded `Issued` gives its certificate away.
//!
//! No template without a grant, and no grant but from the registry:
//! ```compile_fail,E0451
//! # use postern_ca::{attest::Attestation, registry::Grant};
//! fn grant(id: postern_proto::identity::SpiffeId, attestation: Attestation, now: time::OffsetDateTime) -> Grant {
//!     Grant { id, attestation, now }
//! }
//! ```
//! A grant is used up by one template:
//! ```compile_fail,E0382
//! # use postern_ca::{issue::{Csr, Template}, registry::Grant};
//! # fn two(grant: Grant, one: Csr, two: Csr, life: std::time::Duration, now: time::OffsetDateTime) {
//! let first = Template::new(grant, one, life, now);
//! let second = Template::new(grant, two, life, now);
//! # }
//! ```
//! What is signed shows its chain only when it is on record:
//! ```compile_fail,E0616
//! # use postern_ca::issue::Issued;
//! fn leak(issued: Issued) -> usize {
//!     issued.chain.len()
//! }
//! ```

mod csr;
mod der;

use std::time::Duration;

use postern_proto::identity::{SpiffeId, VerifyError, verify};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use csr::{CSR_BYTES_MAX, Csr, CsrError};

use crate::authority::{
    Authority, BACKDATE, KeyError, SERIAL_BYTES, Signer, leaf_params, serial_hex, serial_number,
};
use crate::registry::Grant;
use crate::store::{CommitError, Record, Store};

/// Why a certificate is not made. None of these is the caller's fault.
#[derive(Debug, Error)]
pub enum IssueError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("signing failed")]
    Sign(#[from] rcgen::Error),
    #[error("the issuer has expired")]
    IssuerExpired,
    #[error("the signed certificate differs from its template (TBS mismatch), so it is not released")]
    TbsMismatch,
    #[error("what was signed is refused by those it is for, so it is not released")]
    Refused(#[from] VerifyError),
    #[error("what was signed names {found}, not {granted}, so it is not released")]
    OtherIdentity { found: SpiffeId, granted: SpiffeId },
}

/// Everything a certificate will say.
#[derive(Debug)]
pub struct Template {
    grant: Grant,
    csr: Csr,
    serial: [u8; SERIAL_BYTES],
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Template {
    /// The profile filled in. From the CSR comes the public key, and nothing else.
    pub fn new(grant: Grant, csr: Csr, life: Duration, now: OffsetDateTime) -> Result<Self, KeyError> {
        let now = OffsetDateTime::from_unix_timestamp(now.unix_timestamp()).unwrap_or(now);
        let (not_before, not_after) = (now - BACKDATE, now + life);
        Ok(Self { grant, csr, serial: serial_number()?, not_before, not_after })
    }

    /// Signs, and doubts what was signed: its bytes are compared with what was meant, and it is judged as its
    /// consumers will judge it.
    pub fn sign(mut self, authority: &Authority, now: OffsetDateTime) -> Result<Issued, IssueError> {
        let issuer = authority.issuer();
        self.not_after = self.not_after.min(issuer.not_after);
        if self.not_after <= now {
            return Err(IssueError::IssuerExpired);
        }
        let params = leaf_params(self.grant.id(), self.serial, self.not_before, self.not_after);
        let leaf = params.signed_by(self.csr.public_key(), &issuer.issuer)?.der().clone();
        self.check_tbs(&leaf, &issuer)?;
        let chain = vec![leaf, issuer.certificate.clone()];
        let judged = verify(&chain, authority.bundles(), now)?;
        if judged.id() != self.grant.id() {
            return Err(IssueError::OtherIdentity {
                found: judged.id().clone(),
                granted: self.grant.id().clone(),
            });
        }
        let record = Record {
            serial: serial_hex(&self.serial),
            spiffe_id: self.grant.id().to_string(),
            key_sha256: self.csr.key_sha256(),
            attestation: self.grant.attestation().recorded(),
            not_before: self.not_before.unix_timestamp(),
            not_after: self.not_after.unix_timestamp(),
            issued_at: now.unix_timestamp(),
            issuer: issuer.serial.clone(),
        };
        Ok(Issued { grant: self.grant, chain, record, ignored: self.csr.into_ignored() })
    }

    /// The signed bytes are those that this template means, written a second time by other hands.
    fn check_tbs(&self, leaf: &CertificateDer<'_>, issuer: &Signer) -> Result<(), IssueError> {
        let (_, issuing) =
            X509Certificate::from_der(&issuer.certificate).map_err(|_| IssueError::TbsMismatch)?;
        let (_, signed) = X509Certificate::from_der(leaf).map_err(|_| IssueError::TbsMismatch)?;
        let meant = der::to_be_signed(&der::Leaf {
            serial: &self.serial,
            issuer: issuing.subject().as_raw(),
            not_before: self.not_before,
            not_after: self.not_after,
            public_key_info: self.csr.public_key_info(),
            authority_key_id: der::key_identifier(issuing.public_key().raw),
            uri: self.grant.id().as_str(),
        });
        if signed.tbs_certificate.as_ref() == meant { Ok(()) } else { Err(IssueError::TbsMismatch) }
    }
}

/// A signed certificate that nobody has seen yet.
#[derive(Debug)]
pub struct Issued {
    grant: Grant,
    chain: Vec<CertificateDer<'static>>,
    record: Record,
    ignored: Vec<String>,
}

/// A certificate that is on record, and may leave.
#[derive(Debug)]
pub struct Released {
    pub chain: Vec<CertificateDer<'static>>,
    pub record: Record,
    pub ignored: Vec<String>,
}

impl Issued {
    /// Puts the issuance on record, together with what it was granted for; only then it may leave.
    pub async fn release(self, store: &Store) -> Result<Released, CommitError> {
        let Self { grant, chain, record, ignored } = self;
        store.commit(grant.into_authorisation(), record.clone()).await?;
        Ok(Released { chain, record, ignored })
    }
}
