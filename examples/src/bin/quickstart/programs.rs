//! Where the two real programs are: cargo builds them first when it runs the quickstart.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::process::Command;

/// The two programs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) ca: PathBuf,
    pub(crate) sidecar: PathBuf,
}

impl Programs {
    /// Builds them if cargo runs us; else they lie beside us.
    pub(crate) async fn find() -> anyhow::Result<Self> {
        match (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) {
            (Some(cargo), Some(manifest_dir)) => build(cargo.into(), manifest_dir.into()).await,
            _ => beside_us(),
        }
    }
}

fn beside_us() -> anyhow::Result<Programs> {
    let own = env::current_exe()?;
    let find = |name: &str| {
        let program = own.with_file_name(name);
        ensure!(program.is_file(), "{} is not there; run the quickstart through cargo", program.display());
        Ok(program)
    };
    Ok(Programs { ca: find("postern-ca")?, sidecar: find("postern-sidecar")? })
}

/// In the profile of this very program; cargo's own progress is shown on standard error.
async fn build(cargo: PathBuf, manifest_dir: PathBuf) -> anyhow::Result<Programs> {
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--bins", "-p", "postern-ca", "-p", "postern-sidecar"]);
    command.args(["--message-format", "json-render-diagnostics", "--manifest-path"]);
    command.arg(manifest_dir.join("Cargo.toml"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // What cargo tells us about our own package would make some build scripts run again.
    env::vars_os().filter(|(name, _)| of_our_package(name)).for_each(|(name, _)| {
        command.env_remove(name);
    });
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.spawn().context("cannot run cargo")?.wait_with_output().await?;
    if !output.status.success() {
        bail!("the programs do not build: cargo ended with {}", output.status);
    }
    let messages = String::from_utf8(output.stdout)?;
    let built = |name: &str| {
        let artifact = |line: &str| {
            let message: Value = serde_json::from_str(line).ok()?;
            let ours = message.pointer("/target/name")? == name;
            message.get("executable")?.as_str().filter(|_| ours).map(PathBuf::from)
        };
        messages.lines().find_map(artifact).with_context(|| format!("cargo has built no {name}"))
    };
    Ok(Programs { ca: built("postern-ca")?, sidecar: built("postern-sidecar")? })
}

fn of_our_package(variable: &OsStr) -> bool {
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    prefixes.iter().any(|prefix| variable.as_encoded_bytes().starts_with(prefix.as_bytes()))
}
