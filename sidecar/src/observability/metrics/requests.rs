//! Request counters by method, status class and gRPC status, in a fixed table, so that counting does not allocate.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::observability::EndedBy;

/// The known methods (OpenTelemetry, `http.request.method`); all others are `_OTHER`.
pub(super) const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", OTHER_METHOD];
const OTHER_METHOD: &str = "_OTHER";
/// Status classes; `none` for a request that ended without a response.
pub(super) const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// gRPC status codes by number; the last is for a response that ended without one.
pub(super) const GRPC_STATUSES: [&str; 18] =
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "none"];
const GRPC_NONE: usize = GRPC_STATUSES.len() - 1;

/// The labels of a request, as table indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestClass {
    method: usize,
    status: usize,
    grpc: Option<usize>,
}

impl RequestClass {
    /// `status` is the response status, if any. `grpc` is `Some` for a gRPC call, with its status code if one was
    /// received.
    pub fn new(method: &str, status: Option<u16>, grpc: Option<Option<u8>>) -> Self {
        let method = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        Self { method, status: status_class(status), grpc: grpc.map(grpc_index) }
    }

    /// The status class, as an index into `STATUS_CLASSES`.
    pub fn status_class(self) -> usize {
        self.status
    }
}

fn status_class(status: Option<u16>) -> usize {
    status.map_or(0, |status| usize::from(status / 100).clamp(1, STATUS_CLASSES.len() - 1))
}

fn grpc_index(code: Option<u8>) -> usize {
    code.map(usize::from).filter(|code| *code < GRPC_NONE).unwrap_or(GRPC_NONE)
}

/// Counters of incomplete requests, by the side that ended them.
#[derive(Debug, Default)]
pub struct AbortedRequests([AtomicU64; EndedBy::ALL.len()]);

impl AbortedRequests {
    pub fn count(&self, by: EndedBy) {
        if let Some(counter) = self.0.get(by as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (EndedBy, u64)> {
        EndedBy::ALL.into_iter().zip(&self.0).map(|(by, count)| (by, count.load(Ordering::Relaxed)))
    }
}

/// Request counters of one peer.
#[derive(Debug, Default)]
pub struct RequestCounts {
    plain: [[AtomicU64; STATUS_CLASSES.len()]; METHODS.len()],
    /// gRPC calls are always POST (gRPC over HTTP/2, `Requests`), so they are counted by status only.
    grpc: [[AtomicU64; GRPC_STATUSES.len()]; STATUS_CLASSES.len()],
}

/// Labels of one counter: method, status class and gRPC status, which is empty for requests other than gRPC.
pub(super) type RequestLabels = [(&'static str, &'static str); 3];

impl RequestCounts {
    pub fn count(&self, class: RequestClass) {
        let RequestClass { method, status, grpc } = class;
        let counter = match grpc.filter(|_| METHODS.get(method) == Some(&"POST")) {
            Some(code) => self.grpc.get(status).and_then(|codes| codes.get(code)),
            None => self.plain.get(method).and_then(|statuses| statuses.get(status)),
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All counters that are not zero.
    pub fn counts(&self) -> impl Iterator<Item = (RequestLabels, u64)> {
        let plain = METHODS.iter().zip(&self.plain).flat_map(|(method, statuses)| {
            STATUS_CLASSES.iter().zip(statuses).map(|(status, count)| (labels(method, status, ""), count))
        });
        let grpc = STATUS_CLASSES.iter().zip(&self.grpc).flat_map(|(status, codes)| {
            GRPC_STATUSES.iter().zip(codes).map(|(code, count)| (labels("POST", status, code), count))
        });
        plain
            .chain(grpc)
            .map(|(labels, count)| (labels, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
    }
}

fn labels(method: &'static str, status: &'static str, grpc: &'static str) -> RequestLabels {
    [("http_request_method", method), ("http_response_status_class", status), ("rpc_grpc_status_code", grpc)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(method: &str, status: Option<u16>, grpc: Option<Option<u8>>) -> [&'static str; 3] {
        let counts = RequestCounts::default();
        counts.count(RequestClass::new(method, status, grpc));
        let all: Vec<_> = counts.counts().collect();
        assert_eq!((all.len(), all[0].1), (1, 1));
        all[0].0.map(|(_, value)| value)
    }

    #[test]
    fn each_request_counts_once_by_its_classes() {
        assert_eq!(counted("GET", Some(204), None), ["GET", "2xx", ""]);
        assert_eq!(counted("PROPFIND", Some(207), None), ["_OTHER", "2xx", ""]);
        assert_eq!(counted("POST", None, None), ["POST", "none", ""]);
        assert_eq!(counted("GET", Some(101), None), ["GET", "1xx", ""]);
        assert_eq!(counted("GET", Some(999), None), ["GET", "5xx", ""]);
        assert_eq!(counted("POST", Some(200), Some(Some(14))), ["POST", "2xx", "14"]);
        assert_eq!(counted("POST", Some(200), Some(Some(77))), ["POST", "2xx", "none"]);
        assert_eq!(counted("POST", None, Some(None)), ["POST", "none", "none"]);
        assert_eq!(counted("GET", Some(200), Some(Some(0))), ["GET", "2xx", ""], "no gRPC client sends GET");
    }
}
