//! The certificate chain and key that a party presents in its handshakes.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::CertificateDer;

use crate::crypto::{HANDSHAKE_SCHEMES, certified_key};
use crate::identity::Svid;

/// An own identity, loaded once for any number of handshakes.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    certified: Arc<CertifiedKey>,
    resolver: Arc<SingleCertAndKey>,
}

impl TlsIdentity {
    /// Presents the SVID's chain.
    pub fn new(svid: &Svid) -> Result<Self, rustls::Error> {
        Self::with_roots(svid, &[])
    }

    /// Presents the SVID's chain followed by `roots`, so that a client that holds only a pin can check them.
    pub fn with_roots(svid: &Svid, roots: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        let chain = [svid.chain(), roots].concat();
        let certified = Arc::new(certified_key(&chain, svid.key().der().clone_key())?);
        Ok(Self { resolver: Arc::new(SingleCertAndKey::from(certified.clone())), certified })
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        self.resolver.clone()
    }

    /// The chain that is presented, leaf first.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Signs with the first fitting scheme that is `offered` and good for a handshake; nothing if none is.
    pub(crate) fn sign(
        &self,
        offered: &[SignatureScheme],
        message: &[u8],
    ) -> Result<Option<(SignatureScheme, Vec<u8>)>, rustls::Error> {
        let good = HANDSHAKE_SCHEMES.iter().copied().filter(|scheme| offered.contains(scheme));
        let signer = self.certified.key.choose_scheme(&good.collect::<Vec<_>>());
        signer.map(|signer| Ok((signer.scheme(), signer.sign(message)?))).transpose()
    }
}
