//! The app's first bytes, kept until the server has answered OPEN.

/// Bytes of the app that no server can have processed: the next path to the peer starts with them. There is one owner
/// at a time, and a path can only be made from this value, so a change of path cannot lose it.
#[derive(Debug, Default)]
#[must_use = "dropping it loses bytes of the app, whose connection must then be reset"]
pub struct ReplayBuffer(Vec<u8>);

impl ReplayBuffer {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, for the path that starts with them.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}
