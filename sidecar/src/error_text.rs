//! Formatting of errors for log lines, status and messages.

use std::error::Error;
use std::fmt::Write as _;

/// Formats an error with its causes on one line. Escapes control characters, which may come from peers.
pub fn one_line(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let colon = if text.is_empty() { "" } else { ": " };
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{colon}{error}");
        next = error.source();
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().take(REASON_CHARS_MAX).map(escaped).collect()
}

/// Maximum length of a reason in log and status, in characters; the rest is truncated.
const REASON_CHARS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_reason_without_end_is_cut() {
        let endless = io::Error::other("x".repeat(1 << 20));
        assert_eq!(one_line(&endless).len(), REASON_CHARS_MAX);
    }
}
