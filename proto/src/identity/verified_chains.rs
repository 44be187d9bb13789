//! Chains that were verified under one set of bundles, remembered by their exact bytes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::verify::{Window, check_bounds, verify};
use super::{TrustBundles, VerifiedSvid, VerifyError};

/// One set of bundles remembers at most this many chains, each of another leaf.
pub const VERIFIED_CHAINS_MAX: usize = 2048;

/// When the younger generation is as large, it becomes the older one, whose chains are forgotten: those that were
/// asked for since have moved to the younger one.
const GENERATION_MAX: usize = VERIFIED_CHAINS_MAX / 2;

/// What [`TrustBundles::verify_cached`] found.
#[derive(Debug)]
pub struct CachedVerification {
    svid: VerifiedSvid,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Remembered,
    /// Nothing where it cannot be remembered.
    Verified(Option<UnprovenEntry>),
}

/// What will be remembered, and where: only under the bundles that it was verified by.
#[derive(Debug)]
struct UnprovenEntry {
    chains: Arc<VerifiedChains>,
    leaf: Digest,
    entry: Entry,
}

impl CachedVerification {
    /// The accepted leaf.
    pub fn svid(&self) -> &VerifiedSvid {
        &self.svid
    }

    /// Whether the answer was remembered, so that no signature was looked at.
    pub fn is_remembered(&self) -> bool {
        matches!(self.origin, Origin::Remembered)
    }

    /// Remembers the chain. For when its presenter has proved to hold the leaf's key: then nobody can fill the memory
    /// with chains of others, and by its own chains a peer drives out its own.
    pub fn remember(&self) {
        if let Origin::Verified(Some(UnprovenEntry { chains, leaf, entry })) = &self.origin {
            chains.put(*leaf, entry.clone());
        }
    }
}

impl TrustBundles {
    /// Says exactly what [`verify`] says of `chain` under these bundles at `now`. Within the window of a remembered
    /// chain it says so without looking at signatures again. Who admits the peer asks for policy and revocation, and
    /// TLS for possession of the key, each time.
    pub fn verify_cached(
        &self,
        chain: &[CertificateDer<'_>],
        now: OffsetDateTime,
    ) -> Result<CachedVerification, VerifyError> {
        check_bounds(chain)?;
        let (leaf, issuers) = chain.split_first().ok_or(VerifyError::EmptyChain)?;
        let (leaf, issuers) = (digest_of(std::slice::from_ref(leaf)), digest_of(issuers));
        if let Some(svid) = self.chains().find(&leaf, &issuers, now) {
            return Ok(CachedVerification { svid, origin: Origin::Remembered });
        }
        let svid = verify(chain, self, now)?;
        let bundle = self.of(svid.id().trust_domain());
        let window = bundle.and_then(|bundle| Window::around(now, chain, bundle));
        let unproven = window.map(|window| UnprovenEntry {
            chains: self.chains().clone(),
            leaf,
            entry: Entry { issuers, window, svid: svid.clone() },
        });
        Ok(CachedVerification { svid, origin: Origin::Verified(unproven) })
    }

    /// How many chains are remembered.
    pub fn remembered_chains(&self) -> usize {
        self.chains().len()
    }
}

/// SHA-256.
type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// Over each certificate behind its length: two lists never give the same bytes.
fn digest_of(certificates: &[CertificateDer<'_>]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for certificate in certificates {
        context.update(&certificate.len().to_be_bytes());
        context.update(certificate);
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The memory of one set of bundles; it begins empty and ends with them.
#[derive(Default)]
pub(super) struct VerifiedChains(Mutex<Generations>);

/// By leaf, so that a peer which sends its own leaf with ever other issuers has one place.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest, Entry>,
    old: HashMap<Digest, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    issuers: Digest,
    window: Window,
    svid: VerifiedSvid,
}

impl Entry {
    fn answer(&self, issuers: &Digest, now: OffsetDateTime) -> Option<VerifiedSvid> {
        let holds = self.issuers == *issuers && self.window.contains(now);
        holds.then(|| self.svid.clone())
    }
}

impl VerifiedChains {
    fn find(&self, leaf: &Digest, issuers: &Digest, now: OffsetDateTime) -> Option<VerifiedSvid> {
        let mut generations = self.lock();
        if let Some(entry) = generations.young.get(leaf) {
            return entry.answer(issuers, now);
        }
        let svid = generations.old.get(leaf)?.answer(issuers, now)?;
        let entry = generations.old.remove(leaf)?;
        let forgotten = generations.put(*leaf, entry);
        // A thousand entries are freed while nobody waits.
        drop(generations);
        drop(forgotten);
        Some(svid)
    }

    fn put(&self, leaf: Digest, entry: Entry) {
        let forgotten = self.lock().put(leaf, entry);
        drop(forgotten);
    }

    fn len(&self) -> usize {
        let generations = self.lock();
        generations.young.len() + generations.old.len()
    }

    /// Held for a look-up or a change alone. Each leaves the maps whole, so a panic elsewhere does no harm.
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    /// Puts the entry with the young ones; gives back those that are forgotten for it.
    fn put(&mut self, leaf: Digest, entry: Entry) -> HashMap<Digest, Entry> {
        let mut forgotten = HashMap::new();
        if self.young.len() >= GENERATION_MAX && !self.young.contains_key(&leaf) {
            forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        }
        self.old.remove(&leaf);
        self.young.insert(leaf, entry);
        forgotten
    }
}

impl fmt::Debug for VerifiedChains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedChains({} remembered)", self.len())
    }
}
