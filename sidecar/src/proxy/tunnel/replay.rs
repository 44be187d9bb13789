//! The app's first bytes, kept until somebody has answered for them.

/// What the app has said, on which nobody can have acted: the next path to the peer begins with it. It has one owner at
/// a time, and a path is made only from it, so that a change of path cannot lose it.
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

    /// For the path that begins with it.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}
