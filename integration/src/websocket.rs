//! A WebSocket service and its client, both tungstenite's.

use std::io;
use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::apps::App;

/// What the service says first.
pub const GREETING: &str = "welcome";
/// What makes the service close.
pub const BYE: &str = "bye";

/// Greets, echoes what it gets, and closes when told to or when the client does. It has nothing but WebSockets.
pub async fn app() -> App {
    App::serve(|stream| async move {
        let mut socket = accept_async(stream).await.map_err(io::Error::other)?;
        served(&mut socket).await.map_err(io::Error::other)
    })
    .await
}

async fn served(socket: &mut WebSocketStream<TcpStream>) -> Result<(), Error> {
    socket.send(Message::text(GREETING)).await?;
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) if text == BYE => socket.close(None).await?,
            echo @ (Message::Text(_) | Message::Binary(_)) => socket.send(echo).await?,
            _ => {}
        }
    }
    Ok(())
}

/// A client's end.
#[derive(Debug)]
pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// Opens `/socket` through the sidecar at `address`.
    pub async fn open(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        let (socket, _) = client_async("ws://payments/socket", stream).await?;
        Ok(Self(socket))
    }

    /// The same, greeted already.
    pub async fn greeted(address: SocketAddr) -> Self {
        let mut socket = Self::open(address).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(GREETING));
        socket
    }

    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        self.0.send(message).await
    }

    /// What comes next; `None` after the closing handshake.
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        self.0.next().await
    }

    /// Sends a message and waits for its echo.
    pub async fn echo(&mut self, message: Message) -> Result<(), Error> {
        self.send(message.clone()).await?;
        let echo = self.next().await.unwrap_or(Err(Error::ConnectionClosed))?;
        assert!(echo == message, "another echo");
        Ok(())
    }

    pub async fn close(&mut self) -> Result<(), Error> {
        self.0.close(None).await
    }
}
