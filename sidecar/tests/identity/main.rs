//! How a sidecar gets its identity, keeps it, and what it never believes: against a CA that misbehaves on demand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test says no"
)]
#![allow(unreachable_pub, reason = "a test program has no public items, only shared ones")]

mod authority;
mod check;
mod clock;
mod enrolling;
#[expect(dead_code, reason = "the subscription tests use more of it")]
mod fake_ca;
#[expect(dead_code, reason = "the subscription tests use more of it")]
mod fake_subscriptions;
mod files;
mod keeping;
mod lost_answers;
mod misbehaviour;
mod outage;
mod replacing;
mod workload;
