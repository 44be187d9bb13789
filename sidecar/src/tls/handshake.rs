//! The handshake: to its end, or to the alert that says why not.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use postern_proto::mtls::server_name;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, Error as TlsError, ServerConfig};
use tokio::net::TcpStream;

use super::TlsStream;
use super::machine::Machine;
use super::scratch::Backlog;

/// A handshake that did not hold; the other side has been told why, as far as it listens.
#[derive(Debug)]
pub struct BrokenHandshake {
    pub error: io::Error,
    pub tcp: TcpStream,
}

/// Connects as a client.
pub async fn connect(tcp: TcpStream, config: Arc<ClientConfig>) -> Result<TlsStream, BrokenHandshake> {
    match UnbufferedClientConnection::new(config, server_name()) {
        Ok(client) => shake(TlsStream::new(tcp, Machine::client(client), Vec::new())).await,
        Err(error) => Err(BrokenHandshake { error: io::Error::other(error), tcp }),
    }
}

/// Answers a client, of which `hello` is what it has sent so far.
pub(super) async fn accept(
    tcp: TcpStream,
    hello: Vec<u8>,
    config: Arc<ServerConfig>,
) -> Result<TlsStream, BrokenHandshake> {
    match UnbufferedServerConnection::new(config) {
        Ok(server) => shake(TlsStream::new(tcp, Machine::server(server), hello)).await,
        Err(error) => Err(BrokenHandshake { error: io::Error::other(error), tcp }),
    }
}

async fn shake(mut tls: TlsStream) -> Result<TlsStream, BrokenHandshake> {
    let mut failed = None;
    match poll_fn(|cx| tls.poll_handshake(cx, &mut failed)).await {
        Ok(()) => Ok(tls),
        Err(error) => Err(BrokenHandshake { error, tcp: tls.tcp }),
    }
}

impl TlsStream {
    fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        failed: &mut Option<TlsError>,
    ) -> Poll<io::Result<()>> {
        loop {
            // The peer's alert says more than the write that failed because of it.
            let sent = ready!(self.poll_unsent(cx));
            if let Some(error) = failed.take() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            let done = !self.unread && !self.session().is_handshaking();
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

    /// One turn of the handshake. What comes behind its end already is kept.
    fn poll_messages(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Result<(), TlsError>>> {
        let mut early = Vec::new();
        let fed = super::CIPHERTEXT.with_borrow_mut(|scratch| {
            let filled = ready!(self.poll_fill(cx, scratch))?;
            let bytes = scratch.get_mut(..filled).unwrap_or_default();
            let take = &mut |plain: &[u8]| early.extend_from_slice(plain);
            let fed = self.machine.feed(bytes, usize::MAX, self.unsent.pending(), take);
            self.incoming = bytes.get(fed.used..).unwrap_or_default().to_vec();
            Poll::Ready(Ok::<_, io::Error>(fed))
        });
        let fed = ready!(fed)?;
        self.unread = false;
        if !early.is_empty() {
            self.plain = Backlog::from(early);
        }
        self.ended = fed.ended;
        if self.ended && self.session().is_handshaking() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(fed.result))
    }
}
