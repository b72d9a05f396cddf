//! `waymark-audit`: checks an exported delivery log, or one receipt, offline.
//!
//! Exit codes: 0 everything holds, 1 something was tampered with, 2 it cannot be told.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
