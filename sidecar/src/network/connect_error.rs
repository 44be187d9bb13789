//! Why nobody was reached: at one address, or at all addresses of a place.

use std::fmt;

use thiserror::Error;

use super::dial::DialError;
use super::resolver::name::ResolutionState;
use crate::config::HostPort;
use crate::error_text::one_line;
use crate::observability::metrics::DialResult;

/// Why an address is not reached.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The name leads nowhere, or nobody says where.
    #[error("{at} cannot be resolved: {standing}")]
    Resolve { at: HostPort, standing: ResolutionState },
    /// The error at each address of one host.
    #[error("{}", listed(.0))]
    Dial(Vec<DialError>),
}

impl ConnectError {
    /// Whether it says nothing about whom was to be reached.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Resolve { .. } => false,
            Self::Dial(errors) => errors.iter().all(DialError::is_local),
        }
    }

    /// As which the dial counts.
    pub fn dial_result(&self) -> DialResult {
        if self.is_local() { DialResult::LocalFault } else { DialResult::Failed }
    }
}

fn listed<E: std::error::Error>(errors: &[E]) -> String {
    let all: Vec<_> = errors.iter().map(|error| one_line(error)).collect();
    all.join("; ")
}

/// Why no address of a place was reached: all that went wrong.
#[derive(Debug, Error)]
pub struct Unreached {
    pub errors: Vec<ConnectError>,
    /// So many addresses more were not tried.
    pub untried: usize,
    /// Every address had failed again and again before.
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
