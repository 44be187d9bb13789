//! The state of one HTTP/2 connection's streams that the frame check and the request handler share: buffered small
//! DATA payloads, and the faults of header blocks.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use futures_util::task::AtomicWaker;
use http::header::{HeaderMap, HeaderName};

use crate::proxy::http::framing::Refused;

/// Marks a header block that replaces a refused one.
pub(super) const REFUSED: HeaderName = HeaderName::from_static("postern-refused");
/// Most bytes buffered for one stream before they are passed on unread: large enough that the buffer in which h2
/// keeps them is not much larger.
const HELD_BYTES_MAX: usize = 16 * 1024;
/// Smaller expansions are not counted: they are ordinary compression.
const EXPANDED_BYTES_COUNTED_FROM: usize = 2 * 1024;
/// Most remembered streams that hyper never handed over.
const NEVER_HANDED_OVER_MAX: usize = 256;

/// The streams of one connection.
#[derive(Debug, Default)]
pub(in crate::proxy::http) struct Streams {
    state: Mutex<State>,
    /// Wakes the task that reads the connection.
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<u32, Body>,
    /// Streams whose buffered bytes are to be passed on.
    wanted: Vec<u32>,
    /// Buffered bytes of dropped streams: h2 discards them and counts them for flow control.
    orphans: Vec<(u32, Vec<u8>)>,
    refused: BTreeMap<u32, Refused>,
    /// Streams whose head was expanded, with the bytes added.
    expanded: BTreeMap<u32, usize>,
}

#[derive(Debug, Default)]
struct Body {
    held: Vec<u8>,
    /// The reader of the body waits for data.
    is_wanted: bool,
}

/// A received message's handle to its stream.
#[derive(Debug)]
pub(in crate::proxy::http) struct Stream {
    streams: Arc<Streams>,
    id: u32,
    expanded_bytes: usize,
}

impl Stream {
    /// Bytes that decompression added to its head.
    pub(in crate::proxy::http) fn expanded_bytes(&self) -> usize {
        self.expanded_bytes
    }

    /// Requests the next bytes of the body.
    pub(in crate::proxy::http) fn want(&self) {
        self.streams.want(self.id);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.forget(self.id);
    }
}

impl Streams {
    /// The stream of a message with these fields, or the fault of its head. The fault is `None` if the sender set the
    /// marker itself, or if the fault has been forgotten.
    pub(in crate::proxy::http) fn take(
        self: &Arc<Self>,
        id: u32,
        headers: &mut HeaderMap,
    ) -> Result<Stream, Option<Refused>> {
        let mut state = self.lock();
        if headers.remove(REFUSED).is_some() {
            return Err(state.refused.remove(&id));
        }
        let expanded_bytes = state.expanded.remove(&id).unwrap_or(0);
        drop(state);
        Ok(Stream { streams: self.clone(), id, expanded_bytes })
    }

    /// Stores the fault of a head until the request is handled.
    pub(super) fn refuse(&self, id: u32, refused: Refused) {
        let mut state = self.lock();
        state.refused.insert(id, refused);
        if state.refused.len() > NEVER_HANDED_OVER_MAX {
            let _oldest = state.refused.pop_first();
        }
    }

    /// Stores the expansion of a head until the request is handled.
    pub(super) fn expanded(&self, id: u32, bytes: usize) {
        if bytes < EXPANDED_BYTES_COUNTED_FROM {
            return;
        }
        let mut state = self.lock();
        state.expanded.insert(id, bytes);
        if state.expanded.len() > NEVER_HANDED_OVER_MAX {
            let _oldest = state.expanded.pop_first();
        }
    }

    /// Starts a body. With too many unread bodies, data is passed on as it arrives.
    pub(super) fn begin(&self, id: u32, streams_max: usize) {
        let mut state = self.lock();
        if state.open.len() < streams_max + NEVER_HANDED_OVER_MAX {
            state.open.insert(id, Body::default());
        }
    }

    /// Whether the next bytes of a body are passed on unbuffered.
    pub(super) fn goes_straight_on(&self, id: u32) -> bool {
        match self.lock().open.get_mut(&id) {
            Some(body) => body.held.is_empty() && std::mem::take(&mut body.is_wanted),
            None => true,
        }
    }

    /// Buffers these bytes. Returns all buffered bytes if they are to be passed on.
    pub(super) fn hold(&self, id: u32, bytes: &[u8]) -> Vec<u8> {
        match self.lock().open.get_mut(&id) {
            Some(body) => {
                body.held.extend_from_slice(bytes);
                if body.held.len() >= HELD_BYTES_MAX || std::mem::take(&mut body.is_wanted) {
                    return std::mem::take(&mut body.held);
                }
                Vec::new()
            }
            None => bytes.to_vec(),
        }
    }

    /// Takes the buffered bytes of a stream.
    pub(super) fn held(&self, id: u32) -> Vec<u8> {
        let mut state = self.lock();
        if let Some(body) = state.open.get_mut(&id) {
            return std::mem::take(&mut body.held);
        }
        let orphan = state.orphans.iter().position(|(orphan, _)| *orphan == id);
        orphan.map(|at| state.orphans.swap_remove(at).1).unwrap_or_default()
    }

    pub(super) fn is_open(&self, id: u32) -> bool {
        self.lock().open.contains_key(&id)
    }

    pub(super) fn end(&self, id: u32) {
        self.lock().open.remove(&id);
    }

    /// Registers the task that reads the connection.
    pub(super) fn read_by(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
    }

    /// The requested bytes of all streams.
    pub(super) fn take_wanted(&self) -> Vec<(u32, Vec<u8>)> {
        let mut state = self.lock();
        let wanted = std::mem::take(&mut state.wanted);
        let held = |id: u32| {
            let body = state.open.get_mut(&id).filter(|body| !body.held.is_empty())?;
            body.is_wanted = false;
            Some((id, std::mem::take(&mut body.held)))
        };
        let mut all: Vec<_> = wanted.into_iter().filter_map(held).collect();
        all.append(&mut state.orphans);
        all
    }

    pub(super) fn want(&self, id: u32) {
        let mut state = self.lock();
        let State { open, wanted, .. } = &mut *state;
        let Some(body) = open.get_mut(&id) else { return };
        body.is_wanted = true;
        if !body.held.is_empty() {
            wanted.push(id);
            self.reader.wake();
        }
    }

    fn forget(&self, id: u32) {
        let mut state = self.lock();
        if let Some(body) = state.open.remove(&id).filter(|body| !body.held.is_empty()) {
            state.orphans.push((id, body.held));
            self.reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Capacity of all body buffers.
    #[cfg(test)]
    pub(super) fn bytes_held(&self) -> usize {
        self.lock().open.values().map(|body| body.held.capacity()).sum()
    }
}
