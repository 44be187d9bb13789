//! One listener: accepts within its limit, survives running out of descriptors, and ends in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::descriptors::is_reserved;
use crate::ending::{prepare, reset_on_close};
use crate::metrics::Direction;
use crate::plane::Plane;
use crate::refusals::{Called, Refusal};

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: u32 = 4096;
/// Then those that were accepted get their turn, so that in a flood each can say something before the next come.
const ACCEPTS_IN_A_ROW_MAX: usize = 16;
/// After accept failed for want of descriptors or memory, the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a listener looks after what it keeps.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What is done with a connection.
pub trait Serve: Send + Sync + 'static {
    fn direction(&self) -> Direction;
    /// Who is called here, for refusals.
    fn called(&self) -> Called;
    /// Serves one connection to its end, which `until` brings near. What must happen in the order of arrival happens
    /// in the call, the rest in the future.
    fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        until: &Until,
    ) -> impl Future<Output = ()> + Send + use<Self> + 'static;

    fn plane(&self) -> &Plane;

    /// Whether its requests are told one by one.
    fn speaks_http(&self) -> bool;

    /// Looks after what is kept beyond single connections, each second.
    fn look(&self) {}
    /// Keeps fresh what all its connections need, until `over`.
    fn tend(&self, over: CancellationToken) -> impl Future<Output = ()> + Send {
        over.cancelled_owned()
    }

    /// Ends what is kept beyond single connections, once the last of them is over.
    fn end(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// How connections end.
#[derive(Debug, Clone, Default)]
pub struct Until {
    /// No new connections, and no further requests on those that are open.
    pub stop: CancellationToken,
    /// Open connections are cut.
    pub abort: CancellationToken,
}

/// Opens a listener. A port that an ended connection still holds is taken over.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until it is told to stop and the last connection is over.
pub async fn run<S: Serve>(listener: TcpListener, service: Arc<S>, plane: Arc<Plane>, until: Until) {
    let (over, mut tending) = (CancellationToken::new(), JoinSet::new());
    let (tended, its_end) = (service.clone(), over.clone());
    tending.spawn(async move { tended.tend(its_end).await });
    accept(listener, &service, &plane, until).await;
    service.end().await;
    over.cancel();
    while let Some(ended) = tending.join_next().await {
        report(ended);
    }
}

/// Accepts until it is told to stop, then waits for the open connections.
async fn accept<S: Serve>(listener: TcpListener, service: &Arc<S>, plane: &Plane, until: Until) {
    let mut connections = JoinSet::new();
    let (mut in_a_row, mut starved) = (0, false);
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    let open = level(&**service, plane);
    let dead_after = plane.config.limits.dead_after;
    if let Err(error) = listener.local_addr().and_then(|at| prepare(&listener, at.ip(), dead_after)) {
        error!(%error, direction = service.direction().as_str(), "peers that are gone will not be noticed");
    }
    loop {
        open.set(connections.len().try_into().unwrap_or(i64::MAX));
        tokio::select! {
            () = until.stop.cancelled() => break,
            _ = look.tick() => service.look(),
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted.inspect(|_| tell_recovered(&**service, &mut starved)) {
                Ok((stream, from)) if is_reserved(&stream) => refuse(&**service, plane, &stream, from, Full::Descriptors),
                Ok((stream, from)) if connections.len() < plane.config.limits.connections_max => {
                    connections.spawn(service.clone().serve(stream, from, &until));
                    in_a_row += 1;
                    if in_a_row == ACCEPTS_IN_A_ROW_MAX {
                        in_a_row = 0;
                        tokio::task::yield_now().await;
                    }
                }
                Ok((stream, from)) => refuse(&**service, plane, &stream, from, Full::Connections),
                Err(error) => {
                    // A peer that left early is nothing; want of descriptors passes when connections end.
                    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                        if !starved {
                            warn!(%error, direction = service.direction().as_str(), "cannot accept");
                        }
                        starved = true;
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
        open.set(connections.len().try_into().unwrap_or(i64::MAX));
    }
}

/// Where the open connections of a listener are shown.
fn level<S: Serve>(service: &S, plane: &Plane) -> Gauge {
    let Called { id, service: name, port, .. } = service.called();
    let listener = port.or(name).or(id).unwrap_or_default();
    plane.metrics.levels.of_listener(service.direction(), listener)
}

/// Told once for each time of want, like its begin.
fn tell_recovered<S: Serve>(service: &S, starved: &mut bool) {
    if std::mem::take(starved) {
        info!(direction = service.direction().as_str(), "accepting again");
    }
}

/// A panic in one connection is that connection's end, and is told.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection's task failed");
    }
}

/// What there is no more of.
enum Full {
    Connections,
    Descriptors,
}

/// Whoever is too much is reset, and so knows at once that another address may do.
fn refuse<S: Serve>(service: &S, plane: &Plane, stream: &TcpStream, from: SocketAddr, full: Full) {
    reset_on_close(stream);
    let max = plane.config.limits.connections_max;
    let (reason, detail) = match full {
        Full::Connections => {
            ("connections_max", format!("{max} connections are open, as many as connections_max allows"))
        }
        Full::Descriptors => (
            "descriptors",
            "no file descriptor is left but those that are reserved for other things".to_owned(),
        ),
    };
    plane.refusals.tell(Refusal {
        direction: service.direction(),
        from: from.to_string(),
        called: service.called(),
        reason,
        detail,
        explain: None,
        instance: None,
    });
}
