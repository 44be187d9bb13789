//! The raw HTTP checks, exported for the fuzz targets of `integration/fuzz` only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frames::{Frames, Unfinished};
use super::framing::{CheckedBytes, RawHeadCheck, RequestCheck};
use crate::config::Http;

/// The result of checking a request that hyper hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenRequest {
    Valid,
    Refused,
    /// hyper parsed a request that was not checked.
    Unknown,
}

/// The check of an HTTP/1 connection with default limits.
#[derive(Debug)]
pub struct HeadCheck(RawHeadCheck);

impl Default for HeadCheck {
    fn default() -> Self {
        Self(RawHeadCheck::new(Http::default()))
    }
}

impl HeadCheck {
    /// The bytes that hyper gets; `None` if the connection is closed.
    pub fn pass(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.0.fault().is_some() {
            return None;
        }
        match self.0.pass(bytes).ok()? {
            CheckedBytes::Unchanged => Some(bytes.to_vec()),
            CheckedBytes::Replaced(instead) => Some(instead),
        }
    }

    /// The result for the next request.
    pub fn next(&self) -> SeenRequest {
        match self.0.next() {
            RequestCheck::Valid => SeenRequest::Valid,
            RequestCheck::Refused(_) => SeenRequest::Refused,
            RequestCheck::Unknown => SeenRequest::Unknown,
        }
    }

    /// Bytes buffered of the incomplete head.
    pub fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }
}

/// The check of an HTTP/2 connection.
#[derive(Debug)]
pub struct FrameCheck(Frames, Arc<Unfinished>);

impl Default for FrameCheck {
    fn default() -> Self {
        let unfinished = Arc::<Unfinished>::default();
        let frames =
            Frames::for_requests(Http::default(), Arc::default(), unfinished.clone(), Arc::new(|_| {}));
        Self(frames, unfinished)
    }
}

impl FrameCheck {
    /// The bytes that h2 gets.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self.0.pass(bytes) {
            CheckedBytes::Unchanged => bytes.to_vec(),
            CheckedBytes::Replaced(instead) => instead,
        }
    }

    /// Whether a header block or a frame is incomplete.
    pub fn is_unfinished(&self) -> bool {
        self.1.is_stalled(Duration::ZERO, Instant::now() + Duration::from_secs(1))
    }
}
