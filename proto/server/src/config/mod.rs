//! Reading a server's configuration file: bounded, with every problem of it at its line.

mod duration;
mod error;
mod problem;
mod syntax;

pub use duration::{DurationError, format_duration, parse_duration};
pub use error::{CONFIG_BYTES_MAX, ConfigError, read};
pub use problem::ConfigProblem;
