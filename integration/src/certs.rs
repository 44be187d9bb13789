//! Certificates of a CA that is not the mesh's, and TLS clients that hold them, or none.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_proto::identity::{PrivateKey, Svid, TrustBundle, TrustBundles, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

/// A certificate authority of the test's own.
pub struct TestCa {
    pub trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl std::fmt::Debug for TestCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestCa({})", self.trust_domain)
    }
}

impl TestCa {
    pub fn new(trust_domain: &str) -> Self {
        let trust_domain = TrustDomain::new(trust_domain).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("test root of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { trust_domain, issuer: Issuer::new(params, key), root }
    }

    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    pub fn bundles(&self) -> Arc<TrustBundles> {
        let bundle = TrustBundle::new(self.trust_domain.clone(), vec![self.root.clone()]).unwrap();
        Arc::new([bundle].into_iter().collect())
    }

    /// A certificate for `uri` with its key, valid for an hour.
    pub fn issue(&self, uri: &str) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let now = OffsetDateTime::now_utc();
        self.issue_between(uri, now - time::Duration::minutes(1), now + time::Duration::hours(1))
    }

    /// The same, with the validity given.
    pub fn issue_between(
        &self,
        uri: &str,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (not_before, not_after);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (vec![leaf.der().clone()], key)
    }

    /// The same as a whole SVID.
    pub fn svid(&self, uri: &str) -> Svid {
        let (chain, key) = self.issue(uri);
        let key = PrivateKey::from_pkcs8(key.serialize_der());
        Svid::new(chain, key, &self.bundles(), OffsetDateTime::now_utc()).unwrap()
    }
}

/// The chain as foreign programs read it, leaf first.
pub fn chain_pem(svid: &Svid) -> String {
    svid.chain().iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
}

/// The key as foreign programs read it.
pub fn key_pem(svid: &Svid) -> String {
    pem("PRIVATE KEY", svid.key().der().secret_der())
}

/// DER as OpenSSL reads it (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
