//! What administrators and auditors see: deliveries, alarms and the conservation check.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::alarm::{Alarm, AlarmKind, NewAlarm};
use waymark_core::error::ErrorKind;
use waymark_core::id::{DeliveryId, ReferralId};
use waymark_core::port::{CheckFault, Counters, DeliveryQuery, DeliveryView, OpenOnly};

use super::read::page;
use super::{Service, ServiceError};

/// Referrals checked in one page.
const CHECK_PAGE: u32 = 500;
/// Faults listed; more are counted.
const FAULTS_MAX: usize = 100;
/// Alarms listed.
const ALARMS_MAX: u32 = 1_000;

/// What the conservation check found (invariant 4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConservationReport {
    /// Whether nothing is missing and everything has work or an owner.
    pub holds: bool,
    /// Referrals looked at.
    pub referrals: u64,
    /// What every transition counted.
    pub counters: Counters,
    /// Deliveries by state, as found.
    pub by_state: BTreeMap<String, i64>,
    /// Faults found, at most 100 listed.
    pub faults: Vec<CheckFault>,
    /// Faults found in all.
    pub faults_found: u64,
}

impl Service {
    /// Deliveries, oldest first.
    ///
    /// # Errors
    /// `Denied` for anybody but administrators and auditors.
    pub async fn deliveries(
        &self,
        caller: &Principal,
        mut query: DeliveryQuery,
    ) -> Result<Vec<DeliveryView>, ServiceError> {
        permit(caller, Action::ReadDeliveries, Relationship::None)?;
        query.limit = page(query.limit);
        Ok(self.parts.store.deliveries(&query).await?)
    }

    /// One delivery with its attempts.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn delivery(
        &self,
        caller: &Principal,
        id: DeliveryId,
    ) -> Result<DeliveryView, ServiceError> {
        permit(caller, Action::ReadDeliveries, Relationship::None)?;
        let view = self.parts.store.delivery(id).await?;
        view.ok_or_else(|| ServiceError::new(ErrorKind::NotFound, "NO_SUCH_DELIVERY"))
    }

    /// The digest of the bytes that a delivery sends, once there are any: of personal data, so that it is for readers of
    /// bodies, and the read is in the log before it.
    ///
    /// # Errors
    /// `Denied` for anybody who may not read bodies.
    pub async fn body_sha256(
        &self,
        caller: &Principal,
        view: &DeliveryView,
        purpose: &str,
    ) -> Result<Option<Vec<u8>>, ServiceError> {
        let permit = permit(caller, Action::ReadBody, Relationship::None)?;
        let entry = self
            .read_entry(permit.principal(), view.stream, "delivery", purpose)?
            .code("delivery", view.delivery.id.to_string());
        let Some(body) = view.rendered else {
            return Ok(None);
        };
        let bytes = self.parts.store.read_body(body, entry).await?;
        Ok(bytes.map(|bytes| digest(&SHA256, bytes.expose()).as_ref().to_vec()))
    }

    /// Alarms, open ones first.
    ///
    /// # Errors
    /// `Denied` for anybody but administrators and auditors.
    pub async fn alarms(
        &self,
        caller: &Principal,
        open_only: OpenOnly,
    ) -> Result<Vec<Alarm>, ServiceError> {
        permit(caller, Action::ReadDeliveries, Relationship::None)?;
        Ok(self.parts.store.alarms(open_only, ALARMS_MAX).await?)
    }

    /// The whole conservation check, for a caller.
    ///
    /// # Errors
    /// `Denied` for anybody but administrators and auditors.
    pub async fn conservation(
        &self,
        caller: &Principal,
    ) -> Result<ConservationReport, ServiceError> {
        permit(caller, Action::ReadDeliveries, Relationship::None)?;
        self.check_conservation(None).await
    }

    /// Compares the facts that do not depend on each other: counters kept by transitions, ACCEPTED entries of the log,
    /// and what is found row by row. Referrals accepted while it runs are left out of the comparison.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn check_conservation(
        &self,
        pause: Option<Duration>,
    ) -> Result<ConservationReport, ServiceError> {
        let mut report = ConservationReport {
            counters: self.parts.store.counters().await?,
            ..Default::default()
        };
        let mut after: Option<ReferralId> = None;
        loop {
            let page = self.parts.store.check_page(after, CHECK_PAGE).await?;
            report.referrals += page.referrals;
            for (state, count) in page.by_state {
                *report.by_state.entry(state).or_default() += count;
            }
            report.faults_found += u64::try_from(page.faults.len()).unwrap_or(0);
            let room = FAULTS_MAX.saturating_sub(report.faults.len());
            report.faults.extend(page.faults.into_iter().take(room));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
        let before = report.counters.clone();
        let after = self.parts.store.counters().await?;
        let counted = (before.referrals..=after.referrals).contains(&report.referrals);
        let logged = before.accepted_entries <= after.referrals
            && before.referrals <= after.accepted_entries;
        if !counted {
            report.faults_found += 1;
            report.faults.push(CheckFault {
                referral: String::new(),
                rule: "referrals_counted",
                detail: format!("{} accepted, {} found", before.referrals, report.referrals),
            });
        }
        if !logged {
            report.faults_found += 1;
            report.faults.push(CheckFault {
                referral: String::new(),
                rule: "accepts_logged",
                detail: format!(
                    "{} accepted, {} in the log",
                    before.referrals, before.accepted_entries
                ),
            });
        }
        report.holds = report.faults_found == 0;
        self.tell_of_conservation(&report).await?;
        Ok(report)
    }

    async fn tell_of_conservation(&self, report: &ConservationReport) -> Result<(), ServiceError> {
        let now = self.now();
        if report.holds {
            self.parts
                .store
                .resolve_alarm(AlarmKind::Conservation, "area", now)
                .await?;
            return Ok(());
        }
        let in_force = self.in_force();
        let Some(triage) = in_force
            .directory
            .services
            .get(&in_force.directory.area.triage)
        else {
            return Ok(());
        };
        let alarm = NewAlarm {
            kind: AlarmKind::Conservation,
            subject: "area".to_owned(),
            owner: triage.agency.clone(),
            role: triage.owner_role.clone(),
            text: format!(
                "{} faults: run `waymark doctor` and look at each",
                report.faults_found
            ),
        };
        self.parts.store.raise_alarm(&alarm, now).await?;
        Ok(())
    }
}
