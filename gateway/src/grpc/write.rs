//! The domain's views as messages of the contract, where only this face shows them.

use waymark_adapters::grpc::convert::{
    delivery_state_to_proto, evidence_to_proto, fault_to_proto, kind_to_proto, leg_state_to_proto,
    timestamp_to_proto,
};
use waymark_core::alarm::Alarm;
use waymark_core::delivery::{DeliveryState, ParkReason};
use waymark_core::directory::{Change, ChangeKind, Finding, Severity};
use waymark_core::leg::{Owner, Reception, referral_state};
use waymark_core::port::{
    AttemptView, DeliveryHead, DeliveryView, EventKind, EventView, LegView, ReferralView, Release,
};
use waymark_core::referral::Priority;
use waymark_proto::v1;

use crate::service::{InForce, LegEffect, LegOutcome};

/// Attempts shown of one delivery, the newest.
const ATTEMPTS_MAX: usize = 200;

/// Who must act.
pub(super) fn owner(owner: &Owner) -> v1::Owner {
    v1::Owner {
        agency_id: owner.agency.to_string(),
        role: owner.role.clone(),
    }
}

/// One leg. `events` are the referral's own, in order, as far as they are at hand.
pub(super) fn leg(view: &ReferralView, leg: &LegView, events: &[EventView]) -> v1::Leg {
    let id = leg.leg.id;
    let delivery: Option<&DeliveryHead> = view.deliveries.iter().rev().find(|d| d.leg == Some(id));
    let own = || events.iter().rev().filter(|e| e.event.leg == Some(id));
    let reason = reported(leg, events);
    let open = !leg.state.is_terminal();
    v1::Leg {
        leg_id: id.to_string(),
        service_id: service_of(leg.leg.triage.as_deref(), leg.leg.service.as_str()),
        agency_id: leg.leg.agency.to_string(),
        rule_id: leg
            .leg
            .rule
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        state: leg_state_to_proto(leg.state).into(),
        version: view.version,
        owner: Some(owner(&leg.owner)),
        next_action: if open {
            next_action(leg).to_owned()
        } else {
            String::new()
        },
        next_action_due: leg.next_action.clone().unwrap_or_default(),
        delivery_state: delivery.map_or(0, |d| delivery_state_to_proto(d.state).into()),
        evidence: delivery.map_or(0, |d| evidence_to_proto(d.evidence).into()),
        reason_code: reason.map(|e| e.event.code.clone()).unwrap_or_default(),
        text_for_family: String::new(),
        receiver_reference: view
            .deliveries
            .iter()
            .rev()
            .filter(|d| d.leg == Some(id))
            .find_map(|d| d.receiver_reference.clone())
            .unwrap_or_default(),
        updated_at: own().next().map(|e| timestamp_to_proto(e.at)),
    }
}

/// The event that put a leg into its state, if a service reported it.
pub(super) fn reported<'e>(leg: &LegView, events: &'e [EventView]) -> Option<&'e EventView> {
    events.iter().rev().find(|e| {
        e.event.leg == Some(leg.leg.id)
            && e.event.kind == EventKind::Status
            && e.event.reception == Some(Reception::Applied)
    })
}

/// A service as legs show it: none while a person has still to choose one.
pub(super) fn service_of(triage: Option<&str>, service: &str) -> String {
    if triage.is_some() {
        String::new()
    } else {
        service.to_owned()
    }
}

fn next_action(leg: &LegView) -> &'static str {
    match leg.state.duty().map(|duty| duty.rule) {
        Some("TRIAGE") => "decide whether and where the referral belongs",
        Some("INFO") => "send what the service asked for",
        Some("WAIT-TOUCH") => "review the wait and tell the family",
        Some("APPOINTMENT") => "hold the appointment",
        Some("REBOOK") => "offer another appointment",
        Some("OUTCOME") => "issue the outcome of the assessment",
        Some("GUIDE") => "tell the family what happens next",
        Some("CLOSE") => "close the case",
        _ => "",
    }
}

/// A referral, without its content.
pub(super) fn record(view: &ReferralView, events: &[EventView]) -> v1::ReferralRecord {
    let states: Vec<_> = view.legs.iter().map(|l| l.state).collect();
    v1::ReferralRecord {
        referral_id: view.id.to_string(),
        reference: view.reference.to_string(),
        version: view.version,
        state: referral_state(&states).map_or(0, |s| leg_state_to_proto(s).into()),
        sender_agency_id: view.sender.to_string(),
        sender_reference: String::new(),
        pathway: view.pathway.to_string(),
        priority: priority(view.priority).into(),
        accepted_at: Some(timestamp_to_proto(view.accepted)),
        updated_at: events.last().map(|e| timestamp_to_proto(e.at)),
        directory_release: view.release,
        legs: view.legs.iter().map(|l| leg(view, l, events)).collect(),
        content: None,
    }
}

const fn priority(priority: Priority) -> v1::Priority {
    match priority {
        Priority::Routine => v1::Priority::Routine,
        Priority::Soon => v1::Priority::Soon,
        Priority::Urgent => v1::Priority::Urgent,
        Priority::Immediate => v1::Priority::Immediate,
    }
}

/// What the gateway did with a status update.
pub(super) const fn update_effect(reception: Reception) -> v1::UpdateEffect {
    match reception {
        Reception::Applied | Reception::Unchanged => v1::UpdateEffect::Applied,
        Reception::Repeated => v1::UpdateEffect::Repeated,
        Reception::OutOfOrder | Reception::AfterEnd | Reception::CancelRequested => {
            v1::UpdateEffect::OutOfOrder
        }
    }
}

/// What a cancel or withdrawal did to a leg.
pub(super) fn leg_effect(effect: &LegEffect) -> v1::LegEffect {
    let outcome = match effect.outcome {
        LegOutcome::NothingSent => v1::CancelEffect::NeverSent,
        LegOutcome::Queued => v1::CancelEffect::Queued,
        LegOutcome::Requested => v1::CancelEffect::Requested,
        LegOutcome::AlreadyEnded => v1::CancelEffect::AlreadyEnded,
        LegOutcome::Unaffected => v1::CancelEffect::Unaffected,
    };
    v1::LegEffect {
        leg_id: effect.leg.to_string(),
        effect: outcome.into(),
    }
}

/// One event of a watch. `referral` is the referral as it stands, where the caller may see it.
pub(super) fn event(event: &EventView, referral: Option<&ReferralView>) -> v1::ReferralEvent {
    let said = &event.event;
    let parked = event.delivery_state == Some(DeliveryState::Parked);
    let kind = match said.kind {
        EventKind::Accepted => v1::ReferralEventKind::Accepted,
        EventKind::Amended => v1::ReferralEventKind::Amended,
        EventKind::Cancelled => v1::ReferralEventKind::Cancelled,
        EventKind::ConsentWithdrawn => v1::ReferralEventKind::ConsentWithdrawn,
        EventKind::Status => v1::ReferralEventKind::Status,
        EventKind::Delivery | EventKind::Operator if parked => v1::ReferralEventKind::Parked,
        EventKind::Delivery | EventKind::Operator => v1::ReferralEventKind::Delivery,
    };
    let status = (said.kind == EventKind::Status).then(|| v1::StatusChange {
        state: said.state.map_or(0, |s| leg_state_to_proto(s).into()),
        reason_code: said.code.clone(),
        source_version: said.source_version.unwrap_or_default(),
        ..v1::StatusChange::default()
    });
    let shown = referral.and_then(|view| {
        let own = view.legs.iter().find(|l| Some(l.leg.id) == said.leg)?;
        let mut shown = leg(view, own, std::slice::from_ref(event));
        if let (Some(state), Some(Reception::Applied)) = (said.state, said.reception) {
            shown.state = leg_state_to_proto(state).into();
        }
        if let Some(state) = event.delivery_state {
            shown.delivery_state = delivery_state_to_proto(state).into();
        }
        if let Some(grade) = event.evidence {
            shown.evidence = evidence_to_proto(grade).into();
        }
        Some(shown)
    });
    v1::ReferralEvent {
        event_id: said.id.to_string(),
        kind: kind.into(),
        referral_id: event.referral.to_string(),
        reference: event.reference.to_string(),
        at: Some(timestamp_to_proto(event.at)),
        park: parked.then(|| v1::Park {
            reason_code: said.code.clone(),
            owner: shown.as_ref().and_then(|leg| leg.owner.clone()),
            since: Some(timestamp_to_proto(event.at)),
            ..v1::Park::default()
        }),
        leg: shown,
        status,
        effect: said.reception.map_or(0, |r| update_effect(r).into()),
        source_agency_id: said.source.to_string(),
        version: referral.map_or(0, |view| view.version),
    }
}

/// One delivery.
pub(super) fn delivery(view: &DeliveryView, in_force: &InForce) -> v1::Delivery {
    let (own, attempts) = (&view.delivery, &view.attempts);
    let directory = &in_force.directory;
    let last = attempts.last();
    let touched = last.map_or(view.queued, |a| a.closed.unwrap_or(a.opened));
    let service = own
        .service
        .as_ref()
        .and_then(|id| directory.services.get(id));
    let acting = service.or_else(|| directory.triage());
    let park = view.parked.map(|reason| v1::Park {
        reason_code: reason.as_str().to_owned(),
        reason: park_words(reason).to_owned(),
        owner: acting.map(|s| owner(&s.owner())),
        since: Some(timestamp_to_proto(touched)),
    });
    v1::Delivery {
        delivery_id: own.id.to_string(),
        referral_id: view.referral.to_string(),
        reference: view.reference.to_string(),
        leg_id: own.leg.map(|id| id.to_string()).unwrap_or_default(),
        kind: kind_to_proto(own.kind).into(),
        service_id: own
            .service
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        agency_id: own.recipient.to_string(),
        endpoint_id: own.endpoint.to_string(),
        lane_id: view.lane.to_string(),
        wire_id: own.wire_id.to_string(),
        state: delivery_state_to_proto(view.state).into(),
        evidence: evidence_to_proto(view.evidence).into(),
        evidence_wanted: directory
            .endpoints
            .get(&own.endpoint)
            .map_or(0, |e| evidence_to_proto(e.releases_at).into()),
        attempts: view.attempts_opened,
        next_attempt_at: view.next_attempt.map(timestamp_to_proto),
        created_at: Some(timestamp_to_proto(view.queued)),
        updated_at: Some(timestamp_to_proto(touched)),
        deadline_at: Some(timestamp_to_proto(own.deadline)),
        park,
        replaces_delivery_id: own.replaces.map(|id| id.to_string()).unwrap_or_default(),
        replaced_by_delivery_id: String::new(),
        version: delivery_version(view),
    }
}

/// A number that differs whenever what an operator decides on differs: attempts, then state, grade and park reason.
pub(super) fn delivery_version(view: &DeliveryView) -> u64 {
    let place = |at: Option<usize>| u64::try_from(at.map_or(0, |at| at + 1)).unwrap_or(0);
    let state = place(DeliveryState::ALL.iter().position(|s| *s == view.state));
    let grade = place(
        waymark_core::delivery::Evidence::ALL
            .iter()
            .position(|e| *e == view.evidence),
    );
    let parked = place(ParkReason::ALL.iter().position(|r| Some(*r) == view.parked));
    u64::from(view.attempts_opened) << 24 | state << 16 | grade << 8 | parked
}

const fn park_words(reason: ParkReason) -> &'static str {
    match reason {
        ParkReason::Exhausted => "the time for attempts is over",
        ParkReason::IdCollision => "the receiver says that it has this id with other content",
        ParkReason::WrongRecipient => "the peer was not the recipient bound at accept",
        ParkReason::Poison => "the adapter failed on this message repeatedly",
        ParkReason::CannotCarry => "the protocol cannot carry something safety-critical",
        ParkReason::Refused => "the acknowledgement needs a decision",
        ParkReason::NoEndpoint => "the endpoint or identity is gone from the directory",
        ParkReason::Operator => "an operator asked for it",
        ParkReason::Behind => "an earlier message of the same referral was parked or refused",
        ParkReason::NoContact => "nobody of the family can be written to: tell them in another way",
        ParkReason::Outdated => {
            "it may have arrived, and what it says to a family or to whom has changed since"
        }
    }
}

/// The newest attempts of a delivery, oldest first, with the digest of what each of them sent where the caller may see it.
pub(super) fn attempts(view: &DeliveryView, body_sha256: &[u8]) -> Vec<v1::Attempt> {
    let skip = view.attempts.len().saturating_sub(ATTEMPTS_MAX);
    let shown = view.attempts.iter().skip(skip);
    shown
        .map(|view| v1::Attempt {
            body_sha256: body_sha256.to_vec(),
            ..attempt(view)
        })
        .collect()
}

fn attempt(view: &AttemptView) -> v1::Attempt {
    use v1::AttemptOutcome::{Delivered, Rejected, Retry, Unknown, Unspecified};
    let outcome = match view.outcome.as_deref() {
        None => Unspecified,
        Some("delivered" | "duplicate") => Delivered,
        Some("retry" | "soft_reject") => Retry,
        Some("reject" | "park") => Rejected,
        Some(_) => Unknown,
    };
    v1::Attempt {
        number: view.number,
        opened_at: Some(timestamp_to_proto(view.opened)),
        ended_at: view.closed.map(timestamp_to_proto),
        outcome: outcome.into(),
        evidence: view.evidence.map_or(0, |e| evidence_to_proto(e).into()),
        reason_code: view
            .why
            .as_ref()
            .map(|w| w.code.clone())
            .unwrap_or_default(),
        reason: view
            .why
            .as_ref()
            .map(|w| w.text.clone())
            .unwrap_or_default(),
        fault: view.fault.map_or(0, |fault| fault_to_proto(fault).into()),
        body_sha256: Vec::new(),
    }
}

/// One alarm. At most one is open per kind and subject, so its id is made of both and of when it was opened.
pub(super) fn alarm(alarm: &Alarm) -> v1::Alarm {
    let about = &alarm.alarm;
    let name = format!(
        "{}|{}|{}",
        about.kind.as_str(),
        about.subject,
        alarm.opened.as_ms()
    );
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let mut id = [0; 16];
    for (slot, byte) in id.iter_mut().zip(digest.as_ref()) {
        *slot = *byte;
    }
    v1::Alarm {
        alarm_id: uuid::Builder::from_custom_bytes(id).into_uuid().to_string(),
        kind: about.kind.as_str().to_owned(),
        subject: about.subject.clone(),
        message: about.text.clone(),
        owner: Some(v1::Owner {
            agency_id: about.owner.to_string(),
            role: about.role.clone(),
        }),
        opened_at: Some(timestamp_to_proto(alarm.opened)),
        resolved_at: alarm.resolved.map(timestamp_to_proto),
    }
}

/// One release of the directory.
pub(super) fn release(release: &Release, in_force: u64) -> v1::DirectoryRelease {
    v1::DirectoryRelease {
        directory_release: release.number,
        applied_at: Some(timestamp_to_proto(release.at)),
        applied_by: release.by.clone(),
        comment: release.note.clone(),
        sha256: hex::decode(&release.sha256).unwrap_or_default(),
        current: release.number == in_force,
        event_id: release.event.to_string(),
    }
}

/// What a check of the directory found.
pub(super) fn finding(finding: &Finding) -> v1::DirectoryFinding {
    let severity = match finding.severity {
        Severity::Error => v1::FindingSeverity::Error,
        Severity::Warning => v1::FindingSeverity::Warning,
    };
    v1::DirectoryFinding {
        severity: severity.into(),
        code: finding.code.to_owned(),
        path: finding.place.file.clone(),
        line: u32::try_from(finding.place.line).unwrap_or(0),
        message: format!("{}: {}", finding.message, finding.remedy),
    }
}

/// What differs between two releases.
pub(super) fn change(change: &Change) -> v1::DirectoryChange {
    let kind = match change.kind {
        ChangeKind::Added => v1::DirectoryChangeKind::Added,
        ChangeKind::Changed => v1::DirectoryChangeKind::Changed,
        ChangeKind::Removed => v1::DirectoryChangeKind::Removed,
    };
    let (object, id) = change.what.split_once(' ').unwrap_or((&change.what, ""));
    let summary = match change.kind {
        ChangeKind::Added => change.after.clone(),
        ChangeKind::Removed => change.before.clone(),
        ChangeKind::Changed => format!("{} -> {}", change.before, change.after),
    };
    v1::DirectoryChange {
        kind: kind.into(),
        object: object.to_owned(),
        id: id.to_owned(),
        summary,
    }
}
