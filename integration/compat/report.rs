//! What is printed: a line for each case as it ends, its failures, and the count.

use std::collections::BTreeSet;
use std::process::ExitCode;

use crate::case::{Ended, Outcome};
use crate::document;

/// All that has ended so far.
#[derive(Debug)]
pub(crate) struct Report {
    /// No case was left out.
    whole: bool,
    passed: usize,
    not_tested: usize,
    failures: Vec<String>,
    versions: BTreeSet<String>,
}

impl Report {
    pub(crate) fn new(whole: bool) -> Self {
        Self { whole, passed: 0, not_tested: 0, failures: Vec::new(), versions: BTreeSet::new() }
    }

    pub(crate) fn add(&mut self, ended: Ended) {
        let name = ended.case.name();
        let word = match ended.outcome {
            Outcome::Passed => {
                self.passed += 1;
                "passed".to_owned()
            }
            Outcome::NotTested(missing) => {
                self.not_tested += 1;
                format!("not tested, {missing} is not on this machine")
            }
            Outcome::Failed(why) => {
                let first = why.lines().next().unwrap_or_default();
                self.failures.push(format!("{name}: {first}"));
                format!("FAILED, {why}\n ")
            }
        };
        println!("compat: {name}: {word} ({:.1} s)", ended.took.as_secs_f64());
        self.versions.extend(ended.versions);
    }

    /// Holds the document against the table, and says how many cases passed.
    pub(crate) fn close(mut self) -> ExitCode {
        if self.whole && std::env::var_os("POSTERN_COMPAT_WRITE").is_some() {
            document::write(&self.versions);
        }
        match document::in_step() {
            Ok(()) => self.passed += 1,
            Err(why) => self.failures.push(why),
        }
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        println!(
            "\ncompat: {} passed, {} failed, {} skipped",
            self.passed,
            self.failures.len(),
            self.not_tested
        );
        if self.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
