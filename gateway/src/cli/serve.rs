//! `waymark serve` and `waymark worker`: a gateway until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tracing::info;

use crate::app::{App, Duty};
use crate::config::{Config, LogFormat};
use crate::lifecycle::Lifecycle;
use crate::telemetry::{Telemetry, TelemetryOptions};

/// Runs a gateway: faces and delivery.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Examples:\n  waymark serve --config /etc/waymark/waymark.toml\n  waymark serve --no-worker      # faces alone; `waymark worker` delivers (PostgreSQL)\n\nSIGTERM or SIGINT: stop accepting, finish open work, end. A second one aborts. SIGHUP reads certificates again.\nExit codes: 0 drained, 1 a task died or start-up failed, 3 open work was aborted."
)]
pub(super) struct Options {
    /// The configuration file.
    #[arg(long, default_value = "waymark.toml", env = "WAYMARK_CONFIG")]
    config: PathBuf,
    /// Serve faces alone, and leave delivery to workers.
    #[arg(long)]
    no_worker: bool,
}

impl Options {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// The first thing that could not be opened.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let duty = if self.no_worker {
            Duty::Faces
        } else {
            Duty::Serve
        };
        run(&self.config, duty).await
    }
}

/// How telemetry is set up for a configuration.
pub(crate) fn telemetry_options(config: &Config) -> TelemetryOptions {
    use std::io::IsTerminal as _;
    let json = match config.telemetry.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    TelemetryOptions {
        filter: config.telemetry.log_filter.clone(),
        json,
        otlp_endpoint: config.telemetry.otlp_endpoint.clone(),
        sample_ratio: config.telemetry.sample_ratio,
    }
}

/// Runs one process of a deployment until it is told to stop.
pub(super) async fn run(path: &std::path::Path, duty: Duty) -> anyhow::Result<ExitCode> {
    let config = Config::load(path).with_context(|| format!("read {}", path.display()))?;
    let telemetry = Telemetry::install(&telemetry_options(&config))?;
    let lifecycle = Lifecycle::new(config.gateway.drain.get());
    let app = App::start(&config, duty, &lifecycle, telemetry.metrics()).await;
    let app = match app {
        Ok(app) => app,
        Err(error) => {
            lifecycle.stop();
            return Err(error);
        }
    };
    announce(&app, &config);
    let ending = lifecycle.run().await.context("listen for signals")?;
    info!(ending = ?ending, "the process ends");
    telemetry.shut_down();
    Ok(ending.exit_code())
}

/// Says where everything listens: with port 0 this is the only place that knows.
fn announce(app: &App, config: &Config) {
    let release = app.service.in_force().number;
    info!(
        environment = config.gateway.environment.as_str(),
        release.number = release,
        grpc = app.grpc.map(|a| a.to_string()),
        metrics = app.monitor.map(|a| a.to_string()),
        webhook = app.callback.map(|a| a.to_string()),
        fhir = app.fhir.map(|a| a.to_string()),
        "waymark is ready"
    );
    for (name, address) in &app.mllp {
        info!(listener = %name, %address, "listening for MLLP");
    }
    if release == 0 {
        tracing::warn!(
            "no directory release is in force: nobody can call: name a folder in directory.initial and start again"
        );
    }
}
