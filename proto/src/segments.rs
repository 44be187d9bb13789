//! Sequences of segments with whole-segment wildcards: what peers and paths in a policy are matched by.

/// One place of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Segment {
    /// Exactly this text.
    Literal(Box<str>),
    /// Any one segment that is not empty: `*`.
    Any,
}

impl Segment {
    fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Literal(literal) => **literal == *segment,
            Self::Any => !segment.is_empty(),
        }
    }

    /// Whether everything `other` matches is matched by `self`, too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) => true,
            (Self::Any, Self::Literal(literal)) => !literal.is_empty(),
            (Self::Literal(a), Self::Literal(b)) => a == b,
            (Self::Literal(_), Self::Any) => false,
        }
    }
}

/// Segments in order; with `rest` (`**`), one or more further segments of any kind, also empty ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentPattern {
    segments: Box<[Segment]>,
    rest: bool,
}

impl SegmentPattern {
    /// Reads the text between slashes. `literal` judges a segment without wildcard.
    pub(crate) fn parse<'a, E>(
        pieces: impl Iterator<Item = &'a str>,
        literal: impl Fn(&'a str) -> Result<(), E>,
    ) -> Result<Self, SegmentError<E>> {
        let mut segments = Vec::new();
        let mut pieces = pieces.peekable();
        while let Some(piece) = pieces.next() {
            match piece {
                "*" => segments.push(Segment::Any),
                "**" if pieces.peek().is_none() => {
                    return Ok(Self { segments: segments.into(), rest: true });
                }
                "**" => return Err(SegmentError::RestNotLast),
                _ if piece.contains('*') => return Err(SegmentError::InsideSegment),
                _ => {
                    literal(piece).map_err(SegmentError::Literal)?;
                    segments.push(Segment::Literal(piece.into()));
                }
            }
        }
        Ok(Self { segments: segments.into(), rest: false })
    }

    /// The places before `**`, or all.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether it ends in `**`.
    pub(crate) fn has_rest(&self) -> bool {
        self.rest
    }

    /// A pattern that ends in `**` as parts that together match the same: one more segment, empty or not, or more.
    pub(crate) fn split_rest(&self) -> Option<[Self; 3]> {
        let longer = |last: Segment, rest: bool| Self {
            segments: self.segments.iter().cloned().chain([last]).collect(),
            rest,
        };
        let parts = || {
            [
                longer(Segment::Literal("".into()), false),
                longer(Segment::Any, false),
                longer(Segment::Any, true),
            ]
        };
        self.rest.then(parts)
    }

    /// Whether it has no wildcard at all.
    pub(crate) fn is_exact(&self) -> bool {
        !self.rest && !self.segments.contains(&Segment::Any)
    }

    /// Whether it covers these segments.
    pub(crate) fn matches<'a>(&self, mut given: impl Iterator<Item = &'a str>) -> bool {
        let head = self.segments.iter().all(|expected| given.next().is_some_and(|s| expected.matches(s)));
        head && given.next().is_some() == self.rest
    }

    /// Whether everything that `other` matches is matched by `self`, too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let (mine, its) = (&self.segments, &other.segments);
        let long_enough = match (self.rest, other.rest) {
            (false, false) => its.len() == mine.len(),
            (true, false) => its.len() > mine.len(),
            (true, true) => its.len() >= mine.len(),
            (false, true) => false,
        };
        long_enough && mine.iter().zip(its).all(|(a, b)| a.covers(b))
    }
}

/// Why segments are no pattern.
#[derive(Debug)]
pub(crate) enum SegmentError<E> {
    /// `**` anywhere but at the end.
    RestNotLast,
    /// A wildcard that is not a whole segment.
    InsideSegment,
    /// A literal that cannot be.
    Literal(E),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> SegmentPattern {
        SegmentPattern::parse(text.split('/'), |_| Ok::<_, ()>(())).unwrap()
    }

    #[test]
    fn covering_is_what_matching_says() {
        let texts = ["a", "*", "**", "a/b", "a/*", "a/**", "*/b", "*/*", "*/**", "a/", "a/*/**", ""];
        let given = ["a", "b", "", "a/b", "a/", "b/b", "a/c", "a/b/c", "a/b/", "b/", "c/c/c/c", "a/c/c/c"];
        for wide in texts {
            for narrow in texts {
                if pattern(wide).covers(&pattern(narrow)) {
                    for path in given {
                        let narrow_matches = pattern(narrow).matches(path.split('/'));
                        assert!(
                            !narrow_matches || pattern(wide).matches(path.split('/')),
                            "{wide} {narrow} {path}"
                        );
                    }
                }
            }
        }
        assert!(pattern("a/**").covers(&pattern("a/*/**")));
        assert!(!pattern("a/*/**").covers(&pattern("a/**")));
        assert!(!pattern("a/*").covers(&pattern("a/")));
    }
}
