//! How long a connection may last. Nothing here has a timer of its own: the register is looked through again and again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use postern_proto::mtls::Denial;
use postern_proto::policy::Protocol;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{ConnectionEntry, Facts, Register, State, Traffic};
use crate::config::{Limits, MaxAge};
use crate::identity::credentials::is_valid_at;

/// How often every connection is looked at: so much later than its bound it is cut at most, an idle one twice as much.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A called side answers OPEN within this time, which is enough to connect to its app at several addresses.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests under way on an HTTP connection that has become too old have so long to finish.
const RETIRED_TIMEOUT: Duration = Duration::from_secs(2);

/// What is remembered of a connection to know when it has lasted long enough.
#[derive(Debug)]
pub(super) struct ConnectionLifetime {
    began: Instant,
    /// When it was last seen to have carried more than before...
    moved: Instant,
    /// ...which was so many bytes.
    carried: u64,
    /// ShutdownTokens then the own certificate holds that its peer was shown.
    own_not_after: Option<OffsetDateTime>,
    /// Since when it takes no further requests.
    retired: Option<Instant>,
}

impl ConnectionLifetime {
    pub(super) fn since(began: Instant) -> Self {
        Self { began, moved: began, carried: 0, own_not_after: None, retired: None }
    }

    pub(super) fn shown_until(&mut self, own_not_after: OffsetDateTime) {
        self.own_not_after = Some(own_not_after);
    }

    pub(super) fn moved(&mut self, now: Instant) {
        self.moved = now;
    }

    /// How long nothing has moved.
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
    /// Takes no further requests on an HTTP connection that is too old, and cuts it when those under way have had their
    /// time. Without a bound it only takes none under a certificate that has ended.
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
    /// Cuts the connections that have outlived their bounds. Certificates end by the wall clock, which `wall` is;
    /// durations are counted by one that does not jump.
    pub async fn end_outlived(&self, limits: &Limits, wall: OffsetDateTime, now: Instant) {
        self.for_each_in_turns(|number, live| {
            let mut state = live.lock();
            let State { facts, lifetime, .. } = &mut *state;
            lifetime.observe(&live.traffic, now);
            // Who is not known yet has the time of a handshake.
            if facts.peer.is_none() || live.cut.is_cancelled() {
                return;
            }
            live.traffic.look_if_stalled();
            let most = limits.max_connection_age;
            let young = still_young(facts, lifetime, most, wall, now);
            let lasts = match self.listener(facts).map(|listener| listener.protocol) {
                Some(Protocol::Tcp) if live.is_resting() => young,
                Some(Protocol::Tcp) => still_moves(live, lifetime.quiet(now), limits).and(young),
                // Its requests have bounds of their own.
                Some(Protocol::Http) => lifetime.retire(live, facts, young, (wall, now)),
                None => Ok(()),
            };
            if let Err(denial) = lasts {
                self.cut(number, live, facts, denial);
            }
        })
        .await;
    }
}

impl ConnectionEntry {
    fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
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
    /// Whether a connection of which nothing has moved for so long is still wanted.
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

/// A tunnel's peer proves newer certificates, so that its age does not matter.
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
