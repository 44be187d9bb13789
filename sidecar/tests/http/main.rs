//! HTTP through the data plane, end to end: sidecars in this process, real sockets on loopback, certificates made here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test says no"
)]
#![allow(unreachable_pub, reason = "a test program has no public items, only shared ones")]

#[path = "../data/apps.rs"]
#[expect(dead_code, reason = "the tests of plain connections use more of it")]
mod apps;
#[path = "../identity/authority.rs"]
#[expect(dead_code, reason = "the identity tests use more of it")]
mod authority;
#[path = "../identity/clock.rs"]
mod clock;
mod live;
#[path = "../data/name_server.rs"]
#[expect(dead_code, reason = "the tests of plain connections use more of it")]
mod name_server;
mod shop;
#[path = "../data/sidecar.rs"]
#[expect(dead_code, reason = "the tests of plain connections use more of it")]
mod sidecar;

mod access_log;
mod acting;
mod acting_otherwise;
mod again;
mod app_pool;
mod app_versions;
mod backend;
mod balancing;
mod bounds;
mod carrying;
mod claims;
mod cutting;
mod deciding;
mod ending;
mod hostile;
mod http2_frames;
mod interim;
mod lasting;
mod observing;
mod peers;
mod pool_metrics;
mod short;
mod spoken;
mod stream_limits;
mod taking_back;
mod trailers;
mod upgrading;
mod uploads;
mod upstreams;
mod websockets;
