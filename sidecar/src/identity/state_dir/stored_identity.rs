//! The format of the identity file: JSON with DER in base64.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_proto::identity::{
    BundleError, PrivateKey, SpiffeIdError, Svid, TrustBundle, TrustBundles, TrustDomain, TrustDomainError,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredIdentity {
    version: u32,
    /// PKCS#8.
    key: Zeroizing<String>,
    chain: Vec<String>,
    bundles: BTreeMap<String, Vec<String>>,
}

pub(super) type Parts = (Vec<CertificateDer<'static>>, PrivateKey, TrustBundles);

impl StoredIdentity {
    pub(super) fn new(svid: &Svid, bundles: &TrustBundles) -> Self {
        let bundle = |bundle: &TrustBundle| {
            (bundle.trust_domain().to_string(), bundle.roots().iter().map(encode).collect())
        };
        Self {
            version: VERSION,
            key: Zeroizing::new(STANDARD.encode(svid.key().der().secret_der())),
            chain: svid.chain().iter().map(encode).collect(),
            bundles: bundles.iter().map(|one| bundle(one)).collect(),
        }
    }

    pub(super) fn to_json(&self) -> Zeroizing<String> {
        // Cannot fail: strings and lists of strings always serialize.
        Zeroizing::new(serde_json::to_string(self).unwrap_or_default())
    }

    pub(super) fn parse(json: &[u8]) -> Result<Self, StateFormatError> {
        let stored: Self = serde_json::from_slice(json)
            .map_err(|error| StateFormatError::Form { line: error.line(), column: error.column() })?;
        match stored.version {
            VERSION => Ok(stored),
            version => Err(StateFormatError::Version { version }),
        }
    }

    pub(super) fn into_parts(self) -> Result<Parts, StateFormatError> {
        let key = STANDARD.decode(self.key.as_bytes()).map_err(|_| StateFormatError::Base64)?;
        let bundles = self.bundles.iter().map(|(trust_domain, roots)| {
            Ok(TrustBundle::new(TrustDomain::new(trust_domain)?, decode(roots)?)?)
        });
        let bundles: Result<_, StateFormatError> = bundles.collect();
        Ok((decode(&self.chain)?, PrivateKey::from_pkcs8(key), bundles?))
    }
}

pub(super) const VERSION: u32 = 1;

fn encode(certificate: &CertificateDer<'_>) -> String {
    STANDARD.encode(certificate)
}

fn decode(certificates: &[String]) -> Result<Vec<CertificateDer<'static>>, StateFormatError> {
    let decode =
        |text: &String| STANDARD.decode(text).map(CertificateDer::from).map_err(|_| StateFormatError::Base64);
    certificates.iter().map(decode).collect()
}

/// Why a state file cannot be parsed. The error never contains the file's text, which holds a key.
#[derive(Debug, Error)]
pub enum StateFormatError {
    #[error("it is not of the expected form at line {line}, column {column}")]
    Form { line: usize, column: usize },
    #[error("its version is {version}, not {VERSION}")]
    Version { version: u32 },
    #[error("it has a value that is not base64")]
    Base64,
    #[error("a trust bundle in it names no trust domain")]
    TrustDomain(#[from] TrustDomainError),
    #[error("a trust bundle in it is refused")]
    Bundle(#[from] BundleError),
    #[error("it names no SPIFFE ID")]
    SpiffeId(#[from] SpiffeIdError),
}
