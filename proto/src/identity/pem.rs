//! PEM (RFC 7468): the blocks of a text, and the certificates of a file, taken whole or not at all.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use zeroize::Zeroizing;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
const UTF8_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
const UTF16_MARKS: [&[u8]; 2] = [&[0xff, 0xfe], &[0xfe, 0xff]];
/// RFC 7468 §5.1: the customary label, and the two that readers take for it.
const CERTIFICATE_LABELS: [&str; 3] = ["CERTIFICATE", "X509 CERTIFICATE", "X.509 CERTIFICATE"];

/// One block. Its content may be a key, and is wiped.
pub(super) struct Block {
    pub(super) label: String,
    /// Of the begin marker; lines count from 1.
    pub(super) line: usize,
    /// Whether a header says that the content is encrypted (RFC 1421 §4.6.1.1).
    pub(super) encrypted: bool,
    base64: Zeroizing<Vec<u8>>,
}

impl Block {
    pub(super) fn decode(&self) -> Result<Zeroizing<Vec<u8>>, PemError> {
        let Self { line, .. } = *self;
        let der = STANDARD.decode(self.base64.as_slice());
        let der = der.map_err(|error| PemError::Base64 { line, detail: error.to_string() })?;
        if der.is_empty() {
            return Err(PemError::Base64 { line, detail: "the block is empty".to_owned() });
        }
        Ok(Zeroizing::new(der))
    }
}

/// Reads every block of a text. Text around the blocks is ignored, and a marker begins its line (§2), with white space
/// before it at most (§3): a comment that mentions one is a comment.
pub(super) fn blocks(text: &[u8]) -> Result<Vec<Block>, PemError> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    let unmarked = text.strip_prefix(UTF8_MARK).unwrap_or(text);
    for (at, line) in lines(unmarked).enumerate() {
        let (line, number) = (line.trim_ascii(), at + 1);
        let Some(mut block) = open.take() else {
            if line.starts_with(END) {
                return Err(PemError::EndWithoutBegin { line: number });
            }
            open = begin(line, number, text.len())?;
            continue;
        };
        if let Some(rest) = line.strip_prefix(END) {
            if rest.strip_suffix(DASHES) != Some(block.label.as_bytes()) {
                return Err(PemError::WrongEnd { line: number, label: block.label });
            }
            blocks.push(block);
            continue;
        }
        if line.starts_with(DASHES) {
            return Err(PemError::NoEnd { line: block.line });
        }
        block.take(line);
        open = Some(block);
    }
    match open {
        Some(block) => Err(PemError::NoEnd { line: block.line }),
        None if blocks.is_empty() => no_block(text).map(|()| blocks),
        None => Ok(blocks),
    }
}

/// Lines that end with LF, CRLF or CR (§3).
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ended = text.split(|byte| *byte == b'\n');
    ended.flat_map(|line| line.strip_suffix(b"\r").unwrap_or(line).split(|byte| *byte == b'\r'))
}

fn begin(line: &[u8], number: usize, bytes_max: usize) -> Result<Option<Block>, PemError> {
    let Some(rest) = line.strip_prefix(BEGIN) else { return Ok(None) };
    let label = rest.strip_suffix(DASHES).filter(|label| is_label(label));
    let label = label.ok_or(PemError::BadBegin { line: number })?;
    let label = String::from_utf8_lossy(label).into_owned();
    // All of its capacity is there from the start, so that no copy of a key is left behind when it grows.
    let base64 = Zeroizing::new(Vec::with_capacity(bytes_max.min(FIRST_BYTES_MAX)));
    Ok(Some(Block { label, line: number, encrypted: false, base64 }))
}

/// Of the labels in use, the longest has half as many.
const LABEL_BYTES_MAX: usize = 64;

/// Printable characters of ASCII (RFC 7468 §3). Refusals repeat the label.
fn is_label(label: &[u8]) -> bool {
    label.len() <= LABEL_BYTES_MAX && label.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The capacity that a block begins with, at most: more than any key takes.
const FIRST_BYTES_MAX: usize = 16 * 1024;

impl Block {
    /// A line of base64, or a header of older forms (RFC 1421 §4.6), which has a colon.
    fn take(&mut self, line: &[u8]) {
        if line.contains(&b':') {
            self.encrypted |= line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
        } else {
            self.base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
    }
}

/// A text without any block: empty, or something else than PEM.
fn no_block(text: &[u8]) -> Result<(), PemError> {
    if UTF16_MARKS.iter().any(|mark| text.starts_with(mark)) {
        return Err(PemError::NotPem { what: NotPem::Utf16 });
    }
    match text {
        // A SEQUENCE whose length takes two octets, as that of every certificate and key does, or one.
        [0x30, 0x81..=0x83, ..] => Err(PemError::NotPem { what: NotPem::Der }),
        text if text.trim_ascii().is_empty() => Ok(()),
        _ => Err(PemError::NotPem { what: NotPem::Text }),
    }
}

/// Reads every certificate of a PEM text; a block that is not a certificate, that does not end or that is not base64
/// refuses the whole.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificate = |block: Block| {
        if !CERTIFICATE_LABELS.contains(&block.label.as_str()) {
            return Err(PemError::NotACertificate { line: block.line, label: block.label });
        }
        Ok(CertificateDer::from(block.decode()?.to_vec()))
    };
    blocks(pem)?.into_iter().map(certificate).collect()
}

/// What a text is that is not PEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPem {
    /// The same in binary.
    Der,
    /// Text in another encoding.
    Utf16,
    /// Something else.
    Text,
}

impl fmt::Display for NotPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Der => {
                "it is DER or PKCS#12; convert it, for example with `openssl x509 -inform DER`, \
                 `openssl pkey -inform DER` or `openssl pkcs12 -nodes`"
            }
            Self::Utf16 => "it is UTF-16; save it as UTF-8",
            Self::Text => "no line begins with -----BEGIN",
        })
    }
}

/// Why a PEM text is refused. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PemError {
    /// There is something, and it has no block.
    #[error("it is not PEM: {what}")]
    NotPem {
        /// What it is.
        what: NotPem,
    },
    /// A private key, a request, or anything else.
    #[error("line {line} begins a block {label:?}; only CERTIFICATE blocks may be here")]
    NotACertificate {
        /// Of the block's begin.
        line: usize,
        /// What the block says it is.
        label: String,
    },
    /// A begin marker without its last dashes, or with a label that is none.
    #[error("line {line} has a broken BEGIN marker")]
    BadBegin {
        /// Of the marker.
        line: usize,
    },
    /// An end marker outside a block.
    #[error("line {line} ends a block that never began")]
    EndWithoutBegin {
        /// Of the marker.
        line: usize,
    },
    /// The end marker is not the begin's.
    #[error("line {line} does not end the block {label:?}")]
    WrongEnd {
        /// Of the marker.
        line: usize,
        /// Of the begin marker.
        label: String,
    },
    /// The text ends, or another block begins, inside a block.
    #[error("the block that begins at line {line} never ends")]
    NoEnd {
        /// Of the block's begin.
        line: usize,
    },
    /// The block's body.
    #[error("the block that begins at line {line} is not base64: {detail}")]
    Base64 {
        /// Of the block's begin.
        line: usize,
        /// What the reader met.
        detail: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "-----BEGIN CERTIFICATE-----\nAAAA\nBBBB\n-----END CERTIFICATE-----\n";

    fn read(text: impl AsRef<[u8]>) -> Result<usize, PemError> {
        certificates_from_pem(text.as_ref()).map(|certificates| {
            assert!(
                certificates.iter().all(|der| der.as_ref() == [0, 0, 0, 4, 0x10, 0x41]),
                "{certificates:?}"
            );
            certificates.len()
        })
    }

    #[test]
    fn files_as_people_and_tools_write_them_are_read() {
        let commented: String = BLOCK.lines().map(|line| format!("# {line}\n")).collect();
        let cases = [
            ("plain", BLOCK.to_owned(), 1),
            ("a byte order mark", format!("\u{feff}{BLOCK}"), 1),
            ("CRLF", BLOCK.replace('\n', "\r\n"), 1),
            ("CR", BLOCK.replace('\n', "\r"), 1),
            ("white space around lines", BLOCK.replace('\n', " \t\n \t"), 1),
            ("white space in a line", BLOCK.replace("AAAA", "AA AA"), 1),
            ("empty lines", BLOCK.replace('\n', "\n\n"), 1),
            ("no last line end", BLOCK.trim_end().to_owned(), 1),
            ("text around", format!("subject=CN = r\n{BLOCK}the end\n"), 1),
            ("one that is commented out", format!("{commented}{BLOCK}"), 1),
            ("comments that mention markers", format!("# -----BEGIN X-----\n{BLOCK}// -----END X-----\n"), 1),
            ("the label of older tools", BLOCK.replace("CERTIFICATE", "X509 CERTIFICATE"), 1),
            ("headers", BLOCK.replace("AAAA", "Name: value\n\nAAAA"), 1),
            ("two", BLOCK.repeat(2), 2),
            ("nothing", String::new(), 0),
            ("white space alone", " \r\n\t\n".to_owned(), 0),
        ];
        for (what, text, count) in cases {
            assert_eq!(read(text), Ok(count), "{what}");
        }
        assert_eq!(read([b"\xff\xfe text that is no UTF-8 \n", BLOCK.as_bytes()].concat()), Ok(1));
    }

    #[test]
    fn everything_else_is_refused_with_its_line_and_what_would_do() {
        let utf16: Vec<u8> =
            [0xff, 0xfe].into_iter().chain(BLOCK.bytes().flat_map(|byte| [byte, 0])).collect();
        let cases: [(&str, Vec<u8>, &str); 15] = [
            ("DER", vec![0x30, 0x82, 1, 0, 0x30], "it is not PEM: it is DER or PKCS#12; convert it"),
            ("UTF-16", utf16, "it is not PEM: it is UTF-16"),
            ("other text", b"a note".to_vec(), "no line begins with -----BEGIN"),
            ("all commented out", format!("#{BLOCK}").lines().next().unwrap().into(), "no line begins"),
            ("dashes that lack", BLOCK.replace("E-----\nA", "E----\nA").into(), "line 1 has a broken BEGIN"),
            ("a label that is no text", BLOCK.replace(" C", " \u{1d}C").into(), "line 1 has a broken BEGIN"),
            (
                "a label without end",
                BLOCK.replace(" C", &format!(" {}", "X".repeat(65))).into(),
                "line 1 has a broken BEGIN",
            ),
            ("an end alone", format!("\n{}", &BLOCK[28..]).replace("AAAA\nBBBB\n", "").into(), "line 2 ends"),
            ("another's end", BLOCK.replace("END C", "END D").into(), "line 4 does not end the block"),
            ("no end", BLOCK[..40].into(), "line 1 never ends"),
            ("another begin inside", format!("\n{}{BLOCK}", &BLOCK[..40]).into(), "line 2 never ends"),
            ("not base64", BLOCK.replace("AAAA", "!!!!").into(), "begins at line 1 is not base64"),
            ("a comment inside", BLOCK.replace("AAAA", "# AAAA").into(), "begins at line 1 is not base64"),
            ("an empty block", BLOCK.replace("AAAA\nBBBB\n", "").into(), "the block is empty"),
            (
                "OpenSSL's own",
                BLOCK.replace(" C", " TRUSTED C").into(),
                "begins a block \"TRUSTED CERTIFICATE\"",
            ),
        ];
        for (what, text, reason) in cases {
            let refused = read(text).unwrap_err().to_string();
            assert!(refused.contains(reason), "{what}: {reason:?} is missing in {refused:?}");
        }
    }
}
