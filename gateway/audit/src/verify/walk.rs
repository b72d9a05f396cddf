//! Walks the tree of tiles from its root to its entries, in the order of the entries.
//!
//! A tile is authentic when its hash is the one that the authentic tile above has for it; the tiles
//! of the right edge are authentic together, when they give the signed root. What lies below an
//! authentic tile is held against it. Where the tile itself is the altered one, what lies below it
//! gives the hash that the tile above expects, and the tile is named.

use waymark_core::audit::LogEntry;
use waymark_tlog::{
    Checkpoint, Edge, HASH_BYTES, Hash, TILE_WIDTH, TileId, tile_hashes, tiles_for_root, tree_hash,
};

use crate::report::{Checked, FINDINGS_MAX, Findings, Place, What};
use crate::tree::{ReadError, Tree};

use super::attachments::Openings;
use super::bundle::{self, Bundle};
use super::history::History;
use super::ledger::Ledger;
use super::stream::StreamWatch;

/// Altered entries that are searched for the flipped bit, so that a ruined log does not take ages.
const SEARCHES_MAX: u32 = 16;

/// Files that may be missing before the walk stops: a checkpoint can claim a size that no disk holds.
pub(super) const UNREAD_MAX: u32 = 1000;
/// Bytes of a full tile.
const TILE_BYTES: usize = TILE_WIDTH * HASH_BYTES;

/// What vouches for a tile.
#[derive(Clone, Copy, Debug)]
enum Trust {
    /// It is one of the edge tiles that give the signed root.
    Root,
    /// The authentic tile above has this hash for it.
    Above(Hash),
    /// Nothing yet.
    Nothing,
}

/// Whether all of the tree was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walked {
    Whole,
    /// Too many files could not be read.
    Stopped,
}

/// A tile's hash and what lies below it disagree, and nothing above vouches for either.
struct Dispute {
    tile: Place,
    detail: String,
}

/// What a walk works on.
pub(super) struct Setting<'a> {
    pub(super) tree: &'a Tree,
    pub(super) head: &'a Checkpoint,
    pub(super) findings: &'a mut Findings,
    pub(super) history: &'a mut History,
    pub(super) ledger: &'a mut Ledger,
    pub(super) openings: &'a mut Openings,
    pub(super) stream: Option<&'a mut StreamWatch>,
    pub(super) checked: &'a mut Checked,
    pub(super) tell: &'a mut dyn FnMut(u64),
}

/// Verifies all tiles and entries under the checkpoint.
pub(super) fn walk(setting: Setting<'_>) -> Walked {
    Walk {
        with: setting,
        disputes: Vec::new(),
        searches: SEARCHES_MAX,
        unread: 0,
    }
    .run()
}

struct Walk<'a> {
    with: Setting<'a>,
    disputes: Vec<Dispute>,
    searches: u32,
    unread: u32,
}

impl Walk<'_> {
    fn run(&mut self) -> Walked {
        self.with.history.begin(self.with.findings);
        let size = self.with.head.size();
        let (tree, root) = (self.with.tree, self.with.head.root());
        let stored = |id: TileId| tree.read(&id.path(id.width_at(size)), TILE_BYTES).map(Some);
        let signed = Edge::load(size, stored).is_ok_and(|edge| edge.root() == root);
        let trust = if signed { Trust::Root } else { Trust::Nothing };
        // From the top: the higher an edge tile, the earlier the entries below it.
        for id in tiles_for_root(size).unwrap_or_default().into_iter().rev() {
            self.visit(id, trust);
        }
        self.settle();
        if self.unread > UNREAD_MAX {
            Walked::Stopped
        } else {
            Walked::Whole
        }
    }

    /// Verifies a tile and all that lies below it; gives the hash it ought to have, where known.
    fn visit(&mut self, id: TileId, trust: Trust) -> Option<Hash> {
        if self.unread > UNREAD_MAX {
            return None;
        }
        let stored = self.stored(id);
        self.with.checked.tiles += 1;
        let authentic = stored.as_deref().filter(|hashes| match trust {
            Trust::Root => true,
            Trust::Above(hash) => tree_hash(hashes) == hash,
            Trust::Nothing => false,
        });
        let hashes = if id.level == 0 {
            self.leaves(id, stored.as_deref(), authentic, trust)
        } else {
            let below = self.children(id, authentic);
            match authentic {
                Some(hashes) => hashes.iter().copied().map(Some).collect(),
                None => self.judge(id, stored.as_deref(), &below, trust),
            }
        };
        let hashes: Option<Vec<Hash>> = hashes.into_iter().collect();
        hashes.map(|hashes| tree_hash(&hashes))
    }

    fn children(&mut self, id: TileId, authentic: Option<&[Hash]>) -> Vec<Option<Hash>> {
        let mut below = Vec::new();
        let first = id
            .index
            .saturating_mul(u64::try_from(TILE_WIDTH).unwrap_or(u64::MAX));
        for (place, index) in (0..id.width_at(self.with.head.size())).zip(first..) {
            let expected = authentic.and_then(|hashes| hashes.get(place));
            let trust = expected.map_or(Trust::Nothing, |hash| Trust::Above(*hash));
            below.push(self.visit(
                TileId {
                    level: id.level - 1,
                    index,
                },
                trust,
            ));
        }
        below
    }

    fn stored(&mut self, id: TileId) -> Option<Vec<Hash>> {
        let width = id.width_at(self.with.head.size());
        let path = id.path(width);
        let bytes = match self.with.tree.read(&path, TILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.unread(&path, &error);
                return None;
            }
        };
        let expected = width * HASH_BYTES;
        if bytes.len() != expected {
            let detail = format!(
                "the tile has {} bytes and must have {expected}",
                bytes.len()
            );
            let at = Place::file(path).byte(expected.min(bytes.len()));
            self.with.findings.add(What::FileLength, at, detail);
        }
        tile_hashes(&bytes, width)
    }

    /// Decides between a tile that is not authentic and what lies below it; gives the true hashes
    /// as far as known.
    fn judge(
        &mut self,
        id: TileId,
        stored: Option<&[Hash]>,
        below: &[Option<Hash>],
        trust: Trust,
    ) -> Vec<Option<Hash>> {
        let path = id.path(id.width_at(self.with.head.size()));
        let complete: Option<Vec<Hash>> = below.iter().copied().collect();
        let expected = match trust {
            Trust::Above(hash) => Some(hash),
            Trust::Root | Trust::Nothing => None,
        };
        let proven = expected.map(|hash| complete.is_some_and(|hashes| tree_hash(&hashes) == hash));
        if proven == Some(false) {
            let detail = "neither this tile nor what lies below it has the hash that the tile above it has for it";
            self.with
                .findings
                .add(What::Undecided, Place::file(path), detail);
            self.with.ledger.doubt();
            return vec![None; below.len()];
        }
        let stored = stored.unwrap_or_default();
        for (place, (hash, derived)) in stored.iter().zip(below).enumerate() {
            let Some(derived) = derived.filter(|derived| derived != hash) else {
                continue;
            };
            let at = Place::file(&path).byte(first_difference(place, hash, &derived));
            let detail = format!("hash {place} is not that of {}", what_lies_below(id, place));
            if proven == Some(true) {
                self.with.findings.add(What::TileAltered, at, detail);
            } else if self.disputes.len() < FINDINGS_MAX {
                self.disputes.push(Dispute { tile: at, detail });
            }
        }
        let known = stored
            .iter()
            .copied()
            .map(Some)
            .chain(std::iter::repeat(None));
        below
            .iter()
            .zip(known)
            .map(|(derived, hash)| derived.or(hash))
            .collect()
    }

    fn leaves(
        &mut self,
        id: TileId,
        stored: Option<&[Hash]>,
        authentic: Option<&[Hash]>,
        trust: Trust,
    ) -> Vec<Option<Hash>> {
        let size = self.with.head.size();
        let width = id.width_at(size);
        let bytes = bundle::read(self.with.tree, id.index, size);
        let content = bytes.as_deref().unwrap_or_default();
        let bundle = Bundle::parse(id.index, width, content);
        match &bytes {
            Ok(_) => bundle.check_end(self.with.findings),
            Err(error) => self.unread(&bundle.path, error),
        }
        let best = match authentic {
            Some(hashes) => {
                if bytes.is_ok() {
                    bundle.compare(hashes, &mut self.searches, self.with.findings);
                }
                hashes.iter().copied().map(Some).collect()
            }
            None => self.judge(id, stored, &bundle.leaves, trust),
        };
        for (place, leaf) in best.iter().enumerate() {
            self.with.history.grow(*leaf, self.with.findings);
            let entry = bundle.entries.get(place);
            match (leaf, entry) {
                (Some(leaf), Some((_, entry)))
                    if bundle.leaves.get(place) == Some(&Some(*leaf)) =>
                {
                    self.entry(&bundle, place, leaf, entry);
                }
                _ => self.with.ledger.doubt(),
            }
            self.with.checked.entries += 1;
        }
        self.with.history.trim();
        (self.with.tell)(self.with.checked.entries);
        best
    }

    fn entry(&mut self, bundle: &Bundle<'_>, place: usize, leaf: &Hash, bytes: &[u8]) {
        let at = bundle.place(place);
        let index = bundle
            .first
            .saturating_add(u64::try_from(place).unwrap_or(u64::MAX));
        let entry = match LogEntry::decode(bytes) {
            Ok(entry) if entry.encode() == bytes => entry,
            Ok(_) => {
                let detail = "the entry says the same in another way than the log writes it";
                return self.with.findings.add(What::EntryMalformed, at, detail);
            }
            Err(error) => {
                return self
                    .with
                    .findings
                    .add(What::EntryMalformed, at, error.to_string());
            }
        };
        self.with
            .openings
            .check(self.with.tree, &entry, self.with.findings);
        if let Some(stream) = self.with.stream.as_deref_mut() {
            stream.see(index, *leaf, &entry);
        }
        self.with.ledger.entry(at, index, *leaf, &entry);
    }

    fn unread(&mut self, path: &str, error: &ReadError) {
        self.unread += 1;
        self.with.findings.unread(path, error);
    }

    /// Once all entries are known: if they lead to the signed root, the disputed tiles are wrong.
    fn settle(&mut self) {
        let proven = self.with.history.leads_to(self.with.head);
        for Dispute { tile, detail } in std::mem::take(&mut self.disputes) {
            if proven {
                self.with.findings.add(What::TileAltered, tile, detail);
            } else {
                self.with.findings.add(What::Undecided, tile, detail);
                self.with.ledger.doubt();
            }
        }
    }
}

/// First byte of the tile at which a hash differs from the true one.
fn first_difference(place: usize, hash: &Hash, truth: &Hash) -> usize {
    let same = hash
        .as_bytes()
        .iter()
        .zip(truth.as_bytes())
        .take_while(|(a, b)| a == b)
        .count();
    place * HASH_BYTES + same
}

fn what_lies_below(id: TileId, place: usize) -> String {
    let index = id
        .index
        .saturating_mul(u64::try_from(TILE_WIDTH).unwrap_or(u64::MAX));
    let index = index.saturating_add(u64::try_from(place).unwrap_or(u64::MAX));
    match id.level.checked_sub(1) {
        None => format!("entry {index}"),
        Some(level) => TileId { level, index }.path(TILE_WIDTH),
    }
}
