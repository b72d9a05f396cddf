//! The right edge of the tree: all that appending and taking the root need, in constant memory.

use std::fmt;

use crate::hash::{Hash, tree_hash};
use crate::proof::tiles_for_root;
use crate::tile::{TILE_HEIGHT, TILE_WIDTH, TREE_SIZE_MAX, TileId, tile_hashes};

/// The partial tile of every level, from the leaves up.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    size: u64,
    levels: Vec<Level>,
    /// Tiles that filled up since the last [`Edge::take_changed`].
    filled: Vec<(TileId, Vec<u8>)>,
}

#[derive(Clone, Debug, Default)]
struct Level {
    /// Fewer than [`TILE_WIDTH`] hashes.
    hashes: Vec<Hash>,
    changed: bool,
}

impl Edge {
    /// Makes the edge of a tree without entries.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Loads the edge of a tree of `size` entries from its stored tiles.
    ///
    /// `fetch` is asked for the tiles of [`tiles_for_root`] and may give more hashes than the tree
    /// has. The caller compares [`Edge::root`] with the root it trusts.
    pub fn load<E>(
        size: u64,
        mut fetch: impl FnMut(TileId) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, LoadError<E>> {
        let ids = tiles_for_root(size).map_err(|_| LoadError::TooLarge { size })?;
        let mut levels = Vec::new();
        for id in ids {
            let bytes = fetch(id)
                .map_err(LoadError::Fetch)?
                .ok_or(LoadError::Missing(id))?;
            let hashes = tile_hashes(&bytes, id.width_at(size)).ok_or(LoadError::Short(id))?;
            levels.resize_with(usize::from(id.level), Level::default);
            levels.push(Level {
                hashes,
                changed: false,
            });
        }
        Ok(Self {
            size,
            levels,
            filled: Vec::new(),
        })
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root of the tree.
    pub fn root(&self) -> Hash {
        let mut below = None;
        for level in &self.levels {
            // What lies right of this level's hashes stands as one more, incomplete, last hash.
            let row: Vec<Hash> = level.hashes.iter().copied().chain(below).collect();
            if !row.is_empty() {
                below = Some(tree_hash(&row));
            }
        }
        below.unwrap_or(Hash::EMPTY_ROOT)
    }

    /// Appends a leaf.
    pub fn append(&mut self, leaf: Hash) {
        debug_assert!(self.size < TREE_SIZE_MAX, "no log lives this long");
        self.size = self.size.saturating_add(1);
        let mut carry = Some(leaf);
        let (mut number, mut count) = (0_u8, self.size);
        for level in &mut self.levels {
            let Some(hash) = carry else { return };
            carry = level.push(
                hash,
                TileId {
                    level: number,
                    index: (count - 1) >> TILE_HEIGHT,
                },
                &mut self.filled,
            );
            count >>= TILE_HEIGHT;
            number += 1;
        }
        if let Some(hash) = carry {
            self.levels.push(Level {
                hashes: vec![hash],
                changed: true,
            });
        }
    }

    /// Gives the tiles that changed since the last call, filled ones first and then the right edge,
    /// each with all its hashes so far.
    pub fn take_changed(&mut self) -> Vec<(TileId, Vec<u8>)> {
        let mut changed = std::mem::take(&mut self.filled);
        changed.extend(self.partial(|level| level.changed));
        self.levels
            .iter_mut()
            .for_each(|level| level.changed = false);
        changed
    }

    /// Gives the partial tiles of the right edge, changed or not.
    pub fn partial_tiles(&self) -> Vec<(TileId, Vec<u8>)> {
        self.partial(|_| true)
    }

    fn partial(&self, wanted: impl Fn(&Level) -> bool) -> Vec<(TileId, Vec<u8>)> {
        let mut tiles = Vec::new();
        let mut count = self.size;
        for (level, row) in (0_u8..).zip(&self.levels) {
            count >>= TILE_HEIGHT;
            if !row.hashes.is_empty() && wanted(row) {
                tiles.push((
                    TileId {
                        level,
                        index: count,
                    },
                    concat(&row.hashes),
                ));
            }
        }
        tiles
    }
}

impl Level {
    /// Adds a hash; a tile that fills up is set aside as `id`, and its own hash goes up a level.
    fn push(
        &mut self,
        hash: Hash,
        id: TileId,
        filled: &mut Vec<(TileId, Vec<u8>)>,
    ) -> Option<Hash> {
        self.hashes.push(hash);
        self.changed = true;
        if self.hashes.len() < TILE_WIDTH {
            return None;
        }
        filled.push((id, concat(&self.hashes)));
        let up = tree_hash(&self.hashes);
        self.hashes.clear();
        Some(up)
    }
}

fn concat(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// Why an edge cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError<E> {
    /// Reading a tile failed.
    Fetch(E),
    /// The tile is not there.
    Missing(TileId),
    /// The tile has fewer hashes than the size demands.
    Short(TileId),
    /// The size is above [`TREE_SIZE_MAX`].
    TooLarge {
        /// The size asked for.
        size: u64,
    },
}

impl<E: fmt::Display> fmt::Display for LoadError<E> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch(_) => write!(out, "read a tile of the right edge"),
            Self::Missing(id) => write!(out, "tile {} of level {} is missing", id.index, id.level),
            Self::Short(id) => write!(out, "tile {} of level {} is too short", id.index, id.level),
            Self::TooLarge { size } => write!(out, "a tree of {size} entries is beyond the limit"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for LoadError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Fetch(error) => Some(error),
            Self::Missing(_) | Self::Short(_) | Self::TooLarge { .. } => None,
        }
    }
}
