//! What the TOML reader refuses, an unknown key or a value of the wrong kind, as a problem with its section and key.

use std::ops::Range;

use postern_proto::spelling::nearest;

use super::ConfigProblem;
use super::problem::{line_of, shown};

impl ConfigProblem {
    /// What the TOML reader or an unknown key or a value of the wrong kind amounts to.
    pub fn of_syntax(text: &str, error: &toml::de::Error) -> Self {
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
        let begun = || known.iter().copied().find(|key| !found.is_empty() && key.starts_with(found));
        let rule = match nearest(found, known.iter().copied()).or_else(begun) {
            Some(near) => format!("unknown key; did you mean \"{near}\"?"),
            None => format!("unknown key; known are {}", known.join(", ")),
        };
        let key = if header_at(text, span.start).is_some() { found.to_owned() } else { join(section, found) };
        Self { line: line_of(text, span.start), key: key.escape_debug().collect(), value: None, rule }
    }
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

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
