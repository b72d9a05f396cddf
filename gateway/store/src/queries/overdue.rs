//! What waits too long and must be told: evidence past its clock, urgent work behind other work, and post that nobody
//! fetches.
//!
//! Newest first and bounded: what is new is among the newest, and what was told before stays told.

use std::collections::BTreeSet;

use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::id::{AgencyId, DeliveryId, EndpointId};
use waymark_core::port::StoreError;
use waymark_core::time::Timestamp;

use super::row::{Fields, Row};
use super::{Backend, alarm};
use crate::error::sql;

/// Rows looked at by one sweep and kind, at most.
pub(super) const SCAN_MAX: i64 = 5_000;
/// Who is told of a delivery without a leg, within its recipient.
const ROLE: &str = "duty";

// Looked up a row at a time: a join would read all lanes.
const EVIDENCE: &str = "SELECT d.id, d.wire_id, d.recipient,
    (SELECT g.owner_agency FROM leg g WHERE g.referral_id = d.referral_id AND g.id = d.leg_id) AS owner_agency,
    (SELECT g.owner_role FROM leg g WHERE g.referral_id = d.referral_id AND g.id = d.leg_id) AS owner_role
    FROM delivery d WHERE d.state = 'awaiting_evidence' AND d.evidence_due_ms <= $1
    ORDER BY d.evidence_due_ms DESC, d.id DESC LIMIT $2";
const URGENT: &str = "SELECT d.id, d.wire_id, d.recipient,
    (SELECT g.owner_agency FROM leg g WHERE g.referral_id = d.referral_id AND g.id = d.leg_id) AS owner_agency,
    (SELECT g.owner_role FROM leg g WHERE g.referral_id = d.referral_id AND g.id = d.leg_id) AS owner_role
    FROM (SELECT id, referral_id, endpoint_id, subject_id, wire_id, recipient, leg_id FROM delivery
        WHERE state = 'queued' AND urgent = 1 AND queued_ms <= $1 ORDER BY id DESC LIMIT $2) d
    WHERE (SELECT l.head_id FROM lane l WHERE l.endpoint_id = d.endpoint_id AND l.subject_id = d.subject_id) <> d.id
    ORDER BY d.id DESC";
// The first of each child's: what waits behind it is told of in its turn.
const UNFETCHED: &str = "SELECT d.id, d.wire_id, d.recipient,
    (SELECT g.owner_agency FROM leg g WHERE g.referral_id = d.referral_id AND g.id = d.leg_id) AS owner_agency,
    (SELECT g.owner_role FROM leg g WHERE g.referral_id = d.referral_id AND g.id = d.leg_id) AS owner_role
    FROM (SELECT head_id, queued_ms FROM lane WHERE endpoint_id = $3 AND queued_ms <= $1
        ORDER BY queued_ms DESC LIMIT $2) l
    JOIN delivery d ON d.id = l.head_id WHERE d.state <> 'awaiting_evidence'
    ORDER BY l.queued_ms DESC, d.id DESC";

/// What an alarm says of a message.
#[derive(Clone, Copy)]
enum Waits {
    Urgent,
    Evidence,
    Unfetched,
}

/// Alarms to open that are not open yet.
pub(super) async fn overdue(
    store: &Backend,
    now: Timestamp,
    mailboxes: &[(EndpointId, Timestamp)],
    limit: u32,
) -> Result<Vec<NewAlarm>, StoreError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut alarms = Vec::new();
    for (what, query) in [(Waits::Urgent, URGENT), (Waits::Evidence, EVIDENCE)] {
        let asked = sqlx::query(query).bind(now.as_ms()).bind(SCAN_MAX);
        let rows = asked.fetch_all(&mut *store.read().await?).await;
        alarms.extend(new_ones(store, &rows.map_err(sql)?, what).await?);
    }
    for (mailbox, queued_before) in mailboxes {
        let asked = sqlx::query(UNFETCHED)
            .bind(queued_before.as_ms())
            .bind(SCAN_MAX)
            .bind(mailbox.as_str());
        let rows = asked.fetch_all(&mut *store.read().await?).await;
        alarms.extend(new_ones(store, &rows.map_err(sql)?, Waits::Unfetched).await?);
    }
    alarms.truncate(limit);
    Ok(alarms)
}

/// The alarms of these rows that are not open yet.
async fn new_ones(store: &Backend, rows: &[Row], what: Waits) -> Result<Vec<NewAlarm>, StoreError> {
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        found.push(told(row, what)?);
    }
    let Some(kind) = found.first().map(|alarm| alarm.kind) else {
        return Ok(found);
    };
    let subjects: Vec<&str> = found.iter().map(|alarm| alarm.subject.as_str()).collect();
    let open: BTreeSet<String> = alarm::open_among(store, &[kind], &subjects).await?;
    found.retain(|alarm| !open.contains(&alarm.subject));
    Ok(found)
}

fn told(row: &Row, what: Waits) -> Result<NewAlarm, StoreError> {
    let row = Fields::new(row, "delivery", "id");
    let delivery = row.id("id", DeliveryId::from_bytes)?;
    let wire_id = row.text("wire_id")?;
    let owner: Option<AgencyId> = row.opt_code("owner_agency")?;
    let (kind, text) = match what {
        Waits::Urgent => (
            AlarmKind::UrgentHeld,
            format!("urgent {wire_id} waits behind an earlier message of the same child"),
        ),
        Waits::Evidence => (
            AlarmKind::EvidenceOverdue,
            format!("{wire_id} was sent and its evidence of arrival is overdue"),
        ),
        Waits::Unfetched => (
            AlarmKind::EvidenceOverdue,
            format!(
                "{wire_id} lies in its mailbox and nobody took it: ask the agency to fetch its post"
            ),
        ),
    };
    Ok(NewAlarm {
        kind,
        subject: delivery.to_string(),
        owner: owner.map_or_else(|| row.code("recipient"), Ok)?,
        role: row
            .opt_text("owner_role")?
            .unwrap_or_else(|| ROLE.to_owned()),
        text,
    })
}
