//! The authenticator request (RFC 9261 §4): which answer is wanted, and by which signatures.

use rustls::{Side, SignatureScheme};
use thiserror::Error;

use super::extension::ExtensionType;
use super::messages::{vector, write_message};
use super::reader::{DecodeError, Reader};
use crate::crypto::HANDSHAKE_SCHEMES;

/// The bytes of a certificate_request_context: random, so that nobody can answer ahead of time, and never twice on
/// one connection (RFC 9261 §4).
pub const CONTEXT_BYTES: usize = 32;
/// A request has at most this many bytes.
pub const REQUEST_BYTES_MAX: usize = 1024;

/// RFC 8446 §4: a server's request.
const CERTIFICATE_REQUEST: u8 = 13;
/// RFC 9261 §4: a client's request.
const CLIENT_CERTIFICATE_REQUEST: u8 = 17;

const EXTENSION: &str = "an extension";
const SCHEMES: &str = "signature_algorithms";

/// What one side of a connection asks the other to prove. It is not cloned: who judges an answer gives it away, so
/// that a request is answered once (RFC 9261 §7.4).
#[derive(Debug, PartialEq)]
pub struct Request {
    asker: Side,
    context: [u8; CONTEXT_BYTES],
    schemes: Vec<SignatureScheme>,
    encoded: Vec<u8>,
}

impl Request {
    /// A request of the side `asker`, which is ours. `context` is fresh randomness.
    pub fn new(asker: Side, context: [u8; CONTEXT_BYTES]) -> Self {
        let schemes = HANDSHAKE_SCHEMES.to_vec();
        let encoded = encode(asker, &context, &schemes);
        Self { asker, context, schemes, encoded }
    }

    /// Reads the request of the side `asker`, which is the peer's.
    pub fn parse(asker: Side, bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLarge { bytes: bytes.len() });
        }
        let (kind, name) = message_of(asker);
        let mut reader = Reader::new(bytes);
        let mut body = reader.message(kind, name)?.body;
        reader.end(name)?;
        let context = body.vector(1, "certificate_request_context")?;
        let found = context.len();
        let context = context.try_into().map_err(|_| RequestError::Context { bytes: found })?;
        let extensions = Reader::new(body.vector(2, "extensions")?);
        body.end("extensions")?;
        let schemes = schemes_among(asker, extensions)?;
        Ok(Self { asker, context, schemes, encoded: bytes.to_vec() })
    }

    /// Who asks.
    pub fn asker(&self) -> Side {
        self.asker
    }

    /// Who is to answer.
    pub fn answerer(&self) -> Side {
        match self.asker {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    /// What tells this request from every other of its connection.
    pub fn context(&self) -> &[u8; CONTEXT_BYTES] {
        &self.context
    }

    /// The message as it travels: a CertificateRequest of a server, a ClientCertificateRequest of a client.
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// The schemes that the answer may be signed with, as the asker names them.
    pub(super) fn schemes(&self) -> &[SignatureScheme] {
        &self.schemes
    }
}

fn message_of(asker: Side) -> (u8, &'static str) {
    match asker {
        Side::Server => (CERTIFICATE_REQUEST, "CertificateRequest"),
        Side::Client => (CLIENT_CERTIFICATE_REQUEST, "ClientCertificateRequest"),
    }
}

/// Reads all extensions. Unknown ones are ignored, as RFC 9261 §5.2.1 demands; so are those that would guide the
/// choice among several certificates, because there is one.
fn schemes_among(asker: Side, mut extensions: Reader<'_>) -> Result<Vec<SignatureScheme>, RequestError> {
    let mut seen = Vec::new();
    let mut schemes = None;
    while !extensions.is_empty() {
        let extension = ExtensionType(extensions.code(EXTENSION)?);
        let data = extensions.vector(2, EXTENSION)?;
        if seen.contains(&extension) {
            return Err(RequestError::Repeated { extension });
        }
        if extension.is_misplaced(asker) {
            return Err(RequestError::Misplaced { extension });
        }
        if extension == ExtensionType::SIGNATURE_ALGORITHMS {
            schemes = Some(read_schemes(data)?);
        }
        seen.push(extension);
    }
    schemes.ok_or(RequestError::NoSignatureAlgorithms)
}

/// RFC 8446 §4.2.3: `SignatureScheme supported_signature_algorithms<2..2^16-2>`.
fn read_schemes(data: &[u8]) -> Result<Vec<SignatureScheme>, DecodeError> {
    let mut reader = Reader::new(data);
    let list = reader.vector(2, SCHEMES)?;
    reader.end(SCHEMES)?;
    if list.is_empty() || list.len() % 2 == 1 {
        return Err(DecodeError::Length { field: SCHEMES, bytes: list.len() });
    }
    let mut list = Reader::new(list);
    let mut schemes = Vec::new();
    while !list.is_empty() {
        schemes.push(SignatureScheme::from(list.code(SCHEMES)?));
    }
    Ok(schemes)
}

fn encode(asker: Side, context: &[u8; CONTEXT_BYTES], schemes: &[SignatureScheme]) -> Vec<u8> {
    let list: Vec<u8> = schemes.iter().flat_map(|scheme| u16::from(*scheme).to_be_bytes()).collect();
    let schemes = vector(2, &list);
    let kind = ExtensionType::SIGNATURE_ALGORITHMS.0.to_be_bytes();
    let extension = [&kind[..], &vector(2, &schemes)].concat();
    let body = [vector(1, context), vector(2, &extension)].concat();
    write_message(message_of(asker).0, &body)
}

/// Why bytes are no authenticator request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RequestError {
    /// A bound, checked before anything is read.
    #[error("authenticator request has {bytes} bytes, more than the {max} allowed", max = REQUEST_BYTES_MAX)]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// RFC 8446 §4.3.2.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Postern's contexts all have the same length.
    #[error("certificate_request_context has {bytes} bytes, not {expected}", expected = CONTEXT_BYTES)]
    Context {
        /// Its length.
        bytes: usize,
    },
    /// RFC 8446 §4.2: no extension twice.
    #[error("authenticator request has the extension {extension} twice")]
    Repeated {
        /// Which.
        extension: ExtensionType,
    },
    /// RFC 8446 §4.2: an extension that we know and that does not belong in this message.
    #[error("authenticator request has the extension {extension}, which does not belong there")]
    Misplaced {
        /// Which.
        extension: ExtensionType,
    },
    /// RFC 8446 §4.3.2: it must be there.
    #[error("authenticator request has no signature_algorithms")]
    NoSignatureAlgorithms,
}
