//! Every refusal, told the same way everywhere: in the log, as a metric and in `/status`.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use postern_proto::policy::Policy;
use serde::Serialize;
use time::OffsetDateTime;
use tracing::warn;

use crate::clock::Clock;
use crate::observability::Direction;
use crate::observability::metrics::{Metrics, RefusalLabels};

/// `/status` shows this many different refusals of callers with an identity, and as many of others, the newest first.
pub const REFUSALS_SHOWN_MAX: usize = 64;
/// A reason is told up to this many characters.
const DETAIL_CHARS_MAX: usize = 1_000;

/// Who was refused, by whom, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub direction: Direction,
    /// The caller's SPIFFE ID, or its address where it has shown none.
    pub from: String,
    #[serde(flatten)]
    pub called: Called,
    /// A stable word.
    pub reason: &'static str,
    /// The whole record, in words.
    pub detail: String,
    /// What to type to learn more.
    pub explain: Option<String>,
    /// The request, as its caller was told of it.
    pub instance: Option<String>,
}

/// The called side, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Called {
    /// Its SPIFFE ID.
    #[serde(rename = "to")]
    pub id: Option<String>,
    /// Its name in the policy.
    pub service: Option<String>,
    /// The inbound's name, which the called side knows.
    pub port: Option<String>,
    /// Where it was called, which the caller knows.
    pub address: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Told {
    #[serde(with = "time::serde::rfc3339")]
    last: OffsetDateTime,
    count: u64,
    #[serde(flatten)]
    refusal: Refusal,
}

/// The number of one refused request, which its caller is told and the log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// Random at each start.
    run: u64,
    count: u64,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "urn:postern:request:{:016x}-{}", self.run, self.count)
    }
}

/// Tells refusals and remembers the newest.
#[derive(Debug)]
pub struct Refusals {
    run: u64,
    count: AtomicU64,
    /// Callers without an identity do not drive out the others.
    identified: Mutex<VecDeque<Told>>,
    unidentified: Mutex<VecDeque<Told>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Refusals {
    pub fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        let run = RandomState::new().hash_one(clock.now());
        let (identified, unidentified) = (Mutex::default(), Mutex::default());
        Self { run, count: AtomicU64::new(1), identified, unidentified, metrics, clock }
    }

    /// The next number.
    pub fn number(&self) -> Instance {
        Instance { run: self.run, count: self.count.fetch_add(1, Ordering::Relaxed) }
    }

    /// Tells one refusal.
    pub fn tell(&self, mut refusal: Refusal) {
        refusal.detail = escaped(&refusal.detail);
        let Refusal { direction, from, called, reason, detail, explain, instance } = &refusal;
        let Called { id: to, service, port, address } = called;
        let (to, service, port) = (to.as_deref(), service.as_deref(), port.as_deref());
        let (address, explain, instance) = (address.as_deref(), explain.as_deref(), instance.as_deref());
        let direction = direction.as_str();
        warn!(direction, from, to, service, port, address, reason, detail, explain, instance, "refused");
        self.metrics.refused(refusal.labels());
        self.remember(refusal);
    }

    fn remember(&self, refusal: Refusal) {
        let last = self.clock.now();
        let list = if refusal.is_of_identity() { &self.identified } else { &self.unidentified };
        let mut told = list.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match told.iter().position(|known| known.refusal.is_like(&refusal)) {
            Some(at) => told.remove(at).map_or(1, |known| known.count + 1),
            None => 1,
        };
        told.push_front(Told { last, count, refusal });
        told.truncate(REFUSALS_SHOWN_MAX);
    }

    /// The newest refusals as `/status` shows them.
    pub fn newest(&self) -> serde_json::Value {
        let list = |list: &Mutex<VecDeque<Told>>| list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut told: Vec<_> = list(&self.identified).into_iter().chain(list(&self.unidentified)).collect();
        told.sort_by_key(|told| std::cmp::Reverse(told.last));
        serde_json::to_value(told).unwrap_or_default()
    }
}

impl Refusal {
    /// Whether two are counted as one in `/status`: the ports from which a stranger calls do not matter.
    fn is_like(&self, other: &Self) -> bool {
        (self.direction, self.reason, &self.called) == (other.direction, other.reason, &other.called)
            && host(&self.from) == host(&other.from)
    }

    /// Whether the caller has shown an identity.
    fn is_of_identity(&self) -> bool {
        self.from.starts_with("spiffe://")
    }

    fn labels(&self) -> RefusalLabels {
        let unknown = || "unknown".to_owned();
        let named = self.is_of_identity();
        let service = self.called.service.as_ref().or(self.called.id.as_ref());
        RefusalLabels {
            direction: self.direction,
            // A peer without a name is told by address in the log alone: addresses are too many to count apart.
            peer: if named { self.from.clone() } else { unknown() },
            service: service.cloned().unwrap_or_else(unknown),
            reason: self.reason,
        }
    }
}

/// What to type to learn why the policy says no.
pub fn explain_command(policy: Option<&Policy>, from: &str, to: &str, port: Option<&str>) -> String {
    let file = policy.map_or("POLICY", Policy::file);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let file = match policy.and_then(Policy::version) {
        Some(_) => "--live".to_owned(),
        None if file.chars().all(plain) => file.to_owned(),
        None => format!("'{}'", file.replace('\'', "'\\''")),
    };
    let port = port.map(|port| format!(" --port {port}")).unwrap_or_default();
    format!("postern-ca policy explain {file} --from {from} --to {to}{port}")
}

/// An address without its port; a SPIFFE ID as it is.
fn host(from: &str) -> String {
    from.parse::<SocketAddr>().map_or_else(|_| from.to_owned(), |address| address.ip().to_string())
}

/// Text that a peer may have chosen, without control characters and of bounded length.
fn escaped(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().take(DETAIL_CHARS_MAX).map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn refusal(from: &str, detail: &str) -> Refusal {
        Refusal {
            direction: Direction::Inbound,
            from: from.to_owned(),
            called: Called { service: Some("payments".to_owned()), ..Called::default() },
            reason: "denied",
            detail: detail.to_owned(),
            explain: None,
            instance: None,
        }
    }

    #[test]
    fn the_same_refusal_is_counted_and_the_list_is_bounded() {
        let refusals = Refusals::new(Arc::default(), Arc::new(SystemClock));
        for at in 0..REFUSALS_SHOWN_MAX * 2 {
            refusals.tell(refusal(&format!("spiffe://shop.example/{at}"), "no rule"));
        }
        refusals.tell(refusal("spiffe://shop.example/100", "no rule\n\u{1b}[31m"));
        let newest = refusals.newest();
        assert_eq!(newest.as_array().unwrap().len(), REFUSALS_SHOWN_MAX);
        assert_eq!(
            (&newest[0]["from"], &newest[0]["count"]),
            (&"spiffe://shop.example/100".into(), &2.into())
        );
        assert_eq!(newest[0]["detail"], "no rule\\n\\u{1b}[31m", "peer text is escaped");
    }

    #[test]
    fn a_stranger_who_knocks_from_many_ports_is_one_entry_and_drives_nobody_else_out() {
        let refusals = Refusals::new(Arc::default(), Arc::new(SystemClock));
        refusals.tell(refusal("spiffe://shop.example/reports", "no rule"));
        for port in 1..=1_000 {
            refusals.tell(refusal(&format!("192.0.2.7:{port}"), "not TLS"));
        }
        let newest = refusals.newest();
        assert_eq!((&newest[0]["from"], &newest[0]["count"]), (&"192.0.2.7:1000".into(), &1_000.into()));
        assert_eq!(newest[1]["from"], "spiffe://shop.example/reports");
    }

    #[test]
    fn strangers_from_many_addresses_drive_no_identity_out() {
        let refusals = Refusals::new(Arc::default(), Arc::new(SystemClock));
        refusals.tell(refusal("spiffe://shop.example/reports", "no rule"));
        for host in 0..=255 {
            refusals.tell(refusal(&format!("192.0.2.{host}:9"), "not TLS"));
        }
        let newest = refusals.newest();
        assert_eq!(newest.as_array().unwrap().len(), REFUSALS_SHOWN_MAX + 1);
        assert!(
            newest.as_array().unwrap().iter().any(|told| told["from"] == "spiffe://shop.example/reports")
        );
    }
}
