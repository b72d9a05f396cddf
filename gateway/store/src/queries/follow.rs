//! What a delivery takes along when it leaves its lane, and who is told of it (DESIGN.md rulings 2, 3).

use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::audit::{EntryDraft, EntryKind};
use waymark_core::delivery::{DeliveryState, ParkReason};
use waymark_core::id::{AgencyId, DeliveryId, EventId, ReferralId, StreamId, SubjectId};
use waymark_core::port::{EventKind, NewDelivery, NewEvent, StoreError};
use waymark_core::time::Timestamp;

use super::lane::{self, Member, set_state};
use super::row::Fields;
use super::write::{Happened, Write, append_entry, insert_events, open_alarms, resolve_alarms};
use crate::error::{Fault, internal, sql};
use crate::seal::sortable_id;

/// Deliveries taken along by one statement; more are taken by the next.
const TAKEN_MAX: i64 = 100;
/// Who is told of a delivery without a leg, within its recipient.
const ROLE: &str = "duty";

const LATER: &str = "SELECT id, referral_id, leg_id, kind, endpoint_id, recipient, subject_id, wire_id, rendered_body,
    state, evidence, parked, attempts, lane_seq, queued_ms, due_ms FROM delivery
    WHERE referral_id = $1 AND endpoint_id = $2 AND subject_id = $3
    AND (lane_seq > $4 OR (lane_seq = $4 AND id > $5)) AND kind <> 'guidance'
    AND state IN ('queued', 'attempting', 'retry_wait', 'unknown', 'held', 'awaiting_evidence')
    ORDER BY lane_seq, id LIMIT $6";
const OWNER: &str =
    "SELECT id, owner_agency, owner_role FROM leg WHERE referral_id = $1 AND id = $2";

/// Who moves a delivery, and with which entry of its stream.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    event: EventId,
    pub(super) at: Timestamp,
    stream: StreamId,
    actor: [u8; 16],
    org: AgencyId,
}

impl Cause {
    /// The cause that an entry records.
    pub(super) fn of(entry: &EntryDraft) -> Self {
        Self {
            event: entry.event,
            at: entry.at,
            stream: entry.stream,
            actor: entry.actor,
            org: entry.org.clone(),
        }
    }
}

/// What a transaction does to alarms, kept until its lanes are locked, since alarms come after lanes.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    open: Vec<NewAlarm>,
    resolve: Vec<(AlarmKind, String)>,
}

impl Alarms {
    /// Takes what a use case asks for.
    pub(super) const fn new(open: Vec<NewAlarm>, resolve: Vec<(AlarmKind, String)>) -> Self {
        Self { open, resolve }
    }

    /// Resolves one more, if open.
    pub(super) fn resolve(&mut self, kind: AlarmKind, delivery: DeliveryId) {
        self.resolve.push((kind, delivery.to_string()));
    }

    /// Writes them: those to resolve first, so that one may be opened anew.
    pub(super) async fn apply(self, w: &mut Write, at: Timestamp) -> Result<(), StoreError> {
        resolve_alarms(w, &self.resolve, at).await?;
        let open: Vec<(&NewAlarm, Timestamp)> = self.open.iter().map(|alarm| (alarm, at)).collect();
        open_alarms(w, &open).await?;
        Ok(())
    }
}

/// What is behind a delivery in its lane, of the same referral, follows it: a cancel of what was refused is not
/// needed any more, and nothing overtakes what is parked.
pub(super) async fn take_along(
    w: &mut Write,
    (cause, alarms): (&Cause, &mut Alarms),
    gone: &Member,
    to: DeliveryState,
) -> Result<(), StoreError> {
    loop {
        let rows = sqlx::query(LATER)
            .bind(gone.referral.as_bytes().as_slice())
            .bind(gone.endpoint.as_str())
            .bind(gone.subject.as_bytes().as_slice())
            .bind(gone.lane_seq)
            .bind(gone.id.as_bytes().as_slice())
            .bind(TAKEN_MAX)
            .fetch_all(w.conn())
            .await
            .map_err(sql)?;
        for row in &rows {
            follow(w, (cause, alarms), (gone, to), &Member::read(row)?).await?;
        }
        if rows.len() < usize::try_from(TAKEN_MAX).unwrap_or(usize::MAX) {
            return Ok(());
        }
    }
}

/// Moves one later delivery and, if it now needs a person, opens an alarm.
async fn follow(
    w: &mut Write,
    (cause, alarms): (&Cause, &mut Alarms),
    (gone, to): (&Member, DeliveryState),
    later: &Member,
) -> Result<(), StoreError> {
    let becomes = to.takes_along(later.kind);
    let becomes = becomes.ok_or_else(|| internal(Fault::Missing("a state to follow into")))?;
    let parked = (becomes == DeliveryState::Parked).then_some(ParkReason::Behind);
    set_state(w, later, becomes, parked).await?;
    let code = if parked.is_some() {
        "parked_behind"
    } else {
        "cancelled_unneeded"
    };
    record(w, cause, (gone, later), (becomes, code)).await?;
    alarms.resolve(AlarmKind::UrgentHeld, later.id);
    alarms.resolve(AlarmKind::EvidenceOverdue, later.id);
    if parked.is_some() {
        alarms
            .open
            .push(behind_alarm(w, &alarms.open, gone, later).await?);
    }
    Ok(())
}

const PARKED: &str = "SELECT id, referral_id, leg_id, kind, endpoint_id, recipient, subject_id, wire_id, rendered_body,
    state, evidence, parked, attempts, lane_seq, queued_ms, due_ms FROM delivery
    WHERE referral_id = $1 AND endpoint_id = $2 AND subject_id = $3 AND leg_id = $4 AND (state || '') = 'parked'
    ORDER BY queued_ms DESC, lane_seq DESC, id DESC LIMIT 1";

/// Parks an amendment just queued behind what is parked of the same leg, as it would have been had it come before:
/// nothing overtakes what waits for a person, and it is resumed with it.
pub(super) async fn wait_behind(
    w: &mut Write,
    (cause, alarms): (&Cause, &mut Alarms),
    amendment: &NewDelivery,
    (referral, subject): (ReferralId, SubjectId),
) -> Result<(), StoreError> {
    let Some(leg) = &amendment.leg else {
        return Ok(());
    };
    let front = sqlx::query(PARKED)
        .bind(referral.as_bytes().as_slice())
        .bind(amendment.endpoint.as_str())
        .bind(subject.as_bytes().as_slice())
        .bind(leg.as_bytes().as_slice())
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?;
    let Some(front) = front.as_ref().map(Member::read).transpose()? else {
        return Ok(());
    };
    let later = lane::member(w, amendment.id).await?;
    let later = later.ok_or_else(|| internal(Fault::Missing("a delivery just queued")))?;
    // A lane that ended with what was parked counts from 1 again.
    if later.lane_seq <= front.lane_seq {
        lane::place(w, later.id, front.lane_seq + 1).await?;
    }
    follow(
        w,
        (cause, &mut *alarms),
        (&front, DeliveryState::Parked),
        &later,
    )
    .await?;
    lane::leave(w, (cause, alarms), &later, DeliveryState::Parked).await
}

/// Records with an entry and an event of its own that a delivery moved because one in front of it did.
pub(super) async fn record(
    w: &mut Write,
    cause: &Cause,
    (front, later): (&Member, &Member),
    (state, code): (DeliveryState, &'static str),
) -> Result<(), StoreError> {
    let event = follow_event(cause, later, code)?;
    let entry = EntryDraft {
        kind: EntryKind::Routed,
        event: event.id,
        at: cause.at,
        stream: cause.stream,
        actor: cause.actor,
        org: cause.org.clone(),
        codes: Vec::new(),
        commitments: Vec::new(),
        reference: Some(cause.event),
    };
    let entry = entry
        .code("step", code)
        .code("wire_id", later.wire_id.as_str())
        .code("behind", front.wire_id.as_str());
    append_entry(w, entry, &[], None).await?;
    let happened = Happened {
        event: &event,
        referral: later.referral,
        at: cause.at,
        delivery: Some((state, later.evidence)),
    };
    insert_events(w, &[happened]).await?;
    Ok(())
}

fn follow_event(cause: &Cause, later: &Member, code: &str) -> Result<NewEvent, StoreError> {
    Ok(NewEvent {
        id: EventId::from_bytes(sortable_id(cause.at)?),
        kind: EventKind::Delivery,
        leg: later.leg,
        delivery: Some(later.id),
        source: cause.org.clone(),
        source_version: None,
        state: None,
        reception: None,
        code: code.to_owned(),
        text: None,
    })
}

/// Whoever is told of the delivery in front is told of the one behind it; else its leg's owner, else its recipient.
async fn behind_alarm(
    w: &mut Write,
    opened: &[NewAlarm],
    gone: &Member,
    later: &Member,
) -> Result<NewAlarm, StoreError> {
    let front = gone.id.to_string();
    let told = opened.iter().find(|alarm| alarm.subject == front);
    let (owner, role) = match told {
        Some(alarm) => (alarm.owner.clone(), alarm.role.clone()),
        None => owner_of(w, later).await?,
    };
    Ok(NewAlarm {
        kind: AlarmKind::Parked,
        subject: later.id.to_string(),
        owner,
        role,
        text: format!(
            "{} waits behind {}, which needs a person",
            later.wire_id, gone.wire_id
        ),
    })
}

async fn owner_of(w: &mut Write, of: &Member) -> Result<(AgencyId, String), StoreError> {
    let row = match &of.leg {
        Some(leg) => sqlx::query(OWNER)
            .bind(of.referral.as_bytes().as_slice())
            .bind(leg.as_bytes().as_slice())
            .fetch_optional(w.conn())
            .await
            .map_err(sql)?,
        None => None,
    };
    let Some(row) = row else {
        return Ok((of.recipient.clone(), ROLE.to_owned()));
    };
    let row = Fields::new(&row, "leg", "id");
    Ok((row.code("owner_agency")?, row.text("owner_role")?))
}
