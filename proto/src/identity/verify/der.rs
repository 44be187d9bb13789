//! Just enough DER to look at what certificate parsers skip.

/// One element: its tag and its content.
pub(super) type Element<'a> = (u8, &'a [u8]);

/// `[6]` in a GeneralName: uniformResourceIdentifier (RFC 5280 §4.2.1.6).
pub(super) const TAG_URI: u8 = 0x86;
/// A universal SEQUENCE.
pub(super) const TAG_SEQUENCE: u8 = 0x30;

/// Takes the first element off `input`; nothing if its tag is long, or its length indefinite, not minimal (X.690
/// §10.1) or beyond the input.
pub(super) fn element(input: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = input.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let long = bytes.len() > 4 || bytes.first().is_none_or(|byte| *byte == 0);
        let length = bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte));
        if long || length < 0x80 {
            return None;
        }
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some(((tag, content), rest))
}

/// The one element that `input` consists of.
pub(super) fn single(input: &[u8]) -> Option<Element<'_>> {
    match element(input)? {
        (element, []) => Some(element),
        _ => None,
    }
}

/// The elements in a SEQUENCE that is all of `input`.
pub(super) fn sequence(input: &[u8]) -> Option<Vec<Element<'_>>> {
    let (TAG_SEQUENCE, mut content) = single(input)? else { return None };
    let mut elements = Vec::new();
    while !content.is_empty() {
        let (element, rest) = element(content)?;
        elements.push(element);
        content = rest;
    }
    Some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_minimal_definite_lengths_are_read() {
        assert_eq!(single(&[0x04, 0x01, 0xaa]), Some((0x04, &[0xaa][..])));
        assert_eq!(single(&[0x04, 0x81, 0x01, 0xaa]), None, "long form of a short length");
        assert_eq!(single(&[0x30, 0x80, 0x00, 0x00]), None, "indefinite");
        assert_eq!(single(&[0x04, 0x02, 0xaa]), None, "beyond the input");
        assert_eq!(single(&[0x04, 0x01, 0xaa, 0x00]), None, "something behind it");
        assert_eq!(single(&[0x1f, 0x21, 0x00]), None, "long tag");
    }
}
