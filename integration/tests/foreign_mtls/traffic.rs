//! What must pass between a caller and a [`ToldApp`], whatever stands between them.

use std::io;
use std::net::SocketAddr;

use postern_integration::{PATIENCE, refused};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::app::{CLOSE, ECHO, GREETING, LISTEN, ToldApp};

const BULK: usize = 10 * 1024 * 1024;

/// Connects, hears the greeting before it says anything, and gives an order.
pub(crate) async fn ordered(address: SocketAddr, order: u8) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut greeting = GREETING.map(|_| 0);
    within("the greeting", stream.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(greeting, GREETING);
    stream.write_u8(order).await.unwrap();
    stream
}

/// The same over any stream, and a byte comes back.
pub(crate) async fn greets_and_echoes(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let mut greeting = GREETING.map(|_| 0);
    within("the greeting", stream.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(greeting, GREETING);
    stream.write_all(&[ECHO, 7]).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(within("an echo", stream.read_u8()).await.unwrap(), 7);
}

/// 10 MiB go there and come back.
pub(crate) async fn bulk_passes(address: SocketAddr) {
    let mut stream = ordered(address, ECHO).await;
    let sent = pattern(BULK);
    let mut back = vec![0; BULK];
    let (mut read, mut write) = stream.split();
    within("10 MiB both ways", async {
        tokio::try_join!(write.write_all(&sent), read.read_exact(&mut back))
    })
    .await
    .unwrap();
    assert!(back == sent, "other bytes came back than were sent");
}

/// A byte there and back: what was ordered is under way.
pub(crate) async fn echo_once(stream: &mut TcpStream) {
    stream.write_u8(7).await.unwrap();
    assert_eq!(within("an echo", stream.read_u8()).await.unwrap(), 7);
}

/// The caller ends first, and still gets everything.
pub(crate) async fn callers_half_close_passes(address: SocketAddr, app: &mut ToldApp) {
    let mut stream = ordered(address, ECHO).await;
    let sent = pattern(300_000);
    let mut back = Vec::new();
    let (mut read, mut write) = stream.split();
    let say = async {
        write.write_all(&sent).await?;
        write.shutdown().await
    };
    within("an echo of the whole", async { tokio::try_join!(say, read.read_to_end(&mut back)) })
        .await
        .unwrap();
    assert!(back == sent, "{} of {} bytes came back", back.len(), sent.len());
    let end = app.end().await;
    assert!(end.bytes == sent.len() as u64 && end.how.is_ok(), "{end:?}");
}

/// The app ends first, and still gets everything.
pub(crate) async fn apps_half_close_passes(address: SocketAddr, app: &mut ToldApp) {
    let mut stream = ordered(address, LISTEN).await;
    assert_eq!(within("the app's end", stream.read(&mut [0; 1])).await.unwrap(), 0);
    let sent = pattern(300_000);
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let end = app.end().await;
    assert!(end.bytes == sent.len() as u64 && end.how.is_ok(), "{end:?}");
}

/// The app closes its connection, and the caller sees a clean end.
pub(crate) async fn clean_end_passes(address: SocketAddr) {
    let mut stream = ordered(address, CLOSE).await;
    let end = within("the app's end", stream.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap(), 0, "a clean end");
}

/// The caller hears not one byte, and is not left waiting.
pub(crate) async fn nothing_passes(address: SocketAddr) {
    let (heard, end) = refused::call(address, b"one request").await;
    assert!(heard.is_empty(), "heard {:?}", String::from_utf8_lossy(&heard));
    // What listens there may be a foreign proxy, which ends cleanly or resets.
    if let Err(error) = end {
        assert!(
            matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
            "{error}"
        );
    }
}

/// Waits for what must come.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

/// The next read is a reset, not a clean end.
pub(crate) async fn is_reset(stream: &mut TcpStream) {
    let error = within("a reset", stream.read(&mut [0; 1])).await.expect_err("not a clean end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
