//! A way between a sidecar and its peer that can be held up, and cut behind any byte; and peers at its end that are no
//! Postern sidecars.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_sidecar::proxy::tunnel::Role;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::apps::App;
use crate::authority::Authority;
use crate::stranger::{answer, answer_direct};

const CHUNK_BYTES: usize = 16 * 1024;
/// A peer that retires reads so many bytes first, one more each time.
const READ_BEFORE_RETIRING_BYTES_MAX: usize = 64;

/// Where a connection is cut: behind so many bytes that this side has sent. What it sends beyond them is lost.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub from: Role,
    pub behind: usize,
}

/// What happens on a way.
#[derive(Debug)]
pub struct Events {
    /// The next connection is cut there.
    pub next: Mutex<Option<Cut>>,
    /// All connections are cut now.
    pub cut: Notify,
    /// Nothing is carried while this holds.
    pub held: watch::Sender<bool>,
    /// Bytes of the last connection, by the side that sent them.
    pub carried: [AtomicUsize; 2],
}

pub struct Way {
    pub address: SocketAddr,
    pub events: Arc<Events>,
    _carrying: App,
}

impl Way {
    pub async fn to(target: SocketAddr) -> Self {
        let (next, cut, carried) = (Mutex::default(), Notify::new(), Default::default());
        let events = Arc::new(Events { next, cut, held: watch::Sender::new(false), carried });
        let shared = events.clone();
        let carrying = App::serve(move |from: TcpStream| {
            let events = shared.clone();
            async move { carry(from, TcpStream::connect(target).await?, &events).await }
        })
        .await;
        Self { address: carrying.address, events, _carrying: carrying }
    }
}

async fn carry(mut caller: TcpStream, mut called: TcpStream, events: &Events) -> io::Result<()> {
    caller.set_nodelay(true)?;
    called.set_nodelay(true)?;
    let cut = events.next.lock().unwrap().take();
    let budget = |role| cut.filter(|cut| cut.from == role).map_or(usize::MAX, |cut| cut.behind);
    events.carried.iter().for_each(|carried| carried.store(0, Ordering::Relaxed));
    let ended = {
        let ((from_caller, to_caller), (from_called, to_called)) = (caller.split(), called.split());
        let there = pump(from_caller, to_called, budget(Role::Caller), (events, 0));
        let back = pump(from_called, to_caller, budget(Role::Called), (events, 1));
        tokio::select! {
            ended = async { tokio::try_join!(there, back) } => ended.map(|_| ()),
            () = events.cut.notified() => Err(io::ErrorKind::ConnectionReset.into()),
        }
    };
    if ended.is_err() {
        for stream in [&caller, &called] {
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        }
    }
    ended
}

async fn pump(
    mut from: tokio::net::tcp::ReadHalf<'_>,
    mut to: tokio::net::tcp::WriteHalf<'_>,
    mut budget: usize,
    (events, side): (&Events, usize),
) -> io::Result<()> {
    let (mut held, mut buffer) = (events.held.subscribe(), vec![0; CHUNK_BYTES]);
    loop {
        let read = from.read(&mut buffer).await?;
        drop(held.wait_for(|held| !held).await);
        if read == 0 {
            return to.shutdown().await;
        }
        let passed = read.min(budget);
        to.write_all(&buffer[..passed]).await?;
        events.carried[side].fetch_add(passed, Ordering::Relaxed);
        budget -= passed;
        if budget == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}

/// `payments` in plain mTLS, before this app.
pub async fn direct(authority: Arc<Authority>, app: SocketAddr) -> App {
    App::serve(move |tcp: TcpStream| {
        let authority = authority.clone();
        async move {
            let mut tls = answer_direct(&authority, "payments", tcp).await?;
            let mut app = TcpStream::connect(app).await?;
            let carried = tokio::io::copy_bidirectional(&mut tls, &mut app).await;
            if carried.is_err() {
                for stream in [tls.get_ref().0, &app] {
                    SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
                }
            }
            carried.map(|_| ())
        }
    })
    .await
}

/// `payments` by `postern/1`, which retires instead of every answer, behind ever more bytes.
pub async fn retiring(authority: Arc<Authority>) -> App {
    let times = Arc::new(AtomicUsize::new(0));
    App::serve(move |tcp| {
        let read = 1 + times.fetch_add(1, Ordering::Relaxed) % READ_BEFORE_RETIRING_BYTES_MAX;
        let authority = authority.clone();
        async move {
            let mut tunnel = answer(&authority, "payments", tcp).await?;
            let soon = Duration::from_millis(50);
            // It retires in time though less is said.
            let _read = tokio::time::timeout(soon, tunnel.read_exact(&mut vec![0; read])).await;
            tunnel.shutdown().await?;
            tunnel.read_to_end(&mut Vec::new()).await.map(|_| ())
        }
    })
    .await
}
