//! The text of a policy file with its lines: where a byte lies, and how a problem shows the place.

use std::ops::Range;

use super::problem::{Problem, ProblemKind};

/// A shown line is cut to about this many characters around the place.
const EXCERPT_CHARS_MAX: usize = 120;
/// Characters kept before the place when a line is cut.
const EXCERPT_CHARS_BEFORE: usize = 40;

/// A file's name, text and line starts.
#[derive(Debug)]
pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { file, text, line_starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The 1-based line in which a byte lies.
    pub(super) fn line_of(&self, offset: usize) -> u32 {
        u32::try_from(self.line_starts.partition_point(|start| *start <= offset)).unwrap_or(u32::MAX)
    }

    /// A problem at a place of the file.
    pub(super) fn problem(&self, kind: ProblemKind, place: Range<usize>, message: String) -> Problem {
        let line = self.line_of(place.start);
        let start = self.line_starts.get((line as usize).saturating_sub(1)).copied().unwrap_or_default();
        let rest = self.text.get(start..).unwrap_or_default();
        let text = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let at = place.start.saturating_sub(start).min(text.len());
        let before = text.get(..at).unwrap_or(text);
        let marked = text.get(at..at.saturating_add(place.len()).min(text.len())).unwrap_or_default();
        let (source_line, marks) = excerpt(text, before, marked);
        Problem {
            severity: kind.severity(),
            kind,
            file: self.file.to_owned(),
            line,
            column: u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX),
            message,
            suggestion: None,
            source_line,
            marks,
        }
    }
}

/// The line as it is shown, and where its marks are.
fn excerpt(line: &str, before: &str, marked: &str) -> (String, (usize, usize)) {
    let skipped_chars = match before.chars().count() {
        chars if chars + marked.chars().count() > EXCERPT_CHARS_MAX => {
            chars.saturating_sub(EXCERPT_CHARS_BEFORE)
        }
        _ => 0,
    };
    let lead = if skipped_chars > 0 { "…" } else { "" };
    let shown_before: String = lead.to_owned() + &escape(before.chars().skip(skipped_chars));
    let mut kept = line.chars().skip(skipped_chars);
    let mut shown: String = lead.to_owned() + &escape(kept.by_ref().take(EXCERPT_CHARS_MAX));
    if kept.next().is_some() {
        shown.push('…');
    }
    let from = shown_before.chars().count();
    let room = shown.chars().count().saturating_sub(from);
    let length = escape(marked.chars().take(EXCERPT_CHARS_MAX)).chars().count();
    (shown, (from, length.min(room).max(1)))
}

/// Text of a file or a peer for people: what could act on a terminal is written as an escape.
pub(super) fn escape(text: impl IntoIterator<Item = char>) -> String {
    let mut shown = String::new();
    for character in text {
        if character == '\t' {
            shown.push(' ');
        } else if is_hostile(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Controls, and characters that reorder or hide text.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, place: Range<usize>) -> String {
        Source::new("p.toml", text).problem(ProblemKind::Syntax, place, "wrong".into()).to_string()
    }

    #[test]
    fn the_place_is_marked_under_its_line() {
        assert_eq!(shown("a = 1\nb = 22\n", 10..12), "p.toml:2:5: error: wrong\n    b = 22\n        ^^");
    }

    #[test]
    fn columns_count_characters() {
        assert!(shown("é = \"é\" x", 10..11).starts_with("p.toml:1:9: "));
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let text = "a = \"\u{1b}[31m\u{202e}\u{7f}\" x";
        let shown = shown(text, 0..1);
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(shown.contains("\\u{1b}[31m\\u{202e}\\u{7f}"));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}HERE{}", "a".repeat(100_000), "b".repeat(100_000));
        let shown = shown(&text, 100_000..100_004);
        assert!(shown.len() < 600, "{}", shown.len());
        assert!(shown.contains("aHEREb"));
        assert!(shown.ends_with(&format!("{}^^^^", " ".repeat(4 + 1 + EXCERPT_CHARS_BEFORE))));
    }

    #[test]
    fn no_place_panics() {
        for text in ["", "\n", "é", "a\r\nb", "é\né"] {
            for start in 0..6 {
                for end in start..7 {
                    let _ = shown(text, start..end);
                }
            }
        }
    }
}
