//! Networking: dialing, socket options, name resolution and file descriptor limits.

mod connect_error;
pub mod descriptors;
pub mod dial;
pub mod resolver;
pub mod socket;

pub use connect_error::{ConnectError, Unreached};
