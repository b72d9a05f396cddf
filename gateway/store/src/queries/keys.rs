//! Keyed hashes that messages and referrals are found by, and the legs' rows.

use waymark_core::id::{AgencyId, EventId, ReferralId, RuleId};
use waymark_core::leg::LegState;
use waymark_core::personal::Personal;
use waymark_core::port::{MessageKey, NewLeg, StoreError};
use waymark_core::referral::SenderReference;
use waymark_core::time::Timestamp;

use super::insert::insert;
use super::write::{Write, key_kind};
use crate::error::sql;
use crate::seal::Seal;

/// The keyed hashes of a message's key and of its content.
pub(super) fn message(seal: &Seal, key: &MessageKey) -> ([u8; 32], [u8; 32]) {
    (
        message_key(seal, &key.sender, &key.key),
        seal.keyed("message_key.content", &[key.content.expose()]),
    )
}

/// The keyed hash of a message's key alone.
pub(super) fn message_key(seal: &Seal, sender: &AgencyId, key: &Personal<String>) -> [u8; 32] {
    let parts = [sender.as_str().as_bytes(), key.expose().as_bytes()];
    seal.keyed("message_key", &parts)
}

/// The keyed hash of a sender's own reference.
pub(super) fn sender(seal: &Seal, sender: &AgencyId, reference: &SenderReference) -> [u8; 32] {
    let parts = [sender.as_str(), &reference.namespace, &reference.value];
    seal.keyed("referral_key.sender", &parts.map(str::as_bytes))
}

/// Claims a message key.
const CLAIM_MESSAGE: &str = "INSERT INTO message_key (hash, content_hash, referral_id, event_id, created_ms) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (hash) DO NOTHING";
/// Points a message's key at what it made.
pub(super) const POINT_MESSAGE: &str =
    "UPDATE message_key SET referral_id = $2, event_id = $3 WHERE hash = $1";
const DROP_MESSAGE: &str = "DELETE FROM message_key WHERE hash = $1";
const DROP_KEY: &str = "DELETE FROM referral_key WHERE kind = $1 AND hash = $2";

/// Claims the key of a message, by its keyed hashes, for what the message makes and its event; false where it is claimed
/// already.
pub(super) async fn claim_message(
    w: &mut Write,
    (hash, content): (&[u8; 32], &[u8; 32]),
    (made, event): (&[u8; 16], EventId),
    at: Timestamp,
) -> Result<bool, StoreError> {
    let claimed = sqlx::query(CLAIM_MESSAGE)
        .bind(hash.as_slice())
        .bind(content.as_slice())
        .bind(made.as_slice())
        .bind(event.as_bytes().as_slice())
        .bind(at.as_ms())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(claimed.rows_affected() == 1)
}

/// Points a message key claimed in this transaction at the referral that holds its content already.
pub(super) async fn point_message(
    w: &mut Write,
    hash: &[u8; 32],
    referral: ReferralId,
    event: &[u8; 16],
) -> Result<(), StoreError> {
    sqlx::query(POINT_MESSAGE)
        .bind(hash.as_slice())
        .bind(referral.as_bytes().as_slice())
        .bind(event.as_slice())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(())
}

/// Gives back a message key claimed in this transaction.
pub(super) async fn drop_message(w: &mut Write, hash: &[u8; 32]) -> Result<(), StoreError> {
    sqlx::query(DROP_MESSAGE)
        .bind(hash.as_slice())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(())
}

/// Gives back a sender's reference claimed in this transaction.
pub(super) async fn drop_sender(w: &mut Write, hash: &[u8; 32]) -> Result<(), StoreError> {
    sqlx::query(DROP_KEY)
        .bind(key_kind::SENDER)
        .bind(hash.as_slice())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(())
}

const LEG: (&str, &str) = (
    "INSERT INTO leg (id, referral_id, event_id, position, service, agency, rule, triage, owner_agency, owner_role, \
     state, clock, clock_started_ms, next_action, first_clock, first_next_action)",
    "",
);

/// A leg to open, with what it inherits.
#[derive(Clone, Copy)]
pub(super) struct Opened<'a> {
    /// The leg.
    pub(super) leg: &'a NewLeg,
    /// Its referral.
    pub(super) referral: ReferralId,
    /// The event that opens it.
    pub(super) event: EventId,
    /// Its place among the referral's legs, from 0.
    pub(super) position: i64,
}

impl<'a> Opened<'a> {
    /// Legs that one event opens, after `before` others.
    pub(super) fn all(
        legs: &'a [NewLeg],
        (referral, event): (ReferralId, EventId),
        before: i64,
    ) -> impl Iterator<Item = Self> {
        legs.iter().zip(before..).map(move |(leg, position)| Self {
            leg,
            referral,
            event,
            position,
        })
    }
}

/// Opens legs.
pub(super) async fn insert_legs(w: &mut Write, legs: &[Opened<'_>]) -> Result<(), StoreError> {
    insert(w.conn(), LEG, legs, |row, opened| {
        let leg = opened.leg;
        row.push_bind(leg.id.as_bytes().as_slice())
            .push_bind(opened.referral.as_bytes().as_slice())
            .push_bind(opened.event.as_bytes().as_slice())
            .push_bind(opened.position)
            .push_bind(leg.service.as_str())
            .push_bind(leg.agency.as_str())
            .push_bind(leg.rule.as_ref().map(RuleId::as_str))
            .push_bind(leg.triage.as_deref())
            .push_bind(leg.owner.agency.as_str())
            .push_bind(leg.owner.role.as_str())
            .push_bind(LegState::Submitted.as_str())
            .push_bind(leg.clock.as_str())
            .push_bind(leg.clock_started.as_ms())
            .push_bind(leg.next_action.as_str())
            .push_bind(leg.clock.as_str())
            .push_bind(leg.next_action.as_str());
    })
    .await?;
    Ok(())
}
