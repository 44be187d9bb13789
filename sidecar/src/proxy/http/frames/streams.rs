//! What is known of the streams of one HTTP/2 connection on both sides of hyper: small pieces of bodies, held in little room
//! until somebody wants them, and what is wrong with a head.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use futures_util::task::AtomicWaker;
use http::header::{HeaderMap, HeaderName};

use crate::proxy::http::framing::Refused;

/// Marks a head that stands for one that was refused.
pub(super) const REFUSED: HeaderName = HeaderName::from_static("postern-refused");
/// Of one stream so much is held before it is handed on, wanted or not: large enough that the buffer in which h2 keeps a
/// piece is not much larger than the piece.
const HELD_BYTES_MAX: usize = 16 * 1024;
/// Less is what compression is for.
const EXPANDED_BYTES_COUNTED_FROM: usize = 2 * 1024;
/// Streams that hyper never hands over are remembered up to this number.
const NEVER_HANDED_OVER_MAX: usize = 256;

/// The streams of one connection.
#[derive(Debug, Default)]
pub(in crate::proxy::http) struct Streams {
    state: Mutex<State>,
    /// Whoever reads the connection.
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<u32, Body>,
    /// Streams whose held bytes are to be handed on.
    wanted: Vec<u32>,
    /// Held bytes that nobody takes any more: h2 throws them away, and counts them.
    orphans: Vec<(u32, Vec<u8>)>,
    refused: BTreeMap<u32, Refused>,
    /// RawHeadCheck that are much longer than what was sent of them.
    expanded: BTreeMap<u32, usize>,
}

/// A body that is being received.
#[derive(Debug, Default)]
struct Body {
    held: Vec<u8>,
    /// Whoever takes it waits for more.
    is_wanted: bool,
}

/// One stream's message, in the hands of whoever gets it.
#[derive(Debug)]
pub(in crate::proxy::http) struct Stream {
    streams: Arc<Streams>,
    id: u32,
    expanded_bytes: usize,
}

impl Stream {
    /// So much longer is its head than what was sent of it.
    pub(in crate::proxy::http) fn expanded_bytes(&self) -> usize {
        self.expanded_bytes
    }

    /// Its next bytes are waited for.
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
    /// The stream of a message with these fields, or what is wrong with its head: nothing, where a head is marked that
    /// nobody here has refused, or so long ago that it is forgotten.
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

    /// Keeps what is wrong with a head until it is asked for.
    pub(super) fn refuse(&self, id: u32, refused: Refused) {
        let mut state = self.lock();
        state.refused.insert(id, refused);
        if state.refused.len() > NEVER_HANDED_OVER_MAX {
            let _oldest = state.refused.pop_first();
        }
    }

    /// Keeps by how much a head was expanded until it is asked for.
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

    /// A body begins. Where too many have begun that nobody got, it is handed on as it comes.
    pub(super) fn begin(&self, id: u32, streams_max: usize) {
        let mut state = self.lock();
        if state.open.len() < streams_max + NEVER_HANDED_OVER_MAX {
            state.open.insert(id, Body::default());
        }
    }

    /// Whether the next bytes of a body go straight on.
    pub(super) fn goes_straight_on(&self, id: u32) -> bool {
        match self.lock().open.get_mut(&id) {
            Some(body) => body.held.is_empty() && std::mem::take(&mut body.is_wanted),
            None => true,
        }
    }

    /// Holds these bytes; returns all that are held where they are to be handed on.
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

    /// What is held of a stream.
    pub(super) fn held(&self, id: u32) -> Vec<u8> {
        let mut state = self.lock();
        if let Some(body) = state.open.get_mut(&id) {
            return std::mem::take(&mut body.held);
        }
        let orphan = state.orphans.iter().position(|(orphan, _)| *orphan == id);
        orphan.map(|at| state.orphans.swap_remove(at).1).unwrap_or_default()
    }

    /// Whether a body is being received.
    pub(super) fn is_open(&self, id: u32) -> bool {
        self.lock().open.contains_key(&id)
    }

    /// A body has ended.
    pub(super) fn end(&self, id: u32) {
        self.lock().open.remove(&id);
    }

    /// Whoever reads the connection is woken when something is wanted.
    pub(super) fn read_by(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
    }

    /// What is wanted of all streams, each with its bytes.
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

    /// Bytes held of bodies.
    #[cfg(test)]
    pub(super) fn bytes_held(&self) -> usize {
        self.lock().open.values().map(|body| body.held.capacity()).sum()
    }
}
