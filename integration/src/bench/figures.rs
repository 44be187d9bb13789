//! Figures of rounds, and what the rounds say together.

use std::time::Duration;

/// What one round of a measure found, by figure, in the order of the table's columns.
pub type Round = Vec<(&'static str, f64)>;

/// Median, least and most of all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// Nothing of nothing; of an even number the median is the mean of the middle two.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let median = if values.len() % 2 == 1 { upper } else { f64::midpoint(values[middle - 1], upper) };
        Some(Self { median, least: values[0], most: values[values.len() - 1] })
    }

    /// Of the figure `name` over those rounds that have it.
    pub fn over(rounds: &[Round], name: &str) -> Option<Self> {
        let of_round =
            |round: &Round| round.iter().find(|(figure, _)| *figure == name).map(|(_, value)| *value);
        Self::of(rounds.iter().filter_map(of_round).collect())
    }
}

/// All figures that any of the rounds has, in the order they first appear.
pub fn names<'a>(rounds: impl IntoIterator<Item = &'a Round>) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (name, _) in rounds.into_iter().flatten() {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    names
}

/// The time that `share` of all stayed below or at (nearest rank); zero of nothing.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_between_least_and_most() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![4.0]), Some(Spread { median: 4.0, least: 4.0, most: 4.0 }));
        assert_eq!(Spread::of(vec![9.0, 1.0, 4.0]), Some(Spread { median: 4.0, least: 1.0, most: 9.0 }));
        assert_eq!(Spread::of(vec![9.0, 1.0, 4.0, 5.0]), Some(Spread { median: 4.5, least: 1.0, most: 9.0 }));
    }

    #[test]
    fn a_figure_is_gathered_over_the_rounds_that_have_it() {
        let rounds = [vec![("a", 1.0), ("b", 5.0)], vec![("a", 3.0)], vec![("c", 7.0), ("a", 2.0)]];
        assert_eq!(Spread::over(&rounds, "a"), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Spread::over(&rounds, "b"), Some(Spread { median: 5.0, least: 5.0, most: 5.0 }));
        assert_eq!(Spread::over(&rounds, "d"), None);
        assert_eq!(names(&rounds), ["a", "b", "c"]);
    }

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.5), Duration::from_millis(100));
        assert_eq!(percentile(&times, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&times, 1.0), Duration::from_millis(200));
        assert_eq!(percentile(&times[..1], 0.99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
