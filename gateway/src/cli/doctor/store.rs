//! The stages at the database: directory and secrets, the sequencer's backlog, conservation, alarms.

use std::collections::BTreeMap;

use anyhow::Context as _;
use waymark_core::alarm::AlarmKind;
use waymark_core::directory::{Severity, check, secret_names};
use waymark_core::port::{OpenOnly, Store};
use waymark_core::time::Clock as _;

use super::{Health, Stage};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::service::{load_release, walk_conservation};

/// An outbox whose oldest row is older means that the sequencer does not run.
const OUTBOX_AGE_MS_MAX: u64 = 60_000;
/// Alarms that are counted.
const ALARMS_MAX: u32 = 1_000;
/// Lines of one kind that are shown.
const SHOWN_MAX: usize = 10;

/// The release in force, and whether every secret that it names can be had here.
pub(super) async fn directory(
    store: &dyn Store,
    config: &Config,
) -> anyhow::Result<(Stage, Stage)> {
    let Some(release) = store
        .latest_release()
        .await
        .context("read the release in force")?
    else {
        let why = "no release is in force: nobody can call: name a folder in directory.initial and start again";
        return Ok((Stage::fail("directory", why), Stage::skipped("secrets")));
    };
    let directory = match load_release(&release) {
        Ok(directory) => directory,
        Err(findings) => {
            let why = format!(
                "release {} does not load here: {} findings",
                release.number,
                findings.len()
            );
            return Ok((Stage::fail("directory", why), Stage::skipped("secrets")));
        }
    };
    let area = &directory.area;
    let mut stage = Stage::ok(
        "directory",
        format!(
            "release {} of {}, applied {}",
            release.number, area.id, release.at
        ),
    );
    if area.environment != config.gateway.environment {
        stage.add(
            Health::Fail,
            format!(
                "it is {}, and this deployment is not",
                area.environment.as_str()
            ),
        );
    }
    let findings = check(&directory, SystemClock.now().london_date());
    for finding in findings.iter().take(SHOWN_MAX) {
        let health = match finding.severity {
            Severity::Error => Health::Fail,
            Severity::Warning => Health::Warn,
        };
        stage.add(health, finding.to_string());
    }
    let names = secret_names(&directory);
    let mut secrets = Stage::ok("secrets", format!("{} named", names.len()));
    for (name, place) in names {
        if let Err(error) = config.secrets().find(&name) {
            secrets.add(Health::Fail, format!("{place}: {error}"));
        }
    }
    Ok((stage, secrets))
}

/// The room that is left where the database is this machine's own.
pub(super) fn disk(store: &dyn Store) -> Stage {
    const MIB: u64 = 1024 * 1024;
    let Some(disk) = store.disk() else {
        return Stage::skipped("disk");
    };
    let (free, min) = (disk.free / MIB, disk.min / MIB);
    if disk.is_low() {
        let why = format!(
            "{free} MiB are free, below database.free_disk_min_mib ({min}): nothing new is accepted: make room"
        );
        return Stage::fail("disk", why);
    }
    Stage::ok(
        "disk",
        format!("{free} MiB are free; new work stops below {min}"),
    )
}

/// Rows that wait for the sequencer.
pub(super) async fn outbox(store: &dyn Store) -> anyhow::Result<Stage> {
    let (rows, age_ms) = store
        .outbox(SystemClock.now())
        .await
        .context("read the outbox")?;
    let mut stage = Stage::ok(
        "outbox",
        format!("{rows} entries wait for the log, the oldest for {age_ms} ms"),
    );
    if rows > 0 && age_ms > OUTBOX_AGE_MS_MAX {
        stage.add(
            Health::Warn,
            "the sequencer does not run: is `waymark serve` up?",
        );
    }
    Ok(stage)
}

/// The conservation check, which here tells nobody but whoever reads this.
pub(super) async fn conservation(store: &dyn Store) -> anyhow::Result<Stage> {
    let report = walk_conservation(store, None)
        .await
        .context("check every referral")?;
    let mut stage = Stage::ok(
        "conservation",
        format!(
            "{} referrals, {} deliveries",
            report.referrals, report.counters.deliveries
        ),
    );
    for fault in report.faults.iter().take(SHOWN_MAX) {
        let text = if fault.referral.is_empty() {
            format!("{}: {}", fault.rule, fault.detail)
        } else {
            format!(
                "{}: referral {}, {}",
                fault.rule, fault.referral, fault.detail
            )
        };
        stage.add(Health::Fail, text);
    }
    let shown = u64::try_from(SHOWN_MAX).unwrap_or(u64::MAX);
    let left = report.faults_found.saturating_sub(shown);
    if left > 0 {
        stage.add(Health::Fail, format!("and {left} more"));
    }
    Ok(stage)
}

/// Open alarms: each is for its owner, and the deployment works meanwhile, but for a broken conservation.
pub(super) async fn alarms(store: &dyn Store) -> anyhow::Result<Stage> {
    let open = store
        .alarms(OpenOnly::Yes, ALARMS_MAX)
        .await
        .context("read the alarms")?;
    let mut stage = Stage::ok("alarms", format!("{} open", open.len()));
    let mut by_kind: BTreeMap<&'static str, (AlarmKind, usize)> = BTreeMap::new();
    for alarm in &open {
        by_kind
            .entry(alarm.alarm.kind.as_str())
            .or_insert((alarm.alarm.kind, 0))
            .1 += 1;
    }
    for (name, (kind, count)) in by_kind {
        let health = if kind == AlarmKind::Conservation {
            Health::Fail
        } else {
            Health::Warn
        };
        let first = open.iter().find(|a| a.alarm.kind == kind);
        let text = first.map(|a| {
            format!(
                ", for {} ({}): {}",
                a.alarm.role, a.alarm.owner, a.alarm.text
            )
        });
        stage.add(
            health,
            format!("{name} {count}{}", text.unwrap_or_default()),
        );
    }
    Ok(stage)
}
