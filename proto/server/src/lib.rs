//! What both servers, the CA and the sidecar, need and the contract must not have: the life of a process, the reading of
//! a configuration file, limits of handshakes and the end of connections. It holds sockets, files and the runtime.

pub mod config;
mod handshake_limiter;
mod lingering_close;
pub mod process;

pub use handshake_limiter::{HandshakeLimiter, HandshakePermit, HandshakeStage};
pub use lingering_close::{lingering_close, shutdown_and_drain};
