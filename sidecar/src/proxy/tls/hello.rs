//! The ClientHello, read before anything is allocated for the connection.

use std::io;
use std::sync::Arc;

use postern_proto::mtls::HandshakeSecrets;
use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::handshake::{EstablishedTls, HandshakeFailure, accept};

/// Bytes read at a time.
const READ_BYTES: usize = 4 * 1024;
/// Most bytes of a ClientHello, across its records (RFC 8446 §4 permits 2^24, which no client needs).
const HELLO_BYTES_MAX: usize = 64 * 1024;

/// A complete ClientHello.
#[derive(Debug)]
pub struct Hello {
    pub tcp: TcpStream,
    /// All bytes received so far.
    bytes: Vec<u8>,
    alpn: Vec<Vec<u8>>,
}

impl Hello {
    /// Whether the client offers this protocol (RFC 7301).
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }

    /// Continues the handshake. `secrets` are those that `config` yields.
    pub async fn accept(
        self,
        config: Arc<ServerConfig>,
        secrets: &HandshakeSecrets,
    ) -> Result<EstablishedTls, HandshakeFailure> {
        accept(self.tcp, self.bytes, config, secrets).await
    }
}

/// Waits for the complete ClientHello.
pub async fn client_hello(mut tcp: TcpStream) -> Result<Hello, HandshakeFailure> {
    let (mut acceptor, mut bytes) = (Acceptor::default(), Vec::new());
    loop {
        let begin = bytes.len();
        match (&mut tcp).take(READ_BYTES as u64).read_buf(&mut bytes).await {
            Ok(0) => return Err(HandshakeFailure { error: io::ErrorKind::UnexpectedEof.into(), tcp }),
            Ok(_) => {}
            Err(error) => return Err(HandshakeFailure { error, tcp }),
        }
        match accepted(&mut acceptor, bytes.get(begin..).unwrap_or_default()) {
            Ok(Some(hello)) => {
                let alpn = hello.client_hello().alpn();
                let alpn = alpn.map(|alpn| alpn.map(<[u8]>::to_vec).collect()).unwrap_or_default();
                return Ok(Hello { tcp, bytes, alpn });
            }
            Ok(None) if bytes.len() < HELLO_BYTES_MAX => {}
            Ok(None) => {
                let error = io::Error::new(io::ErrorKind::InvalidData, "the ClientHello is too long");
                return Err(HandshakeFailure { error, tcp });
            }
            Err((error, alert)) => {
                if let Err(error) = tcp.write_all(&alert).await {
                    tracing::debug!(%error, "a client did not wait for its alert");
                }
                return Err(HandshakeFailure { error, tcp });
            }
        }
    }
}

/// Passes bytes to the acceptor. An error includes the alert to send.
fn accepted(acceptor: &mut Acceptor, mut bytes: &[u8]) -> Result<Option<Accepted>, (io::Error, Vec<u8>)> {
    while !bytes.is_empty() {
        if let Err(error) = acceptor.read_tls(&mut bytes) {
            return Err((error, Vec::new()));
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(hello)) => return Ok(Some(hello)),
            Err((error, mut alert)) => {
                let mut told = Vec::new();
                if let Err(error) = alert.write_all(&mut told) {
                    tracing::debug!(%error, "an alert could not be written");
                }
                return Err((io::Error::new(io::ErrorKind::InvalidData, error), told));
            }
        }
    }
    Ok(None)
}
