//! The OPEN frame: the parameters of the app connection that begins (docs/WIRE.md, OPEN).

use thiserror::Error;

/// An OPEN frame has at most this many bytes.
pub(super) const OPEN_BYTES_MAX: usize = 1024;

const PORT: u8 = 1;
const TRACE: u8 = 2;
/// Receivers ignore unknown fields from this number on.
const OPTIONAL: u8 = 128;

/// The fields of OPEN.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Open {
    /// The port's name in the policy. A server with another port refuses.
    pub port: Option<String>,
    /// W3C `traceparent`, which correlates the logs of both sides.
    pub trace: Option<String>,
}

/// Why an OPEN cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    #[error("expected a field of {expected} bytes, found {found}")]
    Truncated { expected: usize, found: usize },
    #[error("the field {0} is not known")]
    Unknown(u8),
    #[error("the field {0} comes twice")]
    Repeated(u8),
    #[error("the field {0} is not visible ASCII")]
    NotText(u8),
}

impl Open {
    /// Fields, each with its number, its length and its value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (field, value) in [(PORT, &self.port), (TRACE, &self.trace)] {
            let Some(value) = value else { continue };
            let value = value.as_bytes();
            let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
            out.push(field);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(value.get(..usize::from(length)).unwrap_or(value));
        }
        out
    }

    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, OpenError> {
        let mut open = Self::default();
        while let Some((&field, rest)) = bytes.split_first() {
            let (value, rest) = value_of(rest)?;
            bytes = rest;
            let place = match field {
                PORT => &mut open.port,
                TRACE => &mut open.trace,
                OPTIONAL.. => continue,
                unknown => return Err(OpenError::Unknown(unknown)),
            };
            if place.replace(text(field, value)?).is_some() {
                return Err(OpenError::Repeated(field));
            }
        }
        Ok(open)
    }
}

fn value_of(bytes: &[u8]) -> Result<(&[u8], &[u8]), OpenError> {
    let too_short = |expected| OpenError::Truncated { expected, found: bytes.len() };
    let (length, rest) = bytes.split_first_chunk().ok_or_else(|| too_short(2))?;
    let length = usize::from(u16::from_be_bytes(*length));
    rest.split_at_checked(length).ok_or_else(|| too_short(2 + length))
}

fn text(field: u8, value: &[u8]) -> Result<String, OpenError> {
    match std::str::from_utf8(value) {
        Ok(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(text.to_owned())
        }
        _ => Err(OpenError::NotText(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_fields_are_decoded() {
        let open = Open { port: Some("api".to_owned()), trace: Some("00-4bf9-00f0-01".to_owned()) };
        assert_eq!(Open::parse(&open.encode()), Ok(open));
        assert_eq!(Open::parse(&[]), Ok(Open::default()));
    }

    #[test]
    fn unknown_fields_are_refused_unless_optional() {
        assert_eq!(Open::parse(&[3, 0, 0]), Err(OpenError::Unknown(3)));
        assert_eq!(Open::parse(&[200, 0, 1, 7]), Ok(Open::default()));
    }

    #[test]
    fn every_malformed_field_is_refused() {
        assert_eq!(Open::parse(&[1]), Err(OpenError::Truncated { expected: 2, found: 0 }));
        assert_eq!(Open::parse(&[1, 0, 2, b'a']), Err(OpenError::Truncated { expected: 4, found: 3 }));
        assert_eq!(Open::parse(&[1, 0, 1, b'a', 1, 0, 1, b'a']), Err(OpenError::Repeated(1)));
        assert_eq!(Open::parse(&[1, 0, 0]), Err(OpenError::NotText(1)));
        assert_eq!(Open::parse(&[1, 0, 1, b'\n']), Err(OpenError::NotText(1)));
        assert_eq!(Open::parse(&[2, 0, 1, 0xff]), Err(OpenError::NotText(2)));
    }
}
