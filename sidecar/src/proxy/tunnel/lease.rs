//! The state machine of leases (docs/WIRE.md, Leases): which frame may follow which. Pure.

use thiserror::Error;

use super::frame::Frame;

/// Which side of the tunnel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The TLS client: the app's sidecar.
    Caller,
    /// The TLS server: the service's sidecar.
    Called,
}

/// One direction of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Open,
    Finished,
    Reset,
}

/// How the other side answered OPEN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    None,
    Accepted,
    Refused,
}

/// A tunnel's state: between leases, or in one.
#[derive(Debug)]
pub struct Lease {
    role: Role,
    /// Number of leases begun on this tunnel.
    number: u32,
    answer: Answer,
    own: Half,
    peer: Half,
}

/// A protocol violation by the peer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("OPEN came from the called side")]
    OpenFromCalled,
    #[error("OPEN came while a lease was not over")]
    OpenInLease,
    #[error("an answer to OPEN came from the calling side")]
    AnswerFromCaller,
    #[error("a second answer to OPEN came, or one without OPEN")]
    AnswerUnasked,
    #[error("DATA or FIN came outside of a lease's open direction")]
    NotOpen,
    #[error("a reset of lease {found} came in lease {current}")]
    ResetOfLater { current: u32, found: u32 },
}

impl Lease {
    /// A tunnel without leases so far.
    pub fn new(role: Role) -> Self {
        Self { role, number: 0, answer: Answer::None, own: Half::Finished, peer: Half::Finished }
    }

    /// Number of leases begun; the last of them may be active.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether both directions of the lease have ended: the next may begin.
    pub fn is_over(&self) -> bool {
        self.own != Half::Open && self.peer != Half::Open
    }

    /// Whether the server has sent ACCEPT or REFUSE.
    pub fn is_answered(&self) -> bool {
        self.answer != Answer::None
    }

    pub fn is_refused(&self) -> bool {
        self.answer == Answer::Refused
    }

    /// Whether we may still send DATA.
    pub fn is_open(&self) -> bool {
        self.own == Half::Open
    }

    /// Whether the peer has ended its direction cleanly.
    pub fn is_finished_by_peer(&self) -> bool {
        self.peer == Half::Finished
    }

    /// Whether the peer has sent RESET.
    pub fn is_reset_by_peer(&self) -> bool {
        self.peer == Half::Reset
    }

    /// Whether received data is discarded: our side has sent RESET or REFUSE.
    pub fn discards(&self) -> bool {
        self.own == Half::Reset || (self.role == Role::Called && self.answer == Answer::Refused)
    }

    /// The client sends OPEN.
    pub fn open(&mut self) {
        self.number = self.number.wrapping_add(1);
        (self.answer, self.own, self.peer) = (Answer::None, Half::Open, Half::Open);
    }

    /// The server sends ACCEPT.
    pub fn accept(&mut self) {
        self.answer = Answer::Accepted;
    }

    /// The server sends REFUSE, which ends its direction.
    pub fn refuse(&mut self) {
        (self.answer, self.own) = (Answer::Refused, Half::Finished);
    }

    /// We send FIN.
    pub fn finish(&mut self) {
        if self.own == Half::Open {
            self.own = Half::Finished;
        }
    }

    /// We send RESET. Returns whether it has to be sent.
    pub fn reset(&mut self) -> bool {
        let tells = !self.is_over() && self.own != Half::Reset;
        if tells {
            self.own = Half::Reset;
        }
        tells
    }

    /// DATA was received.
    pub fn data(&self) -> Result<(), Violation> {
        let answered = self.role == Role::Called || self.answer == Answer::Accepted;
        if self.peer == Half::Open && answered { Ok(()) } else { Err(Violation::NotOpen) }
    }

    /// Another frame was received.
    pub fn receive(&mut self, frame: &Frame) -> Result<(), Violation> {
        match frame {
            Frame::Open(_) if self.role == Role::Caller => Err(Violation::OpenFromCalled),
            Frame::Open(_) if !self.is_over() => Err(Violation::OpenInLease),
            Frame::Open(_) => {
                self.open();
                Ok(())
            }
            Frame::Accept | Frame::Refuse(_) if self.role == Role::Called => Err(Violation::AnswerFromCaller),
            Frame::Accept | Frame::Refuse(_) if self.is_answered() || self.peer != Half::Open => {
                Err(Violation::AnswerUnasked)
            }
            Frame::Accept => {
                self.answer = Answer::Accepted;
                Ok(())
            }
            Frame::Refuse(_) => {
                (self.answer, self.peer) = (Answer::Refused, Half::Finished);
                Ok(())
            }
            Frame::Fin => {
                self.data()?;
                self.peer = Half::Finished;
                Ok(())
            }
            Frame::Reset { lease, .. } => self.reset_by_peer(*lease),
            Frame::Auth(_) => Ok(()),
        }
    }

    /// A RESET may cross with the end of its lease, and is then ignored.
    fn reset_by_peer(&mut self, found: u32) -> Result<(), Violation> {
        let current = self.number;
        if found != current {
            let earlier = found.wrapping_sub(current) > u32::MAX / 2;
            return if earlier { Ok(()) } else { Err(Violation::ResetOfLater { current, found }) };
        }
        if !self.is_over() {
            self.peer = Half::Reset;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::Open;
    use super::*;

    fn opened() -> (Lease, Lease) {
        let (mut caller, mut called) = (Lease::new(Role::Caller), Lease::new(Role::Called));
        caller.open();
        called.receive(&Frame::Open(Open::default())).unwrap();
        (caller, called)
    }

    fn accepted() -> (Lease, Lease) {
        let (mut caller, mut called) = opened();
        called.accept();
        caller.receive(&Frame::Accept).unwrap();
        (caller, called)
    }

    #[test]
    fn a_lease_is_over_when_both_directions_have_ended() {
        let (mut caller, mut called) = accepted();
        caller.finish();
        called.receive(&Frame::Fin).unwrap();
        assert!(!caller.is_over() && !called.is_over());
        assert_eq!(called.data(), Err(Violation::NotOpen), "the caller has finished");
        called.finish();
        caller.receive(&Frame::Fin).unwrap();
        assert!(caller.is_over() && called.is_over());
    }

    #[test]
    fn the_app_s_bytes_come_only_after_the_answer() {
        let (mut caller, called) = opened();
        assert_eq!(called.data(), Ok(()), "the first bytes come with OPEN");
        assert_eq!(caller.data(), Err(Violation::NotOpen));
        assert_eq!(caller.receive(&Frame::Fin), Err(Violation::NotOpen));
    }

    #[test]
    fn a_server_that_refused_discards_data_until_the_client_ends() {
        let (mut caller, mut called) = opened();
        called.refuse();
        assert!(called.discards() && !called.is_over());
        assert_eq!(called.data(), Ok(()));
        caller.receive(&Frame::Refuse(Vec::new())).unwrap();
        assert!(caller.is_refused() && caller.is_open());
        caller.finish();
        called.receive(&Frame::Fin).unwrap();
        assert!(caller.is_over() && called.is_over());
    }

    #[test]
    fn a_reset_is_answered_and_data_in_flight_is_discarded() {
        let (mut caller, mut called) = accepted();
        assert!(caller.reset());
        assert!(caller.discards() && !caller.is_over());
        assert_eq!(caller.data(), Ok(()), "it was under way");
        called.receive(&Frame::Reset { lease: 1, note: Vec::new() }).unwrap();
        assert!(called.is_reset_by_peer() && called.reset());
        caller.receive(&Frame::Reset { lease: 1, note: Vec::new() }).unwrap();
        assert!(caller.is_over() && called.is_over());
        assert!(!caller.reset(), "there is nothing more to say");
    }

    #[test]
    fn a_reset_that_crossed_with_the_end_does_not_hit_the_next_lease() {
        let (mut caller, mut called) = accepted();
        called.finish();
        caller.receive(&Frame::Fin).unwrap();
        caller.finish();
        caller.open();
        assert!(called.reset(), "its app broke before the caller's FIN came");
        caller.receive(&Frame::Reset { lease: 1, note: Vec::new() }).unwrap();
        assert!(!caller.is_reset_by_peer() && !caller.is_over());
        called.receive(&Frame::Fin).unwrap();
        called.receive(&Frame::Open(Open::default())).unwrap();
        assert_eq!((caller.number(), called.number()), (2, 2));
        assert!(!called.discards());
    }

    #[test]
    fn every_frame_out_of_its_turn_is_a_violation() {
        let open = Frame::Open(Open::default());
        let (mut caller, mut called) = accepted();
        assert_eq!(caller.receive(&open), Err(Violation::OpenFromCalled));
        assert_eq!(called.receive(&open), Err(Violation::OpenInLease));
        assert_eq!(called.receive(&Frame::Accept), Err(Violation::AnswerFromCaller));
        assert_eq!(caller.receive(&Frame::Accept), Err(Violation::AnswerUnasked));
        assert_eq!(caller.receive(&Frame::Refuse(Vec::new())), Err(Violation::AnswerUnasked));
        let later = Frame::Reset { lease: 2, note: Vec::new() };
        assert_eq!(caller.receive(&later), Err(Violation::ResetOfLater { current: 1, found: 2 }));
        let mut idle = Lease::new(Role::Called);
        assert_eq!(idle.data(), Err(Violation::NotOpen));
        assert_eq!(idle.receive(&Frame::Fin), Err(Violation::NotOpen));
        assert_eq!(Lease::new(Role::Caller).receive(&Frame::Accept), Err(Violation::AnswerUnasked));
    }
}
