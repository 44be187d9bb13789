//! The table that is printed as things happen: for people, or a JSON object a line for machines.

use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde_json::json;

/// For whom it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// What came of a line.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whether it is as expected.
    pub(crate) good: bool,
    /// What happened, in the programs' own words.
    pub(crate) happened: String,
}

/// Lines as they happen, and those that were not as expected.
#[derive(Debug)]
pub(crate) struct Table {
    format: Format,
    terminal: bool,
    failed: Vec<String>,
    lines: usize,
}

impl Table {
    pub(crate) fn new(format: Format) -> Self {
        let terminal = format == Format::Text && std::io::stdout().is_terminal();
        Self { format, terminal, failed: Vec::new(), lines: 0 }
    }

    /// Says what is going on, where somebody watches.
    pub(crate) fn progress(&self, what: &str) {
        if self.terminal {
            print(&format!("\r\x1b[K  … {what}"));
        }
    }

    /// A line: what was tried, what was expected, and what came of it.
    pub(crate) fn line(&mut self, tried: &str, expected: &str, outcome: &Outcome) {
        let Outcome { good, happened } = outcome;
        self.lines += 1;
        if !good {
            self.failed.push(tried.to_owned());
        }
        match self.format {
            Format::Json => {
                let line =
                    json!({ "tried": tried, "expected": expected, "good": good, "happened": happened });
                print(&format!("{line}\n"));
            }
            Format::Text => {
                let mark = match (good, self.terminal) {
                    (true, true) => "\r\x1b[K\x1b[32m✓\x1b[0m",
                    (false, true) => "\r\x1b[K\x1b[31m✗\x1b[0m",
                    (true, false) => "✓",
                    (false, false) => "✗",
                };
                print(&format!("{mark} {tried:<52} {expected}\n"));
                for line in happened.lines() {
                    print(&format!("    {line}\n"));
                }
            }
        }
    }

    /// The last word; returns the lines that were not as expected.
    pub(crate) fn finish(&self) -> &[String] {
        let (lines, failed) = (self.lines, self.failed.len());
        match self.format {
            Format::Json => print(&format!("{}\n", json!({ "lines": lines, "failed": self.failed }))),
            Format::Text if failed == 0 => print(&format!("\nAll {lines} lines are as expected.\n")),
            Format::Text => {
                print(&format!(
                    "\n{failed} of {lines} lines are not as expected: {}\n",
                    self.failed.join("; ")
                ));
            }
        }
        &self.failed
    }
}

/// Prints at once. A reader that has gone away is no reason to leave processes behind.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _reader_gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
