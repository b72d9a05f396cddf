//! What runs beside the faces: the sequencer, the directory's follower, upkeep and checks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::directory::AdapterKind;
use waymark_core::id::EndpointId;
use waymark_core::port::OpenOnly;
use waymark_core::time::Timestamp;
use waymark_tlog::note::SigningKey;

use crate::config::Config;
use crate::lifecycle::{FailureEffect, Lifecycle};
use crate::service::{InForce, Service, load_release};
use crate::telemetry::Metrics;
use crate::telemetry::chain;
use crate::tls::ServerTls;

/// Shortest time between two rounds that proofs asked for.
const SEQUENCER_SPACING: Duration = Duration::from_millis(20);
/// How often gauges are set and overdue work is alarmed.
const SAMPLE: Duration = Duration::from_secs(5);
/// How often partitions, the write-ahead log and old keys are looked after.
const UPKEEP: Duration = Duration::from_secs(30);
/// The pause between two pages of the conservation check, so that it costs the same whatever the backlog.
const CHECK_PAUSE: Duration = Duration::from_millis(500);
/// The pause between two cycles of it.
const CHECK_CYCLE: Duration = Duration::from_mins(1);
/// Overdue deliveries alarmed in one look.
const OVERDUE_MAX: u32 = 200;

/// Starts them all.
#[expect(
    clippy::too_many_arguments,
    reason = "called once, by the composition root"
)]
pub(super) fn start(
    lifecycle: &Lifecycle,
    config: &Config,
    service: &Service,
    log_key: SigningKey,
    grown: watch::Sender<u64>,
    wanted: Arc<Notify>,
    tls: &ServerTls,
    metrics: &Metrics,
) {
    sequencer(
        lifecycle,
        &config.log,
        service.clone(),
        log_key,
        grown,
        wanted,
        metrics.clone(),
    );
    directory(
        lifecycle,
        config.directory.refresh.get(),
        service.clone(),
        metrics.clone(),
    );
    upkeep(lifecycle, service.clone(), tls.clone(), metrics.clone());
    conservation(lifecycle, service.clone(), metrics.clone());
    let following = tls
        .clone()
        .follow(lifecycle.reloads(), lifecycle.stopping());
    lifecycle.spawn("certificates", FailureEffect::EndProcess, async move {
        following.await;
        Ok::<(), Infallible>(())
    });
}

fn sequencer(
    lifecycle: &Lifecycle,
    log: &crate::config::Log,
    service: Service,
    key: SigningKey,
    grown: watch::Sender<u64>,
    wanted: Arc<Notify>,
    metrics: Metrics,
) {
    let (tick, most) = (log.interval.get(), log.round);
    let stop = lifecycle.stopping();
    lifecycle.spawn("sequencer", FailureEffect::EndProcess, async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(tick) => {}
                () = wanted.notified() => tokio::time::sleep(SEQUENCER_SPACING).await,
                () = stop.cancelled() => {}
            }
            // A full round leaves more for the next one, and other writes go between the two.
            loop {
                let now = service.now();
                match service.store().sequence(&key, most, now).await {
                    Ok(round) => {
                        grown.send_if_modified(|size| std::mem::replace(size, round.size) != round.size);
                        metrics.ran("sequencer", now);
                        if !round.full {
                            break;
                        }
                    }
                    Err(why) => {
                        error!(error = %chain(&why), "the sequencer could not extend the log, trying again");
                        break;
                    }
                }
            }
            if stop.is_cancelled() {
                return Ok::<(), Infallible>(());
            }
        }
    });
}

fn directory(lifecycle: &Lifecycle, refresh: Duration, service: Service, metrics: Metrics) {
    let stop = lifecycle.stopping();
    lifecycle.spawn("directory", FailureEffect::EndProcess, async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(refresh) => {}
                () = stop.cancelled() => return Ok::<(), Infallible>(()),
            }
            match follow(&service).await {
                Ok(()) => metrics.ran("directory", service.now()),
                Err(why) => warn!(error = %why, "a newer directory release could not be taken, trying again"),
            }
        }
    });
}

async fn follow(service: &Service) -> anyhow::Result<()> {
    let newest = service.store().latest_release_number().await?.unwrap_or(0);
    if newest <= service.in_force().number {
        return Ok(());
    }
    let Some(release) = service.store().latest_release().await? else {
        return Ok(());
    };
    let directory = load_release(&release).map_err(|findings| {
        anyhow::anyhow!(
            "release {} does not load: {} findings",
            release.number,
            findings.len()
        )
    })?;
    info!(
        release.number = release.number,
        "directory release {} is in force", release.number
    );
    service.take_release(InForce {
        number: release.number,
        directory,
    });
    Ok(())
}

fn upkeep(lifecycle: &Lifecycle, service: Service, tls: ServerTls, metrics: Metrics) {
    let stop = lifecycle.stopping();
    lifecycle.spawn("upkeep", FailureEffect::EndProcess, async move {
        let mut since_upkeep = UPKEEP;
        loop {
            if let Err(why) = sample(&service, &tls, &metrics).await {
                warn!(error = %chain(&why), "gauges could not be set, trying again");
            }
            if since_upkeep >= UPKEEP {
                since_upkeep = Duration::ZERO;
                match service.store().upkeep(service.now()).await {
                    Ok(()) => metrics.ran("upkeep", service.now()),
                    Err(why) => warn!(error = %chain(&why), "upkeep failed, trying again"),
                }
                match service.forget_untaken().await {
                    Ok(0) => {}
                    Ok(count) => info!(count, "{count} documents that no referral took were destroyed"),
                    Err(why) => warn!(error = %chain(&why), "untaken documents could not be destroyed, trying again"),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(SAMPLE) => since_upkeep += SAMPLE,
                () = stop.cancelled() => return Ok::<(), Infallible>(()),
            }
        }
    });
}

async fn sample(
    service: &Service,
    tls: &ServerTls,
    metrics: &Metrics,
) -> Result<(), waymark_core::port::StoreError> {
    let store = service.store();
    let now = service.now();
    let backlog = store.backlog().await?;
    let live: Vec<_> = backlog.iter().map(|b| b.endpoint.clone()).collect();
    for b in &backlog {
        metrics.backlog(&b.endpoint, b.lanes, now.since(b.oldest));
    }
    metrics.drained(&live);
    let (rows, age_ms) = store.outbox(now).await?;
    metrics.log(
        store.log_state().await?.size,
        rows,
        Duration::from_millis(age_ms),
    );
    let in_force = service.in_force();
    let endpoints = in_force.directory.endpoints.values();
    // Nobody tries to deliver post: its agency has as long to take it as others have for their evidence.
    let mailboxes: Vec<(EndpointId, Timestamp)> = endpoints
        .filter(|endpoint| endpoint.adapter == AdapterKind::Mailbox)
        .map(|endpoint| (endpoint.id.clone(), now.minus(endpoint.evidence_within)))
        .collect();
    for alarm in store.overdue(now, &mailboxes, OVERDUE_MAX).await? {
        if store.raise_alarm(&alarm, now).await? {
            warn!(alarm.kind = alarm.kind.as_str(), alarm.subject = %alarm.subject, "alarm opened: {}", alarm.text);
        }
    }
    disk(service, metrics).await?;
    let alarms = store.alarms(OpenOnly::Yes, 1_000).await?;
    for kind in AlarmKind::ALL {
        let open = alarms.iter().filter(|a| a.alarm.kind == *kind).count();
        metrics.alarms(kind.as_str(), u64::try_from(open).unwrap_or(u64::MAX));
    }
    metrics.certificate(tls.not_after().since(now));
    metrics.ran("sample", now);
    Ok(())
}

/// Looks at the disk, and tells the area's triage owner while it is low.
async fn disk(service: &Service, metrics: &Metrics) -> Result<(), waymark_core::port::StoreError> {
    const SUBJECT: &str = "database";
    let store = service.store();
    let Some(disk) = store.disk() else {
        return Ok(());
    };
    metrics.free_disk(disk.free);
    let now = service.now();
    if !disk.is_low() {
        return store.resolve_alarm(AlarmKind::LowDisk, SUBJECT, now).await;
    }
    let in_force = service.in_force();
    let directory = &in_force.directory;
    let Some(triage) = directory.triage() else {
        return Ok(());
    };
    let alarm = NewAlarm {
        kind: AlarmKind::LowDisk,
        subject: SUBJECT.to_owned(),
        owner: triage.agency.clone(),
        role: triage.owner_role.clone(),
        text: format!(
            "{} MiB of disk are free, below database.free_disk_min_mib: nothing new is accepted until there is room",
            disk.free / (1024 * 1024)
        ),
    };
    if store.raise_alarm(&alarm, now).await? {
        error!("{}", alarm.text);
    }
    Ok(())
}

fn conservation(lifecycle: &Lifecycle, service: Service, metrics: Metrics) {
    let stop = lifecycle.stopping();
    lifecycle.spawn("conservation", FailureEffect::EndProcess, async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(CHECK_CYCLE) => {}
                () = stop.cancelled() => return Ok::<(), Infallible>(()),
            }
            let checking = service.check_conservation(Some(CHECK_PAUSE));
            let result = tokio::select! {
                result = checking => result,
                () = stop.cancelled() => return Ok(()),
            };
            match result {
                Ok(report) => {
                    metrics.conservation(report.faults_found);
                    metrics.ran("conservation", service.now());
                    if !report.holds {
                        error!(faults = report.faults_found, "the conservation check found {} faults: run `waymark doctor`", report.faults_found);
                    }
                }
                Err(why) => warn!(error = %chain(&why), "the conservation check could not finish, trying again"),
            }
        }
    });
}
