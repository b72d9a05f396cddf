//! What happens to a delivery outside an attempt: better evidence, news that it did not arrive, and an operator who
//! parks or resumes it.

use waymark_core::alarm::AlarmKind;
use waymark_core::delivery::{DeliveryState, ParkReason};
use waymark_core::id::DeliveryId;
use waymark_core::port::{Act, Operation, RaiseEvidence, StoreError};
use waymark_core::time::Timestamp;

use super::attempt::{queue_tell, store_all, subject_if};
use super::follow::{self, Alarms, Cause};
use super::lane::{self, Member};
use super::row::Fields;
use super::subject::seal_bodies;
use super::write::{Happened, Write, append_entry, insert_events, note_receiver_reference};
use super::{Backend, keys};
use crate::error::sql;

/// Deliveries resumed with the one that they were parked behind, at most; more stay parked.
const FOLLOWERS_MAX: i64 = 100;

const RAISE: &str = "UPDATE delivery SET state = $2, evidence = $3,
    evidence_due_ms = CASE WHEN $4 = 1 THEN NULL ELSE evidence_due_ms END,
    receiver_reference = COALESCE($5, receiver_reference) WHERE id = $1";
const RAISED: &str = "UPDATE attempt SET evidence = $3, receipt_body = COALESCE($4, receipt_body)
    WHERE delivery_id = $1 AND number = $2";
const OVERTAKEN: &str = "UPDATE attempt SET closed_ms = $3, outcome = 'evidence'
    WHERE delivery_id = $1 AND number = $2 AND closed_ms IS NULL";
const RESUME: &str =
    "UPDATE delivery SET state = $2, parked = NULL, due_ms = $3, deadline_ms = $4, failures = 0,
    soft_rejects = 0, unfinished = 0 WHERE id = $1";
const ATTEMPTS: &str = "SELECT COUNT(*) AS attempts,
    COUNT(CASE WHEN outcome IS NULL OR outcome = 'unknown' THEN 1 END) AS unknown
    FROM attempt WHERE delivery_id = $1";
const PARKED_BEFORE: &str =
    "SELECT COUNT(*) FROM delivery WHERE referral_id = $1 AND endpoint_id = $2
    AND subject_id = $3 AND state = 'parked'
    AND (queued_ms < $4 OR (queued_ms = $4 AND (lane_seq < $5 OR (lane_seq = $5 AND id < $6))))";
const PARKED_AFTER: &str = "SELECT id FROM delivery WHERE referral_id = $1 AND endpoint_id = $2
    AND subject_id = $3 AND state = 'parked'
    AND (queued_ms > $4 OR (queued_ms = $4 AND (lane_seq > $5 OR (lane_seq = $5 AND id > $6))))
    ORDER BY queued_ms, lane_seq, id LIMIT $7";

/// Records better evidence. It never gets worse; where it is what the endpoint's lane waits for, the delivery is done,
/// whatever attempt of it is under way: that attempt's end is not needed any more.
pub(super) async fn raise_evidence(
    store: &Backend,
    raise: RaiseEvidence,
) -> Result<(), StoreError> {
    let receipt = raise.receipt.as_ref().map(|body| body.id);
    let bodies = seal_bodies(raise.receipt.into_iter().collect()).await?;
    let cause = Cause::of(&raise.entry);
    let mut w = store.begin().await?;
    let seen = lane::member(&mut w, raise.delivery).await?;
    let seen = seen.ok_or(StoreError::NotFound("delivery"))?;
    let needed = !bodies.is_empty() || !raise.openings.is_empty();
    let subject = subject_if(&mut w, store.seal(), &seen, needed).await?;
    append_entry(&mut w, raise.entry, &raise.openings, subject.as_ref()).await?;
    if let Some(reference) = &raise.receiver_reference {
        let key = (&seen.recipient, reference.as_str());
        note_receiver_reference(&mut w, store.seal(), seen.referral, key).await?;
    }
    let (_, was) = lane::held(&mut w, &seen).await?;
    store_all(&mut w, subject.as_ref(), &was, &bodies).await?;
    let enough = raise.grade >= raise.releases_at;
    // Evidence for what was never attempted is kept, and sends it all the same.
    let done = enough && was.state.blocks_lane() && was.attempts > 0;
    let state = if done { DeliveryState::Done } else { was.state };
    let evidence = raise.grade.max(was.evidence);
    sqlx::query(RAISE)
        .bind(was.id.as_bytes().as_slice())
        .bind(state.as_str())
        .bind(evidence.as_str())
        .bind(i64::from(done))
        .bind(raise.receiver_reference.as_deref())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    sqlx::query(RAISED)
        .bind(was.id.as_bytes().as_slice())
        .bind(i64::from(was.attempts))
        .bind(evidence.as_str())
        .bind(receipt.as_ref().map(|id| id.as_bytes().as_slice()))
        .execute(w.conn())
        .await
        .map_err(sql)?;
    w.count_move(was.state, state);
    let mut alarms = Alarms::default();
    if enough {
        alarms.resolve(AlarmKind::EvidenceOverdue, was.id);
    }
    if done {
        sqlx::query(OVERTAKEN)
            .bind(was.id.as_bytes().as_slice())
            .bind(i64::from(was.attempts))
            .bind(raise.at.as_ms())
            .execute(w.conn())
            .await
            .map_err(sql)?;
        alarms.resolve(AlarmKind::UrgentHeld, was.id);
        lane::leave(&mut w, (&cause, &mut alarms), &was, state).await?;
    }
    if let Some(event) = &raise.event {
        let delivery = Some((state, evidence));
        let happened = Happened {
            event,
            referral: was.referral,
            at: raise.at,
            delivery,
        };
        insert_events(&mut w, &[happened]).await?;
    }
    alarms.apply(&mut w, raise.at).await?;
    w.commit().await?;
    store.work_was_added();
    Ok(())
}

/// Parks or resumes a delivery.
pub(super) async fn operate(store: &Backend, operation: Operation) -> Result<(), StoreError> {
    let cause = Cause::of(&operation.entry);
    let mut alarms = Alarms::new(operation.alarms, operation.resolve);
    let (told, tell) = operation.tell.unzip();
    let note = seal_bodies(std::iter::once(operation.note).chain(told).collect()).await?;
    let mut w = store.begin().await?;
    let seen = lane::member(&mut w, operation.delivery).await?;
    let seen = seen.ok_or(StoreError::NotFound("delivery"))?;
    let subject = subject_if(&mut w, store.seal(), &seen, true).await?;
    if let Some(key) = &operation.message_key {
        // What was resumed may be refused anew in the same words: that it was known before stops nothing here.
        let (hash, content) = keys::message(store.seal(), key);
        let makes = (seen.referral.as_bytes(), operation.event.id);
        keys::claim_message(&mut w, (&hash, &content), makes, operation.at).await?;
    }
    append_entry(
        &mut w,
        operation.entry,
        &operation.openings,
        subject.as_ref(),
    )
    .await?;
    // Lanes in their order: the one that the sender is told in may come first.
    let told_first = tell
        .as_ref()
        .is_some_and(|tell| tell.endpoint < seen.endpoint);
    if told_first {
        queue_tell(&mut w, &seen, tell.as_ref(), operation.at).await?;
    }
    let (_, was) = lane::held(&mut w, &seen).await?;
    store_all(&mut w, subject.as_ref(), &was, &note).await?;
    let state = match operation.act {
        Act::Park(reason) => {
            if !was.state.blocks_lane() || was.state == DeliveryState::Attempting {
                return Err(StoreError::Stale);
            }
            lane::set_state(&mut w, &was, DeliveryState::Parked, Some(reason)).await?;
            alarms.resolve(AlarmKind::UrgentHeld, was.id);
            alarms.resolve(AlarmKind::EvidenceOverdue, was.id);
            lane::leave(&mut w, (&cause, &mut alarms), &was, DeliveryState::Parked).await?;
            DeliveryState::Parked
        }
        Act::Resume => {
            let times = (operation.at, operation.deadline);
            resume_group(&mut w, (&cause, &mut alarms), &was, times).await?
        }
    };
    if !told_first {
        queue_tell(&mut w, &seen, tell.as_ref(), operation.at).await?;
    }
    let happened = Happened {
        event: &operation.event,
        referral: was.referral,
        at: operation.at,
        delivery: Some((state, was.evidence)),
    };
    insert_events(&mut w, &[happened]).await?;
    alarms.apply(&mut w, operation.at).await?;
    w.commit().await?;
    store.work_was_added();
    Ok(())
}

/// Resumes a delivery and what was parked behind it alone, in their order. `Stale` while an earlier message of the
/// same referral is parked: nothing overtakes it.
async fn resume_group(
    w: &mut Write,
    (cause, alarms): (&Cause, &mut Alarms),
    first: &Member,
    times: (Timestamp, Timestamp),
) -> Result<DeliveryState, StoreError> {
    if first.state != DeliveryState::Parked {
        return Err(StoreError::Stale);
    }
    let before: i64 = sqlx::query_scalar(PARKED_BEFORE)
        .bind(first.referral.as_bytes().as_slice())
        .bind(first.endpoint.as_str())
        .bind(first.subject.as_bytes().as_slice())
        .bind(first.queued.as_ms())
        .bind(first.lane_seq)
        .bind(first.id.as_bytes().as_slice())
        .fetch_one(w.conn())
        .await
        .map_err(sql)?;
    if before > 0 {
        return Err(StoreError::Stale);
    }
    let after = sqlx::query(PARKED_AFTER)
        .bind(first.referral.as_bytes().as_slice())
        .bind(first.endpoint.as_str())
        .bind(first.subject.as_bytes().as_slice())
        .bind(first.queued.as_ms())
        .bind(first.lane_seq)
        .bind(first.id.as_bytes().as_slice())
        .bind(FOLLOWERS_MAX)
        .fetch_all(w.conn())
        .await
        .map_err(sql)?;
    let state = resume(w, alarms, first, times).await?;
    for row in &after {
        let id = Fields::new(row, "delivery", "id").id("id", DeliveryId::from_bytes)?;
        let Some(later) = lane::member(w, id).await? else {
            continue;
        };
        if later.parked != Some(ParkReason::Behind) {
            break;
        }
        let state = resume(w, alarms, &later, times).await?;
        follow::record(w, cause, (first, &later), (state, "resumed_behind")).await?;
    }
    Ok(state)
}

async fn resume(
    w: &mut Write,
    alarms: &mut Alarms,
    parked: &Member,
    (at, deadline): (Timestamp, Timestamp),
) -> Result<DeliveryState, StoreError> {
    let state = resumed_state(w, parked).await?;
    sqlx::query(RESUME)
        .bind(parked.id.as_bytes().as_slice())
        .bind(state.as_str())
        .bind(at.as_ms())
        .bind(deadline.as_ms())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    w.count_move(parked.state, state);
    alarms.resolve(AlarmKind::Parked, parked.id);
    lane::enter(w, alarms, parked, (at, at)).await?;
    Ok(state)
}

/// What an attempt of unknown end may have left stays unknown, whatever was found out about others since, and however long
/// a person thought about it.
async fn resumed_state(w: &mut Write, parked: &Member) -> Result<DeliveryState, StoreError> {
    let row = sqlx::query(ATTEMPTS)
        .bind(parked.id.as_bytes().as_slice())
        .fetch_one(w.conn())
        .await
        .map_err(sql)?;
    let row = Fields::new(&row, "attempt", "attempts");
    let (attempts, unknown): (i64, i64) = (row.int("attempts")?, row.int("unknown")?);
    Ok(match (attempts, unknown) {
        (0, _) => DeliveryState::Queued,
        (_, 0) => DeliveryState::RetryWait,
        _ => DeliveryState::Unknown,
    })
}
