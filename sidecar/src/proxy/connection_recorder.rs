//! Records a connection in the metrics when it begins, and in metrics and access log when it ends, whatever ends it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::observability::Direction;
use crate::observability::access_log::AccessLogEntry;
use crate::observability::{Ended, EndedBy, EndedWith};
use crate::proxy::connections::Registration;
use crate::proxy::listener::Serve;

/// Dropped at the connection's end.
#[derive(Debug)]
pub struct ConnectionRecorder<S: Serve> {
    server: Arc<S>,
    registration: Arc<Registration>,
    from: SocketAddr,
    began: Instant,
}

impl<S: Serve> ConnectionRecorder<S> {
    pub fn new(server: Arc<S>, registration: Arc<Registration>, from: SocketAddr) -> Self {
        registration.begin();
        // The destination of an outbound connection is not known yet.
        if server.direction() == Direction::Inbound {
            registration.opened();
        }
        Self { server, registration, from, began: Instant::now() }
    }

    fn is_of_nobody(&self) -> bool {
        self.server.direction() == Direction::Inbound && self.registration.peer().is_none()
    }

    fn from(&self) -> String {
        let own = || Some(self.server.proxy().control.credentials.current()?.svid.id().to_string());
        let known = match self.server.direction() {
            Direction::Inbound => self.registration.peer().map(|peer| peer.to_string()),
            Direction::Outbound => own(),
        };
        known.unwrap_or_else(|| self.from.to_string())
    }
}

impl<S: Serve> Drop for ConnectionRecorder<S> {
    fn drop(&mut self) {
        let proxy = self.server.proxy();
        self.registration.opened();
        if let (Some(listener), false) = (self.registration.listener_series(), self.server.speaks_http())
            && self.registration.series().is_some()
        {
            listener.connection_duration.observe(self.began.elapsed());
        }
        let Some(mut record) = self.registration.recorded() else { return };
        // Requests of an admitted HTTP connection are recorded one by one.
        if self.server.speaks_http() && matches!(record.decision, Some("allow" | "observed")) {
            return;
        }
        // A client that disconnected without sending anything is not logged.
        if record.decision.is_none() && record.reason.is_none() && self.is_of_nobody() {
            return;
        }
        if self.registration.termination.is_cancelled() && record.reason.is_none() {
            let denial = self.registration.terminated_for();
            record.reason = Some(denial.map_or("cut", |denial| denial.code));
            record.detail = denial.map(|denial| denial.detail.clone());
            record.ended = Some(Ended { by: EndedBy::Sidecar, with: EndedWith::Cut });
        }
        let bytes = &self.registration.traffic;
        proxy.access_log.write(&AccessLogEntry {
            time: proxy.control.clock.now(),
            direction: self.server.direction(),
            protocol: if self.server.speaks_http() { "http" } else { "tcp" },
            from: &self.from(),
            called: &self.server.called(),
            call: None,
            record: &record,
            bytes: (bytes.to_app.load(Ordering::Relaxed), bytes.to_peer.load(Ordering::Relaxed)),
            duration: self.began.elapsed(),
            connection: Some(self.registration.number()),
        });
    }
}
