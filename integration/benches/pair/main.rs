//! What a connection through a pair of sidecars costs, against pairs of other proxies: docs/BENCHMARKS.md.
//!
//! `cargo bench -p postern-integration --bench pair` runs everything on the release build of the real programs, round by
//! round, and prints tables; `-- --help` says how to choose.

mod environment;
mod envoy;
mod haproxy;
mod identities;
mod load;
mod measures;
mod nginx;
mod peers;
mod postern;
mod roles;

use std::collections::HashMap;
use std::os::unix::process::CommandExt as _;

use postern_integration::bench::options::{self, Asked, Options};
use postern_integration::bench::report::{self, Measure, Report, Row};
use tokio::runtime::Runtime;

use measures::MEASURES;
use peers::{PEERS, Pair};
use roles::Role;

/// Of the programs made with tokio, as the others have their own settings for it.
const TOKIO_WORKERS: &str = "TOKIO_WORKER_THREADS";

fn main() {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if_eq("role").is_some() {
        return roles::run(args);
    }
    match options::parse(args, PEERS, MEASURES) {
        Ok(Asked::Help) => print!("{}", options::help(PEERS, MEASURES)),
        Ok(Asked::Run(options)) => run(&options),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(2);
        }
    }
}

fn run(options: &Options) {
    if std::env::var_os(TOKIO_WORKERS).is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(std::env::args_os().skip(1)).env(TOKIO_WORKERS, roles::WORKERS.to_string());
        panic!("cannot start again: {}", again.exec());
    }
    let runtime = Runtime::new().unwrap();
    let backends =
        options.peers.iter().map(|peer| (*peer, runtime.block_on(roles::start_backend()))).collect();
    let mut bench = Bench { runtime, backends, report: Report::default() };
    bench.report.environment = environment::of_machine(options);
    bench.run(options);
    print!("{}", report::markdown(&bench.report));
    if let Some(file) = &options.json {
        std::fs::write(file, format!("{:#}\n", report::json(&bench.report))).unwrap();
    }
}

#[derive(Debug)]
struct Bench {
    runtime: Runtime,
    /// One for each peer: its closed connections shall not take another's ports.
    backends: HashMap<&'static str, Role>,
    report: Report,
}

impl Bench {
    fn run(&mut self, options: &Options) {
        let (alone, together): (Vec<_>, Vec<_>) =
            options.measures.iter().copied().partition(|measure| measures::wants_fresh_pair(measure));
        for measure in alone {
            self.fresh(measure, options);
        }
        let mut pairs: Vec<(&'static str, Pair)> = Vec::new();
        for peer in options.peers.iter().filter(|_| !together.is_empty()) {
            pairs.extend(self.start(peer).map(|pair| (*peer, pair)));
        }
        for measure in together {
            self.interleaved(measure, &pairs, options);
        }
    }

    /// A pair, or nothing and a line in the report.
    fn start(&mut self, peer: &'static str) -> Option<Pair> {
        let known = |name: &str| name == peer;
        if self.report.missing.iter().any(|(name, _)| known(name)) {
            return None;
        }
        match self.runtime.block_on(Pair::start(peer, &self.backends[peer].addresses)) {
            Ok(pair) => {
                if !self.report.environment.iter().any(|(name, _)| known(name)) {
                    self.report.environment.push((peer, pair.version.clone()));
                }
                Some(pair)
            }
            Err(error) => {
                eprintln!("{peer} is left out: {error:#}");
                self.report.missing.push((peer, format!("{error:#}")));
                None
            }
        }
    }

    /// Each round of each peer with a pair of its own, alone.
    fn fresh(&mut self, name: &'static str, options: &Options) {
        let peers = options.peers.iter().copied().filter(|peer| *peer != "direct");
        let mut rows: Vec<Row> = peers.map(empty_row).collect();
        let count = measures::rounds(name, options.rounds);
        for at in 1..=count {
            eprintln!("{name}, round {at} of {count}");
            for row in &mut rows {
                if let Some(pair) = self.start(row.peer) {
                    note(row, measures::round(name, &pair, options.duration));
                }
            }
        }
        self.add(name, rows);
    }

    /// Round by round all pairs, one after the other.
    fn interleaved(&mut self, name: &'static str, pairs: &[(&'static str, Pair)], options: &Options) {
        let pairs: Vec<_> = pairs.iter().filter(|(_, pair)| measures::applies(name, pair)).collect();
        let mut rows: Vec<Row> = pairs.iter().map(|(peer, _)| empty_row(peer)).collect();
        for at in 1..=options.rounds {
            eprintln!("{name}, round {at} of {}", options.rounds);
            let mut direct = Vec::new();
            for ((peer, pair), row) in pairs.iter().zip(&mut rows) {
                let mut round = measures::round(name, pair, options.duration);
                match &mut round {
                    Ok(round) if *peer == "direct" => direct.clone_from(round),
                    Ok(round) => measures::add_to_direct(round, &direct),
                    Err(_) => {}
                }
                note(row, round);
            }
        }
        self.add(name, rows);
    }

    fn add(&mut self, name: &'static str, mut rows: Vec<Row>) {
        rows.retain(|row| !row.rounds.is_empty() || !row.failures.is_empty());
        let what = MEASURES.iter().find(|(measure, _)| *measure == name).map_or("", |(_, what)| what);
        self.report.measures.push(Measure { name, what, rows });
    }
}

fn empty_row(peer: &'static str) -> Row {
    Row { peer, rounds: Vec::new(), failures: Vec::new() }
}

fn note(row: &mut Row, round: anyhow::Result<postern_integration::bench::figures::Round>) {
    match round {
        Ok(round) => row.rounds.push(round),
        Err(error) => {
            eprintln!("{}: {error:#}", row.peer);
            row.failures.push(format!("{error:#}"));
        }
    }
}
