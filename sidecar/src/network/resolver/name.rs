//! What is known of a host name: the newest answer about it, the last good one while there is none, and when to ask
//! again.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

/// A name is taken to mean so many addresses at most; those known already stay among them.
pub const ADDRESSES_MAX: usize = 128;
/// An answer is kept for its time to live, but not for less,
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// nor for more, so that a change is noticed in time even where somebody promised that there would be none;
pub const TTL_MAX: Duration = Duration::from_secs(5 * 60);
/// and the answer that there is no address, which a service may get at any time, is kept for no more than this.
pub const ABSENT_TTL_MAX: Duration = Duration::from_secs(30);
/// After nobody answered, it is asked again after so long at first, and twice as long each time,
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
/// but never later than this.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// What a name server says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Addresses {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    /// About the other family nobody has answered in time: what is known of it stays.
    OneFamily {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    Absent {
        absence: Absence,
        ttl: Duration,
    },
}

/// Why a name leads nowhere, by the word of a name server (RFC 2308 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Absence {
    /// NXDOMAIN.
    #[error("there is no such name")]
    NoSuchName,
    /// NODATA.
    #[error("the name has no address")]
    NoAddress,
}

/// How the knowledge of a name stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolutionState {
    /// Nobody has answered yet, or failed to.
    Asked,
    Answered,
    Absent(Absence),
    /// The last question had no answer. What was known before is kept.
    Failed(String),
}

impl ResolutionState {
    /// A stable word.
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

/// What is known of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedName {
    pub addresses: Vec<IpAddr>,
    pub standing: ResolutionState,
    failures: u32,
}

impl ResolvedName {
    /// A name that is being asked about.
    pub fn nothing() -> Self {
        Self { addresses: Vec::new(), standing: ResolutionState::Asked, failures: 0 }
    }

    /// Takes the newest answer, and says how long it is good for.
    pub fn learn(&mut self, answer: Answer) -> Duration {
        match answer {
            Answer::Addresses { addresses, ttl } => {
                self.failures = 0;
                self.are_at(&addresses, ttl)
            }
            Answer::OneFamily { mut addresses, ttl } => {
                let is_other = |known: &&IpAddr| addresses.iter().all(|one| one.is_ipv4() != known.is_ipv4());
                let others: Vec<_> = self.addresses.iter().filter(is_other).copied().collect();
                addresses.extend(others);
                self.are_at(&addresses, ttl).min(self.retry_after())
            }
            Answer::Absent { absence, ttl } => {
                self.failures = 0;
                self.is_absent(absence, ttl)
            }
        }
    }

    fn are_at(&mut self, addresses: &[IpAddr], ttl: Duration) -> Duration {
        match self.usable(addresses) {
            usable if usable.is_empty() => self.is_absent(Absence::NoAddress, ttl),
            usable => {
                self.addresses = usable;
                self.standing = ResolutionState::Answered;
                ttl.clamp(TTL_MIN, TTL_MAX)
            }
        }
    }

    /// An authoritative no is an answer: there is nobody to go to, and the caller is told so.
    fn is_absent(&mut self, absence: Absence, ttl: Duration) -> Duration {
        self.addresses.clear();
        self.standing = ResolutionState::Absent(absence);
        ttl.clamp(TTL_MIN, ABSENT_TTL_MAX)
    }

    /// Takes note that there was no answer, keeps the last one, and says when to ask again.
    pub fn miss(&mut self, error: String) -> Duration {
        self.standing = ResolutionState::Failed(error);
        self.retry_after()
    }

    fn retry_after(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let doubled = 2_u32.saturating_pow(self.failures.saturating_sub(1));
        RETRY_FIRST.saturating_mul(doubled).min(RETRY_MAX)
    }

    /// Each address once, those known already first, as many as are taken. What no connection can go to is none.
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
        let mut known = ResolvedName::nothing();
        for (said, kept) in [(0, 1), (1, 1), (17, 17), (300, 300), (86_400, 300)] {
            assert_eq!(known.learn(answer(numbers(1..3), said)), Duration::from_secs(kept));
        }
        for (said, kept) in [(0, 1), (5, 5), (86_400, 30)] {
            let absent = Answer::Absent { absence: Absence::NoSuchName, ttl: Duration::from_secs(said) };
            assert_eq!(known.learn(absent), Duration::from_secs(kept));
        }
    }

    #[test]
    fn a_failure_keeps_the_last_good_answer_and_is_tried_again_ever_later_up_to_a_bound() {
        let mut known = ResolvedName::nothing();
        known.learn(answer(numbers(1..3), 5));
        let pauses: Vec<_> = (0..6).map(|_| known.miss("timed out".to_owned()).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        assert_eq!(known.addresses, numbers(1..3));
        assert_eq!(known.standing, ResolutionState::Failed("timed out".to_owned()));
        known.learn(answer(numbers(3..4), 5));
        assert_eq!(
            (known.addresses.clone(), known.standing.clone()),
            (numbers(3..4), ResolutionState::Answered)
        );
        assert_eq!(known.miss(String::new()), RETRY_FIRST);
    }

    #[test]
    fn of_a_family_about_which_nobody_answers_what_is_known_stays_and_is_asked_again_soon() {
        let mut known = ResolvedName::nothing();
        let v6: IpAddr = "fd00::1".parse().unwrap();
        known.learn(answer([numbers(1..3), vec![v6]].concat(), 300));
        let one = |addresses| Answer::OneFamily { addresses, ttl: Duration::from_secs(300) };
        let pauses: Vec<_> = (0..6).map(|_| known.learn(one(numbers(2..4))).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        let now_known = [numbers(2..3), vec![v6], numbers(3..4)].concat();
        assert_eq!((&known.addresses, &known.standing), (&now_known, &ResolutionState::Answered));
    }

    #[test]
    fn a_name_that_is_said_to_be_gone_leads_nowhere_any_more() {
        for absence in [Absence::NoSuchName, Absence::NoAddress] {
            let mut known = ResolvedName::nothing();
            known.learn(answer(numbers(1..3), 5));
            known.learn(Answer::Absent { absence, ttl: TTL_MIN });
            assert_eq!(
                (known.addresses.len(), known.standing.clone()),
                (0, ResolutionState::Absent(absence))
            );
            known.miss("timed out".to_owned());
            assert_eq!(known.addresses.len(), 0, "what was gone before the failure stays gone");
        }
    }

    #[test]
    fn of_too_many_addresses_those_known_stay_whatever_the_order() {
        let mut known = ResolvedName::nothing();
        known.learn(answer(numbers(0..200), 5));
        let first = known.addresses.clone();
        assert_eq!(first.len(), ADDRESSES_MAX);
        let mut turned = numbers(0..200);
        turned.rotate_left(150);
        known.learn(answer(turned, 5));
        assert_eq!(known.addresses, first);
    }

    #[test]
    fn an_address_that_comes_twice_or_leads_nowhere_is_not_counted() {
        let mut known = ResolvedName::nothing();
        let all = ["10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"];
        known.learn(answer(all.map(|one| one.parse().unwrap()).to_vec(), 5));
        assert_eq!(known.addresses, numbers(1..2));
        known.learn(answer(vec!["0.0.0.0".parse().unwrap()], 5));
        assert_eq!(known.standing, ResolutionState::Absent(Absence::NoAddress));
    }
}
