//! The single writer of the sidecar's identity: installs new credentials and publishes the status.

use std::error::Error;
use std::sync::Arc;

use postern_proto::identity::{Svid, TrustBundles};
use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::status::{IdentityError, IdentityStatus};
use crate::clock::Clock;
use crate::error_text::one_line;
use crate::identity::credentials::{CredentialStore, Credentials};

/// The single writer of the credential store and of the status.
#[derive(Debug)]
pub struct IdentityWriter {
    store: Arc<CredentialStore>,
    status: watch::Sender<IdentityStatus>,
    clock: Arc<dyn Clock>,
    /// The generation whose expiry has been logged.
    logged_expiry: Option<u64>,
}

impl IdentityWriter {
    pub fn new(
        store: Arc<CredentialStore>,
        clock: Arc<dyn Clock>,
    ) -> (Self, watch::Receiver<IdentityStatus>) {
        let (status, watched) = watch::channel(IdentityStatus::default());
        (Self { store, status, clock, logged_expiry: None }, watched)
    }

    pub fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        self.store.current()
    }

    /// Installs an identity that was just obtained.
    pub fn install(&mut self, svid: Svid, bundles: Arc<TrustBundles>) -> Result<(), rustls::Error> {
        let now = self.now();
        let first = self.credentials().is_none();
        self.replace(svid, bundles)?;
        self.status.send_modify(|status| {
            status.rotations += u64::from(!first);
            status.last_success = Some(now);
            status.last_error = None;
        });
        Ok(())
    }

    /// Installs an identity that was persisted across a restart. It may have expired.
    pub fn restore(&mut self, svid: Svid, bundles: Arc<TrustBundles>) -> Result<(), rustls::Error> {
        self.replace(svid, bundles)
    }

    fn replace(&mut self, svid: Svid, bundles: Arc<TrustBundles>) -> Result<(), rustls::Error> {
        let (id, verified) = (svid.id().clone(), svid.verified().clone());
        let generation = self.store.replace(svid, bundles)?;
        info!(id = %id, not_after = %verified.not_after(), generation, "identity in place");
        self.status.send_modify(|status| {
            status.id = Some(id);
            status.not_before = Some(verified.not_before());
            status.not_after = Some(verified.not_after());
            status.generation = generation;
        });
        Ok(())
    }

    /// Logs and records that an attempt failed; the current identity stays in use.
    pub fn record_failure(&mut self, code: &'static str, cause: &dyn Error) {
        let reason = one_line(cause);
        warn!(code, reason, "no fresh identity");
        let last_error = Some(IdentityError { at: self.now(), code, reason });
        self.status.send_modify(|status| {
            status.failures += 1;
            status.last_error = last_error;
        });
    }

    /// Logs and records that the last error is resolved while the identity is unchanged.
    pub fn record_recovery(&mut self) {
        let over = self.status.borrow().last_error.as_ref().map(|error| error.code);
        let Some(code) = over else { return };
        info!(code, "the problem is over; the identity in place stays");
        self.status.send_modify(|status| status.last_error = None);
    }

    /// Records the time of the next request to the CA.
    pub fn set_next_attempt(&mut self, at: OffsetDateTime) {
        self.status.send_if_modified(|status| status.next_attempt.replace(at) != Some(at));
    }

    /// Logs, once per generation, that the current identity has expired.
    pub fn log_expiry(&mut self) {
        let Some(credentials) = self.credentials() else { return };
        let not_after = credentials.svid.verified().not_after();
        if credentials.is_expired(self.now()) && self.logged_expiry != Some(credentials.generation) {
            self.logged_expiry = Some(credentials.generation);
            error!(id = %credentials.svid.id(), not_after = %not_after, reason = "expired", "identity lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::clock::SystemClock;

    /// Runs `act` and returns its log output.
    fn logged(act: impl FnOnce()) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || Lines(writer.clone()));
        tracing::subscriber::with_default(subscriber.finish(), act);
        let bytes = lines.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_failure_is_one_line_with_its_causes_and_shows_in_the_status() {
        let (mut writer, status) = IdentityWriter::new(Arc::default(), Arc::new(SystemClock));
        let cause = io::Error::other("first\n\u{1b}[31msecond");
        let error =
            crate::identity::ca_client::CaError::Tls { address: "ca.internal:7443".parse().unwrap(), cause };
        let output = logged(|| writer.record_failure("ca_unreachable", &error));
        assert_eq!(output.lines().count(), 1, "{output}");
        assert!(output.contains("no TLS connection to CA ca.internal:7443: first"), "{output}");
        assert!(!output.contains('\u{1b}'), "{output:?}");
        let status = status.borrow();
        let reason = &status.last_error.as_ref().unwrap().reason;
        assert_eq!(reason, "no TLS connection to CA ca.internal:7443: first\\n\\u{1b}[31msecond");
        assert_eq!(status.failures, 1);
    }

    #[test]
    fn the_end_of_a_problem_is_logged_once() {
        let (mut writer, status) = IdentityWriter::new(Arc::default(), Arc::new(SystemClock));
        assert_eq!(logged(|| writer.record_recovery()), "");
        writer.record_failure("file_unreadable", &io::Error::other("permission denied"));
        let output = logged(|| {
            writer.record_recovery();
            writer.record_recovery();
        });
        assert_eq!(output.lines().count(), 1, "{output}");
        assert!(output.contains("INFO") && output.contains("file_unreadable"), "{output}");
        assert_eq!(status.borrow().last_error, None);
    }
}
