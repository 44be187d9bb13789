//! Steady traffic from an app to another through both sidecars, with every failure counted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::client::Connection;

/// Clients that open a connection for each request.
const CLIENTS_FRESH: usize = 4;
/// Clients that keep one connection for all requests.
const CLIENTS_KEPT: usize = 4;
/// A breath between two requests of a client leaves the machine to the programs that are shown.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Fresh,
    Kept,
}

/// Clients under way.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    clients: JoinSet<Vec<String>>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) failures: Vec<String>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let (stop, requests) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut clients = JoinSet::new();
        let styles = [Style::Fresh; CLIENTS_FRESH].into_iter().chain([Style::Kept; CLIENTS_KEPT]);
        for style in styles {
            clients.spawn(client(address, style, stop.clone(), requests.clone()));
        }
        Self { stop, requests, clients }
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Lets every client finish its request, and reports.
    pub(crate) async fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.join_all().await.concat();
        Outcome { requests: self.requests.load(Ordering::Relaxed), failures }
    }
}

async fn client(
    address: SocketAddr,
    style: Style,
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = request(address, &mut connection).await {
            failures.push(error.to_string());
            connection = None;
        }
        requests.fetch_add(1, Ordering::Relaxed);
        if style == Style::Fresh {
            connection = None;
        }
        tokio::time::sleep(PAUSE).await;
    }
    failures
}

async fn request(address: SocketAddr, connection: &mut Option<Connection>) -> io::Result<()> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open(address).await?),
    };
    let (status, text) = open.get("/charges/7").await?;
    if status.is_success() { Ok(()) } else { Err(io::Error::other(format!("{status}: {text}"))) }
}
