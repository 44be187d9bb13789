//! `postern-ca`: see `--help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    postern_ca::cli::main()
}
