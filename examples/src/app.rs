//! One of the services: a small HTTP server that says who it is.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Larger requests are not for us.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Serves until killed.
pub(crate) async fn serve(name: &str, listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(answer(accepted?.0, name.to_owned()));
            }
            // A client that left early is its own business.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, name: String) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 || request.len() > REQUEST_BYTES_MAX {
            return Ok(());
        }
    }
    let body = format!("this is {name}\n");
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
