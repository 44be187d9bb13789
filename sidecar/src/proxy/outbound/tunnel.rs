//! The client side of a tunnel: taken from the pool or opened, leased to one app connection, and returned to the
//! pool.

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
use crate::proxy::dialer::{ConnectedPeer, PeerPath};
use crate::proxy::http::Problem;
use crate::proxy::relay::relay;
use crate::proxy::tls::{EstablishedTls, TlsStream};
use crate::proxy::tunnel::{
    ALPN, Note, Open, Reauthentication, ReplayBuffer, Role, Tunnel, TunnelConnection, TunnelError, end,
    settle,
};
use crate::proxy::upstream::SelectedAddress;

/// Most tunnels tried for one app connection, while the peer cannot have processed any of its bytes.
const TRIES_MAX: usize = 4;

/// A path to the peer, which already carries the replayed first bytes of the app.
enum AppPath {
    /// OPEN is queued.
    Tunnel(Box<Tunnel>),
    /// The peer does not speak `postern/1`: the app's bytes are sent over plain mTLS.
    Direct(Box<TlsStream>),
}

/// How to handle a lease that failed at the peer's side.
enum BrokenLease {
    /// The peer has not processed these first bytes of the app.
    Retry(ReplayBuffer),
    Refused(Refusal),
    Failed(io::Error),
}

impl OutboundServer {
    /// Forwards one app connection, over a tunnel if the peer accepts one.
    pub(super) async fn forward(&self, mut app: TcpStream, registration: &Arc<Registration>) {
        let (trace, mut replay) = (self.trace(registration), ReplayBuffer::default());
        for _ in 0..TRIES_MAX {
            // Futures that do not run during the relay are boxed, so that the task is only as large as the relay.
            let starting = Box::pin(self.start(replay, trace.as_deref(), registration));
            let (mut tunnel, mut leased) = match registration.termination.run_until_cancelled(starting).await
            {
                None => return,
                Some(Ok((AppPath::Tunnel(tunnel), leased))) => (tunnel, leased),
                Some(Ok((AppPath::Direct(tls), leased))) => {
                    let forwarded = Box::pin(self.forward_direct(app, *tls, leased, registration));
                    let _terminated_or_carried =
                        registration.termination.run_until_cancelled(forwarded).await;
                    return;
                }
                Some(Err(refused)) => return self.report_refused(refused, registration),
            };
            registration.established();
            let relayed = tokio::select! {
                biased;
                () = registration.termination.cancelled() => {
                    drop(app);
                    return Box::pin(self.terminate_lease(tunnel, registration)).await;
                }
                relayed = relay(&mut app, &mut tunnel.connection, &registration.traffic) => relayed,
            };
            let error = match relayed {
                Ok(()) => {
                    registration.ended();
                    close_cleanly(&app);
                    return self.put(tunnel);
                }
                Err(error @ RelayError::App(_)) => {
                    registration.failed_with(&error);
                    drop(app);
                    tunnel.connection.reset(Vec::new());
                    return Box::pin(self.keep(tunnel)).await;
                }
                Err(RelayError::Peer(error)) => error,
            };
            let keep_tunnel = match self.broken(&mut tunnel, error) {
                BrokenLease::Retry(unprocessed) => {
                    replay = unprocessed;
                    if tunnel.is_new() {
                        // The tunnel was new, so the server refuses leases.
                        leased.failed();
                    }
                    // Other tunnels of the same age would fail as well.
                    self.pool.retire(|other| other.address != tunnel.address);
                    continue;
                }
                BrokenLease::Refused(refusal) => {
                    // Another port or app may still be reached over this tunnel, or this app later. A client without
                    // access does not keep its tunnel.
                    let keep_tunnel = matches!(refusal.reason, "app_unreachable" | OVER_LIMIT);
                    self.report_refused(vec![refusal], registration);
                    keep_tunnel
                }
                BrokenLease::Failed(error) => return self.report_broken(error, tunnel.address, registration),
            };
            drop(app);
            // Awaited here: the state of the arms above would make the task half as large again.
            return match keep_tunnel {
                true => Box::pin(self.keep(tunnel)).await,
                false => Box::pin(self.give_up(tunnel)).await,
            };
        }
        let detail = format!("{TRIES_MAX} tunnels in a row were ended before they answered");
        let refusal = self.dialer.refusal("unreachable", detail, None, None);
        self.report_refused(vec![refusal], registration);
    }

    /// Creates the trace context that the access logs of both sides record.
    fn trace(&self, registration: &Registration) -> Option<String> {
        let traceparent = self.dialer.proxy.access_log.is_on().then(trace::begin)??;
        registration.record(|record| record.trace_id = trace::id(&traceparent));
        Some(traceparent)
    }

    /// Sends the replayed bytes on a pooled tunnel or a new connection to one of the addresses.
    async fn start(
        &self,
        replay: ReplayBuffer,
        trace: Option<&str>,
        registration: &Arc<Registration>,
    ) -> Result<(AppPath, SelectedAddress), Vec<Refusal>> {
        registration.set_path(Path::Direct);
        let kept = |address| self.kept(address, registration);
        let (found, leased) = self.dialer.find(registration, &[ALPN], kept).await?;
        let address = leased.address();
        registration.record(|record| record.address = Some(address.to_string()));
        let mut tunnel = match found {
            PeerPath::Kept(tunnel) => {
                self.dialer.proxy.control.metrics.leased("kept");
                tunnel
            }
            PeerPath::New(reached) if reached.secured.alpn.as_deref() == Some(ALPN) => {
                let tunnel = self.tunnel(reached, &leased, registration);
                self.dialer.proxy.control.metrics.leased("new");
                tunnel.ok_or_else(|| vec![self.no_verified_peer(address)])?
            }
            PeerPath::New(reached) => {
                let mut tls = Box::new(reached.secured.stream);
                self.begin_direct(&mut tls, replay, address)?;
                return Ok((AppPath::Direct(tls), leased));
            }
        };
        let open = Open { port: self.dialer.outbound.port.clone(), trace: trace.map(str::to_owned) };
        tunnel.connection.open(open, replay);
        registration.set_path(Path::TunnelUnanswered);
        Ok((AppPath::Tunnel(tunnel), leased))
    }

    fn begin_direct(
        &self,
        tls: &mut TlsStream,
        replay: ReplayBuffer,
        address: SocketAddr,
    ) -> Result<(), Vec<Refusal>> {
        if let Some(port) = &self.dialer.outbound.port {
            return Err(vec![self.port_unverified(port, address)]);
        }
        tls.queue(&replay.into_bytes()).map_err(|error| {
            let detail = format!("nothing can be sealed for {address}: {}", one_line(&error));
            vec![self.dialer.refusal("tls_config", detail, Some(address), None)]
        })
    }

    fn no_verified_peer(&self, address: SocketAddr) -> Refusal {
        self.dialer.denial_refusal(Denial {
            code: "tls_config",
            detail: format!("nobody was verified at {address}"),
        })
    }

    /// Plain mTLS cannot verify the port.
    fn port_unverified(&self, port: &str, address: SocketAddr) -> Refusal {
        let detail =
            format!("{address} speaks no postern/1, so nobody can tell whether it is the port {port:?}");
        self.dialer.refusal("wrong_port", detail, Some(address), None)
    }

    /// Takes a pooled tunnel that was opened with the current own certificate to an identity that the policy still
    /// allows.
    fn kept(&self, address: SocketAddr, registration: &Arc<Registration>) -> Option<Box<Tunnel>> {
        let generation = self.dialer.proxy.control.credentials.current()?.generation;
        let (now, authorizer) = (self.dialer.proxy.control.clock.now(), self.dialer.authorizer(registration));
        let is_usable = |tunnel: &Tunnel| {
            tunnel.address == address
                && tunnel.generation == generation
                && is_valid_at(tunnel.peer.not_after(), now)
        };
        loop {
            let mut tunnel = self.pool.checkout(is_usable)?;
            // As in a handshake: registered first, then checked against the identity that the policy names now.
            if authorizer.authorize(&tunnel.peer).is_ok() {
                if let Some(reauthentication) = tunnel.connection.reauthentication() {
                    reauthentication.lease(Arc::new(authorizer), registration.traffic.clone());
                }
                return Some(tunnel);
            }
            self.pool.end(*tunnel);
        }
    }

    fn tunnel(
        &self,
        reached: Box<ConnectedPeer>,
        leased: &SelectedAddress,
        registration: &Arc<Registration>,
    ) -> Option<Box<Tunnel>> {
        let ConnectedPeer { secured: EstablishedTls { stream, exporter, .. }, generation, .. } = *reached;
        let peer = registration.verified()?;
        let to = (Arc::new(self.dialer.authorizer(registration)) as Arc<_>, registration.traffic.clone());
        let identity = (peer.id().clone(), generation);
        let mut connection = TunnelConnection::new(stream, Role::Caller);
        connection.set_reauthentication(Reauthentication::new(
            Role::Caller,
            exporter,
            self.dialer.proxy.control.clone(),
            identity,
            to,
        ));
        Some(Box::new(Tunnel::new(connection, peer, leased.address(), generation, leased.pooled())))
    }

    fn broken(&self, tunnel: &mut Tunnel, error: io::Error) -> BrokenLease {
        let (connection, address) = (&mut tunnel.connection, tunnel.address);
        if TunnelError::of(&error).is_some() {
            return BrokenLease::Failed(error);
        }
        if let Some(said) = connection.not_acted_on() {
            return BrokenLease::Retry(said);
        }
        if connection.lease().is_refused() {
            return BrokenLease::Refused(self.note_refusal(&Note::read(connection.note()), address));
        }
        match connection.lease().is_reset_by_peer() && !connection.note().is_empty() {
            true => BrokenLease::Refused(self.note_refusal(&Note::read(connection.note()), address)),
            false => BrokenLease::Failed(error),
        }
    }

    /// Terminates a lease that is no longer allowed, with RESET, so that the server sees no clean end.
    async fn terminate_lease(&self, mut tunnel: Box<Tunnel>, registration: &Registration) {
        let note = registration.terminated_for().map(|Denial { code: reason, .. }| {
            Problem::new(StatusCode::FORBIDDEN, reason, self.dialer.proxy.refusals.number()).document()
        });
        tunnel.connection.reset(note.unwrap_or_default());
        end(tunnel.connection).await;
    }

    /// Ends the rest of a lease, and returns the tunnel to the pool if that succeeds.
    async fn keep(&self, mut tunnel: Box<Tunnel>) {
        match settle(&mut tunnel.connection).await {
            Ok(()) => self.put(tunnel),
            Err(error) => tracing::debug!(%error, "a tunnel broke"),
        }
    }

    /// Returns a tunnel to the pool. A waiting connection may take it at once.
    fn put(&self, tunnel: Box<Tunnel>) {
        let address = tunnel.address;
        self.pool.put(tunnel);
        self.dialer.slots.freed(address);
    }

    async fn give_up(&self, mut tunnel: Box<Tunnel>) {
        let settled = settle(&mut tunnel.connection).await;
        tracing::trace!(?settled, "a tunnel is given up");
        self.pool.end(*tunnel);
    }

    /// Reports a protocol violation as a refusal; a disconnect is only recorded.
    fn report_broken(&self, error: io::Error, address: SocketAddr, registration: &Registration) {
        let Some(broken) = TunnelError::of(&error) else {
            return registration.failed_with(&RelayError::Peer(error));
        };
        let detail = format!("the tunnel to {address} broke: {}", one_line(broken));
        self.report_refused(
            vec![self.dialer.refusal(broken.reason(), detail, Some(address), None)],
            registration,
        );
    }

    fn report_refused(&self, refused: Vec<Refusal>, registration: &Registration) {
        for Refusal { reason, detail, .. } in &refused {
            registration.record(|record| record.refused(reason, detail));
        }
        self.dialer.report_all(refused);
    }

    fn note_refusal(&self, note: &Note, address: SocketAddr) -> Refusal {
        let (reason, detail) = (note.reason(), format!("{address} refused us: {}", note.detail()));
        let mut refusal = match reason {
            "access_denied" => self.dialer.with_local_decision(reason, detail, address),
            _ => self.dialer.refusal(reason, detail, Some(address), None),
        };
        refusal.instance = note.instance.clone();
        refusal
    }

    /// Retires idle tunnels that are no longer usable.
    pub(super) fn maintain_pool(&self) {
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
