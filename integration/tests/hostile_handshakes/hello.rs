//! A real ClientHello taken apart, changed, and put together again in records of any size (RFC 8446 §4.1.2, §5.1).

use std::sync::Arc;

use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity, client_config, server_name};
use rustls::{ClientConfig, ClientConnection};

use crate::door::Door;

pub const SERVER_NAME: u16 = 0;
pub const ALPN: u16 = 16;
pub const SUPPORTED_VERSIONS: u16 = 43;

/// Content types of records (RFC 8446 §5.1).
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// Version and random, behind the message's own header.
const FIXED_BYTES: usize = 34;

/// A ClientHello to be changed. Its handshake cannot be finished, as no client knows of the change.
#[derive(Debug, Clone)]
pub struct Hello {
    /// All before the extensions.
    head: Vec<u8>,
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    pub fn of(door: &Door) -> Self {
        let mut bytes = Vec::new();
        client(door, &[]).write_tls(&mut bytes).unwrap();
        // Behind the headers of the record and of the message.
        let body = &bytes[9..];
        let session = FIXED_BYTES + 1 + usize::from(body[FIXED_BYTES]);
        let suites = session + 2 + number(&body[session..]);
        let compression = suites + 1 + usize::from(body[suites]);
        let (mut rest, mut extensions) = (&body[compression + 2..], Vec::new());
        while !rest.is_empty() {
            let (kind, length) = (number(rest) as u16, number(&rest[2..]));
            extensions.push((kind, rest[4..4 + length].to_vec()));
            rest = &rest[4 + length..];
        }
        Self { head: body[..compression].to_vec(), extensions }
    }

    /// With this extension, instead of the one it had.
    pub fn with(mut self, kind: u16, data: Vec<u8>) -> Self {
        self.extensions.retain(|(own, _)| *own != kind);
        self.extensions.push((kind, data));
        self
    }

    /// The message without a record around it.
    pub fn message(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        for (kind, data) in &self.extensions {
            extensions.extend_from_slice(&kind.to_be_bytes());
            extensions.extend_from_slice(&long(data));
        }
        let body = [&self.head[..], &long(&extensions)].concat();
        let length = (body.len() as u32).to_be_bytes();
        [&[CLIENT_HELLO][..], &length[1..], &body].concat()
    }

    pub fn bytes(&self) -> Vec<u8> {
        records(&self.message(), RECORD_BYTES_MAX)
    }
}

/// A handshake message in records of at most so many bytes.
pub fn records(message: &[u8], bytes_max: usize) -> Vec<u8> {
    let record = |piece: &[u8]| [&[HANDSHAKE, 3, 1][..], &long(piece)].concat();
    message.chunks(bytes_max).flat_map(record).collect()
}

/// With its length in two bytes before it.
pub fn long(data: &[u8]) -> Vec<u8> {
    [&(data.len() as u16).to_be_bytes()[..], data].concat()
}

/// A `server_name` extension with one host name (RFC 6066 §3).
pub fn host_name(name: &[u8]) -> Vec<u8> {
    long(&[&[0][..], &long(name)].concat())
}

/// An ALPN extension (RFC 7301 §3.1).
pub fn protocols(names: &[&[u8]]) -> Vec<u8> {
    let name = |name: &&[u8]| [&[name.len() as u8][..], name].concat();
    long(&names.iter().flat_map(name).collect::<Vec<u8>>())
}

/// How a TLS client of the attacker's is configured.
pub fn config(door: &Door, alpn: &[&[u8]]) -> ClientConfig {
    let identity = TlsIdentity::new(&door.attacker).unwrap();
    let judge = Arc::new(PeerVerifier::new(door.bundles.clone(), Arc::new(AuthorizeAny)));
    Arc::unwrap_or_clone(client_config(Some(&identity), judge, alpn).unwrap())
}

/// A TLS client of the attacker's, without a connection.
pub fn client(door: &Door, alpn: &[&[u8]]) -> ClientConnection {
    ClientConnection::new(Arc::new(config(door, alpn)), server_name()).unwrap()
}

fn number(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
}
