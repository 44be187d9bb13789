//! One listener: accepts within its limit, survives running out of descriptors, and ends in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::network::descriptors::is_reserved;
use crate::network::socket::{prepare, reset_on_close};
use crate::observability::Direction;
use crate::observability::refusals::{Called, Refusal};
use crate::proxy::state::ProxyState;

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: u32 = 4096;
/// Connections accepted before the task yields, so that in a flood each accepted one is served before the next.
const ACCEPTS_IN_A_ROW_MAX: usize = 16;
/// Pause after accept failed for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Interval of [`Serve::maintain`].
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Serves the connections of one listener.
pub trait Serve: Send + Sync + 'static {
    fn direction(&self) -> Direction;
    /// The service behind the listener, for refusals.
    fn called(&self) -> Called;
    /// Serves one connection until it ends or `until` stops it. What must happen in order of arrival happens in the
    /// call, the rest in the future.
    fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        until: &ShutdownTokens,
    ) -> impl Future<Output = ()> + Send + use<Self> + 'static;

    fn proxy(&self) -> &ProxyState;

    /// Whether requests are recorded one by one.
    fn speaks_http(&self) -> bool;

    /// Maintains state that outlives single connections; called each second.
    fn maintain(&self) {}
    /// Runs the background work that all connections need, until `over`.
    fn run_background(&self, over: CancellationToken) -> impl Future<Output = ()> + Send {
        over.cancelled_owned()
    }

    /// Ends state that outlives single connections, after the last of them has ended.
    fn end(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// The two phases of a shutdown.
#[derive(Debug, Clone, Default)]
pub struct ShutdownTokens {
    /// No new connections, and no further requests on those that are open.
    pub stop: CancellationToken,
    /// Open connections are terminated.
    pub abort: CancellationToken,
}

/// The address families that an IPv6 listener accepts. The kernel's default (net.ipv6.bindv6only) does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// Its own family only.
    Own,
    /// `[::]` accepts IPv4 clients, too.
    Both,
}

impl Families {
    /// The families for one of all listen addresses: `[::]` leaves IPv4 to a `0.0.0.0` with the same port.
    pub fn of(address: SocketAddr, mut all: impl Iterator<Item = SocketAddr>) -> Self {
        let is_any = address.is_ipv6() && address.ip().is_unspecified();
        let is_shared = all.any(|other| {
            other.is_ipv4()
                && other.ip().is_unspecified()
                && other.port() == address.port()
                && address.port() != 0
        });
        if is_any && !is_shared { Self::Both } else { Self::Own }
    }
}

/// Opens a listener. A port in TIME_WAIT can be reused.
pub fn open(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.is_ipv6() {
        SockRef::from(&socket).set_only_v6(families == Families::Own)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until stopped and the last connection has ended.
pub async fn run<S: Serve>(
    listener: TcpListener,
    service: Arc<S>,
    proxy: Arc<ProxyState>,
    until: ShutdownTokens,
) {
    let (over, mut tending) = (CancellationToken::new(), JoinSet::new());
    let (tended, its_end) = (service.clone(), over.clone());
    tending.spawn(async move { tended.run_background(its_end).await });
    accept(listener, &service, &proxy, until).await;
    service.end().await;
    over.cancel();
    while let Some(ended) = tending.join_next().await {
        report(ended);
    }
}

/// Accepts until stopped, then waits for the open connections.
async fn accept<S: Serve>(
    listener: TcpListener,
    service: &Arc<S>,
    proxy: &ProxyState,
    until: ShutdownTokens,
) {
    let mut connections = JoinSet::new();
    let (mut in_a_row, mut starved) = (0, false);
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    let open = level(&**service, proxy);
    let dead_after = proxy.control.config.limits.dead_after;
    if let Err(error) = listener.local_addr().and_then(|at| prepare(&listener, at.ip(), dead_after)) {
        error!(%error, direction = service.direction().as_str(), "peers that are gone will not be noticed");
    }
    loop {
        open.set(connections.len().try_into().unwrap_or(i64::MAX));
        tokio::select! {
            () = until.stop.cancelled() => break,
            _ = look.tick() => service.maintain(),
            Some(ended) = connections.join_next() => report(ended),
            accepted = accept_one(&listener) => match accepted.inspect(|_| log_recovered(&**service, &mut starved)) {
                Ok((stream, from)) if is_reserved(&stream) => refuse(&**service, proxy, &stream, from, ExhaustedResource::Descriptors),
                Ok((stream, from)) if connections.len() < proxy.control.config.limits.connections_max => {
                    connections.spawn(service.clone().serve(stream, from, &until));
                    in_a_row += 1;
                    if in_a_row == ACCEPTS_IN_A_ROW_MAX {
                        in_a_row = 0;
                        tokio::task::yield_now().await;
                    }
                }
                Ok((stream, from)) => refuse(&**service, proxy, &stream, from, ExhaustedResource::Connections),
                Err(error) => {
                    // A connection reset before accept is not an error. A lack of descriptors ends when connections
                    // end.
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

/// Maps an IPv4-mapped IPv6 address of a client to IPv4.
async fn accept_one(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, from) = listener.accept().await?;
    Ok((stream, SocketAddr::new(from.ip().to_canonical(), from.port())))
}

/// The gauge of open connections.
fn level<S: Serve>(service: &S, proxy: &ProxyState) -> Gauge {
    let Called { id, service: name, port, .. } = service.called();
    let listener = port.or(name).or(id).unwrap_or_default();
    proxy.control.metrics.levels.of_listener(service.direction(), listener)
}

/// Logs the recovery once per shortage, like its start.
fn log_recovered<S: Serve>(service: &S, starved: &mut bool) {
    if std::mem::take(starved) {
        info!(direction = service.direction().as_str(), "accepting again");
    }
}

/// A panic ends only its connection, and is logged.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection's task failed");
    }
}

/// The exhausted resource.
enum ExhaustedResource {
    Connections,
    Descriptors,
}

/// Resets a connection over the limit, so that its client can try another address at once.
fn refuse<S: Serve>(
    service: &S,
    proxy: &ProxyState,
    stream: &TcpStream,
    from: SocketAddr,
    full: ExhaustedResource,
) {
    reset_on_close(stream);
    let max = proxy.control.config.limits.connections_max;
    let (reason, detail) = match full {
        ExhaustedResource::Connections => {
            ("connections_max", format!("{max} connections are open, as many as connections_max allows"))
        }
        ExhaustedResource::Descriptors => (
            "descriptors",
            "no file descriptor is left but those that are reserved for other things".to_owned(),
        ),
    };
    proxy.refusals.tell(Refusal {
        direction: service.direction(),
        from: from.to_string(),
        called: service.called(),
        reason,
        detail,
        explain: None,
        instance: None,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(address: &str, all: &[&str]) -> Families {
        let all = all.iter().map(|address| address.parse().unwrap());
        Families::of(address.parse().unwrap(), all)
    }

    #[test]
    fn an_ipv6_listener_for_all_addresses_takes_ipv4_unless_another_one_does() {
        assert_eq!(families("[::]:1", &["[::]:1", "127.0.0.1:2", "0.0.0.0:2"]), Families::Both);
        assert_eq!(families("[::]:1", &["[::]:1", "0.0.0.0:1"]), Families::Own);
        assert_eq!(families("[::1]:1", &[]), Families::Own);
        assert_eq!(families("0.0.0.0:1", &["[::]:1"]), Families::Own);
        assert_eq!(families("[::]:0", &["0.0.0.0:0"]), Families::Both, "two ports of the system's choice");
    }

    #[tokio::test]
    async fn accepted_families_do_not_depend_on_bindv6only() {
        let both = open("[::]:0".parse().unwrap(), Families::Both).unwrap();
        let port = both.local_addr().unwrap().port();
        let (connected, accepted) = tokio::join!(TcpStream::connect(("127.0.0.1", port)), accept_one(&both));
        let caller = connected.unwrap().local_addr().unwrap();
        assert_eq!(accepted.unwrap().1, caller, "an IPv4 address, not one that is mapped into IPv6");

        let own = open("[::]:0".parse().unwrap(), Families::Own).unwrap();
        let port = own.local_addr().unwrap().port();
        let beside = open(SocketAddr::from(([0, 0, 0, 0], port)), Families::Own).unwrap();
        let (connected, accepted) =
            tokio::join!(TcpStream::connect(("127.0.0.1", port)), accept_one(&beside));
        assert!(connected.is_ok() && accepted.is_ok());
    }
}
