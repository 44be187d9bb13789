//! A CA of the test, which issues SVIDs of any kind of key and any validity.

use std::sync::Arc;

use postern_proto::identity::{PrivateKey, Svid, TrustBundle, TrustBundles, TrustDomain};
use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

/// A root, and perhaps an issuer below it.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    issuer_certificate: Option<CertificateDer<'static>>,
    pub root: CertificateDer<'static>,
}

impl Default for Authority {
    fn default() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params("root");
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), issuer_certificate: None, root }
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Authority {
    /// Issues by a certificate between the root and the leaves, as the real CA does.
    pub fn new() -> Self {
        let Self { issuer: root_issuer, root, .. } = Self::default();
        let (key, params) = (KeyPair::generate().unwrap(), ca_params("issuer"));
        let certificate = params.signed_by(&key, &root_issuer).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), issuer_certificate: Some(certificate), root }
    }

    pub fn bundles(&self) -> Arc<TrustBundles> {
        let domain = TrustDomain::new("shop.example").unwrap();
        Arc::new([TrustBundle::new(domain, vec![self.root.clone()]).unwrap()].into_iter().collect())
    }

    /// A P-256 SVID that would be valid for an hour from now, had it not ended `ended` earlier.
    pub fn svid(&self, path: &str, ended: Duration) -> Svid {
        let now = OffsetDateTime::now_utc();
        let valid = (now - Duration::hours(9), now + Duration::hours(1) - ended);
        self.svid_of(&PKCS_ECDSA_P256_SHA256, path, valid)
    }

    /// An SVID that is valid from the first to the second time.
    pub fn svid_of(
        &self,
        algorithm: &'static SignatureAlgorithm,
        path: &str,
        valid: (OffsetDateTime, OffsetDateTime),
    ) -> Svid {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(format!("spiffe://shop.example{path}").try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = valid;
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let chain = [leaf].into_iter().chain(self.issuer_certificate.clone()).collect();
        let key = PrivateKey::from_pkcs8(key.serialize_der());
        Svid::new(chain, key, &self.bundles(), valid.0 + Duration::minutes(1)).unwrap()
    }

    pub fn identity(&self, path: &str) -> TlsIdentity {
        TlsIdentity::new(&self.svid(path, Duration::ZERO)).unwrap()
    }

    pub fn judge(&self) -> PeerVerifier {
        PeerVerifier::new(self.bundles(), Arc::new(AuthorizeAny))
    }
}
