//! `docs/COMPATIBILITY.md`: the table for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::table::{Protocol, ROWS};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/COMPATIBILITY.md");
const HEAD: &str = "# Compatibility

Clients and servers that are run through a pair of sidecars in each CI run, unchanged and at their defaults. Each row is
run in each protocol that is marked, and makes three exchanges: a short one, a quiet one in which nothing moves for 40
seconds (70 seconds for gRPC), and a long one. `cargo test --test compat` runs all of them; this file is written by the
same command with `POSTERN_COMPAT_WRITE=1`.

The rows of idle connections are as wide as a limit of 20,000 file descriptors allows: over `http` a sidecar keeps one for
each connection of its app, over `tcp` two, and one peer may have half of what an inbound can hold.

";
const VERSIONS: &str = "\n## Versions\n\nThose of the last run that wrote this file:\n\n";

/// Writes it anew.
pub(crate) fn write(versions: &BTreeSet<String>) {
    let mut text = table() + VERSIONS;
    for version in versions {
        writeln!(text, "- {version}").unwrap();
    }
    std::fs::write(FILE, text).unwrap();
}

/// Whether its table is the one that was run; versions may differ from machine to machine.
pub(crate) fn in_step() -> Result<(), String> {
    let found = std::fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    if found.starts_with(&(table() + VERSIONS)) {
        return Ok(());
    }
    Err("docs/COMPATIBILITY.md is not the table of this suite: write it with POSTERN_COMPAT_WRITE=1"
        .to_owned())
}

fn table() -> String {
    let mut text = HEAD.to_owned();
    text.push_str(
        "| Row | App | Client | `tcp` | `http` | Short | Quiet | Long |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in ROWS {
        let mark = |protocol| if row.protocols.contains(&protocol) { "yes" } else { "" };
        let (tcp, http) = (mark(Protocol::Tcp), mark(Protocol::Http));
        let each = [
            row.name,
            row.app,
            row.caller,
            tcp,
            http,
            row.exchanges.short,
            row.exchanges.quiet,
            row.exchanges.long,
        ];
        writeln!(text, "| {} |", each.join(" | ")).unwrap();
    }
    text
}
