//! The CA client: one connection per request or subscription. It verifies each issued certificate before use.

mod connect;
mod request;
mod response;
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
use connect::{CaAddress, Connection};
pub use request::{RequestError, SigningRequest};
use response::ExpectedIdentity;
pub use response::{BUNDLES_MAX, ResponseError};
pub use subscribe::SubscriptionStream;

/// Maximum size of a CA response, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A timeout for each step of an attempt, so that every attempt ends.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the name resolution, and again for the TCP connection to each address.
    pub connect: Duration,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From sending the request to receiving the complete response.
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

/// A client of one CA. Each request and each subscription resolves the name again and opens its own connection.
#[derive(Debug, Clone)]
pub struct CaClient {
    ca: CaAddress,
    timeouts: Timeouts,
}

/// A certificate chain, its key and the trust bundles from a verified CA response.
#[derive(Debug, Clone)]
pub struct IssuedIdentity {
    pub svid: Svid,
    pub bundles: Arc<TrustBundles>,
}

impl CaClient {
    pub fn new(address: HostPort, name_servers: NameServers, timeouts: Timeouts) -> Self {
        Self { ca: CaAddress { address, name_servers }, timeouts }
    }

    /// Gets the first certificate with a join token. The token's pin selects the CA to trust. If a response is lost,
    /// send the same request again: the CA then returns the same response.
    pub async fn enrol(
        &self,
        token: &JoinToken,
        request: SigningRequest,
        now: OffsetDateTime,
    ) -> Result<IssuedIdentity, CaError> {
        let verifier = PeerVerifier::pinned(token.id().trust_domain().clone(), token.pin());
        let mut connection = self.connect(None, verifier).await?;
        let attestation = Some(Attestation::JoinToken(token.reveal().to_string()));
        let message = IssueRequest { csr: request.csr, attestation };
        let answer = self.with_timeout(connection.ca.issue(message)).await;
        let answer = answer.map_err(|error| error.or_alert(&connection))?;
        let expected = ExpectedIdentity { id: token.id(), pin: Some(token.pin()) };
        Ok(response::verify(answer, expected, request.key, now)?)
    }

    /// Gets a new certificate for the current identity. Send the same request until there is a response, as with
    /// [`Self::enrol`].
    pub async fn renew(
        &self,
        credentials: &Credentials,
        request: SigningRequest,
        now: OffsetDateTime,
    ) -> Result<IssuedIdentity, CaError> {
        let id = credentials.svid.id();
        let mut connection = self.connect(Some(credentials), ca_verifier(credentials)).await?;
        let answer = self.with_timeout(connection.ca.renew(RenewRequest { csr: request.csr })).await;
        let answer = answer.map_err(|error| error.or_alert(&connection))?;
        Ok(response::verify(answer, ExpectedIdentity { id, pin: None }, request.key, now)?)
    }

    async fn connect(
        &self,
        identity: Option<&Credentials>,
        verifier: PeerVerifier,
    ) -> Result<Connection, CaError> {
        let tls = identity.map(|credentials| &credentials.tls);
        Connection::open(&self.ca, tls, Arc::new(verifier), self.timeouts).await
    }

    async fn with_timeout(
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

/// A verifier that accepts only the CA of the sidecar's own trust domain.
fn ca_verifier(own: &Credentials) -> PeerVerifier {
    let ca = Arc::new(AuthorizeId(SpiffeId::of_ca(own.svid.id().trust_domain())));
    PeerVerifier::new(own.bundles.clone(), ca)
}

/// Why a CA request or subscription failed.
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
    /// The server is not the trusted CA.
    #[error("CA {address} is not believed: {rejection}")]
    Distrusted { address: HostPort, rejection: String },
    #[error("no TLS connection to CA {address}")]
    Tls {
        address: HostPort,
        #[source]
        cause: io::Error,
    },
    #[error("CA {address} does not speak gRPC: it chose no ALPN protocol \"h2\"")]
    NoHttp2 { address: HostPort },
    /// The CA rejected the sidecar's certificate with a TLS alert.
    #[error("CA refused the certificate shown to it: TLS alert {alert:?}")]
    Alert { alert: AlertDescription },
    /// The connection broke during the request.
    #[error("connection to the CA broke: {detail}")]
    Broken { detail: String },
    #[error("CA ended the subscription")]
    Ended,
    /// The CA or its gRPC layer returned an error status.
    #[error("CA answered {code:?}: {message}")]
    Refused { code: Code, message: String, retry_after: Option<Duration> },
    #[error("CA's answer is not used")]
    Answer(#[from] ResponseError),
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

    /// Replaces an error like "broken pipe" by the TLS alert that caused it, if the connection received one.
    fn or_alert(self, connection: &Connection) -> Self {
        match (connection.alert(), self) {
            (Some(alert), Self::Broken { .. } | Self::Refused { .. }) => Self::Alert { alert },
            (_, error) => error,
        }
    }

    /// Whether the CA does not accept the current certificate, so that only a join token helps.
    pub fn needs_join_token(&self) -> bool {
        match self {
            Self::Refused { code, .. } => matches!(code, Code::Unauthenticated | Code::PermissionDenied),
            Self::Alert { .. } | Self::Distrusted { .. } => true,
            _ => false,
        }
    }

    /// The retry delay that the CA asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A stable code for metrics and status.
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

/// Maximum length of the CA's status message, in characters; the rest is truncated.
const MESSAGE_CHARS_MAX: usize = 300;
