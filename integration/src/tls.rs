//! TLS clients, good and bad, that speak to a sidecar directly, and a server that does.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_proto::identity::{PrivateKey, SpiffeId, Svid, TrustBundles};
use postern_proto::mtls::{
    AuthorizeAny, AuthorizeId, PeerVerifier, TlsIdentity, client_config, server_config, server_name,
};
use postern_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;
use postern_proto::wire::v1::{IssueRequest, IssueResponse, RenewRequest, issue_request::Attestation};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::{Channel, Endpoint};

use crate::Ca;
use crate::apps::App;

/// Connects with an identity or none; believes `bundles`.
pub async fn connect(
    address: SocketAddr,
    identity: Option<&Svid>,
    bundles: Arc<TrustBundles>,
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_speaking(address, identity, bundles, &[]).await
}

/// The same, with ALPN.
pub async fn connect_speaking(
    address: SocketAddr,
    identity: Option<&Svid>,
    bundles: Arc<TrustBundles>,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let identity = identity.map(|svid| TlsIdentity::new(svid).unwrap());
    let judge = Arc::new(PeerVerifier::new(bundles, Arc::new(AuthorizeAny)));
    let config = client_config(identity.as_ref(), judge, alpn).unwrap();
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(config).connect(server_name(), tcp).await
}

/// One request to an echo service; in TLS 1.3 a server's refusal shows only when the client reads.
pub async fn echo_once(stream: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"one request").await?;
    stream.flush().await?;
    let mut answer = [0; 11];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"one request");
    Ok(())
}

/// An mTLS echo server that names no protocol, as whoever has no sidecar.
pub async fn echo_server(identity: &Svid, bundles: Arc<TrustBundles>) -> App {
    let identity = TlsIdentity::new(identity).unwrap();
    App::serve(move |tcp| {
        let judge = Arc::new(PeerVerifier::new(bundles.clone(), Arc::new(AuthorizeAny)));
        let config = server_config(&identity, judge, &[]).unwrap();
        async move {
            let (mut read, mut write) = tokio::io::split(TlsAcceptor::from(config).accept(tcp).await?);
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        }
    })
    .await
}

/// A client of the CA's gRPC API that shows `identity`, or nothing.
pub async fn ca_client(ca: &Ca, identity: Option<&Svid>) -> CertificateAuthorityClient<Channel> {
    CertificateAuthorityClient::new(channel(ca.address, ca.bundles(), identity).await.unwrap())
}

async fn channel(
    address: SocketAddr,
    bundles: Arc<TrustBundles>,
    identity: Option<&Svid>,
) -> Result<Channel, tonic::transport::Error> {
    let identity = identity.map(|svid| TlsIdentity::new(svid).unwrap());
    let connector = tower::service_fn(move |_: http::Uri| {
        let (bundles, identity) = (bundles.clone(), identity.clone());
        async move {
            let domain = bundles.iter().next().unwrap().trust_domain().clone();
            let judge = Arc::new(PeerVerifier::new(bundles, Arc::new(AuthorizeId(SpiffeId::of_ca(&domain)))));
            let config = client_config(identity.as_ref(), judge, &[b"h2"]).unwrap();
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let tls = TlsConnector::from(config).connect(server_name(), tcp).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tls))
        }
    });
    Endpoint::from_static("http://ca.postern.invalid").connect_with_connector(connector).await
}

/// Enrols `id` at the CA as a sidecar does, and returns the SVID.
pub async fn enrol(ca: &Ca, id: &str) -> Svid {
    redeem(ca, &ca.token(id)).await.unwrap()
}

/// Redeems a token with a new key.
pub async fn redeem(ca: &Ca, token: &str) -> Result<Svid, tonic::Status> {
    let key = rcgen::KeyPair::generate().unwrap();
    let response = issue(ca, token, csr(&key)).await?;
    Ok(svid(response, key, &ca.bundles()))
}

/// Redeems a token with any request.
pub async fn issue(ca: &Ca, token: &str, csr: Vec<u8>) -> Result<IssueResponse, tonic::Status> {
    let request = IssueRequest { csr, attestation: Some(Attestation::JoinToken(token.trim().to_owned())) };
    Ok(ca_client(ca, None).await.issue(request).await?.into_inner())
}

/// Renews `svid` at the CA.
pub async fn renew(ca: &Ca, old: &Svid) -> Result<Svid, tonic::Status> {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = RenewRequest { csr: csr(&key) };
    let response = ca_client(ca, Some(old)).await.renew(request).await?.into_inner();
    Ok(svid(response, key, &ca.bundles()))
}

/// A request with nothing but its key.
pub fn csr(key: &rcgen::KeyPair) -> Vec<u8> {
    rcgen::CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

fn svid(response: IssueResponse, key: rcgen::KeyPair, bundles: &TrustBundles) -> Svid {
    let chain = response.chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKey::from_pkcs8(key.serialize_der());
    Svid::new(chain, key, bundles, OffsetDateTime::now_utc()).unwrap()
}

/// Renews with a request for the key of `old`: what no honest client does.
pub async fn renew_with_key_of(ca: &Ca, identity: &Svid, old: &Svid) -> Result<(), tonic::Status> {
    let pkcs8 = rustls_pki_types::PrivatePkcs8KeyDer::from(old.key().der().secret_der().to_vec());
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let request = RenewRequest { csr: csr(&key) };
    ca_client(ca, Some(identity)).await.renew(request).await.map(|_| ())
}

/// Asks for a renewal without showing a certificate.
pub async fn renew_without_certificate(ca: &Ca) -> Result<(), tonic::Status> {
    let request = RenewRequest { csr: csr(&rcgen::KeyPair::generate().unwrap()) };
    ca_client(ca, None).await.renew(request).await.map(|_| ())
}

/// Renews with a certificate that may be refused in the handshake already.
pub async fn try_renew(ca: &Ca, old: &Svid) -> Result<(), String> {
    let mut stream = connect_as_h2(ca, old).await.map_err(|error| error.to_string())?;
    // In TLS 1.3 the refusal shows when the client reads.
    let mut byte = [0; 1];
    match stream.read(&mut byte).await {
        Ok(0) => Err("closed".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn connect_as_h2(ca: &Ca, identity: &Svid) -> std::io::Result<TlsStream<TcpStream>> {
    let identity = TlsIdentity::new(identity).unwrap();
    let judge = Arc::new(PeerVerifier::new(ca.bundles(), Arc::new(AuthorizeAny)));
    let config = client_config(Some(&identity), judge, &[b"h2"]).unwrap();
    let tcp = TcpStream::connect(ca.address).await?;
    TlsConnector::from(config).connect(server_name(), tcp).await
}

/// Redeems tokens again and again over connections of its own, knowing the CA's bundle beforehand.
#[derive(Debug)]
pub struct Enroller {
    address: SocketAddr,
    bundles: Arc<TrustBundles>,
}

impl Enroller {
    pub fn new(ca: &Ca) -> Self {
        Self { address: ca.address, bundles: ca.bundles() }
    }

    pub async fn redeem(&self, token: &str) -> Result<Svid, String> {
        let key = rcgen::KeyPair::generate().unwrap();
        let proof = Some(Attestation::JoinToken(token.trim().to_owned()));
        let request = IssueRequest { csr: csr(&key), attestation: proof };
        let channel =
            channel(self.address, self.bundles.clone(), None).await.map_err(|error| error.to_string())?;
        let response = CertificateAuthorityClient::new(channel).issue(request).await;
        Ok(svid(response.map_err(|status| status.to_string())?.into_inner(), key, &self.bundles))
    }
}
