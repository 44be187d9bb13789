//! Certificates of the shape that Postern's CA gives, for peers that insist on a DNS name beside the SPIFFE ID.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use postern_integration::certs::{chain_pem, key_pem, pem};
use postern_integration::{Mesh, TRUST_DOMAIN};
use postern_proto::identity::{PrivateKey, Svid, TrustBundle, TrustBundles, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use crate::peers::Middle;

/// Root, issuer and the SVIDs of `orders` and `payments`, all P-256, in files.
#[derive(Debug)]
pub(crate) struct Identities {
    pub(crate) root: PathBuf,
    pub(crate) orders: Files,
    pub(crate) payments: Files,
    bundles: Arc<TrustBundles>,
}

/// One SVID.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) dns_name: String,
    /// Leaf and issuer.
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, as haproxy reads them.
    pub(crate) both: PathBuf,
    svid: Arc<Svid>,
}

impl Files {
    pub(crate) fn id(&self) -> &str {
        self.svid.id().as_str()
    }
}

impl Identities {
    pub(crate) fn new(mesh: &Mesh) -> Self {
        let (root_key, issuer_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root_params = authority("bench root");
        let root = root_params.self_signed(&root_key).unwrap().der().clone();
        let root_issuer = Issuer::new(root_params, root_key);
        let issuer_params = authority("bench issuer");
        let issuer_der = issuer_params.signed_by(&issuer_key, &root_issuer).unwrap().der().clone();
        let issuer = Issuer::new(issuer_params, issuer_key);
        let bundle = TrustBundle::new(TrustDomain::new(TRUST_DOMAIN).unwrap(), vec![root.clone()]).unwrap();
        let bundles = Arc::new([bundle].into_iter().collect());
        let files = |name| Files::write(mesh, name, svid(name, &issuer, &issuer_der, &bundles));
        let (orders, payments) = (files("orders"), files("payments"));
        Self { root: mesh.write("root.pem", &pem("CERTIFICATE", &root)), orders, payments, bundles }
    }

    /// What a client of the second proxy must know.
    pub(crate) fn middle(&self, address: SocketAddr) -> Middle {
        Middle { address, bundles: self.bundles.clone(), caller: self.orders.svid.clone() }
    }
}

impl Files {
    fn write(mesh: &Mesh, name: &str, svid: Svid) -> Self {
        let (chain, key) = (chain_pem(&svid), key_pem(&svid));
        Self {
            dns_name: dns_name(name),
            chain: mesh.write(&format!("{name}.pem"), &chain),
            key: mesh.write(&format!("{name}.key"), &key),
            both: mesh.write(&format!("{name}.both"), &format!("{chain}{key}")),
            svid: Arc::new(svid),
        }
    }
}

fn svid(
    name: &str,
    issuer: &Issuer<'_, KeyPair>,
    chain: &CertificateDer<'static>,
    bundles: &TrustBundles,
) -> Svid {
    let id = format!("spiffe://{TRUST_DOMAIN}/{name}");
    let mut params = params(name);
    params.subject_alt_names = vec![
        SanType::URI(id.as_str().try_into().unwrap()),
        SanType::DnsName(dns_name(name).as_str().try_into().unwrap()),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, issuer).unwrap().der().clone();
    let key = PrivateKey::from_pkcs8(key.serialize_der());
    Svid::new(vec![leaf, chain.clone()], key, bundles, OffsetDateTime::now_utc()).unwrap()
}

fn dns_name(name: &str) -> String {
    format!("{name}.{TRUST_DOMAIN}")
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::MINUTE, now + Duration::DAY);
    params
}
