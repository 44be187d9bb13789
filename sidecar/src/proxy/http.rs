//! HTTP/1.1 and HTTP/2 in the data plane: each request is authorized separately and forwarded unchanged.

mod app;
mod body;
mod call;
mod client;
mod duplex;
mod end_cause;
mod exchange;
mod expect_continue;
mod failure;
mod fields;
mod forward;
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
mod peer;
mod pool;
mod preface;
mod problem;
mod replay;
mod response_check;
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

/// The ALPN protocols of an `http` inbound, in order of preference (RFC 7301).
pub const ALPN: [&[u8]; 2] = [ALPN_H2, ALPN_H1];
const ALPN_H2: &[u8] = b"h2";
const ALPN_H1: &[u8] = b"http/1.1";

/// Bytes read from a connection at a time, and the most that an HTTP/1 connection buffers.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The initial flow-control window of a peer's streams (RFC 9113 §6.9.2).
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The connection's window: large enough that unread streams do not block others.
const CONNECTION_WINDOW_BYTES: u32 = 100 * STREAM_WINDOW_BYTES;
/// The initial window of the own app's streams, whose data the client may never read. Loopback needs no more.
const APP_STREAM_WINDOW_BYTES: u32 = 32 * 1024;
/// The streams' own windows are limit enough: unread streams must not block those of other clients.
const APP_CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// The largest accepted frame.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
