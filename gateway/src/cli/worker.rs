//! `waymark worker`: delivery without faces, beside other processes on PostgreSQL.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use super::serve;
use crate::app::Duty;
use crate::config::Config;

/// Delivers, without faces; several may run beside each other on PostgreSQL.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Examples:\n  waymark worker --config /etc/waymark/waymark.toml\n\nOn SQLite one process holds the writer's lock, so `waymark serve` delivers by itself and a worker is refused."
)]
pub(super) struct Options {
    /// The configuration file.
    #[arg(long, default_value = "waymark.toml", env = "WAYMARK_CONFIG")]
    config: PathBuf,
}

impl Options {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// On SQLite, with the reason; else the first thing that could not be opened.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&self.config)
            .with_context(|| format!("read {}", self.config.display()))?;
        if config.database_url()?.expose().starts_with("sqlite:") {
            bail!(
                "a worker needs PostgreSQL: on SQLite one process writes, and `waymark serve` already delivers"
            );
        }
        serve::run(&self.config, Duty::Worker).await
    }
}
