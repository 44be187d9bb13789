//! Interim responses (RFC 9110 §15.2) over HTTP/2.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};

use crate::proxy::http::interim::INTERIM_MAX;

/// Sends interim responses to an HTTP/2 client.
#[derive(Clone)]
pub(in crate::proxy::http) struct StreamInterim {
    respond: Arc<Mutex<SendResponse<Bytes>>>,
    sent: Arc<AtomicUsize>,
}

impl StreamInterim {
    pub(super) fn new(respond: Arc<Mutex<SendResponse<Bytes>>>) -> Self {
        Self { respond, sent: Arc::default() }
    }

    /// Sends an interim response, unless the limit is reached or the final response was sent.
    pub(in crate::proxy::http) fn send(&self, status: StatusCode, headers: HeaderMap) {
        if self.sent.fetch_add(1, Ordering::Relaxed) >= INTERIM_MAX {
            return;
        }
        let mut response = Response::new(());
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        let mut respond = self.respond.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = respond.send_informational(response) {
            tracing::debug!(%error, "an interim answer came too late");
        }
    }
}

impl std::fmt::Debug for StreamInterim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamInterim").field("sent", &self.sent).finish_non_exhaustive()
    }
}
