//! The life of a server's process: its worker threads, the signals that end it, and its exit codes.

mod shutdown;
mod supervise;
mod threads;

pub use shutdown::Shutdown;
pub use supervise::{END_TIME_MAX, Outcome, SECOND_SIGNAL_TIME_MAX, StartError, run};
pub use threads::{THREADS_MAX, WorkerThreads, WorkerThreadsError};

/// It could not start, or failed.
pub const EXIT_FAILED: u8 = 1;
/// Wrong usage, configuration or environment.
pub const EXIT_USAGE: u8 = 2;
/// Something hung, and was left behind at the deadline.
pub const EXIT_DEADLINE: u8 = 3;
/// A second signal ended it at once.
pub const EXIT_SECOND_SIGNAL: u8 = 4;
