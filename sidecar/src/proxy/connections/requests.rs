//! The HTTP requests of a connection, as the register sees them.

use std::fmt;

/// One request, as the policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    pub method: String,
    /// As sent, up to `?`.
    pub path: String,
}

/// Characters of a path that are shown.
const PATH_CHARS_SHOWN: usize = 512;

impl RequestInfo {
    /// Quoted for a shell, in the format of `--call`.
    pub fn quoted(&self) -> String {
        format!("'{}'", self.to_string().replace('\'', "'\\''"))
    }
}

impl fmt::Display for RequestInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.path.chars().take(PATH_CHARS_SHOWN).collect();
        write!(f, "{} {}", self.method.escape_debug(), shown.escape_debug())
    }
}

/// The active requests of one connection, each of which is authorized separately.
pub trait Requests: fmt::Debug + Send + Sync {
    /// Terminates every request for which `denied` returns true, and returns how many.
    fn terminate(&self, denied: &dyn Fn(&RequestInfo) -> bool) -> usize;

    /// The connection is terminated, and every request on it with it.
    fn connection_terminated(&self, reason: &'static str);

    /// The number of active requests.
    fn count(&self) -> usize;
}
