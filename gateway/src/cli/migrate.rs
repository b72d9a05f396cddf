//! `waymark migrate`: brings the schema up to date.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::config::Config;

/// Brings the database's schema up to date; a program never runs on a newer schema than it knows.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Examples:\n  waymark migrate --config /etc/waymark/waymark.toml\n\nMigrations only go forward, and each works while the previous release still runs."
)]
pub(super) struct Options {
    /// The configuration file.
    #[arg(long, default_value = "waymark.toml", env = "WAYMARK_CONFIG")]
    config: PathBuf,
}

impl Options {
    /// Migrates.
    ///
    /// # Errors
    /// When the database cannot be opened or a migration fails.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&self.config)
            .with_context(|| format!("read {}", self.config.display()))?;
        waymark_store::migrate(config.database_url()?.expose())
            .await
            .context("migrate the database")?;
        super::output::line("the schema is up to date")?;
        Ok(ExitCode::SUCCESS)
    }
}
