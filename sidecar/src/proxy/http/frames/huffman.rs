//! The Huffman code of HPACK (RFC 7541 Appendix B). It is canonical, so code lengths define it.

/// Bits of each octet's code.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26,
];
/// No code is shorter or longer.
const BITS_MIN: u32 = 5;
const BITS_MAX: u32 = 30;

/// The codes of one length: consecutive numbers from `first` on, for the symbols from `from` on.
#[derive(Clone, Copy)]
struct Codes {
    first: u32,
    count: u32,
    from: usize,
}

/// Symbols ordered by the length of their codes, then by value.
static SYMBOLS: [u8; 256] = symbols();
static CODES: [Codes; BITS_MAX as usize + 1] = codes();

#[expect(clippy::indexing_slicing, reason = "computed at compile time, where it could not fail later")]
const fn symbols() -> [u8; 256] {
    let (mut symbols, mut at, mut bits) = ([0; 256], 0, BITS_MIN);
    while bits <= BITS_MAX {
        let mut symbol = 0_usize;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as u32 == bits {
                symbols[at] = symbol as u8;
                at += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    symbols
}

#[expect(clippy::indexing_slicing, reason = "computed at compile time, where it could not fail later")]
const fn codes() -> [Codes; BITS_MAX as usize + 1] {
    let mut codes = [Codes { first: 0, count: 0, from: 0 }; BITS_MAX as usize + 1];
    let (mut code, mut from, mut bits) = (0, 0, BITS_MIN);
    while bits <= BITS_MAX {
        let (mut count, mut symbol) = (0, 0);
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as u32 == bits {
                count += 1;
            }
            symbol += 1;
        }
        codes[bits as usize] = Codes { first: code, count, from };
        code = (code + count) << 1;
        from += count as usize;
        bits += 1;
    }
    codes
}

/// Appends the decoded octets; `None` if they are not a valid encoding (RFC 7541 §5.2).
pub(super) fn decode(octets: &[u8], to: &mut Vec<u8>) -> Option<()> {
    let (mut bits, mut count, mut octets) = (0_u64, 0_u32, octets.iter());
    loop {
        while count <= u64::BITS - 16
            && let Some(octet) = octets.next()
        {
            bits = bits << 8 | u64::from(*octet);
            count += 8;
        }
        match symbol(bits, count) {
            Some((symbol, used)) => {
                to.push(symbol);
                count -= used;
            }
            None => {
                // The remaining bits are padding: a prefix of the EOS code, which is all ones.
                let padding = (1_u64 << count) - 1;
                return (count < 8 && bits & padding == padding).then_some(());
            }
        }
    }
}

/// Decodes the first symbol of the last `count` bits, with its number of bits.
fn symbol(bits: u64, count: u32) -> Option<(u8, u32)> {
    (BITS_MIN..=BITS_MAX.min(count)).find_map(|length| {
        let code = (bits >> (count - length)) as u32 & ((1 << length) - 1);
        let codes = CODES.get(length as usize)?;
        let at = code.checked_sub(codes.first).filter(|at| *at < codes.count)?;
        Some((*SYMBOLS.get(codes.from + at as usize)?, length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(octets: &[u8]) -> Option<String> {
        let mut to = Vec::new();
        decode(octets, &mut to)?;
        String::from_utf8(to).ok()
    }

    /// RFC 7541 Appendix C.4 and C.6.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        for (octets, text) in [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[0x64, 0x02], "302"),
            (&[], ""),
        ] {
            assert_eq!(decoded(octets).as_deref(), Some(text));
        }
    }

    #[test]
    fn padding_that_is_long_or_not_all_ones_and_the_end_itself_are_refused() {
        for octets in [&[0xff][..], &[0x60], &[0xff, 0xff, 0xff, 0xff], &[0x1f, 0xff]] {
            assert_eq!(decoded(octets), None, "{octets:x?}");
        }
    }
}
