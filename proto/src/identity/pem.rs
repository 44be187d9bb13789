//! PEM files of certificates (RFC 7468), taken whole or not at all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use thiserror::Error;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
const LABEL: &str = "CERTIFICATE";

/// Reads every certificate of a PEM text. Text around the blocks is ignored; a block that is not a certificate,
/// that does not end or that is not base64 refuses the whole.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = String::from_utf8_lossy(pem);
    let mut certificates = Vec::new();
    let mut body: Option<(usize, String)> = None;
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let (line, number) = (line.trim(), at + 1);
        match body.take() {
            None if line.contains(END) => return Err(PemError::EndWithoutBegin { line: number }),
            None if line.contains(BEGIN) => {
                begin(line, number)?;
                body = Some((number, String::new()));
            }
            None => {}
            Some((begun, base64)) if line.starts_with(END) => {
                if line != format!("{END}{LABEL}{DASHES}") {
                    return Err(PemError::WrongEnd { line: number });
                }
                certificates.push(decode(&base64, begun)?);
            }
            Some((begun, mut base64)) => {
                base64.push_str(line);
                body = Some((begun, base64));
            }
        }
    }
    match body {
        Some((line, _)) => Err(PemError::NoEnd { line }),
        None => Ok(certificates),
    }
}

fn begin(line: &str, number: usize) -> Result<(), PemError> {
    let label = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(DASHES));
    match label {
        Some(LABEL) => Ok(()),
        Some(label) => Err(PemError::NotACertificate { line: number, label: label.to_owned() }),
        None => Err(PemError::BadBegin { line: number }),
    }
}

fn decode(base64: &str, line: usize) -> Result<CertificateDer<'static>, PemError> {
    let der =
        STANDARD.decode(base64).map_err(|error| PemError::Base64 { line, detail: error.to_string() })?;
    if der.is_empty() {
        return Err(PemError::Base64 { line, detail: "the block is empty".to_owned() });
    }
    Ok(CertificateDer::from(der))
}

/// Why a PEM text is refused. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PemError {
    /// A private key, a request, or anything else.
    #[error("line {line} begins a block {label:?}; only CERTIFICATE blocks may be here")]
    NotACertificate {
        /// Of the block's begin.
        line: usize,
        /// What the block says it is.
        label: String,
    },
    /// The begin marker is not alone on its line.
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
    #[error("line {line} does not end a CERTIFICATE block")]
    WrongEnd {
        /// Of the marker.
        line: usize,
    },
    /// The text ends inside a block.
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
