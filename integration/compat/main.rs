//! Real clients and real servers through a pair of sidecars: one row of the table for each, in both protocols.
//!
//! `cargo test --test compat` runs every row, `cargo test --test compat -- redis` those whose name contains the word.
//! With `POSTERN_COMPAT_WRITE=1` the table and the versions seen are written to `docs/COMPATIBILITY.md`.
//! `POSTERN_COMPAT_QUIET` is the length of the quiet exchange in seconds, `POSTERN_COMPAT_GIB` the size of the large one.

mod case;
mod document;
mod echo;
mod process;
mod report;
mod runtimes;
mod table;

use std::process::ExitCode;
use std::sync::Arc;

use postern_integration::{CaOptions, Mesh};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::case::{Case, Place, World};
use crate::report::Report;
use crate::runtimes::Runtimes;
use crate::table::ROWS;

/// Cases under way at once: most of each is a pause.
const CASES_AT_ONCE: usize = 16;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match args.first().map(String::as_str) {
        Some("tonic-app") => runtime.block_on(echo::serve()),
        Some("tonic-caller") => runtime.block_on(echo::call()),
        _ => return runtime.block_on(suite(&args)),
    }
    ExitCode::SUCCESS
}

async fn suite(args: &[String]) -> ExitCode {
    let words: Vec<_> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let chosen =
        |case: &Case| words.is_empty() || words.iter().any(|word| case.name().contains(word.as_str()));
    let (cases, left_out): (Vec<_>, Vec<_>) = ROWS.iter().flat_map(Case::of).partition(chosen);
    if args.iter().any(|arg| arg == "--list") {
        for case in &cases {
            println!("{}: test", case.name());
        }
        return ExitCode::SUCCESS;
    }
    let mut report = Report::new(cases.len(), left_out.len());
    if !cases.is_empty() {
        run(cases, &mut report).await;
    }
    report.close()
}

async fn run(cases: Vec<Case>, report: &mut Report) {
    let scripts: Vec<_> = cases.iter().flat_map(Case::scripts).collect();
    let runtimes = tokio::task::spawn_blocking(move || Runtimes::prepare(&scripts)).await.unwrap();
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let world = Arc::new(World::new(mesh, ca, runtimes));
    let (permits, mut running) = (Arc::new(Semaphore::new(CASES_AT_ONCE)), JoinSet::new());
    for (number, case) in cases.into_iter().enumerate() {
        let (permits, world) = (permits.clone(), world.clone());
        running.spawn(async move {
            let _permit = permits.acquire_owned().await.unwrap();
            case::run(case, Place::new(number, &world), world).await
        });
    }
    while let Some(ended) = running.join_next().await {
        report.add(ended.unwrap());
    }
}
