//! The data plane, end to end: sidecars in this process, real sockets on loopback, certificates made here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test says no"
)]
#![allow(unreachable_pub, reason = "a test program has no public items, only shared ones")]

mod apps;
#[path = "../identity/authority.rs"]
#[expect(dead_code, reason = "the identity tests use more of it")]
mod authority;
#[path = "../identity/clock.rs"]
mod clock;
mod name_server;
mod sidecar;
mod stranger;

mod access_log;
mod admin;
mod bursts;
mod carrying;
mod deciding_again;
mod ending;
mod introducing;
mod knocking;
mod lasting;
mod names;
mod policy_file;
mod pool_metrics;
mod refusing;
mod sharing;
mod upstreams;
mod vanishing;
