//! What the sidecars do with a tunnel at either end of it, without anything around it.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_sidecar::ending::farewell;
use postern_sidecar::live::Traffic;
use postern_sidecar::relay::{RelayError, relay};
use postern_sidecar::tunnel::{Open, ReplayBuffer, Role, Wire, WireError};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::app::{App, Source};
use crate::net::Net;
use crate::pausing::{Gate, pausing};

/// As the sidecars do it.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// More than the sidecars try, for a case may retire more often than the world does.
const TRIES_MAX: usize = 50;

/// Everything that one case is about.
pub struct World {
    pub net: Net,
    pub gates: [Arc<Gate>; 2],
    pub seen: Mutex<Seen>,
    pub handles: Mutex<Handles>,
    /// The called side ends its tunnels between leases.
    pub retired: watch::Sender<u64>,
    pool: Mutex<Vec<Wire>>,
}

/// What reaches into tunnels that others carry.
#[derive(Debug, Default)]
pub struct Handles {
    /// To be woken after a rotation.
    pub traffics: Vec<Arc<Traffic>>,
    /// To be cut.
    pub sockets: Vec<socket2::Socket>,
}

/// What has happened.
#[derive(Debug, Default)]
pub struct Seen {
    /// The called apps, in the order in which they were reached.
    pub called: Vec<App>,
    /// So many of the next OPENs are refused.
    pub refusing: usize,
    /// Connections that were refused.
    pub refused: Vec<u32>,
    pub leases: usize,
    pub tunnels: usize,
    pub again: usize,
    /// What a peer that keeps the rules can never cause.
    pub wrong: Vec<String>,
}

impl World {
    pub async fn new() -> Arc<Self> {
        let (retired, _) = watch::channel(0);
        let (gates, seen) = (Default::default(), Mutex::default());
        let (handles, pool) = (Mutex::default(), Mutex::default());
        Arc::new(Self { net: Net::new().await, gates, seen, handles, retired, pool })
    }

    pub fn gate(&self, role: Role) -> &Arc<Gate> {
        &self.gates[usize::from(role == Role::Called)]
    }

    /// Ends the idle tunnels of the calling side.
    pub fn empty_pool(&self) {
        self.pool.lock().unwrap().drain(..).for_each(retire);
    }

    pub fn rotate(&self, role: Role) {
        self.net.rotate(role);
        let traffics = self.handles.lock().unwrap().traffics.clone();
        traffics.iter().for_each(|traffic| traffic.waker.wake());
    }

    /// Carries one connection of the calling app.
    pub async fn carry(self: Arc<Self>, app: App) {
        let gate = self.gate(Role::Caller).clone();
        pausing(gate, self.try_to_carry(&app)).await;
    }

    async fn try_to_carry(&self, app: &App) {
        let (mut stream, mut said) = (app.stream(), ReplayBuffer::default());
        for _ in 0..TRIES_MAX {
            let Some(mut wire) = self.tunnel().await else { return };
            let port = Some(app.source.connection.to_string());
            wire.open(Open { port, trace: None }, std::mem::take(&mut said));
            let error = match relay(&mut stream, &mut wire, &Traffic::default()).await {
                Ok(()) => return self.put(wire),
                Err(RelayError::App(_)) => {
                    drop(stream);
                    wire.reset(Vec::new());
                    return self.keep(wire).await;
                }
                Err(RelayError::Peer(error)) => error,
            };
            self.suspect(&error);
            let is_answered = wire.lease().is_answered();
            match wire.not_acted_on() {
                Some(_) if is_answered => return self.wrong("tried again after an answer"),
                Some(bytes) => {
                    said = bytes;
                    self.seen.lock().unwrap().again += 1;
                }
                None if wire.lease().is_refused() => {
                    drop(stream);
                    return self.keep(wire).await;
                }
                None => return,
            }
        }
    }

    async fn tunnel(&self) -> Option<Wire> {
        loop {
            let idle = self.pool.lock().unwrap().pop();
            let Some(wire) = idle else { break };
            if wire.is_quiet() {
                return Some(wire);
            }
            retire(wire);
        }
        // It breaks when it is cut in its handshake.
        let wire = self.net.dial(self.traffic()).await.ok()?;
        self.socket(&wire);
        Some(wire)
    }

    fn put(&self, wire: Wire) {
        if !wire.lease().is_over() {
            self.wrong("a lease that both have ended is not over");
        }
        if wire.is_quiet() {
            self.pool.lock().unwrap().push(wire);
        } else {
            retire(wire);
        }
    }

    async fn keep(&self, mut wire: Wire) {
        match settle(&mut wire).await {
            Ok(()) => self.put(wire),
            Err(error) => self.suspect(&error),
        }
    }

    /// Answers tunnels for ever.
    pub async fn listen(self: Arc<Self>) {
        loop {
            let (tcp, _) = self.net.listener.accept().await.unwrap();
            tokio::spawn(pausing(self.gate(Role::Called).clone(), self.clone().serve(tcp)));
        }
    }

    async fn serve(self: Arc<Self>, tcp: TcpStream) {
        let Ok(mut wire) = self.net.answer(tcp, self.traffic()).await else { return };
        self.socket(&wire);
        self.seen.lock().unwrap().tunnels += 1;
        let mut retired = self.retired.subscribe();
        loop {
            let opened = tokio::select! {
                biased;
                opened = poll_fn(|cx| wire.poll_opened(cx)) => opened,
                _ = retired.changed() => Ok(None),
            };
            let leased = match opened {
                Ok(Some(open)) => self.lease(&mut wire, &open).await,
                Ok(None) => break,
                Err(error) => Err(error),
            };
            if let Err(error) = leased {
                return self.suspect(&error);
            }
        }
        let mut tls = wire.into_tls();
        if tls.end().is_ok() && poll_fn(|cx| tls.poll_unsent(cx)).await.is_ok() {
            farewell(tls.into_tcp()).await;
        }
    }

    async fn lease(&self, wire: &mut Wire, open: &Open) -> io::Result<()> {
        let connection = open.port.as_ref().unwrap().parse().unwrap();
        let Some(app) = self.decide(connection) else {
            wire.refuse(b"{}".to_vec());
            return settle(wire).await;
        };
        let mut stream = app.stream();
        wire.accept();
        match relay(&mut stream, wire, &Traffic::default()).await {
            Ok(()) => Ok(()),
            Err(RelayError::Peer(error)) if !wire.lease().is_reset_by_peer() => Err(error),
            Err(_) => {
                drop(stream);
                wire.reset(Vec::new());
                settle(wire).await
            }
        }
    }

    fn decide(&self, connection: u32) -> Option<App> {
        let mut seen = self.seen.lock().unwrap();
        seen.leases += 1;
        if seen.refusing > 0 {
            seen.refusing -= 1;
            seen.refused.push(connection);
            return None;
        }
        let before = seen.called.iter().filter(|app| app.source.connection == connection).count();
        let app = App::new(Source { connection, attempt: before as u32 + 1 });
        seen.called.push(app.clone());
        Some(app)
    }

    /// An error that only a peer that breaks the rules may cause.
    fn suspect(&self, error: &io::Error) {
        let tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        if tls || WireError::of(error).is_some() {
            self.wrong(&format!("{error:?}"));
        }
    }

    fn wrong(&self, what: &str) {
        self.seen.lock().unwrap().wrong.push(what.to_owned());
    }

    fn traffic(&self) -> Arc<Traffic> {
        let traffic = Arc::<Traffic>::default();
        self.handles.lock().unwrap().traffics.push(traffic.clone());
        traffic
    }

    fn socket(&self, wire: &Wire) {
        let socket = socket2::SockRef::from(wire.tls().tcp()).try_clone().unwrap();
        self.handles.lock().unwrap().sockets.push(socket);
    }
}

fn retire(wire: Wire) {
    let mut tls = wire.into_tls();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    // As in the pool: whether it is heard does not matter.
    let _heard = tls.end().map(|()| tls.poll_unsent(&mut cx));
}

async fn settle(wire: &mut Wire) -> io::Result<()> {
    match tokio::time::timeout(SETTLE_TIMEOUT, poll_fn(|cx| wire.poll_over(cx))).await {
        Ok(over) => over,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
