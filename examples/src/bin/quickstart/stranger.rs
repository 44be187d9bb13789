//! Clients who have no business here, and what they try.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::{PrivateKey, Svid, TrustBundle, TrustBundles, TrustDomain};
use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity, client_config, server_name};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client got for its request.
#[derive(Debug)]
pub(crate) enum Got {
    /// The app's answer: the door was open.
    Answer(String),
    /// Nothing but this.
    Refused(String),
}

/// Asks without any TLS, as an app without a sidecar does.
pub(crate) async fn plaintext(address: SocketAddr) -> io::Result<Got> {
    ask(TcpStream::connect(address).await?).await
}

/// Asks over TLS, with a certificate or without; believes `bundles`.
pub(crate) async fn tls(
    address: SocketAddr,
    svid: Option<&Svid>,
    bundles: Arc<TrustBundles>,
) -> anyhow::Result<Got> {
    let identity = svid.map(TlsIdentity::new).transpose()?;
    let judge = Arc::new(PeerVerifier::new(bundles, Arc::new(AuthorizeAny)));
    let config = client_config(identity.as_ref(), judge, &[])?;
    let tcp = TcpStream::connect(address).await?;
    Ok(match TlsConnector::from(config).connect(server_name(), tcp).await {
        Ok(stream) => ask(stream).await?,
        Err(error) => Got::Refused(error.to_string()),
    })
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Got> {
    let mut answer = Vec::new();
    let asked = async {
        // The other side may break off before it has read everything: what it says then is still to be read.
        let written = stream.write_all(REQUEST).await;
        stream.read_to_end(&mut answer).await.and(written)
    };
    let ended = tokio::time::timeout(PATIENCE, asked).await.map_err(io::Error::from)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let told = format!("{}: {}", head.lines().next().unwrap_or_default(), body.trim_end());
    Ok(match ended {
        // The sidecar, too, says why in HTTP; only the app says 200.
        _ if head.starts_with("HTTP/1.1 200") => Got::Answer(told),
        _ if !answer.is_empty() => Got::Refused(told),
        Ok(()) => Got::Refused("the connection was closed".to_owned()),
        Err(error) => Got::Refused(error.to_string()),
    })
}

/// A certificate for `name` under the same trust domain, perfect but for one thing: another CA has signed it.
pub(crate) fn svid_of_another_ca(trust_domain: &TrustDomain, name: &str) -> anyhow::Result<Svid> {
    let now = OffsetDateTime::now_utc();
    let (root_key, leaf_key) = (KeyPair::generate()?, KeyPair::generate()?);

    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "another CA");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_certificate = root.self_signed(&root_key)?;

    let mut leaf = CertificateParams::default();
    leaf.distinguished_name = DistinguishedName::new();
    leaf.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}/{name}").try_into()?)];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (leaf.not_before, leaf.not_after) = (now - time::Duration::MINUTE, now + time::Duration::HOUR);
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(root, root_key))?;

    let bundle = TrustBundle::new(trust_domain.clone(), vec![root_certificate.der().clone()])?;
    let key = PrivateKey::from_pkcs8(leaf_key.serialize_der());
    Ok(Svid::new(vec![leaf.der().clone()], key, &[bundle].into_iter().collect(), now)?)
}
