//! The wall clock. Code that needs the time takes it as an argument or from a [`Clock`].

use std::fmt;

use time::OffsetDateTime;

/// A source of the current wall-clock time. It includes suspend time and clock corrections, like the validity times of
/// certificates.
pub trait Clock: fmt::Debug + Send + Sync {
    fn now(&self) -> OffsetDateTime;
}

/// The system clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}
