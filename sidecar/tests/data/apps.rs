//! The services behind the sidecars, and their clients.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A server that ends, with all its connections, when dropped.
pub struct App {
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl App {
    /// Serves each connection with `serve`; what goes wrong there is the client's to see.
    pub async fn serve<F, S>(serve: S) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
        S: Fn(TcpStream) -> F + Send + 'static,
    {
        Self::serve_at("127.0.0.1:0", serve).await
    }

    /// The same at this address.
    pub async fn serve_at<F, S>(at: &str, serve: S) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
        S: Fn(TcpStream) -> F + Send + 'static,
    {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        connections.spawn(serve(accepted.unwrap().0));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self::of(address, tasks)
    }

    /// What these tasks serve at this address.
    pub fn of(address: SocketAddr, tasks: JoinSet<()>) -> Self {
        Self { address, _tasks: tasks }
    }

    /// Sends back what it gets; its end follows the client's end.
    pub async fn echo() -> Self {
        Self::serve(async |mut stream: TcpStream| {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        })
        .await
    }
}

/// Ends a connection with RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Sends a word and expects it back.
pub async fn echoed(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"word").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"word");
    Ok(())
}

/// Sends a word, and expects that the connection is reset, which may come before it is known to have begun.
pub async fn expect_refused(at: SocketAddr) {
    let called = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(b"word").await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    let error = called.await.expect_err("a reset, never a clean end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Expects that the connection is reset, after whatever bytes.
pub async fn expect_reset(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest).await;
    let error = end.expect_err("a reset, never a clean end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
