//! The conservation check: what was accepted must be whole, and what is not finished must have work or an owner who
//! was told (DESIGN.md invariant 4).
//!
//! A page names its referrals one by one, so that it costs the same whatever the backlog.

use std::collections::{BTreeMap, BTreeSet};

use waymark_core::alarm::AlarmKind;
use waymark_core::delivery::ParkReason;
use waymark_core::id::{DeliveryId, ReferralId};
use waymark_core::port::{CheckFault, CheckPage, StoreError};

use super::insert::select_in;
use super::row::{Fields, Row};
use super::rule::{BY_STATE, In, RULES, TOLD};
use super::{Backend, alarm};
use crate::error::sql;

/// Referrals of one page, at most.
pub(super) const PAGE_MAX: u32 = 1_000;

const PAGE: &str = "SELECT id FROM referral WHERE id > $1 ORDER BY id LIMIT $2";

/// What tells somebody of a leg or a delivery, under its id.
const ALARMS: [AlarmKind; 4] = [
    AlarmKind::Unrouted,
    AlarmKind::Parked,
    AlarmKind::Rejected,
    AlarmKind::SenderNotTold,
];

/// Checks one page of referrals, oldest first.
pub(super) async fn page(
    store: &Backend,
    after: Option<ReferralId>,
    limit: u32,
) -> Result<CheckPage, StoreError> {
    let limit = limit.clamp(1, PAGE_MAX);
    let after = after.map_or([0; 16], |id| *id.as_bytes());
    let rows = sqlx::query(PAGE)
        .bind(after.as_slice())
        .bind(i64::from(limit))
        .fetch_all(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    let mut referrals = BTreeSet::new();
    for row in &rows {
        referrals.insert(Fields::new(row, "referral", "id").id("id", ReferralId::from_bytes)?);
    }
    let ids: Vec<&[u8]> = referrals
        .iter()
        .map(|id| id.as_bytes().as_slice())
        .collect();
    let mut faults = Vec::new();
    for (rule, query) in RULES {
        for row in &over(store, *query, &ids).await? {
            faults.push(fault(rule, row)?);
        }
    }
    for (rule, query) in TOLD {
        let untold = untold(store, query, &ids).await?;
        if untold.is_empty() {
            continue;
        }
        // Things and alarms are two looks: what a change under way explains is gone at the second.
        let again = self::untold(store, query, &ids).await?;
        faults.extend(
            untold
                .intersection(&again)
                .map(|(referral, thing)| CheckFault {
                    referral: referral.clone(),
                    rule,
                    detail: thing.clone(),
                }),
        );
    }
    let more = rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(CheckPage {
        referrals: u64::try_from(rows.len()).unwrap_or(u64::MAX),
        by_state: by_state(store, &ids).await?,
        faults,
        next: referrals.last().copied().filter(|_| more),
    })
}

async fn over(store: &Backend, query: In, ids: &[&[u8]]) -> Result<Vec<Row>, StoreError> {
    select_in(&mut *store.read().await?, query, ids).await
}

fn fault(rule: &'static str, row: &Row) -> Result<CheckFault, StoreError> {
    let row = Fields::new(row, "referral", "id");
    Ok(CheckFault {
        referral: row.id("id", ReferralId::from_bytes)?.to_string(),
        rule,
        detail: row.id("thing", DeliveryId::from_bytes)?.to_string(),
    })
}

/// (Referral, thing) of which nobody was told: no open alarm names the thing or one of its deliveries.
async fn untold(
    store: &Backend,
    query: In,
    ids: &[&[u8]],
) -> Result<BTreeSet<(String, String)>, StoreError> {
    let mut things: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut endpoints = BTreeSet::new();
    for row in &over(store, query, ids).await? {
        let found = fault("", row)?;
        let row = Fields::new(row, "delivery", "delivery");
        let subjects = things
            .entry((found.referral, found.detail.clone()))
            .or_default();
        subjects.push(found.detail);
        if let Some(delivery) = row.opt_id("delivery", DeliveryId::from_bytes)? {
            subjects.push(delivery.to_string());
        }
        // A wrong recipient is told of once for its endpoint.
        if row.opt_word("parked", ParkReason::parse)? == Some(ParkReason::WrongRecipient) {
            let endpoint = row.text("endpoint_id")?;
            endpoints.insert(endpoint.clone());
            subjects.push(endpoint);
        }
    }
    let all: Vec<&str> = things.values().flatten().map(String::as_str).collect();
    let mut told = alarm::open_among(store, &ALARMS, &all).await?;
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    told.extend(alarm::open_among(store, &[AlarmKind::WrongRecipient], &endpoints).await?);
    Ok(things
        .into_iter()
        .filter(|(_, subjects)| !subjects.iter().any(|subject| told.contains(subject)))
        .map(|(thing, _)| thing)
        .collect())
}

async fn by_state(store: &Backend, ids: &[&[u8]]) -> Result<BTreeMap<String, i64>, StoreError> {
    let mut by_state = BTreeMap::new();
    for row in &over(store, BY_STATE, ids).await? {
        let row = Fields::new(row, "delivery", "state");
        *by_state.entry(row.text("state")?).or_insert(0) += row.int::<i64>("deliveries")?;
    }
    Ok(by_state)
}
