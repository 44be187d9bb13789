//! Verifies the peer of one handshake, and keeps the result.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::DigitallySignedStruct;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::verify_tls13_signature;
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

use super::pin::pinned_bundle;
use super::{AuthorizeId, Authorizer, Verdict};
use crate::crypto::signature_algorithms;
use crate::identity::{
    BundlePin, CachedVerification, SpiffeId, TrustBundles, TrustDomain, VerifiedSvid, VerifyError,
};

/// Verifies the peer of one handshake and keeps the result, so that a refusal can be explained afterwards.
#[derive(Debug)]
pub struct PeerVerifier {
    trust: Trust,
    authorizer: Arc<dyn Authorizer>,
    presence: Presence,
    expired_for_max: Duration,
    verdict: OnceLock<Verdict>,
    /// Remembered once the peer has proved that it holds the key.
    verification: OnceLock<CachedVerification>,
}

#[derive(Debug)]
enum Trust {
    Bundles(Arc<TrustBundles>),
    Pin(TrustDomain, BundlePin),
}

#[derive(Debug, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

impl PeerVerifier {
    /// Verifies certificates against `bundles`, and lets `authorizer` decide about verified peers.
    pub fn new(bundles: Arc<TrustBundles>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self::with_trust(Trust::Bundles(bundles), authorizer)
    }

    /// Believes a server that shows, behind its chain, the roots that hash to `pin`, and is that domain's CA.
    pub fn pinned(trust_domain: TrustDomain, pin: BundlePin) -> Self {
        let ca = AuthorizeId(SpiffeId::of_ca(&trust_domain));
        Self::with_trust(Trust::Pin(trust_domain, pin), Arc::new(ca))
    }

    fn with_trust(trust: Trust, authorizer: Arc<dyn Authorizer>) -> Self {
        let (verdict, verification) = (OnceLock::new(), OnceLock::new());
        Self {
            trust,
            authorizer,
            presence: Presence::Required,
            expired_for_max: Duration::ZERO,
            verdict,
            verification,
        }
    }

    /// Lets clients without a certificate connect, too; [`Self::verdict`] then stays empty.
    pub fn certificate_optional(mut self) -> Self {
        self.presence = Presence::Optional;
        self
    }

    /// Believes a leaf that was valid until at most this long ago: only for a CA that lets workloads renew after a
    /// long sleep. The finding carries the true end of validity.
    pub fn expired_for_at_most(mut self, duration: Duration) -> Self {
        self.expired_for_max = duration;
        self
    }

    pub(super) fn is_certificate_required(&self) -> bool {
        self.presence == Presence::Required
    }

    /// What was found; nothing before the peer has shown a certificate.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.get()
    }

    /// The peer, if it was admitted.
    pub fn admitted(&self) -> Option<&VerifiedSvid> {
        match self.verdict() {
            Some(Verdict::Admitted(peer)) => Some(peer),
            _ => None,
        }
    }

    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let borrowed = |der| CertificateDer::from(<CertificateDer<'_> as AsRef<[u8]>>::as_ref(der));
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).map(borrowed).collect();
        let verdict = self.verify_peer(&chain, now);
        let result = verdict.handshake_result();
        // One verifier serves one handshake; should rustls ask twice, the first result stands.
        let _already_set = self.verdict.set(verdict);
        result
    }

    fn verify_peer(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Verdict {
        let now = match i64::try_from(now.as_secs()).map(OffsetDateTime::from_unix_timestamp) {
            Ok(Ok(now)) => now,
            _ => OffsetDateTime::UNIX_EPOCH,
        };
        let pinned;
        let bundles = match &self.trust {
            Trust::Bundles(bundles) => bundles.as_ref(),
            Trust::Pin(trust_domain, pin) => match pinned_bundle(trust_domain, *pin, chain) {
                Ok(bundles) => {
                    pinned = bundles;
                    &pinned
                }
                Err(verdict) => return *verdict,
            },
        };
        let verification = match self.verify_allowing_expired(chain, bundles, now) {
            Err(error) => return Verdict::Unverified(error),
            Ok(verification) => verification,
        };
        let peer = verification.svid().clone();
        match self.authorizer.authorize(&peer) {
            Err(denial) => Verdict::Denied(peer, denial),
            Ok(()) => {
                let _already_set = self.verification.set(verification);
                Verdict::Admitted(peer)
            }
        }
    }

    fn verify_allowing_expired(
        &self,
        chain: &[CertificateDer<'_>],
        bundles: &TrustBundles,
        now: OffsetDateTime,
    ) -> Result<CachedVerification, VerifyError> {
        match bundles.verify_cached(chain, now) {
            Err(VerifyError::Expired { not_after, .. }) if now - not_after <= self.expired_for_max => {
                bundles.verify_cached(chain, not_after)
            }
            result => result,
        }
    }

    /// The proof of possession (RFC 8446 §4.4.3), asked for in each handshake.
    pub(super) fn check_possession(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls13_signature(message, cert, signature, &signature_algorithms())?;
        if let Some(verification) = self.verification.get() {
            verification.remember();
        }
        Ok(valid)
    }
}
