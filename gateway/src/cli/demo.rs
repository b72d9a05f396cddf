//! `waymark demo`: a gateway and its agencies on this machine, the whole job, and what was found.
//!
//! The gateway is the one that `waymark serve` runs, on embedded SQLite. The agencies are programs of their own
//! kind: they know nothing of the gateway but its addresses, and each speaks one protocol with it.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use waymark_core::time::Clock as _;

use self::board::Board;
use self::cast::Cast;
use self::story::Story;
use self::verdict::Summary;
use super::failure::Failure;
use super::output::{self, Format};
use crate::clock::SystemClock;
use crate::lifecycle::{Ending, Lifecycle};
use crate::telemetry::{Telemetry, TelemetryOptions};

mod admin;
mod answer;
mod bars;
mod board;
mod cast;
mod deployment;
mod event;
mod families;
mod hearing;
mod hospital;
mod ledger;
mod log;
mod papers;
mod portage;
mod post;
mod push;
mod samples;
mod school;
mod story;
mod therapy;
mod verdict;
mod wait;

/// The pathway whose referrals the hospital and the therapy service accept at once, with an answer.
const ANSWERED_PATHWAY: &str = "autism-assessment";
/// The area's SEN team, which triages.
const COUNCIL: &str = "LA882";
/// The area's social care.
const SOCIAL_CARE: &str = "SC882";
/// The client of the area's administrator.
const ADMIN: &str = "admin-LA882";
/// The client of the area's auditor.
const AUDITOR: &str = "auditor-LA882";
/// How long open work may take to finish at the end.
const DRAIN: Duration = Duration::from_secs(10);
/// How often a demo that stays up looks for what its reader has sent.
const LOOK: Duration = Duration::from_millis(500);

/// Starts a gateway and its agencies on this machine and shows the whole job.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark demo                          stays up for you to try send, watch and route explain
  waymark demo --once --output json     one line for a script; exit code 0 only if all arrived once and the log verified
  waymark demo --dir mydemo             keeps the deployment and the exported log

A school and a mental health service (gRPC), a hospital (MLLP), a therapy service (webhook), occupational therapists
(FHIR), a hearing service (MESH), a portage team (files), a specialist team, a council and its social care (mailbox) and
a provider of family messages (Notify) work with a gateway on embedded SQLite. The hospital is taken down and brought
back. Children come in by gRPC, FHIR, files and MESH.")]
pub(super) struct Options {
    /// Ends when everything was shown and checked.
    #[arg(long)]
    once: bool,
    /// Folder to make the deployment in, and to keep it; it must be empty or not exist.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How many referrals the school sends; above the number of samples they come again as new ones.
    #[arg(long, value_name = "N", default_value_t = samples::SAMPLES_COUNT)]
    referrals: usize,
    /// Which of the gateway's log lines go to standard error, such as info or waymark=debug.
    #[arg(long, value_name = "FILTER", default_value = "error")]
    log: String,
}

impl Options {
    /// Runs the demo.
    ///
    /// # Errors
    /// When the gateway or an agency cannot start.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        if !(1..=samples::REFERRALS_MAX).contains(&self.referrals) {
            return Err(Failure::usage(format!(
                "--referrals is 1 to {}",
                samples::REFERRALS_MAX
            )));
        }
        let log = TelemetryOptions {
            filter: self.log.clone(),
            ..TelemetryOptions::default()
        };
        let telemetry = Telemetry::install(&log)?;
        let performed = self.run_with(&telemetry).await;
        telemetry.shut_down();
        let summary = match performed {
            // A script gets its line whatever happens.
            Err(why) if self.is_scripted() => Summary {
                faults: vec![format!("{why:#}")],
                ..Summary::default()
            },
            performed => performed?,
        };
        if self.is_scripted() {
            output::json(&summary)?;
        }
        Ok(if summary.ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// Whether one line of JSON, at the very end, is all that is printed.
    fn is_scripted(&self) -> bool {
        self.once && output::format() == Format::Json
    }

    async fn run_with(&self, telemetry: &Telemetry) -> anyhow::Result<Summary> {
        let lifecycle = Lifecycle::new(DRAIN);
        let mut running = pin!(lifecycle.run());
        // The deployment's folder goes with the cast, which therefore stays until everything has ended.
        let mut cast = None;
        let mut found = None;
        let stopping = lifecycle.stopping();
        let (ended, performed) = tokio::select! {
            // Whoever is asked to stop is not asked for a reason why the rest failed.
            biased;
            () = stopping.cancelled() => (None, Ok(())),
            ending = &mut running => (Some(ending), Ok(())),
            performed = self.perform(&lifecycle, telemetry, &mut cast, &mut found) => (None, performed),
        };
        lifecycle.stop();
        let ending = match ended {
            Some(ending) => ending,
            None => running.await,
        };
        let ending = ending.context("listen for signals")?;
        drop(cast);
        performed?;
        match (ending, found) {
            (Ending::Drained, Some(summary)) => Ok(summary),
            (Ending::Drained, None) => bail!("stopped before its end"),
            (ending, found) => {
                let mut summary = found.unwrap_or_default();
                summary
                    .faults
                    .push(format!("the gateway did not end well: {ending:?}"));
                Ok(summary.decide())
            }
        }
    }

    /// Starts everybody, plays, and stays up where that is asked for.
    async fn perform(
        &self,
        lifecycle: &Lifecycle,
        telemetry: &Telemetry,
        cast: &mut Option<Cast>,
        found: &mut Option<Summary>,
    ) -> anyhow::Result<()> {
        let board = Board::open();
        let today = SystemClock.now().london_date();
        let planned = samples::plan(self.referrals, today)?;
        let others = samples::others(today)?;
        let cast = &*cast.insert(
            Box::pin(Cast::open(
                self.dir.as_deref(),
                lifecycle,
                telemetry,
                &board,
            ))
            .await?,
        );
        let mut story = Story::new(cast, board);
        let summary = story.play(planned, others).await?;
        story.board().say(&verdict::words(&summary))?;
        if !self.is_scripted() && output::format() == Format::Json {
            output::json(&summary)?;
        }
        *found = Some(summary);
        if self.once {
            return Ok(());
        }
        story.board().say(&cast.invitation()?)?;
        loop {
            tokio::time::sleep(LOOK).await;
            let rows = story.rows().await?;
            story.board().show(&rows)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_sample_arrives_once_over_every_wire_and_the_log_verifies() {
        // Another test of the process may have chosen first: it is the same provider.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            once: true,
            dir: Some(folder.path().join("demo")),
            referrals: samples::SAMPLES_COUNT,
            log: "off".to_owned(),
        };
        let summary = options
            .run_with(&Telemetry::metrics_only().unwrap())
            .await
            .unwrap();
        assert_eq!(summary.faults, Vec::<String>::new());
        assert!(summary.ok && summary.log.verified);
        assert_eq!(
            summary.referrals,
            samples::SAMPLES_COUNT + samples::OTHERS_COUNT
        );
        // 20 to services, a cancel, eight answers that the school is told and an email to a parent; what three others
        // refer, and the answers that they are told.
        assert_eq!(summary.deliveries.get("done"), Some(&36));
        let adapters = summary.adapters.iter();
        let adapters: Vec<_> = adapters.map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(
            adapters,
            [
                ("fhir", 2),
                ("file", 3),
                ("grpc", 2),
                ("hl7v2", 8),
                ("mailbox", 15),
                ("mesh", 3),
                ("notify", 1),
                ("webhook", 2),
            ]
        );
        assert_eq!(summary.evidence.get("transport_ack"), Some(&1));
        assert_eq!(summary.evidence.get("human_acceptance"), Some(&1));
        assert_eq!(summary.evidence.get("signed_receipt"), Some(&1));
        assert!(folder.path().join("demo/log/checkpoint").exists());
    }
}
