//! Clients that knock at a sidecar's mTLS port without a right to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use postern_proto::identity::{PrivateKey, Svid, TrustBundle, TrustBundles, TrustDomain};
use postern_proto::mtls::{Anyone, Judge, TlsIdentity, client_config, server_name};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Sends an HTTP request through TLS with an identity or none; an answer would be a hole.
pub(crate) async fn request(
    address: SocketAddr,
    identity: Option<&Svid>,
    bundles: Arc<TrustBundles>,
) -> anyhow::Result<io::Result<usize>> {
    let identity = identity.map(TlsIdentity::new).transpose()?;
    let config = client_config(identity.as_ref(), Arc::new(Judge::new(bundles, Arc::new(Anyone))), &[])?;
    let exchange = async {
        let tcp = TcpStream::connect(address).await?;
        let mut tls = TlsConnector::from(config).connect(server_name(), tcp).await?;
        tls.write_all(b"GET / HTTP/1.1\r\nhost: payments\r\n\r\n").await?;
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await
    };
    Ok(exchange.await)
}

/// A certificate with the name of `orders`, from a CA that nobody here trusts.
pub(crate) fn impostor() -> anyhow::Result<Svid> {
    let (ca_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "another CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = ca.self_signed(&ca_key)?.der().clone();
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name = DistinguishedName::new();
    leaf.subject_alt_names = vec![SanType::URI("spiffe://shop.example/orders".try_into()?)];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let chain = vec![leaf.signed_by(&key, &Issuer::new(ca, ca_key))?.der().clone()];
    let trusted = TrustBundle::new(TrustDomain::new("shop.example")?, vec![root])?;
    let key = PrivateKey::from_pkcs8(key.serialize_der());
    Ok(Svid::new(chain, key, &[trusted].into_iter().collect(), OffsetDateTime::now_utc())?)
}
