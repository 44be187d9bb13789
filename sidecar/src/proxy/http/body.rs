//! Request and response bodies: streamed without buffering, counted, and ended with an error when their request is
//! terminated.

mod request;
mod response;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body::Frame;
use thiserror::Error;

use super::end_cause;
use super::incoming::HttpError;
use super::target::InvalidMessage;
use crate::observability::EndedWith;
pub(super) use request::RequestBody;
pub(super) use response::ResponseBody;

/// Why a body ended before its end.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error("the request is no longer allowed, or nothing of it moved for too long")]
    Cut,
    #[error(transparent)]
    InvalidMessage(InvalidMessage),
    #[error("the body is sent on another connection")]
    Elsewhere,
    #[error("the message broke off")]
    Broken(#[source] HttpError),
}

/// The side that a message is sent to, for byte counts and for the fields to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    App,
    Peer,
}

impl Destination {
    pub(super) fn other(self) -> Self {
        match self {
            Self::App => Self::Peer,
            Self::Peer => Self::App,
        }
    }
}

impl BodyError {
    /// How the body ended.
    fn ended_with(&self) -> EndedWith {
        match self {
            Self::Broken(error) => end_cause::of(&**error),
            Self::Cut | Self::Elsewhere => EndedWith::Cut,
            Self::InvalidMessage(_) => EndedWith::Invalid,
        }
    }
}

fn counting(frame: Frame<Bytes>, counted: &AtomicU64) -> Frame<Bytes> {
    if let Some(data) = frame.data_ref() {
        counted.fetch_add(data.len() as u64, Ordering::Relaxed);
    }
    frame
}
