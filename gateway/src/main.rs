//! The one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    waymark::cli::run()
}
