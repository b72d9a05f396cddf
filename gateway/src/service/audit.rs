//! The delivery log as callers see it: receipts, entries, checkpoints and proofs.

use std::collections::BTreeMap;
use std::time::Duration;

use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::audit::{EntryKind, LogEntry, leaf_hash};
use waymark_core::error::ErrorKind;
use waymark_core::id::EventId;
use waymark_core::port::{
    Accepted, AcceptedLeg, LogState, ReferralKey, ReferralView, SignedCheckpoint,
};
use waymark_tlog::note::VerifierKey;
use waymark_tlog::{
    Hash, TileId, TlogProof, consistency_proof, inclusion_proof, tiles_for_consistency,
    tiles_for_inclusion,
};

use super::read::page;
use super::submit::{check_request_id, request_key};
use super::{Key, Service, ServiceError};

/// Longest wait for a proof (ruling 15).
pub const PROOF_WAIT_MAX: Duration = Duration::from_secs(2);

/// How an entry says that the log's entries were read.
const ACTION: &str = "action";
const READ_ENTRIES: &str = "read_entries";

/// A proof that an event is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Its index.
    pub index: u64,
    /// A C2SP `.tlog-proof` file.
    pub tlog_proof: Vec<u8>,
    /// The checkpoint within it.
    pub checkpoint: String,
}

/// Which receipt.
#[derive(Clone, Debug)]
pub enum ReceiptKey {
    /// Of the accept of a referral.
    Referral(Key),
    /// Of an event.
    Event(EventId),
    /// Of the caller's own message under this `request_id`.
    Message(String),
}

/// An entry with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntryView {
    /// Its index.
    pub index: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Service {
    /// The proof of an event, made for the newest checkpoint that covers it; waits for the sequencer at most `wait`.
    ///
    /// # Errors
    /// `Corrupt` when the gateway's own proof does not verify: it is never handed out.
    pub async fn proof(
        &self,
        event: EventId,
        wait: Duration,
    ) -> Result<Option<Proof>, ServiceError> {
        let by = self.now().plus(wait.min(PROOF_WAIT_MAX));
        loop {
            if let Some(index) = self.parts.store.log_index(event).await? {
                return self.proof_at(index).await.map(Some);
            }
            let left = by.since(self.now());
            if left.is_zero() {
                return Ok(None);
            }
            self.parts.log_wanted.notify_one();
            self.log_grown(left.min(Duration::from_millis(100))).await;
        }
    }

    async fn proof_at(&self, index: u64) -> Result<Proof, ServiceError> {
        let corrupt = || ServiceError::new(ErrorKind::Corrupt, "LOG_PROOF");
        let state = self.parts.store.log_state().await?;
        let checkpoint = state.checkpoint.ok_or_else(corrupt)?.note;
        let entries = self.parts.store.entries(index, 1).await?;
        let (_, bytes) = entries
            .first()
            .filter(|(at, _)| *at == index)
            .ok_or_else(corrupt)?;
        let hashes = self.inclusion(index, state.size).await?;
        let proof = TlogProof {
            index,
            hashes,
            checkpoint_note: checkpoint.clone(),
            extra: None,
        };
        let key = VerifierKey::parse(&self.parts.log_vkey).map_err(|_| corrupt())?;
        let leaf = Hash::from_bytes(leaf_hash(bytes));
        proof.verify(&leaf, &key).map_err(|_| corrupt())?;
        Ok(Proof {
            index,
            tlog_proof: proof.encode().into_bytes(),
            checkpoint,
        })
    }

    /// The hashes that prove entry `index` in the tree of `size`.
    ///
    /// # Errors
    /// `Invalid` when the index is not in that tree or the log is not that large.
    pub async fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, ServiceError> {
        let outside = || ServiceError::field("log_index", "is not in a tree of that size");
        let state = self.parts.store.log_state().await?;
        if size > state.size {
            return Err(ServiceError::field(
                "tree_size",
                format!("the log has {} entries", state.size),
            ));
        }
        let tiles = self
            .tiles(&tiles_for_inclusion(index, size).map_err(|_| outside())?)
            .await?;
        inclusion_proof(index, size, &tiles).map_err(|_| outside())
    }

    /// The hashes that prove that the tree of `old` is a beginning of the tree of `new`.
    ///
    /// # Errors
    /// `Invalid` when the sizes are not in order or beyond the log.
    pub async fn consistency(
        &self,
        caller: &Principal,
        old: u64,
        new: u64,
    ) -> Result<Vec<Hash>, ServiceError> {
        permit(caller, Action::ReadCheckpoint, Relationship::None)?;
        let outside = || ServiceError::field("old_size", "is not at most the new size");
        let state = self.parts.store.log_state().await?;
        if new > state.size {
            return Err(ServiceError::field(
                "new_size",
                format!("the log has {} entries", state.size),
            ));
        }
        let tiles = self
            .tiles(&tiles_for_consistency(old, new).map_err(|_| outside())?)
            .await?;
        consistency_proof(old, new, &tiles).map_err(|_| outside())
    }

    async fn tiles(&self, ids: &[TileId]) -> Result<BTreeMap<TileId, Vec<u8>>, ServiceError> {
        Ok(self.parts.store.tiles(ids).await?.into_iter().collect())
    }

    /// Size, root and newest checkpoint.
    ///
    /// # Errors
    /// `Denied` for callers without a part in the log.
    pub async fn log_state(&self, caller: &Principal) -> Result<LogState, ServiceError> {
        permit(caller, Action::ReadCheckpoint, Relationship::None)?;
        Ok(self.parts.store.log_state().await?)
    }

    /// Checkpoints after a size, by ascending size.
    ///
    /// # Errors
    /// `Denied` for callers without a part in the log.
    pub async fn checkpoints(
        &self,
        caller: &Principal,
        after: u64,
        limit: u32,
    ) -> Result<Vec<SignedCheckpoint>, ServiceError> {
        permit(caller, Action::ReadCheckpoint, Relationship::None)?;
        Ok(self.parts.store.checkpoints(after, page(limit)).await?)
    }

    /// The log's public key, as a vkey line.
    pub fn log_vkey(&self) -> &str {
        &self.parts.log_vkey
    }

    /// Entries, for an auditor. That they were read is an entry itself, committed before the answer leaves; a page of such
    /// entries alone is not, or following the log would make it grow.
    ///
    /// # Errors
    /// `Denied` for anybody else.
    pub async fn entries(
        &self,
        caller: &Principal,
        from: u64,
        limit: u32,
    ) -> Result<Vec<LogEntryView>, ServiceError> {
        let _permit = permit(caller, Action::ReadLog, Relationship::None)?;
        let entries = self.parts.store.entries(from, page(limit)).await?;
        if !entries.iter().all(|(_, bytes)| is_reading(bytes)) {
            let (now, draft) = (self.now(), self.drafter());
            let entry = draft
                .entry(EntryKind::AdminRead, draft.stream(now), caller, now)
                .code(ACTION, READ_ENTRIES)
                .code("from", from.to_string())
                .code("count", entries.len().to_string());
            self.parts.store.append(entry).await?;
        }
        Ok(entries
            .into_iter()
            .map(|(index, bytes)| LogEntryView { index, bytes })
            .collect())
    }

    /// One entry by its event, for an auditor.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn entry(
        &self,
        caller: &Principal,
        event: EventId,
    ) -> Result<(Option<u64>, Vec<u8>), ServiceError> {
        permit(caller, Action::ReadLog, Relationship::None)?;
        let bytes = self.parts.store.entry_of(event).await?;
        let bytes = bytes.ok_or_else(|| ServiceError::new(ErrorKind::NotFound, "NO_SUCH_ENTRY"))?;
        Ok((self.parts.store.log_index(event).await?, bytes))
    }

    /// The receipt of an accept, the same as at submit: for the parties of the referral and for auditors.
    ///
    /// # Errors
    /// `NotFound` for a stranger.
    pub async fn receipt(
        &self,
        caller: &Principal,
        key: &ReceiptKey,
    ) -> Result<Accepted, ServiceError> {
        let missing = || ServiceError::new(ErrorKind::NotFound, "NO_SUCH_RECEIPT");
        let view = match key {
            ReceiptKey::Referral(key) => self.find(caller, key, Action::ReadReceipt).await?.0,
            ReceiptKey::Event(event) => {
                let bytes = self
                    .parts
                    .store
                    .entry_of(*event)
                    .await?
                    .ok_or_else(missing)?;
                let entry = LogEntry::decode(&bytes).map_err(|e| ServiceError {
                    cause: Some(Box::new(e)),
                    ..ServiceError::new(ErrorKind::Corrupt, "STORED_DATA_CORRUPT")
                })?;
                if entry.kind != EntryKind::Accepted {
                    return Err(missing());
                }
                let id = self
                    .parts
                    .store
                    .resolve(&ReferralKey::Event(*event))
                    .await?
                    .ok_or_else(missing)?;
                self.find(caller, &Key::Id(id), Action::ReadReceipt)
                    .await?
                    .0
            }
            ReceiptKey::Message(request_id) => {
                check_request_id(request_id)?;
                let key =
                    ReferralKey::Message(caller.agency.clone(), request_key(request_id).into());
                let Some(id) = self.parts.store.resolve(&key).await? else {
                    permit(caller, Action::ReadReceipt, Relationship::None)?;
                    return Err(missing());
                };
                self.find(caller, &Key::Id(id), Action::ReadReceipt)
                    .await?
                    .0
            }
        };
        self.receipt_of(&view).await
    }

    async fn receipt_of(&self, view: &ReferralView) -> Result<Accepted, ServiceError> {
        let gone = || ServiceError::new(ErrorKind::Corrupt, "STORED_DATA_CORRUPT");
        let entry = self
            .parts
            .store
            .entry_of(view.event)
            .await?
            .ok_or_else(gone)?;
        let openings = self.parts.store.openings(view.event).await?;
        Ok(Accepted {
            referral: view.id,
            reference: view.reference.clone(),
            event: view.event,
            stream: view.stream,
            leaf: leaf_hash(&entry),
            entry,
            openings,
            at: view.accepted,
            release: view.release,
            legs: view.legs.iter().map(|l| leg_of(&l.leg)).collect(),
            repeated: true,
        })
    }
}

fn leg_of(leg: &waymark_core::port::NewLeg) -> AcceptedLeg {
    AcceptedLeg {
        id: leg.id,
        service: leg.service.clone(),
        agency: leg.agency.clone(),
        rule: leg.rule.clone(),
        triage: leg.triage.clone(),
    }
}

/// Whether an entry says that the log was read.
fn is_reading(bytes: &[u8]) -> bool {
    LogEntry::decode(bytes).is_ok_and(|entry| {
        entry.kind == EntryKind::AdminRead
            && entry
                .codes
                .iter()
                .any(|code| code.name == ACTION && code.value == READ_ENTRIES)
    })
}
