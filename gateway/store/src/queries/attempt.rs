//! One attempt: what it sends, its opening and its end.

use waymark_core::audit::EntryDraft;
use waymark_core::delivery::{DeliveryState, Kind, Next, ParkReason, Why};
use waymark_core::error::Fault as WhoseFault;
use waymark_core::id::{BodyId, DeliveryId, ReferralId};
use waymark_core::personal::Payload;
use waymark_core::port::{
    CloseAttempt, DeliveryContent, LeaseToken, Leased, LegChange, NewBody, NewDelivery, NewEvent,
    OpenAttempt, Opening, Rendered, StoreError,
};
use waymark_core::time::Timestamp;

use super::follow::{Alarms, Cause};
use super::insert::Connection;
use super::lane::{self, Member};
use super::row::Fields;
use super::subject::{OpenedBody, SealedBody, load_subject, open_body, seal_bodies, store_bodies};
use super::write::{
    Happened, Write, append_entry, insert_deliveries, insert_events, note_receiver_reference,
};
use super::{Backend, change, group};
use crate::error::{internal, sql};
use crate::seal::{Seal, Subject};

const BODIES: &str = "SELECT d.id, d.content_body, d.note_body, d.rendered_body,
    CASE WHEN d.kind = 'status' AND d.rendered_body IS NULL THEN r.content_body END AS told_body
    FROM delivery d JOIN referral r ON r.id = d.referral_id WHERE d.id = $1";
const CONVERSATION: &str = "SELECT id, conversation_body FROM referral WHERE id = $1";
const OPEN: &str = "UPDATE delivery SET state = 'attempting', attempts = attempts + 1, unfinished = unfinished + 1,
    rendered_body = COALESCE(rendered_body, $2) WHERE id = $1";
const OPENED: &str =
    "INSERT INTO attempt (delivery_id, number, opened_ms, closed_ms, outcome, why_code, why_text,
    evidence, receipt_body) VALUES ($1, $2, $3, NULL, NULL, NULL, NULL, NULL, NULL)";
// From now on the lane is one of retries: its lease may expire.
const ATTEMPTED: &str =
    "UPDATE lane SET class = 1 WHERE endpoint_id = $1 AND subject_id = $2 AND head_id = $3";
const CLOSE: &str = "UPDATE delivery SET state = $2, evidence = $3, parked = $4, due_ms = $5, failures = $6,
    soft_rejects = $7, unfinished = 0, evidence_due_ms = $8, receiver_reference = COALESCE($9, receiver_reference)
    WHERE id = $1";
const CLOSED: &str =
    "UPDATE attempt SET closed_ms = $3, outcome = $4, why_code = $5, why_text = $6, evidence = $7,
    receipt_body = $8, fault = $9 WHERE delivery_id = $1 AND number = $2 AND closed_ms IS NULL";
const WAIT: &str = "UPDATE lane SET class = 1, due_ms = $4, worker = NULL, fence = fence + 1
    WHERE endpoint_id = $1 AND subject_id = $2 AND head_id = $3";
const REFERRAL: &str = locked!("SELECT id FROM referral WHERE id = $1");
const REOPEN: &str =
    "UPDATE leg SET state = $2, owner_agency = $3, owner_role = $4, clock = $5, next_action = $6
    WHERE referral_id = $7 AND id = $1 AND state IN ('cancelled', 'entered_in_error')";
const MOVED_ON: &str = "UPDATE referral SET version = version + 1 WHERE id = $1";
const TRACE: &str = "SELECT id, traceparent FROM delivery WHERE id = $1";

/// Opens what a delivery renders from, and its bytes once there are any.
pub(super) async fn content(
    store: &Backend,
    leased: &Leased,
) -> Result<DeliveryContent, StoreError> {
    let mut conn = store.read().await?;
    let row = sqlx::query(BODIES)
        .bind(leased.token.delivery.as_bytes().as_slice())
        .fetch_optional(&mut *conn)
        .await
        .map_err(sql)?;
    let row = row.ok_or(StoreError::NotFound("delivery"))?;
    let row = Fields::new(&row, "delivery", "id");
    let content = opened(
        store,
        &mut conn,
        row.opt_id("content_body", BodyId::from_bytes)?,
    )
    .await?;
    let content = match (content, row.opt_id("told_body", BodyId::from_bytes)?) {
        // A status is told without what is erased.
        (None, Some(told)) => open_body(&mut conn, store.seal(), told).await?,
        (content, _) => content,
    };
    let note = opened(
        store,
        &mut conn,
        row.opt_id("note_body", BodyId::from_bytes)?,
    )
    .await?;
    let bytes = opened(
        store,
        &mut conn,
        row.opt_id("rendered_body", BodyId::from_bytes)?,
    )
    .await?;
    let conversation = match leased.kind {
        Kind::Status => conversation(store, &mut conn, leased.referral).await?,
        _ => None,
    };
    Ok(DeliveryContent {
        conversation,
        content: content.map(|body| body.bytes),
        note: note.map(|body| body.bytes),
        rendered: bytes.map(|body| Rendered {
            media_type: body.media_type,
            bytes: body.bytes,
        }),
    })
}

async fn conversation(
    store: &Backend,
    conn: &mut Connection,
    referral: ReferralId,
) -> Result<Option<Payload>, StoreError> {
    let row = sqlx::query(CONVERSATION)
        .bind(referral.as_bytes().as_slice())
        .fetch_optional(&mut *conn)
        .await
        .map_err(sql)?;
    let row = row.ok_or(StoreError::NotFound("referral"))?;
    let body =
        Fields::new(&row, "referral", "id").opt_id("conversation_body", BodyId::from_bytes)?;
    Ok(opened(store, conn, body).await?.map(|body| body.bytes))
}

async fn opened(
    store: &Backend,
    conn: &mut Connection,
    id: Option<BodyId>,
) -> Result<Option<OpenedBody>, StoreError> {
    let Some(id) = id else { return Ok(None) };
    let body = open_body(conn, store.seal(), id).await?;
    // Named by the delivery and not there: erased, or deleted by hand.
    body.ok_or(StoreError::NotFound("body")).map(Some)
}

/// What a worker records of an attempt, with all that can be made before the transaction.
pub(super) enum Step {
    /// It begins.
    Open(Box<Open>),
    /// It ended.
    Close(Box<Close>),
}

impl Step {
    /// Writes it.
    pub(super) async fn take(self, w: &mut Write, seal: &Seal) -> Result<(), StoreError> {
        match self {
            Self::Open(open) => open.take(w, seal).await,
            Self::Close(close) => close.take(w, seal).await,
        }
    }
}

/// Opens an attempt; the first one stores the bytes that every later one sends.
pub(super) async fn open(store: &Backend, open: OpenAttempt) -> Result<(), StoreError> {
    let (rendered, body) = match open.rendered {
        Some((id, Rendered { media_type, bytes })) => {
            let body = NewBody {
                id,
                media_type,
                bytes,
            };
            (Some(id), seal_bodies(vec![body]).await?)
        }
        None => (None, Vec::new()),
    };
    let open = Open {
        token: open.token,
        number: open.number,
        at: open.at,
        rendered,
        body,
        entry: open.entry,
        openings: open.openings,
    };
    group::write(store, Step::Open(Box::new(open))).await
}

/// An attempt that begins.
pub(super) struct Open {
    token: LeaseToken,
    number: u32,
    at: Timestamp,
    rendered: Option<BodyId>,
    body: Vec<SealedBody>,
    entry: EntryDraft,
    openings: Vec<Opening>,
}

impl Open {
    async fn take(self, w: &mut Write, seal: &Seal) -> Result<(), StoreError> {
        let seen = known(w, self.token.delivery).await?;
        let seals = !self.body.is_empty() || !self.openings.is_empty();
        let subject = subject_if(w, seal, &seen, seals).await?;
        append_entry(w, self.entry, &self.openings, subject.as_ref()).await?;
        let now = lane::leased(w, &self.token, &seen).await?;
        let may = now.state.blocks_lane() && now.state != DeliveryState::AwaitingEvidence;
        // Bytes come with the first attempt and with no other.
        if !may
            || now.attempts.checked_add(1) != Some(self.number)
            || now.rendered.is_some() == self.rendered.is_some()
        {
            return Err(StoreError::Stale);
        }
        store_all(w, subject.as_ref(), &now, &self.body).await?;
        sqlx::query(OPEN)
            .bind(now.id.as_bytes().as_slice())
            .bind(self.rendered.as_ref().map(|id| id.as_bytes().as_slice()))
            .execute(w.conn())
            .await
            .map_err(sql)?;
        sqlx::query(OPENED)
            .bind(now.id.as_bytes().as_slice())
            .bind(i64::from(self.number))
            .bind(self.at.as_ms())
            .execute(w.conn())
            .await
            .map_err(sql)?;
        sqlx::query(ATTEMPTED)
            .bind(now.endpoint.as_str())
            .bind(now.subject.as_bytes().as_slice())
            .bind(now.id.as_bytes().as_slice())
            .execute(w.conn())
            .await
            .map_err(sql)?;
        w.count_move(now.state, DeliveryState::Attempting);
        Ok(())
    }
}

/// Records how an attempt ended, where the delivery goes, and what its lane does then.
pub(super) async fn close(store: &Backend, close: CloseAttempt) -> Result<(), StoreError> {
    let end = End {
        number: close.number,
        at: close.at,
        next: close.next,
        outcome: close.outcome,
        why: close.why,
        fault: close.fault,
        evidence_due: close.evidence_due,
        receiver_reference: close.receiver_reference,
        receipt: close.receipt.as_ref().map(|body| body.id),
    };
    let (told, tell) = close.tell.unzip();
    let close = Close {
        token: close.token,
        end,
        bodies: seal_bodies(close.receipt.into_iter().chain(told).collect()).await?,
        tell,
        reopen: close.reopen,
        event: close.event,
        alarms: Alarms::new(close.alarms, close.resolve),
        entry: close.entry,
        openings: close.openings,
    };
    group::write(store, Step::Close(Box::new(close))).await?;
    store.work_was_added();
    Ok(())
}

/// An attempt that ended.
pub(super) struct Close {
    token: LeaseToken,
    end: End,
    bodies: Vec<SealedBody>,
    tell: Option<NewDelivery>,
    reopen: Option<LegChange>,
    event: Option<NewEvent>,
    alarms: Alarms,
    entry: EntryDraft,
    openings: Vec<Opening>,
}

impl Close {
    async fn take(self, w: &mut Write, seal: &Seal) -> Result<(), StoreError> {
        let (end, mut alarms) = (self.end, self.alarms);
        let cause = Cause::of(&self.entry);
        let seen = known(w, self.token.delivery).await?;
        let seals = !self.bodies.is_empty() || !self.openings.is_empty();
        let subject = subject_if(w, seal, &seen, seals).await?;
        if self.tell.is_some() || self.reopen.is_some() {
            sqlx::query(REFERRAL)
                .bind(seen.referral.as_bytes().as_slice())
                .fetch_optional(w.conn())
                .await
                .map_err(sql)?;
        }
        append_entry(w, self.entry, &self.openings, subject.as_ref()).await?;
        if let Some(leg) = &self.reopen {
            reopen(w, seen.referral, leg).await?;
        }
        if let Some(reference) = &end.receiver_reference {
            let key = (&seen.recipient, reference.as_str());
            note_receiver_reference(w, seal, seen.referral, key).await?;
        }
        // Lanes in their order: the one that the sender is told in may come first.
        let tell = self.tell.as_ref();
        let told_first = tell.is_some_and(|tell| tell.endpoint < seen.endpoint);
        if told_first {
            queue_tell(w, &seen, tell, end.at).await?;
        }
        let now = lane::leased(w, &self.token, &seen).await?;
        store_all(w, subject.as_ref(), &now, &self.bodies).await?;
        let now = end.write(w, now).await?;
        end.settle(w, (&cause, &mut alarms), &now).await?;
        if !told_first {
            queue_tell(w, &seen, tell, end.at).await?;
        }
        if let Some(event) = &self.event {
            let happened = Happened {
                event,
                referral: now.referral,
                at: end.at,
                delivery: Some((now.state, now.evidence)),
            };
            insert_events(w, &[happened]).await?;
        }
        alarms.apply(w, end.at).await
    }
}

/// Gives back a leg whose cancel was refused. The referral moved on: what was decided before is decided anew.
async fn reopen(w: &mut Write, referral: ReferralId, leg: &LegChange) -> Result<(), StoreError> {
    let reopened = sqlx::query(REOPEN)
        .bind(leg.leg.as_bytes().as_slice())
        .bind(leg.state.as_str())
        .bind(leg.owner.agency.as_str())
        .bind(leg.owner.role.as_str())
        .bind(leg.clock.as_deref())
        .bind(leg.next_action.as_deref())
        .bind(referral.as_bytes().as_slice())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    if reopened.rows_affected() == 1 {
        change::follow_leg(w, referral, leg).await?;
        sqlx::query(MOVED_ON)
            .bind(referral.as_bytes().as_slice())
            .execute(w.conn())
            .await
            .map_err(sql)?;
    }
    Ok(())
}

/// How an attempt ended, as its rows keep it.
struct End {
    number: u32,
    at: Timestamp,
    next: Next,
    outcome: &'static str,
    why: Option<Why>,
    fault: Option<WhoseFault>,
    evidence_due: Option<Timestamp>,
    receiver_reference: Option<String>,
    receipt: Option<BodyId>,
}

impl End {
    /// Writes delivery and attempt; answers the delivery as it is then.
    async fn write(&self, w: &mut Write, was: Member) -> Result<Member, StoreError> {
        let state = self.next.state;
        // Evidence never gets worse: better may have come by another way while the attempt was open.
        let evidence = self.next.evidence.max(was.evidence);
        let due = self.next.due.unwrap_or(was.due);
        let awaits = state == DeliveryState::AwaitingEvidence;
        sqlx::query(CLOSE)
            .bind(was.id.as_bytes().as_slice())
            .bind(state.as_str())
            .bind(evidence.as_str())
            .bind(self.next.parked.map(ParkReason::as_str))
            .bind(due.as_ms())
            .bind(i64::from(self.next.failures))
            .bind(i64::from(self.next.soft_rejects))
            .bind(self.evidence_due.filter(|_| awaits).map(Timestamp::as_ms))
            .bind(self.receiver_reference.as_deref())
            .execute(w.conn())
            .await
            .map_err(sql)?;
        w.count_move(was.state, state);
        if self.number > 0 {
            let closed = sqlx::query(CLOSED)
                .bind(was.id.as_bytes().as_slice())
                .bind(i64::from(self.number))
                .bind(self.at.as_ms())
                .bind(self.outcome)
                .bind(self.why.as_ref().map(|why| why.code.as_str()))
                .bind(self.why.as_ref().map(|why| why.text.as_str()))
                .bind(evidence.as_str())
                .bind(self.receipt.as_ref().map(|id| id.as_bytes().as_slice()))
                .bind(self.fault.map(WhoseFault::as_str))
                .execute(w.conn())
                .await
                .map_err(sql)?;
            if closed.rows_affected() != 1 {
                return Err(StoreError::Stale);
            }
        }
        Ok(Member {
            state,
            evidence,
            parked: self.next.parked,
            due,
            ..was
        })
    }

    /// Settles the lane: it waits with its head, or goes on without it.
    async fn settle(
        &self,
        w: &mut Write,
        (cause, alarms): (&Cause, &mut Alarms),
        now: &Member,
    ) -> Result<(), StoreError> {
        let due = match now.state {
            DeliveryState::Attempting => return Err(internal(NoEnd)),
            DeliveryState::AwaitingEvidence => None,
            DeliveryState::Queued
            | DeliveryState::RetryWait
            | DeliveryState::Unknown
            | DeliveryState::Held => Some(self.next.due.unwrap_or(self.at)),
            DeliveryState::Parked
            | DeliveryState::Done
            | DeliveryState::Rejected
            | DeliveryState::Cancelled
            | DeliveryState::Superseded => {
                return lane::leave(w, (cause, alarms), now, now.state).await;
            }
        };
        sqlx::query(WAIT)
            .bind(now.endpoint.as_str())
            .bind(now.subject.as_bytes().as_slice())
            .bind(now.id.as_bytes().as_slice())
            .bind(due.map(Timestamp::as_ms))
            .execute(w.conn())
            .await
            .map_err(sql)?;
        Ok(())
    }
}

/// An attempt was said to end in an attempt.
#[derive(Debug, thiserror::Error)]
#[error("an attempt cannot end as attempting")]
struct NoEnd;

/// A leased delivery as it is before any lock: what does not change of it decides which locks are taken.
async fn known(w: &mut Write, delivery: DeliveryId) -> Result<Member, StoreError> {
    lane::member(w, delivery)
        .await?
        .ok_or(StoreError::LeaseLost)
}

/// The delivery's subject, where there is something to seal.
pub(super) async fn subject_if(
    w: &mut Write,
    seal: &Seal,
    of: &Member,
    needed: bool,
) -> Result<Option<Subject>, StoreError> {
    if !needed {
        return Ok(None);
    }
    let subject = load_subject(w.conn(), seal, of.subject).await?;
    subject.ok_or(StoreError::NotFound("subject")).map(Some)
}

/// Stores bodies of a delivery.
pub(super) async fn store_all(
    w: &mut Write,
    subject: Option<&Subject>,
    of: &Member,
    bodies: &[SealedBody],
) -> Result<(), StoreError> {
    match subject {
        Some(subject) if !bodies.is_empty() => store_bodies(w, subject, of.referral, bodies).await,
        _ => Ok(()),
    }
}

/// Queues what the sender is told, under the trace of the call that submitted the referral.
pub(super) async fn queue_tell(
    w: &mut Write,
    of: &Member,
    tell: Option<&NewDelivery>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let Some(tell) = tell else { return Ok(()) };
    let row = sqlx::query(TRACE)
        .bind(of.id.as_bytes().as_slice())
        .fetch_one(w.conn())
        .await
        .map_err(sql)?;
    let trace = Fields::new(&row, "delivery", "id").opt_text("traceparent")?;
    let of = (of.referral, of.subject);
    insert_deliveries(w, of, std::slice::from_ref(tell), trace.as_deref(), at).await
}
