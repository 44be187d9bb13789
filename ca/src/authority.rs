//! Who signs: the root, the issuer below it, and the CA's own certificate for its gRPC port.

mod disk;
mod key;
mod profile;

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use postern_proto::identity::{SpiffeId, Svid, TrustBundle, TrustBundles, TrustDomain};
use postern_proto::mtls::TlsIdentity;
use rcgen::Issuer;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use time::{Duration, OffsetDateTime};
use tracing::info;

pub use disk::DiskError;
pub use key::{CaKey, KeyError};
pub use profile::SERIAL_BYTES;
pub(crate) use profile::{leaf_params, serial_hex, serial_number};

/// A root lives this long.
const ROOT_LIFE: Duration = Duration::days(3650);
/// An issuer lives this long; past half of it a new one takes over.
const ISSUER_LIFE: Duration = Duration::days(30);
/// Every certificate is valid from a little before its making, for clocks that are behind.
pub const BACKDATE: Duration = Duration::seconds(60);

/// The certificate authority of one trust domain.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    root: Signer,
    bundle: TrustBundle,
    bundles: Arc<TrustBundles>,
    issuer: ArcSwap<Signer>,
    disk: disk::Disk,
}

/// A CA certificate with its key.
pub struct Signer {
    pub certificate: CertificateDer<'static>,
    pub issuer: Issuer<'static, CaKey>,
    /// Lower-case hex.
    pub serial: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({}, until {})", self.serial, self.not_after)
    }
}

/// Why there is no authority.
#[derive(Debug, Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("a stored CA certificate is not usable: {0}")]
    Stored(String),
    #[error("the data directory belongs to trust domain {found}, not to {expected}")]
    OtherTrustDomain { found: String, expected: TrustDomain },
    #[error("what was made is refused")]
    Refused(#[from] postern_proto::identity::SvidError),
    #[error("the bundle is refused")]
    Bundle(#[from] postern_proto::identity::BundleError),
    #[error("the CA's own certificate cannot be served")]
    Tls(#[from] rustls::Error),
}

impl Authority {
    /// Opens the authority in a directory, or makes root and issuer where there is none. The directory is whole or
    /// not there: what a crash left half-made is made anew.
    pub fn open(dir: &Path, trust_domain: &TrustDomain, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let disk = disk::Disk::new(dir);
        if !disk.exists() {
            let root = profile::make_root(trust_domain, now, ROOT_LIFE)?;
            disk.create(trust_domain, &root)?;
            info!(trust_domain = %trust_domain, "made a new root");
        }
        let stored = disk.trust_domain()?;
        if stored != trust_domain.as_str() {
            return Err(AuthorityError::OtherTrustDomain { found: stored, expected: trust_domain.clone() });
        }
        let root = disk.load("root")?.into_signer()?;
        let bundle = TrustBundle::new(trust_domain.clone(), vec![root.certificate.clone()])?;
        let issuer = match disk.load_if_there("issuer")? {
            Some(stored) => stored.into_signer()?,
            None => make_issuer(&disk, &root, trust_domain, now)?,
        };
        let bundles = Arc::new([bundle.clone()].into_iter().collect());
        let issuer = ArcSwap::from_pointee(issuer);
        let authority = Self { trust_domain: trust_domain.clone(), root, bundle, bundles, issuer, disk };
        authority.renew_issuer(now)?;
        Ok(authority)
    }

    /// Replaces the issuer when it is past half of its life.
    pub fn renew_issuer(&self, now: OffsetDateTime) -> Result<(), AuthorityError> {
        let current = self.issuer.load();
        if now < current.not_before + (current.not_after - current.not_before) / 2 {
            return Ok(());
        }
        let next = make_issuer(&self.disk, &self.root, &self.trust_domain, now)?;
        info!(serial = next.serial, not_after = %next.not_after, "issuer renewed");
        self.issuer.store(Arc::new(next));
        Ok(())
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    pub fn bundles(&self) -> &Arc<TrustBundles> {
        &self.bundles
    }

    /// Who signs leaves now.
    pub fn issuer(&self) -> Arc<Signer> {
        self.issuer.load_full()
    }

    pub fn root_not_after(&self) -> OffsetDateTime {
        self.root.not_after
    }

    /// A fresh certificate for the CA's own port. Its handshake shows the roots, too, for those who hold only a pin.
    pub fn serving_identity(
        &self,
        now: OffsetDateTime,
        life: Duration,
    ) -> Result<TlsIdentity, AuthorityError> {
        let key = CaKey::generate()?;
        let id = SpiffeId::of_ca(&self.trust_domain);
        let issuer = self.issuer();
        let params = leaf_params(&id, serial_number()?, now - BACKDATE, now + life);
        let leaf = params.signed_by(&key, &issuer.issuer)?;
        let chain = vec![leaf.der().clone(), issuer.certificate.clone()];
        let svid = Svid::new(chain, key.to_private_key(), &self.bundles, now)?;
        Ok(TlsIdentity::with_roots(&svid, self.bundle.roots())?)
    }
}

fn make_issuer(
    disk: &disk::Disk,
    root: &Signer,
    trust_domain: &TrustDomain,
    now: OffsetDateTime,
) -> Result<Signer, AuthorityError> {
    let made = profile::make_issuer(trust_domain, root, now, ISSUER_LIFE)?;
    disk.save("issuer", &made)?;
    made.into_signer()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, now: OffsetDateTime) -> Result<Authority, AuthorityError> {
        Authority::open(dir, &TrustDomain::new("shop.example").unwrap(), now)
    }

    #[test]
    fn what_was_made_once_is_found_again() {
        let (dir, now) = (tempfile::tempdir().unwrap(), OffsetDateTime::now_utc());
        let pin = open(dir.path(), now).unwrap().bundle().pin();
        let again = open(dir.path(), now).unwrap();
        assert_eq!(again.bundle().pin(), pin);
        let other = Authority::open(dir.path(), &TrustDomain::new("other.example").unwrap(), now);
        assert!(matches!(other, Err(AuthorityError::OtherTrustDomain { .. })));
    }

    #[test]
    fn a_half_made_authority_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("authority.new")).unwrap();
        std::fs::write(dir.path().join("authority.new/root.key"), "half").unwrap();
        open(dir.path(), OffsetDateTime::now_utc()).unwrap();
    }

    #[test]
    fn the_issuer_is_replaced_past_half_of_its_life_and_not_before() {
        let (dir, now) = (tempfile::tempdir().unwrap(), OffsetDateTime::now_utc());
        let authority = open(dir.path(), now).unwrap();
        let first = authority.issuer().serial.clone();
        authority.renew_issuer(now + ISSUER_LIFE / 2 - Duration::minutes(5)).unwrap();
        assert_eq!(authority.issuer().serial, first);
        authority.renew_issuer(now + ISSUER_LIFE / 2).unwrap();
        let second = authority.issuer().serial.clone();
        assert_ne!(second, first);
        assert_eq!(open(dir.path(), now + ISSUER_LIFE / 2).unwrap().issuer().serial, second, "it is kept");
    }

    #[test]
    fn the_own_certificate_is_good_by_the_pin_alone() {
        let (dir, now) = (tempfile::tempdir().unwrap(), OffsetDateTime::now_utc());
        open(dir.path(), now).unwrap().serving_identity(now, Duration::hours(1)).unwrap();
    }
}
