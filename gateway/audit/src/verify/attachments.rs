//! Receipts and openings: what parties hold, borne out by the tree or not.

use std::collections::BTreeMap;

use waymark_core::audit::{Commitment, CommitmentTag, LogEntry};
use waymark_core::id::{EventId, StreamId};
use waymark_tlog::note::VerifierKey;
use waymark_tlog::{Checkpoint, Hash, ProofFileError, TlogProof, leaf_hash};

use crate::layout::{
    OPENING_BYTES_MAX, OPENINGS, RECEIPT_BYTES_MAX, RECEIPTS, SALT_BYTES, opening_event,
    opening_path, receipt_event,
};
use crate::report::{Findings, Place, What, causes};
use crate::tree::Tree;

use super::history::History;
use super::ledger::Entries;
use super::{Exhibit, bundle, signed};

/// What the receipts led to.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    pub(super) checked: u64,
    /// Stream of the first receipt that was given.
    pub(super) stream: Option<StreamId>,
}

/// Verifies the tree's receipts and those given, and takes in the checkpoints that they carry.
pub(super) fn check_receipts(
    tree: &Tree,
    keys: &[VerifierKey],
    given: &[Exhibit],
    head: &Checkpoint,
    history: &mut History,
    findings: &mut Findings,
) -> Receipts {
    let mut checker = Checker {
        tree,
        keys,
        head,
        history,
        findings,
    };
    let mut receipts = Receipts::default();
    for name in signed::names(tree, RECEIPTS, checker.findings) {
        let path = format!("{RECEIPTS}/{name}");
        match tree.read_text(&path, RECEIPT_BYTES_MAX) {
            Err(error) => checker.findings.unread(&path, &error),
            Ok(text) => {
                receipts.checked += 1;
                let entry = checker.check(Whence::Tree, &path, &text);
                let event = receipt_event(&name);
                if event.is_none() || entry.is_some_and(|entry| Some(entry.event) != event) {
                    let detail = "the receipt is not of the event that it is named after";
                    checker
                        .findings
                        .add(What::ReceiptRefused, Place::file(path), detail);
                }
            }
        }
    }
    for Exhibit { name, text } in given {
        receipts.checked += 1;
        let entry = checker.check(Whence::Given, name, text);
        receipts.stream = receipts.stream.or(entry.map(|entry| entry.stream));
    }
    receipts
}

/// Where a receipt comes from: one of the tree must be by a key of the tree, one that was given
/// shows nothing when it is by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whence {
    Tree,
    Given,
}

struct Checker<'a> {
    tree: &'a Tree,
    keys: &'a [VerifierKey],
    head: &'a Checkpoint,
    history: &'a mut History,
    findings: &'a mut Findings,
}

impl Checker<'_> {
    /// Checks one receipt and gives the entry it is for, where the tree has that.
    fn check(&mut self, whence: Whence, file: &str, text: &str) -> Option<LogEntry> {
        let proof = match TlogProof::parse(text) {
            Ok(proof) => proof,
            Err(error) => {
                self.findings
                    .add(What::ReceiptRefused, Place::file(file), causes(&error));
                return None;
            }
        };
        let (entry, hash) = bundle::at_index(self.tree, proof.index, self.head.size());
        // An entry or a tile that was altered is found elsewhere; the receipt holds if either fits.
        let candidates = [
            entry.as_deref().map(leaf_hash),
            hash,
            proof.extra.as_deref().map(leaf_hash),
        ];
        let (checkpoint, leaf) = self.verify(whence, file, &proof, candidates)?;
        if checkpoint.origin() != self.head.origin() {
            let detail = format!("the receipt is from another log, {}", checkpoint.origin());
            self.findings
                .add(What::ReceiptRefused, Place::file(file), detail);
        } else if checkpoint.size() > self.head.size() {
            let detail = signed::ends_early(&checkpoint, self.head);
            self.findings
                .add(What::HistoryDiffers, Place::file(file), detail);
        } else {
            self.history.claim(file, &checkpoint);
        }
        let intact = [entry, proof.extra]
            .into_iter()
            .flatten()
            .find(|entry| leaf_hash(entry) == leaf)?;
        LogEntry::decode(&intact).ok()
    }

    fn verify(
        &mut self,
        whence: Whence,
        file: &str,
        proof: &TlogProof,
        candidates: [Option<Hash>; 3],
    ) -> Option<(Checkpoint, Hash)> {
        let mut refused = None;
        for leaf in candidates.into_iter().flatten() {
            match proof.verify_any(&leaf, self.keys) {
                Ok(checkpoint) => {
                    self.check_extra(file, proof, &leaf);
                    return Some((checkpoint, leaf));
                }
                Err(error) => {
                    refused.get_or_insert(error);
                }
            }
        }
        let Some(error) = refused else {
            let detail = format!("the tree has no entry {} to hold it against", proof.index);
            self.findings
                .add(What::ReceiptRefused, Place::file(file), detail);
            return None;
        };
        let what = match &error {
            ProofFileError::Checkpoint(error)
                if whence == Whence::Given && signed::refusal(error) == What::SignerUnknown =>
            {
                What::SignerUnknown
            }
            _ => What::ReceiptRefused,
        };
        let at = Place::file(file).entry(proof.index);
        self.findings.add(what, at, causes(&error));
        None
    }

    /// Nothing authenticates extra data, so the only kind that is let stand is the entry itself.
    fn check_extra(&mut self, file: &str, proof: &TlogProof, leaf: &Hash) {
        if proof
            .extra
            .as_deref()
            .is_some_and(|extra| leaf_hash(extra) != *leaf)
        {
            let detail = "its extra data is not the entry that it proves";
            self.findings.add(
                What::ReceiptRefused,
                Place::file(file).entry(proof.index),
                detail,
            );
        }
    }
}

/// Openings of the tree that have not met their entry yet.
#[derive(Debug)]
pub(super) struct Openings {
    waiting: BTreeMap<EventId, Vec<CommitmentTag>>,
    checked: u64,
}

impl Openings {
    pub(super) fn list(tree: &Tree, findings: &mut Findings) -> Self {
        let mut waiting: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for name in signed::names(tree, OPENINGS, findings) {
            if let Some((event, tag)) = opening_event(&name) {
                waiting.entry(event).or_default().push(tag);
            } else {
                let detail = "this is not the name of an opening";
                let file = format!("{OPENINGS}/{name}");
                findings.add(What::FileUnexpected, Place::file(file), detail);
            }
        }
        Self {
            waiting,
            checked: 0,
        }
    }

    /// Checks the openings of this entry's commitments.
    pub(super) fn check(&mut self, tree: &Tree, entry: &LogEntry, findings: &mut Findings) {
        for tag in self.waiting.remove(&entry.event).unwrap_or_default() {
            let path = opening_path(entry.event, tag);
            self.checked += 1;
            match tree.read(&path, OPENING_BYTES_MAX) {
                Err(error) => findings.unread(&path, &error),
                Ok(bytes) if fits(entry, tag, &bytes) => {}
                Ok(_) => {
                    let detail = "the salt and bytes do not give the commitment in the entry";
                    findings.add(What::OpeningRefused, Place::file(path), detail);
                }
            }
        }
    }

    /// Openings checked so far.
    pub(super) fn checked(&self) -> u64 {
        self.checked
    }

    /// Names the openings of events that the tree does not have. Where entries were altered or are
    /// missing, theirs may be among them: a note says so.
    pub(super) fn finish(self, entries: Entries, findings: &mut Findings) -> Option<String> {
        if entries == Entries::InDoubt {
            let left: usize = self.waiting.values().map(Vec::len).sum();
            return (left > 0).then(|| {
                format!("{left} openings could not be checked, because entries were altered or are missing")
            });
        }
        for (event, tags) in self.waiting {
            for tag in tags {
                let detail = format!("the tree has no entry of event {event}");
                findings.add(
                    What::OpeningRefused,
                    Place::file(opening_path(event, tag)),
                    detail,
                );
            }
        }
        None
    }
}

fn fits(entry: &LogEntry, tag: CommitmentTag, opening: &[u8]) -> bool {
    let Some((salt, bytes)) = opening.split_first_chunk::<SALT_BYTES>() else {
        return false;
    };
    entry
        .commitments
        .contains(&Commitment::to(tag, salt, bytes))
}
