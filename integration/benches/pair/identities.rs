//! Certificates of the shape that Postern's CA gives, for peers that insist on a DNS name beside the SPIFFE ID.

use std::path::PathBuf;
use std::sync::Arc;

use postern_integration::certs::pem;
use postern_integration::{Mesh, TRUST_DOMAIN};
use postern_proto::identity::{TrustBundles, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// Root, issuer and the SVIDs of `orders` and `payments`, all P-256, in files.
#[derive(Debug)]
pub(crate) struct Identities {
    pub(crate) root: PathBuf,
    pub(crate) bundles: Arc<TrustBundles>,
    pub(crate) orders: Files,
    pub(crate) payments: Files,
}

/// One SVID.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) id: String,
    pub(crate) dns_name: String,
    /// Leaf and issuer.
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, as haproxy reads them.
    pub(crate) both: PathBuf,
}

impl Identities {
    pub(crate) fn new(mesh: &Mesh) -> Self {
        let (root_key, issuer_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root_params = authority("bench root");
        let root = root_params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root_params, root_key);
        let issuer_params = authority("bench issuer");
        let issuer = issuer_params.signed_by(&issuer_key, &root_issuer).unwrap();
        let (issuer, issuer_pem) = (Issuer::new(issuer_params, issuer_key), pem("CERTIFICATE", issuer.der()));
        let root = pem("CERTIFICATE", root.der());
        let domain = TrustDomain::new(TRUST_DOMAIN).unwrap();
        Self {
            bundles: Arc::new(TrustBundles::from_pem(&domain, root.as_bytes()).unwrap()),
            root: mesh.write("root.pem", &root),
            orders: svid(mesh, "orders", &issuer, &issuer_pem),
            payments: svid(mesh, "payments", &issuer, &issuer_pem),
        }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn svid(mesh: &Mesh, name: &str, issuer: &Issuer<'_, KeyPair>, issuer_pem: &str) -> Files {
    let (id, dns_name) = (format!("spiffe://{TRUST_DOMAIN}/{name}"), format!("{name}.{TRUST_DOMAIN}"));
    let mut params = params(name);
    params.subject_alt_names = vec![
        SanType::URI(id.as_str().try_into().unwrap()),
        SanType::DnsName(dns_name.as_str().try_into().unwrap()),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, issuer).unwrap();
    let chain = format!("{}{issuer_pem}", pem("CERTIFICATE", leaf.der()));
    let key = pem("PRIVATE KEY", &key.serialize_der());
    Files {
        id,
        dns_name,
        chain: mesh.write(&format!("{name}.pem"), &chain),
        key: mesh.write(&format!("{name}.key"), &key),
        both: mesh.write(&format!("{name}.both"), &format!("{chain}{key}")),
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::MINUTE, now + Duration::DAY);
    params
}
