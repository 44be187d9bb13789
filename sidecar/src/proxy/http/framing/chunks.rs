//! Follows the chunked coding of a request (RFC 9112 §7.1) and takes only what every parser reads in the same way.

use crate::config::Http;
use crate::proxy::http::target::InvalidMessage;

/// All chunk extensions of one body. hyper's own limit, which it has no name for, is one byte more.
const EXTENSION_BYTES_MAX: usize = 16 * 1024 - 1;
/// Digits of a chunk's size; more do not fit into 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

/// Where in a chunked body a connection is.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    extension_bytes: usize,
    /// The trailer section so far: at most `header_bytes_max`.
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum At {
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

impl Default for At {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

/// What became of some bytes of a body.
pub(super) struct Step {
    /// So many bytes belong to it.
    pub(super) taken: usize,
    pub(super) over: bool,
}

impl Chunks {
    /// Follows the body until it ends or the bytes do.
    pub(super) fn step(&mut self, bytes: &[u8], limits: &Http) -> Result<Step, InvalidMessage> {
        let mut taken = 0;
        while let Some(&byte) = bytes.get(taken) {
            if let At::Data { left } = self.at {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - taken);
                taken += here;
                self.at = match left - here as u64 {
                    0 => At::DataEnd,
                    left => At::Data { left },
                };
                continue;
            }
            taken += 1;
            if let At::Trailers = self.at {
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

    /// A byte of what stands around the data of chunks.
    fn line(&mut self, byte: u8) -> Result<At, InvalidMessage> {
        Ok(match (self.at, byte) {
            (At::Size { size, digits: 1.. }, b'\r') => At::SizeEnd { size },
            (At::Size { size, digits: 1.. }, b';') => At::Extension { size },
            (At::Size { size, digits: digits @ ..SIZE_DIGITS_MAX }, byte) => {
                let digit = char::from(byte).to_digit(16).ok_or(InvalidMessage::LooseChunk)?;
                At::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (At::Extension { size }, b'\r') => At::SizeEnd { size },
            (At::Extension { size }, byte) if byte != b'\n' => {
                self.extension_bytes += 1;
                if self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(InvalidMessage::ChunkExtensions { max: EXTENSION_BYTES_MAX });
                }
                At::Extension { size }
            }
            (At::SizeEnd { size: 0 }, b'\n') => At::Trailers,
            (At::SizeEnd { size }, b'\n') => At::Data { left: size },
            (At::DataEnd, b'\r') => At::DataLineFeed,
            (At::DataLineFeed, b'\n') => At::default(),
            _ => return Err(InvalidMessage::LooseChunk),
        })
    }

    /// A byte of the trailer section (RFC 9112 §7.1.2); whether it is the last one.
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
            [.., b'\r', b'\n', b'\r', b'\n'] => judge(&self.trailers, limits).map(|()| true),
            [.., b'\r', b'\n'] => Ok(false),
            _ => Err(InvalidMessage::BareLineFeed),
        }
    }
}

fn judge(trailers: &[u8], limits: &Http) -> Result<(), InvalidMessage> {
    let mut fields = vec![httparse::EMPTY_HEADER; limits.headers_max];
    match httparse::parse_headers(trailers, &mut fields) {
        Ok(httparse::Status::Complete((read, _))) if read == trailers.len() => Ok(()),
        Err(httparse::Error::TooManyHeaders) => {
            Err(InvalidMessage::TooManyTrailers { max: limits.headers_max })
        }
        Ok(_) | Err(_) => Err(InvalidMessage::Trailers),
    }
}
