//! `[restart]`: the handover of listeners from the old process to a new one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::RawRestart;
use super::rules::Rules;
use super::{
    IdentitySource, READY_WITHIN_DEFAULT, READY_WITHIN_MAX, READY_WITHIN_MIN, RESTART_SOCKET_BYTES_MAX,
};

/// The settings of a restart without refused connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// Path of a Unix socket, mode 0600, in an existing directory or in the state directory.
    pub socket: PathBuf,
    /// A new process that is not ready within this time gives up, and the old one continues.
    pub ready_within: Duration,
}

impl Rules<'_> {
    pub(super) fn restart(&mut self, raw: RawRestart, identity: Option<&IdentitySource>) -> Option<Restart> {
        const KEY: &str = "restart.socket";
        let within = READY_WITHIN_MIN..=READY_WITHIN_MAX;
        let ready_within = self.duration("restart.ready_within", raw.ready_within, within);
        let written = raw.socket?;
        let socket = self.path(KEY, Some(written.clone()))?;
        let bytes = socket.as_os_str().len();
        if bytes > RESTART_SOCKET_BYTES_MAX {
            let rule = format!(
                "must have at most {RESTART_SOCKET_BYTES_MAX} bytes (unix(7)); {} has {bytes}",
                socket.display()
            );
            return self.refuse_value(KEY, &written, &rule);
        }
        let Some(dir) = socket.parent().filter(|_| socket.file_name().is_some()) else {
            return self.refuse_value(KEY, &written, "must name a file");
        };
        if !is_state_dir(dir, identity) && !current_dir_if_empty(dir).is_dir() {
            let rule =
                format!("must be in a directory that is there, or in state_dir; {} is none", dir.display());
            return self.refuse_value(KEY, &written, &rule);
        }
        Some(Restart { socket, ready_within: ready_within.unwrap_or(READY_WITHIN_DEFAULT) })
    }
}

/// Whether this is the state directory, which is created at startup.
fn is_state_dir(dir: &Path, identity: Option<&IdentitySource>) -> bool {
    matches!(identity, Some(IdentitySource::Ca { state_dir: Some(state_dir), .. }) if state_dir == dir)
}

fn current_dir_if_empty(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}
