//! The command line.

use std::process::ExitCode;

/// Reads the command line, does what it says, and returns the exit code: 0 yes, 1 no, 2 usage.
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
