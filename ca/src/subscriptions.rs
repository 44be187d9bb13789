//! What sidecars are told, and which of them run what.

mod hello;
mod published;

pub use hello::{Hello, HelloError, INBOUNDS_MAX, SERVICES_MAX};
pub use published::{Published, SliceTooLarge};
