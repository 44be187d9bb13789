//! The server side of a tunnel: authorizes, forwards and records each lease separately.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::{Denial, OVER_LIMIT};
use postern_server::{HandshakePermit, HandshakeStage};
use tracing::debug;

use super::refusal::evicted;
use super::{AcceptedPeer, InboundServer, PolicyCheck, acquire_permit, decide};
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
use crate::proxy::tls::EstablishedTls;
pub(super) use crate::proxy::tunnel::ALPN;
use crate::proxy::tunnel::{
    Open, Reauthentication, Role, TunnelConnection, TunnelError, end, retire, settle,
};

/// What follows a lease.
enum AfterLease {
    Next,
    /// The tunnel ends: a peer without access does not keep it.
    End,
}

impl InboundServer {
    /// Serves one lease after another until the tunnel ends. Until the first lease is admitted, the tunnel counts
    /// against the handshake limit: a peer without access, or one that sends nothing, has no more than that.
    pub(super) async fn serve_tunnel(
        self: &Arc<Self>,
        mut connection: Box<TunnelConnection>,
        (generation, permit): (u64, HandshakePermit),
        (from, registration, until): (SocketAddr, &Arc<Registration>, &ShutdownTokens),
    ) {
        registration.rest();
        let mut permit = Some(permit);
        let retires = loop {
            let is_first = permit.is_some();
            let waits = permit.take().unwrap_or_else(|| self.idle.acquire(HandshakeStage::Authenticated));
            waits.advance(HandshakeStage::Authenticated);
            let next = self.next_lease(&mut connection, generation, &waits, (is_first, until, registration));
            match Box::pin(next).await {
                Ok(Some(open)) => {
                    permit = is_first.then_some(waits);
                    registration.lease();
                    let told_at_the_end = ConnectionRecorder::new(self.clone(), registration.clone(), from);
                    let forwarded = self.lease(&mut connection, open, &mut permit, registration).await;
                    drop(told_at_the_end);
                    registration.rest();
                    match forwarded {
                        Ok(AfterLease::Next) => {}
                        Ok(AfterLease::End) => break false,
                        Err(error) => return self.report_broken(&error, registration),
                    }
                }
                Ok(None) => {
                    permit = is_first.then_some(waits);
                    break true;
                }
                Err(error) => return self.report_broken(&error, registration),
            }
        };
        match permit {
            Some(permit) if permit.evicted.is_cancelled() => connection.close(),
            None if retires => Box::pin(retire(*connection)).await,
            permit => {
                Box::pin(unless_evicted(&permit, end(*connection))).await;
            }
        }
    }

    /// Wraps an admitted connection.
    pub(super) fn tunnel(
        &self,
        accepted_peer: Box<AcceptedPeer>,
        registration: &Arc<Registration>,
    ) -> Option<Box<TunnelConnection>> {
        let AcceptedPeer { secured: EstablishedTls { stream, exporter, .. }, generation } = *accepted_peer;
        let (peer, credentials) = (registration.verified()?, self.proxy.control.credentials.current()?);
        let control = self.proxy.control.clone();
        let authorizer = self.authorizer(PolicyCheck::Recheck, credentials, registration.clone());
        let to = (Arc::new(authorizer) as Arc<_>, registration.traffic.clone());
        let mut connection = Box::new(TunnelConnection::new(stream, Role::Called));
        connection.set_reauthentication(Reauthentication::new(
            Role::Called,
            exporter,
            control,
            (peer.id().clone(), generation),
            to,
        ));
        registration.set_path(Path::Tunnel);
        Some(connection)
    }

    /// Waits for the next OPEN. `None` if the tunnel must end: by the peer, by age, by a certificate rotation here,
    /// or by eviction.
    async fn next_lease(
        &self,
        connection: &mut TunnelConnection,
        generation: u64,
        permit: &HandshakePermit,
        (is_first, until, registration): (bool, &ShutdownTokens, &Registration),
    ) -> io::Result<Option<Open>> {
        let mut rotations = self.proxy.control.credentials.changes();
        let limit = match is_first {
            true => self.proxy.control.config.limits.handshake_timeout,
            // The client ends it first, unless the client is gone.
            false => self.proxy.control.config.tunnels.idle_timeout * 2,
        };
        tokio::select! {
            biased;
            () = registration.termination.cancelled() => Ok(None),
            opened = poll_fn(|cx| connection.poll_opened(cx)) => opened,
            () = until.stop.cancelled() => Ok(None),
            _ = rotations.wait_for(|newest| *newest != generation) => Ok(None),
            () = permit.evicted.cancelled() => {
                if is_first {
                    self.report_unopened("handshakes_pending", evicted(self.pending.max(), permit.stage()), registration);
                }
                Ok(None)
            }
            () = tokio::time::sleep(limit) => {
                if is_first {
                    let detail = format!("no connection was opened within {limit:?} of the handshake");
                    self.report_unopened("handshake_timeout", detail, registration);
                }
                Ok(None)
            }
        }
    }

    /// Serves one lease: a connection of the peer's app.
    async fn lease(
        &self,
        connection: &mut TunnelConnection,
        open: Open,
        permit: &mut Option<HandshakePermit>,
        registration: &Arc<Registration>,
    ) -> io::Result<AfterLease> {
        let Some(peer) = registration.verified() else { return Err(io::ErrorKind::InvalidInput.into()) };
        if let Some(traceparent) = &open.trace {
            registration.record(|record| record.trace_id = trace::id(traceparent));
        }
        let _permit = match self.decide_lease(&peer, &open, registration) {
            Ok(usage) => usage,
            Err(denial) => {
                // A peer over its connection limit may be admitted later.
                let after_lease = if denial.code == OVER_LIMIT { AfterLease::Next } else { AfterLease::End };
                connection.refuse(self.refuse_lease(&peer, denial, registration));
                return match Box::pin(unless_evicted(permit, settle(connection))).await {
                    Some(settled) => settled.map(|()| after_lease),
                    None => Err(io::ErrorKind::TimedOut.into()),
                };
            }
        };
        *permit = None;
        let connecting = registration.wait_for(Box::pin(self.app.connect()));
        let (mut app, _in_flight) = match registration.termination.run_until_cancelled(connecting).await {
            Some(Ok(connected)) => connected,
            None => return Ok(self.terminate_lease(connection, registration)),
            Some(Err(error)) => {
                let denial = Denial { code: "app_unreachable", detail: one_line(&error) };
                connection.refuse(self.refuse_lease(&peer, denial, registration));
                Box::pin(settle(connection)).await?;
                return Ok(AfterLease::Next);
            }
        };
        reset_on_close(&app);
        connection.accept();
        if let Err(error) =
            Box::pin(self.send_proxy_header(&mut app, connection.tls().tcp(), registration)).await
        {
            registration.failed_with(&RelayError::App(error));
            drop(app);
            connection.reset(Vec::new());
            Box::pin(settle(connection)).await?;
            return Ok(AfterLease::Next);
        }
        registration.established();
        let relayed = tokio::select! {
            biased;
            () = registration.termination.cancelled() => return Ok(self.terminate_lease(connection, registration)),
            relayed = relay(&mut app, connection, &registration.traffic) => relayed,
        };
        match relayed {
            Ok(()) => {
                registration.ended();
                close_cleanly(&app);
                Ok(AfterLease::Next)
            }
            Err(error) => {
                registration.failed_with(&error);
                if let RelayError::Peer(error) = error
                    && (!connection.lease().is_reset_by_peer() || TunnelError::of(&error).is_some())
                {
                    return Err(error);
                }
                drop(app);
                connection.reset(Vec::new());
                Box::pin(settle(connection)).await?;
                Ok(AfterLease::Next)
            }
        }
    }

    /// Terminates a lease that is no longer allowed, and sends the reason to the client.
    fn terminate_lease(&self, connection: &mut TunnelConnection, registration: &Registration) -> AfterLease {
        let note = registration.terminated_for().map(|Denial { code: reason, detail }| {
            let mut problem = Problem::new(StatusCode::FORBIDDEN, reason, self.proxy.refusals.number());
            problem.detail = (self.inbound.tell_callers == TellCallers::Everything).then(|| detail.clone());
            problem.document()
        });
        connection.reset(note.unwrap_or_default());
        AfterLease::End
    }

    /// Authorizes one OPEN. The peer may have been verified long ago, so its certificate is checked again.
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
        acquire_permit(proxy, &self.peer_limits, peer.id())
    }

    /// Reports a refused lease: all details to the log, and to the client what `tell_callers` permits.
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
    /// Reports a verified peer that was disconnected without having opened a lease.
    fn report_unopened(&self, reason: &'static str, detail: String, registration: &Registration) {
        let Some(peer) = registration.peer() else { return };
        self.report_peer(&peer, reason, detail);
    }

    /// Reports a protocol violation. A disconnect is only traced.
    fn report_broken(&self, error: &io::Error, registration: &Registration) {
        let (Some(broken), Some(peer)) = (TunnelError::of(error), registration.peer()) else {
            return debug!(%error, "a tunnel broke");
        };
        self.report_peer(&peer, broken.reason(), one_line(broken));
    }

    fn report_peer(&self, peer: &SpiffeId, reason: &'static str, detail: String) {
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

/// Runs `work` until the permit, if any, is evicted by a newer connection.
async fn unless_evicted<T>(permit: &Option<HandshakePermit>, work: impl Future<Output = T>) -> Option<T> {
    let Some(permit) = permit else { return Some(work.await) };
    permit.advance(HandshakeStage::Closing);
    permit.evicted.run_until_cancelled(work).await
}
