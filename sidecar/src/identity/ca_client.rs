//! How the CA is asked: over a fresh connection each time; a certificate's answer is doubted before it is used.

mod answer;
mod connect;
mod request;
mod subscribe;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::{SpiffeId, Svid, TrustBundles};
use postern_proto::join_token::JoinToken;
use postern_proto::mtls::{AuthorizeId, PeerVerifier};
use postern_proto::wire::v1::issue_request::Attestation;
use postern_proto::wire::v1::{IssueRequest, IssueResponse, RenewRequest};
use rustls::AlertDescription;
use thiserror::Error;
use time::OffsetDateTime;
use tonic::{Code, Response, Status};

use crate::config::HostPort;
use crate::error_text::one_line;
use crate::identity::credentials::Credentials;
use crate::network::Unreached;
use crate::network::resolver::NameServers;
use answer::Expected;
pub use answer::{AnswerError, BUNDLES_MAX};
use connect::{CaAddress, Connection};
pub use request::{RequestError, SigningRequest};
pub use subscribe::Subscribed;

/// An answer of the CA has at most this many bytes.
pub const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long each step may take. Whatever a CA does, an attempt ends.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To resolve the name, and then for each address to open a TCP connection.
    pub connect: Duration,
    /// The TLS handshake.
    pub handshake: Duration,
    /// From the request to the whole answer.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            request: Duration::from_secs(30),
        }
    }
}

/// Asks one CA. Each request and each subscription has a connection of its own, with a fresh resolution of the name.
#[derive(Debug, Clone)]
pub struct CaClient {
    ca: CaAddress,
    timeouts: Timeouts,
}

/// An answer that was doubted and found good.
#[derive(Debug, Clone)]
pub struct Issued {
    pub svid: Svid,
    pub bundles: Arc<TrustBundles>,
}

impl CaClient {
    pub fn new(address: HostPort, name_servers: NameServers, timeouts: Timeouts) -> Self {
        Self { ca: CaAddress { address, name_servers }, timeouts }
    }

    /// Gets a first certificate for a join token, whose pin says which CA to believe. The CA answers a request again
    /// whose answer was lost, so ask with the same request until one has come.
    pub async fn enrol(
        &self,
        token: &JoinToken,
        request: SigningRequest,
        now: OffsetDateTime,
    ) -> Result<Issued, CaError> {
        let judge = PeerVerifier::pinned(token.id().trust_domain().clone(), token.pin());
        let mut connection = self.connect(None, judge).await?;
        let attestation = Some(Attestation::JoinToken(token.reveal().to_string()));
        let message = IssueRequest { csr: request.csr, attestation };
        let answer = self.in_time(connection.ca.issue(message)).await;
        let answer = answer.map_err(|error| error.explained_by(&connection))?;
        let expected = Expected { id: token.id(), pin: Some(token.pin()) };
        Ok(answer::judge(answer, expected, request.key, now)?)
    }

    /// Gets a new certificate for the identity at hand; the request is kept until it is answered, as for
    /// [`Self::enrol`].
    pub async fn renew(
        &self,
        credentials: &Credentials,
        request: SigningRequest,
        now: OffsetDateTime,
    ) -> Result<Issued, CaError> {
        let id = credentials.svid.id();
        let mut connection = self.connect(Some(credentials), ca_judge(credentials)).await?;
        let answer = self.in_time(connection.ca.renew(RenewRequest { csr: request.csr })).await;
        let answer = answer.map_err(|error| error.explained_by(&connection))?;
        Ok(answer::judge(answer, Expected { id, pin: None }, request.key, now)?)
    }

    async fn connect(
        &self,
        identity: Option<&Credentials>,
        judge: PeerVerifier,
    ) -> Result<Connection, CaError> {
        let tls = identity.map(|credentials| &credentials.tls);
        Connection::open(&self.ca, tls, Arc::new(judge), self.timeouts).await
    }

    async fn in_time(
        &self,
        call: impl Future<Output = Result<Response<IssueResponse>, Status>>,
    ) -> Result<IssueResponse, CaError> {
        match tokio::time::timeout(self.timeouts.request, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(CaError::of_status(&status)),
            Err(_) => Err(CaError::Timeout { step: "the answer", after: self.timeouts.request }),
        }
    }
}

/// Believes the CA of the own trust domain alone.
fn ca_judge(own: &Credentials) -> PeerVerifier {
    let ca = Arc::new(AuthorizeId(SpiffeId::of_ca(own.svid.id().trust_domain())));
    PeerVerifier::new(own.bundles.clone(), ca)
}

/// Why the CA gave nothing that can be used.
#[derive(Debug, Error)]
pub enum CaError {
    #[error("no signing request could be made")]
    Request(#[from] RequestError),
    #[error("CA {address} cannot be reached")]
    Unreachable {
        address: HostPort,
        #[source]
        cause: Unreached,
    },
    #[error("CA kept {step} waiting for more than {after:?}")]
    Timeout { step: &'static str, after: Duration },
    /// The server is not the CA we trust; the finding is in words.
    #[error("CA {address} is not believed: {finding}")]
    Distrusted { address: HostPort, finding: String },
    #[error("no TLS connection to CA {address}")]
    Tls {
        address: HostPort,
        #[source]
        cause: io::Error,
    },
    #[error("CA {address} does not speak gRPC: it chose no ALPN protocol \"h2\"")]
    NoHttp2 { address: HostPort },
    /// The CA ended the connection over our certificate.
    #[error("CA refused the certificate shown to it: TLS alert {alert:?}")]
    Alert { alert: AlertDescription },
    /// The connection died under the request.
    #[error("connection to the CA broke: {detail}")]
    Broken { detail: String },
    #[error("CA ended the subscription")]
    Ended,
    /// The CA, or the gRPC layer on its behalf, said no.
    #[error("CA answered {code:?}: {message}")]
    Refused { code: Code, message: String, retry_after: Option<Duration> },
    #[error("CA's answer is not used")]
    Answer(#[from] AnswerError),
}

impl CaError {
    fn of_status(status: &Status) -> Self {
        if let Some(cause) = std::error::Error::source(status) {
            return Self::Broken { detail: one_line(cause) };
        }
        let retry_after = status.metadata().get("retry-after").and_then(|value| value.to_str().ok());
        Self::Refused {
            code: status.code(),
            message: status
                .message()
                .chars()
                .take(MESSAGE_CHARS_MAX)
                .collect::<String>()
                .escape_debug()
                .collect(),
            retry_after: retry_after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs),
        }
    }

    /// A request that died of a TLS alert says so, instead of "broken pipe".
    fn explained_by(self, connection: &Connection) -> Self {
        match (connection.alert(), self) {
            (Some(alert), Self::Broken { .. } | Self::Refused { .. }) => Self::Alert { alert },
            (_, error) => error,
        }
    }

    /// Whether the present certificate will not do for this CA, so that only a join token helps.
    pub fn wants_join_token(&self) -> bool {
        match self {
            Self::Refused { code, .. } => matches!(code, Code::Unauthenticated | Code::PermissionDenied),
            Self::Alert { .. } | Self::Distrusted { .. } => true,
            _ => false,
        }
    }

    /// How long the CA asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A stable word for metrics and status.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::Unreachable { .. } | Self::Tls { .. } | Self::NoHttp2 { .. } => "ca_unreachable",
            Self::Broken { .. } | Self::Ended => "ca_unreachable",
            Self::Timeout { .. } => "ca_timeout",
            Self::Distrusted { .. } => "ca_distrusted",
            Self::Alert { .. } | Self::Refused { .. } => "ca_refused",
            Self::Answer(_) => "bad_answer",
        }
    }
}

/// The CA's words are cut here.
const MESSAGE_CHARS_MAX: usize = 300;
