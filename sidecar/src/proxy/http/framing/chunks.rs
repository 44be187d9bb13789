//! Parses the chunked coding of a request (RFC 9112 §7.1) and accepts only what every parser reads in the same way.

use crate::config::Http;
use crate::proxy::http::target::InvalidMessage;

/// Most bytes of chunk extensions in one body. hyper's own limit, which has no error of its own, is one byte more.
const EXTENSION_BYTES_MAX: usize = 16 * 1024 - 1;
/// Digits of a chunk size; more do not fit into 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

/// The parser of one chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: ParserState,
    extension_bytes: usize,
    /// The trailer section so far: at most `header_bytes_max`.
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum ParserState {
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    /// After a size's carriage return.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataEnd,
    DataLineFeed,
    Trailers,
}

impl Default for ParserState {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

/// The result of parsing some bytes.
pub(super) struct Step {
    /// Bytes that belong to the body.
    pub(super) taken: usize,
    pub(super) over: bool,
}

impl Chunks {
    /// Parses until the body or the input ends.
    pub(super) fn step(&mut self, bytes: &[u8], limits: &Http) -> Result<Step, InvalidMessage> {
        let mut taken = 0;
        while let Some(&byte) = bytes.get(taken) {
            if let ParserState::Data { left } = self.at {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - taken);
                taken += here;
                self.at = match left - here as u64 {
                    0 => ParserState::DataEnd,
                    left => ParserState::Data { left },
                };
                continue;
            }
            taken += 1;
            if let ParserState::Trailers = self.at {
                if self.trailer(byte, limits)? {
                    return Ok(Step { taken, over: true });
                }
                continue;
            }
            self.at = self.line(byte)?;
        }
        Ok(Step { taken, over: false })
    }

    /// Bytes held of a trailer section.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.trailers.capacity()
    }

    /// Parses a byte outside of chunk data.
    fn line(&mut self, byte: u8) -> Result<ParserState, InvalidMessage> {
        Ok(match (self.at, byte) {
            (ParserState::Size { size, digits: 1.. }, b'\r') => ParserState::SizeEnd { size },
            (ParserState::Size { size, digits: 1.. }, b';') => ParserState::Extension { size },
            (ParserState::Size { size, digits: digits @ ..SIZE_DIGITS_MAX }, byte) => {
                let digit = char::from(byte).to_digit(16).ok_or(InvalidMessage::LooseChunk)?;
                ParserState::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (ParserState::Extension { size }, b'\r') => ParserState::SizeEnd { size },
            (ParserState::Extension { size }, byte) if byte != b'\n' => {
                self.extension_bytes += 1;
                if self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(InvalidMessage::ChunkExtensions { max: EXTENSION_BYTES_MAX });
                }
                ParserState::Extension { size }
            }
            (ParserState::SizeEnd { size: 0 }, b'\n') => ParserState::Trailers,
            (ParserState::SizeEnd { size }, b'\n') => ParserState::Data { left: size },
            (ParserState::DataEnd, b'\r') => ParserState::DataLineFeed,
            (ParserState::DataLineFeed, b'\n') => ParserState::default(),
            _ => return Err(InvalidMessage::LooseChunk),
        })
    }

    /// Parses a byte of the trailer section (RFC 9112 §7.1.2). Returns whether it is the last one.
    fn trailer(&mut self, byte: u8, limits: &Http) -> Result<bool, InvalidMessage> {
        if self.trailers.len() >= limits.header_bytes_max {
            return Err(InvalidMessage::TrailersTooLarge { max: limits.header_bytes_max });
        }
        self.trailers.push(byte);
        if byte != b'\n' {
            return Ok(false);
        }
        match &*self.trailers {
            b"\r\n" => Ok(true),
            [.., b'\r', b'\n', b'\r', b'\n'] => check(&self.trailers, limits).map(|()| true),
            [.., b'\r', b'\n'] => Ok(false),
            _ => Err(InvalidMessage::BareLineFeed),
        }
    }
}

fn check(trailers: &[u8], limits: &Http) -> Result<(), InvalidMessage> {
    let mut fields = vec![httparse::EMPTY_HEADER; limits.headers_max];
    match httparse::parse_headers(trailers, &mut fields) {
        Ok(httparse::Status::Complete((read, _))) if read == trailers.len() => Ok(()),
        Err(httparse::Error::TooManyHeaders) => {
            Err(InvalidMessage::TooManyTrailers { max: limits.headers_max })
        }
        Ok(_) | Err(_) => Err(InvalidMessage::Trailers),
    }
}
