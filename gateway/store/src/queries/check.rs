//! The conservation check: what was accepted must be whole, and what is not finished must have work or an owner who
//! was told (DESIGN.md invariant 4).
//!
//! A page costs the same whatever the backlog. Each rule is one statement, so that it sees one state of the database
//! and a change under way is never taken for a fault.

use std::collections::{BTreeMap, BTreeSet};

use waymark_core::alarm::AlarmKind;
use waymark_core::delivery::ParkReason;
use waymark_core::id::{DeliveryId, Reference, ReferralId};
use waymark_core::port::{CheckFault, CheckPage, StoreError};

use super::insert::select_in;
use super::row::{Fields, Row};
use super::{Backend, alarm, keys};
use crate::error::sql;

/// Referrals of one page, at most.
pub(super) const PAGE_MAX: u32 = 1_000;
/// Rows of one rule and page, at most: one fault is enough to alarm.
const ROWS_MAX: i64 = 5_000;

const PAGE: &str = "SELECT id, reference FROM referral WHERE id > $1 ORDER BY id LIMIT $2";
const REFERENCES: (&str, &str) = (
    "SELECT hash FROM referral_key WHERE kind = 'reference' AND hash IN",
    "",
);

const BY_STATE: &str =
    "SELECT d.state, COUNT(*) AS deliveries FROM referral r JOIN delivery d ON d.referral_id = r.id
    WHERE r.id >= $1 AND r.id <= $2 GROUP BY d.state ORDER BY d.state";

/// Rules that the database decides alone: name, and a statement that gives the referral and the thing at fault.
const RULES: &[(&str, &str)] = &[
    (
        "leg_missing",
        "SELECT r.id AS id, r.id AS thing FROM referral r WHERE r.id >= $1 AND r.id <= $2
         AND r.leg_count <> (SELECT COUNT(*) FROM leg l WHERE l.referral_id = r.id) ORDER BY r.id LIMIT $3",
    ),
    (
        "delivery_missing",
        "SELECT r.id AS id, r.id AS thing FROM referral r WHERE r.id >= $1 AND r.id <= $2
         AND r.delivery_count <> (SELECT COUNT(*) FROM delivery d WHERE d.referral_id = r.id) ORDER BY r.id LIMIT $3",
    ),
    (
        "subject_missing",
        "SELECT r.id AS id, r.subject_id AS thing FROM referral r WHERE r.id >= $1 AND r.id <= $2
         AND NOT EXISTS (SELECT 1 FROM subject s WHERE s.id = r.subject_id) ORDER BY r.id LIMIT $3",
    ),
    (
        "stream_missing",
        "SELECT r.id AS id, r.stream_id AS thing FROM referral r WHERE r.id >= $1 AND r.id <= $2
         AND NOT EXISTS (SELECT 1 FROM log_stream s WHERE s.stream_id = r.stream_id) ORDER BY r.id LIMIT $3",
    ),
    (
        "accept_event_missing",
        "SELECT r.id AS id, r.event_id AS thing FROM referral r WHERE r.id >= $1 AND r.id <= $2
         AND NOT EXISTS (SELECT 1 FROM event e WHERE e.id = r.event_id) ORDER BY r.id LIMIT $3",
    ),
    (
        "accept_entry_missing",
        "SELECT r.id AS id, r.event_id AS thing FROM referral r WHERE r.id >= $1 AND r.id <= $2
         AND NOT EXISTS (SELECT 1 FROM log_outbox o WHERE o.event_id = r.event_id)
         AND NOT EXISTS (SELECT 1 FROM log_event g JOIN log_entry l ON l.idx = g.idx AND l.event_id = g.event_id
             WHERE g.event_id = r.event_id) ORDER BY r.id LIMIT $3",
    ),
    (
        "event_entry_missing",
        "SELECT r.id AS id, e.id AS thing FROM referral r JOIN event e ON e.referral_id = r.id WHERE r.id >= $1 AND r.id <= $2
         AND NOT EXISTS (SELECT 1 FROM log_outbox o WHERE o.event_id = e.id)
         AND NOT EXISTS (SELECT 1 FROM log_event g JOIN log_entry l ON l.idx = g.idx AND l.event_id = g.event_id
             WHERE g.event_id = e.id) ORDER BY r.id, e.id LIMIT $3",
    ),
    (
        "content_missing",
        "SELECT r.id AS id, r.content_body AS thing FROM referral r WHERE r.id >= $1 AND r.id <= $2
         AND (NOT EXISTS (SELECT 1 FROM body b WHERE b.id = r.content_body)
             OR (r.original_body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM body b WHERE b.id = r.original_body)))
         ORDER BY r.id LIMIT $3",
    ),
    (
        "delivery_body_missing",
        "SELECT r.id AS id, d.id AS thing FROM referral r JOIN delivery d ON d.referral_id = r.id WHERE r.id >= $1 AND r.id <= $2
         AND ((d.content_body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM body b WHERE b.id = d.content_body))
             OR (d.note_body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM body b WHERE b.id = d.note_body))
             OR (d.rendered_body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM body b WHERE b.id = d.rendered_body)))
         ORDER BY r.id, d.id LIMIT $3",
    ),
    (
        "wire_missing",
        "SELECT r.id AS id, d.id AS thing FROM referral r JOIN delivery d ON d.referral_id = r.id WHERE r.id >= $1 AND r.id <= $2
         AND NOT EXISTS (SELECT 1 FROM wire w WHERE w.wire_id = d.wire_id AND w.delivery_id = d.id)
         ORDER BY r.id, d.id LIMIT $3",
    ),
    (
        "attempt_missing",
        "SELECT r.id AS id, d.id AS thing FROM referral r JOIN delivery d ON d.referral_id = r.id WHERE r.id >= $1 AND r.id <= $2
         AND d.attempts <> (SELECT COUNT(*) FROM attempt a WHERE a.delivery_id = d.id) ORDER BY r.id, d.id LIMIT $3",
    ),
    (
        // A live delivery is reached from its lane: the lane stands, its head is live, in this lane and not behind
        // this delivery, and it is due some day unless it waits for evidence.
        "delivery_without_lane",
        "SELECT r.id AS id, d.id AS thing FROM referral r JOIN delivery d ON d.referral_id = r.id WHERE r.id >= $1 AND r.id <= $2
         AND d.state IN ('queued', 'attempting', 'retry_wait', 'unknown', 'held', 'awaiting_evidence')
         AND NOT EXISTS (SELECT 1 FROM lane l JOIN delivery h ON h.id = l.head_id
             WHERE l.endpoint_id = d.endpoint_id AND l.subject_id = d.subject_id
             AND h.endpoint_id = l.endpoint_id AND h.subject_id = l.subject_id
             AND h.state IN ('queued', 'attempting', 'retry_wait', 'unknown', 'held', 'awaiting_evidence')
             AND (l.due_ms IS NOT NULL OR h.state = 'awaiting_evidence'))
         ORDER BY r.id, d.id LIMIT $3",
    ),
    (
        "leg_without_owner",
        "SELECT r.id AS id, l.id AS thing FROM referral r JOIN leg l ON l.referral_id = r.id
         WHERE r.id >= $1 AND r.id <= $2
         AND l.state NOT IN ('declined', 'redirected', 'closed', 'cancelled', 'entered_in_error')
         AND (l.owner_agency = '' OR l.owner_role = '' OR l.clock IS NULL OR l.next_action IS NULL)
         ORDER BY r.id, l.id LIMIT $3",
    ),
];

/// Parked deliveries: each must have somebody who was told.
const PARKED: &str = "SELECT r.id AS id, d.id AS thing, d.id AS delivery, d.endpoint_id, d.parked
    FROM referral r JOIN delivery d ON d.referral_id = r.id
    WHERE r.id >= $1 AND r.id <= $2 AND d.state = 'parked' ORDER BY r.id, d.id LIMIT $3";

/// Legs that no message has reached and none is on its way to, with what was meant to: somebody must have been told.
/// A leg whose message arrived waits for the receiver, under its owner and its clock; so does any later state.
const UNSERVED: &str = "SELECT r.id AS id, l.id AS thing, d.id AS delivery, d.endpoint_id, d.parked
    FROM referral r JOIN leg l ON l.referral_id = r.id
    LEFT JOIN delivery d ON d.referral_id = r.id AND d.leg_id = l.id
    WHERE r.id >= $1 AND r.id <= $2 AND l.state = 'submitted'
    AND NOT EXISTS (SELECT 1 FROM delivery x WHERE x.referral_id = r.id AND x.leg_id = l.id
        AND x.kind IN ('new', 'amend')
        AND x.state IN ('queued', 'attempting', 'retry_wait', 'unknown', 'held', 'awaiting_evidence', 'done'))
    ORDER BY r.id, l.id, d.id LIMIT $3";

/// Rules that need an open alarm: name, and the things that somebody must have been told of.
const TOLD: [(&str, &str); 2] = [
    ("parked_without_alarm", PARKED),
    ("leg_without_work", UNSERVED),
];

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
    let mut hashes = BTreeMap::new();
    for row in &rows {
        let row = Fields::new(row, "referral", "id");
        let reference: Reference = row.code("reference")?;
        let id = row.id("id", ReferralId::from_bytes)?;
        hashes.insert(id, keys::reference(store.seal(), &reference));
    }
    let ends = (
        hashes.keys().next().copied(),
        hashes.keys().next_back().copied(),
    );
    let (Some(first), Some(last)) = ends else {
        return Ok(CheckPage::default());
    };
    let range = (first, last);
    let mut faults = unreferenced(store, &hashes).await?;
    for (rule, query) in RULES {
        for row in &over(store, query, range).await? {
            faults.push(fault(rule, row)?);
        }
    }
    for (rule, query) in TOLD {
        let untold = untold(store, query, range).await?;
        if untold.is_empty() {
            continue;
        }
        // Things and alarms are two looks: what a change under way explains is gone at the second.
        let again = self::untold(store, query, range).await?;
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
        by_state: by_state(store, range).await?,
        faults,
        next: more.then_some(last),
    })
}

/// Referrals that the reference on their receipt does not find.
async fn unreferenced(
    store: &Backend,
    hashes: &BTreeMap<ReferralId, [u8; 32]>,
) -> Result<Vec<CheckFault>, StoreError> {
    let wanted: Vec<[u8; 32]> = hashes.values().copied().collect();
    let mut found = BTreeSet::new();
    for row in &select_in(&mut *store.read().await?, REFERENCES, &wanted).await? {
        found.insert(Fields::new(row, "referral_key", "hash").fixed::<32>("hash")?);
    }
    let lost = hashes.iter().filter(|(_, hash)| !found.contains(*hash));
    Ok(lost
        .map(|(id, _)| CheckFault {
            referral: id.to_string(),
            rule: "reference_missing",
            detail: id.to_string(),
        })
        .collect())
}

async fn over(
    store: &Backend,
    query: &'static str,
    (first, last): (ReferralId, ReferralId),
) -> Result<Vec<Row>, StoreError> {
    sqlx::query(query)
        .bind(first.as_bytes().as_slice())
        .bind(last.as_bytes().as_slice())
        .bind(ROWS_MAX)
        .fetch_all(&mut *store.read().await?)
        .await
        .map_err(sql)
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
    query: &'static str,
    range: (ReferralId, ReferralId),
) -> Result<BTreeSet<(String, String)>, StoreError> {
    let mut things: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut endpoints = BTreeSet::new();
    for row in &over(store, query, range).await? {
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

async fn by_state(
    store: &Backend,
    range: (ReferralId, ReferralId),
) -> Result<BTreeMap<String, i64>, StoreError> {
    let rows = sqlx::query(BY_STATE)
        .bind(range.0.as_bytes().as_slice())
        .bind(range.1.as_bytes().as_slice())
        .fetch_all(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    rows.iter()
        .map(|row| {
            let row = Fields::new(row, "delivery", "state");
            Ok((row.text("state")?, row.int("deliveries")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use waymark_core::delivery::DeliveryState;
    use waymark_core::leg::LegState;

    use super::*;

    /// The lists of states in a rule, each once.
    fn lists(rule: &str) -> BTreeSet<Vec<String>> {
        let lists = rule
            .split("state IN ('")
            .flat_map(|part| part.split("state NOT IN ('"));
        let lists = lists.skip(1).filter_map(|rest| rest.split_once("')"));
        lists.map(|(list, _)| sorted(list.split("', '"))).collect()
    }

    fn sorted<'a>(states: impl Iterator<Item = &'a str>) -> Vec<String> {
        let mut states: Vec<String> = states.map(str::to_owned).collect();
        states.sort();
        states
    }

    fn rule(name: &str) -> &'static str {
        RULES.iter().find(|(rule, _)| *rule == name).unwrap().1
    }

    #[test]
    fn the_rules_name_the_states_that_the_domain_names() {
        let live = || {
            DeliveryState::ALL
                .iter()
                .filter(|s| s.blocks_lane())
                .map(|s| s.as_str())
        };
        assert_eq!(
            lists(rule("delivery_without_lane")),
            BTreeSet::from([sorted(live())])
        );
        let served = sorted(live().chain([DeliveryState::Done.as_str()]));
        assert!(lists(UNSERVED).contains(&served));
        let ended = LegState::ALL
            .iter()
            .filter(|s| s.is_terminal())
            .map(|s| s.as_str());
        assert_eq!(
            lists(rule("leg_without_owner")),
            BTreeSet::from([sorted(ended)])
        );
    }
}
