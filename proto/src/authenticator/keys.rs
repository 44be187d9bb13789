//! What binds an authenticator to its connection, its sender and its request (RFC 9261 §5.1 and §5.2).

use ring::{digest, hmac};
use rustls::Side;
use zeroize::Zeroizing;

use crate::mtls::ExporterSecret;

/// RFC 9261 §5.2.2, as in RFC 8446 §4.4.3: no message of TLS 1.2 or of a handshake begins like it.
const SPACES: [u8; 64] = [b' '; 64];
const CONTEXT_STRING: &[u8] = b"Exported Authenticator";

/// The exporter values of one sender on one connection.
pub(super) struct Keys {
    digest: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    handshake_context: Zeroizing<Vec<u8>>,
    finished_key: Zeroizing<Vec<u8>>,
}

impl Keys {
    /// The values for authenticators that `sender` sends.
    pub(super) fn of(exporter: &ExporterSecret, sender: Side) -> Self {
        let (handshake_context, finished_key) = match sender {
            Side::Client => (
                "EXPORTER-client authenticator handshake context",
                "EXPORTER-client authenticator finished key",
            ),
            Side::Server => (
                "EXPORTER-server authenticator handshake context",
                "EXPORTER-server authenticator finished key",
            ),
        };
        let hash = exporter.hash();
        Self {
            digest: hash.digest(),
            hmac: hash.hmac(),
            handshake_context: export(exporter, handshake_context),
            finished_key: export(exporter, finished_key),
        }
    }

    /// How long a Finished is.
    pub(super) fn mac_bytes(&self) -> usize {
        self.digest.output_len()
    }

    /// What a CertificateVerify signs, over the request and the Certificate.
    pub(super) fn signed_content(&self, request: &[u8], certificate: &[u8]) -> Vec<u8> {
        let transcript = self.transcript([request, certificate, &[]]);
        [&SPACES[..], CONTEXT_STRING, &[0], transcript.as_ref()].concat()
    }

    /// The Finished over request, Certificate and CertificateVerify.
    pub(super) fn finished(&self, messages: [&[u8]; 3]) -> hmac::Tag {
        hmac::sign(&self.finished_key(), self.transcript(messages).as_ref())
    }

    /// Whether `mac` is that Finished, in a time that does not tell how much of it is (RFC 9261 §5.2.4).
    pub(super) fn is_finished(&self, messages: [&[u8]; 3], mac: &[u8]) -> bool {
        hmac::verify(&self.finished_key(), self.transcript(messages).as_ref(), mac).is_ok()
    }

    fn finished_key(&self) -> hmac::Key {
        hmac::Key::new(self.hmac, &self.finished_key)
    }

    fn transcript(&self, messages: [&[u8]; 3]) -> digest::Digest {
        let mut hash = digest::Context::new(self.digest);
        hash.update(&self.handshake_context);
        messages.iter().for_each(|message| hash.update(message));
        hash.finish()
    }
}

/// As long as the hash's output, with an empty context (RFC 9261 §5.1).
fn export(exporter: &ExporterSecret, label: &str) -> Zeroizing<Vec<u8>> {
    #[expect(
        clippy::expect_used,
        reason = "labels of 47 bytes and one output of the hash are within all bounds"
    )]
    exporter.export(label, &[], exporter.hash().output_bytes()).expect("label and length are in bounds")
}
