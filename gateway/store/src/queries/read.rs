//! Referrals as they are shown. Every list has a limit.

use std::collections::BTreeSet;

use sqlx::QueryBuilder;
use waymark_core::audit::leaf_hash;
use waymark_core::delivery::{DeliveryState, Evidence, Kind, ParkReason};
use waymark_core::id::{
    AgencyId, BodyId, DeliveryId, EventId, LegId, ReferralId, StreamId, SubjectId,
};
use waymark_core::leg::{LegState, Owner, Reception};
use waymark_core::port::{
    Accepted, AcceptedLeg, DeliveryHead, EventKind, EventView, FeedPage, FeedQuery, LegView,
    LogStore as _, NewEvent, NewLeg, ReferralKey, ReferralQuery, ReferralView, StoreError,
    SubjectKey,
};
use waymark_core::referral::{ConsentScope, Priority};

use super::insert::Connection;
use super::row::{Fields, Row};
use super::subject::subject_hash;
use super::write::{key_kind, receiver_hash};
use super::{Backend, Db, keys};
use crate::error::{Fault, internal, sql};

/// Referrals of one page, at most.
pub(super) const PAGE_MAX: u32 = 200;
/// Events of one timeline, at most.
pub(super) const TIMELINE_MAX: u32 = 2_000;
/// Log entries of one window of the feed, at most.
pub(super) const WINDOW_MAX: u32 = 2_000;
/// Legs shown of one referral, oldest first.
const LEGS_MAX: i64 = 200;
/// Deliveries shown of one referral, the newest.
const DELIVERIES_MAX: i64 = 1_000;

macro_rules! referrals {
    ($tail:literal) => {
        concat!(
            "SELECT r.id, r.reference, r.sender, r.stream_id, r.event_id, r.version, r.content_body, r.pathway, \
             r.priority, r.safeguarding, r.consent_withdrawn, r.release_number, r.accepted_ms FROM referral r ",
            $tail
        )
    };
}

macro_rules! events {
    ($tail:literal) => {
        concat!(
            "SELECT e.id, e.referral_id, e.leg_id, e.delivery_id, e.at_ms, e.kind, e.source, e.source_version, e.state, \
             e.reception, e.code, e.text_body, e.delivery_state, e.evidence, r.reference, l.idx FROM ",
            $tail
        )
    };
}

const REFERRAL: &str = referrals!("WHERE r.id = $1");
const LEGS: &str = "SELECT id, service, agency, rule, triage, owner_agency, owner_role, state, clock, clock_started_ms, \
     next_action, first_clock, first_next_action FROM leg WHERE referral_id = $1 ORDER BY position LIMIT $2";
const DELIVERIES: &str = "SELECT id, leg_id, kind, endpoint_id, recipient, wire_id, state, parked, evidence, attempts, \
     receiver_reference FROM delivery WHERE referral_id = $1 ORDER BY id DESC LIMIT $2";

/// A referral without its content.
pub(super) async fn referral(
    store: &Backend,
    id: ReferralId,
) -> Result<Option<ReferralView>, StoreError> {
    let mut conn = store.read().await?;
    let row = sqlx::query(REFERRAL)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(&mut *conn)
        .await
        .map_err(sql)?;
    match row {
        Some(row) => view(&mut conn, &row).await.map(Some),
        None => Ok(None),
    }
}

/// The version is read first: what is read after it may be newer, and then a change decided on it is stale.
async fn view(conn: &mut Connection, row: &Row) -> Result<ReferralView, StoreError> {
    let row = Fields::new(row, "referral", "id");
    let id = row.id("id", ReferralId::from_bytes)?;
    let legs = sqlx::query(LEGS)
        .bind(id.as_bytes().as_slice())
        .bind(LEGS_MAX)
        .fetch_all(&mut *conn)
        .await
        .map_err(sql)?;
    let deliveries = sqlx::query(DELIVERIES)
        .bind(id.as_bytes().as_slice())
        .bind(DELIVERIES_MAX)
        .fetch_all(&mut *conn)
        .await
        .map_err(sql)?;
    Ok(ReferralView {
        id,
        reference: row.code("reference")?,
        sender: row.code("sender")?,
        stream: row.id("stream_id", StreamId::from_bytes)?,
        event: row.id("event_id", EventId::from_bytes)?,
        version: row.int("version")?,
        content: row.id("content_body", BodyId::from_bytes)?,
        pathway: row.code("pathway")?,
        priority: row.word("priority", Priority::parse)?,
        safeguarding: row.flag("safeguarding")?,
        withdrawn: withdrawn(&row)?,
        release: row.int("release_number")?,
        accepted: row.at("accepted_ms")?,
        legs: legs.iter().map(leg).collect::<Result<_, _>>()?,
        deliveries: deliveries
            .iter()
            .rev()
            .map(head)
            .collect::<Result<_, _>>()?,
    })
}

/// The bit that stands for a scope of consent in `referral.consent_withdrawn`.
pub(super) const fn consent_bit(scope: ConsentScope) -> i64 {
    match scope {
        ConsentScope::Referral => 1,
        ConsentScope::ShareHealth => 2,
        ConsentScope::ShareEducation => 4,
        ConsentScope::ShareSocialCare => 8,
        ConsentScope::FamilyMessages => 16,
    }
}

fn withdrawn(row: &Fields<'_>) -> Result<BTreeSet<ConsentScope>, StoreError> {
    let bits: i64 = row.int("consent_withdrawn")?;
    let scopes: BTreeSet<ConsentScope> = ConsentScope::ALL
        .iter()
        .copied()
        .filter(|scope| bits & consent_bit(*scope) != 0)
        .collect();
    let known: i64 = scopes.iter().map(|scope| consent_bit(*scope)).sum();
    if known == bits {
        Ok(scopes)
    } else {
        Err(row.corrupt("consent_withdrawn"))
    }
}

fn leg(row: &Row) -> Result<LegView, StoreError> {
    let row = Fields::new(row, "leg", "id");
    let owner = Owner {
        agency: row.code("owner_agency")?,
        role: row.text("owner_role")?,
    };
    let leg = NewLeg {
        id: row.id("id", LegId::from_bytes)?,
        service: row.code("service")?,
        agency: row.code("agency")?,
        rule: row.opt_code("rule")?,
        triage: row.opt_text("triage")?,
        owner: owner.clone(),
        clock: row.text("first_clock")?,
        clock_started: row.at("clock_started_ms")?,
        next_action: row.text("first_next_action")?,
    };
    Ok(LegView {
        leg,
        state: row.word("state", LegState::parse)?,
        clock: row.opt_text("clock")?,
        next_action: row.opt_text("next_action")?,
        owner,
    })
}

fn head(row: &Row) -> Result<DeliveryHead, StoreError> {
    let row = Fields::new(row, "delivery", "id");
    Ok(DeliveryHead {
        id: row.id("id", DeliveryId::from_bytes)?,
        leg: row.opt_id("leg_id", LegId::from_bytes)?,
        kind: row.word("kind", Kind::parse)?,
        endpoint: row.code("endpoint_id")?,
        recipient: row.code("recipient")?,
        wire_id: row.code("wire_id")?,
        state: row.word("state", DeliveryState::parse)?,
        parked: row.opt_word("parked", ParkReason::parse)?,
        evidence: row.word("evidence", Evidence::parse)?,
        attempts: row.int("attempts")?,
        receiver_reference: row.opt_text("receiver_reference")?,
    })
}

const LEGS_AT_ACCEPT: &str = "SELECT id, service, agency, rule, triage FROM leg \
     WHERE referral_id = $1 AND event_id = $2 ORDER BY position LIMIT $3";

/// What the sender was answered when a referral was accepted.
pub(super) async fn accepted(
    store: &Backend,
    referral: ReferralId,
) -> Result<Accepted, StoreError> {
    let missing = || internal(Fault::Missing("an accepted referral"));
    let view = self::referral(store, referral).await?.ok_or_else(missing)?;
    let entry = store.entry_of(view.event).await?.ok_or_else(missing)?;
    let openings = store.openings(view.event).await?;
    let legs = sqlx::query(LEGS_AT_ACCEPT)
        .bind(referral.as_bytes().as_slice())
        .bind(view.event.as_bytes().as_slice())
        .bind(LEGS_MAX)
        .fetch_all(store.reader())
        .await
        .map_err(sql)?;
    Ok(Accepted {
        referral,
        reference: view.reference,
        event: view.event,
        stream: view.stream,
        leaf: leaf_hash(&entry),
        entry,
        openings,
        at: view.accepted,
        release: view.release,
        legs: legs.iter().map(accepted_leg).collect::<Result<_, _>>()?,
        repeated: true,
    })
}

fn accepted_leg(row: &Row) -> Result<AcceptedLeg, StoreError> {
    let row = Fields::new(row, "leg", "id");
    Ok(AcceptedLeg {
        id: row.id("id", LegId::from_bytes)?,
        service: row.code("service")?,
        agency: row.code("agency")?,
        rule: row.opt_code("rule")?,
        triage: row.opt_text("triage")?,
    })
}

const BY_REFERENCE: &str = "SELECT reference, referral_id FROM reference WHERE reference = $1";
const BY_KEY: &str = "SELECT hash, referral_id FROM referral_key WHERE kind = $1 AND hash = $2";
const BY_WIRE: &str = "SELECT d.id, d.referral_id FROM wire w JOIN delivery d ON d.id = w.delivery_id WHERE w.wire_id = $1";

const BY_MESSAGE: &str = "SELECT m.hash, m.referral_id FROM message_key m JOIN referral r ON r.id = m.referral_id \
     WHERE m.hash = $1 AND m.event_id = r.event_id";

const BY_EVENT: &str = "SELECT id, referral_id FROM event WHERE id = $1";

/// The referral behind a key.
pub(super) async fn resolve(
    store: &Backend,
    key: &ReferralKey,
) -> Result<Option<ReferralId>, StoreError> {
    let seal = store.seal();
    let (kind, hash) = match key {
        ReferralKey::Reference(reference) => {
            let row = sqlx::query(BY_REFERENCE)
                .bind(reference.as_str())
                .fetch_optional(store.reader())
                .await;
            return row.map_err(sql)?.as_ref().map(referral_id).transpose();
        }
        ReferralKey::Sender(agency, reference) => {
            (key_kind::SENDER, keys::sender(seal, agency, reference))
        }
        ReferralKey::Receiver(agency, text) => {
            (key_kind::RECEIVER, receiver_hash(seal, agency, text))
        }
        ReferralKey::Event(event) => {
            let event = event.as_bytes().as_slice();
            let row = sqlx::query(BY_EVENT)
                .bind(event)
                .fetch_optional(store.reader())
                .await;
            return row.map_err(sql)?.as_ref().map(referral_id).transpose();
        }
        ReferralKey::Message(sender, key) => {
            let hash = keys::message_key(seal, sender, key);
            let row = sqlx::query(BY_MESSAGE)
                .bind(hash.as_slice())
                .fetch_optional(store.reader())
                .await;
            return row.map_err(sql)?.as_ref().map(referral_id).transpose();
        }
        ReferralKey::Wire(wire) => {
            let row = sqlx::query(BY_WIRE)
                .bind(wire.as_str())
                .fetch_optional(store.reader())
                .await;
            return row.map_err(sql)?.as_ref().map(referral_id).transpose();
        }
    };
    let row = sqlx::query(BY_KEY)
        .bind(kind)
        .bind(hash.as_slice())
        .fetch_optional(store.reader())
        .await
        .map_err(sql)?;
    row.as_ref().map(referral_id).transpose()
}

fn referral_id(row: &Row) -> Result<ReferralId, StoreError> {
    Fields::new(row, "referral_key", "referral_id").id("referral_id", ReferralId::from_bytes)
}

const SEEN: &str =
    "SELECT leg_id FROM status_key WHERE leg_id = $1 AND source = $2 AND version = $3";

/// Whether (source, version) of a leg came before.
pub(super) async fn status_seen(
    store: &Backend,
    leg: LegId,
    source: &AgencyId,
    version: u64,
) -> Result<bool, StoreError> {
    let version = i64::try_from(version).map_err(|_| internal(Fault::Number("version")))?;
    let row = sqlx::query(SEEN)
        .bind(leg.as_bytes().as_slice())
        .bind(source.as_str())
        .bind(version)
        .fetch_optional(store.reader())
        .await
        .map_err(sql)?;
    Ok(row.is_some())
}

const SUBJECT: &str = "SELECT subject_id FROM subject_key WHERE kind = $1 AND hash = $2";

/// Referrals that an agency sends or receives, newest first.
pub(super) async fn list(
    store: &Backend,
    query: &ReferralQuery,
) -> Result<Vec<ReferralView>, StoreError> {
    if query.agencies.as_ref().is_some_and(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let mut conn = store.read().await?;
    let subject = match &query.subject {
        None => None,
        Some(key) => match find_subject(&mut conn, store, key).await? {
            Some(subject) => Some(subject),
            None => return Ok(Vec::new()),
        },
    };
    let mut select = list_query(query, subject);
    let rows = select.build().fetch_all(&mut *conn).await.map_err(sql)?;
    let mut views = Vec::with_capacity(rows.len());
    for row in &rows {
        views.push(view(&mut conn, row).await?);
    }
    Ok(views)
}

async fn find_subject(
    conn: &mut Connection,
    store: &Backend,
    key: &SubjectKey,
) -> Result<Option<SubjectId>, StoreError> {
    let Some((kind, hash)) = subject_hash(store.seal(), key) else {
        return Ok(None);
    };
    let row = sqlx::query(SUBJECT)
        .bind(kind)
        .bind(hash.as_slice())
        .fetch_optional(conn)
        .await
        .map_err(sql)?;
    row.map(|row| {
        Fields::new(&row, "subject_key", "subject_id").id("subject_id", SubjectId::from_bytes)
    })
    .transpose()
}

const SUBJECT_OF: &str = "SELECT id, subject_id FROM referral WHERE id = $1";

/// Whether what a child is matched by is known as another child's than the referral's.
pub(super) async fn names_another(
    store: &Backend,
    referral: ReferralId,
    child: &SubjectKey,
) -> Result<bool, StoreError> {
    let mut conn = store.read().await?;
    let Some(known) = find_subject(&mut conn, store, child).await? else {
        return Ok(false);
    };
    let row = sqlx::query(SUBJECT_OF)
        .bind(referral.as_bytes().as_slice())
        .fetch_optional(&mut *conn)
        .await
        .map_err(sql)?;
    let row = row.ok_or(StoreError::NotFound("referral"))?;
    let own = Fields::new(&row, "referral", "id").id("subject_id", SubjectId::from_bytes)?;
    Ok(known != own)
}

/// Walks the index of each side that an agency may be on, so that a small agency's page costs no more than a large
/// one's.
fn list_query(query: &ReferralQuery, subject: Option<SubjectId>) -> QueryBuilder<Db> {
    let before = query.before.map_or([0xff; 16], |id| *id.as_bytes());
    let limit = i64::from(query.limit.min(PAGE_MAX));
    let filter = |select: &mut QueryBuilder<Db>| {
        if let Some(pathway) = &query.pathway {
            select.push(" AND r.pathway = ").push_bind(pathway.as_str());
        }
        if let Some(subject) = &subject {
            select
                .push(" AND r.subject_id = ")
                .push_bind(subject.as_bytes().as_slice());
        }
    };
    let Some(agencies) = &query.agencies else {
        let mut select = QueryBuilder::new(referrals!("WHERE r.id < "));
        select.push_bind(before.to_vec());
        filter(&mut select);
        select.push(" ORDER BY r.id DESC LIMIT ").push_bind(limit);
        return select;
    };
    let mut select = QueryBuilder::new(referrals!("WHERE r.id IN ("));
    for (n, agency) in agencies.iter().enumerate() {
        let union = if n == 0 { "" } else { " UNION " };
        select
            .push(union)
            .push("SELECT a.id FROM (SELECT r.id FROM referral r WHERE r.sender = ")
            .push_bind(agency.as_str())
            .push(" AND r.id < ")
            .push_bind(before.to_vec());
        filter(&mut select);
        select.push(" ORDER BY r.id DESC LIMIT ").push_bind(limit);
        select
            .push(
                ") AS a UNION SELECT b.id FROM (SELECT DISTINCT l.referral_id AS id FROM leg l \
                 JOIN referral r ON r.id = l.referral_id WHERE l.agency = ",
            )
            .push_bind(agency.as_str())
            .push(" AND l.referral_id < ")
            .push_bind(before.to_vec());
        filter(&mut select);
        select
            .push(" ORDER BY l.referral_id DESC LIMIT ")
            .push_bind(limit)
            .push(") AS b");
    }
    select.push(") ORDER BY r.id DESC LIMIT ").push_bind(limit);
    select
}

const TIMELINE: &str = events!(
    "event e JOIN referral r ON r.id = e.referral_id LEFT JOIN log_event l ON l.event_id = e.id \
     WHERE e.referral_id = $1 ORDER BY e.id LIMIT $2"
);

/// A referral's events in order.
pub(super) async fn timeline(
    store: &Backend,
    referral: ReferralId,
    limit: u32,
) -> Result<Vec<EventView>, StoreError> {
    let rows = sqlx::query(TIMELINE)
        .bind(referral.as_bytes().as_slice())
        .bind(i64::from(limit.min(TIMELINE_MAX)))
        .fetch_all(store.reader())
        .await
        .map_err(sql)?;
    rows.iter().map(event).collect()
}

fn event(row: &Row) -> Result<EventView, StoreError> {
    let row = Fields::new(row, "event", "id");
    Ok(EventView {
        event: NewEvent {
            id: row.id("id", EventId::from_bytes)?,
            kind: row.word("kind", EventKind::parse)?,
            leg: row.opt_id("leg_id", LegId::from_bytes)?,
            delivery: row.opt_id("delivery_id", DeliveryId::from_bytes)?,
            source: row.code("source")?,
            source_version: row.opt_int("source_version")?,
            state: row.opt_word("state", LegState::parse)?,
            reception: row.opt_word("reception", Reception::parse)?,
            code: row.text("code")?,
            text: row.opt_id("text_body", BodyId::from_bytes)?,
        },
        referral: row.id("referral_id", ReferralId::from_bytes)?,
        reference: row.code("reference")?,
        at: row.at("at_ms")?,
        delivery_state: row.opt_word("delivery_state", DeliveryState::parse)?,
        evidence: row.opt_word("evidence", Evidence::parse)?,
        log_index: row.opt_int("idx")?,
    })
}

const SIZE: &str = "SELECT size FROM log_state WHERE id = 1";
const FEED: &str = events!(
    "log_entry l JOIN event e ON e.id = l.event_id JOIN referral r ON r.id = e.referral_id WHERE l.idx >= "
);

/// The events of a window that concern one of some agencies.
fn feed_query(agencies: &[AgencyId], (from, to): (i64, i64), limit: u32) -> QueryBuilder<Db> {
    let named = |select: &mut QueryBuilder<Db>| {
        let mut names = select.separated(", ");
        for agency in agencies {
            names.push_bind(agency.as_str().to_owned());
        }
        select.push(")");
    };
    let mut select = QueryBuilder::new(FEED);
    select.push_bind(from).push(" AND l.idx < ").push_bind(to);
    select.push(" AND (r.sender IN (");
    named(&mut select);
    select.push(" OR EXISTS (SELECT 1 FROM leg g WHERE g.referral_id = r.id AND g.agency IN (");
    named(&mut select);
    select
        .push(")) ORDER BY l.idx LIMIT ")
        .push_bind(i64::from(limit));
    select
}

/// One window of the feed. The log's order is one that no late commit can slip behind.
pub(super) async fn feed(store: &Backend, query: &FeedQuery) -> Result<FeedPage, StoreError> {
    let window = query.window.min(WINDOW_MAX);
    let size: i64 = sqlx::query_scalar(SIZE)
        .fetch_one(store.reader())
        .await
        .map_err(sql)?;
    let from = i64::try_from(query.from).unwrap_or(i64::MAX);
    let to = from.saturating_add(i64::from(window)).min(size);
    if to <= from || query.agencies.is_empty() {
        return Ok(FeedPage {
            events: Vec::new(),
            next: query.from,
        });
    }
    let rows = feed_query(&query.agencies, (from, to), window)
        .build()
        .fetch_all(store.reader())
        .await
        .map_err(sql)?;
    let events = rows.iter().map(event).collect::<Result<_, _>>()?;
    Ok(FeedPage {
        events,
        next: u64::try_from(to).unwrap_or(query.from),
    })
}
