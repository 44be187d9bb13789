//! TLS clients that speak to a sidecar directly, good and bad.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_proto::identity::{PrivateKey, SpiffeId, Svid, TrustBundles};
use postern_proto::join_token::JoinToken;
use postern_proto::mtls::{Anyone, Exactly, Judge, TlsIdentity, client_config, server_name};
use postern_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;
use postern_proto::wire::v1::{IssueRequest, IssueResponse, RenewRequest, issue_request::Attestation};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::Ca;

/// Connects with an identity or none; believes `bundles`.
pub async fn connect(
    address: SocketAddr,
    identity: Option<&Svid>,
    bundles: Arc<TrustBundles>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let identity = identity.map(|svid| TlsIdentity::new(svid).unwrap());
    let judge = Arc::new(Judge::new(bundles, Arc::new(Anyone)));
    let config = client_config(identity.as_ref(), judge, &[]).unwrap();
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

/// A client of the CA's gRPC API that shows `identity`, or nothing.
pub async fn ca_client(ca: &Ca, identity: Option<&Svid>) -> CertificateAuthorityClient<Channel> {
    let (address, bundles) = (ca.address, ca.bundles());
    let identity = identity.map(|svid| TlsIdentity::new(svid).unwrap());
    let connector = tower::service_fn(move |_: http::Uri| {
        let (bundles, identity) = (bundles.clone(), identity.clone());
        async move {
            let (domain, _) = (bundles.iter().next().unwrap().trust_domain().clone(), ());
            let judge = Arc::new(Judge::new(bundles, Arc::new(Exactly(SpiffeId::of_ca(&domain)))));
            let config = client_config(identity.as_ref(), judge, &[b"h2"]).unwrap();
            let tcp = TcpStream::connect(address).await?;
            let tls = TlsConnector::from(config).connect(server_name(), tcp).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tls))
        }
    });
    let endpoint = Endpoint::from_static("http://ca.postern.invalid");
    CertificateAuthorityClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

/// Enrols `id` at the CA as a sidecar does, and returns the SVID.
pub async fn enrol(ca: &Ca, id: &str) -> Svid {
    let token = ca.token(id);
    JoinToken::parse(&token).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let request = IssueRequest { csr: csr(&key), attestation: Some(Attestation::JoinToken(token)) };
    let response = ca_client(ca, None).await.issue(request).await.unwrap().into_inner();
    svid(response, key, &ca.bundles())
}

/// Renews `svid` at the CA.
pub async fn renew(ca: &Ca, old: &Svid) -> Result<Svid, tonic::Status> {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = RenewRequest { csr: csr(&key) };
    let response = ca_client(ca, Some(old)).await.renew(request).await?.into_inner();
    Ok(svid(response, key, &ca.bundles()))
}

fn csr(key: &rcgen::KeyPair) -> Vec<u8> {
    rcgen::CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

fn svid(response: IssueResponse, key: rcgen::KeyPair, bundles: &TrustBundles) -> Svid {
    let chain = response.chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKey::from_pkcs8(key.serialize_der());
    Svid::new(chain, key, bundles, OffsetDateTime::now_utc()).unwrap()
}
