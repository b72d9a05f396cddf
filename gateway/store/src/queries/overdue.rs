//! What waits too long and must be told: evidence past its clock, and urgent work behind other work.
//!
//! Newest first and bounded: what is new is among the newest, and what was told before stays told.

use std::collections::BTreeSet;

use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::id::{AgencyId, DeliveryId};
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

/// Alarms to open that are not open yet.
pub(super) async fn overdue(
    store: &Backend,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<NewAlarm>, StoreError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let kinds = [
        (AlarmKind::UrgentHeld, URGENT),
        (AlarmKind::EvidenceOverdue, EVIDENCE),
    ];
    let mut alarms = Vec::new();
    for (kind, query) in kinds {
        let rows = sqlx::query(query)
            .bind(now.as_ms())
            .bind(SCAN_MAX)
            .fetch_all(&mut *store.read().await?)
            .await
            .map_err(sql)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            found.push(told(row, kind)?);
        }
        let subjects: Vec<&str> = found.iter().map(|alarm| alarm.subject.as_str()).collect();
        let open: BTreeSet<String> = alarm::open_among(store, &[kind], &subjects).await?;
        found.retain(|alarm| !open.contains(&alarm.subject));
        alarms.extend(found);
    }
    alarms.truncate(limit);
    Ok(alarms)
}

fn told(row: &Row, kind: AlarmKind) -> Result<NewAlarm, StoreError> {
    let row = Fields::new(row, "delivery", "id");
    let delivery = row.id("id", DeliveryId::from_bytes)?;
    let wire_id = row.text("wire_id")?;
    let owner: Option<AgencyId> = row.opt_code("owner_agency")?;
    let text = if kind == AlarmKind::UrgentHeld {
        format!("urgent {wire_id} waits behind an earlier message of the same child")
    } else {
        format!("{wire_id} was sent and its evidence of arrival is overdue")
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
