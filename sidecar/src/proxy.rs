//! The data plane: listeners, connections to peers and apps, and the bytes between them.

pub mod connection_recorder;
pub mod connections;
pub mod dialer;
pub mod http;
pub mod inbound;
pub mod listen_addresses;
pub mod listener;
pub mod outbound;
mod peer_limits;
pub mod relay;
pub mod state;
pub mod tls;
pub mod tunnel;
pub mod upstream;
