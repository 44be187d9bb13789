//! Hands the exporter secret of one handshake out of rustls, whose unbuffered API exports nothing itself.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use rustls::{KeyLog, SupportedCipherSuite};
use zeroize::Zeroizing;

use super::exporter::{ExporterSecret, SuiteHash};

/// NSS key log format: the exporter_master_secret of TLS 1.3.
const EXPORTER_SECRET: &str = "EXPORTER_SECRET";

/// Keeps the exporter secret of one handshake until it is taken, once. It asks rustls for no other secret.
#[derive(Default)]
pub struct HandshakeExporter(Mutex<Option<Zeroizing<Vec<u8>>>>);

impl HandshakeExporter {
    /// Takes the secret of a handshake that negotiated `suite`. It is there when the handshake is complete, and
    /// once; a secret that is not of that suite is none.
    pub fn take(&self, suite: SupportedCipherSuite) -> Option<ExporterSecret> {
        let secret = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        ExporterSecret::new(SuiteHash::of(suite)?, &secret).ok()
    }
}

impl KeyLog for HandshakeExporter {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if self.will_log(label) {
            let kept = Some(Zeroizing::new(secret.to_vec()));
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == EXPORTER_SECRET
    }
}

impl fmt::Debug for HandshakeExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandshakeExporter(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_secret_is_asked_for_nor_kept() {
        let exporter = HandshakeExporter::default();
        let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        for label in ["CLIENT_TRAFFIC_SECRET_0", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "exporter_secret", ""] {
            assert!(!exporter.will_log(label), "{label}");
            exporter.log(label, &[], &[7; 32]);
            assert!(exporter.take(suite).is_none(), "{label}");
        }
    }

    #[test]
    fn a_secret_is_taken_once_and_never_shown() {
        let exporter = HandshakeExporter::default();
        let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        exporter.log(EXPORTER_SECRET, &[], &[7; 32]);
        assert_eq!(format!("{exporter:?}"), "HandshakeExporter(hidden)");
        assert!(exporter.take(suite).is_some());
        assert!(exporter.take(suite).is_none());
    }
}
