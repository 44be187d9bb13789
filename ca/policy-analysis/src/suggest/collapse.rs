//! Many paths that differ in one segment are one path with a `*` there.

use std::collections::{BTreeSet, HashMap, HashSet};

/// Fewer different segments than this are listed, not taken together.
pub(super) const PATHS_COLLAPSED_MIN: usize = 5;
/// A path of more segments is listed as it is: whoever was refused chose how deep its paths go, and each level costs.
pub(super) const SEGMENTS_COLLAPSED_MAX: usize = 12;

/// A path's segment, or any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Segment<'a> {
    Literal(&'a str),
    Any,
}

type Path<'a> = Vec<Segment<'a>>;

/// Takes paths in normal form together, where at least [`PATHS_COLLAPSED_MIN`] differ in one segment only.
pub(super) fn collapse(paths: &BTreeSet<String>) -> BTreeSet<String> {
    let (mut left, deep): (Vec<Path<'_>>, Vec<_>) =
        paths.iter().map(|path| split(path)).partition(|path| path.len() <= SEGMENTS_COLLAPSED_MAX);
    let longest = left.iter().map(Vec::len).max().unwrap_or(0);
    for at in 0..longest {
        left = collapse_at(at, left);
    }
    uncovered(left).iter().chain(&deep).map(join).collect()
}

/// Each path is alike with those that are the same but for one segment.
fn collapse_at(at: usize, paths: Vec<Path<'_>>) -> Vec<Path<'_>> {
    let mut collapsed = Vec::new();
    let mut alike: HashMap<Path<'_>, Vec<Path<'_>>> = HashMap::new();
    for path in paths {
        match with_any(&path, at) {
            Some(same) => alike.entry(same).or_default().push(path),
            None => collapsed.push(path),
        }
    }
    for (same, members) in alike {
        if members.len() >= PATHS_COLLAPSED_MIN {
            collapsed.push(same);
        } else {
            collapsed.extend(members);
        }
    }
    collapsed
}

/// The path with any segment there; `*` stands for no empty one.
fn with_any<'a>(path: &Path<'a>, at: usize) -> Option<Path<'a>> {
    match path.get(at) {
        Some(Segment::Literal(segment)) if !segment.is_empty() => {}
        _ => return None,
    }
    let mut same = path.clone();
    *same.get_mut(at)? = Segment::Any;
    Some(same)
}

/// Without the paths that another one matches.
fn uncovered(paths: Vec<Path<'_>>) -> Vec<Path<'_>> {
    let paths: HashSet<_> = paths.into_iter().collect();
    let stars = |path: &Path<'_>| path.iter().map(|segment| *segment == Segment::Any).collect::<Vec<_>>();
    let masks: HashSet<_> = paths.iter().map(stars).filter(|mask| mask.contains(&true)).collect();
    let is_covered = |path: &Path<'_>| {
        masks.iter().any(|mask| masked(path, mask).is_some_and(|wide| wide != *path && paths.contains(&wide)))
    };
    paths.iter().filter(|path| !is_covered(path)).cloned().collect()
}

/// The path with any segment wherever the mask says so.
fn masked<'a>(path: &Path<'a>, mask: &[bool]) -> Option<Path<'a>> {
    let wide = |(segment, any): (&Segment<'a>, &bool)| match (segment, any) {
        (Segment::Literal(""), true) => None,
        (_, true) => Some(Segment::Any),
        (segment, false) => Some(*segment),
    };
    (path.len() == mask.len()).then(|| path.iter().zip(mask).map(wide).collect()).flatten()
}

fn split(path: &str) -> Path<'_> {
    path.split('/').skip(1).map(Segment::Literal).collect()
}

fn join(path: &Path<'_>) -> String {
    path.iter()
        .flat_map(|segment| match segment {
            Segment::Literal(text) => ["/", text],
            Segment::Any => ["/", "*"],
        })
        .collect()
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

    #[test]
    fn a_path_that_a_star_already_stands_for_is_not_listed() {
        let paths = (0..5).flat_map(|one| (0..5).map(move |other| format!("/a/{one}/{other}")));
        assert_eq!(collapsed(paths.chain(["/a/x/y".to_owned(), "/a/x/".to_owned()])), ["/a/*/*", "/a/x/"]);
    }

    #[test]
    fn deep_paths_are_listed_as_they_are() {
        let deep = |segments: usize| (0..5).map(move |at| format!("{}/{at}", "/a".repeat(segments - 1)));
        assert_eq!(collapsed(deep(SEGMENTS_COLLAPSED_MAX)).len(), 1);
        assert_eq!(collapsed(deep(SEGMENTS_COLLAPSED_MAX + 1)).len(), 5);
    }
}
