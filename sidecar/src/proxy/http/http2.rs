//! HTTP/2 (RFC 9113) over the `h2` crate: each stream is a request with its response and interim responses, and how a
//! stream ends is preserved.

mod batch;
pub(super) mod body;
pub(super) mod client;
pub(super) mod interim;
pub(super) mod liveness;
pub(super) mod pipe;
pub(super) mod server;
#[cfg(test)]
mod tests;
