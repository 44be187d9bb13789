//! What is wrong with `ca.toml`: file, line, key, value and rule in one message.

use std::fmt;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A configuration file has at most this many bytes.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{}: {error}", file.display())]
    Unreadable { file: PathBuf, error: std::io::Error },
    #[error("{}", problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid { problems: Vec<Problem> },
}

/// One problem, complete in itself.
#[derive(Debug)]
pub struct Problem {
    place: String,
    text: String,
}

impl Problem {
    /// At a place of the text that `span` gives in bytes.
    pub(super) fn new(file: &Path, source: &str, span: Range<usize>, text: String) -> Self {
        let before = source.get(..span.start).unwrap_or(source);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
        Self { place: format!("{}:{line}:{column}", file.display()), text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
        write!(f, "{}: {}", self.place, self.text.chars().map(escape).collect::<String>())
    }
}

/// Reads the file, bounded.
pub(super) fn read(file: &Path) -> Result<String, ConfigError> {
    let unreadable = |error| ConfigError::Unreadable { file: file.to_owned(), error };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(CONFIG_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}
