//! Observability: logs, metrics, refusals and trace identifiers.

pub mod access_log;
mod direction;
mod ended;
pub mod log;
pub mod metrics;
pub mod refusals;
pub mod trace;

pub use direction::Direction;
pub use ended::{Ended, EndedBy, EndedWith};
