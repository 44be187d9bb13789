//! The measurements: each returns medians and spread over interleaved rounds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_integration::{Ca, Sidecar, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::roles::SINK;

const REQUEST_BYTES: usize = 128;
const BULK_BYTES: u64 = 2 << 30;
const GIB: f64 = (1u64 << 30) as f64;
/// Kernel clock ticks a second in `/proc/PID/stat` (`getconf CLK_TCK`, the same on every Linux in use).
const TICKS_PER_SECOND: f64 = 100.0;

/// A way from a client to the backend.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) entry: SocketAddr,
    /// The processes between client and backend, whose cost is counted.
    pub(crate) pids: Vec<u32>,
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) path: &'static str,
    pub(crate) values: Vec<(&'static str, Spread)>,
}

/// Median, least and most of all rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], least: values[0], most: values[values.len() - 1] }
    }
}

/// What one round of a measurement found, by figure.
pub(crate) type Round = Vec<(&'static str, f64)>;

pub(crate) fn row(what: String, path: &'static str, rounds: Vec<Round>) -> Row {
    let names: Vec<_> = rounds[0].iter().map(|(name, _)| *name).collect();
    let values = names
        .into_iter()
        .enumerate()
        .map(|(at, name)| (name, Spread::of(rounds.iter().map(|round| round[at].1).collect())));
    Row { what, path, values: values.collect() }
}

pub(crate) fn cpu_seconds(pids: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let after_name = stat.rsplit(") ").next().unwrap().split(' ');
        // Fields 14 and 15, utime and stime, are 12th and 13th after the name (proc_pid_stat(5)).
        after_name.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>()
    };
    pids.iter().map(of).sum::<f64>() / TICKS_PER_SECOND
}

fn resident_kib(pid: u32) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Full mTLS handshakes (X25519MLKEM768, P-256, leaf and issuer) against one inbound, per second of its CPU.
pub(crate) async fn handshakes(payments: &Sidecar, ca: &Ca, rounds: usize) -> Row {
    const COUNT: usize = 2_000;
    let orders = tls::enrol(ca, "orders").await;
    let (pids, bundles) = ([payments.program.pid()], ca.bundles());
    let mut all = Vec::new();
    for _ in 0..rounds {
        let (cpu, started) = (cpu_seconds(&pids), Instant::now());
        for _ in 0..COUNT {
            let mut stream =
                tls::connect(payments.inbounds[0], Some(&orders), bundles.clone()).await.unwrap();
            tls::echo_once(&mut stream).await.unwrap();
        }
        let cpu = cpu_seconds(&pids) - cpu;
        let rate = COUNT as f64 / started.elapsed().as_secs_f64();
        all.push(vec![
            ("handshakes per CPU second", COUNT as f64 / cpu),
            ("µs CPU each", cpu / COUNT as f64 * 1e6),
            ("per second, one at a time", rate),
        ]);
    }
    row("mTLS handshake and one echo at the inbound".to_owned(), "postern inbound", all)
}

/// Resident memory of each process of the path before traffic.
pub(crate) fn idle_memory(path: &Path) -> Row {
    let each: Vec<f64> = path.pids.iter().map(|pid| resident_kib(*pid) / 1024.0).collect();
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    row("resident memory of one idle process".to_owned(), path.name, vec![vec![("MiB", mean)]])
}

/// Connect, one request of 128 bytes, its echo, close; `concurrency` at a time.
pub(crate) async fn connections(
    paths: &[&Path],
    concurrency: usize,
    count: usize,
    rounds: usize,
) -> Vec<Row> {
    let mut all: Vec<Vec<Round>> = paths.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (path, found) in paths.iter().zip(&mut all) {
            found.push(connections_once(path, concurrency, count).await);
        }
    }
    let what = format!("connect and one request, {concurrency} at a time");
    paths.iter().zip(all).map(|(path, rounds)| row(what.clone(), path.name, rounds)).collect()
}

async fn connections_once(path: &Path, concurrency: usize, count: usize) -> Round {
    let (cpu, started) = (cpu_seconds(&path.pids), Instant::now());
    let permits = Arc::new(Semaphore::new(concurrency));
    let mut tasks = JoinSet::new();
    let entry = path.entry;
    for _ in 0..count {
        let permit = permits.clone().acquire_owned().await.unwrap();
        tasks.spawn(async move {
            let _until_done = permit;
            let started = Instant::now();
            let mut stream = TcpStream::connect(entry).await.unwrap();
            stream.set_nodelay(true).unwrap();
            stream.write_all(&[b'e'; REQUEST_BYTES]).await.unwrap();
            stream.read_exact(&mut [0; REQUEST_BYTES]).await.unwrap();
            started.elapsed()
        });
    }
    let times: Vec<Duration> = tasks.join_all().await;
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(&path.pids) - cpu);
    let mut figures = vec![("per second", count as f64 / elapsed)];
    figures.extend(percentiles(times));
    figures.push(("CPU-s per 100k", cpu / count as f64 * 1e5));
    figures
}

pub(crate) fn percentiles(mut times: Vec<Duration>) -> [(&'static str, f64); 2] {
    times.sort();
    let micros = |at: usize| times[at.min(times.len() - 1)].as_secs_f64() * 1e6;
    [("p50 µs", micros(times.len() / 2)), ("p99 µs", micros(times.len() * 99 / 100))]
}

/// Bytes from client to backend over `streams` connections at once.
pub(crate) async fn bulk(paths: &[&Path], streams: u64, rounds: usize) -> Vec<Row> {
    let mut all: Vec<Vec<Round>> = paths.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (path, found) in paths.iter().zip(&mut all) {
            let (cpu, started) = (cpu_seconds(&path.pids), Instant::now());
            let mut tasks = JoinSet::new();
            for _ in 0..streams {
                tasks.spawn(send(path.entry, BULK_BYTES / streams));
            }
            let sent: u64 = tasks.join_all().await.into_iter().sum();
            let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(&path.pids) - cpu);
            found.push(vec![
                ("Gbit/s", sent as f64 * 8.0 / 1e9 / elapsed),
                ("CPU-s per GiB", cpu / (sent as f64 / GIB)),
            ]);
        }
    }
    let what = format!("bulk, {streams} streams");
    paths.iter().zip(all).map(|(path, rounds)| row(what.clone(), path.name, rounds)).collect()
}

async fn send(entry: SocketAddr, bytes: u64) -> u64 {
    let mut stream = TcpStream::connect(entry).await.unwrap();
    let block = vec![SINK; 256 * 1024];
    let mut left = bytes;
    while left > 0 {
        let now = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&block[..now]).await.unwrap();
        left -= now as u64;
    }
    stream.shutdown().await.unwrap();
    let received = stream.read_u64().await.unwrap();
    assert_eq!(received, bytes, "everything arrived");
    received
}

/// Memory each process holds for one idle connection, after it has carried a request.
pub(crate) async fn connection_memory(path: &Path, count: usize) -> Row {
    let resident = || path.pids.iter().map(|pid| resident_kib(*pid)).collect::<Vec<_>>();
    let before = resident();
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(path.entry).await.unwrap();
        stream.write_all(&[b'e'; REQUEST_BYTES]).await.unwrap();
        stream.read_exact(&mut [0; REQUEST_BYTES]).await.unwrap();
        streams.push(stream);
    }
    let each: Vec<f64> =
        resident().iter().zip(before).map(|(after, before)| (after - before) / count as f64).collect();
    let round = vec![("KiB, first process", each[0]), ("KiB, second process", each[1])];
    row(format!("memory of one idle connection (of {count})"), path.name, vec![round])
}
