//! A certificate authority made in the test: it signs whatever it is told to.

use postern_proto::identity::{
    BundlePin, PrivateKey, SpiffeId, Svid, TrustBundle, TrustBundles, TrustDomain,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

pub const TRUST_DOMAIN: &str = "shop.example";

pub fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/{path}")).unwrap()
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// As a CA does it: dated back by a minute.
    pub fn of(life: Duration, now: OffsetDateTime) -> Self {
        Self { not_before: now - Duration::minutes(1), not_after: now + life }
    }
}

pub struct Authority {
    pub root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // Every root has its own subject (design §2).
        let name = format!(
            "test root {}",
            key.public_key_raw().iter().map(|b| format!("{b:02x}")).collect::<String>()
        );
        params.distinguished_name.push(DnType::CommonName, &name[..40]);
        params.subject_alt_names = vec![uri(&format!("spiffe://{TRUST_DOMAIN}"))];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = OffsetDateTime::now_utc() - Duration::days(30);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(30);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { root, issuer: Issuer::new(params, key) }
    }

    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(TrustDomain::new(TRUST_DOMAIN).unwrap(), vec![self.root.clone()]).unwrap()
    }

    pub fn bundles(&self) -> TrustBundles {
        [self.bundle()].into_iter().collect()
    }

    pub fn pin(&self) -> BundlePin {
        self.bundle().pin()
    }

    /// Certifies the key of a signing request.
    pub fn certify(&self, csr: &[u8], id: &SpiffeId, validity: Validity) -> CertificateDer<'static> {
        self.sign(&SubjectPublicKeyInfo::from_der(&public_key(csr)).unwrap(), id, validity)
    }

    /// A certificate with a new key.
    pub fn leaf(&self, id: &SpiffeId, validity: Validity) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (self.sign(&key, id, validity), key)
    }

    pub fn svid(&self, id: &SpiffeId, validity: Validity) -> Svid {
        let (leaf, key) = self.leaf(id, validity);
        let key = PrivateKey::from_pkcs8(key.serialize_der());
        Svid::new(vec![leaf], key, &self.bundles(), validity.not_after - Duration::seconds(1)).unwrap()
    }

    fn sign(&self, key: &impl PublicKeyData, id: &SpiffeId, validity: Validity) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(id.as_str())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        (params.not_before, params.not_after) = (validity.not_before, validity.not_after);
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }
}

/// The subjectPublicKeyInfo of a signing request, DER.
pub fn public_key(csr: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};
    let (_, request) = X509CertificationRequest::from_der(csr).unwrap();
    request.certification_request_info.subject_pki.raw.to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub fn pem(kind: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    format!(
        "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
        base64::engine::general_purpose::STANDARD.encode(der)
    )
}
