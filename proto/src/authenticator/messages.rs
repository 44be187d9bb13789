//! The three messages of an authenticator as bytes (RFC 8446 §4.4): written, and read back strictly.

use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;

use super::AuthenticatorError;
use super::extension::ExtensionType;
use super::reader::{DecodeError, Reader};

const CERTIFICATE: u8 = 11;
const CERTIFICATE_VERIFY: u8 = 15;
const FINISHED: u8 = 20;

/// A Certificate, read.
pub(super) struct Certificate<'a> {
    pub(super) whole: &'a [u8],
    pub(super) context: &'a [u8],
    pub(super) chain: Vec<CertificateDer<'a>>,
}

/// A CertificateVerify, read.
pub(super) struct CertificateVerify<'a> {
    pub(super) whole: &'a [u8],
    pub(super) scheme: SignatureScheme,
    pub(super) signature: &'a [u8],
}

/// What an authenticator is made of.
pub(super) enum Parts<'a> {
    /// RFC 9261 §5.2.
    Proof(Certificate<'a>, CertificateVerify<'a>, &'a [u8]),
    /// RFC 9261 §6: an empty authenticator, whose Finished alone is sent.
    Refusal(&'a [u8]),
}

impl<'a> Parts<'a> {
    /// Reads all of `bytes`. `mac_bytes` is how long a Finished of this connection is.
    pub(super) fn parse(bytes: &'a [u8], mac_bytes: usize) -> Result<Self, AuthenticatorError> {
        let mut reader = Reader::new(bytes);
        if reader.next_type() == Some(FINISHED) {
            return Ok(Self::Refusal(finished(reader, mac_bytes)?));
        }
        let certificate = certificate(&mut reader)?;
        let verify = certificate_verify(&mut reader)?;
        Ok(Self::Proof(certificate, verify, finished(reader, mac_bytes)?))
    }
}

/// RFC 8446 §4.4.2. An extension may only answer one of the request, and ours has none that can be answered.
fn certificate<'a>(reader: &mut Reader<'a>) -> Result<Certificate<'a>, AuthenticatorError> {
    let message = reader.message(CERTIFICATE, "Certificate")?;
    let mut body = message.body;
    let context = body.vector(1, "certificate_request_context")?;
    let mut list = Reader::new(body.vector(3, "certificate_list")?);
    body.end("certificate_list")?;
    let mut chain = Vec::new();
    while !list.is_empty() {
        let der = list.vector(3, "cert_data")?;
        if der.is_empty() {
            return Err(DecodeError::Length { field: "cert_data", bytes: 0 }.into());
        }
        let mut extensions = Reader::new(list.vector(2, "extensions")?);
        if !extensions.is_empty() {
            let extension = ExtensionType(extensions.code("extensions")?);
            return Err(AuthenticatorError::Extension { extension });
        }
        chain.push(CertificateDer::from(der));
    }
    Ok(Certificate { whole: message.whole, context, chain })
}

/// RFC 8446 §4.4.3.
fn certificate_verify<'a>(reader: &mut Reader<'a>) -> Result<CertificateVerify<'a>, DecodeError> {
    let message = reader.message(CERTIFICATE_VERIFY, "CertificateVerify")?;
    let mut body = message.body;
    let scheme = SignatureScheme::from(body.code("algorithm")?);
    let signature = body.vector(2, "signature")?;
    body.end("signature")?;
    Ok(CertificateVerify { whole: message.whole, scheme, signature })
}

/// RFC 8446 §4.4.4: as many bytes as the hash puts out, and the last message.
fn finished(mut reader: Reader<'_>, mac_bytes: usize) -> Result<&[u8], DecodeError> {
    let mac = reader.message(FINISHED, "Finished")?.body.rest();
    reader.end("Finished")?;
    if mac.len() != mac_bytes {
        return Err(DecodeError::Length { field: "verify_data", bytes: mac.len() });
    }
    Ok(mac)
}

/// A Certificate with that context and chain, without extensions.
pub(super) fn write_certificate(context: &[u8], chain: &[CertificateDer<'_>]) -> Vec<u8> {
    let entries: Vec<u8> = chain.iter().flat_map(|der| [vector(3, der), vector(2, &[])].concat()).collect();
    write_message(CERTIFICATE, &[vector(1, context), vector(3, &entries)].concat())
}

/// A CertificateVerify with that signature.
pub(super) fn write_certificate_verify(scheme: SignatureScheme, signature: &[u8]) -> Vec<u8> {
    write_message(CERTIFICATE_VERIFY, &[&u16::from(scheme).to_be_bytes()[..], &vector(2, signature)].concat())
}

/// A Finished with that MAC.
pub(super) fn write_finished(mac: &[u8]) -> Vec<u8> {
    write_message(FINISHED, mac)
}

/// A handshake message (RFC 8446 §4).
pub(super) fn write_message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &vector(3, body)].concat()
}

/// A vector whose length takes `width` bytes; whoever calls has bounded `content`.
pub(super) fn vector(width: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let mut out: Vec<u8> = length.into_iter().skip(length.len().saturating_sub(width)).collect();
    out.extend_from_slice(content);
    out
}
