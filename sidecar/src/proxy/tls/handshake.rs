//! The TLS handshake, until it is complete or an alert is sent. rustls's connection and configuration are dropped
//! afterwards.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use postern_proto::mtls::{ConnectionSecrets, ExporterSecret, HandshakeSecrets, server_name};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, Error as TlsError, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::TlsStream;
use super::machine::HandshakeMachine;
use super::records::Records;
use super::scratch::{Backlog, CIPHERTEXT, Outgoing, fill};

/// A connection after its handshake, with the negotiated parameters.
#[derive(Debug)]
pub struct EstablishedTls {
    pub stream: TlsStream,
    /// The protocol negotiated (RFC 7301).
    pub alpn: Option<Vec<u8>>,
    /// The peer's end-entity certificate, which the verifier accepted.
    pub leaf: Option<CertificateDer<'static>>,
    pub exporter: ExporterSecret,
}

/// A failed handshake. The alert has been sent, as far as the socket accepted it.
#[derive(Debug)]
pub struct HandshakeFailure {
    pub error: io::Error,
    pub tcp: TcpStream,
}

/// Connects as a client. `secrets` are those that `config` yields.
pub async fn connect(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    secrets: &HandshakeSecrets,
) -> Result<EstablishedTls, HandshakeFailure> {
    match UnbufferedClientConnection::new(config, server_name()) {
        Ok(client) => Handshake::new(tcp, HandshakeMachine::client(client), Vec::new()).run(secrets).await,
        Err(error) => Err(HandshakeFailure { error: io::Error::other(error), tcp }),
    }
}

/// Accepts a client; `hello` contains the bytes received so far. `secrets` are those that `config` yields.
pub(super) async fn accept(
    tcp: TcpStream,
    hello: Vec<u8>,
    config: Arc<ServerConfig>,
    secrets: &HandshakeSecrets,
) -> Result<EstablishedTls, HandshakeFailure> {
    match UnbufferedServerConnection::new(config) {
        Ok(server) => Handshake::new(tcp, HandshakeMachine::server(server), hello).run(secrets).await,
        Err(error) => Err(HandshakeFailure { error: io::Error::other(error), tcp }),
    }
}

/// A handshake in progress.
struct Handshake {
    tcp: TcpStream,
    machine: HandshakeMachine,
    /// Received bytes that are not processed yet.
    incoming: Vec<u8>,
    /// `incoming` may contain complete records.
    unread: bool,
    /// Bytes that the socket has not accepted.
    unsent: Backlog,
}

impl Handshake {
    fn new(tcp: TcpStream, machine: HandshakeMachine, incoming: Vec<u8>) -> Self {
        Self { tcp, machine, incoming, unread: true, unsent: Backlog::default() }
    }

    async fn run(mut self, secrets: &HandshakeSecrets) -> Result<EstablishedTls, HandshakeFailure> {
        let mut failed = None;
        match poll_fn(|cx| self.poll(cx, &mut failed)).await {
            Ok(()) => self.done(secrets),
            Err(error) => Err(HandshakeFailure { error, tcp: self.tcp }),
        }
    }

    fn done(self, secrets: &HandshakeSecrets) -> Result<EstablishedTls, HandshakeFailure> {
        let session = self.machine.session();
        let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
        let leaf = session.peer_certificates().and_then(<[_]>::first).cloned();
        let taken = session.negotiated_cipher_suite().and_then(|suite| secrets.take(suite));
        let Some(ConnectionSecrets { exporter, client, server }) = taken else {
            let error = io::Error::other("the handshake has yielded no secrets");
            return Err(HandshakeFailure { error, tcp: self.tcp });
        };
        match Records::new(self.machine.side(), client, server) {
            Ok(records) => {
                let stream = TlsStream::new(self.tcp, records, self.incoming);
                Ok(EstablishedTls { stream, alpn, leaf, exporter })
            }
            Err(error) => Err(HandshakeFailure { error: io::Error::other(error), tcp: self.tcp }),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, failed: &mut Option<TlsError>) -> Poll<io::Result<()>> {
        loop {
            // The peer's alert is more informative than the write error that followed.
            let tcp = &mut self.tcp;
            let sent = ready!(self.unsent.poll_drain(|rest| Pin::new(&mut *tcp).poll_write(cx, rest)));
            if let Some(error) = failed.take() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            let done = !self.unread && !self.machine.session().is_handshaking();
            if done {
                return Poll::Ready(sent);
            }
            if let Err(error) = sent {
                self.unsent.clear();
                tracing::debug!(%error, "a handshake's message was not taken");
            }
            *failed = ready!(self.poll_messages(cx))?.err();
        }
    }

    /// Processes received messages and sends the responses.
    fn poll_messages(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Result<(), TlsError>>> {
        let fed = CIPHERTEXT.with_borrow_mut(|scratch| {
            let from = (!self.unread).then_some(&mut self.tcp);
            let filled = ready!(fill(cx, scratch, &self.incoming, from))?;
            let bytes = scratch.get_mut(..filled).unwrap_or_default();
            let mut answers = Outgoing::default();
            let fed = self.machine.feed(bytes, &mut answers);
            self.unsent.pending().extend_from_slice(answers.filled());
            self.incoming = bytes.get(fed.used..).unwrap_or_default().to_vec();
            Poll::Ready(Ok::<_, io::Error>(fed))
        });
        let fed = ready!(fed)?;
        self.unread = false;
        if fed.ended {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(fed.result))
    }
}
