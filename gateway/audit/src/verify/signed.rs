//! The signed side of a tree: its keys and its checkpoints.

use waymark_tlog::note::{NOTE_BYTES_MAX, NoteError, VerifierKey};
use waymark_tlog::{Checkpoint, CheckpointError};

use crate::layout::{
    CHECKPOINT, CHECKPOINTS, KEY_BYTES_MAX, KEYS, TILE, checkpoint_path, key_path,
};
use crate::report::{Findings, Place, Verdict, What, causes};
use crate::tree::{ReadError, Tree};

use super::Exhibit;
use super::history::History;

/// Reads the tree's keys and gives those to trust: the pinned ones, else the tree's.
pub(super) fn keys(
    tree: &Tree,
    pinned: &[VerifierKey],
    findings: &mut Findings,
) -> Option<Vec<VerifierKey>> {
    let mut found = Vec::new();
    for name in names(tree, KEYS, findings) {
        let path = format!("{KEYS}/{name}");
        match tree.read_text(&path, KEY_BYTES_MAX) {
            Err(error) => findings.unread(&path, &error),
            Ok(text) => match VerifierKey::parse(text.strip_suffix('\n').unwrap_or_default()) {
                Ok(key) if key_path(&key) == path => found.push(key),
                Ok(key) => {
                    let detail = format!("this key belongs in {}", key_path(&key));
                    findings.add(What::KeyRefused, Place::file(path), detail);
                }
                Err(error) => {
                    findings.add(What::KeyRefused, Place::file(path), error.to_string());
                }
            },
        }
    }
    let trusted = if pinned.is_empty() {
        found
    } else {
        pinned.to_vec()
    };
    if trusted.is_empty() {
        if findings.verdict() == Verdict::Ok {
            let detail = "there is no key in the tree and none was named";
            findings.add(What::KeyMissing, Place::file(KEYS), detail);
        }
        return None;
    }
    Some(trusted)
}

/// Verifies every checkpoint and gives the one that the tree is held against.
pub(super) fn checkpoints(
    tree: &Tree,
    keys: &[VerifierKey],
    given: &[Exhibit],
    history: &mut History,
    findings: &mut Findings,
) -> Option<Checkpoint> {
    let latest = open_file(tree, CHECKPOINT, keys, findings);
    let mut head = latest.clone();
    for name in names(tree, CHECKPOINTS, findings) {
        let path = format!("{CHECKPOINTS}/{name}");
        let Some(checkpoint) = open_file(tree, &path, keys, findings) else {
            continue;
        };
        if checkpoint_path(checkpoint.size()) != path {
            let detail = format!("this is the checkpoint of {} entries", checkpoint.size());
            findings.add(What::CheckpointRefused, Place::file(path), detail);
        } else if head
            .as_ref()
            .is_some_and(|head| head.origin() != checkpoint.origin())
        {
            let detail = format!("this is a checkpoint of {}", checkpoint.origin());
            findings.add(What::CheckpointRefused, Place::file(path), detail);
        } else {
            history.claim(&path, &checkpoint);
            if head
                .as_ref()
                .is_none_or(|head| head.size() < checkpoint.size())
            {
                head = Some(checkpoint);
            }
        }
    }
    if let (Some(latest), Some(head)) = (&latest, &head) {
        history.claim(CHECKPOINT, latest);
        if latest.size() < head.size() {
            let path = checkpoint_path(head.size());
            let detail = format!(
                "it ends at entry {}, but {path} goes further",
                latest.size()
            );
            findings.add(What::CheckpointBehind, Place::file(CHECKPOINT), detail);
        }
    }
    if let Some(head) = &head {
        for exhibit in given {
            old_checkpoint(exhibit, keys, head, history, findings);
        }
    }
    head
}

/// Takes in a checkpoint that was kept outside the tree.
fn old_checkpoint(
    exhibit: &Exhibit,
    keys: &[VerifierKey],
    head: &Checkpoint,
    history: &mut History,
    findings: &mut Findings,
) {
    let Exhibit { name, text } = exhibit;
    match Checkpoint::open_any(text, keys) {
        Err(error) => findings.add(refusal(&error), Place::file(name), causes(&error)),
        Ok(old) if old.origin() != head.origin() => {
            let detail = format!("this is a checkpoint of another log, {}", old.origin());
            findings.add(What::SignerUnknown, Place::file(name), detail);
        }
        Ok(old) if old.size() > head.size() => {
            findings.add(
                What::HistoryDiffers,
                Place::file(name),
                ends_early(&old, head),
            );
        }
        Ok(old) => history.claim(name, &old),
    }
}

/// Why a tree that ends before a signed checkpoint is not the whole log.
pub(super) fn ends_early(signed: &Checkpoint, head: &Checkpoint) -> String {
    format!(
        "{} entries were signed, but the tree ends at {}",
        signed.size(),
        head.size()
    )
}

/// What a refused checkpoint or receipt from outside shows: nothing, when nobody known has signed.
pub(crate) fn refusal(error: &CheckpointError) -> What {
    match error {
        CheckpointError::Note(NoteError::NoKnownSignature) => What::SignerUnknown,
        _ => What::CheckpointRefused,
    }
}

fn open_file(
    tree: &Tree,
    path: &str,
    keys: &[VerifierKey],
    findings: &mut Findings,
) -> Option<Checkpoint> {
    let text = match tree.read_text(path, NOTE_BYTES_MAX) {
        Ok(text) => text,
        Err(ReadError::Missing) if is_no_tree(tree) => {
            let detail = "this directory has no checkpoint and no tiles";
            findings.add(What::NotATree, Place::file(path), detail);
            return None;
        }
        Err(error) => {
            findings.unread(path, &error);
            return None;
        }
    };
    let opened = Checkpoint::open_any(&text, keys);
    opened
        .inspect_err(|error| {
            findings.add(What::CheckpointRefused, Place::file(path), causes(error));
        })
        .ok()
}

fn is_no_tree(tree: &Tree) -> bool {
    let empty = |path| tree.list(path).is_ok_and(|items| items.is_empty());
    empty(CHECKPOINTS) && empty(TILE)
}

/// Names in a directory of files; what is no file there is found when it is read.
pub(super) fn names(tree: &Tree, dir: &str, findings: &mut Findings) -> Vec<String> {
    match tree.list(dir) {
        Ok(items) => items.into_iter().map(|item| item.name).collect(),
        Err(error) => {
            findings.unread(dir, &error);
            Vec::new()
        }
    }
}
