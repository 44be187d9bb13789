//! Steady traffic that counts what went wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Clients that send requests to an echo service until told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    clients: JoinSet<Vec<String>>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub served: u64,
    pub failures: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One connection for each request.
    FreshConnections,
    /// One connection for all requests of a client.
    KeptConnections,
}

impl Load {
    /// Starts `clients` of one style against `address`.
    pub fn start(address: SocketAddr, style: Style, clients: usize) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(client(address, style, stop.clone(), served.clone()));
        }
        Self { stop, served, clients: tasks }
    }

    /// Requests answered so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Lets every client finish its request, and reports.
    pub async fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.join_all().await.concat();
        Outcome { served: self.served.load(Ordering::Relaxed), failures }
    }
}

async fn client(
    address: SocketAddr,
    style: Style,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) && failures.len() < 10 {
        match request(address, &mut connection).await {
            Ok(()) => {
                served.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                failures.push(error.to_string());
                connection = None;
            }
        }
        if style == Style::FreshConnections {
            connection = None;
        }
        // A breath between requests leaves the machine to the programs under test.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    failures
}

async fn request(address: SocketAddr, connection: &mut Option<TcpStream>) -> std::io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(TcpStream::connect(address).await?),
    };
    stream.write_all(b"one request").await?;
    let mut answer = [0; 11];
    stream.read_exact(&mut answer).await?;
    if &answer != b"one request" {
        return Err(std::io::Error::other(format!("wrong answer {answer:?}")));
    }
    Ok(())
}
