//! Runs a server on worker threads of its own, while the main thread waits for signals and deadlines. So a server ends
//! in time whatever hangs in it: a task that ignores its end, a file system, even every worker thread.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until};
use tracing::{error, warn};

use super::shutdown::Bound;
use super::{EXIT_DEADLINE, EXIT_FAILED, EXIT_SECOND_SIGNAL, Shutdown, WorkerThreads};

/// What is left to do after draining takes no longer than this, or it hangs.
pub const END_TIME_MAX: Duration = Duration::from_secs(5);
/// After a second signal connections are reset and logs are written in this time.
pub const SECOND_SIGNAL_TIME_MAX: Duration = Duration::from_millis(500);

/// Why nothing runs.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

/// How a server has ended.
#[derive(Debug)]
pub enum Outcome<T> {
    /// In order, with its result.
    Ended(T),
    /// By a second signal.
    SecondSignal,
    /// Something hung at the deadline.
    Deadline,
    /// By a panic, which has been told.
    Panicked,
}

impl<T, E> Outcome<Result<T, E>> {
    /// The process's exit code; an error is passed to `report`.
    pub fn exit_code(self, report: impl FnOnce(E)) -> ExitCode {
        match self {
            Self::Ended(Ok(_)) => ExitCode::SUCCESS,
            Self::Ended(Err(error)) => {
                report(error);
                EXIT_FAILED.into()
            }
            Self::SecondSignal => EXIT_SECOND_SIGNAL.into(),
            Self::Deadline => EXIT_DEADLINE.into(),
            Self::Panicked => EXIT_FAILED.into(),
        }
    }
}

/// Runs a server until it ends, or must have ended. What hangs is left behind, and ends with the process.
pub fn run<F>(
    threads: WorkerThreads,
    server: impl FnOnce(Shutdown) -> F,
) -> Result<Outcome<F::Output>, StartError>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let workers = Builder::new_multi_thread().worker_threads(threads.count()).enable_all().build();
    let workers = workers.map_err(StartError::Runtime)?;
    let supervisor = Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    let outcome = supervisor.block_on(supervise(&workers, server));
    workers.shutdown_background();
    outcome
}

async fn supervise<F>(
    workers: &Runtime,
    server: impl FnOnce(Shutdown) -> F,
) -> Result<Outcome<F::Output>, StartError>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let (signals, heard) = watch::channel(0_u32);
    let (said, mut bound) = watch::channel(Bound::AfterSignal(Duration::ZERO));
    let mut server = workers.spawn(server(Shutdown::new(heard, said)));
    let (mut told, mut may_say) = (Told::default(), true);
    loop {
        let deadline = told.deadline(*bound.borrow_and_update());
        tokio::select! {
            biased;
            ended = &mut server => return Ok(told.outcome(ended)),
            _ = terminate.recv() => told.again(&signals),
            _ = interrupt.recv() => told.again(&signals),
            // A server that says nothing more is about to end.
            changed = bound.changed(), if may_say => may_say = changed.is_ok(),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                return Ok(told.left_behind());
            }
        }
    }
}

/// When the signals came.
#[derive(Debug, Default)]
struct Told {
    first: Option<Instant>,
    second: Option<Instant>,
}

impl Told {
    fn again(&mut self, signals: &watch::Sender<u32>) {
        if self.first.is_none() {
            self.first = Some(Instant::now());
        } else {
            self.second.get_or_insert_with(Instant::now);
        }
        signals.send_modify(|count| *count = count.saturating_add(1));
    }

    fn deadline(&self, bound: Bound) -> Option<Instant> {
        match (self.second, bound) {
            (Some(second), _) => Some(second + SECOND_SIGNAL_TIME_MAX),
            (None, Bound::AfterSignal(drain)) => self.first.map(|first| first + drain + END_TIME_MAX),
            (None, Bound::At(end)) => Some(end + END_TIME_MAX),
        }
    }

    fn outcome<T>(&self, ended: Result<T, JoinError>) -> Outcome<T> {
        match ended {
            Err(error) => {
                error!(%error, "the server failed");
                Outcome::Panicked
            }
            Ok(_) if self.second.is_some() => Outcome::SecondSignal,
            Ok(result) => Outcome::Ended(result),
        }
    }

    fn left_behind<T>(&self) -> Outcome<T> {
        if self.second.is_some() {
            warn!("ended at once by a second signal");
            return Outcome::SecondSignal;
        }
        error!("something hangs, and is left behind: a file, a name server or a task that does not end");
        Outcome::Deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_follows_from_the_signals_and_from_what_the_server_says() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let (nothing, first) = (Told::default(), Told { first: Some(now), second: None });
        let second = Told { first: Some(now), second: Some(now + minute) };
        for drain in [Duration::ZERO, minute] {
            assert_eq!(nothing.deadline(Bound::AfterSignal(drain)), None);
            assert_eq!(first.deadline(Bound::AfterSignal(drain)), Some(now + drain + END_TIME_MAX));
        }
        for told in [nothing, first] {
            assert_eq!(told.deadline(Bound::At(now + minute)), Some(now + minute + END_TIME_MAX));
        }
        for bound in [Bound::AfterSignal(minute), Bound::At(now + minute * 9)] {
            assert_eq!(second.deadline(bound), Some(now + minute + SECOND_SIGNAL_TIME_MAX));
        }
    }

    fn threads() -> WorkerThreads {
        WorkerThreads::from_environment().unwrap()
    }

    #[test]
    fn a_server_that_ends_by_itself_says_how_and_one_that_panics_has_failed() {
        let ended = run(threads(), async |_shutdown| Ok::<_, ()>(7)).unwrap();
        assert!(matches!(ended, Outcome::Ended(Ok(7))), "{ended:?}");
        let panicked = run(threads(), async |_shutdown| -> () { panic!("on purpose") }).unwrap();
        assert!(matches!(panicked, Outcome::Panicked), "{panicked:?}");
    }

    #[test]
    fn a_server_whose_threads_all_hang_is_left_behind_at_its_deadline() {
        let outcome = run(threads(), async |shutdown| {
            shutdown.ends_within(Duration::ZERO);
            for _ in 0..threads().count() * 2 {
                tokio::spawn(async { std::thread::park_timeout(END_TIME_MAX * 20) });
            }
            std::future::pending::<()>().await;
        });
        assert!(matches!(outcome.unwrap(), Outcome::Deadline));
    }
}
