//! Calls that are refused: the app's connection is reset, which may come before it is known to have begun.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::PATIENCE;

/// Connects, says `bytes` and hears all that comes until it ends. Whichever step learns of a reset, it is the end.
pub async fn call(address: SocketAddr, bytes: &[u8]) -> (Vec<u8>, io::Result<()>) {
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        stream.read_to_end(&mut answer).await.map(|_| ())
    })
    .await;
    (answer, ended.expect("an end"))
}

/// The call is reset, and not a byte comes back.
pub async fn is_reset(address: SocketAddr, bytes: &[u8]) {
    let (answer, end) = call(address, bytes).await;
    assert!(answer.is_empty(), "heard {:?}", String::from_utf8_lossy(&answer));
    let error = end.expect_err("a refusal is a reset, never a clean end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
