//! Accepting: one transaction of a bounded number of set statements for many referrals.

use std::collections::{BTreeMap, BTreeSet};

use waymark_core::id::{BodyId, ReferralId};
use waymark_core::leg::LegState;
use waymark_core::personal::Payload;
use waymark_core::port::{
    Accept, Accepted, AcceptedLeg, ConflictKey, EventKind, NewBody, NewEvent, NewLeg, StoreError,
};

use super::claim::{claim_documents, claim_messages, claim_references};
use super::keep::keep;
use super::likeness;
use super::subject::{SealedBody, seal_bodies, subject_hash};
use super::write::{Leaf, Write};
use super::{Shared, keys};
use crate::error::{Fault, lost_race, unavailable};
use crate::seal::Seal;

/// Times that a batch which lost a race is run again.
const RACES_MAX: u32 = 5;

/// An accept, with all that can be made before the transaction.
pub(super) struct Item {
    pub(super) accept: Accept,
    pub(super) message: [u8; 32],
    pub(super) content: [u8; 32],
    /// The sender's own reference and the digest of what came under it.
    pub(super) sender_reference: Option<([u8; 32], [u8; 32])>,
    pub(super) subject: Option<(&'static str, [u8; 32])>,
    /// What its child's record is compared by.
    pub(super) likeness: Vec<likeness::Trait>,
    pub(super) bodies: Vec<SealedBody>,
    /// Which of the bodies is the message as it came.
    pub(super) original: Option<BodyId>,
    /// Which of them holds the ids that answers repeat.
    pub(super) conversation: Option<BodyId>,
    pub(super) leaf: Leaf,
    pub(super) event: NewEvent,
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
        // The bytes are sealed here; the queue holds no second copy of them.
        let empty = || Payload::new(Vec::new());
        accept.message_key.content = empty();
        let bytes = std::mem::replace(&mut accept.body.bytes, empty());
        let body = NewBody {
            bytes,
            ..accept.body.clone()
        };
        let original = accept.original.as_ref().map(|body| body.id);
        let conversation = accept.conversation.as_ref().map(|body| body.id);
        let bodies = seal_bodies(
            std::iter::once(body)
                .chain(accept.original.take())
                .chain(accept.conversation.take())
                .chain(std::mem::take(&mut accept.notes))
                .collect(),
        )
        .await?;
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
            likeness: likeness::traits(seal, accept.likeness.as_ref()),
            message,
            content,
            sender_reference,
            bodies,
            original,
            conversation,
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

    /// A refusal because of an earlier referral.
    pub(super) fn conflict(key: ConflictKey, existing: ReferralId) -> StoreError {
        StoreError::Conflict { key, existing }
    }
}

/// A leg as the receipt shows it.
fn accepted_leg(leg: &NewLeg) -> AcceptedLeg {
    AcceptedLeg {
        id: leg.id,
        service: leg.service.clone(),
        agency: leg.agency.clone(),
        rule: leg.rule.clone(),
        triage: leg.triage.clone(),
    }
}

/// What one accept is answered.
pub(super) type Answer = Result<Done, StoreError>;

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
            let first = round
                .iter()
                .find(|(_, first)| first.message == item.message);
            let answer = first.and_then(|(at, first)| twin_of(first, answers.get(at)?, item));
            match answer {
                Some(answer) => drop(answers.insert(index, answer)),
                None => waiting.push((index, item)),
            }
        }
    }
    answers.into_values().collect()
}

/// An item and its place in the batch.
pub(super) type Numbered<'a> = (usize, &'a Item);

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
        Done::Accepted(accepted) => Done::Accepted(Box::new(Accepted {
            repeated: true,
            ..(**accepted).clone()
        })),
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
                vec![(
                    numbered.0,
                    Err(unavailable(Fault::Batch(source.to_string()))),
                )]
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
    let result = claim_and_keep(&mut w, shared, batch).await;
    let (mut answers, fresh) = w.end(result).await?;
    if fresh
        .iter()
        .any(|(_, item)| !item.accept.deliveries.is_empty())
    {
        shared.work_was_added();
    }
    answers.extend(
        fresh
            .iter()
            .map(|(index, item)| (*index, Ok(Done::Accepted(Box::new(item.accepted()))))),
    );
    Ok(answers)
}

type Claimed<'a> = (Vec<(usize, Answer)>, Vec<Numbered<'a>>);

/// Answers the items that came before or cannot be taken, and keeps the rest.
async fn claim_and_keep<'a>(
    w: &mut Write,
    shared: &Shared,
    batch: &[Numbered<'a>],
) -> Result<Claimed<'a>, StoreError> {
    let mut answers = Vec::with_capacity(batch.len());
    let mut by_key = batch.to_vec();
    by_key.sort_by_key(|(_, item)| item.message);
    let fresh = claim_messages(w, by_key, &mut answers).await?;
    let fresh = claim_references(w, fresh, &mut answers).await?;
    let mut fresh = claim_documents(w, &shared.seal, fresh, &mut answers).await?;
    // What came for one lane keeps the order in which it came.
    fresh.sort_by_key(|(index, _)| *index);
    if !fresh.is_empty() {
        let items: Vec<&Item> = fresh.iter().map(|(_, item)| *item).collect();
        keep(w, &shared.seal, &items).await?;
    }
    Ok((answers, fresh))
}
