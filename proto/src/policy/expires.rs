//! When a rule ends (policy.md `Rules`).

use std::fmt;

use thiserror::Error;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};
use toml::value::{self, Datetime, Offset};

/// The end of a rule: a date through its last moment in UTC, or an exact date-time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expires {
    written: Box<str>,
    last: OffsetDateTime,
}

impl Expires {
    pub(crate) fn new(datetime: &Datetime) -> Result<Self, ExpiresError> {
        let written = datetime.to_string();
        let last = match (datetime.date, datetime.time, datetime.offset) {
            (Some(date), None, None) => {
                PrimitiveDateTime::new(calendar(date, &written)?, LAST_OF_DAY).assume_utc()
            }
            (Some(date), Some(time), Some(offset)) => {
                let date = calendar(date, &written)?;
                PrimitiveDateTime::new(date, clock(time, &written)?).assume_offset(zone(offset, &written)?)
            }
            (Some(_), Some(_), None) => return Err(ExpiresError::NoOffset { written }),
            _ => return Err(ExpiresError::NoDate { written }),
        };
        Ok(Self { written: written.into(), last })
    }

    /// Whether the rule is over at `now`. At the very moment it still holds.
    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        now > self.last
    }

    /// The last moment at which the rule holds.
    pub fn last(&self) -> OffsetDateTime {
        self.last
    }

    /// As the file says it.
    pub fn as_str(&self) -> &str {
        &self.written
    }
}

impl fmt::Display for Expires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

const LAST_OF_DAY: Time = match Time::from_hms_nano(23, 59, 59, 999_999_999) {
    Ok(time) => time,
    Err(_) => Time::MIDNIGHT,
};

fn calendar(date: value::Date, written: &str) -> Result<Date, ExpiresError> {
    let none = || ExpiresError::NoSuchTime { written: written.to_owned() };
    let month = Month::try_from(date.month).map_err(|_| none())?;
    Date::from_calendar_date(i32::from(date.year), month, date.day).map_err(|_| none())
}

fn clock(time: value::Time, written: &str) -> Result<Time, ExpiresError> {
    let (second, nanosecond) = (time.second.unwrap_or_default(), time.nanosecond.unwrap_or_default());
    // A leap second is the last of its minute here.
    let (second, nanosecond) = if second == 60 { (59, 999_999_999) } else { (second, nanosecond) };
    Time::from_hms_nano(time.hour, time.minute, second, nanosecond)
        .map_err(|_| ExpiresError::NoSuchTime { written: written.to_owned() })
}

fn zone(offset: Offset, written: &str) -> Result<UtcOffset, ExpiresError> {
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i32::from(minutes),
    };
    UtcOffset::from_whole_seconds(minutes * 60)
        .map_err(|_| ExpiresError::NoSuchTime { written: written.to_owned() })
}

/// Why a value is no end of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExpiresError {
    /// A date-time that means another moment in every time zone.
    #[error("expires {written} has no offset from UTC")]
    NoOffset {
        /// As written.
        written: String,
    },
    /// A time of day.
    #[error("expires {written} has no date")]
    NoDate {
        /// As written.
        written: String,
    },
    /// No such day or time.
    #[error("expires {written} is no date or time that exists")]
    NoSuchTime {
        /// As written.
        written: String,
    },
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn expires(text: &str) -> Result<Expires, ExpiresError> {
        Expires::new(&text.parse().unwrap())
    }

    #[test]
    fn a_date_is_valid_through_the_end_of_that_day_in_utc() {
        let end = expires("2027-06-30").unwrap();
        assert!(!end.is_over(datetime!(2027-06-30 23:59:59.999_999_999 UTC)));
        assert!(end.is_over(datetime!(2027-07-01 00:00:00 UTC)));
        assert!(end.is_over(datetime!(2027-06-30 23:00:00 -1)));
    }

    #[test]
    fn a_date_time_is_exact() {
        let end = expires("2027-06-30T12:00:00+02:00").unwrap();
        assert!(!end.is_over(datetime!(2027-06-30 10:00:00 UTC)));
        assert!(end.is_over(datetime!(2027-06-30 10:00:00.000_000_001 UTC)));
    }

    #[test]
    fn a_moment_that_depends_on_the_reader_is_refused() {
        for text in ["2027-06-30T12:00:00", "12:00:00"] {
            assert!(expires(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_moment_of_all_time_does_not_overflow() {
        for text in ["9999-12-31", "9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00+23:59"] {
            let end = expires(text).unwrap();
            assert_eq!(end.is_over(datetime!(2026-11-23 00:00:00 UTC)), text.starts_with('0'), "{text}");
        }
    }
}
