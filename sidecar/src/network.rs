//! Sockets: how they are opened, set up and closed, how names are resolved, how many there may be.

mod connect_error;
pub mod descriptors;
pub mod dial;
pub mod resolver;
pub mod socket;

pub use connect_error::{ConnectError, Unreached};
