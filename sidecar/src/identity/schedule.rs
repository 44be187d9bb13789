//! The schedule of CA requests, by the wall clock, as pure functions.
//!
//! The schedule is checked again after each sleep, and sleeps are short, so that suspend and clock changes need no
//! handling elsewhere. After a forward step the attempt is due. After a backward step it is no further away than when
//! it was scheduled.

use std::time::Duration;

use time::OffsetDateTime;

/// Maximum sleep before the wall clock is read again.
pub const WAKE_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Minimum sleep, so that the loop does not spin.
pub const WAKE_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Upper bound of the delay after the first failure; shorter for certificates that live for seconds.
pub const BACK_OFF_FIRST_MAX: Duration = Duration::from_secs(1);
/// Upper bound of the delay after many failures; shorter for short-lived certificates.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// Lower bound of the delay after the first failure, however short-lived the certificate is.
pub const BACK_OFF_FIRST_MIN: Duration = Duration::from_millis(100);
/// Lower bound of the maximum delay, for the shortest-lived certificates.
pub const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// Maximum retry delay that is accepted from the CA.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(5 * 60);

/// Renewal happens after half of the remaining lifetime, plus or minus this fraction of that half.
pub const JITTER: f64 = 0.1;

/// The validity of a certificate and when it was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateLifetime {
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// When the certificate was received. A CA backdates certificates, so half of the lifetime is counted from here and
    /// not from `not_before`.
    pub obtained: OffsetDateTime,
}

impl CertificateLifetime {
    /// From receipt to expiry.
    fn length(&self) -> Duration {
        (self.not_after - self.obtained).try_into().unwrap_or(Duration::ZERO)
    }
}

/// The time of the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    scheduled_at: OffsetDateTime,
    delay: Duration,
}

impl Schedule {
    /// At `now`: for a start without a certificate.
    pub fn immediate(now: OffsetDateTime) -> Self {
        Self { scheduled_at: now, delay: Duration::ZERO }
    }

    /// After a success: after half of the remaining lifetime, ± [`JITTER`]; `jitter` is between -1 and 1. Never sooner
    /// than the first retry delay, even if the CA's clock differs from ours.
    pub fn for_renewal(lifetime: CertificateLifetime, jitter: f64) -> Self {
        let half = lifetime.length().mul_f64(0.5 * (1.0 + JITTER * jitter.clamp(-1.0, 1.0)));
        Self { scheduled_at: lifetime.obtained, delay: half.max(back_off_first(Some(lifetime))) }
    }

    /// For a certificate that was persisted across a restart, whose time of receipt is unknown: after half of its whole
    /// lifetime, or after half of the remaining lifetime if that is sooner. Immediately if it is not valid at `now`.
    pub fn for_restored(lifetime: CertificateLifetime, now: OffsetDateTime) -> Self {
        let to_half: time::Duration =
            (lifetime.not_after - lifetime.not_before) / 2 - (now - lifetime.not_before);
        if now < lifetime.not_before {
            return Self::immediate(now);
        }
        let delay: time::Duration = to_half.min((lifetime.not_after - now) / 2);
        Self { scheduled_at: now, delay: delay.try_into().unwrap_or(Duration::ZERO) }
    }

    /// After `failures` consecutive failures: exponential backoff with a maximum, and jitter so that many sidecars do
    /// not retry at the same time. Not before `retry_after`, if the CA sent one.
    pub fn for_retry(
        now: OffsetDateTime,
        lifetime: Option<CertificateLifetime>,
        failures: u32,
        retry: RetryDelay,
    ) -> Self {
        let doubled =
            back_off_first(lifetime).saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        let spread = doubled.min(back_off_max(lifetime)).mul_f64(0.75 + 0.25 * retry.jitter.clamp(-1.0, 1.0));
        let asked = retry.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        Self { scheduled_at: now, delay: spread.max(asked) }
    }

    /// The time of the attempt.
    pub fn at(&self) -> OffsetDateTime {
        self.scheduled_at + self.delay
    }

    /// Whether that time has come.
    pub fn is_due(&self, now: OffsetDateTime) -> bool {
        now >= self.at()
    }

    /// The schedule after the clock was possibly set back: the delay then starts again, or the attempt is due
    /// immediately if the certificate is not yet valid at the new time.
    pub fn adjusted_to_clock(self, now: OffsetDateTime, lifetime: Option<CertificateLifetime>) -> Self {
        match lifetime {
            _ if now >= self.scheduled_at => self,
            Some(lifetime) if now < lifetime.not_before => Self::immediate(now),
            _ => Self { scheduled_at: now, ..self },
        }
    }

    /// How long to sleep before checking the schedule again.
    pub fn sleep_time(&self, now: OffsetDateTime, lifetime: Option<CertificateLifetime>) -> Duration {
        let interval = lifetime.map_or(WAKE_INTERVAL_MAX, |lifetime| lifetime.length() / 20);
        let interval = interval.clamp(WAKE_INTERVAL_MIN, WAKE_INTERVAL_MAX);
        Duration::try_from(self.at() - now).unwrap_or(Duration::ZERO).min(interval)
    }
}

/// Parameters of the delay after a failure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryDelay {
    /// The minimum delay that the CA asked for.
    pub retry_after: Option<Duration>,
    /// Between -1 and 1.
    pub jitter: f64,
}

fn back_off_first(lifetime: Option<CertificateLifetime>) -> Duration {
    let part = lifetime.map_or(BACK_OFF_FIRST_MAX, |lifetime| lifetime.length() / 40);
    part.clamp(BACK_OFF_FIRST_MIN, BACK_OFF_FIRST_MAX)
}

fn back_off_max(lifetime: Option<CertificateLifetime>) -> Duration {
    let part = lifetime.map_or(BACK_OFF_MAX, |lifetime| lifetime.length() / 10);
    part.clamp(BACK_OFF_MIN, BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const T0: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    const CALM: RetryDelay = RetryDelay { retry_after: None, jitter: 1.0 };

    /// A certificate as our CA issues it: backdated by a minute.
    fn certificate(length: Duration) -> CertificateLifetime {
        CertificateLifetime { not_before: T0 - Duration::from_secs(60), not_after: T0 + length, obtained: T0 }
    }

    #[test]
    fn renewal_comes_at_half_life() {
        assert_eq!(Schedule::for_renewal(certificate(HOUR), 0.0).at(), T0 + HOUR / 2);
        assert_eq!(Schedule::for_renewal(certificate(HOUR), 1.0).at(), T0 + Duration::from_secs(33 * 60));
        assert_eq!(Schedule::for_renewal(certificate(HOUR), -1.0).at(), T0 + Duration::from_secs(27 * 60));
    }

    #[test]
    fn a_certificate_of_ten_seconds_is_not_past_its_half_when_it_comes() {
        assert_eq!(
            Schedule::for_renewal(certificate(Duration::from_secs(10)), 0.0).at(),
            T0 + Duration::from_secs(5)
        );
    }

    #[test]
    fn a_certificate_that_comes_with_no_life_left_is_no_reason_to_ask_without_pause() {
        assert_eq!(Schedule::for_renewal(certificate(Duration::ZERO), 0.0).at(), T0 + BACK_OFF_FIRST_MIN);
    }

    #[test]
    fn a_kept_certificate_is_renewed_at_its_half_and_at_once_when_that_is_over() {
        let kept = |after: Duration| Schedule::for_restored(certificate(HOUR), T0 + after);
        assert!(kept(Duration::from_secs(600)).at() <= T0 + HOUR / 2);
        assert!(kept(Duration::from_secs(2400)).is_due(T0 + Duration::from_secs(2400)));
        assert!(kept(2 * HOUR).is_due(T0 + 2 * HOUR));
        assert!(Schedule::for_restored(certificate(HOUR), T0 - DAY).is_due(T0 - DAY));
    }

    #[test]
    fn pauses_double_up_to_a_cap() {
        let pause = |failures| Schedule::for_retry(T0, Some(certificate(HOUR)), failures, CALM).at() - T0;
        let seconds: Vec<_> = (1..=8).map(|n| pause(n).whole_seconds()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), BACK_OFF_MAX);
    }

    #[test]
    fn pauses_for_short_lived_certificates_are_short() {
        let lifetime = Some(certificate(Duration::from_secs(10)));
        assert_eq!(Schedule::for_retry(T0, lifetime, 1, CALM).at() - T0, Duration::from_millis(250));
        assert_eq!(Schedule::for_retry(T0, lifetime, 99, CALM).at() - T0, BACK_OFF_MIN);
    }

    #[test]
    fn retry_after_is_honoured_and_bounded() {
        let asked = |seconds| RetryDelay { retry_after: Some(Duration::from_secs(seconds)), jitter: 0.0 };
        assert_eq!(Schedule::for_retry(T0, None, 1, asked(20)).at(), T0 + Duration::from_secs(20));
        assert_eq!(Schedule::for_retry(T0, None, 1, asked(u64::MAX)).at(), T0 + RETRY_AFTER_MAX);
    }

    #[test]
    fn a_clock_set_forth_by_a_day_makes_the_plan_due() {
        let plan = Schedule::for_renewal(certificate(HOUR), 0.0);
        assert!(!plan.is_due(T0));
        assert!(plan.adjusted_to_clock(T0 + DAY, Some(certificate(HOUR))).is_due(T0 + DAY));
    }

    #[test]
    fn a_clock_set_back_by_a_day_delays_no_retry_and_renews_what_is_not_valid_yet() {
        let back = T0 - DAY;
        assert!(
            Schedule::for_renewal(certificate(HOUR), 0.0)
                .adjusted_to_clock(back, Some(certificate(HOUR)))
                .is_due(back)
        );
        let retry = Schedule::for_retry(T0, None, 1, CALM).adjusted_to_clock(back, None);
        assert_eq!(retry.at(), back + BACK_OFF_FIRST_MAX);
        let long = CertificateLifetime { not_before: T0 - 2 * DAY, not_after: T0 + DAY, obtained: T0 };
        assert_eq!(Schedule::for_renewal(long, 0.0).adjusted_to_clock(back, Some(long)).at(), back + DAY / 2);
    }

    proptest! {
        #[test]
        fn renewal_leaves_nearly_half_of_the_life(seconds in 10_u64..86_400, jitter in -1.0..1.0_f64) {
            let length = Duration::from_secs(seconds);
            let after = Duration::try_from(Schedule::for_renewal(certificate(length), jitter).at() - T0).unwrap();
            prop_assert!(after >= length.mul_f64(0.449) && after <= length.mul_f64(0.551));
        }

        #[test]
        fn every_wake_is_within_the_interval(
            now in -200_000_i64..200_000,
            failures in 0_u32..100,
            seconds in 0_u64..100_000,
        ) {
            let now = T0 + time::Duration::seconds(now);
            let lifetime = Some(certificate(Duration::from_secs(seconds)));
            let plan = Schedule::for_retry(T0, lifetime, failures, CALM).adjusted_to_clock(now, lifetime);
            prop_assert!(plan.sleep_time(now, lifetime) <= WAKE_INTERVAL_MAX);
            prop_assert!(plan.is_due(now) || plan.sleep_time(now, lifetime) > Duration::ZERO);
        }
    }
}
