//! Checks one HTTP/2 header block, so that requests of both versions get the same result, and a malformed request
//! does not end its connection (RFC 9113 §8.1.1).

use http::header::HeaderName;
use http::uri::{Authority, Scheme};
use http::{Method, StatusCode};

use super::hpack::{Decoder, FIELD_OVERHEAD_BYTES, InvalidHeaderBlock, encode};
use super::streams::REFUSED;
use crate::config::Http;
use crate::proxy::connections::RequestInfo;
use crate::proxy::http::framing::Refused;
use crate::proxy::http::problem;
use crate::proxy::http::target::{self, InvalidMessage};

/// The kind of a header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    /// The trailer section of a request or response.
    Trailers,
    /// For a stream that is not open: h2 handles it.
    Stray,
}

/// The result of checking a header block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BlockVerdict {
    Accepted {
        /// The block encoded without the dynamic table, if required.
        rewritten: Option<Vec<u8>>,
        is_informational: bool,
        /// Bytes that decompression added.
        expanded_bytes: usize,
    },
    /// Refused with a response. `block` replaces the original and carries only the refusal marker.
    Refused { block: Vec<u8>, refused: Refused },
    /// The stream is reset: h2 rejects `block`.
    Malformed { block: Vec<u8>, bad: InvalidMessage },
}

/// Fields that are not counted: `host` is a pseudo-header field in HTTP/2, and a hop may add `date`.
const NOT_COUNTED: [&[u8]; 2] = [b"host", b"date"];

/// What a literal without indexing has beside its name and value, where both are short (RFC 7541 §6.2.2).
const LITERAL_OVERHEAD_BYTES: usize = 3;

/// How an accepted block is passed to h2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// Unchanged: h2 has the same dynamic table as the sender.
    InStep,
    /// Encoded without the dynamic table: an earlier block was replaced, so h2's table differs from the sender's.
    Unused,
}

#[derive(Default)]
struct Fields {
    rewritten: Option<Vec<u8>>,
    /// Length of the block if each field were a literal without indexing.
    literal_bytes: usize,
    bytes: usize,
    count: usize,
    method: Vec<u8>,
    path: Vec<u8>,
    status: Option<StatusCode>,
    is_grpc: bool,
    /// A fault that is answered with a refusal.
    bad: Option<InvalidMessage>,
    malformed: Option<&'static str>,
}

/// Checks a complete header block.
pub(super) fn check(
    decoder: &mut Decoder,
    block: &[u8],
    (kind, table): (Kind, Table),
    limits: &Http,
) -> Result<BlockVerdict, InvalidHeaderBlock> {
    let rewritten = (table == Table::Unused).then(|| Vec::with_capacity(block.len() * 2));
    let mut fields = Fields { rewritten, ..Fields::default() };
    decoder.decode(block, |name, value| fields.take(name, value, kind, limits))?;
    Ok(fields.verdict(kind, block.len()))
}

impl Fields {
    fn take(&mut self, name: &[u8], value: &[u8], kind: Kind, limits: &Http) {
        self.literal_bytes += name.len() + value.len() + LITERAL_OVERHEAD_BYTES;
        self.bytes += name.len() + value.len() + FIELD_OVERHEAD_BYTES;
        let is_pseudo = name.first() == Some(&b':');
        self.count += usize::from(!is_pseudo && !NOT_COUNTED.contains(&name));
        if self.bytes > limits.header_bytes_max || self.count > limits.headers_max {
            let (is_bytes, trailers) =
                (self.bytes > limits.header_bytes_max, matches!(kind, Kind::Trailers | Kind::Stray));
            let (bytes, fields) = (limits.header_bytes_max, limits.headers_max);
            self.bad.get_or_insert(match (is_bytes, trailers) {
                (true, false) => InvalidMessage::HeadTooLarge { max: bytes },
                (true, true) => InvalidMessage::TrailersTooLarge { max: bytes },
                (false, false) => InvalidMessage::TooManyHeaders { max: fields },
                (false, true) => InvalidMessage::TooManyTrailers { max: fields },
            });
            return;
        }
        if is_pseudo {
            self.take_pseudo(name, value, kind)
        } else {
            self.take_field(name, value)
        }
        if let Some(rewritten) = &mut self.rewritten {
            encode(name, value, rewritten);
        }
    }

    fn take_pseudo(&mut self, name: &[u8], value: &[u8], kind: Kind) {
        let mut bad = |bad| {
            self.bad.get_or_insert(bad);
        };
        match (kind, name) {
            (Kind::Request, b":method") => {
                if Method::from_bytes(value).is_err() {
                    bad(InvalidMessage::RequestLine);
                }
                self.method = value.to_vec();
            }
            (Kind::Request, b":path") => {
                // h2 responds to an empty path.
                if !value.is_empty()
                    && let Err(fault) = target::check_spelling(value)
                {
                    bad(fault);
                }
                self.path = value.to_vec();
            }
            (Kind::Request, b":authority") => {
                let authority = Authority::try_from(value);
                if !authority.is_ok_and(|authority| !authority.as_str().contains('@')) {
                    bad(InvalidMessage::Host(String::from_utf8_lossy(value).into_owned()));
                }
            }
            (Kind::Request, b":scheme") => {
                if Scheme::try_from(value).is_err() {
                    bad(InvalidMessage::Scheme(String::from_utf8_lossy(value).into_owned()));
                }
            }
            (Kind::Request, b":protocol") if value.is_ascii() => {}
            (Kind::Response, b":status") if StatusCode::from_bytes(value).is_ok() => {
                self.status = StatusCode::from_bytes(value).ok();
            }
            (Kind::Stray, _) => {}
            (Kind::Trailers, _) => self.malformed = Some("a pseudo-header field in the trailer section"),
            _ => {
                self.malformed =
                    Some("a pseudo-header field that does not belong there or has no valid value")
            }
        }
    }

    fn take_field(&mut self, name: &[u8], value: &[u8]) {
        let is_lower = !name.iter().any(u8::is_ascii_uppercase);
        if !is_lower || HeaderName::from_bytes(name).is_err() {
            self.malformed = Some("a field whose name is not valid");
        } else if !value.iter().all(|&byte| byte == b'\t' || byte >= b' ' && byte != 0x7f) {
            // RFC 9110 §5.5.
            self.malformed = Some("a field whose value is not valid");
        } else if name == b"content-type" {
            self.is_grpc = problem::is_grpc_type(value);
        }
    }

    fn verdict(self, kind: Kind, sent_bytes: usize) -> BlockVerdict {
        if let Some(what) = self.malformed {
            return BlockVerdict::Malformed { block: malformed(), bad: InvalidMessage::Malformed(what) };
        }
        let informational = self.status.is_some_and(|status| status.is_informational());
        match (self.bad, kind) {
            (Some(bad), Kind::Trailers | Kind::Stray) => BlockVerdict::Malformed { block: malformed(), bad },
            (Some(bad), Kind::Response) => {
                let mut block = Vec::new();
                encode(b":status", b"502", &mut block);
                mark(&mut block);
                BlockVerdict::Refused { block, refused: Refused { bad, facts: facts(b"", b"") } }
            }
            (Some(bad), Kind::Request) => {
                let mut block = Vec::new();
                let method: &[u8] = if self.method == b"HEAD" { b"HEAD" } else { b"GET" };
                encode(b":method", method, &mut block);
                encode(b":scheme", b"http", &mut block);
                encode(b":path", b"/", &mut block);
                encode(b":authority", b"refused", &mut block);
                if self.is_grpc {
                    encode(b"content-type", b"application/grpc", &mut block);
                }
                mark(&mut block);
                BlockVerdict::Refused {
                    block,
                    refused: Refused { bad, facts: facts(&self.method, &self.path) },
                }
            }
            (None, _) => BlockVerdict::Accepted {
                rewritten: self.rewritten,
                is_informational: informational,
                expanded_bytes: self.literal_bytes.saturating_sub(sent_bytes),
            },
        }
    }
}

/// Marks a block that replaces a refused one.
fn mark(block: &mut Vec<u8>) {
    encode(REFUSED.as_str().as_bytes(), b"", block);
}

/// A block for which h2 resets its stream with PROTOCOL_ERROR (RFC 9113 §8.2.2).
fn malformed() -> Vec<u8> {
    let mut block = Vec::new();
    encode(b"connection", b"", &mut block);
    block
}

fn facts(method: &[u8], path: &[u8]) -> RequestInfo {
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    RequestInfo { method: text(method), path: text(path) }
}
