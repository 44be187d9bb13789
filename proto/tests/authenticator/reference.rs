//! RFC 9261 again, straight from its text and from RFC 8446's, sharing nothing with what it is compared with.

use postern_proto::mtls::SuiteHash;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _,
};
use ring::{digest, hmac};
use rustls::Side;

use crate::case::Case;

pub(crate) const CERTIFICATE: u8 = 11;
pub(crate) const CERTIFICATE_VERIFY: u8 = 15;
pub(crate) const FINISHED: u8 = 20;
pub(crate) const P256: u16 = 0x0403;
pub(crate) const P384: u16 = 0x0503;
pub(crate) const ED25519: u16 = 0x0807;

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &u24(body.len()), body].concat()
}

pub(crate) fn u24(number: usize) -> [u8; 3] {
    [(number >> 16) as u8, (number >> 8) as u8, number as u8]
}

pub(crate) fn u16_bytes(number: usize) -> [u8; 2] {
    [(number >> 8) as u8, number as u8]
}

/// A CertificateEntry with such extensions.
pub(crate) fn entry(der: &[u8], extensions: &[u8]) -> Vec<u8> {
    [&u24(der.len())[..], der, &u16_bytes(extensions.len()), extensions].concat()
}

pub(crate) fn certificate(context: &[u8], entries: &[u8]) -> Vec<u8> {
    let body = [&[context.len() as u8][..], context, &u24(entries.len()), entries].concat();
    message(CERTIFICATE, &body)
}

pub(crate) fn certificate_verify(scheme: u16, signature: &[u8]) -> Vec<u8> {
    let body = [&scheme.to_be_bytes()[..], &u16_bytes(signature.len()), signature].concat();
    message(CERTIFICATE_VERIFY, &body)
}

/// The key schedule's end of one connection.
pub(crate) struct Reference {
    hmac: hmac::Algorithm,
    digest: &'static digest::Algorithm,
    secret: Vec<u8>,
    /// "client" or "server": who answers.
    pub(crate) sender: &'static str,
}

impl Reference {
    pub(crate) fn of(case: &Case) -> Self {
        let (hmac, digest) = match case.hash {
            SuiteHash::Sha256 => (hmac::HMAC_SHA256, &digest::SHA256),
            SuiteHash::Sha384 => (hmac::HMAC_SHA384, &digest::SHA384),
        };
        let sender = if case.asker == Side::Server { "client" } else { "server" };
        Self { hmac, digest, secret: case.secret.clone(), sender }
    }

    pub(crate) fn hash(&self, parts: &[&[u8]]) -> Vec<u8> {
        digest::digest(self.digest, &parts.concat()).as_ref().to_vec()
    }

    fn mac(&self, key: &[u8], message: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac, key), message).as_ref().to_vec()
    }

    /// RFC 5869 §2.3 and RFC 8446 §7.1.
    fn expand_label(&self, secret: &[u8], label: &str, context: &[u8], length: usize) -> Vec<u8> {
        let label = format!("tls13 {label}");
        let mut info = u16_bytes(length).to_vec();
        info.push(label.len() as u8);
        info.extend(label.as_bytes());
        info.push(context.len() as u8);
        info.extend(context);
        let (mut all, mut block, mut count) = (Vec::new(), Vec::new(), 1);
        while all.len() < length {
            block = self.mac(secret, &[&block[..], &info, &[count]].concat());
            all.extend_from_slice(&block);
            count += 1;
        }
        all.truncate(length);
        all
    }

    /// RFC 8446 §7.5.
    pub(crate) fn export(&self, label: &str, context: &[u8], length: usize) -> Vec<u8> {
        let derived = self.expand_label(&self.secret, label, &self.hash(&[]), self.digest.output_len());
        self.expand_label(&derived, "exporter", &self.hash(&[context]), length)
    }

    /// RFC 9261 §5.1.
    pub(crate) fn handshake_context(&self) -> Vec<u8> {
        let label = format!("EXPORTER-{} authenticator handshake context", self.sender);
        self.export(&label, b"", self.digest.output_len())
    }

    fn finished_key(&self) -> Vec<u8> {
        let label = format!("EXPORTER-{} authenticator finished key", self.sender);
        self.export(&label, b"", self.digest.output_len())
    }

    /// RFC 9261 §5.2.2.
    pub(crate) fn signed_content(&self, request: &[u8], certificate: &[u8]) -> Vec<u8> {
        let transcript = self.hash(&[&self.handshake_context(), request, certificate]);
        [" ".repeat(64).as_bytes(), b"Exported Authenticator", b"\0", &transcript].concat()
    }

    /// RFC 9261 §5.2.3.
    pub(crate) fn finished(&self, messages: &[&[u8]]) -> Vec<u8> {
        let transcript = self.hash(&[&self.handshake_context(), &messages.concat()]);
        message(FINISHED, &self.mac(&self.finished_key(), &transcript))
    }

    /// RFC 9261 §5.2.4, over any Certificate.
    pub(crate) fn authenticator(&self, request: &[u8], certificate: &[u8], key: &Key) -> Vec<u8> {
        let signature = key.sign(&self.signed_content(request, certificate));
        self.signed(request, certificate, &certificate_verify(key.scheme(), &signature))
    }

    /// Adds the Finished.
    pub(crate) fn signed(&self, request: &[u8], certificate: &[u8], verify: &[u8]) -> Vec<u8> {
        let finished = self.finished(&[request, certificate, verify]);
        [certificate, verify, &finished].concat()
    }
}

/// A private key, read by ring itself.
pub(crate) enum Key {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    pub(crate) fn of(case: &Case) -> Self {
        let (der, random) = (case.svid.key().der().secret_der(), SystemRandom::new());
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &random) {
            return Self::P256(key);
        }
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, der, &random) {
            return Self::P384(key);
        }
        Self::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).unwrap())
    }

    pub(crate) fn scheme(&self) -> u16 {
        match self {
            Self::P256(_) => P256,
            Self::P384(_) => P384,
            Self::Ed25519(_) => ED25519,
        }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::P256(key) | Self::P384(key) => {
                key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
            }
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    pub(crate) fn public(&self) -> &[u8] {
        match self {
            Self::P256(key) | Self::P384(key) => key.public_key().as_ref(),
            Self::Ed25519(key) => key.public_key().as_ref(),
        }
    }
}
