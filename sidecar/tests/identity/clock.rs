//! A wall clock that a test sets forth and back.

use std::sync::Mutex;

use postern_sidecar::clock::Clock;
use time::{Duration, OffsetDateTime};

#[derive(Debug, Default)]
pub struct SetClock(Mutex<Duration>);

impl SetClock {
    /// From now on it goes wrong by this much.
    pub fn set_wrong_by(&self, offset: Duration) {
        *self.0.lock().unwrap() = offset;
    }
}

impl Clock for SetClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + *self.0.lock().unwrap()
    }
}
