//! What the fuzz targets of `integration/fuzz` see of the checks of raw HTTP, which nothing else outside needs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frames::{Frames, Unfinished};
use super::framing::{Passed, RawHeadCheck, Seen};
use crate::config::Http;

/// What was seen of a request that hyper hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenRequest {
    Valid,
    Refused,
    /// hyper has made a request of something else.
    Nothing,
}

/// The check of a connection of HTTP/1, with the limits of a configuration that says nothing.
#[derive(Debug)]
pub struct HeadCheck(RawHeadCheck);

impl Default for HeadCheck {
    fn default() -> Self {
        Self(RawHeadCheck::new(Http::default()))
    }
}

impl HeadCheck {
    /// What hyper is given of these bytes; nothing where the connection is broken off.
    pub fn pass(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.0.fault().is_some() {
            return None;
        }
        match self.0.pass(bytes).ok()? {
            Passed::AsTheyAre => Some(bytes.to_vec()),
            Passed::Instead(instead) => Some(instead),
        }
    }

    /// What was seen of the next request.
    pub fn next(&self) -> SeenRequest {
        match self.0.next() {
            Seen::Valid => SeenRequest::Valid,
            Seen::Refused(_) => SeenRequest::Refused,
            Seen::Nothing => SeenRequest::Nothing,
        }
    }

    /// What is kept of a head that has not ended.
    pub fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }
}

/// The check of a connection of HTTP/2.
#[derive(Debug)]
pub struct FrameCheck(Frames, Arc<Unfinished>);

impl Default for FrameCheck {
    fn default() -> Self {
        let unfinished = Arc::<Unfinished>::default();
        let frames =
            Frames::of_requests(Http::default(), Arc::default(), unfinished.clone(), Arc::new(|_| {}));
        Self(frames, unfinished)
    }
}

impl FrameCheck {
    /// What h2 is given of these bytes.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self.0.pass(bytes) {
            Passed::AsTheyAre => bytes.to_vec(),
            Passed::Instead(instead) => instead,
        }
    }

    /// Whether a header block or a frame has begun and not ended.
    pub fn is_unfinished(&self) -> bool {
        self.1.is_stalled(Duration::ZERO, Instant::now() + Duration::from_secs(1))
    }
}
