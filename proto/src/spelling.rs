//! The known word that a mistyped one probably meant, for suggestions.

/// Longer words are not compared: nobody mistypes them by a letter or two.
const WORD_CHARS_MAX: usize = 64;

/// The candidate nearest by insertions, deletions, substitutions and swaps of neighbours, if one is near at all. Case
/// counts for nothing.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let chars = word.chars().take(WORD_CHARS_MAX + 1).count();
    if chars == 0 || chars > WORD_CHARS_MAX {
        return None;
    }
    let far = ((chars / 3).max(1) + 1).min(chars);
    let word = word.to_ascii_lowercase();
    let distances = candidates.into_iter().filter_map(|candidate| {
        let length = candidate.chars().count();
        let near = length <= WORD_CHARS_MAX && length.abs_diff(chars) < far;
        near.then(|| (strsim::osa_distance(&word, &candidate.to_ascii_lowercase()), candidate))
    });
    distances.filter(|(distance, _)| *distance < far).min().map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_finds_the_one_it_meant() {
        let names = ["orders", "payments", "reports", "a"];
        for (word, meant) in [
            ("ordres", Some("orders")),
            ("order", Some("orders")),
            ("Orders", Some("orders")),
            ("paymnets", Some("payments")),
            ("paiments", Some("payments")),
            ("zebra", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, names), meant, "{word}");
        }
    }
}
