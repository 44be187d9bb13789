//! The calling side of a tunnel: taken from the pool or made, leased to one connection of the app, and kept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use postern_proto::mtls::{Authorizer as _, Denial, OVER_LIMIT};
use tokio::net::TcpStream;

use super::OutboundServer;
use crate::error_text::one_line;
use crate::identity::credentials::is_valid_at;
use crate::network::socket::close_cleanly;
use crate::observability::refusals::Refusal;
use crate::observability::trace;
use crate::proxy::connections::RelayError;
use crate::proxy::connections::{Path, Registration};
use crate::proxy::dialer::{Found, Reached};
use crate::proxy::http::Problem;
use crate::proxy::relay::relay;
use crate::proxy::tls::{Secured, TlsStream};
use crate::proxy::tunnel::{
    ALPN, Note, Open, Reauthentication, ReplayBuffer, Role, Tunnel, TunnelConnection, TunnelError, end,
    settle,
};
use crate::proxy::upstream::Leased;

/// A connection of the app is tried on so many tunnels, as long as nobody can have acted on what it said.
const TRIES_MAX: usize = 4;

/// A path to the peer, which has begun with what the app has said already.
enum Begun {
    /// OPEN waits to be sent.
    Tunnel(Box<Tunnel>),
    /// The peer speaks no `postern/1`: the app's bytes go in plain mTLS.
    Direct(Box<TlsStream>),
}

/// What is left to do when a lease has broken at the peer's side.
enum Broken {
    /// Nobody has acted on these first bytes of the app.
    Again(ReplayBuffer),
    Refused(Refusal),
    Over(io::Error),
}

impl OutboundServer {
    /// Carries one connection of the app, by a tunnel if the peer takes one.
    pub(super) async fn carry(&self, mut app: TcpStream, registration: &Arc<Registration>) {
        let (trace, mut replay) = (self.trace(registration), ReplayBuffer::default());
        for _ in 0..TRIES_MAX {
            // What is over while bytes are relayed, or comes after it, is boxed: the task is as small as the relay.
            let beginning = Box::pin(self.begin(replay, trace.as_deref(), registration));
            let (mut tunnel, mut leased) = match registration.cut.run_until_cancelled(beginning).await {
                None => return,
                Some(Ok((Begun::Tunnel(tunnel), leased))) => (tunnel, leased),
                Some(Ok((Begun::Direct(tls), leased))) => {
                    let carried = Box::pin(self.carry_direct(app, *tls, leased, registration));
                    let _cut_or_carried = registration.cut.run_until_cancelled(carried).await;
                    return;
                }
                Some(Err(refused)) => return self.tell_refused(refused, registration),
            };
            registration.carries();
            let relayed = tokio::select! {
                biased;
                () = registration.cut.cancelled() => {
                    drop(app);
                    return Box::pin(self.cut(tunnel, registration)).await;
                }
                relayed = relay(&mut app, &mut tunnel.wire, &registration.traffic) => relayed,
            };
            let error = match relayed {
                Ok(()) => {
                    registration.ended();
                    close_cleanly(&app);
                    return self.put(tunnel);
                }
                Err(error @ RelayError::App(_)) => {
                    registration.broke(&error);
                    drop(app);
                    tunnel.wire.reset(Vec::new());
                    return Box::pin(self.keep(tunnel)).await;
                }
                Err(RelayError::Peer(error)) => error,
            };
            let keeps = match self.broken(&mut tunnel, error) {
                Broken::Again(unsaid) => {
                    replay = unsaid;
                    if tunnel.is_new() {
                        // It was not stale: whoever listens there takes no lease.
                        leased.failed();
                    }
                    // What is stale has company: others of that age would fail as well.
                    self.pool.retire(|other| other.address != tunnel.address);
                    continue;
                }
                Broken::Refused(refusal) => {
                    // Another port or another app may still be reached by it, or this one later; who may not connect
                    // keeps no tunnel.
                    let keeps = matches!(refusal.reason, "app_unreachable" | OVER_LIMIT);
                    self.tell_refused(vec![refusal], registration);
                    keeps
                }
                Broken::Over(error) => return self.tell_broken(error, tunnel.address, registration),
            };
            drop(app);
            // Awaited here: what the arms above hold would else make the task half as large again.
            return match keeps {
                true => Box::pin(self.keep(tunnel)).await,
                false => Box::pin(self.give_up(tunnel)).await,
            };
        }
        let detail = format!("{TRIES_MAX} tunnels in a row were ended before they answered");
        let refusal = self.dialer.refusal("unreachable", detail, None, None);
        self.tell_refused(vec![refusal], registration);
    }

    /// Names a connection that the access log will tell of, so that the called side can tell of it by the same name.
    fn trace(&self, registration: &Registration) -> Option<String> {
        let traceparent = self.dialer.proxy.access_log.is_on().then(trace::begin)??;
        registration.record(|record| record.trace_id = trace::id(&traceparent));
        Some(traceparent)
    }

    /// Begins with what the app has said on a tunnel of the pool, or on a new connection, to one of the addresses.
    async fn begin(
        &self,
        replay: ReplayBuffer,
        trace: Option<&str>,
        registration: &Arc<Registration>,
    ) -> Result<(Begun, Leased), Vec<Refusal>> {
        registration.set_path(Path::Direct);
        let kept = |address| self.kept(address, registration);
        let (found, leased) = self.dialer.find(registration, &[ALPN], kept).await?;
        let address = leased.address();
        registration.record(|record| record.address = Some(address.to_string()));
        let mut tunnel = match found {
            Found::Kept(tunnel) => {
                self.dialer.proxy.control.metrics.leased("kept");
                tunnel
            }
            Found::New(reached) if reached.secured.alpn.as_deref() == Some(ALPN) => {
                let tunnel = self.tunnel(reached, &leased, registration);
                self.dialer.proxy.control.metrics.leased("new");
                tunnel.ok_or_else(|| vec![self.of_nobody(address)])?
            }
            Found::New(reached) => {
                let mut tls = Box::new(reached.secured.stream);
                self.begin_direct(&mut tls, replay, address)?;
                return Ok((Begun::Direct(tls), leased));
            }
        };
        let open = Open { port: self.dialer.outbound.port.clone(), trace: trace.map(str::to_owned) };
        tunnel.wire.open(open, replay);
        registration.set_path(Path::TunnelUnanswered);
        Ok((Begun::Tunnel(tunnel), leased))
    }

    fn begin_direct(
        &self,
        tls: &mut TlsStream,
        replay: ReplayBuffer,
        address: SocketAddr,
    ) -> Result<(), Vec<Refusal>> {
        if let Some(port) = &self.dialer.outbound.port {
            return Err(vec![self.of_no_port(port, address)]);
        }
        tls.queue(&replay.into_bytes()).map_err(|error| {
            let detail = format!("nothing can be sealed for {address}: {}", one_line(&error));
            vec![self.dialer.refusal("tls_config", detail, Some(address), None)]
        })
    }

    fn of_nobody(&self, address: SocketAddr) -> Refusal {
        self.dialer
            .of_denial(Denial { code: "tls_config", detail: format!("nobody was verified at {address}") })
    }

    /// In plain mTLS nobody would make sure of the port.
    fn of_no_port(&self, port: &str, address: SocketAddr) -> Refusal {
        let detail =
            format!("{address} speaks no postern/1, so nobody can tell whether it is the port {port:?}");
        self.dialer.refusal("wrong_port", detail, Some(address), None)
    }

    /// A tunnel of the pool that was made as the newest own identity, to whom the policy still names.
    fn kept(&self, address: SocketAddr, registration: &Arc<Registration>) -> Option<Box<Tunnel>> {
        let generation = self.dialer.proxy.control.credentials.current()?.generation;
        let (now, door) = (self.dialer.proxy.control.clock.now(), self.dialer.door(registration));
        let fits = |tunnel: &Tunnel| {
            tunnel.address == address
                && tunnel.generation == generation
                && is_valid_at(tunnel.peer.not_after(), now)
        };
        loop {
            let mut tunnel = self.pool.checkout(fits)?;
            // As in a handshake: who it is is known to the register first, and then asked whom the policy names now.
            if door.authorize(&tunnel.peer).is_ok() {
                if let Some(vouching) = tunnel.wire.vouching() {
                    vouching.lease(Arc::new(door), registration.traffic.clone());
                }
                return Some(tunnel);
            }
            self.pool.end(*tunnel);
        }
    }

    fn tunnel(
        &self,
        reached: Box<Reached>,
        leased: &Leased,
        registration: &Arc<Registration>,
    ) -> Option<Box<Tunnel>> {
        let Reached { secured: Secured { stream, exporter, .. }, generation, .. } = *reached;
        let peer = registration.verified()?;
        let to = (Arc::new(self.dialer.door(registration)) as Arc<_>, registration.traffic.clone());
        let who = (peer.id().clone(), generation);
        let mut wire = TunnelConnection::new(stream, Role::Caller);
        wire.vouch(Reauthentication::new(Role::Caller, exporter, self.dialer.proxy.control.clone(), who, to));
        Some(Box::new(Tunnel::new(wire, peer, leased.address(), generation, leased.pooled())))
    }

    fn broken(&self, tunnel: &mut Tunnel, error: io::Error) -> Broken {
        let (wire, address) = (&mut tunnel.wire, tunnel.address);
        if TunnelError::of(&error).is_some() {
            return Broken::Over(error);
        }
        if let Some(said) = wire.not_acted_on() {
            return Broken::Again(said);
        }
        if wire.lease().is_refused() {
            return Broken::Refused(self.of_note(&Note::read(wire.note()), address));
        }
        match wire.lease().is_reset_by_peer() && !wire.note().is_empty() {
            true => Broken::Refused(self.of_note(&Note::read(wire.note()), address)),
            false => Broken::Over(error),
        }
    }

    /// The connection is no longer allowed: the called side is told that this is no clean end.
    async fn cut(&self, mut tunnel: Box<Tunnel>, registration: &Registration) {
        let note = registration.cut_for().map(|Denial { code: reason, .. }| {
            Problem::new(StatusCode::FORBIDDEN, reason, self.dialer.proxy.refusals.number()).document()
        });
        tunnel.wire.reset(note.unwrap_or_default());
        end(tunnel.wire).await;
    }

    /// Ends what is left of a lease, and keeps the tunnel if that goes well.
    async fn keep(&self, mut tunnel: Box<Tunnel>) {
        match settle(&mut tunnel.wire).await {
            Ok(()) => self.put(tunnel),
            Err(error) => tracing::debug!(%error, "a tunnel broke"),
        }
    }

    /// Keeps it for the next connection of the app, which may wait for it already.
    fn put(&self, tunnel: Box<Tunnel>) {
        let address = tunnel.address;
        self.pool.put(tunnel);
        self.dialer.slots.freed(address);
    }

    async fn give_up(&self, mut tunnel: Box<Tunnel>) {
        let settled = settle(&mut tunnel.wire).await;
        tracing::trace!(?settled, "a tunnel is given up");
        self.pool.end(*tunnel);
    }

    /// That a peer breaks the rules is a refusal; that it went away is not.
    fn tell_broken(&self, error: io::Error, address: SocketAddr, registration: &Registration) {
        let Some(broken) = TunnelError::of(&error) else {
            return registration.broke(&RelayError::Peer(error));
        };
        let detail = format!("the tunnel to {address} broke: {}", one_line(broken));
        self.tell_refused(
            vec![self.dialer.refusal(broken.reason(), detail, Some(address), None)],
            registration,
        );
    }

    fn tell_refused(&self, refused: Vec<Refusal>, registration: &Registration) {
        for Refusal { reason, detail, .. } in &refused {
            registration.record(|record| record.refused(reason, detail));
        }
        self.dialer.tell_all(refused);
    }

    fn of_note(&self, note: &Note, address: SocketAddr) -> Refusal {
        let (reason, detail) = (note.reason(), format!("{address} refused us: {}", note.detail()));
        let mut refusal = match reason {
            "access_denied" => self.dialer.with_own_opinion(reason, detail, address),
            _ => self.dialer.refusal(reason, detail, Some(address), None),
        };
        refusal.instance = note.instance.clone();
        refusal
    }

    /// Retires idle tunnels that would not be used any more.
    pub(super) fn look_after_pool(&self) {
        let (own, now) =
            (self.dialer.proxy.control.valid_credentials().ok(), self.dialer.proxy.control.clock.now());
        let expected = self.dialer.proxy.control.expected(&self.dialer.outbound.target).ok();
        self.pool.retire(|tunnel| {
            own.as_ref().is_some_and(|own| own.generation == tunnel.generation)
                && expected.as_ref() == Some(tunnel.peer.id())
                && is_valid_at(tunnel.peer.not_after(), now)
                && self.dialer.proxy.control.still_believes(&tunnel.peer).is_ok()
        });
    }
}
