//! Bounds on the lifetime of connections. There is no timer per connection: the register is scanned periodically.

use std::sync::atomic::Ordering;
use std::time::Duration;

use postern_proto::mtls::Denial;
use postern_proto::policy::Protocol;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{ConnectionEntry, Facts, Register, State, Traffic};
use crate::config::{Limits, MaxAge};
use crate::identity::credentials::is_valid_at;

/// Scan interval. A connection is terminated at most this much after its bound, an idle one at most twice as much.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A server answers OPEN within this time, which is enough to connect to its app at several addresses.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long active requests on a retired HTTP connection may take to finish.
const RETIRED_TIMEOUT: Duration = Duration::from_secs(2);

/// The times that decide when a connection has reached its bounds.
#[derive(Debug)]
pub(super) struct ConnectionLifetime {
    began: Instant,
    /// When the last progress was seen,
    moved: Instant,
    /// and the number of bytes carried by then.
    carried: u64,
    /// Expiry of the own certificate that the peer was shown.
    own_not_after: Option<OffsetDateTime>,
    /// Since when it accepts no further requests.
    retired: Option<Instant>,
}

impl ConnectionLifetime {
    pub(super) fn since(began: Instant) -> Self {
        Self { began, moved: began, carried: 0, own_not_after: None, retired: None }
    }

    pub(super) fn set_own_not_after(&mut self, own_not_after: OffsetDateTime) {
        self.own_not_after = Some(own_not_after);
    }

    pub(super) fn moved(&mut self, now: Instant) {
        self.moved = now;
    }

    /// Time since the last progress.
    pub(super) fn quiet(&self, now: Instant) -> Duration {
        now - self.moved
    }

    fn observe(&mut self, traffic: &Traffic, now: Instant) {
        let carried = traffic.to_peer.load(Ordering::Relaxed) + traffic.to_app.load(Ordering::Relaxed);
        if carried != self.carried {
            (self.carried, self.moved) = (carried, now);
        }
    }
}

impl ConnectionLifetime {
    /// Retires an HTTP connection that is too old, and terminates it when its active requests have had
    /// [`RETIRED_TIMEOUT`]. Without an age limit it is retired only once a certificate has expired.
    fn retire(
        &mut self,
        live: &ConnectionEntry,
        facts: &Facts,
        young: Result<(), Denial>,
        (wall, now): (OffsetDateTime, Instant),
    ) -> Result<(), Denial> {
        let ended = facts.peer.as_ref().is_some_and(|peer| !is_valid_at(peer.not_after(), wall));
        if young.is_ok() && !ended {
            return Ok(());
        }
        let since = *self.retired.get_or_insert(now);
        if !live.traffic.retired.swap(true, Ordering::Relaxed) {
            live.traffic.waker.wake();
        }
        if now - since >= RETIRED_TIMEOUT { young } else { Ok(()) }
    }
}

impl Register {
    /// Terminates the connections that exceed their bounds. `wall` is the wall clock, by which certificates expire;
    /// durations use the monotonic `now`.
    pub async fn end_outlived(&self, limits: &Limits, wall: OffsetDateTime, now: Instant) {
        self.for_each_in_turns(|number, live| {
            let mut state = live.lock();
            let State { facts, lifetime, .. } = &mut *state;
            lifetime.observe(&live.traffic, now);
            // A connection without a verified peer is bounded by the handshake timeout.
            if facts.peer.is_none() || live.termination.is_cancelled() {
                return;
            }
            live.traffic.look_if_stalled();
            let most = limits.max_connection_age;
            let young = still_young(facts, lifetime, most, wall, now);
            let lasts = match self.listener(facts).map(|listener| listener.protocol) {
                Some(Protocol::Tcp) if live.is_resting() => young,
                Some(Protocol::Tcp) => still_moves(live, lifetime.quiet(now), limits).and(young),
                // Its requests have their own timeouts.
                Some(Protocol::Http) => lifetime.retire(live, facts, young, (wall, now)),
                None => Ok(()),
            };
            if let Err(denial) = lasts {
                self.terminate(number, live, facts, denial);
            }
        })
        .await;
    }
}

impl ConnectionEntry {
    fn is_resting(&self) -> bool {
        self.is_idle_tunnel.load(Ordering::Relaxed)
    }
}

fn still_moves(live: &ConnectionEntry, quiet: Duration, limits: &Limits) -> Result<(), Denial> {
    if live.traffic.unanswered.load(Ordering::Relaxed) && quiet >= ANSWER_TIMEOUT {
        let detail = format!("the called side has not answered for {ANSWER_TIMEOUT:?}");
        return Err(Denial { code: "unanswered", detail });
    }
    let still = limits.still_moves(live.traffic.half_closed.load(Ordering::Relaxed), quiet);
    still.map_err(|mut denial| {
        if let Some(side) = live.traffic.stalled() {
            denial.detail = format!("{}: {side}", denial.detail);
        }
        denial
    })
}

impl Limits {
    /// Checks a connection without progress for `quiet` against the idle and half-closed timeouts.
    pub(crate) fn still_moves(&self, half_closed: bool, quiet: Duration) -> Result<(), Denial> {
        let limit = self.half_closed_timeout;
        if half_closed && quiet >= limit {
            let detail = format!("one side has ended, and the other has said nothing for {limit:?}");
            return Err(Denial { code: "half_closed_timeout", detail });
        }
        let limit = self.idle_timeout;
        if quiet >= limit {
            let detail = format!("nothing has moved for {limit:?}");
            return Err(Denial { code: "idle_timeout", detail });
        }
        Ok(())
    }
}

/// Tunnels have no maximum age, because their peers prove newer certificates.
fn still_young(
    facts: &Facts,
    lifetime: &ConnectionLifetime,
    most: MaxAge,
    wall: OffsetDateTime,
    now: Instant,
) -> Result<(), Denial> {
    let ended = |not_after: &OffsetDateTime| !is_valid_at(*not_after, wall);
    let too_old = match most {
        _ if facts.is_tunnel => None,
        MaxAge::Off => None,
        MaxAge::After(age) => (now - lifetime.began >= age).then(|| format!("it is {age:?} old")),
        MaxAge::Svid => {
            let peer = facts.peer.as_ref().map(|peer| peer.not_after());
            let peer =
                peer.filter(ended).map(|end| format!("the certificate that the peer showed ended at {end}"));
            let own = || lifetime.own_not_after.filter(ended);
            peer.or_else(|| {
                own().map(|end| format!("the certificate that the peer was shown ended at {end}"))
            })
        }
    };
    too_old.map_or(Ok(()), |detail| Err(Denial { code: "max_connection_age", detail }))
}
