//! Where the real programs are: built by cargo just now, or beside this one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The three programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) ca: PathBuf,
    pub(crate) sidecar: PathBuf,
    pub(crate) quickstart: PathBuf,
}

/// Under `cargo run`, has cargo bring the programs up to date, in the same profile; its progress is shown.
pub(crate) fn find() -> anyhow::Result<Programs> {
    let quickstart = std::env::current_exe().context("cannot find the own executable")?;
    let dir = quickstart.parent().unwrap_or(Path::new(".")).to_owned();
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--bin", "postern-ca", "--bin", "postern-sidecar"]);
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        // What `cargo run` tells a program about its package would make some build scripts run again.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_about_the_package(name)) {
            build.env_remove(name);
        }
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        ensure!(build.status().context("cannot run cargo")?.success(), "the programs do not build");
    }
    let programs = Programs { ca: dir.join("postern-ca"), sidecar: dir.join("postern-sidecar"), quickstart };
    for program in [&programs.ca, &programs.sidecar] {
        ensure!(
            program.exists(),
            "{} is not there; run this with `cargo run --release --bin quickstart`",
            program.display()
        );
    }
    Ok(programs)
}

fn is_about_the_package(name: &std::ffi::OsStr) -> bool {
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    name.to_str().is_some_and(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
}
