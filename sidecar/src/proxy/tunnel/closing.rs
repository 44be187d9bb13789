//! Closes a tunnel, or ends a lease that one side has reset.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use postern_server::{lingering_close, shutdown_and_drain};
use tokio::net::TcpStream;
use tracing::debug;

use super::connection::TunnelConnection;
use super::retired::{RETIRED_BYTES_MAX, RETIRED_TIMEOUT};

/// How long a lease that one side has reset may take to end at the other side.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Closes an idle tunnel. The socket is not closed before the peer has received the last lease's data: closing would
/// reset what is in flight (see [`RETIRED_TIMEOUT`]).
pub async fn retire(connection: TunnelConnection) {
    let ended = async {
        let tcp = send_close_notify(connection).await?;
        shutdown_and_drain(tcp, RETIRED_BYTES_MAX as u64).await
    };
    match tokio::time::timeout(RETIRED_TIMEOUT, ended).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a tunnel broke at its end"),
        Err(_) => debug!("a retired tunnel was not ended by its peer"),
    }
}

/// Sends close_notify.
async fn send_close_notify(mut connection: TunnelConnection) -> io::Result<TcpStream> {
    poll_fn(|cx| connection.poll_sent(cx)).await?;
    let mut tls = connection.into_tls();
    tls.end()?;
    poll_fn(|cx| tls.poll_unsent(cx)).await?;
    Ok(tls.into_tcp())
}

/// Closes a tunnel with a lingering close, so that the peer receives everything.
pub async fn end(connection: TunnelConnection) {
    let ended = async {
        lingering_close(send_close_notify(connection).await?).await;
        Ok::<_, io::Error>(())
    };
    match tokio::time::timeout(SETTLE_TIMEOUT, ended).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a tunnel broke at its end"),
        Err(_) => debug!("a tunnel's last word was not taken"),
    }
}

/// Ends a lease that one side has reset, so that the tunnel can carry the next.
pub async fn settle(connection: &mut TunnelConnection) -> io::Result<()> {
    match tokio::time::timeout(SETTLE_TIMEOUT, poll_fn(|cx| connection.poll_over(cx))).await {
        Ok(over) => over,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
