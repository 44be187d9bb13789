//! HTTP/1.1 and HTTP/2 in the data plane: each request is decided by itself and carried as it was sent.

mod answer;
mod app;
mod body;
mod call;
mod client;
mod duplex;
mod ended;
mod exchange;
mod expect;
mod failure;
mod fields;
mod forwarded;
mod frames;
mod framing;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handler;
mod http2;
mod inbound;
mod incoming;
mod instrumented_io;
mod interim;
mod outbound;
mod outcome;
mod passing;
mod peer;
mod pool;
mod preface;
mod problem;
mod replay;
mod serve;
mod source;
mod target;
mod tasks;
mod upgrade;
mod websocket;

pub use call::Calls;
pub use inbound::HttpInbound;
pub use outbound::HttpOutbound;
pub(crate) use problem::{Problem, Question};

/// What an `http` inbound offers in the handshake, the best first (RFC 7301).
pub const ALPN: [&[u8]; 2] = [ALPN_H2, ALPN_H1];
const ALPN_H2: &[u8] = b"h2";
const ALPN_H1: &[u8] = b"http/1.1";

/// Read from a connection at a time, and the most that one HTTP/1 connection buffers.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// What a peer may send ahead on one stream (RFC 9113 §6.9.2).
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// And on one connection: enough that streams which nobody reads do not hold up the others beside them.
const CONNECTION_WINDOW_BYTES: u32 = 100 * STREAM_WINDOW_BYTES;
/// What the own app may send ahead on one stream, which whoever asked may never take. Loopback needs no more.
const APP_STREAM_WINDOW_BYTES: u32 = 32 * 1024;
/// Each stream's own window is bound enough: streams that nobody reads must not hold up those of other callers.
const APP_CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// The largest frame that is taken.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
