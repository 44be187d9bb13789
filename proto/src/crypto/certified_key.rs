//! A certificate chain joined with the private key of its leaf.

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::provider;

/// Loads a chain and its key; an error where they do not belong together.
pub(crate) fn certified_key(
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let key = provider().key_provider.load_private_key(key)?;
    let certified = CertifiedKey::new(chain.to_vec(), key);
    certified.keys_match()?;
    Ok(certified)
}
