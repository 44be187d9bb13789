//! How long a connection may last. Nothing here has a timer of its own: the register is looked through again and again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use postern_proto::mtls::Denial;
use postern_proto::policy::Protocol;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Facts, Live, Register, State, Traffic};
use crate::config::{Limits, MaxAge};
use crate::credentials::holds_until;

/// How often every connection is looked at: so much later than its bound it is cut at most, an idle one twice as much.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A called side answers OPEN within this time, which is enough to connect to its app at several addresses.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What is remembered of a connection to know when it has lasted long enough.
#[derive(Debug)]
pub(super) struct Lasting {
    began: Instant,
    /// When it was last seen to have carried more than before...
    moved: Instant,
    /// ...which was so many bytes.
    carried: u64,
    /// Until then the own certificate holds that its peer was shown.
    own_not_after: Option<OffsetDateTime>,
}

impl Lasting {
    pub(super) fn since(began: Instant) -> Self {
        Self { began, moved: began, carried: 0, own_not_after: None }
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

    fn look(&mut self, traffic: &Traffic, now: Instant) {
        let carried = traffic.to_peer.load(Ordering::Relaxed) + traffic.to_app.load(Ordering::Relaxed);
        if carried != self.carried {
            (self.carried, self.moved) = (carried, now);
        }
    }
}

impl Register {
    /// Cuts the connections that have outlived their bounds. Certificates end by the wall clock, which `wall` is;
    /// durations are counted by one that does not jump.
    pub fn end_outlived(&self, limits: &Limits, wall: OffsetDateTime, now: Instant) {
        self.for_each(|number, live| {
            let mut state = live.lock();
            let State { facts, lasting } = &mut *state;
            lasting.look(&live.traffic, now);
            // Who is not known yet has the time of a handshake, and HTTP has bounds of its own.
            let is_bounded = facts.peer.is_some()
                && self.listener(facts).is_some_and(|listener| listener.protocol == Protocol::Tcp)
                && !live.cut.is_cancelled();
            if !is_bounded {
                return;
            }
            let quiet =
                if live.is_resting() { Ok(()) } else { still_moves(live, lasting.quiet(now), limits) };
            if let Err(denial) =
                quiet.and_then(|()| still_young(facts, lasting, limits.max_connection_age, wall, now))
            {
                self.cut(number, live, facts, denial);
            }
        });
    }
}

impl Live {
    fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }
}

fn still_moves(live: &Live, quiet: Duration, limits: &Limits) -> Result<(), Denial> {
    if live.traffic.unanswered.load(Ordering::Relaxed) && quiet >= ANSWER_TIMEOUT {
        let detail = format!("the called side has not answered for {ANSWER_TIMEOUT:?}");
        return Err(Denial { code: "unanswered", detail });
    }
    let half_closed = live.traffic.half_closed.load(Ordering::Relaxed);
    if half_closed && quiet >= limits.half_closed_timeout {
        let detail = format!(
            "one side has ended, and the other has said nothing for {:?}",
            limits.half_closed_timeout
        );
        return Err(Denial { code: "half_closed_timeout", detail });
    }
    if quiet >= limits.idle_timeout {
        let detail = format!("nothing has moved for {:?}", limits.idle_timeout);
        return Err(Denial { code: "idle_timeout", detail });
    }
    Ok(())
}

/// A tunnel's peer proves newer certificates, so that its age does not matter.
fn still_young(
    facts: &Facts,
    lasting: &Lasting,
    most: MaxAge,
    wall: OffsetDateTime,
    now: Instant,
) -> Result<(), Denial> {
    let ended = |not_after: &OffsetDateTime| !holds_until(*not_after, wall);
    let too_old = match most {
        _ if facts.is_tunnel => None,
        MaxAge::Off => None,
        MaxAge::After(age) => (now - lasting.began >= age).then(|| format!("it is {age:?} old")),
        MaxAge::Svid => {
            let peer = facts.peer.as_ref().map(|peer| peer.not_after());
            let peer =
                peer.filter(ended).map(|end| format!("the certificate that the peer showed ended at {end}"));
            let own = || lasting.own_not_after.filter(ended);
            peer.or_else(|| {
                own().map(|end| format!("the certificate that the peer was shown ended at {end}"))
            })
        }
    };
    too_old.map_or(Ok(()), |detail| Err(Denial { code: "max_connection_age", detail }))
}
