//! Text for terminals.

/// Text that may have come from callers: nothing in it shall steer a terminal or look like a line of its own.
pub fn escaped(text: &str) -> String {
    let show = |character: char| match character {
        '"' | '\'' => character.to_string(),
        other => other.escape_debug().to_string(),
    };
    text.chars().map(show).collect()
}

/// `1 error`, `2 errors`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
