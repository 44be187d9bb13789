//! A CA over real gRPC and TLS that behaves as a test tells it to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use postern_proto::identity::{SpiffeId, Svid, VerifiedSvid};
use postern_proto::join_token::JoinToken;
use postern_proto::mtls::{self, AuthorizeAny, PeerVerifier, TlsIdentity};
use postern_proto::wire::v1::certificate_authority_server::{
    CertificateAuthority, CertificateAuthorityServer,
};
use postern_proto::wire::v1::issue_request::Attestation;
use postern_proto::wire::v1::{
    IssueRequest, IssueResponse, RenewRequest, SidecarReport, SidecarUpdate, TrustBundle,
};
use postern_sidecar::clock::Clock;
use postern_sidecar::config::HostPort;
use time::{Duration, OffsetDateTime};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::authority::{Authority, TRUST_DOMAIN, Validity, public_key};
use crate::fake_subscriptions::Subscriptions;

/// What was asked of the CA.
#[derive(Debug, Clone)]
pub struct Asked {
    pub csr: Vec<u8>,
    /// Of whom: by certificate, or by join token.
    pub id: SpiffeId,
    /// The join token's text, for an enrolment.
    pub token: Option<String>,
}

pub type Answer = Arc<dyn Fn(&Asked) -> Result<IssueResponse, Status> + Send + Sync>;

/// What the CA does with the next connection.
#[derive(Clone)]
pub enum Behaviour {
    Answer(Answer),
    /// Never answers a request.
    HangInRequest,
    /// Never answers the client's first TLS message.
    HangInHandshake,
    /// Hangs up at once, as if it were not there.
    Away,
    /// Answers the client's first TLS message with other bytes.
    Garbage,
    /// Does the handshake, then sends bytes that are no HTTP/2.
    GarbageInTls,
}

pub struct FakeCa {
    pub address: SocketAddr,
    pub authority: Arc<Authority>,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    authority: Arc<Authority>,
    behaviour: Mutex<Behaviour>,
    asked: Mutex<Vec<Asked>>,
    /// How long after expiry a certificate will do for renewing.
    grace: Mutex<std::time::Duration>,
    /// Tokens that were redeemed.
    redeemed: Mutex<Vec<String>>,
    subscriptions: Arc<Subscriptions>,
    own: Svid,
}

impl Drop for FakeCa {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeCa {
    pub async fn start(behaviour: Behaviour) -> Self {
        Self::start_with(Arc::new(Authority::new()), behaviour).await
    }

    pub async fn start_with(authority: Arc<Authority>, behaviour: Behaviour) -> Self {
        let ca = SpiffeId::of_ca(authority.bundle().trust_domain());
        let own = authority.svid(&ca, Validity::of(Duration::days(1), OffsetDateTime::now_utc()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            authority: authority.clone(),
            behaviour: Mutex::new(behaviour),
            asked: Mutex::default(),
            grace: Mutex::default(),
            redeemed: Mutex::default(),
            subscriptions: Arc::default(),
            own,
        });
        let server = tokio::spawn(serve(listener, shared.clone()));
        Self { address, authority, shared, server }
    }

    pub fn host_port(&self) -> HostPort {
        HostPort { host: self.address.ip().to_string(), port: self.address.port() }
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    pub fn renew_expired_for(&self, grace: std::time::Duration) {
        *self.shared.grace.lock().unwrap() = grace;
    }

    /// Who listens, and what is said to them.
    pub fn subscriptions(&self) -> &Arc<Subscriptions> {
        &self.shared.subscriptions
    }

    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    pub fn token(&self, id: &SpiffeId, secret: u8) -> String {
        JoinToken::new(id.clone(), self.authority.pin(), [secret; 32]).reveal().to_string()
    }

    /// Issues what is asked for, for this long; each token is good for one use.
    pub fn issue_for(&self, life: Duration, clock: Arc<dyn Clock>) -> Behaviour {
        issue(&self.authority, life, clock)
    }
}

pub fn issue(authority: &Arc<Authority>, life: Duration, clock: Arc<dyn Clock>) -> Behaviour {
    let authority = authority.clone();
    Behaviour::Answer(Arc::new(move |asked| {
        let leaf = authority.certify(&asked.csr, &asked.id, Validity::of(life, clock.now()));
        Ok(response(&authority, leaf.to_vec()))
    }))
}

/// An answer with this leaf and the authority's bundle.
pub fn response(authority: &Authority, leaf: Vec<u8>) -> IssueResponse {
    let bundle = TrustBundle {
        trust_domain: TRUST_DOMAIN.to_owned(),
        roots: vec![authority.root.to_vec()],
        sequence: 1,
    };
    IssueResponse { chain: vec![leaf], bundles: vec![bundle], ignored: Vec::new() }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        connections.spawn(connection(tcp, shared.clone()));
    }
}

async fn connection(mut tcp: TcpStream, shared: Arc<Shared>) {
    let behaviour = shared.behaviour.lock().unwrap().clone();
    match behaviour {
        Behaviour::Away => return,
        Behaviour::HangInHandshake => std::future::pending().await,
        Behaviour::Garbage => {
            let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
            return;
        }
        _ => {}
    }
    let identity =
        TlsIdentity::with_roots(&shared.own, std::slice::from_ref(&shared.authority.root)).unwrap();
    let grace = *shared.grace.lock().unwrap();
    let judge = PeerVerifier::new(Arc::new(shared.authority.bundles()), Arc::new(AuthorizeAny))
        .certificate_optional()
        .expired_for_at_most(grace);
    let judge = Arc::new(judge);
    let config = mtls::server_config(&identity, judge.clone(), &[b"h2"]).unwrap();
    let Ok(mut tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
    if matches!(behaviour, Behaviour::GarbageInTls) {
        let _ = tls.write_all(&[0x55; 4096]).await;
        let _ = tokio::io::copy(&mut tls, &mut tokio::io::sink()).await;
        return;
    }
    let service =
        CertificateAuthorityServer::new(Desk { shared, behaviour, peer: judge.admitted().cloned() });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(tls), TowerToHyperService::new(service))
        .await;
}

/// Answers the requests of one connection.
struct Desk {
    shared: Arc<Shared>,
    behaviour: Behaviour,
    peer: Option<VerifiedSvid>,
}

impl Desk {
    async fn answer(&self, asked: Asked) -> Result<Response<IssueResponse>, Status> {
        self.shared.asked.lock().unwrap().push(asked.clone());
        match &self.behaviour {
            Behaviour::Answer(answer) => answer(&asked).map(Response::new),
            _ => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl CertificateAuthority for Desk {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let IssueRequest { csr, attestation: Some(Attestation::JoinToken(token)) } = request.into_inner()
        else {
            return Err(Status::unauthenticated("no join token"));
        };
        let id = JoinToken::parse(&token).map_err(|e| Status::unauthenticated(e.to_string()))?.id().clone();
        let asked = Asked { csr, id, token: Some(token.clone()) };
        if self.shared.redeemed.lock().unwrap().contains(&token) {
            self.shared.asked.lock().unwrap().push(asked);
            return Err(Status::unauthenticated("join token was redeemed before"));
        }
        let answer = self.answer(asked).await?;
        self.shared.redeemed.lock().unwrap().push(token);
        Ok(answer)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<IssueResponse>, Status> {
        let peer = self.peer.as_ref().ok_or_else(|| Status::unauthenticated("no certificate"))?;
        self.answer(Asked { csr: request.into_inner().csr, id: peer.id().clone(), token: None }).await
    }

    type SubscribeStream = UnboundedReceiverStream<Result<SidecarUpdate, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SidecarReport>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let peer = self.peer.clone().ok_or_else(|| Status::unauthenticated("no certificate"))?;
        self.shared.subscriptions.serve(peer, request.into_inner()).await.map(Response::new)
    }
}

impl Asked {
    pub fn public_key(&self) -> Vec<u8> {
        public_key(&self.csr)
    }
}
