//! The called side of a tunnel: each lease decided, carried to the app and told by itself.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::{Denial, OVER_LIMIT};
use postern_server::{HandshakePermit, HandshakeStage};
use tracing::debug;

use super::refused::evicted;
use super::{Admitted, Decides, InboundServer, decide, make_room};
use crate::config::TellCallers;
use crate::error_text::one_line;
use crate::identity::credentials::is_valid_at;
use crate::network::socket::{close_cleanly, reset_on_close};
use crate::observability::Direction;
use crate::observability::refusals::{Refusal, explain_command};
use crate::observability::trace;
use crate::proxy::connection_recorder::ConnectionRecorder;
use crate::proxy::connections::RelayError;
use crate::proxy::connections::{Path, Registration};
use crate::proxy::http::{Problem, Question};
use crate::proxy::listener::ShutdownTokens;
use crate::proxy::peer_limits::PeerPermit;
use crate::proxy::relay::relay;
use crate::proxy::tls::Secured;
pub(super) use crate::proxy::tunnel::ALPN;
use crate::proxy::tunnel::{
    Open, Reauthentication, Role, TunnelConnection, TunnelError, end, retire, settle,
};

/// What becomes of a tunnel after a lease.
enum Afterwards {
    Next,
    /// Who may not connect keeps no tunnel.
    End,
}

impl InboundServer {
    /// Serves one lease after the other until the tunnel ends. ShutdownTokens a first one is let in, it keeps its place among the
    /// handshakes: a peer that may not connect, or says nothing, has no more than that.
    pub(super) async fn serve_tunnel(
        self: &Arc<Self>,
        mut wire: Box<TunnelConnection>,
        (generation, place): (u64, HandshakePermit),
        (from, registration, until): (SocketAddr, &Arc<Registration>, &ShutdownTokens),
    ) {
        registration.rest();
        let mut place = Some(place);
        let retires = loop {
            let is_first = place.is_some();
            let waits = place.take().unwrap_or_else(|| self.idle.acquire(HandshakeStage::Authenticated));
            waits.advance(HandshakeStage::Authenticated);
            let next = self.next_lease(&mut wire, generation, &waits, (is_first, until, registration));
            match Box::pin(next).await {
                Ok(Some(open)) => {
                    place = is_first.then_some(waits);
                    registration.lease();
                    let told_at_the_end = ConnectionRecorder::new(self.clone(), registration.clone(), from);
                    let carried = self.lease(&mut wire, open, &mut place, registration).await;
                    drop(told_at_the_end);
                    registration.rest();
                    match carried {
                        Ok(Afterwards::Next) => {}
                        Ok(Afterwards::End) => break false,
                        Err(error) => return self.tell_broken(&error, registration),
                    }
                }
                Ok(None) => {
                    place = is_first.then_some(waits);
                    break true;
                }
                Err(error) => return self.tell_broken(&error, registration),
            }
        };
        match place {
            Some(place) if place.evicted.is_cancelled() => wire.close(),
            None if retires => Box::pin(retire(*wire)).await,
            place => {
                Box::pin(unless_evicted(&place, end(*wire))).await;
            }
        }
    }

    /// Makes a tunnel of an admitted connection.
    pub(super) fn tunnel(
        &self,
        admitted: Box<Admitted>,
        registration: &Arc<Registration>,
    ) -> Option<Box<TunnelConnection>> {
        let Admitted { secured: Secured { stream, exporter, .. }, generation } = *admitted;
        let (peer, credentials) = (registration.verified()?, self.proxy.control.credentials.current()?);
        let control = self.proxy.control.clone();
        let door = self.door(Decides::Again, credentials, registration.clone());
        let to = (Arc::new(door) as Arc<_>, registration.traffic.clone());
        let mut wire = Box::new(TunnelConnection::new(stream, Role::Called));
        wire.vouch(Reauthentication::new(
            Role::Called,
            exporter,
            control,
            (peer.id().clone(), generation),
            to,
        ));
        registration.set_path(Path::Tunnel);
        Some(wire)
    }

    /// Waits for the next OPEN; nothing when the tunnel shall end: by the peer, by age, by a rotation here, for want of
    /// places.
    async fn next_lease(
        &self,
        wire: &mut TunnelConnection,
        generation: u64,
        place: &HandshakePermit,
        (is_first, until, registration): (bool, &ShutdownTokens, &Registration),
    ) -> io::Result<Option<Open>> {
        let mut rotations = self.proxy.control.credentials.changes();
        let limit = match is_first {
            true => self.proxy.control.config.limits.handshake_timeout,
            // The calling side ends it first, unless it has gone.
            false => self.proxy.control.config.tunnels.idle_timeout * 2,
        };
        tokio::select! {
            biased;
            () = registration.cut.cancelled() => Ok(None),
            opened = poll_fn(|cx| wire.poll_opened(cx)) => opened,
            () = until.stop.cancelled() => Ok(None),
            _ = rotations.wait_for(|newest| *newest != generation) => Ok(None),
            () = place.evicted.cancelled() => {
                if is_first {
                    self.tell_unopened("handshakes_pending", evicted(self.pending.max(), place.stage()), registration);
                }
                Ok(None)
            }
            () = tokio::time::sleep(limit) => {
                if is_first {
                    let detail = format!("no connection was opened within {limit:?} of the handshake");
                    self.tell_unopened("handshake_timeout", detail, registration);
                }
                Ok(None)
            }
        }
    }

    /// One connection of the peer's app.
    async fn lease(
        &self,
        wire: &mut TunnelConnection,
        open: Open,
        place: &mut Option<HandshakePermit>,
        registration: &Arc<Registration>,
    ) -> io::Result<Afterwards> {
        let Some(peer) = registration.verified() else { return Err(io::ErrorKind::InvalidInput.into()) };
        if let Some(traceparent) = &open.trace {
            registration.record(|record| record.trace_id = trace::id(traceparent));
        }
        let _share = match self.decide_lease(&peer, &open, registration) {
            Ok(share) => share,
            Err(denial) => {
                // Who has too many connections may well have the next one later.
                let afterwards = if denial.code == OVER_LIMIT { Afterwards::Next } else { Afterwards::End };
                wire.refuse(self.refuse_lease(&peer, denial, registration));
                return match Box::pin(unless_evicted(place, settle(wire))).await {
                    Some(settled) => settled.map(|()| afterwards),
                    None => Err(io::ErrorKind::TimedOut.into()),
                };
            }
        };
        *place = None;
        let connecting = registration.wait_for(Box::pin(self.app.connect()));
        let (mut app, _in_flight) = match registration.cut.run_until_cancelled(connecting).await {
            Some(Ok(connected)) => connected,
            None => return Ok(self.cut(wire, registration)),
            Some(Err(error)) => {
                let denial = Denial { code: "app_unreachable", detail: one_line(&error) };
                wire.refuse(self.refuse_lease(&peer, denial, registration));
                Box::pin(settle(wire)).await?;
                return Ok(Afterwards::Next);
            }
        };
        reset_on_close(&app);
        wire.accept();
        if let Err(error) = Box::pin(self.introduce(&mut app, wire.tls().tcp(), registration)).await {
            registration.broke(&RelayError::App(error));
            drop(app);
            wire.reset(Vec::new());
            Box::pin(settle(wire)).await?;
            return Ok(Afterwards::Next);
        }
        registration.carries();
        let relayed = tokio::select! {
            biased;
            () = registration.cut.cancelled() => return Ok(self.cut(wire, registration)),
            relayed = relay(&mut app, wire, &registration.traffic) => relayed,
        };
        match relayed {
            Ok(()) => {
                registration.ended();
                close_cleanly(&app);
                Ok(Afterwards::Next)
            }
            Err(error) => {
                registration.broke(&error);
                if let RelayError::Peer(error) = error
                    && (!wire.lease().is_reset_by_peer() || TunnelError::of(&error).is_some())
                {
                    return Err(error);
                }
                drop(app);
                wire.reset(Vec::new());
                Box::pin(settle(wire)).await?;
                Ok(Afterwards::Next)
            }
        }
    }

    /// The lease is no longer allowed: the caller is told why.
    fn cut(&self, wire: &mut TunnelConnection, registration: &Registration) -> Afterwards {
        let note = registration.cut_for().map(|Denial { code: reason, detail }| {
            let mut problem = Problem::new(StatusCode::FORBIDDEN, reason, self.proxy.refusals.number());
            problem.detail = (self.inbound.tell_callers == TellCallers::Everything).then(|| detail.clone());
            problem.document()
        });
        wire.reset(note.unwrap_or_default());
        Afterwards::End
    }

    /// The decision on one OPEN. The peer may have been believed long ago.
    fn decide_lease(
        &self,
        peer: &VerifiedSvid,
        open: &Open,
        registration: &Registration,
    ) -> Result<PeerPermit, Denial> {
        let proxy = &self.proxy;
        proxy.control.still_believes(peer)?;
        let (not_after, now) = (peer.not_after(), proxy.control.clock.now());
        if !is_valid_at(not_after, now) {
            let detail = format!("the certificate with which this tunnel began expired at {not_after}");
            return Err(Denial { code: "peer_expired", detail });
        }
        let credentials = proxy.control.valid_credentials()?;
        if let Some(port) = open.port.as_ref().filter(|port| **port != self.inbound.name) {
            let detail = format!("the port {port:?} was called, this is {:?}", self.inbound.name);
            return Err(Denial { code: "wrong_port", detail });
        }
        decide(proxy, &self.inbound, registration, peer.id(), credentials.svid.id())?;
        make_room(proxy, &self.shares, peer.id())
    }

    /// Tells a refused lease: the log everything, the caller, in the document, as much as it may know.
    fn refuse_lease(&self, peer: &VerifiedSvid, denial: Denial, registration: &Registration) -> Vec<u8> {
        let Denial { code: reason, detail } = denial;
        let instance = self.proxy.refusals.number();
        registration.record(|record| {
            record.refused(reason, &detail);
            record.instance = Some(instance);
        });
        let (proxy, called, from) = (&self.proxy, self.called(), peer.id().to_string());
        let policy = proxy.control.policy.current();
        let explain = called
            .id
            .as_ref()
            .filter(|_| reason == "denied")
            .map(|own| explain_command(policy.as_deref(), &from, own, Some(&self.inbound.name)));
        let status = match reason {
            "app_unreachable" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::FORBIDDEN,
        };
        let mut problem = Problem::new(status, reason, instance);
        if self.inbound.tell_callers == TellCallers::Everything {
            problem.detail = Some(detail.clone());
            problem.question = Some(Question {
                caller: Some(from.clone()),
                service: called.id.clone(),
                port: Some(self.inbound.name.clone()),
                call: None,
                policy: policy.map(|policy| policy.digest().to_owned()),
                explain: explain.clone(),
            });
        }
        let instance = Some(instance.to_string());
        proxy.refusals.tell(Refusal {
            direction: Direction::Inbound,
            from,
            called,
            reason,
            detail,
            explain,
            instance,
        });
        problem.document()
    }
}

impl InboundServer {
    /// A peer that proved itself and opened nothing had to go.
    fn tell_unopened(&self, reason: &'static str, detail: String, registration: &Registration) {
        let Some(peer) = registration.peer() else { return };
        self.tell_of(&peer, reason, detail);
    }

    /// That a peer breaks the rules is told; that it went away is not.
    fn tell_broken(&self, error: &io::Error, registration: &Registration) {
        let (Some(broken), Some(peer)) = (TunnelError::of(error), registration.peer()) else {
            return debug!(%error, "a tunnel broke");
        };
        self.tell_of(&peer, broken.reason(), one_line(broken));
    }

    fn tell_of(&self, peer: &SpiffeId, reason: &'static str, detail: String) {
        self.proxy.refusals.tell(Refusal {
            direction: Direction::Inbound,
            from: peer.to_string(),
            called: self.called(),
            reason,
            detail,
            explain: None,
            instance: None,
        });
    }
}

/// Waits as long as the place, where there is one, is not needed by a newer connection.
async fn unless_evicted<T>(place: &Option<HandshakePermit>, work: impl Future<Output = T>) -> Option<T> {
    let Some(place) = place else { return Some(work.await) };
    place.advance(HandshakeStage::Closing);
    place.evicted.run_until_cancelled(work).await
}
