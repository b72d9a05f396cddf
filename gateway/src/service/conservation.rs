//! The conservation check (invariant 4): facts that do not depend on each other must agree.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::port::{CheckFault, Counters, Store, StoreError};

use super::{Service, ServiceError};

/// Referrals checked in one page.
const CHECK_PAGE: u32 = 500;
/// Faults listed; more are counted.
const FAULTS_MAX: usize = 100;

/// What the conservation check found.
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

impl ConservationReport {
    fn add(&mut self, fault: CheckFault) {
        self.faults_found += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

/// Compares what was counted before and after a walk over all referrals with what the walk found: pure. What is
/// accepted meanwhile is allowed for.
fn compare(before: &Counters, after: &Counters, found: u64) -> Vec<CheckFault> {
    let fault = |rule, detail| CheckFault {
        referral: String::new(),
        rule,
        detail,
    };
    let mut faults = Vec::new();
    if !(before.referrals..=after.referrals).contains(&found) {
        let detail = format!("{} accepted, {found} found", before.referrals);
        faults.push(fault("referrals_counted", detail));
    }
    let logged =
        before.accepted_entries <= after.referrals && before.referrals <= after.accepted_entries;
    if !logged {
        let detail = format!(
            "{} accepted, {} in the log",
            before.referrals, before.accepted_entries
        );
        faults.push(fault("accepts_logged", detail));
    }
    let by_state: i64 = after.by_state.values().sum();
    if u64::try_from(by_state) != Ok(after.deliveries) {
        let detail = format!("{} made, {by_state} in some state", after.deliveries);
        faults.push(fault("deliveries_counted", detail));
    }
    faults
}

/// Walks over all referrals and compares; raises nothing and tells nobody. With a pause between pages it takes its time.
///
/// # Errors
/// When the store does not answer.
pub async fn walk_conservation(
    store: &dyn Store,
    pause: Option<Duration>,
) -> Result<ConservationReport, StoreError> {
    let mut report = ConservationReport {
        counters: store.counters().await?,
        ..Default::default()
    };
    let mut after = None;
    loop {
        let page = store.check_page(after, CHECK_PAGE).await?;
        report.referrals += page.referrals;
        for (state, count) in page.by_state {
            *report.by_state.entry(state).or_default() += count;
        }
        for fault in page.faults {
            report.add(fault);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
    let now = store.counters().await?;
    for fault in compare(&report.counters, &now, report.referrals) {
        report.add(fault);
    }
    report.holds = report.faults_found == 0;
    Ok(report)
}

impl Service {
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

    /// Makes the check, and opens or resolves its alarm.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn check_conservation(
        &self,
        pause: Option<Duration>,
    ) -> Result<ConservationReport, ServiceError> {
        let report = walk_conservation(&*self.parts.store, pause).await?;
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
        let Some(triage) = in_force.directory.triage() else {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(referrals: u64, accepted_entries: u64) -> Counters {
        Counters {
            referrals,
            accepted_entries,
            ..Counters::default()
        }
    }

    #[test]
    fn facts_that_agree_are_no_fault_and_what_is_accepted_meanwhile_is_allowed_for() {
        let rules = |before, after, found| -> Vec<&str> {
            let faults = compare(&before, &after, found);
            faults.iter().map(|fault| fault.rule).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(rules(counted(3, 3), counted(3, 3), 3), none);
        assert_eq!(rules(counted(3, 3), counted(5, 5), 4), none);
        // A count read between an accept's counter and its entry.
        assert_eq!(rules(counted(3, 4), counted(4, 4), 4), none);
        assert_eq!(
            rules(counted(3, 3), counted(3, 3), 2),
            ["referrals_counted"]
        );
        assert_eq!(
            rules(counted(3, 3), counted(3, 3), 4),
            ["referrals_counted"]
        );
        assert_eq!(rules(counted(3, 2), counted(3, 2), 3), ["accepts_logged"]);
        assert_eq!(rules(counted(3, 4), counted(3, 4), 3), ["accepts_logged"]);
        let states = |queued, done| Counters {
            deliveries: 2,
            by_state: [("queued".to_owned(), queued), ("done".to_owned(), done)].into(),
            ..counted(1, 1)
        };
        assert_eq!(rules(states(2, 0), states(0, 2), 1), none);
        assert_eq!(rules(states(2, 0), states(1, 2), 1), ["deliveries_counted"]);
    }
}
