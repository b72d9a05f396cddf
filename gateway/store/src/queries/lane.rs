//! Lanes: the deliveries of one (endpoint, subject) in accept order. Only the head may be attempted (DESIGN.md
//! rulings 2, 3).
//!
//! Whoever changes a lane holds its row; an accept takes the same row by its upsert. Whoever changes a delivery
//! holds its referral's log stream, because every change appends to it first.

use waymark_core::alarm::AlarmKind;
use waymark_core::delivery::{DeliveryState, Evidence, Kind, ParkReason};
use waymark_core::id::{
    AgencyId, BodyId, DeliveryId, EndpointId, LegId, ReferralId, SubjectId, WireId,
};
use waymark_core::port::{LeaseToken, StoreError};
use waymark_core::time::Timestamp;

use super::follow::take_along;
pub(super) use super::follow::{Alarms, Cause};
use super::row::{Fields, Row};
use super::write::{CLASS_FRESH, CLASS_RETRY, Write};
use crate::error::{Fault, internal, sql};

const MEMBER: &str = "SELECT id, referral_id, leg_id, kind, endpoint_id, recipient, subject_id, wire_id, rendered_body,
    state, evidence, parked, attempts, lane_seq, queued_ms, due_ms FROM delivery WHERE id = $1";
const LOCK: &str = locked!(
    "SELECT endpoint_id, head_id, fence, due_ms, worker FROM lane WHERE endpoint_id = $1 AND subject_id = $2"
);
const FIRST: &str = "SELECT id, state, attempts, urgent, queued_ms, due_ms FROM delivery
    WHERE endpoint_id = $1 AND subject_id = $2
    AND state IN ('queued', 'attempting', 'retry_wait', 'unknown', 'held', 'awaiting_evidence')
    ORDER BY lane_seq, id LIMIT 1";
// A fence is never less than the time in ms, so that it goes on growing when a lane ends and is made again.
const PROMOTE: &str = "UPDATE lane SET head_id = $3, class = $4, due_ms = $5, queued_ms = $6, worker = NULL,
    fence = CASE WHEN fence < $7 THEN $7 ELSE fence + 1 END WHERE endpoint_id = $1 AND subject_id = $2";
const END: &str = "DELETE FROM lane WHERE endpoint_id = $1 AND subject_id = $2";
const CREATE: &str = "INSERT INTO lane (endpoint_id, subject_id, head_id, class, due_ms, queued_ms, last_seq, fence, worker)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL) ON CONFLICT (endpoint_id, subject_id) DO NOTHING";
const MOVE: &str = "UPDATE delivery SET state = $2, parked = $3 WHERE id = $1";
const FIRST_LATER: &str = "SELECT MIN(lane_seq) FROM delivery
    WHERE referral_id = $1 AND endpoint_id = $2 AND subject_id = $3 AND queued_ms > $4
    AND state IN ('queued', 'attempting', 'retry_wait', 'unknown', 'held', 'awaiting_evidence')";
const PLACE: &str = "UPDATE delivery SET lane_seq = $2 WHERE id = $1";
const COUNT_ON: &str =
    "UPDATE lane SET last_seq = $3 WHERE endpoint_id = $1 AND subject_id = $2 AND last_seq < $3";

/// A delivery as its lane sees it.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: DeliveryId,
    pub(super) referral: ReferralId,
    pub(super) leg: Option<LegId>,
    pub(super) kind: Kind,
    pub(super) endpoint: EndpointId,
    pub(super) recipient: AgencyId,
    pub(super) subject: SubjectId,
    pub(super) wire_id: WireId,
    pub(super) rendered: Option<BodyId>,
    pub(super) state: DeliveryState,
    pub(super) evidence: Evidence,
    pub(super) parked: Option<ParkReason>,
    pub(super) attempts: u32,
    pub(super) lane_seq: i64,
    pub(super) queued: Timestamp,
    pub(super) due: Timestamp,
}

impl Member {
    /// Reads a row of `delivery`.
    pub(super) fn read(row: &Row) -> Result<Self, StoreError> {
        let row = Fields::new(row, "delivery", "id");
        Ok(Self {
            id: row.id("id", DeliveryId::from_bytes)?,
            referral: row.id("referral_id", ReferralId::from_bytes)?,
            leg: row.opt_id("leg_id", LegId::from_bytes)?,
            kind: row.word("kind", Kind::parse)?,
            endpoint: row.code("endpoint_id")?,
            recipient: row.code("recipient")?,
            subject: row.id("subject_id", SubjectId::from_bytes)?,
            wire_id: row.code("wire_id")?,
            rendered: row.opt_id("rendered_body", BodyId::from_bytes)?,
            state: row.word("state", DeliveryState::parse)?,
            evidence: row.word("evidence", Evidence::parse)?,
            parked: row.opt_word("parked", ParkReason::parse)?,
            attempts: row.int("attempts")?,
            lane_seq: row.int("lane_seq")?,
            queued: row.at("queued_ms")?,
            due: row.at("due_ms")?,
        })
    }
}

/// A lane's row, locked until the transaction ends.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// Its head.
    pub(super) head: DeliveryId,
    fence: i64,
    /// When it is due; for a leased lane, the lease's end.
    due: Option<Timestamp>,
    leased: bool,
}

/// Takes a lane's row, if the lane stands.
pub(super) async fn lock(
    w: &mut Write,
    endpoint: &EndpointId,
    subject: SubjectId,
) -> Result<Option<Lane>, StoreError> {
    let row = sqlx::query(LOCK)
        .bind(endpoint.as_str())
        .bind(subject.as_bytes().as_slice())
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?;
    row.map(|row| {
        let row = Fields::new(&row, "lane", "head_id");
        Ok(Lane {
            head: row.id("head_id", DeliveryId::from_bytes)?,
            fence: row.int("fence")?,
            due: row.opt_at("due_ms")?,
            leased: !row.is_null("worker")?,
        })
    })
    .transpose()
}

/// Reads a delivery as it is now.
pub(super) async fn member(
    w: &mut Write,
    delivery: DeliveryId,
) -> Result<Option<Member>, StoreError> {
    let row = sqlx::query(MEMBER)
        .bind(delivery.as_bytes().as_slice())
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?;
    row.as_ref().map(Member::read).transpose()
}

/// Takes the lane of a delivery and reads both as they are now.
pub(super) async fn held(
    w: &mut Write,
    seen: &Member,
) -> Result<(Option<Lane>, Member), StoreError> {
    let lane = lock(w, &seen.endpoint, seen.subject).await?;
    let now = member(w, seen.id)
        .await?
        .ok_or(StoreError::NotFound("delivery"))?;
    Ok((lane, now))
}

/// Takes the lane of a lease and checks that the lease still stands; answers the head as it is now.
pub(super) async fn leased(
    w: &mut Write,
    token: &LeaseToken,
    seen: &Member,
) -> Result<Member, StoreError> {
    match held(w, seen).await? {
        (Some(lane), now)
            if lane.leased && lane.head == token.delivery && lane.fence == token.fence =>
        {
            Ok(now)
        }
        _ => Err(StoreError::LeaseLost),
    }
}

/// Sets a delivery's state and moves the counters; the lane is the caller's to settle.
pub(super) async fn set_state(
    w: &mut Write,
    of: &Member,
    to: DeliveryState,
    parked: Option<ParkReason>,
) -> Result<(), StoreError> {
    sqlx::query(MOVE)
        .bind(of.id.as_bytes().as_slice())
        .bind(to.as_str())
        .bind(parked.map(ParkReason::as_str))
        .execute(w.conn())
        .await
        .map_err(sql)?;
    w.count_move(of.state, to);
    Ok(())
}

/// Takes a delivery that no attempt holds out of its lane: cancelled, superseded or parked. `Stale` unless `may`
/// allows it as it is now. Deliveries of several lanes go in the order of their lanes (endpoint, then subject), after
/// the cause's entry was appended.
pub(super) async fn withdraw(
    w: &mut Write,
    (cause, alarms): (&Cause, &mut Alarms),
    delivery: DeliveryId,
    (to, parked): (DeliveryState, Option<ParkReason>),
    may: impl FnOnce(&Member) -> bool,
) -> Result<Member, StoreError> {
    let seen = member(w, delivery)
        .await?
        .ok_or(StoreError::NotFound("delivery"))?;
    let (_, gone) = held(w, &seen).await?;
    if !may(&gone) {
        return Err(StoreError::Stale);
    }
    set_state(w, &gone, to, parked).await?;
    leave(w, (cause, alarms), &gone, to).await?;
    Ok(gone)
}

/// Settles the lane of a delivery that is now in a state that does not block one: what may not go without it is
/// taken along, and if it was the head the next one is. The lane's row is held.
pub(super) async fn leave(
    w: &mut Write,
    (cause, alarms): (&Cause, &mut Alarms),
    gone: &Member,
    to: DeliveryState,
) -> Result<(), StoreError> {
    debug_assert!(
        !to.blocks_lane(),
        "a delivery that blocks its lane has not left it"
    );
    if to.takes_along(Kind::New).is_some() {
        take_along(w, (cause, alarms), gone, to).await?;
    }
    match lock(w, &gone.endpoint, gone.subject).await? {
        Some(lane) if lane.head == gone.id => promote(w, alarms, gone, cause.at).await,
        _ => Ok(()),
    }
}

/// Puts a delivery, already in a state that blocks its lane, back into it. It goes before what was accepted after
/// it, unless that was attempted or is leased.
pub(super) async fn enter(
    w: &mut Write,
    alarms: &mut Alarms,
    back: &Member,
    (due, at): (Timestamp, Timestamp),
) -> Result<(), StoreError> {
    let created = sqlx::query(CREATE)
        .bind(back.endpoint.as_str())
        .bind(back.subject.as_bytes().as_slice())
        .bind(back.id.as_bytes().as_slice())
        .bind(class(back.attempts))
        .bind(due.as_ms())
        .bind(back.queued.as_ms())
        .bind(back.lane_seq)
        .bind(at.as_ms())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    if created.rows_affected() == 1 {
        return Ok(());
    }
    let lane = lock(w, &back.endpoint, back.subject).await?;
    let lane = lane.ok_or_else(|| internal(Fault::Missing("a lane just entered")))?;
    let lane_seq = place_before_later(w, back).await?;
    // What is queued next goes behind it, also where the lane was made again and counts from less.
    sqlx::query(COUNT_ON)
        .bind(back.endpoint.as_str())
        .bind(back.subject.as_bytes().as_slice())
        .bind(lane_seq)
        .execute(w.conn())
        .await
        .map_err(sql)?;
    let head = member(w, lane.head).await?;
    let head = head.ok_or_else(|| internal(Fault::Missing("a lane's head")))?;
    let leased = lane.leased && lane.due.is_some_and(|until| until > at);
    let untouched = head.state == DeliveryState::Queued && head.attempts == 0 && !leased;
    if untouched && (lane_seq, back.id) < (head.lane_seq, head.id) {
        return promote(w, alarms, back, at).await;
    }
    Ok(())
}

/// Keeps a delivery before later ones of its referral: a lane that ended and was made again counts from 1 again, so
/// that a message accepted meanwhile may bear a smaller number.
async fn place_before_later(w: &mut Write, back: &Member) -> Result<i64, StoreError> {
    let first: Option<i64> = sqlx::query_scalar(FIRST_LATER)
        .bind(back.referral.as_bytes().as_slice())
        .bind(back.endpoint.as_str())
        .bind(back.subject.as_bytes().as_slice())
        .bind(back.queued.as_ms())
        .fetch_one(w.conn())
        .await
        .map_err(sql)?;
    match first {
        Some(first) if first <= back.lane_seq => {
            place(w, back.id, first - 1).await?;
            Ok(first - 1)
        }
        _ => Ok(back.lane_seq),
    }
}

/// Gives a delivery its place in its lane.
pub(super) async fn place(w: &mut Write, of: DeliveryId, at: i64) -> Result<(), StoreError> {
    sqlx::query(PLACE)
        .bind(of.as_bytes().as_slice())
        .bind(at)
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(())
}

/// Makes the first live delivery the head, or ends a lane that has none. The lane's row is held.
async fn promote(
    w: &mut Write,
    alarms: &mut Alarms,
    of: &Member,
    at: Timestamp,
) -> Result<(), StoreError> {
    let (endpoint, subject) = (of.endpoint.as_str(), of.subject.as_bytes().as_slice());
    let first = sqlx::query(FIRST)
        .bind(endpoint)
        .bind(subject)
        .fetch_optional(w.conn())
        .await;
    let Some(first) = first.map_err(sql)? else {
        sqlx::query(END)
            .bind(endpoint)
            .bind(subject)
            .execute(w.conn())
            .await
            .map_err(sql)?;
        return Ok(());
    };
    let first = Fields::new(&first, "delivery", "id");
    let id = first.id("id", DeliveryId::from_bytes)?;
    let awaits = first.word("state", DeliveryState::parse)? == DeliveryState::AwaitingEvidence;
    let due = if awaits {
        None
    } else {
        Some(first.at("due_ms")?.as_ms())
    };
    sqlx::query(PROMOTE)
        .bind(endpoint)
        .bind(subject)
        .bind(id.as_bytes().as_slice())
        .bind(class(first.int("attempts")?))
        .bind(due)
        .bind(first.at("queued_ms")?.as_ms())
        .bind(at.as_ms())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    if first.flag("urgent")? {
        alarms.resolve(AlarmKind::UrgentHeld, id);
    }
    Ok(())
}

/// The class of a lane by its head's attempts.
pub(super) const fn class(attempts: u32) -> i64 {
    if attempts == 0 {
        CLASS_FRESH
    } else {
        CLASS_RETRY
    }
}
