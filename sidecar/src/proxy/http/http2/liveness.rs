//! Detects dead HTTP/2 connections by PING (RFC 9113 §6.7) while requests are active.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

/// When a PING is sent, and how long the peer has to answer.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy::http) struct Pings {
    pub(in crate::proxy::http) after: Duration,
    pub(in crate::proxy::http) answer_within: Duration,
}

/// The PING state of one connection.
pub(super) struct Liveness {
    pings: Pings,
    ping_pong: PingPong,
    asked: bool,
    due: Pin<Box<Sleep>>,
}

impl Liveness {
    pub(super) fn new(pings: Option<Pings>, ping_pong: Option<PingPong>) -> Option<Self> {
        let (pings, ping_pong) = pings.zip(ping_pong)?;
        Some(Self { pings, ping_pong, asked: false, due: Box::pin(tokio::time::sleep(pings.after)) })
    }

    /// Ready when the peer has not answered in time.
    pub(super) fn poll_dead(&mut self, cx: &mut Context<'_>, is_busy: bool) -> Poll<()> {
        loop {
            if self.asked && self.ping_pong.poll_pong(cx).is_ready() {
                self.asked = false;
                self.due.as_mut().reset(Instant::now() + self.pings.after);
            }
            ready!(self.due.as_mut().poll(cx));
            if self.asked {
                return Poll::Ready(());
            }
            self.asked = is_busy && self.ping_pong.send_ping(Ping::opaque()).is_ok();
            let wait = if self.asked { self.pings.answer_within } else { self.pings.after };
            self.due.as_mut().reset(Instant::now() + wait);
        }
    }
}
