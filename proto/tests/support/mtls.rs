//! An authority, and handshakes in memory, for tests and benchmarks of TLS.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by a panic")]

#[path = "authority.rs"]
mod authority;
#[path = "handshake.rs"]
mod handshake;

use std::sync::Arc;

use postern_proto::mtls::{PeerVerifier, TlsIdentity, client_config, server_config, server_name};
use rustls::{ClientConnection, Error, ServerConnection};

pub use authority::Authority;
pub use handshake::shake_hands;

/// Two that shake hands.
#[derive(Debug)]
pub struct Pair {
    pub client: Option<TlsIdentity>,
    pub server: TlsIdentity,
    pub client_judge: Arc<PeerVerifier>,
    pub server_judge: Arc<PeerVerifier>,
}

impl Pair {
    pub fn new(authority: &Authority) -> Self {
        Self {
            client: Some(authority.identity("/orders")),
            server: authority.identity("/payments"),
            client_judge: Arc::new(authority.judge()),
            server_judge: Arc::new(authority.judge()),
        }
    }

    pub fn connect(&self) -> Result<(ClientConnection, ServerConnection), (&'static str, Error)> {
        let client = client_config(self.client.as_ref(), self.client_judge.clone(), &[]).unwrap();
        let server = server_config(&self.server, self.server_judge.clone(), &[]).unwrap();
        let mut client = ClientConnection::new(client, server_name()).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        shake_hands(&mut client, &mut server).map(|()| (client, server))
    }
}
