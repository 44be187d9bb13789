//! How many worker threads a server has.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;

use thiserror::Error;

const VARIABLE: &str = "TOKIO_WORKER_THREADS";

/// More threads than any machine has use for.
pub const THREADS_MAX: usize = 512;

/// A number of worker threads, from 1 to [`THREADS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerThreads(NonZeroUsize);

/// The environment's number cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "environment: TOKIO_WORKER_THREADS = {value:?}: it must be a whole number from 1 to {THREADS_MAX} without spaces; \
     unset it for one thread per CPU"
)]
pub struct WorkerThreadsError {
    value: OsString,
}

impl WorkerThreads {
    /// As many as the environment says, or one for each CPU.
    pub fn from_environment() -> Result<Self, WorkerThreadsError> {
        Self::parse(std::env::var_os(VARIABLE).as_deref())
    }

    fn parse(value: Option<&OsStr>) -> Result<Self, WorkerThreadsError> {
        let Some(value) = value else {
            let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
            return Ok(Self(cpus));
        };
        let digits = value.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse::<NonZeroUsize>().ok());
        let number = number.filter(|number| number.get() <= THREADS_MAX);
        number.map(Self).ok_or_else(|| WorkerThreadsError { value: value.to_owned() })
    }

    pub fn count(self) -> usize {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn parsed(value: &str) -> Result<usize, String> {
        let parsed = WorkerThreads::parse(Some(OsStr::new(value)));
        parsed.map(WorkerThreads::count).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_number_within_bounds_is_taken_and_without_one_the_cpus_count() {
        assert_eq!((parsed("1"), parsed("512"), parsed("007")), (Ok(1), Ok(512), Ok(7)));
        assert!(WorkerThreads::parse(None).unwrap().count() >= 1);
    }

    #[test]
    fn anything_else_is_refused_with_variable_value_and_rule_in_one_line() {
        for value in ["0", "", " 2", "2\n", "abc", "-1", "+2", "513", "99999999999999999999999", "2.0"] {
            let error = parsed(value).unwrap_err();
            assert!(error.contains(VARIABLE) && error.contains("from 1 to 512"), "{error}");
            assert!(error.contains(&format!("{value:?}")) && error.lines().count() == 1, "{error}");
        }
        assert!(WorkerThreads::parse(Some(OsStr::from_bytes(b"\xff2"))).is_err());
    }
}
