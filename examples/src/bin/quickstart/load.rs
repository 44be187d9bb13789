//! Steady traffic from an app to another through both sidecars, with every failure counted.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
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

/// Runs on the quickstart's own thread, inside a `LocalSet`.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Rc<Cell<bool>>,
    requests: Rc<Cell<u64>>,
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
        let (stop, requests) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let mut clients = JoinSet::new();
        let styles = [Style::Fresh; CLIENTS_FRESH].into_iter().chain([Style::Kept; CLIENTS_KEPT]);
        for style in styles {
            clients.spawn_local(client(address, style, stop.clone(), requests.clone()));
        }
        Self { stop, requests, clients }
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Lets every client finish its request, and reports.
    pub(crate) async fn stop(self) -> Outcome {
        self.stop.set(true);
        let failures = self.clients.join_all().await.concat();
        Outcome { requests: self.requests.get(), failures }
    }
}

async fn client(
    address: SocketAddr,
    style: Style,
    stop: Rc<Cell<bool>>,
    requests: Rc<Cell<u64>>,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut connection = None;
    while !stop.get() {
        if let Err(error) = request(address, &mut connection).await {
            failures.push(error.to_string());
            connection = None;
        }
        requests.set(requests.get() + 1);
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
    let (status, text) = open.get("/").await?;
    if status.is_success() { Ok(()) } else { Err(io::Error::other(format!("{status}: {text}"))) }
}
