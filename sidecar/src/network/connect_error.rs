//! Errors of connection attempts: for one host, and for all hosts of a target.

use std::fmt;

use thiserror::Error;

use super::dial::DialError;
use super::resolver::name::ResolutionState;
use crate::config::HostPort;
use crate::error_text::one_line;
use crate::observability::metrics::DialResult;

/// Why a host could not be reached.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The name has no address, or no name server answered.
    #[error("{at} cannot be resolved: {state}")]
    Resolve { at: HostPort, state: ResolutionState },
    /// The error for each address of one host.
    #[error("{}", listed(.0))]
    Dial(Vec<DialError>),
}

impl ConnectError {
    /// Whether the cause is on this machine, so that the error says nothing about the host.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Resolve { .. } => false,
            Self::Dial(errors) => errors.iter().all(DialError::is_local),
        }
    }

    /// The result that metrics count.
    pub fn dial_result(&self) -> DialResult {
        if self.is_local() { DialResult::LocalFault } else { DialResult::Failed }
    }
}

fn listed<E: std::error::Error>(errors: &[E]) -> String {
    let all: Vec<_> = errors.iter().map(|error| one_line(error)).collect();
    all.join("; ")
}

/// Why no host of a target could be reached, with all errors.
#[derive(Debug, Error)]
pub struct Unreached {
    pub errors: Vec<ConnectError>,
    /// Number of addresses that were not tried.
    pub untried: usize,
    /// Every address was ejected because of repeated failures.
    pub all_were_ejected: bool,
}

impl From<Vec<ConnectError>> for Unreached {
    fn from(errors: Vec<ConnectError>) -> Self {
        Self { errors, untried: 0, all_were_ejected: false }
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&listed(&self.errors))?;
        if self.untried > 0 {
            write!(f, "; {} more were not tried", self.untried)?;
        }
        if self.all_were_ejected {
            f.write_str("; every address had failed again and again before")?;
        }
        Ok(())
    }
}
