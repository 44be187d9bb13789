//! Decodes header blocks (HPACK, RFC 7541), so that each field can be checked and counted before it is stored.

use std::borrow::Cow;
use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes};

use super::huffman;

/// RFC 9113 §6.5.2: we announce no other size.
const TABLE_BYTES_MAX: usize = 4_096;
/// Overhead counted per table entry and per field (RFC 7541 §4.1, RFC 9113 §6.5.2).
pub(super) const FIELD_OVERHEAD_BYTES: usize = 32;
/// Octets of an integer after its first.
const INTEGER_OCTETS_MAX: u32 = 4;

/// A header block that cannot be decoded; the following blocks of its connection cannot be decoded either (RFC 9113
/// §4.3).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidHeaderBlock;

/// One connection's dynamic table.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest first.
    entries: VecDeque<(Bytes, Bytes)>,
    bytes: usize,
    bytes_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max: TABLE_BYTES_MAX }
    }
}

impl Decoder {
    /// Passes each field of a complete block to a callback.
    pub(super) fn decode(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), InvalidHeaderBlock> {
        let (mut rest, mut begun) = (block, false);
        while let Some(&first) = rest.first() {
            match first {
                0x80.. => {
                    let (name, value) = self.entry(integer(&mut rest, 7)?)?;
                    field(&name, &value);
                }
                0x20..0x40 => {
                    let size = integer(&mut rest, 5)?;
                    if begun || size > TABLE_BYTES_MAX {
                        return Err(InvalidHeaderBlock);
                    }
                    self.bytes_max = size;
                    self.evict(0);
                    continue;
                }
                _ => {
                    let is_kept = first & 0x40 != 0;
                    let name = match integer(&mut rest, if is_kept { 6 } else { 4 })? {
                        0 => string(&mut rest)?,
                        at => Cow::Owned(self.entry(at)?.0.to_vec()),
                    };
                    let value = string(&mut rest)?;
                    field(&name, &value);
                    if is_kept {
                        self.insert(&name, &value);
                    }
                }
            }
            begun = true;
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(Bytes, Bytes), InvalidHeaderBlock> {
        if let Some((name, value)) =
            index.checked_sub(1).ok_or(InvalidHeaderBlock).map(|at| STATIC.get(at))?
        {
            return Ok((Bytes::from_static(name), Bytes::from_static(value)));
        }
        self.entries.get(index - 1 - STATIC.len()).cloned().ok_or(InvalidHeaderBlock)
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let bytes = name.len() + value.len() + FIELD_OVERHEAD_BYTES;
        self.evict(bytes);
        if bytes <= self.bytes_max {
            self.entries.push_front((Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)));
            self.bytes += bytes;
        }
    }

    /// Evicts entries (RFC 7541 §4.3, §4.4).
    fn evict(&mut self, room: usize) {
        while self.bytes + room > self.bytes_max
            && let Some((name, value)) = self.entries.pop_back()
        {
            self.bytes -= name.len() + value.len() + FIELD_OVERHEAD_BYTES;
        }
    }
}

/// RFC 7541 §5.1.
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, InvalidHeaderBlock> {
    let (first, mut after) = rest.split_first().ok_or(InvalidHeaderBlock)?;
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        let mut octet = 0;
        loop {
            let (next, left) = after.split_first().ok_or(InvalidHeaderBlock)?;
            after = left;
            value += usize::from(next & 0x7f) << (7 * octet);
            octet += 1;
            if next & 0x80 == 0 {
                break;
            }
            if octet == INTEGER_OCTETS_MAX {
                return Err(InvalidHeaderBlock);
            }
        }
    }
    *rest = after;
    Ok(value)
}

/// RFC 7541 §5.2.
fn string<'b>(rest: &mut &'b [u8]) -> Result<Cow<'b, [u8]>, InvalidHeaderBlock> {
    let is_coded = rest.first().ok_or(InvalidHeaderBlock)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (octets, after) = rest.split_at_checked(length).ok_or(InvalidHeaderBlock)?;
    *rest = after;
    if !is_coded {
        return Ok(Cow::Borrowed(octets));
    }
    let mut text = Vec::with_capacity(octets.len() * 2);
    huffman::decode(octets, &mut text).ok_or(InvalidHeaderBlock)?;
    Ok(Cow::Owned(text))
}

/// Encodes a field without indexing, so that its decoder needs no dynamic table.
pub(super) fn encode(name: &[u8], value: &[u8], to: &mut Vec<u8>) {
    if let Some(at) = STATIC.iter().take(STATIC_WITH_VALUES).position(|entry| *entry == (name, value)) {
        // RFC 7541 §6.1.
        to.put_u8(0x81 + u8::try_from(at).unwrap_or_default());
        return;
    }
    // RFC 7541 §6.2.2.
    to.put_u8(0);
    for text in [name, value] {
        encode_length(text.len(), to);
        to.extend_from_slice(text);
    }
}

fn encode_length(length: usize, to: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(0x7f) else { return to.push(length as u8) };
    to.push(0x7f);
    while rest >= 0x80 {
        to.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

/// The first entries of the static table, of which most have a value.
const STATIC_WITH_VALUES: usize = 16;
/// RFC 7541 Appendix A.
static STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, InvalidHeaderBlock> {
        let mut fields = Vec::new();
        decoder.decode(block, |name, value| {
            fields.push(format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        })?;
        Ok(fields)
    }

    /// RFC 7541 Appendix C.4: three requests on one connection.
    #[test]
    fn the_examples_of_the_standard_are_read_with_their_table() {
        let decoder = &mut Decoder::default();
        let host = [0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        let first = [&[0x82, 0x86, 0x84][..], &host].concat();
        let basic = [":method=GET", ":scheme=http", ":path=/", ":authority=www.example.com"];
        assert_eq!(decoded(decoder, &first).unwrap(), basic);
        let second = [0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
        assert_eq!(decoded(decoder, &second).unwrap(), [&basic[..], &["cache-control=no-cache"]].concat());
        assert_eq!(decoder.bytes, 110);
        assert_eq!(decoded(decoder, &[0x20, 0x82]).unwrap(), [":method=GET"], "the table is emptied");
        assert_eq!(decoded(decoder, &[0xbe]), Err(InvalidHeaderBlock));
    }

    #[test]
    fn invalid_header_blocks_are_refused() {
        for block in [
            &[0x80][..],
            &[0xc0],
            &[0x00],
            &[0x00, 5, b'a'],
            &[0x82, 0x20],
            &[0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert_eq!(decoded(&mut Decoder::default(), block), Err(InvalidHeaderBlock), "{block:x?}");
        }
    }

    #[test]
    fn encoded_fields_decode_without_a_dynamic_table() {
        let long = "v".repeat(40_000);
        let fields = [
            (":method", "GET"),
            (":path", "/x"),
            ("x", &long),
            ("y", ""),
            (":status", "204"),
            ("z", &long[..127]),
        ];
        let mut block = Vec::new();
        for (name, value) in fields {
            encode(name.as_bytes(), value.as_bytes(), &mut block);
        }
        let decoder = &mut Decoder::default();
        assert_eq!(decoded(decoder, &block).unwrap(), fields.map(|(name, value)| format!("{name}={value}")));
        assert_eq!(decoder.entries.len(), 0);
    }
}
