//! The real `postern-ca`, run as an operator runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says no by a panic"
)]

mod distribution;
mod ending;
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod fixture;
mod limits;
mod policies;
mod revocations;
mod starting;
mod subscriber;
mod subscribing;
