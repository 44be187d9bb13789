//! The entry point of the fuzz target in `integration/fuzz` for handover messages.

use super::message::Message;

/// Decodes and encodes a message; `None` if it is invalid.
pub fn rewritten(bytes: &[u8]) -> Option<Vec<u8>> {
    Message::decode(bytes).ok()?.encode().ok()
}
