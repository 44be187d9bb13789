//! Reads TLS presentation language (RFC 8446 §3): every length must fit, and nothing may stay behind.

use thiserror::Error;

/// What is left to read.
pub(super) struct Reader<'a>(&'a [u8]);

/// A handshake message (RFC 8446 §4).
pub(super) struct Message<'a> {
    /// All of it, type and length included.
    pub(super) whole: &'a [u8],
    pub(super) body: Reader<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The type of the message that comes next, without reading it.
    pub(super) fn next_type(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// A message of this type and name.
    pub(super) fn message(&mut self, kind: u8, name: &'static str) -> Result<Message<'a>, DecodeError> {
        let start = self.0;
        let found = self.number(1, name)?;
        if found != usize::from(kind) {
            return Err(DecodeError::Message { expected: name, found });
        }
        let body = self.vector(3, name)?;
        let whole = start.strip_suffix(self.0).ok_or(DecodeError::Truncated { field: name })?;
        Ok(Message { whole, body: Self(body) })
    }

    /// A number of so many bytes, at most three.
    pub(super) fn number(&mut self, bytes: usize, field: &'static str) -> Result<usize, DecodeError> {
        Ok(self.take(bytes, field)?.iter().fold(0, |number, byte| (number << 8) | usize::from(*byte)))
    }

    /// A two-byte code.
    pub(super) fn code(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        match self.take(2, field)? {
            [high, low] => Ok(u16::from_be_bytes([*high, *low])),
            _ => Err(DecodeError::Truncated { field }),
        }
    }

    /// A vector whose length takes so many bytes (RFC 8446 §3.4).
    pub(super) fn vector(&mut self, width: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.number(width, field)?;
        self.take(length, field)
    }

    /// Everything that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Nothing may be left of `field`.
    pub(super) fn end(self, field: &'static str) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(DecodeError::Trailing { field, bytes: self.0.len() })
    }

    fn take(&mut self, bytes: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(DecodeError::Truncated { field })?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Why bytes are not the messages they should be (RFC 8446 §6.2 calls all of it `decode_error`, or
/// `unexpected_message`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A length says more than there is.
    #[error("{field} ends before its length says")]
    Truncated {
        /// What was read.
        field: &'static str,
    },
    /// A length says less than there is.
    #[error("{bytes} bytes follow {field}")]
    Trailing {
        /// What should have been the last.
        field: &'static str,
        /// How many bytes there are too many.
        bytes: usize,
    },
    /// A field whose length its definition does not allow.
    #[error("{field} has {bytes} bytes, which it cannot have")]
    Length {
        /// The field.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// Another message than the one that belongs here.
    #[error("{expected} expected, found a handshake message of type {found}")]
    Message {
        /// The message that belongs here.
        expected: &'static str,
        /// The type that was found.
        found: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_input_is_refused_at_every_width() {
        for width in 1..=3 {
            let mut bytes = vec![0; width];
            bytes[width - 1] = 2;
            bytes.push(7);
            let refused = Reader::new(&bytes).vector(width, "field");
            assert_eq!(refused, Err(DecodeError::Truncated { field: "field" }));
            assert_eq!(Reader::new(&vec![0; width - 1]).vector(width, "field"), refused);
            bytes.push(8);
            assert_eq!(Reader::new(&bytes).vector(width, "field"), Ok(&[7, 8][..]));
        }
    }

    #[test]
    fn a_message_knows_its_type_its_bytes_and_what_follows() {
        let bytes = [11, 0, 0, 2, 7, 8, 9];
        let mut reader = Reader::new(&bytes);
        let message = reader.message(11, "Certificate").unwrap();
        assert_eq!((message.whole, message.body.rest()), (&bytes[..6], &bytes[4..6]));
        assert_eq!(reader.end("all"), Err(DecodeError::Trailing { field: "all", bytes: 1 }));
        let other = Reader::new(&bytes).message(20, "Finished").err();
        assert_eq!(other, Some(DecodeError::Message { expected: "Finished", found: 11 }));
    }
}
