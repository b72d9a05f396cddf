//! Accepting: one transaction of a bounded number of set statements for many referrals.

use std::collections::{BTreeMap, BTreeSet};

use waymark_core::id::{ReferralId, SubjectId};
use waymark_core::leg::LegState;
use waymark_core::port::{
    Accept, Accepted, AcceptedLeg, ConflictKey, EventKind, NewEvent, NewLeg, StoreError,
};

use super::document;
use super::insert::{insert, select_in};
use super::row::Fields;
use super::subject::{
    BodyRow, SealedBody, insert_bodies, insert_subjects, read_subject, seal_bodies, subject_hash,
};
use super::write::{
    Happened, Leaf, Queued, REFERRALS, Write, insert_events, insert_leaves, insert_openings,
    key_kind, open_alarms, queue, seal_openings,
};
use super::{Shared, keys};
use crate::error::{Fault, internal, lost_race, unavailable};
use crate::seal::{Seal, Subject, WrappedKey};

/// Times that a batch which lost a race is run again.
const RACES_MAX: u32 = 5;

/// An accept, with all that can be made before the transaction.
pub(super) struct Item {
    accept: Accept,
    message: [u8; 32],
    content: [u8; 32],
    /// The sender's own reference and the digest of what came under it.
    sender_reference: Option<([u8; 32], [u8; 32])>,
    subject: Option<(&'static str, [u8; 32])>,
    bodies: Vec<SealedBody>,
    leaf: Leaf,
    event: NewEvent,
}

/// What became of an accept.
#[derive(Clone, Debug)]
pub(super) enum Done {
    /// Accepted now, or as the twin of one accepted now.
    Accepted(Box<Accepted>),
    /// Accepted before, as this referral.
    Repeated(ReferralId),
}

impl Item {
    /// Hashes, seals and encodes.
    pub(super) async fn prepare(seal: &Seal, mut accept: Accept) -> Result<Self, StoreError> {
        let (message, content) = keys::message(seal, &accept.message_key);
        let sender_reference = accept.sender_reference.take().map(|(reference, content)| {
            let digest = seal.keyed("referral_key.content", &[content.expose()]);
            (keys::sender(seal, &accept.sender, &reference), digest)
        });
        let mut bodies = vec![accept.body.clone()];
        bodies.extend(accept.original.take());
        let bodies = seal_bodies(bodies).await?;
        let event = NewEvent {
            id: accept.event,
            kind: EventKind::Accepted,
            leg: None,
            delivery: None,
            source: accept.sender.clone(),
            source_version: None,
            state: Some(LegState::Submitted),
            reception: None,
            code: EventKind::Accepted.as_str().to_owned(),
            text: None,
        };
        Ok(Self {
            leaf: Leaf::of(&accept.entry.clone().placed(0, None))?,
            subject: subject_hash(seal, &accept.subject),
            message,
            content,
            sender_reference,
            bodies,
            event,
            accept,
        })
    }

    fn accepted(&self) -> Accepted {
        let a = &self.accept;
        Accepted {
            referral: a.referral,
            reference: a.reference.clone(),
            event: a.event,
            stream: a.stream,
            leaf: self.leaf.hash,
            entry: self.leaf.bytes.clone(),
            openings: a.openings.clone(),
            at: a.at,
            release: a.release,
            legs: a.legs.iter().map(accepted_leg).collect(),
            repeated: false,
        }
    }

    fn conflict(key: ConflictKey, existing: ReferralId) -> StoreError {
        StoreError::Conflict { key, existing }
    }
}

/// A leg as the receipt shows it.
pub(super) fn accepted_leg(leg: &NewLeg) -> AcceptedLeg {
    AcceptedLeg {
        id: leg.id,
        service: leg.service.clone(),
        agency: leg.agency.clone(),
        rule: leg.rule.clone(),
        triage: leg.triage.clone(),
    }
}

type Answer = Result<Done, StoreError>;

/// Accepts what came together. Twins wait for the first of them; an item that fails alone fails alone.
pub(super) async fn accept_all(shared: &Shared, items: Vec<Item>) -> Vec<Answer> {
    let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
    let mut settled = BTreeSet::new();
    let mut waiting: Vec<(usize, &Item)> = items.iter().enumerate().collect();
    while !waiting.is_empty() {
        let (round, twins) = without_twins(&waiting, &settled);
        answers.extend(accept_round(shared, &round).await);
        for (index, item) in &round {
            if let (Some((hash, _)), Some(Ok(_))) = (item.sender_reference, answers.get(index)) {
                settled.insert(hash);
            }
        }
        waiting = Vec::with_capacity(twins.len());
        for (index, item) in twins {
            let first = round.iter().find(|(_, first)| first.message == item.message);
            let answer = first.and_then(|(at, first)| twin_of(first, answers.get(at)?, item));
            match answer {
                Some(answer) => drop(answers.insert(index, answer)),
                None => waiting.push((index, item)),
            }
        }
    }
    answers.into_values().collect()
}

type Numbered<'a> = (usize, &'a Item);

/// Takes the first of each message key and of each sender's reference that is not settled yet; the rest are twins.
fn without_twins<'a>(
    waiting: &[Numbered<'a>],
    settled: &BTreeSet<[u8; 32]>,
) -> (Vec<Numbered<'a>>, Vec<Numbered<'a>>) {
    let (mut messages, mut references) = (BTreeSet::new(), BTreeSet::new());
    waiting.iter().partition(|(_, item)| {
        messages.insert(item.message)
            && item
                .sender_reference
                .is_none_or(|(hash, _)| settled.contains(&hash) || references.insert(hash))
    })
}

/// What a twin is answered once the first of its message key is accepted; `None` when that failed.
fn twin_of(first: &Item, answer: &Answer, twin: &Item) -> Option<Answer> {
    let done = answer.as_ref().ok()?;
    if first.content != twin.content {
        let existing = match done {
            Done::Accepted(accepted) => accepted.referral,
            Done::Repeated(referral) => *referral,
        };
        return Some(Err(Item::conflict(ConflictKey::Message, existing)));
    }
    Some(Ok(match done {
        Done::Accepted(accepted) => {
            Done::Accepted(Box::new(Accepted { repeated: true, ..(**accepted).clone() }))
        }
        Done::Repeated(referral) => Done::Repeated(*referral),
    }))
}

async fn accept_round(shared: &Shared, round: &[Numbered<'_>]) -> Vec<(usize, Answer)> {
    let error = match accept_batch(shared, round).await {
        Ok(answers) => return answers,
        Err(error) => error,
    };
    let [(alone, _)] = round else {
        return after_failure(shared, round, &error).await;
    };
    vec![(*alone, Err(error))]
}

/// A fault of the database fails all alike; any other error must be one item's, so each is run by itself.
async fn after_failure(
    shared: &Shared,
    round: &[Numbered<'_>],
    error: &StoreError,
) -> Vec<(usize, Answer)> {
    let mut answers = Vec::with_capacity(round.len());
    for numbered in round {
        let answer = match error {
            StoreError::Unavailable(source) => {
                vec![(numbered.0, Err(unavailable(Fault::Batch(source.to_string()))))]
            }
            StoreError::Exhausted { limit } => {
                vec![(numbered.0, Err(StoreError::Exhausted { limit }))]
            }
            _ => match accept_batch(shared, std::slice::from_ref(numbered)).await {
                Ok(answers) => answers,
                Err(error) => vec![(numbered.0, Err(error))],
            },
        };
        answers.extend(answer);
    }
    answers
}

async fn accept_batch(
    shared: &Shared,
    batch: &[Numbered<'_>],
) -> Result<Vec<(usize, Answer)>, StoreError> {
    let mut races = 0;
    loop {
        match accept_once(shared, batch).await {
            Err(error) if lost_race(&error) && races < RACES_MAX => races += 1,
            other => return other,
        }
    }
}

/// One transaction. `Err` means that nothing of it is known to be kept.
async fn accept_once(
    shared: &Shared,
    batch: &[Numbered<'_>],
) -> Result<Vec<(usize, Answer)>, StoreError> {
    let mut w = shared.begin_on(&shared.pools.committer).await?;
    let mut answers = Vec::with_capacity(batch.len());
    let mut by_key = batch.to_vec();
    by_key.sort_by_key(|(_, item)| item.message);
    let fresh = claim_messages(&mut w, by_key, &mut answers).await?;
    let fresh = claim_references(&mut w, fresh, &mut answers).await?;
    let mut fresh = claim_documents(&mut w, &shared.seal, fresh, &mut answers).await?;
    // Twins of one lane keep the order in which they came.
    fresh.sort_by_key(|(index, _)| *index);
    if !fresh.is_empty() {
        let items: Vec<&Item> = fresh.iter().map(|(_, item)| *item).collect();
        keep(&mut w, &shared.seal, &items).await?;
    }
    let queued = fresh.iter().any(|(_, item)| !item.accept.deliveries.is_empty());
    w.commit().await?;
    if queued {
        shared.work_was_added();
    }
    answers.extend(
        fresh.iter().map(|(index, item)| (*index, Ok(Done::Accepted(Box::new(item.accepted()))))),
    );
    Ok(answers)
}

const MESSAGE_KEY: (&str, &str) = (
    "INSERT INTO message_key (hash, content_hash, referral_id, event_id, created_ms)",
    "ON CONFLICT (hash) DO NOTHING RETURNING hash",
);
const READ_MESSAGE_KEY: (&str, &str) = (
    "SELECT m.hash, m.content_hash, m.referral_id, CASE WHEN r.event_id = m.event_id THEN 1 ELSE 0 END AS accepts \
     FROM message_key m JOIN referral r ON r.id = m.referral_id WHERE m.hash IN",
    "",
);

/// Claims message keys; answers items whose key was used before. Returns the rest.
async fn claim_messages<'a>(
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
    let (fresh, used): (Vec<_>, Vec<_>) =
        batch.into_iter().partition(|(_, item)| won.contains(&item.message));
    let hashes: Vec<[u8; 32]> = used.iter().map(|(_, item)| item.message).collect();
    let mut known = BTreeMap::new();
    for row in select_in(w.conn(), READ_MESSAGE_KEY, &hashes).await? {
        let row = Fields::new(&row, "message_key", "hash");
        let same: [u8; 32] = row.fixed("content_hash")?;
        let referral = row.id("referral_id", ReferralId::from_bytes)?;
        known.insert(row.fixed::<32>("hash")?, (same, referral, row.flag("accepts")?));
    }
    for (index, item) in used {
        let (content, referral, accepts) =
            *known.get(&item.message).ok_or_else(|| unavailable(Fault::Missing("a message key")))?;
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

/// Claims the senders' own references, then ours; answers items whose reference was used before.
async fn claim_references<'a>(
    w: &mut Write,
    batch: Vec<Numbered<'a>>,
    answers: &mut Vec<(usize, Answer)>,
) -> Result<Vec<Numbered<'a>>, StoreError> {
    let mut named: Vec<(&Item, [u8; 32], [u8; 32])> = batch
        .iter()
        .filter_map(|(_, item)| item.sender_reference.map(|(hash, content)| (*item, hash, content)))
        .collect();
    named.sort_by_key(|(_, hash, _)| *hash);
    let rows = insert(w.conn(), REFERRAL_KEY, &named, |row, (item, hash, content)| {
        row.push_bind(key_kind::SENDER)
            .push_bind(hash.as_slice())
            .push_bind(content.as_slice())
            .push_bind(item.accept.referral.as_bytes().as_slice());
    })
    .await?;
    let mut won = BTreeSet::new();
    for row in &rows {
        won.insert(Fields::new(row, "referral_key", "hash").fixed::<32>("hash")?);
    }
    let (fresh, used): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .partition(|(_, item)| item.sender_reference.is_none_or(|(hash, _)| won.contains(&hash)));
    answer_used_references(w, used, answers).await?;
    Ok(fresh)
}

async fn answer_used_references(
    w: &mut Write,
    used: Vec<Numbered<'_>>,
    answers: &mut Vec<(usize, Answer)>,
) -> Result<(), StoreError> {
    let hashes: Vec<[u8; 32]> =
        used.iter().filter_map(|(_, item)| item.sender_reference.map(|(hash, _)| hash)).collect();
    let mut known = BTreeMap::new();
    for row in select_in(w.conn(), READ_SENDER_KEY, &hashes).await? {
        let row = Fields::new(&row, "referral_key", "hash");
        let content: Option<[u8; 32]> = row.opt_fixed("content_hash")?;
        let referral = row.id("referral_id", ReferralId::from_bytes)?;
        let event: [u8; 16] = row.fixed("event_id")?;
        known.insert(row.fixed::<32>("hash")?, (content, referral, event));
    }
    for (index, item) in used {
        let Some((hash, content)) = item.sender_reference else { continue };
        let (first, referral, event) =
            *known.get(&hash).ok_or_else(|| unavailable(Fault::Missing("a sender's reference")))?;
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
async fn claim_documents<'a>(
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
            candidates.insert((kind.to_owned(), hash), seal.new_subject()?);
        }
    }
    let rows: Vec<(&SubjectHash, SubjectId)> =
        candidates.iter().map(|(hash, (subject, _))| (hash, subject.id)).collect();
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
        let hashes: Vec<[u8; 32]> =
            candidates.keys().filter(|(k, _)| k == kind).map(|(_, hash)| *hash).collect();
        for row in select_in(w.conn(), select, &hashes).await? {
            let fields = Fields::new(&row, "subject_key", "hash");
            let key = (fields.text("kind")?, fields.fixed::<32>("hash")?);
            found.insert(key, read_subject(seal, &row)?);
        }
    }
    let mut subjects = Vec::with_capacity(items.len());
    for item in items {
        subjects.push(match item.subject {
            Some((kind, hash)) => found
                .get(&(kind.to_owned(), hash))
                .cloned()
                .ok_or_else(|| internal(Fault::Missing("a subject")))?,
            None => {
                let (subject, wrapped) = seal.new_subject()?;
                made.push((subject.id, wrapped, at));
                subject
            }
        });
    }
    made.sort_by_key(|(id, ..)| *id);
    insert_subjects(w, &made).await?;
    Ok(subjects)
}

const REFERRAL: (&str, &str) = (
    "INSERT INTO referral (id, reference, sender, subject_id, stream_id, event_id, version, content_body, \
     original_body, pathway, priority, safeguarding, consent_withdrawn, release_number, accepted_ms, leg_count, \
     delivery_count, traceparent)",
    "",
);
const STREAM: (&str, &str) = ("INSERT INTO log_stream (stream_id, next_seq, prev_leaf)", "");

/// Writes the rows of accepted items, which came in this order.
async fn keep(w: &mut Write, seal: &Seal, items: &[&Item]) -> Result<(), StoreError> {
    keep_references(w, seal, items).await?;
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
        openings.extend(seal_openings(item.accept.event, &item.accept.openings, subject)?);
    }
    insert_bodies(w, &bodies).await?;
    keep_referrals(w, &pairs).await?;
    insert(w.conn(), STREAM, items, |row, item| {
        row.push_bind(item.accept.stream.as_bytes().as_slice())
            .push_bind(1_i64)
            .push_bind(item.leaf.hash.as_slice());
    })
    .await?;
    let legs: Vec<(ReferralId, &NewLeg)> = items
        .iter()
        .flat_map(|item| item.accept.legs.iter().map(|leg| (item.accept.referral, leg)))
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
    let alarms: Vec<_> = items
        .iter()
        .flat_map(|item| item.accept.alarms.iter().map(|alarm| (alarm, item.accept.at)))
        .collect();
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

async fn keep_references(w: &mut Write, seal: &Seal, items: &[&Item]) -> Result<(), StoreError> {
    let mut rows: Vec<([u8; 32], ReferralId)> = items
        .iter()
        .map(|item| (keys::reference(seal, &item.accept.reference), item.accept.referral))
        .collect();
    rows.sort_unstable();
    let kept = insert(w.conn(), REFERRAL_KEY, &rows, |row, (hash, referral)| {
        row.push_bind(key_kind::REFERENCE)
            .push_bind(hash.as_slice())
            .push_bind(None::<&[u8]>)
            .push_bind(referral.as_bytes().as_slice());
    })
    .await?;
    if kept.len() == rows.len() { Ok(()) } else { Err(internal(Fault::Twice("a reference"))) }
}

async fn keep_referrals(w: &mut Write, pairs: &[(&Item, &Subject)]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(pairs.len());
    for (item, subject) in pairs {
        let legs = i64::try_from(item.accept.legs.len()).map_err(internal)?;
        let deliveries = i64::try_from(item.accept.deliveries.len()).map_err(internal)?;
        let release = i64::try_from(item.accept.release)
            .map_err(|_| internal(Fault::Number("release_number")))?;
        let original = item.bodies.get(1).map(|body| body.id);
        rows.push((&item.accept, subject.id, original, release, legs, deliveries));
    }
    insert(w.conn(), REFERRAL, &rows, |row, (a, subject, original, release, legs, deliveries)| {
        row.push_bind(a.referral.as_bytes().as_slice())
            .push_bind(a.reference.as_str())
            .push_bind(a.sender.as_str())
            .push_bind(subject.as_bytes().as_slice())
            .push_bind(a.stream.as_bytes().as_slice())
            .push_bind(a.event.as_bytes().as_slice())
            .push_bind(1_i64)
            .push_bind(a.body.id.as_bytes().as_slice())
            .push_bind(original.as_ref().map(|id| id.as_bytes().as_slice()))
            .push_bind(a.pathway.as_str())
            .push_bind(a.priority.as_str())
            .push_bind(i64::from(a.safeguarding))
            .push_bind(0_i64)
            .push_bind(*release)
            .push_bind(a.at.as_ms())
            .push_bind(*legs)
            .push_bind(*deliveries)
            .push_bind(a.traceparent.as_deref());
    })
    .await?;
    Ok(())
}
