//! One connection to the CA: TCP, TLS 1.3 with SPIFFE verification, HTTP/2. Each step has a timeout.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use postern_proto::mtls::{self, PeerVerifier, TlsIdentity, Verdict};
use postern_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::{CaError, RESPONSE_BYTES_MAX, Timeouts};
use crate::config::{DEAD_AFTER_DEFAULT, HostPort};
use crate::network::ConnectError;
use crate::network::dial::ATTEMPTS_MAX;
use crate::network::dial::{self, Bounds, Purpose};
use crate::network::resolver::NameServers;

/// The CA's address and the name servers that resolve it.
#[derive(Debug, Clone)]
pub(super) struct CaAddress {
    pub(super) address: HostPort,
    pub(super) name_servers: NameServers,
}

const ALPN: &[u8] = b"h2";

/// Maximum size of the headers and trailers of a response, in bytes.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// HTTP/2 pings detect a CA that has disappeared without closing the connection.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection for one request or one subscription.
pub(super) struct Connection {
    pub(super) ca: CertificateAuthorityClient<Channel>,
    alert: Arc<OnceLock<AlertDescription>>,
}

impl Connection {
    pub(super) async fn open(
        ca: &CaAddress,
        identity: Option<&TlsIdentity>,
        verifier: Arc<PeerVerifier>,
        timeouts: Timeouts,
    ) -> Result<Self, CaError> {
        let (address, tcp) = (&ca.address, connect(ca, timeouts).await?);
        let tls = handshake(address, tcp, identity, verifier, timeouts).await?;
        let alert = Arc::new(OnceLock::new());
        let recorder = AlertRecorder { stream: tls, alert: alert.clone() };
        let channel = http2(recorder)
            .await
            .map_err(|error| CaError::Tls { address: address.clone(), cause: io::Error::other(error) })?;
        let ca = CertificateAuthorityClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
        Ok(Self { ca, alert })
    }

    /// The TLS alert that ended the connection, if any. In TLS 1.3 a server verifies the client certificate after the
    /// client has completed its handshake, so a rejection shows here and not in the handshake.
    pub(super) fn alert(&self) -> Option<AlertDescription> {
        self.alert.get().copied()
    }
}

/// Connects to the first of the CA's addresses that accepts (RFC 8305).
async fn connect(ca: &CaAddress, timeouts: Timeouts) -> Result<TcpStream, CaError> {
    let address = &ca.address;
    let resolving = ca.name_servers.resolve(address);
    let resolved = match timeout(timeouts.connect, resolving).await {
        Ok(resolved) => resolved,
        Err(_) => return Err(CaError::Timeout { step: "its name", after: timeouts.connect }),
    };
    let unreached = |errors: Vec<_>| CaError::Unreachable { address: address.clone(), cause: errors.into() };
    let mut addresses = dial::interleaved(&resolved.map_err(|error| unreached(vec![error]))?);
    addresses.truncate(ATTEMPTS_MAX);
    let bounds =
        Bounds { connect_timeout: timeouts.connect, dead_after: DEAD_AFTER_DEFAULT, purpose: Purpose::Ca };
    let connected = dial::connect_any(&addresses, bounds).await;
    connected.map_err(|errors| unreached(vec![ConnectError::Dial(errors)]))
}

async fn handshake(
    address: &HostPort,
    tcp: TcpStream,
    identity: Option<&TlsIdentity>,
    verifier: Arc<PeerVerifier>,
    timeouts: Timeouts,
) -> Result<TlsStream<TcpStream>, CaError> {
    let failed = |cause| CaError::Tls { address: address.clone(), cause };
    let config =
        mtls::client_config(identity, verifier.clone(), &[ALPN]).map_err(|e| failed(io::Error::other(e)))?;
    let connecting = TlsConnector::from(config).connect(mtls::server_name(), tcp);
    let stream = match timeout(timeouts.handshake, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(cause)) => {
            return Err(match rejection(&verifier) {
                Some(rejection) => CaError::Distrusted { address: address.clone(), rejection },
                None => failed(cause),
            });
        }
        Err(_) => return Err(CaError::Timeout { step: "the TLS handshake", after: timeouts.handshake }),
    };
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(CaError::NoHttp2 { address: address.clone() });
    }
    Ok(stream)
}

/// Why the verifier rejected the server.
fn rejection(verifier: &PeerVerifier) -> Option<String> {
    match verifier.verdict()? {
        Verdict::Admitted(_) => None,
        Verdict::Denied(_, denial) => Some(denial.to_string()),
        Verdict::Unverified(error) => Some(error.to_string()),
        Verdict::WrongPin { expected, found } => {
            Some(format!("its trust bundle has the pin {found}, not {expected} as the join token says"))
        }
    }
}

async fn http2(stream: AlertRecorder) -> Result<Channel, tonic::transport::Error> {
    let mut only = Some(TokioIo::new(stream));
    let connector = service_fn(move |_| {
        let stream = only.take().ok_or_else(|| io::Error::other("one connection serves one request"));
        std::future::ready(stream)
    });
    // The URI only fills `:authority`: peers are identified by SPIFFE ID, and the stream is already open.
    let endpoint = Endpoint::from_static("https://postern-ca")
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    endpoint.connect_with_connector(connector).await
}

/// A TLS stream that records the alert that ended it. The HTTP/2 layer does not pass the alert on.
struct AlertRecorder {
    stream: TlsStream<TcpStream>,
    alert: Arc<OnceLock<AlertDescription>>,
}

impl AlertRecorder {
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result
            && let Some(rustls::Error::AlertReceived(alert)) =
                error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            // Only the first alert counts: it ended the connection, and the stream may report it again.
            let _already_set = self.alert.set(*alert);
        }
        result
    }
}

impl AsyncRead for AlertRecorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.note(result)
    }
}

impl AsyncWrite for AlertRecorder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
