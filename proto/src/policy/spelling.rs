//! The nearest name, for suggestions.

/// Longer words are not compared: nobody mistypes them by a letter or two.
const WORD_CHARS_MAX: usize = 64;
/// At most this many names are compared for the problems of one file, so that many typing errors stay cheap.
const COMPARISONS_MAX: usize = 50_000;

/// How many names may still be compared.
#[derive(Debug)]
pub(super) struct Speller {
    comparisons_left: usize,
}

impl Default for Speller {
    fn default() -> Self {
        Self { comparisons_left: COMPARISONS_MAX }
    }
}

impl Speller {
    /// The candidate that a mistyped word probably meant.
    pub(super) fn nearest<'a>(
        &mut self,
        word: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Option<&'a str> {
        let left = &mut self.comparisons_left;
        let compared = candidates.into_iter().take(*left).inspect(|_| *left = left.saturating_sub(1));
        nearest(word, compared)
    }
}

/// The candidate nearest by edit distance, if one is near at all.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(WORD_CHARS_MAX + 1).collect();
    if word.is_empty() || word.len() > WORD_CHARS_MAX {
        return None;
    }
    let far = ((word.len() / 3).max(1) + 1).min(word.len());
    let distances = candidates.into_iter().filter_map(|candidate| {
        let length = candidate.chars().count();
        let near = length <= WORD_CHARS_MAX && length.abs_diff(word.len()) < far;
        near.then(|| (distance(&word, candidate), candidate))
    });
    distances.filter(|(distance, _)| *distance < far).min().map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours, case counting for nothing.
fn distance(word: &[char], candidate: &str) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=word.len()).collect();
    let mut previous = None;
    for (row, character) in candidate.chars().enumerate() {
        let mut current = vec![row + 1];
        let mut left = row + 1;
        for (column, own) in word.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX / 2);
            let same = own.eq_ignore_ascii_case(&character);
            left = (left + 1).min(at(&last, column + 1) + 1).min(at(&last, column) + usize::from(!same));
            let swapped = column > 0 && previous == Some(*own) && word.get(column - 1) == Some(&character);
            if swapped {
                left = left.min(at(&before_last, column - 1) + 1);
            }
            current.push(left);
        }
        before_last = std::mem::replace(&mut last, current);
        previous = Some(character);
    }
    last.last().copied().unwrap_or_default()
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

    #[test]
    fn distances_are_those_of_the_definition() {
        for (a, b, expected) in [("abc", "abc", 0), ("abc", "acb", 1), ("abc", "ab", 1), ("abc", "xyz", 3)] {
            assert_eq!(distance(&a.chars().collect::<Vec<_>>(), b), expected, "{a} {b}");
        }
    }
}
