//! Every refusal, told the same way everywhere: in the log, as a metric and in `/status`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use time::OffsetDateTime;
use tracing::warn;

use crate::clock::Clock;
use crate::metrics::{Direction, Metrics, RefusalLabels};

/// `/status` shows this many different refusals, the newest first.
pub const REFUSALS_SHOWN_MAX: usize = 64;
/// A reason is told up to this many characters.
const DETAIL_CHARS_MAX: usize = 1_000;

/// Who was refused, by whom, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub direction: Direction,
    /// The caller's SPIFFE ID, or its address where it has shown none.
    pub from: String,
    /// The service that was called, with its SPIFFE ID where that is known.
    pub to: String,
    /// A stable word.
    pub reason: &'static str,
    /// The whole story, in words.
    pub detail: String,
    /// What to type to learn more.
    pub explain: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Told {
    #[serde(with = "time::serde::rfc3339")]
    last: OffsetDateTime,
    count: u64,
    #[serde(flatten)]
    refusal: Refusal,
}

/// Tells refusals and remembers the newest.
#[derive(Debug)]
pub struct Refusals {
    told: Mutex<VecDeque<Told>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Refusals {
    pub fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self { told: Mutex::default(), metrics, clock }
    }

    /// Tells one refusal.
    pub fn tell(&self, mut refusal: Refusal) {
        refusal.detail = escaped(&refusal.detail);
        let Refusal { direction, from, to, reason, detail, explain } = &refusal;
        let explain = explain.as_deref().unwrap_or_default();
        warn!(?direction, %from, %to, reason, %detail, explain, "refused");
        self.metrics.refused(RefusalLabels {
            direction: *direction,
            // A peer without a name is told by address in the log alone: addresses are too many to count apart.
            from: if from.starts_with("spiffe://") { from.clone() } else { "unknown".to_owned() },
            to: to.clone(),
            reason: (*reason).to_owned(),
        });
        self.remember(refusal);
    }

    fn remember(&self, refusal: Refusal) {
        let last = self.clock.now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &Told| {
            let known = &known.refusal;
            (known.direction, &known.from, &known.to, known.reason)
                == (refusal.direction, &refusal.from, &refusal.to, refusal.reason)
        };
        let count = match told.iter().position(same) {
            Some(at) => told.remove(at).map_or(1, |known| known.count + 1),
            None => 1,
        };
        told.push_front(Told { last, count, refusal });
        told.truncate(REFUSALS_SHOWN_MAX);
    }

    /// The newest refusals as `/status` shows them.
    pub fn newest(&self) -> serde_json::Value {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        serde_json::to_value(told).unwrap_or_default()
    }
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
            to: "payments".to_owned(),
            reason: "denied",
            detail: detail.to_owned(),
            explain: None,
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
}
