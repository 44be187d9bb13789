//! The end of a tunnel, or of a lease that one side has broken off.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use postern_server::{lingering_close, shutdown_and_drain};
use tokio::net::TcpStream;
use tracing::debug;

use super::connection::TunnelConnection;
use super::retired::{RETIRED_BYTES_MAX, RETIRED_TIMEOUT};

/// After a lease has broken at one side, so long is waited until it has ended at the other, too.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Ends a tunnel between two leases. The other side may take its time with what the last one has said, and its socket is
/// not closed before: that would reset what is still under way (see [`RETIRED_TIMEOUT`]).
pub async fn retire(wire: TunnelConnection) {
    let ended = async {
        let tcp = say_close(wire).await?;
        shutdown_and_drain(tcp, RETIRED_BYTES_MAX as u64).await
    };
    match tokio::time::timeout(RETIRED_TIMEOUT, ended).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a tunnel broke at its end"),
        Err(_) => debug!("a retired tunnel was not ended by its peer"),
    }
}

/// Says close_notify.
async fn say_close(mut wire: TunnelConnection) -> io::Result<TcpStream> {
    poll_fn(|cx| wire.poll_sent(cx)).await?;
    let mut tls = wire.into_tls();
    tls.end()?;
    poll_fn(|cx| tls.poll_unsent(cx)).await?;
    Ok(tls.into_tcp())
}

/// Ends a tunnel so that the other side gets the last word.
pub async fn end(wire: TunnelConnection) {
    let ended = async {
        lingering_close(say_close(wire).await?).await;
        Ok::<_, io::Error>(())
    };
    match tokio::time::timeout(SETTLE_TIMEOUT, ended).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a tunnel broke at its end"),
        Err(_) => debug!("a tunnel's last word was not taken"),
    }
}

/// Ends a lease that one side has broken off, so that the tunnel can carry the next.
pub async fn settle(wire: &mut TunnelConnection) -> io::Result<()> {
    match tokio::time::timeout(SETTLE_TIMEOUT, poll_fn(|cx| wire.poll_over(cx))).await {
        Ok(over) => over,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
