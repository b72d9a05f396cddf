//! What an accept must have alone before anything is kept of it: its message key, its sender's reference, its documents.

use std::collections::{BTreeMap, BTreeSet};

use waymark_core::id::ReferralId;
use waymark_core::port::{ConflictKey, StoreError};

use super::accept::{Answer, Done, Item, Numbered};
use super::insert::{insert, select_in};
use super::row::Fields;
use super::write::{Write, key_kind};
use super::{document, keys};
use crate::error::{Fault, unavailable};
use crate::seal::Seal;

const MESSAGE_KEY: (&str, &str) = (
    "INSERT INTO message_key (hash, content_hash, referral_id, event_id, created_ms)",
    "ON CONFLICT (hash) DO NOTHING RETURNING hash",
);
const READ_MESSAGE_KEY: (&str, &str) = (
    "SELECT m.hash, m.content_hash, m.referral_id, m.event_id, r.event_id AS accepted_by FROM message_key m \
     JOIN referral r ON r.id = m.referral_id WHERE m.hash IN",
    "",
);

/// Claims message keys; answers items whose key was used before. Returns the rest.
pub(super) async fn claim_messages<'a>(
    w: &mut Write,
    batch: Vec<Numbered<'a>>,
    answers: &mut Vec<(usize, Answer)>,
) -> Result<Vec<Numbered<'a>>, StoreError> {
    let rows = insert(w.conn(), MESSAGE_KEY, &batch, |row, (_, item)| {
        row.push_bind(item.message.as_slice())
            .push_bind(item.content.as_slice())
            .push_bind(item.accept.referral.as_bytes().as_slice())
            .push_bind(item.accept.event.as_bytes().as_slice())
            .push_bind(item.accept.at.as_ms());
    })
    .await?;
    let mut won = BTreeSet::new();
    for row in &rows {
        won.insert(Fields::new(row, "message_key", "hash").fixed::<32>("hash")?);
    }
    let (fresh, used): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .partition(|(_, item)| won.contains(&item.message));
    let hashes: Vec<[u8; 32]> = used.iter().map(|(_, item)| item.message).collect();
    let mut known = BTreeMap::new();
    for row in select_in(w.conn(), READ_MESSAGE_KEY, &hashes).await? {
        let row = Fields::new(&row, "message_key", "hash");
        let same: [u8; 32] = row.fixed("content_hash")?;
        let referral = row.id("referral_id", ReferralId::from_bytes)?;
        known.insert(
            row.fixed::<32>("hash")?,
            (
                same,
                referral,
                row.fixed::<16>("event_id")? == row.fixed("accepted_by")?,
            ),
        );
    }
    for (index, item) in used {
        let (content, referral, accepts) = *known
            .get(&item.message)
            .ok_or_else(|| unavailable(Fault::Missing("a message key")))?;
        // A key that a later change of a referral came under is no accept, whatever its content.
        let answer = if accepts && content == item.content {
            Ok(Done::Repeated(referral))
        } else {
            Err(Item::conflict(ConflictKey::Message, referral))
        };
        answers.push((index, answer));
    }
    Ok(fresh)
}

const REFERRAL_KEY: (&str, &str) = (
    "INSERT INTO referral_key (kind, hash, content_hash, referral_id)",
    "ON CONFLICT (kind, hash) DO NOTHING RETURNING hash",
);
const READ_SENDER_KEY: (&str, &str) = (
    "SELECT k.hash, k.content_hash, k.referral_id, r.event_id FROM referral_key k \
     JOIN referral r ON r.id = k.referral_id WHERE k.kind = 'sender' AND k.hash IN",
    "",
);

/// Claims the senders' own references; answers items whose reference was used before.
pub(super) async fn claim_references<'a>(
    w: &mut Write,
    batch: Vec<Numbered<'a>>,
    answers: &mut Vec<(usize, Answer)>,
) -> Result<Vec<Numbered<'a>>, StoreError> {
    let mut named: Vec<(&Item, [u8; 32], [u8; 32])> = batch
        .iter()
        .filter_map(|(_, item)| {
            item.sender_reference
                .map(|(hash, content)| (*item, hash, content))
        })
        .collect();
    named.sort_by_key(|(_, hash, _)| *hash);
    let rows = insert(
        w.conn(),
        REFERRAL_KEY,
        &named,
        |row, (item, hash, content)| {
            row.push_bind(key_kind::SENDER)
                .push_bind(hash.as_slice())
                .push_bind(content.as_slice())
                .push_bind(item.accept.referral.as_bytes().as_slice());
        },
    )
    .await?;
    let mut won = BTreeSet::new();
    for row in &rows {
        won.insert(Fields::new(row, "referral_key", "hash").fixed::<32>("hash")?);
    }
    let (fresh, used): (Vec<_>, Vec<_>) = batch.into_iter().partition(|(_, item)| {
        item.sender_reference
            .is_none_or(|(hash, _)| won.contains(&hash))
    });
    answer_used_references(w, used, answers).await?;
    Ok(fresh)
}

async fn answer_used_references(
    w: &mut Write,
    used: Vec<Numbered<'_>>,
    answers: &mut Vec<(usize, Answer)>,
) -> Result<(), StoreError> {
    let hashes: Vec<[u8; 32]> = used
        .iter()
        .filter_map(|(_, item)| item.sender_reference.map(|(hash, _)| hash))
        .collect();
    let mut known = BTreeMap::new();
    for row in select_in(w.conn(), READ_SENDER_KEY, &hashes).await? {
        let row = Fields::new(&row, "referral_key", "hash");
        let content: Option<[u8; 32]> = row.opt_fixed("content_hash")?;
        let referral = row.id("referral_id", ReferralId::from_bytes)?;
        let event: [u8; 16] = row.fixed("event_id")?;
        known.insert(row.fixed::<32>("hash")?, (content, referral, event));
    }
    for (index, item) in used {
        let Some((hash, content)) = item.sender_reference else {
            continue;
        };
        let (first, referral, event) = *known
            .get(&hash)
            .ok_or_else(|| unavailable(Fault::Missing("a sender's reference")))?;
        if first == Some(content) {
            keys::point_message(w, &item.message, referral, &event).await?;
            answers.push((index, Ok(Done::Repeated(referral))));
        } else {
            keys::drop_message(w, &item.message).await?;
            answers.push((index, Err(Item::conflict(ConflictKey::Reference, referral))));
        }
    }
    Ok(())
}

/// Attaches documents; answers items that name one which is not held as they describe it.
pub(super) async fn claim_documents<'a>(
    w: &mut Write,
    seal: &Seal,
    batch: Vec<Numbered<'a>>,
    answers: &mut Vec<(usize, Answer)>,
) -> Result<Vec<Numbered<'a>>, StoreError> {
    let mut fresh = Vec::with_capacity(batch.len());
    let mut taken = BTreeSet::new();
    for (index, item) in batch {
        let a = &item.accept;
        let mut fault = None;
        for (id, sha256) in &a.documents {
            let free = taken.insert(*id);
            if !free || !document::is_held(w, seal, (*id, sha256), &a.sender).await? {
                fault = Some(*id);
                break;
            }
        }
        match fault {
            None => fresh.push((index, item)),
            Some(id) => {
                keys::drop_message(w, &item.message).await?;
                if let Some((hash, _)) = item.sender_reference {
                    keys::drop_sender(w, &hash).await?;
                }
                answers.push((index, Err(StoreError::Document(id))));
            }
        }
    }
    Ok(fresh)
}
