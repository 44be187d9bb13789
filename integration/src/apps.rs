//! The services behind the sidecars: small TCP servers in the test's own process.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A server that ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct App {
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl App {
    /// Serves each connection with `serve`.
    pub async fn serve<F, S>(serve: S) -> Self
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
        S: Fn(TcpStream) -> F + Send + 'static,
    {
        Self::running(|listener| async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        stream.set_nodelay(true).unwrap();
                        connections.spawn(serve(stream));
                    }
                    // A connection's error is the peer's business: tests look at the client's side.
                    Some(_) = connections.join_next() => {}
                }
            }
        })
        .await
    }

    /// Whatever serves this listener.
    pub async fn running<F>(run: impl FnOnce(TcpListener) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(run(listener));
        Self { address, _tasks: tasks }
    }

    /// Sends back what it gets; its end follows the client's end.
    pub async fn echo() -> Self {
        Self::serve(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        })
        .await
    }

    /// Answers every HTTP/1.1 request (without body) with `name` and keeps the connection.
    pub async fn http(name: &'static str) -> Self {
        Self::serve(move |mut stream| async move {
            let mut request = Vec::new();
            loop {
                if stream.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
                while let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    request.drain(..end + 4);
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", name.len());
                    stream.write_all(format!("{head}{name}").as_bytes()).await?;
                }
            }
        })
        .await
    }
}
