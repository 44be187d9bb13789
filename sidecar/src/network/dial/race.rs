//! Attempts that begin one after the other, at short intervals, until one succeeds (RFC 8305 §5).

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// An attempt that has not got so far as to be connected after this time gets company (RFC 8305 §5, Connection Attempt
/// Delay).
pub const CONNECT_DELAY: Duration = Duration::from_millis(250);
/// One that is connected has this long to finish its handshake before it gets company. The peer has to sign and we
/// have to verify, and under load both take longer than the network does.
pub const HANDSHAKE_DELAY: Duration = Duration::from_millis(500);

/// By which an attempt says that it is connected and goes on.
#[derive(Debug, Default)]
pub struct Progress(Notify);

impl Progress {
    pub fn connected(&self) {
        self.0.notify_one();
    }
}

/// The first success.
#[derive(Debug)]
pub struct Won<T, E> {
    pub value: T,
    /// The attempts that failed before.
    pub failed: Vec<E>,
}

/// Begins an attempt at once, and the next one each time the newest has failed or has had its delay. The first success
/// ends all others. Without one, every error.
pub async fn race<T, E, F>(attempts: impl Stream<Item = F>, progress: &Progress) -> Result<Won<T, E>, Vec<E>>
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
                Ok(value) => return Ok(Won { value, failed }),
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

    type Begun = Mutex<Vec<(usize, Duration)>>;

    /// What an attempt does.
    #[derive(Debug, Clone, Copy)]
    enum Does {
        Succeeds(u64),
        Fails(u64),
        IsSilent,
        ConnectsThenIsSilent(u64),
    }

    /// Races attempts on a clock that stands still, and says who has won and when each began.
    async fn raced(all: &[Does]) -> (Result<usize, usize>, Vec<(usize, u64)>) {
        let (begun, progress, since) = (Begun::default(), Progress::default(), Instant::now());
        let attempts = all.iter().enumerate().map(|(at, &does)| {
            let (begun, progress) = (&begun, &progress);
            let attempt = async move {
                begun.lock().unwrap().push((at, since.elapsed()));
                match does {
                    Does::Succeeds(after) => sleep(Duration::from_millis(after)).await,
                    Does::Fails(after) => {
                        sleep(Duration::from_millis(after)).await;
                        return Err(at);
                    }
                    Does::IsSilent => std::future::pending().await,
                    Does::ConnectsThenIsSilent(after) => {
                        sleep(Duration::from_millis(after)).await;
                        progress.connected();
                        std::future::pending().await
                    }
                }
                Ok(at)
            };
            Box::pin(attempt) as BoxFuture<'_, _>
        });
        let won = race(stream::iter(attempts), &progress).await;
        let begun = begun.lock().unwrap().iter().map(|(at, after)| (*at, after.as_millis() as u64)).collect();
        (won.map(|won| won.value).map_err(|failed| failed.len()), begun)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_attempt_delays_by_a_quarter_of_a_second_and_one_that_fails_not_at_all() {
        use Does::{Fails, IsSilent, Succeeds};
        assert_eq!(raced(&[Succeeds(10), Succeeds(0)]).await, (Ok(0), vec![(0, 0)]));
        assert_eq!(raced(&[IsSilent, Succeeds(10), Succeeds(0)]).await, (Ok(1), vec![(0, 0), (1, 250)]));
        let two_silent = (Ok(2), vec![(0, 0), (1, 250), (2, 500)]);
        assert_eq!(raced(&[IsSilent, IsSilent, Succeeds(10)]).await, two_silent);
        assert_eq!(raced(&[Fails(3), Succeeds(10)]).await, (Ok(1), vec![(0, 0), (1, 3)]));
        // The first is slow, but still the first.
        assert_eq!(raced(&[Succeeds(300), Succeeds(100)]).await, (Ok(0), vec![(0, 0), (1, 250)]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_is_connected_has_longer_for_its_handshake() {
        let begun = vec![(0, 0), (1, 600)];
        assert_eq!(raced(&[Does::ConnectsThenIsSilent(100), Does::Succeeds(0)]).await, (Ok(1), begun));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_every_error_is_told_and_without_attempts_there_is_none() {
        assert_eq!(raced(&[Does::Fails(0), Does::Fails(700)]).await.0, Err(2));
        assert_eq!(raced(&[]).await, (Err(0), vec![]));
    }
}
