//! Suggested rules as TOML that fits the file: what its reader refuses is taken out and said.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use postern_proto::policy::{
    FILE_BYTES_MAX, LIST_ENTRIES_MAX, Policy, Problem, ProblemKind, RULES_MAX, Service,
};
use time::{Duration, OffsetDateTime};

use super::SuggestError;
use super::collapse::PATHS_COLLAPSED_MIN;
use super::rules::{Rule, Rules};

/// Where the file demands an end, a suggestion is good for so long.
const SUGGESTED_FOR: Duration = Duration::days(30);
/// Of a table: the owner and the end.
const DEMANDED_BYTES_MAX: usize = 64;
/// Of a rule that is left out so many callers and calls are named.
const NAMED_MAX: usize = 5;
const OWNER: &str = "owner = \"to be named\"\n";
const REASON: &str = "reason = \"suggested from calls that were not allowed: review it, and say why\"\n";

impl Rules<'_> {
    /// The rules as TOML to be put at the file's end, with as much as the file demands of every rule. Rules that do
    /// not fit become notes.
    pub(super) fn fit(
        &mut self,
        policy: &Policy,
        text: &str,
        now: OffsetDateTime,
    ) -> Result<String, SuggestError> {
        self.leave_out_what_is_too_much(policy, text);
        loop {
            let (snippet, starts, problems) = self.with_what_is_demanded(policy, text, now);
            if problems.is_empty() {
                return Ok(snippet);
            }
            let first = starts.first().copied().unwrap_or(u32::MAX);
            if let Some(outside) = problems.iter().find(|problem| problem.line < first) {
                return Err(SuggestError::Outside { problem: outside.message.clone() });
            }
            let refused = self.refused(&starts, &problems);
            self.leave_out(&refused);
        }
    }

    /// Each rule that the reader has refused, and why.
    fn refused(&self, starts: &[u32], problems: &[Problem]) -> BTreeMap<usize, String> {
        let mut refused = BTreeMap::new();
        for problem in problems {
            let number = starts.partition_point(|start| *start <= problem.line).saturating_sub(1);
            let Some(rule) = self.rules.get(number) else { continue };
            refused.entry(number).or_insert_with(|| rule.refused_for(problem));
        }
        refused
    }

    fn leave_out(&mut self, refused: &BTreeMap<usize, String>) {
        for (number, rule) in std::mem::take(&mut self.rules).into_iter().enumerate() {
            match refused.get(&number) {
                Some(why) => self.notes.push(format!("{}: {why}", rule.in_short())),
                None => self.rules.push(rule),
            }
        }
    }

    /// A caller who asked for very much must not keep the others from what they need: the shortest rules come first.
    fn leave_out_what_is_too_much(&mut self, policy: &Policy, text: &str) {
        let size = |(number, rule): (usize, &Rule<'_>)| {
            let tables = rule.table_count();
            (rule.to_toml("").len() + tables * DEMANDED_BYTES_MAX, tables, number)
        };
        let mut sizes: Vec<_> = self.rules.iter().enumerate().map(size).collect();
        sizes.sort_unstable();
        let mut bytes_left = FILE_BYTES_MAX.saturating_sub(text.len() + 1);
        let mut rules_left =
            policy.services().iter().map(Service::rule_count).fold(RULES_MAX, usize::saturating_sub);
        let mut too_much = BTreeMap::new();
        for (bytes, tables, number) in sizes {
            if tables > rules_left {
                too_much.insert(
                    number,
                    format!("with it the file would have more than the {RULES_MAX} rules allowed"),
                );
            } else if bytes > bytes_left {
                let why = format!("with it the file would have more than the {FILE_BYTES_MAX} bytes allowed");
                too_much.insert(number, why);
            } else {
                rules_left -= tables;
                bytes_left -= bytes;
            }
        }
        self.leave_out(&too_much);
    }

    /// The first of four ways in which no rule lacks what the file requires: the snippet, the line of the whole at
    /// which each rule begins, and what the reader says to it.
    fn with_what_is_demanded(
        &self,
        policy: &Policy,
        text: &str,
        now: OffsetDateTime,
    ) -> (String, Vec<u32>, Vec<Problem>) {
        let date = (now + SUGGESTED_FOR).date();
        let end = format!("expires = {:04}-{:02}-{:02}\n", date.year(), u8::from(date.month()), date.day());
        let mut last = (String::new(), Vec::new(), Vec::new());
        for demanded in ["", OWNER, &end, &format!("{OWNER}{end}")] {
            let (snippet, starts) = self.to_toml(text, demanded);
            let problems = Policy::parse(policy.file(), &format!("{text}\n{snippet}")).err();
            last = (snippet, starts, problems.unwrap_or_default());
            if !last.2.iter().any(|problem| problem.kind == ProblemKind::Missing) {
                break;
            }
        }
        last
    }

    fn to_toml(&self, text: &str, demanded: &str) -> (String, Vec<u32>) {
        let mut line = 2 + lines(text);
        let mut snippet = String::new();
        let mut starts = Vec::new();
        for rule in &self.rules {
            let toml = rule.to_toml(demanded);
            starts.push(line);
            line = line.saturating_add(lines(&toml));
            snippet.push_str(&toml);
        }
        (snippet, starts)
    }
}

fn lines(text: &str) -> u32 {
    u32::try_from(text.matches('\n').count()).unwrap_or(u32::MAX - 2)
}

impl Rule<'_> {
    /// Why the rule cannot be added.
    fn refused_for(&self, problem: &Problem) -> String {
        match problem.kind {
            // The reader of TOML says so, not the reader of rules.
            ProblemKind::Duplicate if problem.message == "duplicate key" => format!(
                "the rules of {0} are an inline array (`allow = [ … ]`), which cannot be added to from below; write \
                 them as [[service.{0}.allow]] tables, and ask again",
                self.service
            ),
            // A rule that says the same and still did not allow it is over.
            ProblemKind::Duplicate => {
                format!("{}; it has expired: if it should be good again, give it a new end", problem.message)
            }
            ProblemKind::Syntax => format!(
                "{}; write the service as [service.{}] to add rules below it",
                problem.message, self.service
            ),
            _ => problem.message.clone(),
        }
    }

    /// The rule in one line.
    fn in_short(&self) -> String {
        let calls = self.calls.as_ref().map_or("anything".to_owned(), first_of);
        format!("{} × {} -> {}, {calls}", self.count, first_of(&self.from), self.service)
    }

    /// A table, or as many as it takes for their lists to be no longer than a file may have them.
    fn to_toml(&self, demanded: &str) -> String {
        let mut toml = match self.count {
            1 => "# asked for once\n".to_owned(),
            count => format!("# asked for {count} times\n"),
        };
        for remark in self.remarks() {
            toml.push_str(&format!("# {remark}\n"));
        }
        for (number, (from, calls)) in self.tables().enumerate() {
            if number > 0 {
                toml.push_str("# goes on with the rule above, whose list would be too long\n");
            }
            // Writing to a string does not fail.
            let _always_ok = write!(toml, "[[service.{}.allow]]\nfrom = {from}\n", self.service);
            if let Some(calls) = calls {
                let _always_ok = writeln!(toml, "calls = {calls}");
            }
            if let Some(port) = &self.port {
                let _always_ok = writeln!(toml, "port = {port:?}");
            }
            let _always_ok = writeln!(toml, "{REASON}{demanded}");
        }
        toml
    }

    /// The `from` and `calls` of each table.
    fn tables(&self) -> impl Iterator<Item = (String, Option<String>)> {
        let calls = self.calls.as_ref().map_or(vec![None], |calls| parts(calls).map(Some).collect());
        parts(&self.from)
            .flat_map(move |from| calls.clone().into_iter().map(move |calls| (from.clone(), calls)))
    }

    fn table_count(&self) -> usize {
        let calls = self.calls.as_ref().map_or(1, |calls| calls.len().div_ceil(LIST_ENTRIES_MAX));
        self.from.len().div_ceil(LIST_ENTRIES_MAX) * calls
    }

    /// What a reviewer would not see at once.
    fn remarks(&self) -> impl Iterator<Item = String> {
        let stars = self.calls.iter().flatten().any(|call| call.contains('*'));
        // A service's name has no slash; a path and an ID do.
        let undeclared: BTreeSet<_> = self.from.iter().filter(|from| from.contains('/')).cloned().collect();
        let what = if self.calls.is_some() { "these calls" } else { "everything" };
        [
            stars.then(|| format!("\"*\" stands for {PATHS_COLLAPSED_MIN} or more different segments")),
            (!undeclared.is_empty()).then(|| format!("no declared service: {}", first_of(&undeclared))),
            self.port.is_none().then(|| {
                format!("{} declares no ports, so this allows {what} on whichever it has", self.service)
            }),
        ]
        .into_iter()
        .flatten()
    }
}

fn parts(entries: &BTreeSet<String>) -> impl Iterator<Item = String> {
    let entries: Vec<_> = entries.iter().collect();
    let parts: Vec<_> = entries.chunks(LIST_ENTRIES_MAX).map(|part| list(part.iter().copied())).collect();
    parts.into_iter()
}

/// Names, paths and calls have no character that TOML would write otherwise than `\"` and `\\`.
fn list<'a>(entries: impl IntoIterator<Item = &'a String>) -> String {
    let quoted = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    format!("[{}]", entries.into_iter().map(quoted).collect::<Vec<_>>().join(", "))
}

fn first_of(entries: &BTreeSet<String>) -> String {
    let named = list(entries.iter().take(NAMED_MAX));
    match entries.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
