//! Requests over HTTP/1.1, kept alive or on a new connection each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::measure::{Path, Round, Row, cpu_seconds, percentiles, row};

const REQUEST: &[u8] =
    b"GET /charges/7 HTTP/1.1\r\nhost: payments\r\nuser-agent: bench\r\naccept: */*\r\n\r\n";

/// `count` requests over connections that are kept alive.
pub(crate) async fn keep_alive(paths: &[&Path], connections: usize, count: usize, rounds: usize) -> Vec<Row> {
    let mut all: Vec<Vec<Round>> = paths.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (path, found) in paths.iter().zip(&mut all) {
            found.push(keep_alive_once(path, connections, count).await);
        }
    }
    let what = format!("HTTP/1.1 keep-alive, 1 KiB, {connections} connections");
    paths.iter().zip(all).map(|(path, rounds)| row(what.clone(), path.name, rounds)).collect()
}

async fn keep_alive_once(path: &Path, connections: usize, count: usize) -> Round {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(path.entry).await.unwrap();
        stream.set_nodelay(true).unwrap();
        exchange(&mut stream, REQUEST).await;
        streams.push(stream);
    }
    let (cpu, started) = (cpu_seconds(&path.pids), Instant::now());
    let each = count / connections;
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(each);
            for _ in 0..each {
                let started = Instant::now();
                exchange(&mut stream, REQUEST).await;
                times.push(started.elapsed());
            }
            times
        });
    }
    let times = tasks.join_all().await.concat();
    figures(path, times, started, cpu)
}

/// `count` connections with one request each.
pub(crate) async fn new_connections(
    paths: &[&Path],
    concurrency: usize,
    count: usize,
    rounds: usize,
) -> Vec<Row> {
    let mut all: Vec<Vec<Round>> = paths.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (path, found) in paths.iter().zip(&mut all) {
            found.push(new_connections_once(path, concurrency, count).await);
        }
    }
    let what = format!("HTTP/1.1, a new connection for each request, {concurrency} at a time");
    paths.iter().zip(all).map(|(path, rounds)| row(what.clone(), path.name, rounds)).collect()
}

async fn new_connections_once(path: &Path, concurrency: usize, count: usize) -> Round {
    let (cpu, started) = (cpu_seconds(&path.pids), Instant::now());
    let permits = Arc::new(Semaphore::new(concurrency));
    let (entry, mut tasks) = (path.entry, JoinSet::new());
    for _ in 0..count {
        let permit = permits.clone().acquire_owned().await.unwrap();
        tasks.spawn(async move {
            let _until_done = permit;
            let started = Instant::now();
            let mut stream = TcpStream::connect(entry).await.unwrap();
            stream.set_nodelay(true).unwrap();
            exchange(&mut stream, REQUEST).await;
            started.elapsed()
        });
    }
    let times = tasks.join_all().await;
    figures(path, times, started, cpu)
}

fn figures(path: &Path, times: Vec<Duration>, started: Instant, cpu: f64) -> Round {
    let (count, elapsed) = (times.len() as f64, started.elapsed().as_secs_f64());
    let cpu = cpu_seconds(&path.pids) - cpu;
    let mut figures = vec![("per second", count / elapsed)];
    figures.extend(percentiles(times));
    figures.push(("CPU-s per 100k", cpu / count * 1e5));
    figures
}

/// One request and its whole answer, which must be a 200.
async fn exchange(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).await.unwrap();
    let (mut answer, mut end) = (Vec::with_capacity(2048), None);
    while end.is_none_or(|end| answer.len() < end) {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "an early end");
        if end.is_none()
            && let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n")
        {
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
            end = Some(head + 4 + crate::roles::HTTP_BODY_BYTES);
        }
    }
}
