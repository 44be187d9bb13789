//! Our records against rustls's own, in every suite, with its key updates and its tickets of any kind.

use std::sync::Arc;

use postern_proto::crypto::provider;
use postern_proto::mtls::{
    AuthorizeAny, HandshakeSecrets, PeerVerifier, TlsIdentity, client_config, server_config,
    server_config_with_secret_extraction, server_name,
};
use postern_sidecar::proxy::tls::{EstablishedTls, TlsStream, client_hello, connect};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::{ServerConfig, SupportedCipherSuite};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use crate::authority::Authority;
use crate::stranger::svid;

const ROUNDS: usize = 40;
/// Some records each way, each time.
const BYTES: usize = 50_000;

fn judge(authority: &Authority) -> Arc<PeerVerifier> {
    Arc::new(PeerVerifier::new(Arc::new(authority.bundles()), Arc::new(AuthorizeAny)))
}

/// A client that speaks one suite alone, so that the server has no choice.
fn client_of(
    authority: &Authority,
    suite: SupportedCipherSuite,
    secrets: Arc<HandshakeSecrets>,
) -> ClientConfig {
    let identity = TlsIdentity::new(&svid(authority, "orders")).unwrap();
    let resolver =
        client_config(Some(&identity), judge(authority), &[]).unwrap().client_auth_cert_resolver.clone();
    let provider = CryptoProvider { cipher_suites: vec![suite], ..(*provider()).clone() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(judge(authority))
        .with_client_cert_resolver(resolver);
    config.resumption = Resumption::disabled();
    config.key_log = secrets;
    config
}

/// A server that sends tickets, which ours never does.
fn server_with_tickets(authority: &Authority) -> Arc<ServerConfig> {
    let identity = TlsIdentity::new(&svid(authority, "payments")).unwrap();
    let mut config = Arc::unwrap_or_clone(server_config(&identity, judge(authority), &[]).unwrap());
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    config.send_tls13_tickets = 4;
    Arc::new(config)
}

async fn both() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// Sends texts and expects each of them back, and then the end.
async fn speak(mut stream: TlsStream) {
    for round in 0..ROUNDS {
        let text: Vec<u8> = (0..BYTES).map(|at| (at * 31 + round) as u8).collect();
        stream.write_all(&text).await.unwrap();
        stream.flush().await.unwrap();
        let mut back = vec![0; BYTES];
        stream.read_exact(&mut back).await.unwrap();
        assert!(back == text, "round {round}");
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0, "it ends as it says");
}

/// Sends back what comes, until the end; asks for new keys all the time.
async fn echo(mut stream: server::TlsStream<TcpStream>) {
    let mut buffer = vec![0; 9_000];
    loop {
        let bytes = stream.read(&mut buffer).await.unwrap();
        if bytes == 0 {
            break;
        }
        stream.get_mut().1.refresh_traffic_keys().unwrap();
        stream.write_all(&buffer[..bytes]).await.unwrap();
        stream.flush().await.unwrap();
    }
    stream.shutdown().await.unwrap();
}

/// The same in our records.
async fn echo_ours(mut stream: TlsStream) {
    let mut buffer = vec![0; 9_000];
    loop {
        let bytes = stream.read(&mut buffer).await.unwrap();
        if bytes == 0 {
            break;
        }
        stream.write_all(&buffer[..bytes]).await.unwrap();
        stream.flush().await.unwrap();
    }
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn our_client_speaks_with_its_server_over_key_updates_and_tickets() {
    let authority = Authority::new();
    for suite in provider().cipher_suites.clone() {
        let (near, far) = both().await;
        let acceptor = TlsAcceptor::from(server_with_tickets(&authority));
        let secrets = Arc::<HandshakeSecrets>::default();
        let client = Arc::new(client_of(&authority, suite, secrets.clone()));
        let serving = tokio::spawn(async move { echo(acceptor.accept(far).await.unwrap()).await });
        let EstablishedTls { stream, leaf, alpn, .. } = connect(near, client, &secrets).await.unwrap();
        assert!(leaf.is_some() && alpn.is_none());
        speak(stream).await;
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn our_server_speaks_with_its_client_over_key_updates() {
    let authority = Authority::new();
    for suite in provider().cipher_suites.clone() {
        let (near, far) = both().await;
        let mut client = client_of(&authority, suite, Arc::default());
        client.max_fragment_size = Some(700);
        let secrets = Arc::<HandshakeSecrets>::default();
        let identity = TlsIdentity::new(&svid(&authority, "payments")).unwrap();
        let server =
            server_config_with_secret_extraction(&identity, judge(&authority), &[], secrets.clone()).unwrap();
        let serving = tokio::spawn(async move {
            let hello = client_hello(far).await.unwrap();
            echo_ours(hello.accept(server, &secrets).await.unwrap().stream).await;
        });
        let mut stream = TlsConnector::from(Arc::new(client)).connect(server_name(), near).await.unwrap();
        for round in 0..ROUNDS {
            stream.get_mut().1.refresh_traffic_keys().unwrap();
            let text = vec![round as u8; BYTES];
            stream.write_all(&text).await.unwrap();
            stream.flush().await.unwrap();
            let mut back = vec![0; BYTES];
            stream.read_exact(&mut back).await.unwrap();
            assert!(back == text, "round {round}");
        }
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0, "it ends as it says");
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn a_configuration_that_yields_no_secrets_is_told_from_a_peer_that_fails() {
    let authority = Authority::new();
    let (near, far) = both().await;
    let acceptor = TlsAcceptor::from(server_with_tickets(&authority));
    let serving = tokio::spawn(async move { acceptor.accept(far).await.map(drop) });
    let client = client_of(&authority, provider().cipher_suites[0], Arc::default());
    let broken = connect(near, Arc::new(client), &HandshakeSecrets::default()).await.unwrap_err();
    assert_eq!(broken.error.to_string(), "the handshake has yielded no secrets");
    serving.await.unwrap().unwrap();
}
