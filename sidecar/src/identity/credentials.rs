//! The snapshot of the sidecar's key, certificate chain and trust bundles, which change together.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use postern_proto::identity::{Svid, TrustBundles};
use postern_proto::mtls::TlsIdentity;
use time::OffsetDateTime;
use tokio::sync::watch;

/// The identity and its trust bundles at one moment.
#[derive(Debug)]
pub struct Credentials {
    /// Incremented with each change.
    pub generation: u64,
    pub svid: Svid,
    pub tls: TlsIdentity,
    pub bundles: Arc<TrustBundles>,
}

impl Credentials {
    /// Whether the certificate has expired at `now`.
    pub fn is_expired(&self, now: OffsetDateTime) -> bool {
        !is_valid_at(self.svid.verified().not_after(), now)
    }
}

/// Whether a certificate is still valid. It is valid through the whole second of notAfter (svid.md, Time).
pub fn is_valid_at(not_after: OffsetDateTime, now: OffsetDateTime) -> bool {
    now.unix_timestamp() <= not_after.unix_timestamp()
}

/// Holds the newest credentials: one writer, many readers. Empty until the first identity is available.
#[derive(Debug)]
pub struct CredentialStore {
    current: ArcSwapOption<Credentials>,
    generation: watch::Sender<u64>,
}

impl Default for CredentialStore {
    fn default() -> Self {
        Self { current: ArcSwapOption::empty(), generation: watch::Sender::new(0) }
    }
}

impl CredentialStore {
    /// The newest credentials. They may have expired; callers check against their clock.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.current.load_full()
    }

    /// Generation of the newest credentials, 0 before the first. Cheaper than [`Self::current`]: it changes no
    /// reference count.
    pub fn generation(&self) -> u64 {
        self.current.load().as_ref().map_or(0, |newest| newest.generation)
    }

    /// Notifies of each change; the value is the generation.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Installs a new identity and returns its generation. If the trust bundles are unchanged, the old object stays in
    /// use with its cache of verified chains; changed bundles start with an empty cache.
    pub fn replace(&self, svid: Svid, bundles: Arc<TrustBundles>) -> Result<u64, rustls::Error> {
        let tls = TlsIdentity::new(&svid)?;
        let before = self.current().map(|credentials| credentials.bundles.clone());
        let bundles = before.filter(|before| *before == bundles).unwrap_or(bundles);
        let mut generation = 0;
        self.generation.send_modify(|newest| {
            *newest += 1;
            generation = *newest;
            self.current.store(Some(Arc::new(Credentials { generation, svid, tls, bundles })));
        });
        Ok(generation)
    }
}
