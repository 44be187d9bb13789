//! The leased tunnel itself: two ends of it over real TLS, in any order of events, and against any bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a panic is how a test says no, and how many cases were run is printed"
)]
#![allow(unreachable_pub, reason = "a test program has no public items, only shared ones")]

#[path = "../identity/authority.rs"]
#[expect(dead_code, reason = "the identity tests use more of it")]
mod authority;

#[path = "../data/apps.rs"]
mod apps;
#[path = "../data/sidecar.rs"]
#[expect(dead_code, reason = "the data proxy's tests use more of it")]
mod sidecar;

mod app;
mod mutation;
mod stranger;
mod ways;
mod world;

mod changing_path;
mod floods;
mod fuzzing;
mod model;
mod over_rustls;
mod places;
mod proofs;
mod rules;
