//! The roots that vouch for a trust domain, kept apart from every other domain's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use super::pem::{PemError, certificates_from_pem};
use super::verified_chains::VerifiedChains;
use super::verify::Root;
use super::{TrustDomain, VerifyError};

/// A bundle holds at most this many bytes of DER.
pub const BUNDLE_BYTES_MAX: usize = 1024 * 1024;
/// A bundle holds at most this many roots.
pub const BUNDLE_ROOTS_MAX: usize = 100;

/// One trust domain's roots, in ascending order of their bytes, without repetition.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    /// The same roots, parsed once.
    parsed: Vec<Root>,
}

impl TrustBundle {
    /// Takes the roots of `trust_domain`, whole or not at all.
    pub fn new(
        trust_domain: TrustDomain,
        mut roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        roots.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        roots.dedup();
        if roots.len() > BUNDLE_ROOTS_MAX {
            return Err(BundleError::TooManyRoots { roots: roots.len() });
        }
        let bytes = roots.iter().map(|root| root.len()).sum();
        if bytes > BUNDLE_BYTES_MAX {
            return Err(BundleError::TooLarge { bytes });
        }
        let parse = |(at, der)| {
            Root::parse(der).map_err(|error| BundleError::Unreadable { certificate: at + 1, error })
        };
        let parsed = roots.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { trust_domain, roots, parsed })
    }

    /// Whose roots these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub(super) fn parsed_roots(&self) -> &[Root] {
        &self.parsed
    }

    /// The fingerprint that a join token carries.
    pub fn pin(&self) -> BundlePin {
        let mut context = digest::Context::new(&digest::SHA256);
        for root in &self.roots {
            context.update(root);
        }
        let mut pin = [0; 32];
        pin.copy_from_slice(context.finish().as_ref());
        BundlePin(pin)
    }
}

/// The same roots for the same domain.
impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.roots == other.roots
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustBundle({}, {} roots, pin {})", self.trust_domain, self.roots.len(), self.pin())
    }
}

/// Every bundle that one party trusts, by trust domain. Bundles are never merged. They never change, so what was
/// verified under them can be remembered with them: other trust is another value, which remembers nothing yet.
#[derive(Clone, Default)]
pub struct TrustBundles {
    domains: BTreeMap<TrustDomain, Arc<TrustBundle>>,
    /// Clones share it: they trust the same.
    chains: Arc<VerifiedChains>,
}

impl TrustBundles {
    /// Reads a PEM file of roots, whole or not at all. A root with a SPIFFE ID belongs to that ID's domain, any
    /// other to `default`.
    pub fn from_pem(default: &TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        if pem.len() > BUNDLE_BYTES_MAX {
            return Err(BundleError::TooLarge { bytes: pem.len() });
        }
        let certificates = certificates_from_pem(pem)?;
        if certificates.is_empty() {
            return Err(BundleError::Empty);
        }
        if certificates.len() > BUNDLE_ROOTS_MAX {
            return Err(BundleError::TooManyRoots { roots: certificates.len() });
        }
        let mut domains: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> = BTreeMap::new();
        for (at, der) in certificates.into_iter().enumerate() {
            let root = Root::parse(&der);
            let root = root.map_err(|error| BundleError::Unreadable { certificate: at + 1, error })?;
            domains.entry(root.trust_domain().unwrap_or(default).clone()).or_default().push(der);
        }
        domains.into_iter().map(|(domain, roots)| TrustBundle::new(domain, roots)).collect()
    }

    /// The roots of one trust domain.
    pub fn of(&self, trust_domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.domains.get(trust_domain)
    }

    /// All bundles, ordered by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.domains.values()
    }

    pub(super) fn chains(&self) -> &Arc<VerifiedChains> {
        &self.chains
    }
}

/// The same bundles, whatever is remembered.
impl PartialEq for TrustBundles {
    fn eq(&self, other: &Self) -> bool {
        self.domains == other.domains
    }
}

impl Eq for TrustBundles {}

impl fmt::Debug for TrustBundles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.domains.values()).finish()
    }
}

impl FromIterator<TrustBundle> for TrustBundles {
    fn from_iter<I: IntoIterator<Item = TrustBundle>>(bundles: I) -> Self {
        let of_domain = |bundle: TrustBundle| (bundle.trust_domain.clone(), Arc::new(bundle));
        Self { domains: bundles.into_iter().map(of_domain).collect(), chains: Arc::default() }
    }
}

/// Why roots are no bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BundleError {
    /// More than [`BUNDLE_ROOTS_MAX`].
    #[error("bundle has {roots} roots, more than the {BUNDLE_ROOTS_MAX} allowed")]
    TooManyRoots {
        /// How many it has.
        roots: usize,
    },
    /// More than [`BUNDLE_BYTES_MAX`].
    #[error("bundle has {bytes} bytes, more than the {BUNDLE_BYTES_MAX} allowed")]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
    /// Not one root.
    #[error("bundle has no certificate")]
    Empty,
    /// Text that is not PEM of certificates throughout.
    #[error("bundle is refused whole: {0}")]
    Pem(#[from] PemError),
    /// One certificate that cannot be read refuses the whole.
    #[error("bundle is refused whole: certificate {certificate} in it: {error}")]
    Unreadable {
        /// Counts from 1.
        certificate: usize,
        /// What is wrong with it.
        error: VerifyError,
    },
}

/// SHA-256 over a bundle's roots (DER, in ascending order, one after another).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundlePin([u8; 32]);

impl BundlePin {
    /// Lower-case hex, for people.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// URL-safe base64 without padding, as join tokens write it.
    pub fn to_base64url(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads what [`Self::to_base64url`] wrote.
    pub fn from_base64url(text: &str) -> Result<Self, BundlePinError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BundlePinError)?;
        bytes.try_into().map(Self).map_err(|_| BundlePinError)
    }
}

impl fmt::Display for BundlePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// The text is not 32 bytes in URL-safe base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("bundle pin is not 32 bytes of URL-safe base64")]
pub struct BundlePinError;
