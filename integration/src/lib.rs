//! A whole Postern on loopback, made of the real programs, for the tests in `tests/`: one file per promise.

pub mod apps;
pub mod bench;
pub mod certs;
pub mod grpc;
pub mod live;
pub mod load;
mod mesh;
mod ports;
mod program;
pub mod refused;
pub mod shop;
pub mod soak;
pub mod tls;
pub mod tools;
pub mod web;
pub mod websocket;

pub use mesh::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, TRUST_DOMAIN};
pub use ports::free_port;
pub use program::{PATIENCE, Program, ca_binary, eventually, quickstart_binary, sidecar_binary};
