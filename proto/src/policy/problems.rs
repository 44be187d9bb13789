//! Collects the problems of one file, so that all of them are told in one run.

use std::collections::HashSet;
use std::ops::Range;

use super::problem::{PROBLEMS_MAX, Problem, ProblemKind, Severity};
use super::source::{Source, escape};
use super::speller::Speller;

/// The problems found so far.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    source: &'a Source<'a>,
    errors: Capped,
    warnings: Capped,
    unreadable_lines: HashSet<u32>,
    pub(super) speller: Speller,
}

impl<'a> Problems<'a> {
    pub(super) fn new(source: &'a Source<'a>) -> Self {
        Self {
            source,
            errors: Capped::default(),
            warnings: Capped::default(),
            unreadable_lines: HashSet::new(),
            speller: Speller::default(),
        }
    }

    pub(super) fn source(&self) -> &'a Source<'a> {
        self.source
    }

    /// Tells what the TOML reader met. From then on, nothing is called missing or undeclared, and nothing more is
    /// told of that line: it would mostly be an echo.
    pub(super) fn unreadable(&mut self, kind: ProblemKind, place: Range<usize>, message: &str) {
        let line = self.source.line_of(place.start);
        if !self.unreadable_lines.contains(&line) {
            self.report(kind, place, message);
            self.unreadable_lines.insert(line);
        }
    }

    pub(super) fn report(&mut self, kind: ProblemKind, place: Range<usize>, message: impl AsRef<str>) {
        self.report_with(kind, place, message, None);
    }

    pub(super) fn report_with(
        &mut self,
        kind: ProblemKind,
        place: Range<usize>,
        message: impl AsRef<str>,
        suggestion: Option<String>,
    ) {
        if !self.unreadable_lines.is_empty() {
            let line = self.source.line_of(place.start);
            if self.unreadable_lines.contains(&line) || follows_from_gaps(kind) {
                return;
            }
        }
        let capped = match kind.severity() {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        if capped.kept.len() >= PROBLEMS_MAX {
            capped.dropped += 1;
            capped.last_dropped = place;
            return;
        }
        let mut problem = self.source.problem(kind, place, escape(message.as_ref().chars()));
        problem.suggestion = suggestion.map(|text| escape(text.chars()));
        capped.kept.push(problem);
    }

    /// All of them in the order of the file.
    pub(super) fn finish(self) -> Vec<Problem> {
        let mut found = self.errors.finish(self.source, Severity::Error);
        found.extend(self.warnings.finish(self.source, Severity::Warning));
        found.sort_by_key(|problem| (problem.line, problem.column));
        found
    }
}

/// Problems of one severity, up to the bound.
#[derive(Debug, Default)]
struct Capped {
    kept: Vec<Problem>,
    dropped: usize,
    last_dropped: Range<usize>,
}

impl Capped {
    fn finish(mut self, source: &Source<'_>, severity: Severity) -> Vec<Problem> {
        if self.dropped > 0 {
            let message = format!("{} more {}s are not shown", self.dropped, severity.as_str());
            let rest = source.problem(ProblemKind::Bound, self.last_dropped, message);
            self.kept.push(Problem { severity, ..rest });
        }
        self.kept
    }
}

/// Whether a problem may only follow from a part that could not be read.
fn follows_from_gaps(kind: ProblemKind) -> bool {
    matches!(
        kind,
        ProblemKind::Missing
            | ProblemKind::Empty
            | ProblemKind::UnknownService
            | ProblemKind::UnknownPort
            | ProblemKind::NoExpectation
    )
}

/// `did you mean "…"?`
pub(super) fn did_you_mean(name: Option<&str>) -> Option<String> {
    name.map(|name| format!("did you mean {name:?}?"))
}
