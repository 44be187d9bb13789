//! The clients of one round: few threads, each with a runtime of its own, that leave the machine to the proxies.

use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use postern_integration::PATIENCE;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::peers::Middle;
use crate::roles::{ANSWER_BYTES, BLOCK_BYTES, LAST, MORE, head_end};

/// One is a bottleneck where nothing is between client and backend; more only take turns on two cores.
const THREADS: usize = 2;
const REQUEST: &[u8] =
    b"GET /charges/7 HTTP/1.1\r\nhost: payments\r\nuser-agent: bench\r\naccept: */*\r\n\r\n";

/// What all clients of a round came to.
#[derive(Debug)]
pub(crate) struct Outcome<T> {
    pub(crate) each: Vec<T>,
    pub(crate) elapsed: Duration,
}

/// Opens `clients` connections, calls `begin`, then lets each do `work` until the time is over.
pub(crate) fn run<C, T, Opening, Working>(
    clients: usize,
    duration: Duration,
    open: impl Fn() -> Opening + Send + Clone + 'static,
    work: impl Fn(C, Instant) -> Working + Send + Copy + 'static,
    begin: impl FnOnce() -> std::io::Result<()>,
) -> anyhow::Result<Outcome<T>>
where
    C: Send + 'static,
    T: Send + 'static,
    Opening: Future<Output = anyhow::Result<C>> + Send + 'static,
    Working: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let threads = clients.min(THREADS);
    let (open_all, started) = (Arc::new(Barrier::new(threads + 1)), Arc::new(Barrier::new(threads + 1)));
    let client = |share: usize| {
        let (open, open_all, started) = (open.clone(), open_all.clone(), started.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let opened = runtime.block_on(together((0..share).map(|_| open()), PATIENCE));
            // Also when it failed: the others wait.
            open_all.wait();
            started.wait();
            let until = Instant::now() + duration;
            runtime.block_on(together(
                opened?.into_iter().map(|client| work(client, until)),
                duration + PATIENCE,
            ))
        })
    };
    let shares = (0..threads).map(|thread| clients / threads + usize::from(thread < clients % threads));
    let threads: Vec<_> = shares.map(client).collect();
    open_all.wait();
    let begun = begin();
    started.wait();
    let at = Instant::now();
    let mut each = Vec::new();
    for thread in threads {
        each.push(thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?);
    }
    let elapsed = at.elapsed();
    begun?;
    Ok(Outcome {
        each: each.into_iter().collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect(),
        elapsed,
    })
}

async fn together<T: Send + 'static>(
    futures: impl Iterator<Item = impl Future<Output = anyhow::Result<T>> + Send + 'static>,
    within: Duration,
) -> anyhow::Result<Vec<T>> {
    let tasks: JoinSet<_> = futures.collect();
    let all = tokio::time::timeout(within, tasks.join_all());
    all.await.context("a client hangs")?.into_iter().collect()
}

pub(crate) async fn connect(entry: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(entry).await.context("connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that has carried a request.
pub(crate) async fn connect_and_ask(entry: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = connect(entry).await?;
    ask(&mut stream).await?;
    Ok(stream)
}

/// Requests over one connection; the time of each.
pub(crate) async fn keep_asking(mut stream: TcpStream, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut now = Instant::now();
    while now < until {
        ask(&mut stream).await?;
        let then = std::mem::replace(&mut now, Instant::now());
        times.push(now - then);
    }
    Ok(times)
}

/// A new connection for each request; the time of each from connect to answer.
pub(crate) async fn keep_connecting(
    entries: Vec<SocketAddr>,
    until: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for entry in entries.iter().cycle() {
        let started = Instant::now();
        if started >= until {
            break;
        }
        let stream = connect_and_ask(*entry).await?;
        times.push(started.elapsed());
        drop(stream);
    }
    Ok(times)
}

/// TLS handshakes with the second proxy, one request in each; the time of each.
pub(crate) async fn keep_shaking_hands(middle: Middle, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut now = Instant::now();
    while now < until {
        middle.ask(Some(&middle.caller)).await?;
        let then = std::mem::replace(&mut now, Instant::now());
        times.push(now - then);
    }
    Ok(times)
}

/// Bytes over one connection, all of which must arrive; how many that were.
pub(crate) async fn keep_sending(mut stream: TcpStream, until: Instant) -> anyhow::Result<u64> {
    let (mut block, mut sent) = (vec![MORE; BLOCK_BYTES], 0);
    while block[0] != LAST {
        if Instant::now() >= until {
            block[0] = LAST;
        }
        stream.write_all(&block).await.context("send")?;
        sent += block.len() as u64;
    }
    let arrived = stream.read_u64().await.context("the backend's count")?;
    anyhow::ensure!(arrived == sent, "{sent} bytes sent, {arrived} arrived");
    Ok(sent)
}

/// `body_bytes` to the backend and as many back.
pub(crate) async fn exchange(mut stream: TcpStream, body_bytes: usize) -> anyhow::Result<TcpStream> {
    let head = format!("POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: {body_bytes}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), &vec![b'e'; body_bytes]].concat()).await.context("send")?;
    answer(&mut stream, body_bytes).await?;
    Ok(stream)
}

/// One request and its answer.
pub(crate) async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> anyhow::Result<()> {
    stream.write_all(REQUEST).await.context("send")?;
    answer(stream, ANSWER_BYTES).await
}

/// Reads one whole answer, which must be a 200 with a body of `body_bytes`.
async fn answer(stream: &mut (impl AsyncRead + Unpin), body_bytes: usize) -> anyhow::Result<()> {
    let (mut buffer, mut filled, mut left) = ([0; 4096], 0, None);
    while left != Some(0) {
        let read = stream.read(&mut buffer[filled..]).await.context("receive")?;
        anyhow::ensure!(read > 0, "the connection ended before the answer did");
        match &mut left {
            Some(left) => *left = usize::checked_sub(*left, read).context("more than one answer")?,
            None => {
                filled += read;
                if let Some(end) = head_end(&buffer[..filled]) {
                    let words = String::from_utf8_lossy(&buffer[..end]);
                    anyhow::ensure!(words.starts_with("HTTP/1.1 200 "), "{words}");
                    left = Some((end + body_bytes).checked_sub(filled).context("more than one answer")?);
                    filled = 0;
                }
            }
        }
    }
    Ok(())
}
