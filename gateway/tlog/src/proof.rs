//! Proofs built from tiles, in two steps: which tiles are needed, then the proof from those tiles.
//!
//! Both steps are pure, so that the tiles in between may come from a file, a table or the network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::hash::{Hash, node_hash, tree_hash};
use crate::tile::{TILE_HEIGHT, TILE_WIDTH, TREE_SIZE_MAX, TileId, tile_hashes};

/// Why a proof cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofError {
    /// The tree has no such entry.
    IndexOutsideTree {
        /// The index asked for.
        index: u64,
        /// Entries in the tree.
        size: u64,
    },
    /// The older tree is larger than the newer one.
    OldLargerThanNew {
        /// Size of the older tree.
        old: u64,
        /// Size of the newer tree.
        new: u64,
    },
    /// The size is above [`TREE_SIZE_MAX`].
    TooLarge {
        /// The size asked for.
        size: u64,
    },
    /// A needed tile was not given.
    MissingTile(TileId),
    /// A needed tile has fewer hashes than the tree's size demands.
    ShortTile(TileId),
}

impl fmt::Display for ProofError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IndexOutsideTree { index, size } => {
                write!(out, "a tree of {size} entries has no entry {index}")
            }
            Self::OldLargerThanNew { old, new } => {
                write!(out, "a tree of {new} entries cannot extend one of {old}")
            }
            Self::TooLarge { size } => write!(out, "a tree of {size} entries is beyond the limit"),
            Self::MissingTile(id) => {
                write!(out, "tile {} of level {} is missing", id.index, id.level)
            }
            Self::ShortTile(id) => {
                write!(out, "tile {} of level {} is too short", id.index, id.level)
            }
        }
    }
}

impl std::error::Error for ProofError {}

/// Names the tiles that [`inclusion_proof`] needs.
pub fn tiles_for_inclusion(index: u64, size: u64) -> Result<Vec<TileId>, ProofError> {
    Ok(tiles_of(&inclusion_spans(index, size)?))
}

/// Names the tiles that [`consistency_proof`] needs.
pub fn tiles_for_consistency(old: u64, new: u64) -> Result<Vec<TileId>, ProofError> {
    Ok(tiles_of(&consistency_spans(old, new)?))
}

/// Names the tiles of the right edge, from the leaves up, which [`root_from_tiles`] needs.
pub fn tiles_for_root(size: u64) -> Result<Vec<TileId>, ProofError> {
    bounded(size)?;
    Ok(tiles_of(&[Span {
        start: 0,
        end: size,
    }]))
}

/// Builds the proof that entry `index` is in the tree of `size` entries, leaf's sibling first.
pub fn inclusion_proof(
    index: u64,
    size: u64,
    tiles: &BTreeMap<TileId, Vec<u8>>,
) -> Result<Vec<Hash>, ProofError> {
    inclusion_spans(index, size)?
        .iter()
        .map(|span| span.hash(tiles))
        .collect()
}

/// Builds the proof that the tree of `new` entries extends the tree of `old` entries.
///
/// The proof is empty where the older tree is empty or is the whole of the newer one.
pub fn consistency_proof(
    old: u64,
    new: u64,
    tiles: &BTreeMap<TileId, Vec<u8>>,
) -> Result<Vec<Hash>, ProofError> {
    consistency_spans(old, new)?
        .iter()
        .map(|span| span.hash(tiles))
        .collect()
}

/// Takes the root of the tree of `size` entries from the tiles of its right edge.
pub fn root_from_tiles(size: u64, tiles: &BTreeMap<TileId, Vec<u8>>) -> Result<Hash, ProofError> {
    bounded(size)?;
    if size == 0 {
        return Ok(Hash::EMPTY_ROOT);
    }
    Span {
        start: 0,
        end: size,
    }
    .hash(tiles)
}

/// The path of RFC 6962 section 2.1.1: from the root down, the side not taken; then turned round.
fn inclusion_spans(index: u64, size: u64) -> Result<Vec<Span>, ProofError> {
    bounded(size)?;
    if index >= size {
        return Err(ProofError::IndexOutsideTree { index, size });
    }
    let mut spans = Vec::new();
    let mut here = Span {
        start: 0,
        end: size,
    };
    while let Some((left, right)) = here.split() {
        if index < right.start {
            spans.push(right);
            here = left;
        } else {
            spans.push(left);
            here = right;
        }
    }
    spans.reverse();
    Ok(spans)
}

/// SUBPROOF of RFC 6962 section 2.1.2, from the root down and then turned round.
fn consistency_spans(old: u64, new: u64) -> Result<Vec<Span>, ProofError> {
    bounded(new)?;
    if old > new {
        return Err(ProofError::OldLargerThanNew { old, new });
    }
    let mut spans = Vec::new();
    if old == 0 || old == new {
        return Ok(spans);
    }
    let mut here = Span { start: 0, end: new };
    while here.end != old {
        let Some((left, right)) = here.split() else {
            break;
        };
        if old <= right.start {
            spans.push(right);
            here = left;
        } else {
            spans.push(left);
            here = right;
        }
    }
    // A subtree that begins with the tree's first entry is the older tree itself: the verifier
    // has its root already.
    if here.start > 0 {
        spans.push(here);
    }
    spans.reverse();
    Ok(spans)
}

fn bounded(size: u64) -> Result<(), ProofError> {
    if size > TREE_SIZE_MAX {
        Err(ProofError::TooLarge { size })
    } else {
        Ok(())
    }
}

fn tiles_of(spans: &[Span]) -> Vec<TileId> {
    let ids: BTreeSet<TileId> = spans
        .iter()
        .flat_map(|span| span.subtrees())
        .map(|subtree| subtree.place().0)
        .collect();
    ids.into_iter().collect()
}

/// Entries `start..end` that form one node of the tree; `start` is a multiple of the largest power
/// of two that fits.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// Splits after the largest power of two smaller than the span; a single entry does not split.
    fn split(self) -> Option<(Self, Self)> {
        let length = self.end - self.start;
        if length < 2 {
            return None;
        }
        let middle = self.start + (1 << (length - 1).ilog2());
        Some((
            Self {
                start: self.start,
                end: middle,
            },
            Self {
                start: middle,
                end: self.end,
            },
        ))
    }

    /// The perfect subtrees that make up the span, largest first.
    fn subtrees(self) -> Vec<Subtree> {
        let mut subtrees = Vec::new();
        let mut start = self.start;
        while start < self.end {
            let height = (self.end - start).ilog2();
            subtrees.push(Subtree {
                height,
                index: start >> height,
            });
            start += 1 << height;
        }
        subtrees
    }

    fn hash(self, tiles: &BTreeMap<TileId, Vec<u8>>) -> Result<Hash, ProofError> {
        let mut right: Option<Hash> = None;
        for subtree in self.subtrees().iter().rev() {
            let left = subtree.hash(tiles)?;
            right = Some(right.map_or(left, |right| node_hash(&left, &right)));
        }
        Ok(right.unwrap_or(Hash::EMPTY_ROOT))
    }
}

/// Perfect subtree over the entries `index << height .. (index + 1) << height`.
#[derive(Clone, Copy, Debug)]
struct Subtree {
    height: u32,
    index: u64,
}

impl Subtree {
    /// The tile that holds its hashes, how many hashes come before them there, and how many they are.
    fn place(self) -> (TileId, usize, usize) {
        let tile_height = u32::from(TILE_HEIGHT);
        let above = self.height % tile_height;
        let first = self.index << above;
        let level = u8::try_from(self.height / tile_height).unwrap_or(u8::MAX);
        let before = usize::try_from(first).unwrap_or(usize::MAX) % TILE_WIDTH;
        (
            TileId {
                level,
                index: first >> tile_height,
            },
            before,
            1 << above,
        )
    }

    fn hash(self, tiles: &BTreeMap<TileId, Vec<u8>>) -> Result<Hash, ProofError> {
        let (id, before, count) = self.place();
        let bytes = tiles.get(&id).ok_or(ProofError::MissingTile(id))?;
        let hashes = tile_hashes(bytes, before + count).ok_or(ProofError::ShortTile(id))?;
        Ok(tree_hash(hashes.get(before..).unwrap_or_default()))
    }
}
