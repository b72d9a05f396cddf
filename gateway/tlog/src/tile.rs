//! Tiles of height 8 and their paths, as C2SP tlog-tiles names them.

use std::collections::BTreeMap;
use std::fmt;

use crate::encoding::from_decimal;
use crate::hash::{HASH_BYTES, Hash};

/// Tree levels that one tile spans.
pub const TILE_HEIGHT: u8 = 8;

/// Hashes in a full tile, and entries in a full bundle.
pub const TILE_WIDTH: usize = 1 << TILE_HEIGHT;

/// Largest tree that is read or built: what a signed 64-bit count holds, so that every foreign
/// reader can follow.
pub const TREE_SIZE_MAX: u64 = u64::MAX >> 1;

/// Tile level of the tlog-tiles path syntax.
const LEVEL_MAX: u64 = 63;
/// Digits that keep every tile index below [`TREE_SIZE_MAX`].
const INDEX_ELEMENTS_MAX: usize = 6;

/// Names a tile of hashes by its level and its place in that level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// Level: 0 holds leaf hashes, and each hash of a higher level is that of a full tile below.
    pub level: u8,
    /// Place within the level, from 0.
    pub index: u64,
}

impl TileId {
    /// Path of the tile when it holds `width` hashes, relative to the root of the log.
    ///
    /// A width of 256 or more is the full tile. A width of 0 names no tile: no parser accepts it.
    pub fn path(self, width: usize) -> String {
        format!("tile/{}/{}", self.level, index_path(self.index, width))
    }

    /// Hashes that this tile holds in a tree of `size` entries: 0 where it does not exist.
    pub fn width_at(self, size: u64) -> usize {
        let below = u32::from(TILE_HEIGHT) * u32::from(self.level);
        width_of(size.checked_shr(below).unwrap_or(0), self.index)
    }
}

/// Path of an entry bundle when it holds `width` entries, relative to the root of the log.
pub fn bundle_path(index: u64, width: usize) -> String {
    format!("tile/entries/{}", index_path(index, width))
}

/// Entries that bundle `index` holds in a tree of `size` entries: 0 where it does not exist.
pub fn bundle_width(index: u64, size: u64) -> usize {
    width_of(size, index)
}

/// What a path below `tile/` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TilePath {
    /// A tile of hashes.
    Hashes {
        /// Which tile.
        id: TileId,
        /// Hashes in the file, 1 to 256.
        width: usize,
    },
    /// A bundle of entries.
    Entries {
        /// Place of the bundle, from 0.
        index: u64,
        /// Entries in the file, 1 to 256.
        width: usize,
    },
}

impl TilePath {
    /// Reads a path in its one canonical spelling.
    pub fn parse(path: &str) -> Result<Self, TilePathError> {
        Self::parse_loosely(path)
            .filter(|parsed| parsed.to_string() == path)
            .ok_or(TilePathError)
    }

    fn parse_loosely(path: &str) -> Option<Self> {
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let (place, width) = match rest.split_once(".p/") {
            Some((place, width)) => (place, partial_width(width)?),
            None => (rest, TILE_WIDTH),
        };
        let index = parse_index(place)?;
        if kind == "entries" {
            return Some(Self::Entries { index, width });
        }
        let level = from_decimal(kind).filter(|level| *level <= LEVEL_MAX)?;
        let level = u8::try_from(level).ok()?;
        Some(Self::Hashes {
            id: TileId { level, index },
            width,
        })
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Hashes { id, width } => out.write_str(&id.path(width)),
            Self::Entries { index, width } => out.write_str(&bundle_path(index, width)),
        }
    }
}

/// A path is not one that tlog-tiles defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilePathError;

impl fmt::Display for TilePathError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("not a canonical tile or bundle path")
    }
}

impl std::error::Error for TilePathError {}

/// Where tiles can be read from: a directory, a database, a table in memory.
pub trait TileSource {
    /// What reading can fail with.
    type Error;

    /// Reads at least the hashes of `id` that the tree at hand needs; more is harmless.
    fn tile(&self, id: TileId) -> Result<Vec<u8>, Self::Error>;
}

/// Reads the named tiles into the table that the proof functions take.
pub fn read_tiles<S: TileSource>(
    source: &S,
    ids: &[TileId],
) -> Result<BTreeMap<TileId, Vec<u8>>, S::Error> {
    ids.iter().map(|id| Ok((*id, source.tile(*id)?))).collect()
}

/// Reads the first `width` hashes of a tile's bytes, or nothing where there are fewer.
pub fn tile_hashes(bytes: &[u8], width: usize) -> Option<Vec<Hash>> {
    let needed = bytes.get(..width.checked_mul(HASH_BYTES)?)?;
    needed
        .chunks_exact(HASH_BYTES)
        .map(Hash::from_slice)
        .collect()
}

fn width_of(count: u64, index: u64) -> usize {
    let width = u64::try_from(TILE_WIDTH).unwrap_or(u64::MAX);
    let before = index.saturating_mul(width);
    usize::try_from(count.saturating_sub(before).min(width)).unwrap_or(0)
}

fn index_path(index: u64, width: usize) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    if width < TILE_WIDTH {
        path = format!("{path}.p/{width}");
    }
    path
}

/// Reads the digits; [`TilePath::parse`] refuses any spelling but the canonical one.
fn parse_index(path: &str) -> Option<u64> {
    let elements: Vec<&str> = path.split('/').collect();
    if elements.len() > INDEX_ELEMENTS_MAX {
        return None;
    }
    elements.iter().try_fold(0_u64, |index, element| {
        let digits = element.strip_prefix('x').unwrap_or(element);
        if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        index.checked_mul(1000)?.checked_add(digits.parse().ok()?)
    })
}

fn partial_width(text: &str) -> Option<usize> {
    let width = usize::try_from(from_decimal(text)?).ok()?;
    (1..TILE_WIDTH).contains(&width).then_some(width)
}

#[cfg(test)]
mod tests {
    use super::{TileId, TilePath, bundle_path, bundle_width};
    use proptest::prelude::*;

    #[test]
    fn paths_are_those_of_tlog_tiles() {
        let id = TileId {
            level: 0,
            index: 1_234_067,
        };
        assert_eq!(id.path(256), "tile/0/x001/x234/067");
        assert_eq!(TileId { level: 2, index: 0 }.path(17), "tile/2/000.p/17");
        assert_eq!(bundle_path(273, 112), "tile/entries/273.p/112");
        let parsed = TilePath::parse("tile/0/x001/x234/067").expect("canonical");
        assert_eq!(parsed, TilePath::Hashes { id, width: 256 });
    }

    #[test]
    fn other_spellings_of_a_path_are_refused() {
        for path in [
            "",
            "tile",
            "tile/0",
            "tile/0/0",
            "tile/0/0000",
            "tile/00/000",
            "tile/64/000",
            "tile/-1/000",
            "tile/0/x000/001",
            "tile/0/x001",
            "tile/0/001/002",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p",
            "tile/0/000.p/1/2",
            "/tile/0/000",
            "tile/0/000/",
            "tile/entries/00x",
            "tile/Entries/000",
            "tile/0/../000",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
            "tile/8/0/000",
            "tile/0/+01",
        ] {
            assert!(TilePath::parse(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn widths_are_those_of_the_example_in_tlog_tiles() {
        let width = |level, index| TileId { level, index }.width_at(70_000);
        assert_eq!((width(0, 272), width(0, 273), width(0, 274)), (256, 112, 0));
        assert_eq!((width(1, 0), width(1, 1), width(1, 2)), (256, 17, 0));
        assert_eq!((width(2, 0), width(3, 0), width(63, 0)), (1, 0, 0));
        assert_eq!(TileId { level: 1, index: 0 }.width_at(256), 1);
        assert_eq!(
            TileId {
                level: 0,
                index: u64::MAX
            }
            .width_at(u64::MAX),
            0
        );
        assert_eq!(
            (bundle_width(273, 70_000), bundle_width(274, 70_000)),
            (112, 0)
        );
    }

    proptest! {
        #[test]
        fn paths_round_trip(level in 0_u8..=63, index in 0_u64..(1 << 56), width in 1_usize..=256) {
            let hashes = TilePath::Hashes { id: TileId { level, index }, width };
            prop_assert_eq!(TilePath::parse(&hashes.to_string()), Ok(hashes));
            let entries = TilePath::Entries { index, width };
            prop_assert_eq!(TilePath::parse(&entries.to_string()), Ok(entries));
        }

        #[test]
        fn any_text_parses_or_is_refused(path in "(tile/)?[0-9x/.p entris]{0,24}") {
            if let Ok(parsed) = TilePath::parse(&path) {
                prop_assert_eq!(parsed.to_string(), path);
            }
        }
    }
}
