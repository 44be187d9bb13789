//! What keeps anything from being left behind, also when the quickstart itself is killed.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, parent_id};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the janitor tries to remove a directory whose users are still dying.
const JANITOR_PATIENCE: Duration = Duration::from_secs(10);
const JANITOR_INTERVAL: Duration = Duration::from_millis(50);

/// Becomes `program`, which dies with its parent.
///
/// The kernel remembers the wish over `exec`; it is bound to the thread that started us, which is why the quickstart
/// starts everything from its main thread.
pub(crate) fn leashed(parent: u32, program: &Path, args: &[OsString]) -> io::Result<Infallible> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if parent_id() != parent {
        return Err(io::Error::other("the quickstart has ended already"));
    }
    Err(Command::new(program).args(args).exec())
}

/// Waits until the quickstart has ended in whatever way (its end of the pipe closes), and removes what it left.
pub(crate) fn janitor(dir: &Path) -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new())?;
    let begun = Instant::now();
    while dir.try_exists()? {
        if let Err(error) = std::fs::remove_dir_all(dir)
            && begun.elapsed() > JANITOR_PATIENCE
        {
            return Err(error);
        }
        std::thread::sleep(JANITOR_INTERVAL);
    }
    Ok(())
}

/// The command line with which the quickstart starts `program` on a leash.
pub(crate) fn arguments(program: PathBuf, args: Vec<OsString>) -> Vec<OsString> {
    let head = ["leash".into(), std::process::id().to_string().into(), program.into_os_string()];
    head.into_iter().chain(args).collect()
}
