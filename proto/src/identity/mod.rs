//! Who a workload is, and when a certificate that says so is believed.

mod bundle;
mod pattern;
mod pem;
mod spiffe_id;
mod svid;
mod trust_domain;
mod verified_chains;
mod verify;

pub use bundle::{
    BUNDLE_BYTES_MAX, BUNDLE_ROOTS_MAX, BundleError, BundlePin, BundlePinError, TrustBundle, TrustBundles,
};
pub use pattern::{IdPattern, IdPatternError};
pub use pem::{NotPem, PemError, certificates_from_pem};
pub use spiffe_id::{SPIFFE_ID_BYTES_MAX, SpiffeId, SpiffeIdError};
pub use svid::{PrivateKey, PrivateKeyError, Svid, SvidError};
pub use trust_domain::{TRUST_DOMAIN_BYTES_MAX, TrustDomain, TrustDomainError};
pub use verified_chains::{CachedVerification, VERIFIED_CHAINS_MAX};
pub use verify::{
    CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX, PassedOver, Place, PublicKeyError, VerifiedSvid, VerifyError,
    check_public_key, claimed_id, verify,
};
