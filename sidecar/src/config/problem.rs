//! What is wrong with a configuration file: file, line, key, value and rule in one message.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::CONFIG_BYTES_MAX;
use crate::error_text::one_line;

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{}: cannot be read", file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{}: has more than the {CONFIG_BYTES_MAX} bytes allowed", file.display())]
    TooLarge { file: PathBuf },
    #[error("{}: is not UTF-8 text", file.display())]
    NotText { file: PathBuf },
    #[error("{}", Listed { file, problems })]
    Invalid { file: PathBuf, problems: Vec<Problem> },
}

impl ConfigError {
    pub(super) fn invalid(file: &Path, problems: Vec<Problem>) -> Self {
        Self::Invalid { file: file.to_owned(), problems }
    }

    /// One message for each problem, complete in itself: file, line, key, value, rule.
    pub fn messages(&self) -> Vec<String> {
        match self {
            Self::Invalid { .. } => self.to_string().lines().map(str::to_owned).collect(),
            _ => vec![one_line(self)],
        }
    }
}

/// Reads the file, bounded.
pub(super) fn read(file: &Path) -> Result<String, ConfigError> {
    let unreadable = |cause| ConfigError::Unreadable { file: file.to_owned(), cause };
    let mut bytes = Vec::new();
    let limit = u64::try_from(CONFIG_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(file).map_err(unreadable)?.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge { file: file.to_owned() });
    }
    String::from_utf8(bytes).map_err(|_| ConfigError::NotText { file: file.to_owned() })
}

/// One problem of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1.
    pub line: usize,
    /// `section.key`, or the section alone.
    pub key: String,
    /// As written in the file, if there is one.
    pub value: Option<String>,
    /// What is asked for, and where it helps, what to write instead.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value}: {}", self.key, self.rule),
            None => write!(f, "{}: {}", self.key, self.rule),
        }
    }
}

impl Problem {
    pub(super) fn at(text: &str, span: Range<usize>, key: String, rule: String) -> Self {
        Self { line: line_of(text, span.start), value: shown(text, span), key, rule }
    }

    /// What the TOML reader or an unknown key or a value of the wrong kind amounts to.
    pub(super) fn of_syntax(text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or_default();
        let line = line_of(text, span.start);
        let section = section_of(text, span.start);
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        if message.starts_with("unknown field") {
            return Self::of_unknown_key(text, span, &section, &message);
        }
        if let Some(header) = header_at(text, span.start) {
            return Self {
                line,
                key: name_in(header).to_owned(),
                value: None,
                rule: rule_of_header(header, message),
            };
        }
        let key = match key_of(text, span.start) {
            Some(key) => join(&section, key),
            None if section.is_empty() => "file".to_owned(),
            None => section,
        };
        // As TOML calls them.
        let rule = message.replace("a sequence", "a list").replace("a map", "a table");
        Self { line, key, value: shown(text, span), rule }
    }

    /// The value of an unknown key is not repeated: it may be a secret in the wrong place.
    fn of_unknown_key(text: &str, span: Range<usize>, section: &str, message: &str) -> Self {
        let found = text.get(span.clone()).unwrap_or_default().trim_matches('"');
        let known: Vec<&str> = message.split('`').skip(1).step_by(2).skip(1).collect();
        let rule = match nearest(found, &known) {
            Some(near) => format!("unknown key; did you mean \"{near}\"?"),
            None => format!("unknown key; known are {}", known.join(", ")),
        };
        let key = if header_at(text, span.start).is_some() { found.to_owned() } else { join(section, found) };
        Self { line: line_of(text, span.start), key: key.escape_debug().collect(), value: None, rule }
    }
}

struct Listed<'a> {
    file: &'a Path,
    problems: &'a [Problem],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let new_line = if at == 0 { "" } else { "\n" };
            write!(f, "{new_line}{}:{}: {problem}", self.file.display(), problem.line)?;
        }
        Ok(())
    }
}

/// The known name that is a slip of the pen away from `found`.
pub(super) fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = |name: &&&str| strsim::jaro_winkler(found, name) >= SIMILARITY_MIN;
    let similarity = |name: &&&str| (strsim::jaro_winkler(found, name) * 1000.0) as u32;
    known.iter().filter(near).max_by_key(similarity).copied()
}

/// Similarity, from 0 to 1, from which a name is worth suggesting.
const SIMILARITY_MIN: f64 = 0.8;

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The value as written, on one line, without control characters, cut where it is long.
fn shown(text: &str, span: Range<usize>) -> Option<String> {
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

/// The text before the `=` of the line at `offset`.
fn key_of(text: &str, offset: usize) -> Option<&str> {
    let start = text.get(..offset)?.rfind('\n').map_or(0, |at| at + 1);
    let line = text.get(start..)?.lines().next()?;
    let (key, _) = line.split_once('=')?;
    Some(key.trim())
}

/// The line at `offset`, if it is a `[header]`.
fn header_at(text: &str, offset: usize) -> Option<&str> {
    let start = text.get(..offset)?.rfind('\n').map_or(0, |at| at + 1);
    text.get(start..)?.lines().next().and_then(as_header)
}

fn as_header(line: &str) -> Option<&str> {
    let line = line.trim_start_matches('\u{feff}').trim();
    line.starts_with('[').then_some(line)
}

fn name_in(header: &str) -> &str {
    header.trim_start_matches('[').split(']').next().unwrap_or_default().trim()
}

/// One pair of brackets where two are right, or two where one is, is the usual slip.
fn rule_of_header(header: &str, message: String) -> String {
    let name = name_in(header);
    match message.starts_with("invalid type") {
        true if header.starts_with("[[") => format!("write [{name}]: there is only one"),
        true => format!("write [[{name}]]: there may be several"),
        false => message,
    }
}

/// The name in the last `[header]` before `offset`.
fn section_of(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or_default();
    before.lines().rev().find_map(as_header).map(name_in).unwrap_or_default().to_owned()
}
