//! The cached resolution of a host name: its last good addresses, its state, and when to query again.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

/// Maximum number of addresses of a name. Known addresses have precedence over new ones.
pub const ADDRESSES_MAX: usize = 128;
/// Minimum TTL of an answer.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// Maximum TTL of an answer, so that a change is noticed in time whatever TTL the server sent.
pub const TTL_MAX: Duration = Duration::from_secs(5 * 60);
/// Maximum TTL of a negative answer, because a service may get an address at any time.
pub const ABSENT_TTL_MAX: Duration = Duration::from_secs(30);
/// First retry delay after a failed lookup; it doubles with each further failure.
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Maximum retry delay.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// The answer of a name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Addresses {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    /// The other family was not answered in time: its known addresses are kept.
    OneFamily {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    Absent {
        absence: Absence,
        ttl: Duration,
    },
}

/// The kind of a negative answer (RFC 2308 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Absence {
    /// NXDOMAIN.
    #[error("there is no such name")]
    NoSuchName,
    /// NODATA.
    #[error("the name has no address")]
    NoAddress,
}

/// The state of a name's resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolutionState {
    /// The first lookup has not finished.
    Asked,
    Answered,
    Absent(Absence),
    /// The last lookup failed. The previous addresses are kept.
    Failed(String),
}

impl ResolutionState {
    /// A stable code.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Answered => "answered",
            Self::Absent(_) => "absent",
            Self::Failed(_) => "failed",
        }
    }
}

impl fmt::Display for ResolutionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("no name server has answered yet"),
            Self::Answered => f.write_str("it is resolved"),
            Self::Absent(absence) => absence.fmt(f),
            Self::Failed(error) => f.write_str(error),
        }
    }
}

/// The resolution of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedName {
    pub addresses: Vec<IpAddr>,
    pub state: ResolutionState,
    failures: u32,
}

impl ResolvedName {
    /// A name whose first lookup has not finished.
    pub fn unresolved() -> Self {
        Self { addresses: Vec::new(), state: ResolutionState::Asked, failures: 0 }
    }

    /// Applies an answer; returns how long it is valid.
    pub fn apply(&mut self, answer: Answer) -> Duration {
        match answer {
            Answer::Addresses { addresses, ttl } => {
                self.failures = 0;
                self.set_addresses(&addresses, ttl)
            }
            Answer::OneFamily { mut addresses, ttl } => {
                let is_other = |known: &&IpAddr| addresses.iter().all(|one| one.is_ipv4() != known.is_ipv4());
                let others: Vec<_> = self.addresses.iter().filter(is_other).copied().collect();
                addresses.extend(others);
                self.set_addresses(&addresses, ttl).min(self.retry_after())
            }
            Answer::Absent { absence, ttl } => {
                self.failures = 0;
                self.set_absent(absence, ttl)
            }
        }
    }

    fn set_addresses(&mut self, addresses: &[IpAddr], ttl: Duration) -> Duration {
        match self.usable(addresses) {
            usable if usable.is_empty() => self.set_absent(Absence::NoAddress, ttl),
            usable => {
                self.addresses = usable;
                self.state = ResolutionState::Answered;
                ttl.clamp(TTL_MIN, TTL_MAX)
            }
        }
    }

    /// Applies a negative answer: removes all addresses.
    fn set_absent(&mut self, absence: Absence, ttl: Duration) -> Duration {
        self.addresses.clear();
        self.state = ResolutionState::Absent(absence);
        ttl.clamp(TTL_MIN, ABSENT_TTL_MAX)
    }

    /// Records a failed lookup and keeps the previous addresses; returns the retry delay.
    pub fn record_failure(&mut self, error: String) -> Duration {
        self.state = ResolutionState::Failed(error);
        self.retry_after()
    }

    fn retry_after(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let doubled = 2_u32.saturating_pow(self.failures.saturating_sub(1));
        RETRY_FIRST.saturating_mul(doubled).min(RETRY_MAX)
    }

    /// Removes duplicates and addresses that are no valid destination, puts known addresses first, and truncates to
    /// [`ADDRESSES_MAX`].
    fn usable(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let reachable = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
        let answered: Vec<_> = addresses.iter().map(IpAddr::to_canonical).filter(reachable).collect();
        let mut new: HashSet<_> = answered.iter().copied().collect();
        let stay = self.addresses.iter().copied().filter(|address| new.remove(address));
        let mut usable: Vec<_> = stay.collect();
        usable.extend(answered.into_iter().filter(|address| new.remove(address)));
        usable.truncate(ADDRESSES_MAX);
        usable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(range: std::ops::Range<u8>) -> Vec<IpAddr> {
        range.map(|last| IpAddr::from([10, 0, 0, last])).collect()
    }

    fn answer(addresses: Vec<IpAddr>, seconds: u64) -> Answer {
        Answer::Addresses { addresses, ttl: Duration::from_secs(seconds) }
    }

    #[test]
    fn an_answer_is_good_for_its_time_to_live_within_bounds() {
        let mut known = ResolvedName::unresolved();
        for (ttl, expected) in [(0, 1), (1, 1), (17, 17), (300, 300), (86_400, 300)] {
            assert_eq!(known.apply(answer(numbers(1..3), ttl)), Duration::from_secs(expected));
        }
        for (ttl, expected) in [(0, 1), (5, 5), (86_400, 30)] {
            let absent = Answer::Absent { absence: Absence::NoSuchName, ttl: Duration::from_secs(ttl) };
            assert_eq!(known.apply(absent), Duration::from_secs(expected));
        }
    }

    #[test]
    fn a_failure_keeps_the_last_good_answer_and_is_tried_again_ever_later_up_to_a_bound() {
        let mut known = ResolvedName::unresolved();
        known.apply(answer(numbers(1..3), 5));
        let pauses: Vec<_> =
            (0..6).map(|_| known.record_failure("timed out".to_owned()).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        assert_eq!(known.addresses, numbers(1..3));
        assert_eq!(known.state, ResolutionState::Failed("timed out".to_owned()));
        known.apply(answer(numbers(3..4), 5));
        assert_eq!(
            (known.addresses.clone(), known.state.clone()),
            (numbers(3..4), ResolutionState::Answered)
        );
        assert_eq!(known.record_failure(String::new()), RETRY_FIRST);
    }

    #[test]
    fn unanswered_family_keeps_its_addresses_and_is_retried_soon() {
        let mut known = ResolvedName::unresolved();
        let v6: IpAddr = "fd00::1".parse().unwrap();
        known.apply(answer([numbers(1..3), vec![v6]].concat(), 300));
        let one = |addresses| Answer::OneFamily { addresses, ttl: Duration::from_secs(300) };
        let pauses: Vec<_> = (0..6).map(|_| known.apply(one(numbers(2..4))).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        let now_known = [numbers(2..3), vec![v6], numbers(3..4)].concat();
        assert_eq!((&known.addresses, &known.state), (&now_known, &ResolutionState::Answered));
    }

    #[test]
    fn a_name_that_is_said_to_be_gone_leads_nowhere_any_more() {
        for absence in [Absence::NoSuchName, Absence::NoAddress] {
            let mut known = ResolvedName::unresolved();
            known.apply(answer(numbers(1..3), 5));
            known.apply(Answer::Absent { absence, ttl: TTL_MIN });
            assert_eq!((known.addresses.len(), known.state.clone()), (0, ResolutionState::Absent(absence)));
            known.record_failure("timed out".to_owned());
            assert_eq!(known.addresses.len(), 0, "what was gone before the failure stays gone");
        }
    }

    #[test]
    fn known_addresses_stay_when_there_are_too_many() {
        let mut known = ResolvedName::unresolved();
        known.apply(answer(numbers(0..200), 5));
        let first = known.addresses.clone();
        assert_eq!(first.len(), ADDRESSES_MAX);
        let mut turned = numbers(0..200);
        turned.rotate_left(150);
        known.apply(answer(turned, 5));
        assert_eq!(known.addresses, first);
    }

    #[test]
    fn an_address_that_comes_twice_or_leads_nowhere_is_not_counted() {
        let mut known = ResolvedName::unresolved();
        let all = ["10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"];
        known.apply(answer(all.map(|one| one.parse().unwrap()).to_vec(), 5));
        assert_eq!(known.addresses, numbers(1..2));
        known.apply(answer(vec!["0.0.0.0".parse().unwrap()], 5));
        assert_eq!(known.state, ResolutionState::Absent(Absence::NoAddress));
    }
}
