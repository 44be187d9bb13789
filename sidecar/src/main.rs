//! `postern-sidecar`: see `--help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    postern_sidecar::cli::main()
}
