//! What the fuzz target of `integration/fuzz` sees of the messages of a restart, which nothing else outside needs.

use super::message::Message;

/// A message, read and written again, if it is one.
pub fn rewritten(bytes: &[u8]) -> Option<Vec<u8>> {
    Message::decode(bytes).ok()?.encode().ok()
}
