//! Suggestions for mistyped names, within a bound on the work.

use crate::spelling::nearest;

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
