//! What the metrics count of one request: how it was answered, and how long the sidecar itself took.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName};

use crate::observability::metrics::RequestClass;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// In `grpc`: this is no gRPC call; one without a status so far; one with the status that is so much less.
const NOT_GRPC: u8 = 0;
const GRPC_UNANSWERED: u8 = 1;
const GRPC_FIRST: u8 = 2;

/// How a request fares, without a lock: its parts may be on several threads.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// 0 before the answer.
    status: AtomicU16,
    grpc: AtomicU8,
    /// For the other side, in nanoseconds.
    waited: AtomicU64,
}

/// Time that is not the sidecar's: from its making until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    outcome: &'a Outcome,
    since: Instant,
}

impl Outcome {
    /// It is a gRPC call, of which a status is expected.
    pub(super) fn expect_grpc(&self) {
        self.grpc.store(GRPC_UNANSWERED, Ordering::Relaxed);
    }

    /// The head of its answer is there.
    pub(super) fn answered(&self, status: u16, headers: &HeaderMap) {
        self.status.store(status, Ordering::Relaxed);
        self.read_grpc_status(headers);
    }

    /// Reads the status of a gRPC call from an answer's headers or trailers.
    pub(super) fn read_grpc_status(&self, headers: &HeaderMap) {
        if self.grpc.load(Ordering::Relaxed) == NOT_GRPC {
            return;
        }
        let code = headers.get(GRPC_STATUS).and_then(|code| code.to_str().ok()?.parse::<u8>().ok());
        if let Some(code) = code {
            self.grpc.store(GRPC_FIRST.saturating_add(code), Ordering::Relaxed);
        }
    }

    /// From now on it waits for a connection to the other side, or for that side's answer.
    pub(super) fn wait(&self) -> Waiting<'_> {
        Waiting { outcome: self, since: Instant::now() }
    }

    /// What of its time so far was the sidecar's own.
    pub(super) fn own_share(&self, elapsed: Duration) -> Duration {
        elapsed.saturating_sub(Duration::from_nanos(self.waited.load(Ordering::Relaxed)))
    }

    pub(super) fn class(&self, method: &str) -> RequestClass {
        let status = Some(self.status.load(Ordering::Relaxed)).filter(|status| *status > 0);
        let grpc = match self.grpc.load(Ordering::Relaxed) {
            NOT_GRPC => None,
            status => Some(status.checked_sub(GRPC_FIRST)),
        };
        RequestClass::new(method, status, grpc)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let nanos = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.outcome.waited.fetch_add(nanos, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_grpc_call_counts_by_the_status_in_its_trailers() {
        let (outcome, mut trailers) = (Outcome::default(), HeaderMap::new());
        outcome.expect_grpc();
        outcome.answered(200, &trailers);
        assert_eq!(outcome.class("POST"), RequestClass::new("POST", Some(200), Some(None)));
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("14"));
        outcome.read_grpc_status(&trailers);
        assert_eq!(outcome.class("POST"), RequestClass::new("POST", Some(200), Some(Some(14))));
    }

    #[test]
    fn what_is_no_grpc_call_has_no_grpc_status() {
        let (outcome, mut headers) = (Outcome::default(), HeaderMap::new());
        headers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        outcome.answered(200, &headers);
        assert_eq!(outcome.class("GET"), RequestClass::new("GET", Some(200), None));
    }

    #[test]
    fn waiting_is_not_the_sidecar_s_own_share() {
        let outcome = Outcome::default();
        let waiting = outcome.wait();
        let since = waiting.since;
        drop(waiting);
        let elapsed = since.elapsed();
        assert!(outcome.own_share(elapsed) < elapsed);
        assert_eq!(outcome.own_share(Duration::ZERO), Duration::ZERO);
    }
}
