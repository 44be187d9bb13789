//! What is printed, in libtest's words: a line for each case as it ends, then the failures and the count.
//!
//! What failed is named last, because who runs tests may keep the end of their output only.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::case::{Ended, Outcome};
use crate::document;

/// The document is held against the table in each run.
const DOCUMENT: &str = "document";
const SLOWEST_SHOWN: usize = 5;

/// All that has ended so far.
#[derive(Debug)]
pub(crate) struct Report {
    begun: Instant,
    /// Cases that the command line left out.
    left_out: usize,
    took: Vec<(Duration, String)>,
    passed: usize,
    ignored: usize,
    failures: Vec<Failure>,
    versions: BTreeSet<String>,
}

#[derive(Debug)]
struct Failure {
    name: String,
    /// The first line says what went wrong.
    why: String,
}

impl Report {
    pub(crate) fn new(cases: usize, left_out: usize) -> Self {
        println!("\nrunning {} tests", cases + 1);
        Self {
            begun: Instant::now(),
            left_out,
            took: Vec::new(),
            passed: 0,
            ignored: 0,
            failures: Vec::new(),
            versions: BTreeSet::new(),
        }
    }

    pub(crate) fn add(&mut self, ended: Ended) {
        let name = ended.case.name();
        self.took.push((ended.took, name.clone()));
        self.versions.extend(ended.versions);
        match ended.outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("test {name} ... ok");
            }
            Outcome::NotTested(missing) => {
                self.ignored += 1;
                println!("test {name} ... ignored, {missing} is not on this machine");
            }
            Outcome::Failed(why) => self.failed(name, why),
        }
    }

    fn failed(&mut self, name: String, why: String) {
        println!("test {name} ... FAILED\n{why}\n");
        self.failures.push(Failure { name, why });
    }

    /// Holds the document against the table, and says what failed.
    pub(crate) fn close(mut self) -> ExitCode {
        if self.left_out == 0 && std::env::var_os("POSTERN_COMPAT_WRITE").is_some() {
            document::write(&self.versions);
        }
        match document::in_step() {
            Ok(()) => {
                self.passed += 1;
                println!("test {DOCUMENT} ... ok");
            }
            Err(why) => self.failed(DOCUMENT.to_owned(), why),
        }
        self.took.sort_unstable_by(|one, other| other.cmp(one));
        for (took, name) in self.took.iter().take(SLOWEST_SHOWN) {
            println!("slow: {name} took {:.0} s", took.as_secs_f64());
        }
        if !self.failures.is_empty() {
            println!("\nfailures:\n");
            for Failure { name, why } in &self.failures {
                println!("---- {name} stdout ----\n{}\n", why.lines().next().unwrap_or_default());
            }
            println!("failures:");
            for Failure { name, .. } in &self.failures {
                println!("    {name}");
            }
        }
        println!(
            "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
            if self.failures.is_empty() { "ok" } else { "FAILED" },
            self.passed,
            self.failures.len(),
            self.ignored,
            self.left_out,
            self.begun.elapsed().as_secs_f64(),
        );
        if self.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
