//! Validation helpers of all sections. They continue after a problem, so that all problems are reported at once.

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_proto::policy::Protocol;
use postern_proto::spelling::nearest;
use postern_server::config::{ConfigProblem, format_duration, parse_duration};
use toml::Spanned;

use super::raw::{Count, Text};
use super::values::is_name;
use super::{HostPort, NAME_BYTES_MAX};

/// Validates values and collects the problems; `None` stands for an invalid or absent value.
pub(super) struct Rules<'a> {
    text: &'a str,
    base: PathBuf,
    problems: Vec<ConfigProblem>,
}

impl<'a> Rules<'a> {
    /// Relative paths are relative to the directory of `file`.
    pub(super) fn new(file: &Path, text: &'a str) -> Self {
        Self { text, base: file.parent().unwrap_or(file).to_owned(), problems: Vec::new() }
    }

    /// All problems, sorted by line.
    pub(super) fn into_problems(mut self) -> Vec<ConfigProblem> {
        self.problems.sort_by_key(|problem| problem.line);
        self.problems
    }

    pub(super) fn refuse<T>(&mut self, span: Range<usize>, key: &str, rule: &str) -> Option<T> {
        self.problems.push(ConfigProblem::at(self.text, span, key.to_owned(), rule.to_owned()));
        None
    }

    pub(super) fn refuse_value<T>(
        &mut self,
        key: &str,
        value: &Spanned<impl Sized>,
        rule: &str,
    ) -> Option<T> {
        self.refuse(value.span(), key, rule)
    }

    pub(super) fn demand<T>(
        &mut self,
        section: &Range<usize>,
        key: &str,
        value: Option<Spanned<T>>,
    ) -> Option<Spanned<T>> {
        if value.is_none() {
            return self.refuse(section.start..section.start, key, "is missing");
        }
        value
    }

    pub(super) fn name(&mut self, key: &str, name: Spanned<String>) -> Option<String> {
        if is_name(name.as_ref()) {
            return Some(name.into_inner());
        }
        self.refuse_value(key, &name, &format!("must be 1 to {NAME_BYTES_MAX} characters of a-z 0-9 -"))
    }

    pub(super) fn host_port(&mut self, key: &str, value: &Spanned<String>) -> Option<HostPort> {
        match value.as_ref().parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => self.refuse_value(key, value, &error.to_string()),
        }
    }

    pub(super) fn protocol(&mut self, section: &Range<usize>, key: &str, value: Text) -> Option<Protocol> {
        let value = self.demand(section, key, value)?;
        self.one_of(key, Some(value), &[("tcp", Protocol::Tcp), ("http", Protocol::Http)])
    }

    pub(super) fn one_of<T: Copy>(&mut self, key: &str, value: Text, choices: &[(&str, T)]) -> Option<T> {
        let value = value?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value.as_ref()) {
            return Some(*choice);
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let near =
            nearest(value.as_ref(), names.iter().copied()).map(|near| format!("; did you mean {near:?}?"));
        let rule = format!("must be one of {}{}", names.join(", "), near.unwrap_or_default());
        self.refuse_value(key, &value, &rule)
    }

    pub(super) fn path(&mut self, key: &str, value: Text) -> Option<PathBuf> {
        let value = value?;
        if value.as_ref().is_empty() || value.as_ref().contains('\0') {
            return self.refuse_value(key, &value, "must name a file or directory");
        }
        Some(self.base.join(value.into_inner()))
    }

    pub(super) fn count(&mut self, key: &str, value: Count, max: usize) -> Option<usize> {
        let value = value?;
        match usize::try_from(*value.as_ref()) {
            Ok(count) if (1..=max).contains(&count) => Some(count),
            _ => self.refuse_value(key, &value, &format!("must be from 1 to {max}")),
        }
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        value: Text,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = value?;
        match parse_duration(value.as_ref()) {
            Ok(duration) if bounds.contains(&duration) => Some(duration),
            _ => {
                let (min, max) = (format_duration(*bounds.start()), format_duration(*bounds.end()));
                let rule =
                    format!("must be from {min} to {max}, written as \"500ms\", \"10s\", \"5m\" or \"1h\"");
                self.refuse_value(key, &value, &rule)
            }
        }
    }
}
