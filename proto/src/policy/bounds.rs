//! Bounds of a policy file that must hold before the TOML reader sees it (policy.md `check`).

use std::ops::Range;

use toml_parser::Source as Toml;
use toml_parser::lexer::TokenKind;

/// A policy file has at most this many bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Arrays, inline tables and dotted keys nest at most this deep.
pub const NESTING_MAX: usize = 16;

/// Where a text nests deeper than [`NESTING_MAX`], if it does. A long dotted key nests as deep as it has parts.
pub(super) fn too_deep(text: &str) -> Option<Range<usize>> {
    let mut open = 0_usize;
    let mut dots = 0_usize;
    for token in Toml::new(text).lex() {
        match token.kind() {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => open += 1,
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => open = open.saturating_sub(1),
            TokenKind::Dot => dots += 1,
            TokenKind::Equals | TokenKind::Comma | TokenKind::Newline => dots = 0,
            _ => {}
        }
        if open + dots > NESTING_MAX {
            let span = token.span();
            return Some(span.start()..span.end());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_levels_are_read_and_seventeen_are_not() {
        for (open, close) in [("[", "]"), ("{a=", "}")] {
            let nested = |depth: usize| format!("x = {}1{}", open.repeat(depth), close.repeat(depth));
            assert_eq!(too_deep(&nested(NESTING_MAX)), None);
            assert!(too_deep(&nested(NESTING_MAX + 1)).is_some());
        }
        assert_eq!(too_deep(&format!("a{} = 1", ".a".repeat(NESTING_MAX))), None);
        assert!(too_deep(&format!("a{} = 1", ".a".repeat(NESTING_MAX + 1))).is_some());
        assert!(too_deep(&format!("[a{}]", ".a".repeat(NESTING_MAX))).is_some());
    }

    #[test]
    fn brackets_and_dots_in_strings_and_comments_do_not_nest() {
        let text = format!("# {0}\nx = \"{0}\"\ny = '{0}'\nz = \"\"\"{0}\"\"\"\n", "[{.".repeat(50));
        assert_eq!(too_deep(&text), None);
    }

    #[test]
    fn closing_what_was_not_opened_does_not_buy_depth() {
        let text = format!("x = {}{}", "]".repeat(100), "[".repeat(NESTING_MAX + 1));
        assert!(too_deep(&text).is_some());
    }
}
