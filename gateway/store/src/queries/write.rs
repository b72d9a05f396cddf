//! What every write is made of. Locks are taken in the order that the crate's first page names.

use std::collections::BTreeMap;

use sqlx::Transaction;
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::audit::{ENTRY_BYTES_MAX, EntryDraft, LogEntry, leaf_hash};
use waymark_core::delivery::{DeliveryState, Evidence, Kind};
use waymark_core::id::{AgencyId, EndpointId, EventId, ReferralId, ServiceId, StreamId, SubjectId};
use waymark_core::leg::{LegState, Reception};
use waymark_core::port::{NewDelivery, NewEvent, Opening, StoreError};
use waymark_core::time::Timestamp;

use super::super::Turn;
use super::insert::{Connection, insert};
use super::row::Fields;
use super::{COUNTER_SHARDS, Db};
use crate::error::{Fault, commit, internal, sql};
use crate::seal::{Place, Seal, Subject, sortable_id};

/// Counts referrals accepted.
pub(super) const REFERRALS: &str = "referrals";
/// Counts deliveries queued.
pub(super) const DELIVERIES: &str = "deliveries";
/// A lane whose head was never attempted.
pub(super) const CLASS_FRESH: i64 = 0;
/// A lane whose head was.
pub(super) const CLASS_RETRY: i64 = 1;

/// The counter of deliveries in a state.
pub(super) fn state_counter(state: DeliveryState) -> String {
    format!("delivery.{state}")
}

/// One transaction that writes. Dropped without [`Write::commit`], it rolls back.
pub(super) struct Write {
    tx: Transaction<'static, Db>,
    counts: BTreeMap<String, i64>,
    /// What they were at the savepoint.
    saved: BTreeMap<String, i64>,
    shard: i64,
    /// Given back after the connection; the committer's own writes need none.
    turn: Option<Turn>,
}

impl Write {
    /// Wraps a transaction.
    pub(super) fn new(tx: Transaction<'static, Db>, turn: i64) -> Self {
        Self {
            tx,
            counts: BTreeMap::new(),
            saved: BTreeMap::new(),
            shard: turn.rem_euclid(COUNTER_SHARDS),
            turn: None,
        }
    }

    /// Holds a turn until the transaction ended.
    pub(super) fn in_turn(mut self, turn: Turn) -> Self {
        self.turn = Some(turn);
        self
    }

    /// The connection that the transaction has.
    pub(super) fn conn(&mut self) -> &mut Connection {
        &mut self.tx
    }

    /// Moves a counter; written in one statement at commit, so that its row is locked last and shortest.
    pub(super) fn bump(&mut self, name: impl Into<String>, by: i64) {
        *self.counts.entry(name.into()).or_default() += by;
    }

    /// Moves a delivery's state in the counters.
    pub(super) fn count_move(&mut self, from: DeliveryState, to: DeliveryState) {
        self.bump(state_counter(from), -1);
        self.bump(state_counter(to), 1);
    }

    /// Sets the savepoint of one of several steps, which [`Write::keep_step`] or [`Write::undo_step`] ends.
    pub(super) async fn begin_step(&mut self) -> Result<(), StoreError> {
        self.saved.clone_from(&self.counts);
        self.run(SAVE).await
    }

    /// Keeps what was written since the savepoint.
    pub(super) async fn keep_step(&mut self) -> Result<(), StoreError> {
        self.run(KEEP).await
    }

    /// Undoes what was written since the savepoint, and nothing else.
    pub(super) async fn undo_step(&mut self) -> Result<(), StoreError> {
        self.counts = std::mem::take(&mut self.saved);
        self.run(UNDO).await?;
        self.run(KEEP).await
    }

    async fn run(&mut self, statement: &'static str) -> Result<(), StoreError> {
        let done = sqlx::query(statement).execute(self.conn()).await;
        done.map(drop).map_err(sql)
    }

    /// Commits: an error leaves the outcome unknown, and the same call is safe to repeat.
    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        let counts: Vec<(String, i64)> = std::mem::take(&mut self.counts)
            .into_iter()
            .filter(|(_, by)| *by != 0)
            .collect();
        let shard = self.shard;
        insert(self.conn(), COUNT, &counts, |row, (name, by)| {
            row.push_bind(name.as_str()).push_bind(shard).push_bind(*by);
        })
        .await?;
        self.tx.commit().await.map_err(commit)
    }
}

impl Write {
    /// Ends the write as its result says. Rolling back here, and not when the write is dropped, gives its locks back
    /// before the caller goes on: a dropped one gives them back a moment later, and what skips locked rows would
    /// skip these.
    pub(super) async fn end<T>(self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match result {
            Ok(value) => self.commit().await.map(|()| value),
            Err(error) => {
                // The connection may be gone; then the database rolls back by itself.
                self.tx.rollback().await.ok();
                Err(error)
            }
        }
    }
}

const SAVE: &str = "SAVEPOINT step";
const KEEP: &str = "RELEASE SAVEPOINT step";
const UNDO: &str = "ROLLBACK TO SAVEPOINT step";
const COUNT: (&str, &str) = (
    "INSERT INTO counter (name, shard, value)",
    "ON CONFLICT (name, shard) DO UPDATE SET value = counter.value + excluded.value",
);

/// A log entry as stored.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    /// Its leaf hash.
    pub(super) hash: [u8; 32],
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// Its id.
    pub(super) event: EventId,
    /// Its kind's number.
    pub(super) kind: i64,
    /// When it happened.
    pub(super) at: Timestamp,
    /// Its stream.
    pub(super) stream: StreamId,
}

impl Leaf {
    /// Encodes an entry; one over the limit is refused, never cut.
    pub(super) fn of(entry: &LogEntry) -> Result<Self, StoreError> {
        let bytes = entry.encode();
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(internal(Fault::EntryTooLong(bytes.len())));
        }
        Ok(Self {
            hash: leaf_hash(&bytes),
            bytes,
            event: entry.event,
            kind: i64::from(entry.kind.number()),
            at: entry.at,
            stream: entry.stream,
        })
    }
}

/// Takes the next place in the stream's chain; the upsert locks its row until the transaction ends.
const NEXT_IN_STREAM: &str = "INSERT INTO log_stream (stream_id, next_seq, prev_leaf) VALUES ($1, 1, NULL) \
     ON CONFLICT (stream_id) DO UPDATE SET next_seq = log_stream.next_seq + 1 \
     RETURNING stream_id, next_seq - 1 AS seq, prev_leaf";
const CHAIN: &str = "UPDATE log_stream SET prev_leaf = $2 WHERE stream_id = $1";
const OUTBOX: (&str, &str) = ("INSERT INTO log_outbox (event_id, kind, at_ms, entry)", "");
const OPENINGS: (&str, &str) = (
    "INSERT INTO log_opening (event_id, tag, subject_id, sealed)",
    "",
);

/// Appends an entry to its stream: it reaches the log by the outbox. Its salts are sealed under `subject`, without
/// which there may be none.
pub(super) async fn append_entry(
    w: &mut Write,
    draft: EntryDraft,
    openings: &[Opening],
    subject: Option<&Subject>,
) -> Result<Leaf, StoreError> {
    let place = sqlx::query(NEXT_IN_STREAM)
        .bind(draft.stream.as_bytes().as_slice())
        .fetch_one(w.conn())
        .await
        .map_err(sql)?;
    let place = Fields::new(&place, "log_stream", "stream_id");
    let leaf = Leaf::of(&draft.placed(place.int("seq")?, place.opt_fixed("prev_leaf")?))?;
    sqlx::query(CHAIN)
        .bind(leaf.stream.as_bytes().as_slice())
        .bind(leaf.hash.as_slice())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    insert_leaves(w, &[&leaf]).await?;
    match subject {
        Some(subject) => {
            let sealed = seal_openings(leaf.event, openings, subject)?;
            insert_openings(w, &sealed).await?;
        }
        None if openings.is_empty() => {}
        None => return Err(internal(Fault::OpeningsWithoutSubject)),
    }
    Ok(leaf)
}

/// Puts entries into the outbox.
pub(super) async fn insert_leaves(w: &mut Write, leaves: &[&Leaf]) -> Result<(), StoreError> {
    insert(w.conn(), OUTBOX, leaves, |row, leaf| {
        row.push_bind(leaf.event.as_bytes().as_slice())
            .push_bind(leaf.kind)
            .push_bind(leaf.at.as_ms())
            .push_bind(leaf.bytes.as_slice());
    })
    .await?;
    Ok(())
}

/// A salt, sealed.
pub(super) struct SealedOpening {
    event: EventId,
    tag: i64,
    subject: SubjectId,
    sealed: Vec<u8>,
}

/// The row key of a salt: its event and its tag.
pub(super) fn opening_row(event: EventId, tag: i64) -> Vec<u8> {
    let mut row = event.as_bytes().to_vec();
    row.extend_from_slice(&tag.to_be_bytes());
    row
}

/// Where a salt lives.
pub(super) const fn opening_place(row: &[u8]) -> Place<'_> {
    Place {
        table: "log_opening",
        row,
        column: "sealed",
    }
}

/// Seals an entry's salts.
pub(super) fn seal_openings(
    event: EventId,
    openings: &[Opening],
    subject: &Subject,
) -> Result<Vec<SealedOpening>, StoreError> {
    openings
        .iter()
        .map(|opening| {
            let tag = i64::from(opening.tag.number());
            let row = opening_row(event, tag);
            let sealed = subject.key.seal(opening_place(&row), &opening.salt)?;
            Ok(SealedOpening {
                event,
                tag,
                subject: subject.id,
                sealed,
            })
        })
        .collect()
}

/// Stores sealed salts.
pub(super) async fn insert_openings(
    w: &mut Write,
    openings: &[SealedOpening],
) -> Result<(), StoreError> {
    insert(w.conn(), OPENINGS, openings, |row, opening| {
        row.push_bind(opening.event.as_bytes().as_slice())
            .push_bind(opening.tag)
            .push_bind(opening.subject.as_bytes().as_slice())
            .push_bind(opening.sealed.as_slice());
    })
    .await?;
    Ok(())
}

/// A delivery to queue, with what it inherits from its referral.
#[derive(Clone, Copy)]
pub(super) struct Queued<'a> {
    /// The delivery.
    pub(super) delivery: &'a NewDelivery,
    /// Its referral.
    pub(super) referral: ReferralId,
    /// Whose child: with the endpoint, the lane.
    pub(super) subject: SubjectId,
    /// Trace context of the submitting call.
    pub(super) traceparent: Option<&'a str>,
    /// When.
    pub(super) at: Timestamp,
}

/// The update takes the lane's row lock, so that a completion cannot drop the lane unseen.
const LANES: (&str, &str) = (
    "INSERT INTO lane (endpoint_id, subject_id, head_id, class, due_ms, queued_ms, last_seq, fence, worker)",
    "ON CONFLICT (endpoint_id, subject_id) DO UPDATE SET last_seq = lane.last_seq + excluded.last_seq \
     RETURNING endpoint_id, subject_id, last_seq",
);
const DELIVERY: (&str, &str) = (
    "INSERT INTO delivery (id, referral_id, leg_id, kind, endpoint_id, recipient, service, subject_id, wire_id, version, \
     content_body, note_body, rendered_body, state, evidence, parked, attempts, failures, soft_rejects, unfinished, \
     due_ms, deadline_ms, evidence_due_ms, urgent, followed, lane_seq, queued_ms, replaces, receiver_reference, traceparent)",
    "",
);
const WIRE: (&str, &str) = ("INSERT INTO wire (wire_id, delivery_id)", "");

/// Queues deliveries, each at the end of its lane, those of one lane in the order given.
pub(super) async fn queue(w: &mut Write, queued: &[Queued<'_>]) -> Result<(), StoreError> {
    let mut lanes: BTreeMap<(EndpointId, SubjectId), Vec<&Queued<'_>>> = BTreeMap::new();
    for q in queued {
        lanes
            .entry((q.delivery.endpoint.clone(), q.subject))
            .or_default()
            .push(q);
    }
    let heads: Vec<(&Queued<'_>, i64)> = lanes
        .values()
        .filter_map(|lane| Some((*lane.first()?, i64::try_from(lane.len()).ok()?)))
        .collect();
    let rows = insert(w.conn(), LANES, &heads, |row, (head, length)| {
        row.push_bind(head.delivery.endpoint.as_str())
            .push_bind(head.subject.as_bytes().as_slice())
            .push_bind(head.delivery.id.as_bytes().as_slice())
            .push_bind(CLASS_FRESH)
            .push_bind(head.delivery.due.as_ms())
            .push_bind(head.at.as_ms())
            .push_bind(*length)
            .push_bind(0_i64)
            .push_bind(None::<&[u8]>);
    })
    .await?;
    let mut placed: Vec<(&Queued<'_>, i64)> = Vec::with_capacity(queued.len());
    for row in &rows {
        let row = Fields::new(row, "lane", "subject_id");
        let key = (
            row.code("endpoint_id")?,
            row.id("subject_id", SubjectId::from_bytes)?,
        );
        let lane = lanes
            .remove(&key)
            .ok_or_else(|| row.corrupt("endpoint_id"))?;
        let last: i64 = row.int("last_seq")?;
        placed.extend(
            lane.into_iter()
                .rev()
                .zip(0..)
                .map(|(q, back)| (q, last - back)),
        );
    }
    if !lanes.is_empty() {
        return Err(internal(Fault::Missing("a lane just made")));
    }
    placed.sort_by_key(|(q, _)| q.delivery.id);
    insert_deliveries_at(w, &placed).await?;
    let count = i64::try_from(placed.len()).map_err(internal)?;
    w.bump(DELIVERIES, count);
    w.bump(state_counter(DeliveryState::Queued), count);
    Ok(())
}

async fn insert_deliveries_at(
    w: &mut Write,
    placed: &[(&Queued<'_>, i64)],
) -> Result<(), StoreError> {
    insert(w.conn(), DELIVERY, placed, |row, (q, seq)| {
        let d = q.delivery;
        row.push_bind(d.id.as_bytes().as_slice())
            .push_bind(q.referral.as_bytes().as_slice())
            .push_bind(d.leg.as_ref().map(|id| id.as_bytes().as_slice()))
            .push_bind(d.kind.as_str())
            .push_bind(d.endpoint.as_str())
            .push_bind(d.recipient.as_str())
            .push_bind(d.service.as_ref().map(ServiceId::as_str))
            .push_bind(q.subject.as_bytes().as_slice())
            .push_bind(d.wire_id.as_str())
            .push_bind(i64::try_from(d.version).unwrap_or(i64::MAX))
            .push_bind(d.content.as_ref().map(|id| id.as_bytes().as_slice()))
            .push_bind(d.note.as_ref().map(|id| id.as_bytes().as_slice()))
            .push_bind(None::<&[u8]>)
            .push_bind(DeliveryState::Queued.as_str())
            .push_bind(Evidence::None.as_str())
            .push_bind(None::<&str>);
        for _ in ["attempts", "failures", "soft_rejects", "unfinished"] {
            row.push_bind(0_i64);
        }
        row.push_bind(d.due.as_ms())
            .push_bind(d.deadline.as_ms())
            .push_bind(None::<i64>)
            .push_bind(i64::from(d.urgent))
            .push_bind(i64::from(d.kind == Kind::New && d.leg.is_some()))
            .push_bind(*seq)
            .push_bind(q.at.as_ms())
            .push_bind(d.replaces.as_ref().map(|id| id.as_bytes().as_slice()))
            .push_bind(None::<&str>)
            .push_bind(q.traceparent);
    })
    .await?;
    insert(w.conn(), WIRE, placed, |row, (q, _)| {
        row.push_bind(q.delivery.wire_id.as_str())
            .push_bind(q.delivery.id.as_bytes().as_slice());
    })
    .await?;
    Ok(())
}

const MORE_DELIVERIES: &str =
    "UPDATE referral SET delivery_count = delivery_count + $2 WHERE id = $1";

/// Queues deliveries of a referral after its accept. Locks the referral's row: call it, or lock the row, before
/// locking lanes.
pub(super) async fn insert_deliveries(
    w: &mut Write,
    (referral, subject): (ReferralId, SubjectId),
    deliveries: &[NewDelivery],
    traceparent: Option<&str>,
    at: Timestamp,
) -> Result<(), StoreError> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let count = i64::try_from(deliveries.len()).map_err(internal)?;
    let counted = sqlx::query(MORE_DELIVERIES)
        .bind(referral.as_bytes().as_slice())
        .bind(count)
        .execute(w.conn())
        .await
        .map_err(sql)?;
    if counted.rows_affected() != 1 {
        return Err(StoreError::NotFound("referral"));
    }
    let queued: Vec<Queued<'_>> = deliveries
        .iter()
        .map(|delivery| Queued {
            delivery,
            referral,
            subject,
            traceparent,
            at,
        })
        .collect();
    queue(w, &queued).await
}

/// An event with what it inherits.
#[derive(Clone, Copy)]
pub(super) struct Happened<'a> {
    /// The event.
    pub(super) event: &'a NewEvent,
    /// Its referral.
    pub(super) referral: ReferralId,
    /// When.
    pub(super) at: Timestamp,
    /// The delivery's state and evidence after it.
    pub(super) delivery: Option<(DeliveryState, Evidence)>,
}

const EVENT: (&str, &str) = (
    "INSERT INTO event (id, referral_id, leg_id, delivery_id, at_ms, kind, source, source_version, state, reception, \
     code, text_body, delivery_state, evidence)",
    "",
);

/// Records events that the parties are shown.
pub(super) async fn insert_events(
    w: &mut Write,
    events: &[Happened<'_>],
) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(events.len());
    for happened in events {
        let version = happened.event.source_version.map(i64::try_from).transpose();
        rows.push((
            happened,
            version.map_err(|_| internal(Fault::Number("source_version")))?,
        ));
    }
    insert(w.conn(), EVENT, &rows, |row, (h, version)| {
        let e = h.event;
        row.push_bind(e.id.as_bytes().as_slice())
            .push_bind(h.referral.as_bytes().as_slice())
            .push_bind(e.leg.as_ref().map(|id| id.as_bytes().as_slice()))
            .push_bind(e.delivery.as_ref().map(|id| id.as_bytes().as_slice()))
            .push_bind(h.at.as_ms())
            .push_bind(e.kind.as_str())
            .push_bind(e.source.as_str())
            .push_bind(*version)
            .push_bind(e.state.map(LegState::as_str))
            .push_bind(e.reception.map(Reception::as_str))
            .push_bind(e.code.as_str())
            .push_bind(e.text.as_ref().map(|id| id.as_bytes().as_slice()))
            .push_bind(h.delivery.map(|(state, _)| state.as_str()))
            .push_bind(h.delivery.map(|(_, evidence)| evidence.as_str()));
    })
    .await?;
    Ok(())
}

const OPEN_ALARM: (&str, &str) = (
    "INSERT INTO alarm (id, kind, subject, owner, role, text, opened_ms, resolved_ms)",
    "ON CONFLICT (kind, subject) WHERE resolved_ms IS NULL DO NOTHING RETURNING id",
);
const RESOLVE_ALARM: &str =
    "UPDATE alarm SET resolved_ms = $3 WHERE kind = $1 AND subject = $2 AND resolved_ms IS NULL";

/// Opens alarms that are not open yet; answers how many are new.
pub(super) async fn open_alarms(
    w: &mut Write,
    alarms: &[(&NewAlarm, Timestamp)],
) -> Result<usize, StoreError> {
    let mut rows = Vec::with_capacity(alarms.len());
    for (alarm, at) in alarms {
        rows.push((sortable_id(*at)?, *alarm, *at));
    }
    rows.sort_by(|(_, a, _), (_, b, _)| (a.kind, &a.subject).cmp(&(b.kind, &b.subject)));
    let opened = insert(w.conn(), OPEN_ALARM, &rows, |row, (id, alarm, at)| {
        row.push_bind(id.as_slice())
            .push_bind(alarm.kind.as_str())
            .push_bind(alarm.subject.as_str())
            .push_bind(alarm.owner.as_str())
            .push_bind(alarm.role.as_str())
            .push_bind(alarm.text.as_str())
            .push_bind(at.as_ms())
            .push_bind(None::<i64>);
    })
    .await?;
    Ok(opened.len())
}

/// Resolves alarms that are open.
pub(super) async fn resolve_alarms(
    w: &mut Write,
    alarms: &[(AlarmKind, String)],
    at: Timestamp,
) -> Result<(), StoreError> {
    let mut sorted: Vec<&(AlarmKind, String)> = alarms.iter().collect();
    sorted.sort();
    for (kind, subject) in sorted {
        sqlx::query(RESOLVE_ALARM)
            .bind(kind.as_str())
            .bind(subject.as_str())
            .bind(at.as_ms())
            .execute(w.conn())
            .await
            .map_err(sql)?;
    }
    Ok(())
}

/// The kinds of keys that a referral is found by.
pub(super) mod key_kind {
    /// The sender's own.
    pub(in super::super) const SENDER: &str = "sender";
    /// The receiver's own.
    pub(in super::super) const RECEIVER: &str = "receiver";
}

/// The keyed hash of a receiver's own reference.
pub(super) fn receiver_hash(seal: &Seal, agency: &AgencyId, reference: &str) -> [u8; 32] {
    seal.keyed(
        "referral_key.receiver",
        &[agency.as_str().as_bytes(), reference.as_bytes()],
    )
}

const RECEIVER_KEY: &str = "INSERT INTO referral_key (kind, hash, content_hash, referral_id) VALUES ($1, $2, NULL, $3) \
     ON CONFLICT (kind, hash) DO NOTHING";

/// Notes a receiver's own reference, to find the referral by later; the first referral under it keeps it.
pub(super) async fn note_receiver_reference(
    w: &mut Write,
    seal: &Seal,
    referral: ReferralId,
    (agency, reference): (&AgencyId, &str),
) -> Result<(), StoreError> {
    sqlx::query(RECEIVER_KEY)
        .bind(key_kind::RECEIVER)
        .bind(receiver_hash(seal, agency, reference).as_slice())
        .bind(referral.as_bytes().as_slice())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(())
}
