//! `check`: everything that a reviewer of a policy file should know.

use time::{Duration, OffsetDateTime};

use super::Policy;
use super::coverage::covered_rules;
use super::problem::{Problem, ProblemKind};
use super::problems::Problems;
use super::read;
use super::source::Source;

/// `check` warns this many days before a rule ends, unless it is told otherwise.
pub const WARN_DAYS_DEFAULT: u16 = 14;

/// A checked file.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The policy, if no problem is an error.
    pub policy: Option<Policy>,
    /// Errors and warnings in the order of the file.
    pub problems: Vec<Problem>,
}

/// Reads a policy and tells its errors and warnings as of `now`; `file` is only for messages.
pub fn check(file: &str, text: &str, now: OffsetDateTime, warn_days: u16) -> Checked {
    let (policy, mut problems) = read::read(file, text);
    if let Some(policy) = &policy {
        let source = Source::new(file, text);
        let mut warnings = Problems::new(&source);
        warn_of_ends(policy, now, warn_days, &mut warnings);
        warn_of_covered(policy, now, &mut warnings);
        problems.extend(warnings.finish());
        problems.sort_by_key(|problem| (problem.line, problem.column));
    }
    Checked { policy, problems }
}

fn warn_of_ends(policy: &Policy, now: OffsetDateTime, warn_days: u16, warnings: &mut Problems<'_>) {
    let ahead = now.checked_add(Duration::days(warn_days.into())).unwrap_or(now);
    for rule in policy.services.iter().flat_map(|service| &service.rules) {
        let Some(expires) = &rule.about.expires else { continue };
        let place = rule.place.clone();
        if expires.is_over(now) {
            warnings.report(
                ProblemKind::Expired,
                place,
                format!("the rule expired {expires} and allows nothing"),
            );
        } else if expires.is_over(ahead) {
            let days = (expires.last() - now).whole_days();
            let left = if days == 1 { "1 day".to_owned() } else { format!("{days} days") };
            let message = format!("the rule expires {expires}, {left} from now");
            warnings.report(ProblemKind::Expiring, place, message);
        }
    }
}

fn warn_of_covered(policy: &Policy, now: OffsetDateTime, warnings: &mut Problems<'_>) {
    for service in &policy.services {
        for (covered, by) in covered_rules(service) {
            if !covered.is_over(now) {
                let message = format!(
                    "the rule changes nothing: the rule of line {} allows all it allows",
                    by.about.line
                );
                warnings.report(ProblemKind::Covered, covered.place.clone(), message);
            }
        }
    }
}
