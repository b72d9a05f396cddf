//! `waymark bench accept`: durable accepts a second beside the machine's own limits, measured in the same run.
//!
//! Each cell (store, calls in flight) interleaves four measurements, round by round, so that a machine whose speed
//! drifts slows all of them: the gateway with everything on; a bare handler, which is mutual TLS and one grouped
//! commit of the same rows and nothing else; an echo over mutual TLS; and the grouped commit without a network.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use waymark_core::access::Principal;
use waymark_store::bare::BareStore;

use super::output::{self, Format};
use super::{InitOptions, Ports, init_deployment};
use crate::app::{App, Duty};
use crate::config::Config;
use crate::lifecycle::Lifecycle;
use crate::telemetry::Telemetry;

mod handler;
mod load;
mod sample;
mod sink;

use handler::{Handler, serve};
use load::{Client, Measured};

/// The outbox may be this old at the end of a round; older means that the sequencer does not keep up.
const OUTBOX_AGE_MAX: Duration = Duration::from_secs(5);
/// Rounds of a cell, at least.
const ROUNDS_MIN: u32 = 5;
/// How much more is prepared for the bare handler than it is expected to use.
const HEADROOM: f64 = 1.5;
/// Prepared commits of one round, at most, so that memory stays bounded.
const PREPARED_MAX: usize = 150_000;

/// Measures against the machine's limits.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Examples:\n  waymark bench accept\n  waymark bench accept --store postgres --postgres postgres://localhost/bench --postgres-bare postgres://localhost/bare --output json\n\nUse empty databases: what is written stays there."
)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Durable accepts a second over mutual TLS.
    Accept(Accept),
}

/// A store to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    Sqlite,
    Postgres,
}

#[derive(Args, Debug)]
struct Accept {
    /// Stores to measure; both when an address for PostgreSQL is given.
    #[arg(long, value_enum)]
    store: Vec<Engine>,
    /// An empty PostgreSQL database for the gateway.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// Another, for the bare handler.
    #[arg(long, value_name = "URL")]
    postgres_bare: Option<String>,
    /// Calls in flight.
    #[arg(long, default_values_t = [1, 64, 256])]
    in_flight: Vec<usize>,
    /// Interleaved rounds of each cell.
    #[arg(long, default_value_t = ROUNDS_MIN, value_parser = clap::value_parser!(u32).range(i64::from(ROUNDS_MIN)..))]
    rounds: u32,
    /// Seconds of each of a round's four measurements: the default makes 60 s a cell.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where databases and keys of the run are made; a temporary folder unless given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// One cell's figures: medians over its rounds.
#[derive(Clone, Debug, Serialize)]
struct Run {
    store: &'static str,
    in_flight: usize,
    per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    limit_echo_per_s: f64,
    limit_commit_per_s: f64,
    limit_bare_per_s: f64,
    limit_bare_p99_ms: f64,
    ratio: f64,
    outbox_age_ms: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    runs: Vec<Run>,
}

impl Options {
    /// Runs the measurement.
    ///
    /// # Errors
    /// When anything is refused, the outbox ages, or a part does not start.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let Command::Accept(accept) = self.command;
        let report = accept.run().await?;
        output::show(&report, human)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn human(report: &Report) -> String {
    let mut table = output::table([
        "store",
        "in flight",
        "accepts/s",
        "p50 ms",
        "p99 ms",
        "bare/s",
        "bare p99",
        "echo/s",
        "commit/s",
        "ratio",
    ]);
    for run in &report.runs {
        table.add_row([
            run.store.to_owned(),
            run.in_flight.to_string(),
            format!("{:.0}", run.per_s),
            format!("{:.2}", run.p50_ms),
            format!("{:.2}", run.p99_ms),
            format!("{:.0}", run.limit_bare_per_s),
            format!("{:.2}", run.limit_bare_p99_ms),
            format!("{:.0}", run.limit_echo_per_s),
            format!("{:.0}", run.limit_commit_per_s),
            format!("{:.2}", run.ratio),
        ]);
    }
    table.to_string()
}

impl Accept {
    async fn run(self) -> anyhow::Result<Report> {
        let stores = match (self.store.as_slice(), &self.postgres) {
            ([], None) => vec![Engine::Sqlite],
            ([], Some(_)) => vec![Engine::Sqlite, Engine::Postgres],
            (given, _) => given.to_vec(),
        };
        let temporary = tempfile::tempdir().context("make a temporary folder")?;
        let base = self
            .dir
            .clone()
            .unwrap_or_else(|| temporary.path().to_owned());
        let mut runs = Vec::new();
        for store in stores {
            let bed = Bed::start(&self, store, &base).await?;
            for in_flight in &self.in_flight {
                let run = bed
                    .cell(*in_flight, self.rounds, Duration::from_secs(self.seconds))
                    .await?;
                if output::format() == Format::Human {
                    output::note(&human(&Report {
                        runs: vec![run.clone()],
                    }));
                }
                runs.push(run);
            }
            bed.stop().await?;
        }
        Ok(Report { runs })
    }
}

/// Everything that one store's cells need, running.
struct Bed {
    name: &'static str,
    app: App,
    lifecycle: Lifecycle,
    school: Principal,
    gateway: Client,
    bare: Client,
    echo: Client,
    store: Arc<dyn BareStore>,
    telemetry: Telemetry,
}

impl Bed {
    async fn start(
        options: &Accept,
        engine: Engine,
        base: &std::path::Path,
    ) -> anyhow::Result<Self> {
        let (name, url, bare_url) = match engine {
            Engine::Sqlite => {
                let file = |name: &str| format!("sqlite://{}", base.join(name).display());
                ("sqlite", file("bench.db"), file("bare.db"))
            }
            Engine::Postgres => match (&options.postgres, &options.postgres_bare) {
                (Some(url), Some(bare)) => ("postgres", url.clone(), bare.clone()),
                _ => bail!(
                    "PostgreSQL is measured with --postgres and --postgres-bare, two empty databases"
                ),
            },
        };
        let lifecycle = Lifecycle::new(Duration::from_secs(10));
        let telemetry = Telemetry::metrics_only()?;
        let sink = sink::start(&lifecycle).await?;
        let dir = base.join(name);
        let init = InitOptions {
            ports: Ports::FREE,
            database: Some(url),
            directory: sample::directory(sink)?,
            ..InitOptions::default()
        };
        let deployment = init_deployment(&dir, &init)?;
        let mut config = Config::load(&deployment.config)?;
        // The limits of one agency are not what is measured.
        config.limits.agency_per_second = crate::config::limits::AGENCY_PER_SECOND_MAX;
        config.limits.agency_burst = crate::config::limits::AGENCY_PER_SECOND_MAX;
        let app = App::start(&config, Duty::Serve, &lifecycle, telemetry.metrics()).await?;
        let school = app
            .service
            .principal(&[sample::SCHOOL.to_owned()])
            .map_err(|error| anyhow::anyhow!("the school is not known: {}", error.reason))?;
        let keyring = waymark_store::Keyring::load(&config.keys.keyring)?;
        let store = waymark_store::open_bare(waymark_store::OpenOptions {
            url: bare_url,
            keyring,
            environment: config.gateway.environment,
            mode: waymark_store::Mode::Write,
            schema: waymark_store::Schema::Migrate,
            now: app.service.now(),
            free_disk_min: 0,
        })
        .await
        .context("open the bare database")?;
        let bare = serve(&lifecycle, &config, Handler::Commit(Arc::clone(&store))).await?;
        let echo = serve(&lifecycle, &config, Handler::Echo).await?;
        let identity = deployment
            .clients
            .get("EE123456")
            .context("the sample directory has a school")?;
        let grpc = app.grpc.context("the gateway listens")?;
        let connect = |address| Client::connect(address, &deployment.ca, identity);
        Ok(Self {
            name,
            gateway: connect(grpc).await?,
            bare: connect(bare).await?,
            echo: connect(echo).await?,
            app,
            lifecycle,
            school,
            store,
            telemetry,
        })
    }

    /// One cell: `rounds` rounds of four measurements each.
    async fn cell(&self, in_flight: usize, rounds: u32, each: Duration) -> anyhow::Result<Run> {
        let (mut full, mut bare, mut echo, mut commit) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut guess = 2_000.0_f64;
        let mut age_ms = 0;
        for _ in 0..rounds {
            full.push(
                self.gateway
                    .measure(in_flight, each, usize::MAX, sample::request)
                    .await?,
            );
            age_ms = self.outbox_age().await?;
            let ready = self.prepare(guess * each.as_secs_f64()).await?;
            let measured = self
                .bare
                .measure(in_flight, each, ready, sample::request)
                .await?;
            guess = measured.per_s * HEADROOM;
            bare.push(measured);
            self.drain().await?;
            echo.push(
                self.echo
                    .measure(in_flight, each, usize::MAX, sample::request)
                    .await?,
            );
            let ready = self.prepare(guess * each.as_secs_f64()).await?;
            commit.push(load::commits(&self.store, in_flight, each, ready).await?);
            self.drain().await?;
        }
        let ratios: Vec<f64> = full
            .iter()
            .zip(&bare)
            .map(|(f, b)| f.per_s / b.per_s)
            .collect();
        let of =
            |runs: &[Measured], pick: fn(&Measured) -> f64| median(runs.iter().map(pick).collect());
        Ok(Run {
            store: self.name,
            in_flight,
            per_s: of(&full, |m| m.per_s),
            p50_ms: of(&full, |m| m.p50_ms),
            p99_ms: of(&full, |m| m.p99_ms),
            limit_echo_per_s: of(&echo, |m| m.per_s),
            limit_commit_per_s: of(&commit, |m| m.per_s),
            limit_bare_per_s: of(&bare, |m| m.per_s),
            limit_bare_p99_ms: of(&bare, |m| m.p99_ms),
            ratio: median(ratios),
            outbox_age_ms: age_ms,
        })
    }

    /// Prepares rows before the clock starts: drafted by the use case, sealed and hashed by the store.
    async fn prepare(&self, wanted: f64) -> anyhow::Result<usize> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number of rows, bounded next"
        )]
        let wanted = (wanted.max(100.0) as usize).min(PREPARED_MAX);
        let mut accepts = Vec::with_capacity(wanted);
        for _ in 0..wanted {
            let submit = sample::submit()?;
            let draft = self.app.service.draft_submit(&self.school, submit);
            accepts.push(
                draft
                    .map_err(|error| anyhow::anyhow!("the sample is refused: {}", error.reason))?,
            );
        }
        self.store.prepare(accepts).await?;
        Ok(wanted)
    }

    /// Commits what is left over, so that the next round starts from nothing.
    async fn drain(&self) -> anyhow::Result<()> {
        load::commits(&self.store, 256, Duration::from_mins(10), usize::MAX).await?;
        Ok(())
    }

    async fn outbox_age(&self) -> anyhow::Result<u64> {
        let (rows, age_ms) = self
            .app
            .service
            .store()
            .outbox(self.app.service.now())
            .await?;
        if Duration::from_millis(age_ms) > OUTBOX_AGE_MAX {
            bail!(
                "the sequencer does not keep up: {rows} entries wait, the oldest for {age_ms} ms"
            );
        }
        Ok(age_ms)
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.lifecycle.stop();
        drop((self.gateway, self.bare, self.echo));
        let _ending = self.lifecycle.run().await?;
        self.telemetry.shut_down();
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
