//! When to ask the CA next: a plan on the wall clock, made of pure steps.
//!
//! A plan is looked at again at each wake, and wakes are short, so that a suspended machine and a clock set forth or
//! back need no care elsewhere: after a step forth the plan is due, after a step back it lies no further away than
//! when it was made.

use std::time::Duration;

use time::OffsetDateTime;

/// The longest sleep before the wall clock is read again.
pub const WAKE_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// The shortest, so that the clock is not read all the time.
pub const WAKE_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The first pause after a failure, at most; less for certificates that live for seconds.
pub const BACK_OFF_FIRST_MAX: Duration = Duration::from_secs(1);
/// The longest pause after many failures; less for short-lived certificates.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// No certificate is so short-lived that its CA is asked more often than this.
pub const BACK_OFF_FIRST_MIN: Duration = Duration::from_millis(100);
/// The longest pause for the shortest-lived certificates.
pub const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// A CA that asks for a longer pause than this is not obeyed further.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(5 * 60);

/// Renewal comes at half of the life that was left, give or take this part of that half.
pub const JITTER: f64 = 0.1;

/// How long a certificate is good for, as its holder sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// When it came. A CA dates certificates back, so this, not `not_before`, starts the holder's half of life.
    pub obtained: OffsetDateTime,
}

impl Lifetime {
    /// From obtaining to expiry.
    fn length(&self) -> Duration {
        (self.not_after - self.obtained).try_into().unwrap_or(Duration::ZERO)
    }
}

/// When the next attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    made: OffsetDateTime,
    delay: Duration,
}

impl Plan {
    /// Now: for a start without a certificate.
    pub fn at_once(now: OffsetDateTime) -> Self {
        Self { made: now, delay: Duration::ZERO }
    }

    /// After a success: at half of the life that is left, ± [`JITTER`]; `jitter` lies between -1 and 1. Never sooner
    /// than a pause, also when the CA's clock and ours disagree.
    pub fn to_renew(life: Lifetime, jitter: f64) -> Self {
        let half = life.length().mul_f64(0.5 * (1.0 + JITTER * jitter.clamp(-1.0, 1.0)));
        Self { made: life.obtained, delay: half.max(back_off_first(Some(life))) }
    }

    /// For a certificate kept over a restart, of which nobody remembers when it came: at half of its whole life, or
    /// at half of what is left if that is sooner. At once if it is not valid at `now`.
    pub fn to_renew_kept(life: Lifetime, now: OffsetDateTime) -> Self {
        let to_half: time::Duration = (life.not_after - life.not_before) / 2 - (now - life.not_before);
        if now < life.not_before {
            return Self::at_once(now);
        }
        let delay: time::Duration = to_half.min((life.not_after - now) / 2);
        Self { made: now, delay: delay.try_into().unwrap_or(Duration::ZERO) }
    }

    /// After the `failures`th failure in a row: exponential, capped, and spread so that many sidecars do not come at
    /// once; not before `retry_after`, if the CA gave one.
    pub fn to_retry(now: OffsetDateTime, life: Option<Lifetime>, failures: u32, pause: Pause) -> Self {
        let doubled = back_off_first(life).saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        let spread = doubled.min(back_off_max(life)).mul_f64(0.75 + 0.25 * pause.jitter.clamp(-1.0, 1.0));
        let asked = pause.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        Self { made: now, delay: spread.max(asked) }
    }

    /// The moment itself.
    pub fn at(&self) -> OffsetDateTime {
        self.made + self.delay
    }

    /// Whether it has come.
    pub fn is_due(&self, now: OffsetDateTime) -> bool {
        now >= self.at()
    }

    /// The same plan where the clock was set back since it was made: it starts anew, or is due at once if the
    /// certificate is not valid yet by the new time.
    pub fn seen_at(self, now: OffsetDateTime, life: Option<Lifetime>) -> Self {
        match life {
            _ if now >= self.made => self,
            Some(life) if now < life.not_before => Self::at_once(now),
            _ => Self { made: now, ..self },
        }
    }

    /// How long to sleep before looking again.
    pub fn wake_in(&self, now: OffsetDateTime, life: Option<Lifetime>) -> Duration {
        let interval = life.map_or(WAKE_INTERVAL_MAX, |life| life.length() / 20);
        let interval = interval.clamp(WAKE_INTERVAL_MIN, WAKE_INTERVAL_MAX);
        Duration::try_from(self.at() - now).unwrap_or(Duration::ZERO).min(interval)
    }
}

/// What lengthens the pause after a failure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pause {
    /// What the CA asked for.
    pub retry_after: Option<Duration>,
    /// Between -1 and 1.
    pub jitter: f64,
}

fn back_off_first(life: Option<Lifetime>) -> Duration {
    let part = life.map_or(BACK_OFF_FIRST_MAX, |life| life.length() / 40);
    part.clamp(BACK_OFF_FIRST_MIN, BACK_OFF_FIRST_MAX)
}

fn back_off_max(life: Option<Lifetime>) -> Duration {
    let part = life.map_or(BACK_OFF_MAX, |life| life.length() / 10);
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
    const CALM: Pause = Pause { retry_after: None, jitter: 1.0 };

    /// As our CA issues it: dated back by a minute.
    fn life(length: Duration) -> Lifetime {
        Lifetime { not_before: T0 - Duration::from_secs(60), not_after: T0 + length, obtained: T0 }
    }

    #[test]
    fn renewal_comes_at_half_life() {
        assert_eq!(Plan::to_renew(life(HOUR), 0.0).at(), T0 + HOUR / 2);
        assert_eq!(Plan::to_renew(life(HOUR), 1.0).at(), T0 + Duration::from_secs(33 * 60));
        assert_eq!(Plan::to_renew(life(HOUR), -1.0).at(), T0 + Duration::from_secs(27 * 60));
    }

    #[test]
    fn a_certificate_of_ten_seconds_is_not_past_its_half_when_it_comes() {
        assert_eq!(Plan::to_renew(life(Duration::from_secs(10)), 0.0).at(), T0 + Duration::from_secs(5));
    }

    #[test]
    fn a_certificate_that_comes_with_no_life_left_is_no_reason_to_ask_without_pause() {
        assert_eq!(Plan::to_renew(life(Duration::ZERO), 0.0).at(), T0 + BACK_OFF_FIRST_MIN);
    }

    #[test]
    fn a_kept_certificate_is_renewed_at_its_half_and_at_once_when_that_is_over() {
        let kept = |after: Duration| Plan::to_renew_kept(life(HOUR), T0 + after);
        assert!(kept(Duration::from_secs(600)).at() <= T0 + HOUR / 2);
        assert!(kept(Duration::from_secs(2400)).is_due(T0 + Duration::from_secs(2400)));
        assert!(kept(2 * HOUR).is_due(T0 + 2 * HOUR));
        assert!(Plan::to_renew_kept(life(HOUR), T0 - DAY).is_due(T0 - DAY));
    }

    #[test]
    fn pauses_double_up_to_a_cap() {
        let pause = |failures| Plan::to_retry(T0, Some(life(HOUR)), failures, CALM).at() - T0;
        let seconds: Vec<_> = (1..=8).map(|n| pause(n).whole_seconds()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), BACK_OFF_MAX);
    }

    #[test]
    fn pauses_for_short_lived_certificates_are_short() {
        let life = Some(life(Duration::from_secs(10)));
        assert_eq!(Plan::to_retry(T0, life, 1, CALM).at() - T0, Duration::from_millis(250));
        assert_eq!(Plan::to_retry(T0, life, 99, CALM).at() - T0, BACK_OFF_MIN);
    }

    #[test]
    fn retry_after_is_honoured_and_bounded() {
        let asked = |seconds| Pause { retry_after: Some(Duration::from_secs(seconds)), jitter: 0.0 };
        assert_eq!(Plan::to_retry(T0, None, 1, asked(20)).at(), T0 + Duration::from_secs(20));
        assert_eq!(Plan::to_retry(T0, None, 1, asked(u64::MAX)).at(), T0 + RETRY_AFTER_MAX);
    }

    #[test]
    fn a_clock_set_forth_by_a_day_makes_the_plan_due() {
        let plan = Plan::to_renew(life(HOUR), 0.0);
        assert!(!plan.is_due(T0));
        assert!(plan.seen_at(T0 + DAY, Some(life(HOUR))).is_due(T0 + DAY));
    }

    #[test]
    fn a_clock_set_back_by_a_day_delays_no_retry_and_renews_what_is_not_valid_yet() {
        let back = T0 - DAY;
        assert!(Plan::to_renew(life(HOUR), 0.0).seen_at(back, Some(life(HOUR))).is_due(back));
        let retry = Plan::to_retry(T0, None, 1, CALM).seen_at(back, None);
        assert_eq!(retry.at(), back + BACK_OFF_FIRST_MAX);
        let long = Lifetime { not_before: T0 - 2 * DAY, not_after: T0 + DAY, obtained: T0 };
        assert_eq!(Plan::to_renew(long, 0.0).seen_at(back, Some(long)).at(), back + DAY / 2);
    }

    proptest! {
        #[test]
        fn renewal_leaves_nearly_half_of_the_life(seconds in 10_u64..86_400, jitter in -1.0..1.0_f64) {
            let length = Duration::from_secs(seconds);
            let after = Duration::try_from(Plan::to_renew(life(length), jitter).at() - T0).unwrap();
            prop_assert!(after >= length.mul_f64(0.449) && after <= length.mul_f64(0.551));
        }

        #[test]
        fn every_wake_is_within_the_interval(
            now in -200_000_i64..200_000,
            failures in 0_u32..100,
            seconds in 0_u64..100_000,
        ) {
            let now = T0 + time::Duration::seconds(now);
            let life = Some(life(Duration::from_secs(seconds)));
            let plan = Plan::to_retry(T0, life, failures, CALM).seen_at(now, life);
            prop_assert!(plan.wake_in(now, life) <= WAKE_INTERVAL_MAX);
            prop_assert!(plan.is_due(now) || plan.wake_in(now, life) > Duration::ZERO);
        }
    }
}
