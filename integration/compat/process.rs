//! A program of the suite with all its children, ended together.

use std::process::ExitStatus;
use std::time::Duration;

use postern_integration::Program;
use rustix::process::{Pid, Signal, kill_process_group};

/// From SIGTERM to SIGKILL.
const TIME_TO_END: Duration = Duration::from_secs(20);

/// The leader of a process group, which is killed when dropped.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) program: Program,
    id: Pid,
}

impl Group {
    pub(crate) fn start(name: &str, mut command: tokio::process::Command) -> Self {
        command.process_group(0);
        let program = Program::start_command(name, command);
        let id = Pid::from_raw(i32::try_from(program.pid()).unwrap()).unwrap();
        Self { program, id }
    }

    /// Waits until the leader ends.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        self.program.wait().await
    }

    /// Ends it as an operator does, or at last by force.
    pub(crate) async fn end(mut self) {
        signal(self.id, Signal::TERM);
        // What does not end by then is killed as this is dropped.
        let _ = tokio::time::timeout(TIME_TO_END, self.program.wait()).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        signal(self.id, Signal::KILL);
    }
}

/// A group that is gone already is what is wanted.
fn signal(group: Pid, signal: Signal) {
    let _gone = kill_process_group(group, signal);
}
