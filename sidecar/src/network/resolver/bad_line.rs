//! A line of the machine's files about names that is of no use, as the log tells of it.

use std::path::Path;

use tracing::warn;

/// So many of a file are told one by one.
pub const BAD_LINES_TOLD_MAX: usize = 20;
/// So much of each is shown.
const SHOWN_CHARS_MAX: usize = 80;

/// A line that is of no use, or has something in it that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Counted from 1.
    pub line: usize,
    pub text: String,
    pub problem: &'static str,
}

impl BadLine {
    pub(super) fn new(line: usize, text: &[u8], problem: &'static str) -> Self {
        let text = text.trim_ascii().escape_ascii().to_string();
        Self { line, text: text.chars().take(SHOWN_CHARS_MAX).collect(), problem }
    }
}

/// Tells of them.
pub(super) fn tell(file: &Path, bad: &[BadLine]) {
    let file = file.display();
    for BadLine { line, text, problem } in bad.iter().take(BAD_LINES_TOLD_MAX) {
        warn!(%file, line, text, problem, "ignored");
    }
    let more = bad.len().saturating_sub(BAD_LINES_TOLD_MAX);
    if more > 0 {
        warn!(%file, more, "more lines are ignored");
    }
}
