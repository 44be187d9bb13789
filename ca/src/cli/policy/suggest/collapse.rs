//! Many paths that differ in one segment are one path with a `*` there.

use std::collections::{BTreeMap, BTreeSet};

/// Fewer different segments than this are listed, not taken together.
pub(super) const PATHS_COLLAPSED_MIN: usize = 5;

/// A path's segment, or any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Any,
}

type Path = Vec<Segment>;

/// Takes paths in normal form together, where at least [`PATHS_COLLAPSED_MIN`] differ in one segment only.
pub(super) fn collapse(paths: &BTreeSet<String>) -> BTreeSet<String> {
    let mut left: BTreeSet<Path> = paths.iter().map(|path| split(path)).collect();
    let longest = left.iter().map(Vec::len).max().unwrap_or(0);
    for at in 0..longest {
        let mut alike: BTreeMap<Path, BTreeSet<Path>> = BTreeMap::new();
        for path in &left {
            if let Some(same) = with_any(path, at) {
                alike.entry(same).or_default().insert(path.clone());
            }
        }
        for (same, members) in alike.into_iter().filter(|(_, members)| members.len() >= PATHS_COLLAPSED_MIN) {
            left.retain(|path| !members.contains(path));
            left.insert(same);
        }
    }
    left.iter().map(join).collect()
}

/// The path with any segment there; `*` stands for no empty one.
fn with_any(path: &Path, at: usize) -> Option<Path> {
    match path.get(at) {
        Some(Segment::Literal(segment)) if !segment.is_empty() => {}
        _ => return None,
    }
    let mut same = path.clone();
    *same.get_mut(at)? = Segment::Any;
    Some(same)
}

fn split(path: &str) -> Path {
    path.split('/').skip(1).map(|segment| Segment::Literal(segment.to_owned())).collect()
}

fn join(path: &Path) -> String {
    let text = |segment: &Segment| match segment {
        Segment::Literal(text) => format!("/{text}"),
        Segment::Any => "/*".to_owned(),
    };
    path.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collapsed(paths: impl IntoIterator<Item = String>) -> Vec<String> {
        collapse(&paths.into_iter().collect()).into_iter().collect()
    }

    #[test]
    fn five_paths_that_differ_in_one_segment_are_one_and_four_are_four() {
        let paths = |count: usize| (0..count).map(|at| format!("/charges/{at}/lines"));
        assert_eq!(collapsed(paths(5)), ["/charges/*/lines"]);
        assert_eq!(collapsed(paths(4)).len(), 4);
    }

    #[test]
    fn paths_of_other_lengths_and_empty_last_segments_stay_apart() {
        let paths = (0..5).map(|at| format!("/charges/{at}"));
        let others = ["/charges/".to_owned(), "/charges".to_owned(), "/charges/1/lines".to_owned()];
        assert_eq!(
            collapsed(paths.chain(others)),
            ["/charges", "/charges/", "/charges/*", "/charges/1/lines"]
        );
    }

    #[test]
    fn two_segments_are_taken_together_where_both_vary() {
        let paths = (0..5).flat_map(|one| (0..5).map(move |other| format!("/a/{one}/b/{other}")));
        assert_eq!(collapsed(paths), ["/a/*/b/*"]);
    }
}
