//! The rows of accepted referrals, in set statements.

use std::collections::BTreeMap;

use waymark_core::id::{BodyId, SubjectId};
use waymark_core::port::{Accept, StoreError};

use super::accept::Item;
use super::insert::{insert, select_in};
use super::row::Fields;
use super::subject::{BodyRow, insert_bodies, insert_subjects, read_subject};
use super::write::{
    Happened, Leaf, Queued, REFERRALS, Write, insert_events, insert_leaves, insert_openings,
    open_alarms, queue, seal_openings,
};
use super::{document, keys, likeness};
use crate::error::{Fault, internal};
use crate::seal::{Seal, Subject, WrappedKey};

const SUBJECT_KEY: (&str, &str) = (
    "INSERT INTO subject_key (kind, hash, subject_id)",
    "ON CONFLICT (kind, hash) DO NOTHING RETURNING kind, hash",
);
const KNOWN_BY_NHS: (&str, &str) = (
    "SELECT k.kind, k.hash, s.id, s.wrapped_key, s.kek_epoch FROM subject_key k \
     JOIN subject s ON s.id = k.subject_id WHERE k.kind = 'nhs' AND k.hash IN",
    "",
);
const KNOWN_BY_UPN: (&str, &str) = (
    "SELECT k.kind, k.hash, s.id, s.wrapped_key, s.kek_epoch FROM subject_key k \
     JOIN subject s ON s.id = k.subject_id WHERE k.kind = 'upn' AND k.hash IN",
    "",
);

type SubjectHash = (String, [u8; 32]);

/// Finds or makes the subject of each item (ruling 1).
async fn subjects(w: &mut Write, seal: &Seal, items: &[&Item]) -> Result<Vec<Subject>, StoreError> {
    let mut candidates: BTreeMap<SubjectHash, (Subject, WrappedKey)> = BTreeMap::new();
    for item in items {
        if let Some((kind, hash)) = item.subject {
            candidates.insert((kind.to_owned(), hash), seal.new_subject(item.accept.at)?);
        }
    }
    let rows: Vec<(&SubjectHash, SubjectId)> = candidates
        .iter()
        .map(|(hash, (subject, _))| (hash, subject.id))
        .collect();
    let won = insert(w.conn(), SUBJECT_KEY, &rows, |row, ((kind, hash), id)| {
        row.push_bind(kind.as_str())
            .push_bind(hash.as_slice())
            .push_bind(id.as_bytes().as_slice());
    })
    .await?;
    let at = items.first().map_or(0, |item| item.accept.at.as_ms());
    let (mut found, mut made) = (BTreeMap::new(), Vec::new());
    for row in &won {
        let row = Fields::new(row, "subject_key", "hash");
        let key = (row.text("kind")?, row.fixed::<32>("hash")?);
        if let Some((subject, wrapped)) = candidates.remove(&key) {
            made.push((subject.id, wrapped, at));
            found.insert(key, subject);
        }
    }
    for (kind, select) in [("nhs", KNOWN_BY_NHS), ("upn", KNOWN_BY_UPN)] {
        let hashes: Vec<[u8; 32]> = candidates
            .keys()
            .filter(|(k, _)| k == kind)
            .map(|(_, hash)| *hash)
            .collect();
        for row in select_in(w.conn(), select, &hashes).await? {
            let fields = Fields::new(&row, "subject_key", "hash");
            let key = (fields.text("kind")?, fields.fixed::<32>("hash")?);
            found.insert(key, read_subject(seal, &row)?);
        }
    }
    let mut subjects = Vec::with_capacity(items.len());
    for item in items {
        if let Some((kind, hash)) = item.subject {
            let found = found.get(&(kind.to_owned(), hash)).cloned();
            subjects.push(found.ok_or_else(|| internal(Fault::Missing("a subject")))?);
        } else {
            let (subject, wrapped) = seal.new_subject(item.accept.at)?;
            made.push((subject.id, wrapped, at));
            subjects.push(subject);
        }
    }
    made.sort_by_key(|(id, ..)| *id);
    insert_subjects(w, &made).await?;
    Ok(subjects)
}

const REFERRAL: (&str, &str) = (
    "INSERT INTO referral (id, reference, sender, subject_id, stream_id, event_id, version, content_body, \
     original_body, pathway, priority, safeguarding, consent_withdrawn, release_number, accepted_ms, leg_count, \
     delivery_count, traceparent, conversation_body)",
    "",
);
const REFERENCE: (&str, &str) = ("INSERT INTO reference (reference, referral_id)", "");
const STREAM: (&str, &str) = (
    "INSERT INTO log_stream (stream_id, next_seq, prev_leaf)",
    "",
);

/// Writes the rows of accepted items, which came in this order.
pub(super) async fn keep(w: &mut Write, seal: &Seal, items: &[&Item]) -> Result<(), StoreError> {
    keep_references(w, items).await?;
    let subjects = subjects(w, seal, items).await?;
    let pairs: Vec<(&Item, &Subject)> = items.iter().copied().zip(&subjects).collect();
    for (item, subject) in &pairs {
        let a = &item.accept;
        for (id, _) in &a.documents {
            document::attach(w, seal, *id, a.referral, subject).await?;
        }
    }
    let mut bodies = Vec::with_capacity(pairs.len());
    let mut openings = Vec::new();
    for (item, subject) in &pairs {
        for body in &item.bodies {
            bodies.push(BodyRow::new(body, subject, Some(item.accept.referral))?);
        }
        openings.extend(seal_openings(
            item.accept.event,
            &item.accept.openings,
            subject,
        )?);
    }
    insert_bodies(w, &bodies).await?;
    keep_referrals(w, &pairs).await?;
    insert(w.conn(), STREAM, items, |row, item| {
        row.push_bind(item.accept.stream.as_bytes().as_slice())
            .push_bind(1_i64)
            .push_bind(item.leaf.hash.as_slice());
    })
    .await?;
    let legs: Vec<keys::Opened<'_>> = items
        .iter()
        .flat_map(|item| {
            let a = &item.accept;
            keys::Opened::all(&a.legs, (a.referral, a.event), 0)
        })
        .collect();
    keys::insert_legs(w, &legs).await?;
    let events: Vec<Happened<'_>> = items
        .iter()
        .map(|item| Happened {
            event: &item.event,
            referral: item.accept.referral,
            at: item.accept.at,
            delivery: None,
        })
        .collect();
    insert_events(w, &events).await?;
    let leaves: Vec<&Leaf> = items.iter().map(|item| &item.leaf).collect();
    insert_leaves(w, &leaves).await?;
    insert_openings(w, &openings).await?;
    let queued: Vec<Queued<'_>> = pairs.iter().flat_map(|(item, s)| queued(item, s)).collect();
    queue(w, &queued).await?;
    let mut alarms: Vec<_> = items
        .iter()
        .flat_map(|item| {
            item.accept
                .alarms
                .iter()
                .map(|alarm| (alarm, item.accept.at))
        })
        .collect();
    alarms.extend(likeness::doubted(w, &pairs).await?);
    open_alarms(w, &alarms).await?;
    w.bump(REFERRALS, i64::try_from(items.len()).map_err(internal)?);
    Ok(())
}

fn queued<'a>(item: &'a Item, subject: &'a Subject) -> impl Iterator<Item = Queued<'a>> {
    let a = &item.accept;
    a.deliveries.iter().map(move |delivery| Queued {
        delivery,
        referral: a.referral,
        subject: subject.id,
        traceparent: a.traceparent.as_deref(),
        at: a.at,
    })
}

async fn keep_references(w: &mut Write, items: &[&Item]) -> Result<(), StoreError> {
    let mut rows: Vec<&Accept> = items.iter().map(|item| &item.accept).collect();
    rows.sort_unstable_by(|a, b| a.reference.cmp(&b.reference));
    insert(w.conn(), REFERENCE, &rows, |row, a| {
        row.push_bind(a.reference.as_str())
            .push_bind(a.referral.as_bytes().as_slice());
    })
    .await?;
    Ok(())
}

async fn keep_referrals(w: &mut Write, pairs: &[(&Item, &Subject)]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(pairs.len());
    for (item, subject) in pairs {
        let legs = i64::try_from(item.accept.legs.len()).map_err(internal)?;
        let deliveries = i64::try_from(item.accept.deliveries.len()).map_err(internal)?;
        let release = i64::try_from(item.accept.release)
            .map_err(|_| internal(Fault::Number("release_number")))?;
        rows.push((*item, subject.id, release, legs, deliveries));
    }
    insert(
        w.conn(),
        REFERRAL,
        &rows,
        |row, (item, subject, release, legs, deliveries)| {
            let (a, id) = (&item.accept, |id: &BodyId| id.as_bytes().to_vec());
            row.push_bind(a.referral.as_bytes().as_slice())
                .push_bind(a.reference.as_str())
                .push_bind(a.sender.as_str())
                .push_bind(subject.as_bytes().as_slice())
                .push_bind(a.stream.as_bytes().as_slice())
                .push_bind(a.event.as_bytes().as_slice())
                .push_bind(1_i64)
                .push_bind(a.body.id.as_bytes().as_slice())
                .push_bind(item.original.as_ref().map(id))
                .push_bind(a.pathway.as_str())
                .push_bind(a.priority.as_str())
                .push_bind(i64::from(a.safeguarding))
                .push_bind(0_i64)
                .push_bind(*release)
                .push_bind(a.at.as_ms())
                .push_bind(*legs)
                .push_bind(*deliveries)
                .push_bind(a.traceparent.as_deref())
                .push_bind(item.conversation.as_ref().map(id));
        },
    )
    .await?;
    Ok(())
}
