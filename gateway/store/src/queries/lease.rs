//! Leasing heads of due lanes. A leased lane is due at its lease's end, so that an expired lease needs no sweep.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;
use tracing::error;
use waymark_core::delivery::{DeliveryState, Evidence, Kind};
use waymark_core::id::{DeliveryId, EndpointId, LegId, ReferralId, StreamId};
use waymark_core::port::{LeaseAsk, LeaseToken, Leased, StoreError, WorkClass};
use waymark_core::time::Timestamp;

use super::insert::select_in;
use super::row::{Fields, Row};
use super::write::{CLASS_FRESH, CLASS_RETRY, Write};
use super::{Backend, Db};
use crate::error::sql;

/// Lanes leased by one call, at most.
pub(super) const LEASE_MAX: u32 = 1_000;
/// Leases renewed by one transaction, at most.
const RENEW_MAX: usize = 64;
/// Endpoints answered by one call, at most.
const ENDPOINTS_MAX: i64 = 10_000;

// One step of an index a row: the cost grows with the number of endpoints, not with the backlog.
const DUE_ENDPOINTS: &str = "WITH RECURSIVE e (endpoint_id) AS (
        SELECT (SELECT l.endpoint_id FROM lane l WHERE l.class = $1 AND l.due_ms IS NOT NULL
            ORDER BY l.endpoint_id LIMIT 1)
        UNION ALL
        SELECT (SELECT l.endpoint_id FROM lane l WHERE l.class = $1 AND l.due_ms IS NOT NULL
            AND l.endpoint_id > e.endpoint_id ORDER BY l.endpoint_id LIMIT 1)
        FROM e WHERE e.endpoint_id IS NOT NULL
    )
    SELECT e.endpoint_id FROM e WHERE e.endpoint_id IS NOT NULL
    AND (SELECT l.due_ms FROM lane l WHERE l.class = $1 AND l.endpoint_id = e.endpoint_id AND l.due_ms IS NOT NULL
        ORDER BY l.due_ms LIMIT 1) <= $2
    ORDER BY e.endpoint_id LIMIT $3";

/// Takes due lanes of an endpoint, longest due first: all of them, or those whose head is one of some services', or of
/// none: what a sender is told is its agency's, and would hold the child's lane.
fn lease_query(ask: &LeaseAsk) -> QueryBuilder<Db> {
    let mut lease = QueryBuilder::new(
        "WITH c AS MATERIALIZED (SELECT endpoint_id, subject_id FROM lane WHERE class = ",
    );
    lease.push_bind(class(ask.class));
    lease
        .push(" AND endpoint_id = ")
        .push_bind(ask.endpoint.as_str().to_owned());
    lease.push(" AND due_ms <= ").push_bind(ask.now.as_ms());
    if !ask.services.is_empty() {
        lease.push(
            " AND EXISTS (SELECT 1 FROM delivery d WHERE d.id = lane.head_id AND (d.service IS NULL OR d.service IN (",
        );
        let mut named = lease.separated(", ");
        for service in &ask.services {
            named.push_bind(service.as_str().to_owned());
        }
        lease.push(")))");
    }
    lease
        .push(" ORDER BY due_ms LIMIT ")
        .push_bind(i64::from(ask.limit.min(LEASE_MAX)))
        .push(skip_locked!(""));
    lease
        .push(") UPDATE lane SET due_ms = ")
        .push_bind(ask.until.as_ms());
    lease
        .push(", fence = fence + 1, worker = ")
        .push_bind(ask.worker.as_bytes().to_vec());
    lease.push(
        " WHERE (endpoint_id, subject_id) IN (SELECT endpoint_id, subject_id FROM c)
         RETURNING head_id, fence",
    );
    lease
}

const HEADS: (&str, &str) = (
    "SELECT d.id, d.referral_id, r.reference, r.stream_id, r.sender, d.leg_id, d.kind, d.endpoint_id, d.recipient,
     d.service, d.wire_id, d.version, d.state, d.attempts, d.failures, d.soft_rejects, d.unfinished, d.evidence, d.deadline_ms,
     d.urgent, d.queued_ms, d.traceparent
     FROM delivery d JOIN referral r ON r.id = d.referral_id WHERE d.id IN",
    "",
);
const LANES_OF: (&str, &str) = (
    "SELECT endpoint_id, subject_id, id AS head_id FROM delivery WHERE id IN",
    "",
);
const RENEW: &str = "UPDATE lane SET due_ms = $5
    WHERE endpoint_id = $1 AND subject_id = $2 AND head_id = $3 AND fence = $4 AND worker IS NOT NULL";
// The fence grows: whoever gave the lease back cannot use it any more.
const RELEASE: &str = "UPDATE lane SET due_ms = $5, fence = fence + 1, worker = NULL
    WHERE endpoint_id = $1 AND subject_id = $2 AND head_id = $3 AND fence = $4 AND worker IS NOT NULL";
const RELEASED: &str = "UPDATE delivery SET due_ms = $2 WHERE id = $1";

const fn class(class: WorkClass) -> i64 {
    match class {
        WorkClass::Fresh => CLASS_FRESH,
        WorkClass::Retry => CLASS_RETRY,
    }
}

/// Endpoints with a due lane.
pub(super) async fn due_endpoints(
    store: &Backend,
    of: WorkClass,
    now: Timestamp,
) -> Result<Vec<EndpointId>, StoreError> {
    let rows = sqlx::query(DUE_ENDPOINTS)
        .bind(class(of))
        .bind(now.as_ms())
        .bind(ENDPOINTS_MAX)
        .fetch_all(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    rows.iter()
        .map(|row| Fields::new(row, "lane", "endpoint_id").code("endpoint_id"))
        .collect()
}

/// Leases heads of due lanes, longest due first.
pub(super) async fn lease(store: &Backend, ask: &LeaseAsk) -> Result<Vec<Leased>, StoreError> {
    let mut w = store.begin().await?;
    let rows = lease_query(ask)
        .build()
        .fetch_all(w.conn())
        .await
        .map_err(sql)?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut fences = BTreeMap::new();
    for row in &rows {
        let row = Fields::new(row, "lane", "head_id");
        fences.insert(
            row.id("head_id", DeliveryId::from_bytes)?,
            row.int::<i64>("fence")?,
        );
    }
    let leased = heads(&mut w, &fences).await?;
    w.commit().await?;
    Ok(leased)
}

async fn heads(
    w: &mut Write,
    fences: &BTreeMap<DeliveryId, i64>,
) -> Result<Vec<Leased>, StoreError> {
    let ids: Vec<&[u8]> = fences.keys().map(|id| id.as_bytes().as_slice()).collect();
    let rows = select_in(w.conn(), HEADS, &ids).await?;
    let mut leased = BTreeMap::new();
    for row in &rows {
        match read(row, fences) {
            Ok(one) => {
                leased.insert((one.queued, one.token.delivery), one);
            }
            // One bad row must not keep the others of its endpoint from going.
            Err(error @ StoreError::Corrupt { .. }) => error!(%error, "passed over a lane's head"),
            Err(other) => return Err(other),
        }
    }
    if rows.len() != fences.len() {
        error!(
            "passed over {} lanes without a head",
            fences.len().saturating_sub(rows.len())
        );
    }
    Ok(leased.into_values().collect())
}

fn read(row: &Row, fences: &BTreeMap<DeliveryId, i64>) -> Result<Leased, StoreError> {
    let row = Fields::new(row, "delivery", "id");
    let delivery = row.id("id", DeliveryId::from_bytes)?;
    let fence = *fences.get(&delivery).ok_or_else(|| row.corrupt("id"))?;
    Ok(Leased {
        token: LeaseToken { delivery, fence },
        referral: row.id("referral_id", ReferralId::from_bytes)?,
        reference: row.code("reference")?,
        stream: row.id("stream_id", StreamId::from_bytes)?,
        sender: row.code("sender")?,
        leg: row.opt_id("leg_id", LegId::from_bytes)?,
        version: row.int("version")?,
        kind: row.word("kind", Kind::parse)?,
        endpoint: row.code("endpoint_id")?,
        recipient: row.code("recipient")?,
        service: row.opt_code("service")?,
        wire_id: row.code("wire_id")?,
        state: row.word("state", DeliveryState::parse)?,
        attempts: row.int("attempts")?,
        failures: row.int("failures")?,
        soft_rejects: row.int("soft_rejects")?,
        unfinished: row.int("unfinished")?,
        evidence: row.word("evidence", Evidence::parse)?,
        deadline: row.at("deadline_ms")?,
        urgent: row.flag("urgent")?,
        queued: row.at("queued_ms")?,
        traceparent: row.opt_text("traceparent")?,
    })
}

/// A lane and what is leased of it: two leases of one lane may be held here, of which one is lost.
type LeaseOf<'a> = ((String, Vec<u8>), &'a LeaseToken);

/// Some leases in the order of their lanes: the one in which every other write takes them.
async fn lanes_of<'a>(
    w: &mut Write,
    leases: &'a [LeaseToken],
) -> Result<Vec<LeaseOf<'a>>, StoreError> {
    let heads: Vec<&[u8]> = leases
        .iter()
        .map(|t| t.delivery.as_bytes().as_slice())
        .collect();
    let mut lanes = Vec::with_capacity(leases.len());
    for row in &select_in(w.conn(), LANES_OF, &heads).await? {
        let row = Fields::new(row, "delivery", "head_id");
        let delivery = row.id("head_id", DeliveryId::from_bytes)?;
        if let Some(token) = leases.iter().find(|token| token.delivery == delivery) {
            lanes.push(((row.text("endpoint_id")?, row.bytes("subject_id")?), token));
        }
    }
    lanes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(lanes)
}

/// Keeps leases for longer; answers those still held.
pub(super) async fn renew(
    store: &Backend,
    leases: &[LeaseToken],
    until: Timestamp,
) -> Result<Vec<DeliveryId>, StoreError> {
    let mut held = Vec::with_capacity(leases.len());
    for piece in leases.chunks(RENEW_MAX) {
        let mut w = store.begin().await?;
        for lease in lanes_of(&mut w, piece).await? {
            if change(&mut w, RENEW, &lease, until).await? {
                held.push(lease.1.delivery);
            }
        }
        w.commit().await?;
    }
    Ok(held)
}

/// Gives a lease back: the lane is due again and its head keeps its state.
pub(super) async fn release(
    store: &Backend,
    token: &LeaseToken,
    due: Timestamp,
) -> Result<(), StoreError> {
    let mut w = store.begin().await?;
    let lanes = lanes_of(&mut w, std::slice::from_ref(token)).await?;
    let lease = lanes.first().ok_or(StoreError::LeaseLost)?;
    if !change(&mut w, RELEASE, lease, due).await? {
        return Err(StoreError::LeaseLost);
    }
    sqlx::query(RELEASED)
        .bind(token.delivery.as_bytes().as_slice())
        .bind(due.as_ms())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    w.commit().await?;
    store.work_was_added();
    Ok(())
}

async fn change(
    w: &mut Write,
    statement: &'static str,
    ((endpoint, subject), token): &LeaseOf<'_>,
    to: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(statement)
        .bind(endpoint.as_str())
        .bind(subject.as_slice())
        .bind(token.delivery.as_bytes().as_slice())
        .bind(token.fence)
        .bind(to.as_ms())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(done.rows_affected() == 1)
}
