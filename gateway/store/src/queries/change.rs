//! One change of a referral after its accept, decided on a version of it.

use std::collections::BTreeSet;

use waymark_core::delivery::{DeliveryState, Kind, ParkReason};
use waymark_core::id::{DeliveryId, EventId, ReferralId, SubjectId};
use waymark_core::port::{
    Changed, ConflictKey, EventKind, LegChange, MessageKey, ReferralChange, StoreError,
};

use super::follow::{self, Alarms, Cause};
use super::lane::{self, Member};
use super::read::consent_bit;
use super::row::{Fields, Row};
use super::subject::{SealedBody, load_subject, seal_bodies, store_bodies};
use super::write::{
    Happened, Write, append_entry, insert_deliveries, insert_events, note_receiver_reference,
};
use super::{Backend, document, keys};
use crate::error::{Fault, internal, lost_race, sql};

/// Times that a change which lost a race is run again.
const RACES_MAX: u32 = 5;

/// Applies a change; see the port.
pub(super) async fn change(
    store: &Backend,
    mut change: ReferralChange,
) -> Result<Changed, StoreError> {
    let bodies = seal_bodies(std::mem::take(&mut change.bodies)).await?;
    let mut races = 0;
    loop {
        match change_once(store, &change, &bodies).await {
            Err(error) if lost_race(&error) && races < RACES_MAX => races += 1,
            other => return other,
        }
    }
}

const LOCK: &str = locked!("SELECT id, subject_id, version, leg_count FROM referral WHERE id = $1");

async fn change_once(
    store: &Backend,
    change: &ReferralChange,
    bodies: &[SealedBody],
) -> Result<Changed, StoreError> {
    let mut w = store.begin().await?;
    let result = apply(&mut w, store, change, bodies).await;
    let changed = w.end(result).await?;
    if !changed.repeated {
        store.work_was_added();
    }
    Ok(changed)
}

async fn apply(
    w: &mut Write,
    store: &Backend,
    change: &ReferralChange,
    bodies: &[SealedBody],
) -> Result<Changed, StoreError> {
    let row = sqlx::query(LOCK)
        .bind(change.referral.as_bytes().as_slice())
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?;
    let row = row.ok_or(StoreError::NotFound("referral"))?;
    let row = Fields::new(&row, "referral", "id");
    let version: u64 = row.int("version")?;
    let subject = row.id("subject_id", SubjectId::from_bytes)?;
    if let Some(event) = earlier(w, store, change).await? {
        return Ok(Changed {
            event,
            version,
            repeated: true,
        });
    }
    if version != change.expected_version {
        return Err(StoreError::Stale);
    }
    claim_status(w, change).await?;
    let subject = load_subject(w.conn(), store.seal(), subject).await?;
    let subject = subject.ok_or(StoreError::NotFound("referral"))?;
    append_entry(w, change.entry.clone(), &change.openings, Some(&subject)).await?;
    store_bodies(w, &subject, change.referral, bodies).await?;
    document::take_along(w, store.seal(), change, &subject).await?;
    move_legs(w, change, row.int("leg_count")?).await?;
    update_referral(w, change).await?;
    let event = Happened {
        event: &change.event,
        referral: change.referral,
        at: change.at,
        delivery: None,
    };
    insert_events(w, &[event]).await?;
    if let Some((agency, reference)) = &change.receiver_reference {
        let named = (agency, reference.as_str());
        note_receiver_reference(w, store.seal(), change.referral, named).await?;
    }
    let mut alarms = Alarms::new(change.alarms.clone(), change.resolve.clone());
    move_deliveries(w, change, subject.id, &mut alarms).await?;
    alarms.apply(w, change.at).await?;
    Ok(Changed {
        event: change.event.id,
        version: version + 1,
        repeated: false,
    })
}

/// What a message key was claimed for.
pub(super) const READ_MESSAGE: &str =
    "SELECT hash, content_hash, referral_id, event_id FROM message_key WHERE hash = $1";

/// Claims the message's key; answers the earlier event when the same message came before.
async fn earlier(
    w: &mut Write,
    store: &Backend,
    change: &ReferralChange,
) -> Result<Option<EventId>, StoreError> {
    let Some(key) = &change.message_key else {
        return Ok(None);
    };
    let (hash, content) = keys::message(store.seal(), key);
    let makes = (change.referral.as_bytes(), change.event.id);
    if keys::claim_message(w, (&hash, &content), makes, change.at).await? {
        return Ok(None);
    }
    let row = sqlx::query(READ_MESSAGE)
        .bind(hash.as_slice())
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?;
    let row = row.ok_or(StoreError::Stale)?;
    same_message(&row, change.referral, &content).map(Some)
}

/// The event that the same message made before; another one under its key is a conflict.
fn same_message(
    row: &Row,
    referral: ReferralId,
    content: &[u8; 32],
) -> Result<EventId, StoreError> {
    let row = Fields::new(row, "message_key", "hash");
    let existing = row.id("referral_id", ReferralId::from_bytes)?;
    if existing == referral && row.fixed::<32>("content_hash")? == *content {
        return row.id("event_id", EventId::from_bytes);
    }
    Err(StoreError::Conflict {
        key: ConflictKey::Message,
        existing,
    })
}

/// The event that the same message made before, as a change of this referral.
pub(super) async fn answered(
    store: &Backend,
    key: &MessageKey,
    referral: ReferralId,
) -> Result<Option<EventId>, StoreError> {
    let (hash, content) = keys::message(store.seal(), key);
    let row = sqlx::query(READ_MESSAGE)
        .bind(hash.as_slice())
        .fetch_optional(store.reader())
        .await
        .map_err(sql)?;
    row.map(|row| same_message(&row, referral, &content))
        .transpose()
}

const CLAIM_STATUS: &str = "INSERT INTO status_key (leg_id, source, version) VALUES ($1, $2, $3) \
     ON CONFLICT (leg_id, source, version) DO NOTHING";

/// Claims the source's version; one that came before makes the decision stale.
async fn claim_status(w: &mut Write, change: &ReferralChange) -> Result<(), StoreError> {
    let Some((leg, source, version)) = &change.status_version else {
        return Ok(());
    };
    let version = i64::try_from(*version).map_err(|_| internal(Fault::Number("version")))?;
    let claimed = sqlx::query(CLAIM_STATUS)
        .bind(leg.as_bytes().as_slice())
        .bind(source.as_str())
        .bind(version)
        .execute(w.conn())
        .await
        .map_err(sql)?;
    if claimed.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::Stale)
    }
}

const MOVE_LEG: &str = "UPDATE leg SET state = $3, owner_agency = $4, owner_role = $5, clock = $6, next_action = $7 \
     WHERE id = $1 AND referral_id = $2";

async fn move_legs(
    w: &mut Write,
    change: &ReferralChange,
    legs_before: i64,
) -> Result<(), StoreError> {
    for leg in &change.legs {
        move_leg(w, change.referral, leg).await?;
    }
    let of = (change.referral, change.event.id);
    let new: Vec<_> = keys::Opened::all(&change.new_legs, of, legs_before).collect();
    keys::insert_legs(w, &new).await
}

async fn move_leg(
    w: &mut Write,
    referral: ReferralId,
    change: &LegChange,
) -> Result<(), StoreError> {
    let moved = sqlx::query(MOVE_LEG)
        .bind(change.leg.as_bytes().as_slice())
        .bind(referral.as_bytes().as_slice())
        .bind(change.state.as_str())
        .bind(change.owner.agency.as_str())
        .bind(change.owner.role.as_str())
        .bind(change.clock.as_deref())
        .bind(change.next_action.as_deref())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    if moved.rows_affected() == 1 {
        follow_leg(w, referral, change).await
    } else {
        Err(StoreError::NotFound("leg"))
    }
}

const FOLLOW: &str = "UPDATE delivery SET followed = $3 WHERE referral_id = $1 AND leg_id = $2 AND kind = 'new' \
     AND followed <> $3";

/// What brought a leg to its receiver is followed as long as the leg is open.
pub(super) async fn follow_leg(
    w: &mut Write,
    referral: ReferralId,
    leg: &LegChange,
) -> Result<(), StoreError> {
    sqlx::query(FOLLOW)
        .bind(referral.as_bytes().as_slice())
        .bind(leg.leg.as_bytes().as_slice())
        .bind(i64::from(leg.clock.is_some()))
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(())
}

const UPDATE: &str = "UPDATE referral SET version = version + 1, content_body = COALESCE($2, content_body), \
     consent_withdrawn = consent_withdrawn | $3, leg_count = leg_count + $4 WHERE id = $1";

async fn update_referral(w: &mut Write, change: &ReferralChange) -> Result<(), StoreError> {
    sqlx::query(UPDATE)
        .bind(change.referral.as_bytes().as_slice())
        .bind(change.content.as_ref().map(|id| id.as_bytes().as_slice()))
        .bind(
            change
                .withdraws
                .iter()
                .map(|s| consent_bit(*s))
                .sum::<i64>(),
        )
        .bind(i64::try_from(change.new_legs.len()).map_err(internal)?)
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(())
}

/// Takes cancelled and superseded deliveries out of their lanes, then queues the new ones.
async fn move_deliveries(
    w: &mut Write,
    change: &ReferralChange,
    subject: SubjectId,
    alarms: &mut Alarms,
) -> Result<(), StoreError> {
    let mut leaving = Vec::with_capacity(change.cancel.len() + change.supersede.len());
    for id in &change.cancel {
        leaving.push((member(w, change, *id).await?, DeliveryState::Cancelled));
    }
    for id in &change.supersede {
        leaving.push((member(w, change, *id).await?, DeliveryState::Superseded));
    }
    let mut lanes: BTreeSet<_> = leaving
        .iter()
        .map(|(of, _)| (of.endpoint.clone(), of.subject))
        .collect();
    lanes.extend(
        change
            .deliveries
            .iter()
            .map(|d| (d.endpoint.clone(), subject)),
    );
    for (endpoint, subject) in &lanes {
        lane::lock(w, endpoint, *subject).await?;
    }
    leaving.sort_by(|(a, _), (b, _)| {
        (&a.endpoint, a.subject, a.lane_seq).cmp(&(&b.endpoint, b.subject, b.lane_seq))
    });
    let cause = Cause::of(&change.entry);
    for (of, to) in &leaving {
        let may: fn(&Member) -> bool = if *to == DeliveryState::Cancelled {
            may_cancel
        } else {
            may_supersede
        };
        let gone = lane::withdraw(w, (&cause, &mut *alarms), of.id, (*to, None), may).await?;
        let mends = gone.parked.is_none_or(ParkReason::mends_by_content);
        if gone.state == DeliveryState::Parked && !mends && amended(change, gone.id) {
            // Parked since the amendment was decided on: it must wait behind, and not take its place.
            return Err(StoreError::Stale);
        }
    }
    let of = (change.referral, subject);
    insert_deliveries(
        w,
        of,
        &change.deliveries,
        change.traceparent.as_deref(),
        change.at,
    )
    .await?;
    for amendment in change.deliveries.iter().filter(|d| d.kind == Kind::Amend) {
        follow::wait_behind(w, (&cause, &mut *alarms), amendment, of).await?;
    }
    Ok(())
}

/// Whether an amendment is sent in place of a delivery.
fn amended(change: &ReferralChange, gone: DeliveryId) -> bool {
    change.event.kind == EventKind::Amended
        && change.deliveries.iter().any(|d| d.replaces == Some(gone))
}

/// A delivery of this referral, not locked yet.
async fn member(
    w: &mut Write,
    change: &ReferralChange,
    id: DeliveryId,
) -> Result<Member, StoreError> {
    let member = lane::member(w, id)
        .await?
        .ok_or(StoreError::NotFound("delivery"))?;
    if member.referral == change.referral {
        Ok(member)
    } else {
        Err(StoreError::NotFound("delivery"))
    }
}

/// Nothing of it was ever sent (ruling 3).
fn may_cancel(of: &Member) -> bool {
    of.attempts == 0 && !of.state.is_terminal() && of.state != DeliveryState::Attempting
}

/// Its outcome is known, and nothing has taken its place yet (rulings 4, 8).
fn may_supersede(of: &Member) -> bool {
    !matches!(
        of.state,
        DeliveryState::Attempting
            | DeliveryState::Unknown
            | DeliveryState::Cancelled
            | DeliveryState::Superseded
    )
}
