//! What is measured: each function is one round of one measure on one pair.

use std::time::Duration;

use anyhow::Context as _;
use postern_integration::bench::figures::{Round, percentile};
use postern_integration::bench::options::Choice;
use postern_integration::bench::processes::{self, Memory};
use tokio::sync::Semaphore;

use crate::load::{self, Outcome};
use crate::peers::{Carries, Pair};

/// In the order of the tables. Those of memory come first, as each of their rounds has a fresh pair, alone.
pub(crate) const MEASURES: &[Choice] = &[
    ("idle", "resident memory of one idle sidecar, MiB"),
    ("memory-1000", "memory of one of 1,000 idle connections in one sidecar, KiB of PSS"),
    ("memory-4500", "memory of one of 4,500 idle connections in one sidecar, KiB of PSS"),
    (
        "handshake",
        "full mTLS handshakes with the second proxy and one request in each, one at a time; its CPU only",
    ),
    ("connect-1", "a new connection with one request, one at a time"),
    ("connect-32", "a new connection with one request, 32 at a time"),
    ("bulk-1", "bytes from client to backend, 1 stream"),
    ("bulk-8", "bytes from client to backend, 8 streams"),
    ("http-1", "HTTP/1.1 keep-alive, answers of 1 KiB, 1 connection"),
    ("http-64", "HTTP/1.1 keep-alive, answers of 1 KiB, 64 connections"),
];

/// What each connection carries each way before its memory is measured again.
const TRAFFIC_BYTES: usize = 1 << 20;
/// Connections that are opened, or carry that, at once; more would measure accept queues.
const AT_ONCE: usize = 32;
const MEMORY_ROUNDS_MAX: usize = 2;
const TRAFFIC_WITHIN: Duration = Duration::from_secs(300);
/// What a pair is given to put its memory in order; there is no event to wait for.
const SETTLING: Duration = Duration::from_millis(500);
const GIB: f64 = (1u64 << 30) as f64;

/// Whether each round wants a fresh pair, and no other beside it with which it would share pages.
pub(crate) fn wants_fresh_pair(measure: &str) -> bool {
    measure == "idle" || measure.starts_with("memory-")
}

/// Whether it says anything of this pair.
pub(crate) fn applies(measure: &str, pair: &Pair) -> bool {
    match measure {
        "handshake" => pair.middle.is_some(),
        _ => pair.carries == Carries::Bytes || !measure.starts_with("bulk-"),
    }
}

/// How many of the rounds asked for are enough: memory hardly varies, and thousands of handshakes take their time.
pub(crate) fn rounds(measure: &str, asked: usize) -> usize {
    if measure.starts_with("memory-") { asked.min(MEMORY_ROUNDS_MAX) } else { asked }
}

/// One round.
pub(crate) fn round(measure: &str, pair: &Pair, duration: Duration) -> anyhow::Result<Round> {
    match measure.rsplit_once('-') {
        Some(("connect", clients)) => connects(pair, clients.parse()?, duration),
        Some(("bulk", streams)) => bulk(pair, streams.parse()?, duration),
        Some(("http", connections)) => requests(pair, connections.parse()?, duration),
        Some(("memory", connections)) => memory(pair, connections.parse()?),
        _ if measure == "handshake" => handshakes(pair, duration),
        _ => idle(pair),
    }
}

fn connects(pair: &Pair, clients: usize, duration: Duration) -> anyhow::Result<Round> {
    let entries = pair.entries.clone();
    let open = move || std::future::ready(Ok(entries.clone()));
    timed(&mut Cpu::of(pair), |begin| load::run(clients, duration, open, load::keep_connecting, begin))
}

fn handshakes(pair: &Pair, duration: Duration) -> anyhow::Result<Round> {
    let middle = pair.middle.clone().context("no mTLS here")?;
    let mut cpu = Cpu { pids: vec![pair.pids()[1]], begun: 0.0 };
    let open = move || std::future::ready(Ok(middle.clone()));
    timed(&mut cpu, |begin| load::run(1, duration, open, load::keep_shaking_hands, begin))
}

fn requests(pair: &Pair, connections: usize, duration: Duration) -> anyhow::Result<Round> {
    let entry = pair.entry();
    timed(&mut Cpu::of(pair), |begin| {
        load::run(connections, duration, move || load::connect_and_ask(entry), load::keep_asking, begin)
    })
}

/// Rate, times and cost of many requests.
fn timed(
    cpu: &mut Cpu,
    run: impl FnOnce(&mut dyn FnMut() -> std::io::Result<()>) -> anyhow::Result<Outcome<Vec<Duration>>>,
) -> anyhow::Result<Round> {
    let outcome = run(&mut || cpu.begin())?;
    let cpu = cpu.used()?;
    let mut times = outcome.each.concat();
    times.sort_unstable();
    let count = times.len() as f64;
    let micros = |share| percentile(&times, share).as_secs_f64() * 1e6;
    let mut round = vec![
        ("per second", count / outcome.elapsed.as_secs_f64()),
        (P50, micros(0.5)),
        ("p99 µs", micros(0.99)),
    ];
    round.extend(cpu.map(|cpu| ("CPU-s per 100k", cpu / count * 1e5)));
    Ok(round)
}

const P50: &str = "p50 µs";

/// What a pair adds to the median time of `direct` in the same round.
pub(crate) fn add_to_direct(round: &mut Round, direct: &Round) {
    let p50 = |round: &Round| round.iter().find(|(name, _)| *name == P50).map(|(_, value)| *value);
    if let (Some(own), Some(direct)) = (p50(round), p50(direct)) {
        round.push(("added p50 µs", own - direct));
    }
}

fn bulk(pair: &Pair, streams: usize, duration: Duration) -> anyhow::Result<Round> {
    let (entry, mut cpu) = (pair.entry(), Cpu::of(pair));
    let open = move || load::connect(entry);
    let outcome = load::run(streams, duration, open, load::keep_sending, || cpu.begin())?;
    let cpu = cpu.used()?;
    let bytes = outcome.each.iter().sum::<u64>() as f64;
    let mut round = vec![("Gbit/s", bytes * 8.0 / 1e9 / outcome.elapsed.as_secs_f64())];
    round.extend(cpu.map(|cpu| ("CPU-s per GiB", cpu / (bytes / GIB))));
    Ok(round)
}

/// Processor time of both proxies together; nothing where there is no proxy.
#[derive(Debug)]
struct Cpu {
    pids: Vec<u32>,
    begun: f64,
}

impl Cpu {
    fn of(pair: &Pair) -> Self {
        Self { pids: pair.pids(), begun: 0.0 }
    }

    fn now(&self) -> std::io::Result<f64> {
        self.pids.iter().map(|pid| processes::cpu_seconds(*pid)).sum()
    }

    fn begin(&mut self) -> std::io::Result<()> {
        self.begun = self.now()?;
        Ok(())
    }

    fn used(&self) -> std::io::Result<Option<f64>> {
        let used = self.now()? - self.begun;
        Ok((!self.pids.is_empty()).then_some(used))
    }
}

fn idle(pair: &Pair) -> anyhow::Result<Round> {
    std::thread::sleep(SETTLING);
    let [client, server] = both(pair)?;
    Ok(vec![
        ("client side, RSS", client.rss_kib / 1024.0),
        ("server side, RSS", server.rss_kib / 1024.0),
        ("client side, PSS", client.pss_kib / 1024.0),
        ("server side, PSS", server.pss_kib / 1024.0),
    ])
}

/// The memory that connections add, after one small request each, and after much traffic each.
fn memory(pair: &Pair, connections: usize) -> anyhow::Result<Round> {
    static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);
    let entry = pair.entry();
    let open = move || async move {
        let _turn = TURNS.acquire().await?;
        load::connect_and_ask(entry).await
    };
    let carry = |stream, _| async move {
        let _turn = TURNS.acquire().await?;
        load::exchange(stream, TRAFFIC_BYTES).await
    };
    std::thread::sleep(SETTLING);
    let before = both(pair)?;
    let mut opened = before;
    let outcome = load::run(connections, TRAFFIC_WITHIN, open, carry, || {
        std::thread::sleep(SETTLING);
        opened = both(pair)?;
        Ok(())
    })?;
    std::thread::sleep(SETTLING);
    let carried = both(pair)?;
    // Open until here.
    drop(outcome.each);
    let each = |now: [Memory; 2], at: usize| (now[at].pss_kib - before[at].pss_kib) / connections as f64;
    Ok(vec![
        ("client side", each(opened, 0)),
        ("server side", each(opened, 1)),
        ("client side, after 1 MiB each way", each(carried, 0)),
        ("server side, after 1 MiB each way", each(carried, 1)),
    ])
}

fn both(pair: &Pair) -> std::io::Result<[Memory; 2]> {
    let pids = pair.pids();
    Ok([processes::memory(pids[0])?, processes::memory(pids[1])?])
}
