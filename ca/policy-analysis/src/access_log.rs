//! Access logs of sidecars, read back as questions to a policy.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, BufRead, Read as _};

use postern_proto::identity::SpiffeId;
use postern_proto::policy::{Call, Decision, PATH_BYTES_MAX, Policy, Port, Protocol, decide, may_connect};
use serde::Deserialize;
use time::OffsetDateTime;

/// A longer line is not read.
pub const LINE_BYTES_MAX: usize = 128 * 1024;
/// So many different questions are told apart.
pub const QUESTIONS_MAX: usize = 100_000;
/// And so much text of theirs is kept: whoever called chose the paths.
pub const QUESTIONS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What stands at the end of a text that was cut. No path that a rule can name has it.
pub(crate) const CUT: char = '…';
/// Of the lines that cannot be read so many are told.
const UNREADABLE_REASONS_MAX: usize = 5;

/// What was asked: the same for every repetition of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    pub from: SpiffeId,
    pub to: SpiffeId,
    pub port: String,
    pub protocol: Protocol,
    /// Method and path; none for a connection.
    pub call: Option<(String, String)>,
}

/// How often it passed, and how often it did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Allowed by a rule.
    pub allowed: u64,
    /// Let in although no rule allows it.
    pub observed: u64,
    pub denied: u64,
}

/// A log, added up.
#[derive(Debug, Default)]
pub struct RecordedCalls {
    pub questions: HashMap<Question, Tally>,
    question_bytes: usize,
    /// Those that are not blank.
    pub lines: u64,
    /// Of the own app's calls: the called side's log has them.
    pub outbound: u64,
    /// Before any question to a policy.
    pub refused: u64,
    /// The caller showed an address only, for which no policy has a word.
    pub nameless: u64,
    pub unreadable: u64,
    /// The first of these, with line number and reason.
    pub unreadable_reasons: Vec<(u64, String)>,
    /// Lines whose question is one too many.
    pub not_kept: u64,
}

impl Question {
    /// What a policy says to it.
    pub fn decide(&self, policy: &Policy, now: OffsetDateTime) -> Decision {
        let port = Port { name: &self.port, protocol: self.protocol };
        match &self.call {
            Some((method, path)) => {
                decide(policy, &self.from, &self.to, port, Some(Call { method, path }), now)
            }
            None => may_connect(policy, &self.from, &self.to, port, now),
        }
    }

    fn bytes(&self) -> usize {
        let call = self.call.as_ref().map_or(0, |(method, path)| method.len() + path.len());
        self.from.as_str().len() + self.to.as_str().len() + self.port.len() + call
    }

    /// The order in which questions are shown: no two have the same place in it.
    pub fn order(&self, policy: &Policy) -> (String, &'static str) {
        (self.display(policy), self.protocol.as_str())
    }

    /// For people, in the words of a policy.
    pub fn display(&self, policy: &Policy) -> String {
        let (from, to) = (policy.spelling_of_id(&self.from), policy.spelling_of_id(&self.to));
        let call = self.call.as_ref().map(|(method, path)| format!(" {}", Call { method, path }));
        // A connection of http was refused before its first call.
        let call = call.unwrap_or_else(|| format!(" ({})", self.protocol.as_str()));
        format!("{from} -> {to} port {:?}{call}", self.port)
    }
}

impl RecordedCalls {
    /// Reads an access log.
    pub fn read(mut log: impl BufRead) -> io::Result<Self> {
        let mut recorded = Self::default();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
            if (&mut log).take(limit).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.len() == LINE_BYTES_MAX && !line.ends_with(b"\n") {
                skip_line(&mut log)?;
            }
            recorded.take(number, &line);
        }
        Ok(recorded)
    }

    fn take(&mut self, number: u64, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        self.lines += 1;
        if let Err(reason) = self.add(line) {
            self.unreadable += 1;
            if self.unreadable_reasons.len() < UNREADABLE_REASONS_MAX {
                self.unreadable_reasons.push((number, reason));
            }
        }
    }

    fn add(&mut self, line: &[u8]) -> Result<(), String> {
        if line.len() >= LINE_BYTES_MAX {
            return Err(format!("it has more than {LINE_BYTES_MAX} bytes"));
        }
        let read: Line<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let outcome = match (&*read.direction, &*read.decision) {
            ("outbound", _) => {
                self.outbound += 1;
                return Ok(());
            }
            ("inbound", "refused") => {
                self.refused += 1;
                return Ok(());
            }
            ("inbound", "allow") => Tally { allowed: 1, ..Tally::default() },
            ("inbound", "observed") => Tally { observed: 1, ..Tally::default() },
            ("inbound", "deny") => Tally { denied: 1, ..Tally::default() },
            (direction, decision) => return Err(format!("{direction:?} {decision:?} is not known")),
        };
        if read.from.starts_with("spiffe:") {
            self.count(read.question()?, outcome);
        } else {
            self.nameless += 1;
        }
        Ok(())
    }

    /// Adds what became of a question.
    pub fn count(&mut self, question: Question, outcome: Tally) {
        let bytes = self.question_bytes.saturating_add(question.bytes());
        let full = self.questions.len() >= QUESTIONS_MAX || bytes > QUESTIONS_BYTES_MAX;
        let tally = match self.questions.entry(question) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if full => {
                self.not_kept += 1;
                return;
            }
            Entry::Vacant(new) => {
                self.question_bytes = bytes;
                new.insert(Tally::default())
            }
        };
        tally.allowed += outcome.allowed;
        tally.observed += outcome.observed;
        tally.denied += outcome.denied;
    }
}

fn skip_line(log: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = log.fill_buf()?;
        let (used, over) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        log.consume(used);
        if over {
            return Ok(());
        }
    }
}

/// The keys of docs/ACCESS_LOG.md that make a question.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    direction: Cow<'a, str>,
    #[serde(borrow)]
    decision: Cow<'a, str>,
    #[serde(borrow)]
    protocol: Cow<'a, str>,
    #[serde(borrow)]
    from: Cow<'a, str>,
    to: Option<String>,
    port: Option<String>,
    method: Option<String>,
    path: Option<String>,
}

impl Line<'_> {
    fn question(self) -> Result<Question, String> {
        let id = |key: &str, text: &str| {
            SpiffeId::parse_canonical(text).map_err(|error| format!("{key} {text:?}: {error}"))
        };
        let protocol = match &*self.protocol {
            "tcp" => Protocol::Tcp,
            "http" => Protocol::Http,
            other => return Err(format!("protocol {other:?} is not known")),
        };
        Ok(Question {
            from: id("from", &self.from)?,
            to: id("to", self.to.as_deref().ok_or("to is missing")?)?,
            port: self.port.ok_or("port is missing")?,
            protocol,
            // A CONNECT has no path, and is a call all the same.
            call: self.method.map(|method| (method, whole_or_marked(self.path.unwrap_or_default()))),
        })
    }
}

/// docs/ACCESS_LOG.md: a path that was longer is cut there without a mark. It was ambiguous, and stays so with one.
fn whole_or_marked(mut path: String) -> String {
    if path.len() >= PATH_BYTES_MAX {
        path.push(CUT);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: Tally = Tally { allowed: 1, observed: 0, denied: 0 };

    fn question(path: String) -> Question {
        let id = |path: &str| SpiffeId::parse_canonical(&format!("spiffe://shop.example/{path}")).unwrap();
        Question {
            from: id("orders"),
            to: id("payments"),
            port: "api".to_owned(),
            protocol: Protocol::Http,
            call: Some(("GET".to_owned(), path)),
        }
    }

    #[test]
    fn only_so_many_questions_are_told_apart_and_those_known_are_still_counted() {
        let mut recorded = RecordedCalls::default();
        for at in 0..=QUESTIONS_MAX {
            recorded.count(question(format!("/{at}")), ONCE);
        }
        recorded.count(question("/0".to_owned()), ONCE);
        assert_eq!((recorded.questions.len(), recorded.not_kept), (QUESTIONS_MAX, 1));
        assert_eq!(recorded.questions[&question("/0".to_owned())].allowed, 2);
    }

    #[test]
    fn only_so_much_text_of_questions_is_kept() {
        let mut recorded = RecordedCalls::default();
        let long = "a".repeat(1024 * 1024);
        for at in 0..QUESTIONS_BYTES_MAX / long.len() {
            recorded.count(question(format!("/{at}/{long}")), ONCE);
        }
        assert_eq!(recorded.not_kept, 1);
        assert!(recorded.question_bytes <= QUESTIONS_BYTES_MAX);
    }
}
