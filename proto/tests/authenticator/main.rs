//! Exported authenticators: built as RFC 9261 says, good for one connection, one request and one identity, and refused
//! by name when anything in them is otherwise.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by a panic")]

mod case;
mod construction;
mod judging;
mod over_tls;
mod reference;
mod requests;
#[path = "../support/mod.rs"]
mod support;
mod tampering;
