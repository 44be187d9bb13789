//! What the CA says acts at once, and lasts while the CA is away: against a CA that says what a test wants.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test says no"
)]
#![allow(unreachable_pub, reason = "a test program has no public items, only shared ones")]

#[path = "../data/apps.rs"]
#[expect(dead_code, reason = "the data proxy's tests use more of it")]
mod apps;
#[path = "../identity/authority.rs"]
#[expect(dead_code, reason = "the identity tests use more of it")]
mod authority;
#[path = "../identity/clock.rs"]
mod clock;
#[path = "../identity/fake_ca.rs"]
#[expect(dead_code, reason = "the identity tests use more of it")]
mod fake_ca;
#[path = "../identity/fake_subscriptions.rs"]
mod fake_subscriptions;
mod shop;
#[path = "../data/sidecar.rs"]
#[expect(dead_code, reason = "the data proxy's tests use more of it")]
mod sidecar;

mod away;
mod expiring;
mod hearing;
mod reporting;
mod revoking;
