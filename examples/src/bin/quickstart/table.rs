//! The table on the screen, line by line as things happen; one JSON object a line for machines.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Value, json};

/// For whom the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For machines: one object a line, the summary last.
    Json,
}

/// What a line is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tried {
    pub(crate) what: &'static str,
    pub(crate) expected: &'static str,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Happened {
    pub(crate) as_expected: bool,
    pub(crate) what: String,
    pub(crate) notes: Vec<Note>,
}

/// What else is known of it.
#[derive(Debug)]
pub(crate) enum Note {
    /// Who says what about it, in the programs' own words.
    Says(String, String),
    /// What they propose to type.
    Type(String),
}

impl Note {
    pub(crate) fn says(who: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Says(who.into(), text.into())
    }

    fn for_people(&self) -> Vec<String> {
        match self {
            Self::Says(who, text) => wrapped(&format!("{who}: {text}")),
            Self::Type(command) => vec![format!("to learn more: {command}")],
        }
    }

    fn for_machines(&self) -> Value {
        match self {
            Self::Says(who, text) => json!({ "by": who, "text": text }),
            Self::Type(command) => json!({ "type": command }),
        }
    }
}

/// What a slow line is doing just now.
#[derive(Debug, Default)]
pub(crate) struct Progress(RefCell<String>);

impl Progress {
    pub(crate) fn say(&self, now: String) {
        *self.0.borrow_mut() = now;
    }
}

/// Prints lines and remembers how they went.
#[derive(Debug)]
pub(crate) struct Table {
    format: Format,
    colours: bool,
    begun: Instant,
    lines: usize,
    unexpected: Vec<&'static str>,
}

const SHOW_INTERVAL_TERMINAL: Duration = Duration::from_millis(200);
const SHOW_INTERVAL_FILE: Duration = Duration::from_secs(5);
/// Notes are wrapped here.
const WIDTH: usize = 110;
const INDENT: &str = "       ";

impl Table {
    pub(crate) fn new(format: Format) -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { format, colours, begun: Instant::now(), lines: 0, unexpected: Vec::new() }
    }

    pub(crate) fn begin(&self, introduction: &str) -> io::Result<()> {
        if self.format == Format::Text {
            let head = format!("    {:<53}{:<26}WHAT HAPPENED", "WHAT IS TRIED", "EXPECTED");
            writeln!(io::stdout(), "{introduction}\n\n{}", self.painted("1", &head))?;
        }
        Ok(())
    }

    /// Does one thing, and prints what came of it. A thing that cannot be done is not as expected.
    pub(crate) async fn line(
        &mut self,
        tried: Tried,
        act: impl AsyncFnOnce(&Progress) -> anyhow::Result<Happened>,
    ) -> io::Result<()> {
        let (begun, progress) = (Instant::now(), Progress::default());
        let happened = {
            let mut acting = std::pin::pin!(act(&progress));
            loop {
                match tokio::time::timeout(self.show_interval(), &mut acting).await {
                    Ok(happened) => break happened,
                    Err(_) => self.show(tried, &progress)?,
                }
            }
        };
        let happened = happened.unwrap_or_else(|error| Happened {
            as_expected: false,
            what: "it could not be tried".to_owned(),
            notes: vec![Note::says("why", format!("{error:#}"))],
        });
        self.lines += 1;
        if !happened.as_expected {
            self.unexpected.push(tried.what);
        }
        match self.format {
            Format::Text => self.print(tried, &happened),
            Format::Json => print_json(tried, &happened, begun.elapsed()),
        }
    }

    fn print(&self, tried: Tried, happened: &Happened) -> io::Result<()> {
        self.wipe()?;
        let mark = if happened.as_expected { self.painted("32", "✓") } else { self.painted("31;1", "✗") };
        let mut out = io::stdout().lock();
        writeln!(out, " {mark}  {:<53}{:<26}{}", tried.what, tried.expected, happened.what)?;
        for note in &happened.notes {
            for (at, part) in note.for_people().iter().enumerate() {
                let hanging = if at == 0 { "" } else { "    " };
                writeln!(out, "{INDENT}{}", self.painted("2", &format!("{hanging}{part}")))?;
            }
        }
        out.flush()
    }

    /// Says how it went altogether; true if everything was as expected.
    pub(crate) fn end(&self) -> io::Result<bool> {
        let (well, seconds) = (self.unexpected.is_empty(), self.begun.elapsed().as_secs_f64());
        let mut out = io::stdout().lock();
        match self.format {
            Format::Json => {
                let summary =
                    json!({ "lines": self.lines, "unexpected": self.unexpected, "seconds": seconds });
                writeln!(out, "{}", json!({ "summary": summary }))?;
            }
            Format::Text if well => {
                let text = format!("All {} lines are as expected, in {seconds:.0} s.", self.lines);
                writeln!(out, "\n{}", self.painted("32", &text))?;
            }
            Format::Text => {
                let text = format!("Not as expected: {}.", self.unexpected.join("; "));
                writeln!(out, "\n{}", self.painted("31;1", &text))?;
            }
        }
        Ok(well)
    }

    /// Something for people below the table.
    pub(crate) fn remark(&self, text: &str) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(io::stdout(), "{text}"),
            Format::Json => writeln!(io::stderr(), "{text}"),
        }
    }

    fn show_interval(&self) -> Duration {
        if io::stderr().is_terminal() { SHOW_INTERVAL_TERMINAL } else { SHOW_INTERVAL_FILE }
    }

    /// Slow lines are told of while they last, on standard error.
    fn show(&self, tried: Tried, progress: &Progress) -> io::Result<()> {
        let now = progress.0.borrow();
        if io::stderr().is_terminal() {
            self.wipe()?;
            write!(io::stderr(), " …  {}  {now}", tried.what)
        } else {
            writeln!(io::stderr(), " …  {}  {now}", tried.what)
        }
    }

    fn wipe(&self) -> io::Result<()> {
        if io::stderr().is_terminal() { write!(io::stderr(), "\r\x1b[2K") } else { Ok(()) }
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn print_json(tried: Tried, happened: &Happened, took: Duration) -> io::Result<()> {
    let notes: Vec<_> = happened.notes.iter().map(Note::for_machines).collect();
    let line = json!({
        "tried": tried.what,
        "expected": tried.expected,
        "happened": happened.what,
        "as_expected": happened.as_expected,
        "notes": notes,
        "seconds": took.as_secs_f64(),
    });
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Breaks at spaces; a word longer than a line stays whole.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_notes_are_wrapped_and_no_word_is_lost() {
        let text = "spiffe://shop.example/orders ".repeat(20) + &"x".repeat(300);
        let lines = wrapped(&text);
        assert!(lines.iter().all(|line| line.len() <= WIDTH || line.len() == 300));
        assert_eq!(lines.join(" "), text);
    }
}
