//! Happy Eyeballs: staggered connection attempts, of which the first success wins (RFC 8305 §5).

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Delay before the next attempt starts if the newest attempt is not connected (RFC 8305 §5, Connection Attempt Delay).
pub const CONNECT_DELAY: Duration = Duration::from_millis(250);
/// Delay before the next attempt starts after the newest attempt has connected, to complete its handshake. It is longer
/// because signing and verification take longer than the network under load.
pub const HANDSHAKE_DELAY: Duration = Duration::from_millis(500);

/// Lets an attempt report that it is connected and continues with its handshake.
#[derive(Debug, Default)]
pub struct Progress(Notify);

impl Progress {
    pub fn connected(&self) {
        self.0.notify_one();
    }
}

/// The result of a race: the first success.
#[derive(Debug)]
pub struct RaceResult<T, E> {
    pub value: T,
    /// The errors of the attempts that failed before.
    pub failed: Vec<E>,
}

/// Starts the first attempt immediately, and the next one whenever an attempt has failed or the delay of the newest has
/// passed. The first success cancels all others. If all fail, returns every error.
pub async fn race<T, E, F>(
    attempts: impl Stream<Item = F>,
    progress: &Progress,
) -> Result<RaceResult<T, E>, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let (mut waiting, mut delay) = (pin!(attempts.fuse()), pin!(sleep(CONNECT_DELAY)));
    let (mut under_way, mut failed) = (FuturesUnordered::new(), Vec::new());
    let mut next_is_due = true;
    while !(waiting.is_done() && under_way.is_empty()) {
        let wait_for_next = !next_is_due && !waiting.is_done();
        tokio::select! {
            biased;
            Some(ended) = under_way.next() => match ended {
                Ok(value) => return Ok(RaceResult { value, failed }),
                Err(error) => {
                    failed.push(error);
                    next_is_due = true;
                }
            },
            attempt = waiting.next(), if next_is_due && !waiting.is_done() => if let Some(attempt) = attempt {
                under_way.push(attempt);
                next_is_due = false;
                delay.as_mut().reset(Instant::now() + CONNECT_DELAY);
            },
            () = progress.0.notified(), if wait_for_next => {
                delay.as_mut().reset(Instant::now() + HANDSHAKE_DELAY);
            }
            () = &mut delay, if wait_for_next => next_is_due = true,
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::future::BoxFuture;
    use futures_util::stream;

    use super::*;

    type StartTimes = Mutex<Vec<(usize, Duration)>>;

    /// The behaviour of a simulated attempt.
    #[derive(Debug, Clone, Copy)]
    enum Behaviour {
        Succeeds(u64),
        Fails(u64),
        IsSilent,
        ConnectsThenIsSilent(u64),
    }

    /// Races simulated attempts on a paused clock. Returns the winner and when each attempt started.
    async fn raced(all: &[Behaviour]) -> (Result<usize, usize>, Vec<(usize, u64)>) {
        let (started, progress, since) = (StartTimes::default(), Progress::default(), Instant::now());
        let attempts = all.iter().enumerate().map(|(at, &does)| {
            let (started, progress) = (&started, &progress);
            let attempt = async move {
                started.lock().unwrap().push((at, since.elapsed()));
                match does {
                    Behaviour::Succeeds(after) => sleep(Duration::from_millis(after)).await,
                    Behaviour::Fails(after) => {
                        sleep(Duration::from_millis(after)).await;
                        return Err(at);
                    }
                    Behaviour::IsSilent => std::future::pending().await,
                    Behaviour::ConnectsThenIsSilent(after) => {
                        sleep(Duration::from_millis(after)).await;
                        progress.connected();
                        std::future::pending().await
                    }
                }
                Ok(at)
            };
            Box::pin(attempt) as BoxFuture<'_, _>
        });
        let winner = race(stream::iter(attempts), &progress).await;
        let started =
            started.lock().unwrap().iter().map(|(at, after)| (*at, after.as_millis() as u64)).collect();
        (winner.map(|winner| winner.value).map_err(|failed| failed.len()), started)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_attempt_delays_by_a_quarter_of_a_second_and_one_that_fails_not_at_all() {
        use Behaviour::{Fails, IsSilent, Succeeds};
        assert_eq!(raced(&[Succeeds(10), Succeeds(0)]).await, (Ok(0), vec![(0, 0)]));
        assert_eq!(raced(&[IsSilent, Succeeds(10), Succeeds(0)]).await, (Ok(1), vec![(0, 0), (1, 250)]));
        let two_silent = (Ok(2), vec![(0, 0), (1, 250), (2, 500)]);
        assert_eq!(raced(&[IsSilent, IsSilent, Succeeds(10)]).await, two_silent);
        assert_eq!(raced(&[Fails(3), Succeeds(10)]).await, (Ok(1), vec![(0, 0), (1, 3)]));
        // The first attempt is slow but still succeeds first.
        assert_eq!(raced(&[Succeeds(300), Succeeds(100)]).await, (Ok(0), vec![(0, 0), (1, 250)]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_is_connected_has_longer_for_its_handshake() {
        let started = vec![(0, 0), (1, 600)];
        assert_eq!(
            raced(&[Behaviour::ConnectsThenIsSilent(100), Behaviour::Succeeds(0)]).await,
            (Ok(1), started)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_every_error_is_told_and_without_attempts_there_is_none() {
        assert_eq!(raced(&[Behaviour::Fails(0), Behaviour::Fails(700)]).await.0, Err(2));
        assert_eq!(raced(&[]).await, (Err(0), vec![]));
    }
}
