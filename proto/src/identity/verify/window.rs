//! The time window within which verifying the same chain gives the same result.

use rustls_pki_types::CertificateDer;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::{ParsedCertificate, Place};
use crate::identity::TrustBundle;

/// From one moment up to, and without, another. Time enters verification only where it is compared with the two ends
/// of a certificate's validity; while no comparison comes out otherwise, neither does the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::identity) struct Window {
    from: OffsetDateTime,
    /// Nothing where it never closes: RFC 5280 §4.1.2.5 lets a certificate end with the calendar.
    until: Option<OffsetDateTime>,
}

impl Window {
    /// The window around `now` of a chain under a bundle. Every presented certificate and every root narrows it, also
    /// one beside the path: at another time it could be on it. Nothing where one of them cannot be read, so that
    /// nobody knows when it counts.
    pub(in crate::identity) fn around(
        now: OffsetDateTime,
        chain: &[CertificateDer<'_>],
        bundle: &TrustBundle,
    ) -> Option<Self> {
        let mut window = Self { from: PrimitiveDateTime::MIN.assume_utc(), until: None };
        for (above_leaf, der) in chain.iter().enumerate() {
            let certificate = ParsedCertificate::parse(Place::Issuer { above_leaf }, der).ok()?;
            window.narrow(now, certificate.not_before(), certificate.not_after());
        }
        for root in bundle.parsed_roots() {
            window.narrow(now, root.not_before(), root.not_after());
        }
        Some(window)
    }

    pub(in crate::identity) fn contains(&self, now: OffsetDateTime) -> bool {
        self.from <= now && self.until.is_none_or(|until| now < until)
    }

    /// Valid from notBefore through the whole second of notAfter: two moments at which a comparison turns.
    fn narrow(&mut self, now: OffsetDateTime, not_before: OffsetDateTime, not_after: OffsetDateTime) {
        let after_end = OffsetDateTime::from_unix_timestamp(not_after.unix_timestamp() + 1).ok();
        for turn in [Some(not_before), after_end].into_iter().flatten() {
            if turn <= now {
                self.from = self.from.max(turn);
            } else {
                self.until = Some(self.until.map_or(turn, |until| until.min(turn)));
            }
        }
    }
}
