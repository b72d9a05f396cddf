//! Names of the files of an exported tree, relative to its root, and the most that each may hold.

use waymark_core::audit::CommitmentTag;
use waymark_core::id::EventId;
use waymark_tlog::note::{NOTE_BYTES_MAX, VerifierKey};
use waymark_tlog::{ENTRY_BYTES_MAX, EXTRA_BYTES_MAX, TILE_WIDTH};

/// The latest checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// Earlier checkpoints, each named by its size.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// Tiles and entry bundles.
pub(crate) const TILE: &str = "tile";
/// Public keys of the log.
pub(crate) const KEYS: &str = "keys";
/// Receipts, each named by its event.
pub(crate) const RECEIPTS: &str = "receipts";
/// Salt and bytes behind commitments, each named by event and tag.
pub(crate) const OPENINGS: &str = "openings";

/// Longest bundle: the specification's limit, not ours, so that a foreign one is read and named.
pub(crate) const BUNDLE_BYTES_MAX: usize = TILE_WIDTH * (2 + ENTRY_BYTES_MAX);
/// Longest key file.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// Longest receipt.
pub(crate) const RECEIPT_BYTES_MAX: usize = EXTRA_BYTES_MAX * 2 + NOTE_BYTES_MAX;
/// Longest opening: salt and a body.
pub(crate) const OPENING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of an opening's salt, which stands before the body.
pub(crate) const SALT_BYTES: usize = 32;

const KEY_SUFFIX: &str = ".vkey";
const RECEIPT_SUFFIX: &str = ".tlog-proof";

pub(crate) fn checkpoint_path(size: u64) -> String {
    format!("{CHECKPOINTS}/{size}")
}

pub(crate) fn key_path(key: &VerifierKey) -> String {
    format!("{KEYS}/{:08x}{KEY_SUFFIX}", key.id())
}

pub(crate) fn receipt_path(event: EventId) -> String {
    format!("{RECEIPTS}/{event}{RECEIPT_SUFFIX}")
}

pub(crate) fn opening_path(event: EventId, tag: CommitmentTag) -> String {
    format!("{OPENINGS}/{event}.{}", tag.number())
}

/// Reads the name of a receipt back; only the spelling of [`receipt_path`] counts.
pub(crate) fn receipt_event(name: &str) -> Option<EventId> {
    let event: EventId = name.strip_suffix(RECEIPT_SUFFIX)?.parse().ok()?;
    (receipt_path(event) == format!("{RECEIPTS}/{name}")).then_some(event)
}

/// Reads the name of an opening back; only the spelling of [`opening_path`] counts.
pub(crate) fn opening_event(name: &str) -> Option<(EventId, CommitmentTag)> {
    let (event, tag) = name.split_once('.')?;
    let event: EventId = event.parse().ok()?;
    let tag = CommitmentTag::from_number(tag.parse().ok()?)?;
    (opening_path(event, tag) == format!("{OPENINGS}/{name}")).then_some((event, tag))
}
