//! Durations in configuration files and on command lines: a whole number and a unit.

use std::time::Duration;

use thiserror::Error;

/// In milliseconds, longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("write a whole number and a unit, as in \"500ms\", \"10s\", \"5m\", \"1h\" or \"7d\"")]
pub struct DurationError;

/// Reads `500ms`, `10s`, `5m`, `1h` or `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or(DurationError)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| DurationError)?;
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(DurationError)?;
    number.checked_mul(*millis).map(Duration::from_millis).ok_or(DurationError)
}

/// Writes a duration as [`parse_duration`] reads it, in the longest unit up to hours that gives a whole number.
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = UNITS.iter().skip(1);
    let fits = |(_, unit): &&(&str, u64)| millis > 0 && millis.is_multiple_of(u128::from(*unit));
    let fitting = units.clone().find(fits);
    fitting.map_or_else(|| "0s".to_owned(), |(name, unit)| format!("{}{name}", millis / u128::from(*unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formatted_duration_is_read_back() {
        for text in ["500ms", "10s", "5m", "1h", "24h", "72h", "90s"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("7d").map(format_duration).as_deref(), Ok("168h"));
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn a_bare_number_an_unknown_unit_and_an_overflow_are_refused() {
        for text in
            ["", "10", "s", "10 s", "-1s", "1.5h", "10w", "99999999999999999999s", "18446744073709551615d"]
        {
            assert_eq!(parse_duration(text), Err(DurationError), "{text}");
        }
    }
}
