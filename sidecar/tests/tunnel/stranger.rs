//! Peers that hold an identity of the mesh and speak `postern/1` as they like.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use postern_proto::authenticator::{Request, authenticate};
use postern_proto::identity::Svid;
use postern_proto::mtls::{
    AuthorizeAny, ExporterSecret, HandshakeSecrets, PeerVerifier, TlsIdentity,
    client_config_with_secret_extraction, server_config, server_name,
};
use postern_sidecar::proxy::tunnel::{ALPN, Decoder, Event, Frame, Open, header};
use rustls::Side;
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use crate::authority::{Authority, Validity, id};

pub const NEWS: u8 = 0;
pub const REQUEST: u8 = 1;
pub const PROOF: u8 = 2;

pub fn svid(authority: &Authority, name: &str) -> Svid {
    authority.svid(&id(name), Validity::of(Duration::hours(1), OffsetDateTime::now_utc()))
}

/// A calling side that does what it is told.
pub struct Caller {
    pub tls: TlsStream<TcpStream>,
    pub exporter: ExporterSecret,
    decoder: Decoder,
}

impl Caller {
    pub async fn connect(authority: &Authority, name: &str, to: SocketAddr) -> Self {
        let identity = TlsIdentity::new(&svid(authority, name)).unwrap();
        let judge = Arc::new(PeerVerifier::new(Arc::new(authority.bundles()), Arc::new(AuthorizeAny)));
        let exporter = Arc::<HandshakeSecrets>::default();
        let config =
            client_config_with_secret_extraction(Some(&identity), judge, &[ALPN], exporter.clone()).unwrap();
        let tcp = TcpStream::connect(to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let tls = TlsConnector::from(config).connect(server_name(), tcp).await.unwrap();
        let exporter = exporter.take(tls.get_ref().1.negotiated_cipher_suite().unwrap()).unwrap().exporter;
        Self { tls, exporter, decoder: Decoder::default() }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.write_all(bytes).await?;
        self.tls.flush().await
    }

    /// Opens a lease, says a word and hears it.
    pub async fn lease(&mut self) {
        self.send(&[open(), data(b"word")].concat()).await.unwrap();
        assert_eq!(self.frame().await.unwrap(), Frame::Accept);
        assert_eq!(self.bytes(4).await.unwrap(), b"word");
    }

    /// The next frame that is not DATA.
    pub async fn frame(&mut self) -> io::Result<Frame> {
        loop {
            let byte = self.tls.read_u8().await?;
            if let Some(Event::Frame(frame)) = self.decoder.next(&mut &[byte][..]).unwrap() {
                return Ok(frame);
            }
        }
    }

    /// So many bytes of DATA.
    pub async fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        while data.len() < count {
            let byte = self.tls.read_u8().await?;
            if let Some(Event::Data(more)) = self.decoder.next(&mut &[byte][..]).unwrap() {
                data.extend_from_slice(more);
            }
        }
        Ok(data)
    }

    /// Waits for the end, which is none that was said.
    pub async fn expect_broken(&mut self) {
        let error = self.tls.read_to_end(&mut Vec::new()).await.expect_err("it breaks, and does not end");
        let kind = error.kind();
        assert!(matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{error}");
    }

    /// Says that there is news, and takes the request that follows.
    pub async fn asked(&mut self) -> Request {
        self.send(&auth(NEWS, &[])).await.unwrap();
        let Frame::Auth(body) = self.frame().await.unwrap() else { panic!("expected a request") };
        assert_eq!(body[0], REQUEST);
        Request::parse(Side::Server, &body[1..]).unwrap()
    }
}

pub fn prove(exporter: &ExporterSecret, request: &Request, svid: &Svid) -> Vec<u8> {
    let proof = authenticate(exporter, request, &TlsIdentity::new(svid).unwrap()).unwrap();
    auth(PROOF, &proof)
}

/// Answers as a called side.
pub async fn answer(
    authority: &Authority,
    name: &str,
    tcp: TcpStream,
) -> io::Result<server::TlsStream<TcpStream>> {
    accept(authority, name, tcp, &[ALPN]).await
}

/// Answers in plain mTLS.
pub async fn answer_direct(
    authority: &Authority,
    name: &str,
    tcp: TcpStream,
) -> io::Result<server::TlsStream<TcpStream>> {
    accept(authority, name, tcp, &[]).await
}

async fn accept(
    authority: &Authority,
    name: &str,
    tcp: TcpStream,
    alpn: &[&[u8]],
) -> io::Result<server::TlsStream<TcpStream>> {
    let judge = Arc::new(PeerVerifier::new(Arc::new(authority.bundles()), Arc::new(AuthorizeAny)));
    let identity = TlsIdentity::new(&svid(authority, name)).unwrap();
    TlsAcceptor::from(server_config(&identity, judge, alpn).unwrap()).accept(tcp).await
}

pub fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

pub fn open() -> Vec<u8> {
    encoded(&Frame::Open(Open::default()))
}

pub fn data(bytes: &[u8]) -> Vec<u8> {
    [&header(bytes.len()), bytes].concat()
}

pub fn reset(lease: u32) -> Vec<u8> {
    encoded(&Frame::Reset { lease, note: Vec::new() })
}

pub fn auth(kind: u8, body: &[u8]) -> Vec<u8> {
    encoded(&Frame::Auth([&[kind], body].concat()))
}
