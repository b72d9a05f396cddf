//! `waymark demo`: a gateway and its agencies on this machine, the whole job, and what was found.
//!
//! The gateway is the one that `waymark serve` runs, on embedded SQLite. The agencies are programs of their own
//! kind: they know nothing of the gateway but its addresses, and speak gRPC, MLLP and HTTPS with it.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use waymark_core::directory::Directory;
use waymark_core::time::Clock as _;
use waymark_proto::v1;

use self::admin::Admin;
use self::board::Board;
use self::deployment::{FarSides, Place};
use self::hospital::{Hospital, Power};
use self::ledger::Ledger;
use self::post::ReceiptKey;
use self::school::School;
use self::story::Story;
use self::therapy::{Reserved, Therapy};
use self::verdict::{SPECIALIST, Summary};
use super::failure::Failure;
use super::output::{self, Format};
use crate::app::{App, Duty};
use crate::clock::SystemClock;
use crate::lifecycle::{Ending, Lifecycle};
use crate::telemetry::{Telemetry, TelemetryOptions};

mod admin;
mod board;
mod deployment;
mod hospital;
mod ledger;
mod log;
mod post;
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

A school (gRPC), a hospital (MLLP), a therapy service (webhook), a specialist team, a council and its social care
(mailbox) work with a gateway on embedded SQLite. The hospital is taken down and brought back.")]
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

/// Everybody who takes part.
struct Cast {
    place: Place,
    directory: Directory,
    school: School,
    hospital: Hospital,
    therapy: Therapy,
    clerks: Vec<Arc<Ledger>>,
    admin: Admin,
    auditor: tonic::transport::Channel,
}

impl Cast {
    /// What each agency took in.
    fn ledgers(&self) -> Vec<&Ledger> {
        let pushed = [&*self.hospital.ledger, &*self.therapy.ledger];
        pushed
            .into_iter()
            .chain(self.clerks.iter().map(|ledger| &**ledger))
            .collect()
    }

    async fn verify_log(&self, receipts: &[v1::Receipt]) -> anyhow::Result<log::Verified> {
        log::verify(
            self.auditor.clone(),
            self.place.log_vkey(),
            self.place.dir(),
            receipts,
        )
        .await
    }
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
        let planned = samples::plan(self.referrals, SystemClock.now().london_date())?;
        let cast = &*cast.insert(self.start(lifecycle, telemetry, &board).await?);
        let mut story = Story::new(cast, board);
        let summary = story.play(planned).await?;
        story.board().say(&verdict::words(&summary))?;
        if !self.is_scripted() && output::format() == Format::Json {
            output::json(&summary)?;
        }
        *found = Some(summary);
        if self.once {
            return Ok(());
        }
        story.board().say(&invitation(&cast.place))?;
        loop {
            tokio::time::sleep(LOOK).await;
            let rows = story.rows().await?;
            story.board().show(&rows)?;
        }
    }

    async fn start(
        &self,
        lifecycle: &Lifecycle,
        telemetry: &Telemetry,
        board: &Board,
    ) -> anyhow::Result<Cast> {
        let hospital = Hospital::open(lifecycle)?;
        hospital.turn(Power::Up).await?;
        let reserved = Reserved::take().await?;
        let key = ReceiptKey::generate()?;
        let far = FarSides {
            hospital: hospital.address,
            therapy: reserved.address()?,
            receipt_key: key.public(),
        };
        let place = Place::make(self.dir.as_deref(), &far)?;
        let directory = place.directory()?;
        let app = App::start(&place.config, Duty::Serve, lifecycle, telemetry.metrics()).await;
        let app = app.context("start the gateway")?;
        let grpc = app.grpc.context("the gateway does not listen for gRPC")?;
        place.settle(&app, grpc)?;
        hospital.answer_to(Place::hospital_listener(&app)?);
        let callback = app.callback.context("the gateway takes no callbacks")?;
        let therapy = Therapy::open(reserved, place.therapy_trust()?, callback, lifecycle);
        let mut clerks = Vec::new();
        for (agency, key) in [
            (school::AGENCY, None),
            (SPECIALIST, Some(key)),
            (COUNCIL, None),
            (SOCIAL_CARE, None),
        ] {
            clerks.push(post::open(
                agency,
                place.connect(agency, grpc).await?,
                key,
                lifecycle,
            ));
        }
        let school = School::open(place.connect(school::AGENCY, grpc).await?, lifecycle);
        let admin = Admin::new(place.connect(ADMIN, grpc).await?);
        let auditor = place.connect(AUDITOR, grpc).await?;
        board.say(&format!(
            "a gateway is up in {}: gRPC {grpc}, a hospital at {}, a therapy service at {}, and four mailboxes",
            place.dir().display(),
            far.hospital,
            far.therapy,
        ))?;
        Ok(Cast {
            place,
            directory,
            school,
            hospital,
            therapy,
            clerks,
            admin,
            auditor,
        })
    }
}

/// What the reader can try, word for word.
fn invitation(place: &Place) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("waymark"));
    let here = std::env::current_dir().unwrap_or_default();
    let program = program.strip_prefix(&here).unwrap_or(&program);
    let command = |rest: &str| format!("  {} {rest}\n", program.display());
    let config = place.config_path().display();
    let (spare, school) = (place.spare(), school::AGENCY);
    let spare = spare.display();
    let tree = place.dir().join(log::FOLDER);
    [
        "everything stays up until Ctrl-C. In another terminal:\n".to_owned(),
        command(&format!("watch --config {config} --as {school}")),
        command(&format!(
            "route explain --config {config} --as {school} {spare}"
        )),
        command(&format!("send --config {config} --as {school} {spare}")),
        command(&format!(
            "audit verify {} --vkey '{}'",
            tree.display(),
            place.log_vkey()
        )),
    ]
    .concat()
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
        assert_eq!(summary.referrals, samples::SAMPLES_COUNT);
        // 16 to services, a cancel, and four answers that the school is told.
        assert_eq!(summary.deliveries.get("done"), Some(&21));
        assert_eq!(summary.evidence.get("human_acceptance"), Some(&1));
        assert_eq!(summary.evidence.get("signed_receipt"), Some(&1));
        assert!(folder.path().join("demo/log/checkpoint").exists());
    }
}
