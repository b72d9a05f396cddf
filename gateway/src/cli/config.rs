//! `waymark config`: checks and shows waymark.toml.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::config::{Config, DEFAULT_TOML};

/// Checks or shows the configuration.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Examples:\n  waymark config check --config waymark.toml\n  waymark config default > waymark.toml"
)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Checks a file: unknown keys, values, and that every named file can be read.
    Check {
        /// The configuration file.
        #[arg(long, default_value = "waymark.toml", env = "WAYMARK_CONFIG")]
        config: PathBuf,
    },
    /// Prints every key with its default.
    Default,
}

impl Options {
    /// Runs.
    ///
    /// # Errors
    /// When the file cannot be read or is wrong.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Default => super::output::line(DEFAULT_TOML.trim_end())?,
            Command::Check { config: path } => {
                let config =
                    Config::load(&path).with_context(|| format!("read {}", path.display()))?;
                let named = [
                    &config.keys.keyring,
                    &config.keys.log,
                    &config.tls.cert,
                    &config.tls.key,
                    &config.tls.client_ca,
                    &config.outbound.cert,
                    &config.outbound.key,
                    &config.outbound.roots,
                ];
                let mut missing = 0;
                for file in named {
                    if let Err(error) = std::fs::metadata(file) {
                        missing += 1;
                        super::output::line(&format!("{}: {error}", file.display()))?;
                    }
                }
                if missing > 0 {
                    return Ok(ExitCode::FAILURE);
                }
                super::output::line(&format!("{} is valid", path.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
