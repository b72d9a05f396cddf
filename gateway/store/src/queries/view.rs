//! Deliveries as they are shown.

use sqlx::QueryBuilder;
use waymark_core::delivery::{DeliveryState, Evidence, Kind, ParkReason, Why};
use waymark_core::error::Fault;
use waymark_core::id::{
    BodyId, DeliveryId, EndpointId, LegId, ReferralId, StreamId, SubjectId, WireId,
};
use waymark_core::port::{
    AsksAfter, AttemptView, DeliveryQuery, DeliveryView, NewDelivery, Sent, SentPage, StoreError,
};

use super::row::{Fields, Row};
use super::{Backend, Db};
use crate::error::sql;
use crate::seal::Seal;

/// Deliveries of one page, at most.
pub(super) const PAGE_MAX: u32 = 1_000;
/// Attempts shown of one delivery, the newest ones.
pub(super) const ATTEMPTS_MAX: i64 = 1_000;

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT d.id, d.referral_id, r.reference, r.stream_id, r.sender, d.leg_id, d.kind, d.endpoint_id,
             d.recipient, d.service, d.subject_id, d.wire_id, d.version, d.content_body, d.note_body, d.rendered_body, d.state, d.evidence,
             d.parked, d.attempts, d.due_ms, d.deadline_ms, d.urgent, d.queued_ms, d.replaces, d.receiver_reference,
             l.due_ms AS next_ms
             FROM delivery d JOIN referral r ON r.id = d.referral_id
             LEFT JOIN lane l ON l.endpoint_id = d.endpoint_id AND l.subject_id = d.subject_id AND l.head_id = d.id ",
            $tail
        )
    };
}

const ONE: &str = select!("WHERE d.id = $1");
const BY_WIRE_ID: &str = select!("JOIN wire w ON w.delivery_id = d.id WHERE w.wire_id = $1");
const ATTEMPTS: &str =
    "SELECT delivery_id, number, opened_ms, closed_ms, outcome, why_code, why_text, fault, evidence
    FROM attempt WHERE delivery_id = $1 ORDER BY number DESC LIMIT $2";

/// One delivery with its attempts.
pub(super) async fn delivery(
    store: &Backend,
    id: DeliveryId,
) -> Result<Option<DeliveryView>, StoreError> {
    let row = sqlx::query(ONE)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    with_attempts(store, row).await
}

/// A delivery by its wire id.
pub(super) async fn delivery_by_wire_id(
    store: &Backend,
    id: &WireId,
) -> Result<Option<DeliveryView>, StoreError> {
    let row = sqlx::query(BY_WIRE_ID)
        .bind(id.as_str())
        .fetch_optional(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    with_attempts(store, row).await
}

/// The condition is that of the index `delivery_news`, or a part of it.
macro_rules! sent {
    ($news:literal) => {
        concat!(
            "SELECT d.id, d.kind, d.recipient, d.wire_id, d.evidence, d.queued_ms, d.receiver_reference,
    (SELECT r.reference FROM referral r WHERE r.id = d.referral_id) AS reference
    FROM delivery d WHERE d.endpoint_id = $1 AND d.id < $2 AND ",
            $news,
            " ORDER BY d.id DESC LIMIT $3"
        )
    };
}
const AWAITING: &str = sent!("d.state = 'awaiting_evidence'");
const CASES: &str =
    sent!("(d.state = 'awaiting_evidence' OR (d.state = 'done' AND d.followed = 1))");
/// Above every delivery's id: the cursor of the first page.
const BEYOND: [u8; 16] = [0xff; 16];

/// One page of what was sent to an endpoint and may have news. What it costs does not grow with what was ever sent.
pub(super) async fn sent(
    store: &Backend,
    endpoint: &EndpointId,
    which: AsksAfter,
    before: Option<DeliveryId>,
    limit: u32,
) -> Result<SentPage, StoreError> {
    let query = match which {
        AsksAfter::Nothing => return Ok(SentPage::default()),
        AsksAfter::Evidence => AWAITING,
        AsksAfter::Cases => CASES,
    };
    let limit = limit.min(PAGE_MAX);
    let before = before.map_or(BEYOND, |id| *id.as_bytes());
    let rows = sqlx::query(query)
        .bind(endpoint.as_str())
        .bind(before.as_slice())
        .bind(i64::from(limit))
        .fetch_all(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    let mut page = SentPage::default();
    for row in &rows {
        let row = Fields::new(row, "delivery", "id");
        page.sent.push(Sent {
            delivery: row.id("id", DeliveryId::from_bytes)?,
            wire_id: row.code("wire_id")?,
            kind: row.word("kind", Kind::parse)?,
            recipient: row.code("recipient")?,
            reference: row.code("reference")?,
            receiver_reference: row.opt_text("receiver_reference")?,
            evidence: row.word("evidence", Evidence::parse)?,
            queued: row.at("queued_ms")?,
        });
    }
    if rows.len() == usize::try_from(limit).unwrap_or(usize::MAX) {
        page.next = page.sent.last().map(|sent| sent.delivery);
    }
    Ok(page)
}

/// Deliveries, oldest first, without their attempts.
pub(super) async fn deliveries(
    store: &Backend,
    query: &DeliveryQuery,
) -> Result<Vec<DeliveryView>, StoreError> {
    let mut select = QueryBuilder::<Db>::new(select!("WHERE 1 = 1"));
    if let Some(lane) = &query.lane {
        let Some((endpoint, subject)) = store.seal().lane_of(lane)? else {
            return Ok(Vec::new());
        };
        // By the child's referrals, which are few: the endpoint stands in an expression, or its index would be walked.
        select
            .push(" AND d.referral_id IN (SELECT s.id FROM referral s WHERE s.subject_id = ")
            .push_bind(subject.as_bytes().to_vec())
            .push(") AND d.subject_id = ")
            .push_bind(subject.as_bytes().to_vec())
            .push(" AND (d.endpoint_id || '') = ")
            .push_bind(endpoint.as_str().to_owned());
    }
    if let Some(state) = query.state {
        // Likewise where a narrower index is at hand.
        let narrower = query.lane.is_some() || query.referral.is_some();
        select
            .push(if narrower {
                " AND (d.state || '') = "
            } else {
                " AND d.state = "
            })
            .push_bind(state.as_str());
    }
    if let Some(endpoint) = &query.endpoint {
        select
            .push(" AND d.endpoint_id = ")
            .push_bind(endpoint.as_str());
    }
    if let Some(referral) = &query.referral {
        select
            .push(" AND d.referral_id = ")
            .push_bind(referral.as_bytes().as_slice());
    }
    if let Some(replaced) = &query.replaces {
        select
            .push(" AND d.replaces = ")
            .push_bind(replaced.as_bytes().as_slice());
    }
    if let Some(after) = &query.after {
        select
            .push(" AND d.id > ")
            .push_bind(after.as_bytes().as_slice());
    }
    select
        .push(" ORDER BY d.id LIMIT ")
        .push_bind(i64::from(query.limit.min(PAGE_MAX)));
    let rows = select
        .build()
        .fetch_all(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    rows.iter().map(|row| view(store.seal(), row)).collect()
}

async fn with_attempts(
    store: &Backend,
    row: Option<Row>,
) -> Result<Option<DeliveryView>, StoreError> {
    let Some(row) = row else { return Ok(None) };
    let mut view = view(store.seal(), &row)?;
    let attempts = sqlx::query(ATTEMPTS)
        .bind(view.delivery.id.as_bytes().as_slice())
        .bind(ATTEMPTS_MAX)
        .fetch_all(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    view.attempts = attempts
        .iter()
        .rev()
        .map(attempt)
        .collect::<Result<_, _>>()?;
    Ok(Some(view))
}

fn view(seal: &Seal, row: &Row) -> Result<DeliveryView, StoreError> {
    let row = Fields::new(row, "delivery", "id");
    let delivery = NewDelivery {
        id: row.id("id", DeliveryId::from_bytes)?,
        wire_id: row.code("wire_id")?,
        leg: row.opt_id("leg_id", LegId::from_bytes)?,
        kind: row.word("kind", Kind::parse)?,
        endpoint: row.code("endpoint_id")?,
        recipient: row.code("recipient")?,
        service: row.opt_code("service")?,
        content: row.opt_id("content_body", BodyId::from_bytes)?,
        note: row.opt_id("note_body", BodyId::from_bytes)?,
        version: row.int("version")?,
        due: row.at("due_ms")?,
        deadline: row.at("deadline_ms")?,
        urgent: row.flag("urgent")?,
        replaces: row.opt_id("replaces", DeliveryId::from_bytes)?,
    };
    let subject = row.id("subject_id", SubjectId::from_bytes)?;
    Ok(DeliveryView {
        lane: seal.lane(&delivery.endpoint, subject)?,
        delivery,
        referral: row.id("referral_id", ReferralId::from_bytes)?,
        reference: row.code("reference")?,
        stream: row.id("stream_id", StreamId::from_bytes)?,
        sender: row.code("sender")?,
        state: row.word("state", DeliveryState::parse)?,
        evidence: row.word("evidence", Evidence::parse)?,
        parked: row.opt_word("parked", ParkReason::parse)?,
        next_attempt: row.opt_at("next_ms")?,
        queued: row.at("queued_ms")?,
        receiver_reference: row.opt_text("receiver_reference")?,
        rendered: row.opt_id("rendered_body", BodyId::from_bytes)?,
        attempts: Vec::new(),
        attempts_opened: row.int("attempts")?,
    })
}

fn attempt(row: &Row) -> Result<AttemptView, StoreError> {
    let row = Fields::new(row, "attempt", "delivery_id");
    let why = match (row.opt_text("why_code")?, row.opt_text("why_text")?) {
        (Some(code), text) => Some(Why::new(code, text.unwrap_or_default())),
        (None, _) => None,
    };
    Ok(AttemptView {
        number: row.int("number")?,
        opened: row.at("opened_ms")?,
        closed: row.opt_at("closed_ms")?,
        outcome: row.opt_text("outcome")?,
        why,
        fault: row.opt_word("fault", Fault::parse)?,
        evidence: row.opt_word("evidence", Evidence::parse)?,
    })
}
