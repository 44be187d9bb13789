//! Changes as sentences a person understands.

use std::fmt::Display;

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, Time, UtcOffset};

use super::{Access, Change, Inbound};

/// A sentence lists at most this many callers, calls or ports; the rest is counted.
pub const LISTED_MAX: usize = 8;

/// Whether a change gives access or takes it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The new policy allows it, the old does not.
    Gained,
    /// The old policy allows it, the new does not.
    Lost,
}

impl Direction {
    /// `gained` or `lost`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gained => "gained",
            Self::Lost => "lost",
        }
    }

    fn may(self) -> &'static str {
        match self {
            Self::Gained => "may",
            Self::Lost => "may no longer",
        }
    }
}

impl Change {
    /// The change in words, with the place of the file that allows it.
    pub fn sentence(&self, direction: Direction) -> String {
        match self {
            Self::TrustDomain { old, new } => {
                format!(
                    "the trust domain changes from {old} to {new}, so every identity under it is another one"
                )
            }
            Self::Identity { service, old, new, place: (file, line) } => format!(
                "the name {service} means {new} instead of {old}, so who holds that identity gets what the name is \
                 allowed ({}:{line})",
                file.escape_debug()
            ),
            Self::Observed { service, inbounds, place: (file, line), .. } => {
                let on = places(inbounds);
                let said = match direction {
                    Direction::Gained => {
                        format!("everyone may call anything on {service}{on}, because it only observes")
                    }
                    Direction::Lost => {
                        format!(
                            "only whom a rule allows may call {service}{on}, because it no longer only observes"
                        )
                    }
                };
                format!("{said} ({}:{line})", file.escape_debug())
            }
            Self::Access(access) => access.sentence(direction),
            Self::NotCompared { rule } => format!(
                "the rule of {} at {}:{} was not compared, because the files are too intricate; it counts as {}",
                rule.service,
                rule.file.escape_debug(),
                rule.line,
                direction.as_str()
            ),
        }
    }
}

impl Access {
    fn sentence(&self, direction: Direction) -> String {
        let may = direction.may();
        let from = listed(&self.from);
        let to = &self.rule.service;
        let what = match &self.calls {
            Some(calls) => format!("{from} {may} {} on {to}", listed(calls)),
            None => format!("{from} {may} send anything to {to}"),
        };
        let file = self.rule.file.escape_debug();
        let mut about = vec![format!("{file}:{}", self.rule.line)];
        if let Some(expires) = &self.rule.expires {
            about.push(format!("until {expires}"));
        }
        if let Some(after) = self.after {
            about.push(format!("both files allow it until {}", moment(after)));
        }
        format!("{what}{} ({})", places(&self.inbounds), about.join(", "))
    }
}

/// A day's last moment as the day, as files write it.
fn moment(time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    match time.checked_add(Duration::NANOSECOND) {
        Some(next) if next.time() == Time::MIDNIGHT => time.date().to_string(),
        _ => time.format(&Rfc3339).unwrap_or_else(|_| time.to_string()),
    }
}

/// ` port api`, or `, any port` where the file declares none.
fn places(inbounds: &[Inbound]) -> String {
    let named: Vec<_> = inbounds.iter().filter_map(|inbound| inbound.name.as_deref()).collect();
    let unnamed: Vec<_> =
        inbounds.iter().filter(|inbound| inbound.name.is_none()).map(|inbound| inbound.protocol).collect();
    let shown: Vec<_> = named.iter().map(|name| name.escape_debug()).collect();
    let any = match (unnamed.as_slice(), named.is_empty()) {
        ([], _) => return format!(" port {}", listed(&shown)),
        ([protocol], true) => format!(", any {} port", protocol.as_str()),
        (_, true) => ", any port".to_owned(),
        ([protocol], false) => format!(" and any other {} port", protocol.as_str()),
        (_, false) => " and any other port".to_owned(),
    };
    if named.is_empty() { any } else { format!(" port {}{any}", listed(&shown)) }
}

fn listed(items: &[impl Display]) -> String {
    let more = items.len().saturating_sub(LISTED_MAX);
    let shown: Vec<_> = items.iter().take(LISTED_MAX).map(ToString::to_string).collect();
    match (shown.as_slice(), more) {
        ([most @ .., last], 0) if !most.is_empty() => format!("{} and {last}", most.join(", ")),
        (_, 0) => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}
