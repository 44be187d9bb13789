//! Ignored lines of the resolver's configuration files, and their log messages.

use std::path::Path;

use tracing::warn;

/// Maximum number of ignored lines per file that are logged one by one.
pub const IGNORED_LINES_LOGGED_MAX: usize = 20;
/// Maximum length of a logged line, in characters.
const LOGGED_CHARS_MAX: usize = 80;

/// A line that is ignored, at least in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredLine {
    /// The line number, from 1.
    pub line: usize,
    pub text: String,
    pub problem: &'static str,
}

impl IgnoredLine {
    pub(super) fn new(line: usize, text: &[u8], problem: &'static str) -> Self {
        let text = text.trim_ascii().escape_ascii().to_string();
        Self { line, text: text.chars().take(LOGGED_CHARS_MAX).collect(), problem }
    }
}

/// Logs the ignored lines of a file.
pub(super) fn log(file: &Path, ignored: &[IgnoredLine]) {
    let file = file.display();
    for IgnoredLine { line, text, problem } in ignored.iter().take(IGNORED_LINES_LOGGED_MAX) {
        warn!(%file, line, text, problem, "ignored");
    }
    let more = ignored.len().saturating_sub(IGNORED_LINES_LOGGED_MAX);
    if more > 0 {
        warn!(%file, more, "more lines are ignored");
    }
}
