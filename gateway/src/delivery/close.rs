//! From an attempt's end to the one store call that records it: next state, entry, event, notice and alarms.

use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::audit::{CommitmentTag, EntryDraft, EntryKind};
use waymark_core::delivery::{DeliveryState, Kind, Next, Outcome, ParkReason, Why};
use waymark_core::directory::{Directory, Endpoint};
use waymark_core::id::AgencyId;
use waymark_core::leg::LegState;
use waymark_core::port::{
    CloseAttempt, EventKind, Leased, LegChange, NewBody, NewDelivery, NewEvent, StatusNotice,
};
use waymark_core::time::Timestamp;

use super::SYSTEM_IDENTITY;
use crate::service::{CancelRefused, Drafter, Telling, actor_of, tell_sender};

/// What an owner is told when somebody else than the bound recipient has the content.
const WRITTEN_TO_ANOTHER: &str = "content was written to a peer that is not the bound recipient: treat it as a \
    disclosure, and check the endpoint's address and identity";
/// Media type of an acknowledgement kept as it came.
const RECEIPT: &str = "application/octet-stream";

/// Everything that decides how an attempt's end is recorded.
#[derive(Debug)]
pub struct Closing<'a> {
    /// The lease.
    pub leased: &'a Leased,
    /// Number of the attempt; 0 when none was opened.
    pub number: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Where the delivery goes.
    pub next: Next,
    /// What a refused cancel leaves of its leg.
    pub refused: Option<CancelRefused>,
    /// What takes the place of a message to a family.
    pub told_next: Option<(NewBody, NewDelivery)>,
    /// The endpoint in force; absent when it is gone.
    pub endpoint: Option<&'a Endpoint>,
    /// The directory in force.
    pub directory: &'a Directory,
    /// When.
    pub at: Timestamp,
    /// Who acts: the gateway itself, or a mailbox's owner.
    pub actor: ([u8; 16], AgencyId),
}

impl Closing<'_> {
    /// The gateway's own name in the log.
    pub fn system(leased: &Leased) -> ([u8; 16], AgencyId) {
        (actor_of(SYSTEM_IDENTITY), leased.recipient.clone())
    }
}

/// Drafts the store call.
pub fn close_of(draft: &Drafter<'_>, closing: Closing<'_>) -> CloseAttempt {
    let Closing {
        leased,
        number,
        outcome,
        mut next,
        refused,
        told_next,
        endpoint,
        directory,
        at,
        actor,
    } = closing;
    let stands = refused.as_ref().map(CancelRefused::state);
    let reopen = refused.and_then(CancelRefused::reopens);
    if told_next.is_some() {
        next.state = DeliveryState::Superseded;
        next.parked = None;
    }
    let (why, fault) = (outcome.why().cloned(), outcome.fault());
    let mut entry = draft
        .entry_by(EntryKind::Attempt, leased.stream, actor.0, &actor.1, at)
        .code("delivery", leased.token.delivery.to_string())
        .code("wire_id", leased.wire_id.as_str())
        .code("attempt", number.to_string())
        .code("phase", "closed")
        .code("outcome", outcome.word())
        .code("state", next.state.as_str())
        .code("evidence", next.evidence.as_str());
    if let Some(why) = &why {
        entry = entry.code("why", &why.code);
    }
    if let Some(leg) = &reopen {
        entry = given_back(entry, leg);
    }
    if let Some((_, by)) = &told_next {
        entry = entry.code("replaced_by", by.id.to_string());
    }
    let word = outcome.word();
    let alarms = alarms_of(leased, &next, &outcome, directory);
    let (receiver_reference, receipt) = match outcome {
        Outcome::Delivered {
            receiver_reference,
            receipt,
            ..
        } => (receiver_reference, receipt),
        Outcome::Unread { receipt, .. } => (None, receipt),
        _ => (None, None),
    };
    let mut openings = Vec::new();
    let receipt = receipt.map(|bytes| {
        openings.push(draft.commit(&mut entry, CommitmentTag::Answer, bytes.expose()));
        draft.body(at, RECEIPT, bytes.into_inner())
    });
    let shown = !matches!(
        next.state,
        DeliveryState::RetryWait | DeliveryState::Unknown | DeliveryState::Held
    ) || leased.attempts <= 1;
    let code = event_code(word, &next, reopen.is_some(), why.as_ref());
    let event = shown.then(|| NewEvent {
        leg: leased.leg,
        delivery: Some(leased.token.delivery),
        source: leased.recipient.clone(),
        state: reopen.as_ref().map(|leg| leg.state),
        ..NewEvent::of(&entry, EventKind::Delivery, code)
    });
    let failed = matches!(next.state, DeliveryState::Parked | DeliveryState::Rejected);
    let tell = (failed && !matches!(leased.kind, Kind::Status | Kind::Guidance))
        .then(|| notice_of(draft, leased, (next.state, stands), directory, at))
        .flatten()
        .or(told_next);
    let resolve = resolved_by(leased, next.state);
    let evidence_due = (next.state == DeliveryState::AwaitingEvidence)
        .then(|| endpoint.map(|e| at.plus(e.evidence_within)))
        .flatten();
    CloseAttempt {
        token: leased.token.clone(),
        number,
        at,
        next,
        outcome: word,
        why,
        fault,
        evidence_due,
        receiver_reference,
        receipt,
        reopen,
        event,
        tell,
        alarms,
        resolve,
        entry,
        openings,
    }
}

/// What the parties are shown of an attempt's end.
fn event_code(word: &'static str, next: &Next, refused_cancel: bool, why: Option<&Why>) -> String {
    match why {
        _ if refused_cancel => StatusNotice::CANCEL_REFUSED.to_owned(),
        // Why a family is not told stands in the log alone (ruling 25).
        Some(_) if next.state == DeliveryState::Cancelled => word.to_owned(),
        Some(why) => why.code.clone(),
        None => word.to_owned(),
    }
}

/// Says in an entry that a refused cancel gives its leg back.
fn given_back(entry: EntryDraft, leg: &LegChange) -> EntryDraft {
    entry
        .code("event", StatusNotice::CANCEL_REFUSED)
        .code("leg", leg.leg.to_string())
        .code("leg_state", leg.state.as_str())
}

/// What the sender is told of a delivery that needs a person.
fn notice_of(
    draft: &Drafter<'_>,
    leased: &Leased,
    (state, refused): (DeliveryState, Option<LegState>),
    directory: &Directory,
    at: Timestamp,
) -> Option<(NewBody, NewDelivery)> {
    let code = match (state, refused) {
        (_, Some(_)) => StatusNotice::CANCEL_REFUSED,
        (DeliveryState::Parked, None) => StatusNotice::UNDELIVERABLE,
        _ => StatusNotice::REJECTED,
    };
    let notice = StatusNotice {
        from: leased.recipient.clone(),
        service: leased.service.clone(),
        state: refused.unwrap_or(LegState::Submitted),
        code: code.to_owned(),
        text: None,
        due: None,
        at,
    };
    let telling = Telling {
        sender: &leased.sender,
        notice: &notice,
        at,
        urgent: leased.urgent,
    };
    tell_sender(draft, directory, &telling)
}

/// The alarms that a delivery's arrival resolves.
fn resolved_by(leased: &Leased, state: DeliveryState) -> Vec<(AlarmKind, String)> {
    if state != DeliveryState::Done {
        return Vec::new();
    }
    let delivery = leased.token.delivery.to_string();
    vec![
        (AlarmKind::EvidenceOverdue, delivery.clone()),
        (AlarmKind::UrgentHeld, delivery.clone()),
        (AlarmKind::Parked, delivery),
        (AlarmKind::EndpointDown, leased.endpoint.to_string()),
    ]
}

/// Who must be told that a delivery needs a person: the owner of its service; the triage owner when that is gone;
/// for a status to the sender, the sender's failure is an alarm and never a further notice (ruling 11).
///
/// An answer that nobody could read is one too, whatever became of its delivery.
fn alarms_of(
    leased: &Leased,
    next: &Next,
    outcome: &Outcome,
    directory: &Directory,
) -> Vec<NewAlarm> {
    let failed = matches!(next.state, DeliveryState::Parked | DeliveryState::Rejected);
    let unread = matches!(outcome, Outcome::Unread { .. });
    if !failed && !unread {
        return Vec::new();
    }
    let why = outcome.why().map_or("", |why| &why.text);
    let own = leased
        .service
        .as_ref()
        .and_then(|id| directory.services.get(id));
    let acting = own.or_else(|| directory.triage());
    let owner = acting.map_or_else(
        || (leased.recipient.clone(), "triage".to_owned()),
        |s| (s.agency.clone(), s.owner_role.clone()),
    );
    let kind = match (leased.kind, next.state) {
        _ if !failed => AlarmKind::AnswerUnread,
        (Kind::Status, _) => AlarmKind::SenderNotTold,
        (_, DeliveryState::Rejected) => AlarmKind::Rejected,
        _ => AlarmKind::Parked,
    };
    let disclosed = matches!(
        outcome,
        Outcome::ParkWritten {
            reason: ParkReason::WrongRecipient,
            ..
        }
    );
    let mut alarms = vec![NewAlarm {
        kind,
        subject: leased.token.delivery.to_string(),
        owner: owner.0.clone(),
        role: owner.1.clone(),
        text: words_of(leased, next, why, disclosed),
    }];
    if next.parked == Some(ParkReason::WrongRecipient) {
        let written = if disclosed {
            WRITTEN_TO_ANOTHER
        } else {
            "nothing was sent, check its address and identity"
        };
        alarms.push(NewAlarm {
            kind: AlarmKind::WrongRecipient,
            subject: leased.endpoint.to_string(),
            owner: owner.0,
            role: owner.1,
            text: format!("{} answered as somebody else: {written}", leased.endpoint),
        });
    }
    alarms
}

/// What the owner of a delivery is told of its end.
fn words_of(leased: &Leased, next: &Next, why: &str, disclosed: bool) -> String {
    let endpoint = &leased.endpoint;
    let reason = match (next.state, next.parked) {
        (_, Some(reason)) => reason.as_str(),
        (DeliveryState::Rejected, None) => "refused by the receiver",
        _ => {
            return format!(
                "{endpoint} has the delivery, and its answer could not be read: {why}: ask what it said"
            );
        }
    };
    if leased.kind == Kind::Guidance {
        return format!(
            "the family was not told what happens next ({reason}): {why}: tell them in another way"
        );
    }
    if disclosed {
        return format!(
            "delivery to {endpoint} needs a person ({reason}): {why}: {WRITTEN_TO_ANOTHER}"
        );
    }
    format!("delivery to {endpoint} needs a person ({reason}): {why}")
}
