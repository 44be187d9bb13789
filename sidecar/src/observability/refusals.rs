//! Refusals: each is logged, counted as a metric and listed in `/status`, with the same fields.

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

/// Maximum number of distinct refusals in `/status` for clients with an identity, and again for others; newest first.
pub const REFUSALS_SHOWN_MAX: usize = 64;
/// Maximum length of a detail, in characters.
const DETAIL_CHARS_MAX: usize = 1_000;

/// A refused connection or request: client, server and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub direction: Direction,
    /// The client's SPIFFE ID, or its address if it presented none.
    pub from: String,
    #[serde(flatten)]
    pub called: Called,
    /// A stable code.
    pub reason: &'static str,
    /// The full explanation, as text.
    pub detail: String,
    /// A command that explains the refusal.
    pub explain: Option<String>,
    /// The identifier of the request that was sent to the client.
    pub instance: Option<String>,
}

/// The server, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Called {
    /// Its SPIFFE ID.
    #[serde(rename = "to")]
    pub id: Option<String>,
    /// Its name in the policy.
    pub service: Option<String>,
    /// The inbound's name, which is known on the server's side.
    pub port: Option<String>,
    /// The address that was called, which is known on the client's side.
    pub address: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct RecordedRefusal {
    #[serde(with = "time::serde::rfc3339")]
    last: OffsetDateTime,
    count: u64,
    #[serde(flatten)]
    refusal: Refusal,
}

/// The identifier of one refused request, in the response to the client and in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// Random for each process.
    run: u64,
    count: u64,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "urn:postern:request:{:016x}-{}", self.run, self.count)
    }
}

/// Records refusals and keeps the newest.
#[derive(Debug)]
pub struct Refusals {
    run: u64,
    count: AtomicU64,
    /// Clients without an identity have their own list, so that they cannot displace the others.
    identified: Mutex<VecDeque<RecordedRefusal>>,
    unidentified: Mutex<VecDeque<RecordedRefusal>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Refusals {
    pub fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        let run = RandomState::new().hash_one(clock.now());
        let (identified, unidentified) = (Mutex::default(), Mutex::default());
        Self { run, count: AtomicU64::new(1), identified, unidentified, metrics, clock }
    }

    /// The next identifier.
    pub fn number(&self) -> Instance {
        Instance { run: self.run, count: self.count.fetch_add(1, Ordering::Relaxed) }
    }

    /// Logs, counts and stores one refusal.
    pub fn tell(&self, mut refusal: Refusal) {
        refusal.detail = escaped(&refusal.detail);
        let Refusal { direction, from, called, reason, detail, explain, instance } = &refusal;
        let Called { id: to, service, port, address } = called;
        let (to, service, port) = (to.as_deref(), service.as_deref(), port.as_deref());
        let (address, explain, instance) = (address.as_deref(), explain.as_deref(), instance.as_deref());
        let direction = direction.as_str();
        warn!(direction, from, to, service, port, address, reason, detail, explain, instance, "refused");
        self.metrics.refused(refusal.labels());
        self.store(refusal);
    }

    fn store(&self, refusal: Refusal) {
        let last = self.clock.now();
        let list = if refusal.is_of_identity() { &self.identified } else { &self.unidentified };
        let mut recorded = list.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match recorded.iter().position(|known| known.refusal.is_same(&refusal)) {
            Some(at) => recorded.remove(at).map_or(1, |known| known.count + 1),
            None => 1,
        };
        recorded.push_front(RecordedRefusal { last, count, refusal });
        recorded.truncate(REFUSALS_SHOWN_MAX);
    }

    /// The newest refusals as `/status` shows them.
    pub fn newest(&self) -> serde_json::Value {
        let list = |list: &Mutex<VecDeque<RecordedRefusal>>| {
            list.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        let mut recorded: Vec<_> =
            list(&self.identified).into_iter().chain(list(&self.unidentified)).collect();
        recorded.sort_by_key(|recorded| std::cmp::Reverse(recorded.last));
        serde_json::to_value(recorded).unwrap_or_default()
    }
}

impl Refusal {
    /// Whether two refusals are counted as one in `/status`; the client's port is ignored.
    fn is_same(&self, other: &Self) -> bool {
        (self.direction, self.reason, &self.called) == (other.direction, other.reason, &other.called)
            && host(&self.from) == host(&other.from)
    }

    /// Whether the client has presented an identity.
    fn is_of_identity(&self) -> bool {
        self.from.starts_with("spiffe://")
    }

    fn labels(&self) -> RefusalLabels {
        let unknown = || "unknown".to_owned();
        let named = self.is_of_identity();
        let service = self.called.service.as_ref().or(self.called.id.as_ref());
        RefusalLabels {
            direction: self.direction,
            // The address of a peer without an identity appears only in the log: addresses would make too many series.
            peer: if named { self.from.clone() } else { unknown() },
            service: service.cloned().unwrap_or_else(unknown),
            reason: self.reason,
        }
    }
}

/// The command that explains why the policy denies.
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

/// An address without its port, or a SPIFFE ID unchanged.
fn host(from: &str) -> String {
    from.parse::<SocketAddr>().map_or_else(|_| from.to_owned(), |address| address.ip().to_string())
}

/// Escapes control characters in a text that may come from a peer, and truncates it.
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
            newest
                .as_array()
                .unwrap()
                .iter()
                .any(|recorded| recorded["from"] == "spiffe://shop.example/reports")
        );
    }
}
