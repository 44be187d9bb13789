//! Hands the secrets of one finished handshake out of rustls, which then is not needed any more.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use rustls::{KeyLog, SupportedCipherSuite};
use zeroize::Zeroizing;

use super::exporter::{ExporterSecret, SuiteHash};
use super::traffic::TrafficSecret;

/// NSS key log format: the `exporter_master_secret` and the application traffic secrets of TLS 1.3.
const EXPORTER: &str = "EXPORTER_SECRET";
const OF_CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const OF_SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// Keeps the secrets of one handshake until they are taken, once. It asks rustls for no others.
#[derive(Default)]
pub struct HandshakeSecrets(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    exporter: Secret,
    client: Secret,
    server: Secret,
}

type Secret = Option<Zeroizing<Vec<u8>>>;

/// What a connection's keys are derived from, after its handshake.
#[derive(Debug)]
pub struct ConnectionSecrets {
    /// For values that are bound to the connection.
    pub exporter: ExporterSecret,
    /// For what the client sends.
    pub client: TrafficSecret,
    /// For what the server sends.
    pub server: TrafficSecret,
}

impl HandshakeSecrets {
    /// Takes the secrets of a handshake that negotiated `suite`. They are there when the handshake is complete, and
    /// once; secrets that are not of that suite are none.
    pub fn take(&self, suite: SupportedCipherSuite) -> Option<ConnectionSecrets> {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let exporter = ExporterSecret::new(SuiteHash::of(suite)?, &kept.exporter?).ok()?;
        let client = TrafficSecret::new(suite, &kept.client?)?;
        Some(ConnectionSecrets { exporter, client, server: TrafficSecret::new(suite, &kept.server?)? })
    }
}

impl KeyLog for HandshakeSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match label {
            EXPORTER => &mut kept.exporter,
            OF_CLIENT => &mut kept.client,
            OF_SERVER => &mut kept.server,
            _ => return,
        };
        *place = Some(Zeroizing::new(secret.to_vec()));
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, EXPORTER | OF_CLIENT | OF_SERVER)
    }
}

impl fmt::Debug for HandshakeSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandshakeSecrets(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITE: SupportedCipherSuite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

    #[test]
    fn no_other_secret_is_asked_for_nor_kept() {
        let secrets = HandshakeSecrets::default();
        for label in
            ["CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "exporter_secret", ""]
        {
            assert!(!secrets.will_log(label), "{label}");
            secrets.log(label, &[], &[7; 32]);
        }
        let kept = secrets.0.lock().unwrap();
        assert!(kept.exporter.is_none() && kept.client.is_none() && kept.server.is_none());
    }

    #[test]
    fn they_are_taken_once_whole_or_not_at_all_and_never_shown() {
        for missing in [None, Some(EXPORTER), Some(OF_CLIENT), Some(OF_SERVER)] {
            let secrets = HandshakeSecrets::default();
            for label in [EXPORTER, OF_CLIENT, OF_SERVER] {
                assert!(secrets.will_log(label), "{label}");
                if missing != Some(label) {
                    secrets.log(label, &[], &[7; 32]);
                }
            }
            assert_eq!(format!("{secrets:?}"), "HandshakeSecrets(hidden)");
            assert_eq!(secrets.take(SUITE).is_some(), missing.is_none(), "without {missing:?}");
            assert!(secrets.take(SUITE).is_none());
        }
    }
}
