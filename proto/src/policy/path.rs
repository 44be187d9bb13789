//! The one reading of a request's path (policy.md `Paths`): its normal form, or which part could be read two ways.

use std::borrow::Cow;

use thiserror::Error;

/// A longer path is ambiguous (policy.md `Paths`).
pub const PATH_BYTES_MAX: usize = 8 * 1024;

/// The normal form of a path, which is what precedes `?`: encoded unreserved characters are decoded once, other
/// encodings get upper-case digits, nothing is folded or removed.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, Ambiguity> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Ambiguity::TooLong { bytes: path.len() });
    }
    if !path.starts_with('/') {
        return Err(Ambiguity::NoLeadingSlash);
    }
    if let Some(byte) = path.bytes().find(|byte| !is_plain(*byte)) {
        return Err(Ambiguity::of_byte(byte));
    }
    let normal = if path.contains('%') { Cow::Owned(decode(path)?) } else { Cow::Borrowed(path) };
    check_segments(&normal)?;
    Ok(normal)
}

/// Which part of a path could be read two ways by a backend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Ambiguity {
    /// Also `*` and an authority, as in `OPTIONS *` and CONNECT.
    #[error("the path does not start with \"/\"")]
    NoLeadingSlash,
    /// More than [`PATH_BYTES_MAX`].
    #[error("the path has {bytes} bytes, more than the {PATH_BYTES_MAX} allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// `//`: some backends merge the slashes.
    #[error("the path has an empty segment (\"//\")")]
    EmptySegment,
    /// `.` or `..`, plain or encoded: some backends resolve them.
    #[error("the path has the segment {segment:?}")]
    DotSegment {
        /// `.` or `..`.
        segment: &'static str,
    },
    /// An encoded `/ \ %` or control character: some backends decode before they split, or twice.
    #[error("the path has an encoded {}", Shown(*byte))]
    Encoded {
        /// What is encoded.
        byte: u8,
    },
    /// `%` without two hexadecimal digits after it.
    #[error("the path has a broken percent-encoding {found:?}")]
    BrokenEncoding {
        /// `%` and what follows, at most two characters.
        found: String,
    },
    /// A character that some backends cut at, rewrite or refuse.
    #[error("the path has {}", Shown(*byte))]
    Character {
        /// The first byte of it.
        byte: u8,
    },
}

impl Ambiguity {
    fn of_byte(byte: u8) -> Self {
        Self::Character { byte }
    }
}

/// A byte for people: never raw when it could act on a terminal.
struct Shown(u8);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            byte if byte.is_ascii_control() => write!(f, "control character 0x{byte:02X}"),
            byte if !byte.is_ascii() => write!(f, "non-ASCII byte 0x{byte:02X}"),
            byte => write!(f, "{:?}", char::from(byte)),
        }
    }
}

/// Bytes that no backend reads in two ways by themselves; `?` never belongs to a path.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii() && !byte.is_ascii_control() && !matches!(byte, b'\\' | b'#' | b';' | b'?')
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn decode(path: &str) -> Result<String, Ambiguity> {
    let mut pieces = path.split('%');
    let mut normal = String::with_capacity(path.len());
    normal.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let broken = || Ambiguity::BrokenEncoding { found: format!("%{}", piece.get(..2).unwrap_or(piece)) };
        let (digits, rest) = piece.split_at_checked(2).ok_or_else(broken)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(broken());
        }
        let byte = u8::from_str_radix(digits, 16).map_err(|_| broken())?;
        if matches!(byte, b'/' | b'\\' | b'%') || byte.is_ascii_control() {
            return Err(Ambiguity::Encoded { byte });
        }
        if is_unreserved(byte) {
            normal.push(char::from(byte));
        } else {
            normal.push('%');
            normal.push_str(&digits.to_ascii_uppercase());
        }
        normal.push_str(rest);
    }
    Ok(normal)
}

fn check_segments(path: &str) -> Result<(), Ambiguity> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" if segments.peek().is_some() => return Err(Ambiguity::EmptySegment),
            "." => return Err(Ambiguity::DotSegment { segment: "." }),
            ".." => return Err(Ambiguity::DotSegment { segment: ".." }),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unreserved_characters_are_decoded_once_and_others_get_upper_case_digits() {
        for (given, normal) in [
            ("/", "/"),
            ("/charge", "/charge"),
            ("/%63harge", "/charge"),
            ("/%7euser", "/~user"),
            ("/a%2db%5fc", "/a-b_c"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("/a%2a%20%3d", "/a%2A%20%3D"),
            ("/CHARGE", "/CHARGE"),
            ("/charge/", "/charge/"),
            ("/a=b&c,d:e@f!$'()*+", "/a=b&c,d:e@f!$'()*+"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
        ] {
            assert_eq!(normalise(given).unwrap(), normal, "{given}");
        }
    }

    #[test]
    fn what_a_backend_could_read_two_ways_is_ambiguous() {
        for path in [
            "",
            "*",
            "charge",
            "host:443",
            "http://payments/charge",
            "//",
            "//charge",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/./charge",
            "/x/../charge",
            "/x/.",
            "/x/..",
            "/x/%2e%2E/charge",
            "/x/.%2e",
            "/%2e",
            "/..;/a",
            "/.;a/b",
            "/%2e%2e;x/b",
            "/a%2fb",
            "/a%2Fb",
            "/charge%2f..%2fadmin",
            "/a%5cb",
            "/a%25b",
            "/%2563harge",
            "/a%00",
            "/a%1f",
            "/a%7F",
            "/a%0d%0a",
            "\\charge",
            "/a\\b",
            "/a#x",
            "/a;a=b",
            "/a\u{0}",
            "/a\nb",
            "/a\u{7f}",
            "/caf\u{e9}",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%+1",
            "/a%4\u{e9}",
            "/a?x",
        ] {
            assert!(normalise(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn the_refusal_names_the_ambiguous_part() {
        for (path, part) in [
            ("/a%2fb", "encoded '/'"),
            ("/a%00", "encoded control character 0x00"),
            ("/a;b", "';'"),
            ("/a\u{e9}", "non-ASCII byte 0xC3"),
            ("/a/../b", "segment \"..\""),
            ("/a//b", "empty segment"),
            ("/a%4g", "broken percent-encoding \"%4g\""),
            ("*", "does not start with \"/\""),
        ] {
            let said = normalise(path).unwrap_err().to_string();
            assert!(said.contains(part), "{path}: {said}");
        }
    }

    #[test]
    fn the_longest_path_has_8_kib() {
        let path = format!("/{}", "a".repeat(PATH_BYTES_MAX - 1));
        assert!(normalise(&path).is_ok());
        assert_eq!(normalise(&format!("{path}a")), Err(Ambiguity::TooLong { bytes: PATH_BYTES_MAX + 1 }));
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent(path in "/([a-c./%;]|%[0-9a-fA-F]{2}){0,12}|\\PC{0,20}") {
            if let Ok(normal) = normalise(&path) {
                prop_assert_eq!(normalise(&normal).unwrap(), normal.clone());
                prop_assert_eq!(normal.matches('/').count(), path.matches('/').count());
            }
        }
    }
}
