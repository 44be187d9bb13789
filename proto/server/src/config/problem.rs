//! One problem of a configuration file.

use std::fmt;
use std::ops::Range;

/// One problem of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Counted from 1.
    pub line: usize,
    /// `section.key`, or the section alone.
    pub key: String,
    /// As written in the file, if there is one.
    pub value: Option<String>,
    /// What is asked for, and where it helps, what to write instead.
    pub rule: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value}: {}", self.key, self.rule),
            None => write!(f, "{}: {}", self.key, self.rule),
        }
    }
}

impl ConfigProblem {
    /// A problem of what `span`, in bytes, covers of the text.
    pub fn at(text: &str, span: Range<usize>, key: String, rule: String) -> Self {
        Self { line: line_of(text, span.start), value: shown(text, span), key, rule }
    }
}

pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The value as written, on one line, without control characters, cut where it is long.
pub(super) fn shown(text: &str, span: Range<usize>) -> Option<String> {
    let source = text.get(span).filter(|source| !source.is_empty())?;
    let line = source.lines().next().unwrap_or_default();
    let cut = line.len() < source.len() || line.chars().count() > VALUE_SHOWN_MAX;
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    let mut value: String = line.chars().take(VALUE_SHOWN_MAX).map(escaped).collect();
    if cut {
        value.push('…');
    }
    Some(value)
}

/// Characters of a value that a message shows.
const VALUE_SHOWN_MAX: usize = 120;
