//! The outcome of one request for the metrics: status, and the time that the sidecar itself took.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName};

use crate::observability::metrics::RequestClass;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Values of `grpc`: not a gRPC call; a call without a status yet; above that, the status plus this offset.
const NOT_GRPC: u8 = 0;
const GRPC_UNANSWERED: u8 = 1;
const GRPC_FIRST: u8 = 2;

/// The outcome of a request, lock-free: its parts may run on several threads.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// 0 before the response.
    status: AtomicU16,
    grpc: AtomicU8,
    /// Time spent waiting for the server, in nanoseconds.
    waited: AtomicU64,
}

/// Time spent waiting for the server, until this is dropped.
#[derive(Debug)]
pub(super) struct WaitTimer<'a> {
    outcome: &'a Outcome,
    since: Instant,
}

impl Outcome {
    /// Marks a gRPC call, which must have a status.
    pub(super) fn expect_grpc(&self) {
        self.grpc.store(GRPC_UNANSWERED, Ordering::Relaxed);
    }

    /// The response head has been received.
    pub(super) fn answered(&self, status: u16, headers: &HeaderMap) {
        self.status.store(status, Ordering::Relaxed);
        self.read_grpc_status(headers);
    }

    /// Reads the gRPC status from the response's headers or trailers.
    pub(super) fn read_grpc_status(&self, headers: &HeaderMap) {
        if self.grpc.load(Ordering::Relaxed) == NOT_GRPC {
            return;
        }
        let code = headers.get(GRPC_STATUS).and_then(|code| code.to_str().ok()?.parse::<u8>().ok());
        if let Some(code) = code {
            self.grpc.store(GRPC_FIRST.saturating_add(code), Ordering::Relaxed);
        }
    }

    /// Starts waiting for a connection to the server, or for its response.
    pub(super) fn wait(&self) -> WaitTimer<'_> {
        WaitTimer { outcome: self, since: Instant::now() }
    }

    /// The part of the elapsed time that was the sidecar's own.
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

impl Drop for WaitTimer<'_> {
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
    fn only_grpc_calls_have_a_grpc_status() {
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
