//! The wall clock, read in one place; everything else is told what time it is.

use std::fmt;

use time::OffsetDateTime;

/// Tells the time of day. A suspended machine and a corrected clock show in it, as they do in certificates.
pub trait Clock: fmt::Debug + Send + Sync {
    fn now(&self) -> OffsetDateTime;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}
