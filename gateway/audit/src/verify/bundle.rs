//! One bundle of entries, held against the leaf hashes that the tree has for them.

use waymark_tlog::{
    BundleError, Hash, TILE_WIDTH, TileId, bundle_entries, bundle_path, bundle_width, leaf_hash,
    tile_hashes,
};

use crate::layout::BUNDLE_BYTES_MAX;
use crate::report::{Findings, Place, What};
use crate::tree::{ReadError, Tree};

/// Entries longer than this are not searched for the bit that was flipped.
const SEARCHED_BYTES_MAX: usize = 1024;

/// The entries of a bundle as far as they can be read.
#[derive(Debug)]
pub(super) struct Bundle<'bytes> {
    pub(super) path: String,
    /// Index of the first entry.
    pub(super) first: u64,
    width: usize,
    /// Byte at which each entry begins, and its content.
    pub(super) entries: Vec<(usize, &'bytes [u8])>,
    error: Option<BundleError>,
    /// Leaf hash of each entry that the bundle ought to have.
    pub(super) leaves: Vec<Option<Hash>>,
}

impl<'bytes> Bundle<'bytes> {
    pub(super) fn parse(index: u64, width: usize, bytes: &'bytes [u8]) -> Self {
        let (mut entries, mut error) = (Vec::new(), None);
        for entry in bundle_entries(bytes) {
            match entry {
                Ok(entry) => entries.push(entry),
                Err(stop) => error = Some(stop),
            }
        }
        let leaves = (0..width)
            .map(|place| entries.get(place).map(|(_, entry)| leaf_hash(entry)))
            .collect();
        let first = index.saturating_mul(u64::try_from(TILE_WIDTH).unwrap_or(u64::MAX));
        Self {
            path: bundle_path(index, width),
            first,
            width,
            entries,
            error,
            leaves,
        }
    }

    /// Names each run of entries that are not those of the tree. `searches` limits how many altered
    /// entries are searched for a flipped bit.
    pub(super) fn compare(&self, tree: &[Hash], searches: &mut u32, findings: &mut Findings) {
        let altered: Vec<bool> = self
            .leaves
            .iter()
            .zip(tree)
            .map(|(leaf, hash)| *leaf != Some(*hash))
            .collect();
        let mut place = 0;
        for run in altered.chunk_by(|a, b| a == b) {
            if run.first() == Some(&true) {
                let detail = self.explain(place, run.len(), tree, searches);
                let mut at = self.place(place);
                if let Explained::Byte(byte, _) = detail {
                    at = at.byte(byte);
                }
                findings.add(What::EntryAltered, at, detail.text());
            }
            place += run.len();
        }
    }

    /// Names entries or bytes behind the last entry of the tree.
    pub(super) fn check_end(&self, findings: &mut Findings) {
        let beyond = self.entries.len().saturating_sub(self.width);
        let more = beyond > 0 || self.error.is_some() && self.entries.len() == self.width;
        if more {
            let detail = format!("the tree has {} entries here, and more follow", self.width);
            findings.add(What::EntryExtra, self.place(self.width), detail);
        }
    }

    /// Index and first byte of the entry at this place of the bundle, known or expected.
    pub(super) fn place(&self, place: usize) -> Place {
        let index = self
            .first
            .saturating_add(u64::try_from(place).unwrap_or(u64::MAX));
        let end = || {
            self.entries
                .last()
                .map_or(0, |(at, entry)| at + 2 + entry.len())
        };
        let byte = self.entries.get(place).map_or_else(end, |(at, _)| *at);
        Place::file(&self.path).entry(index).byte(byte)
    }

    fn explain(&self, place: usize, count: usize, tree: &[Hash], searches: &mut u32) -> Explained {
        let index = |place: usize| self.first + u64::try_from(place).unwrap_or(u64::MAX);
        let last = index(place + count - 1);
        let which = if count == 1 {
            format!("entry {last} is not the one in the tree")
        } else {
            format!(
                "entries {} to {last} are not those in the tree",
                index(place)
            )
        };
        if self.entries.len() < place + count {
            let stop = self.error.map_or_else(
                || format!("the bundle ends after {} entries", self.entries.len()),
                |error| error.to_string(),
            );
            return Explained::Text(format!("{which}: {stop}"));
        }
        let Some(Some(leaf)) = self.leaves.get(place) else {
            return Explained::Text(which);
        };
        if let Some(other) = tree.iter().position(|hash| hash == leaf) {
            return Explained::Text(format!(
                "{which}: entry {} stands in its place",
                index(other)
            ));
        }
        if count == 1 && *searches > 0 {
            *searches -= 1;
            let (at, entry) = self.entries.get(place).copied().unwrap_or_default();
            let found = tree.get(place).and_then(|hash| flipped_bit(entry, hash));
            if let Some((byte, bit)) = found {
                let detail = format!("{which}: bit {bit} of its byte {byte} was flipped");
                return Explained::Byte(at + 2 + byte, detail);
            }
        }
        Explained::Text(which)
    }
}

enum Explained {
    Text(String),
    Byte(usize, String),
}

impl Explained {
    fn text(self) -> String {
        match self {
            Self::Text(text) | Self::Byte(_, text) => text,
        }
    }
}

/// Finds the one bit that makes the entry the one in the tree again, by trying each.
fn flipped_bit(entry: &[u8], hash: &Hash) -> Option<(usize, u32)> {
    if entry.len() > SEARCHED_BYTES_MAX {
        return None;
    }
    let mut tried = entry.to_vec();
    for byte in 0..entry.len() {
        for bit in 0..u8::BITS {
            tried.get_mut(byte).map(|value| *value ^= 1 << bit)?;
            if leaf_hash(&tried) == *hash {
                return Some((byte, bit));
            }
            tried.get_mut(byte).map(|value| *value ^= 1 << bit)?;
        }
    }
    None
}

/// Reads a bundle of the tree of `size` entries.
pub(super) fn read(tree: &Tree, index: u64, size: u64) -> Result<Vec<u8>, ReadError> {
    tree.read(
        &bundle_path(index, bundle_width(index, size)),
        BUNDLE_BYTES_MAX,
    )
}

/// What the tree holds at one index: the entry, and its hash by the tile, each where readable.
pub(super) fn at_index(tree: &Tree, index: u64, size: u64) -> (Option<Vec<u8>>, Option<Hash>) {
    let width = u64::try_from(TILE_WIDTH).unwrap_or(u64::MAX);
    let place = usize::try_from(index % width).unwrap_or(usize::MAX);
    let entry = read(tree, index / width, size)
        .ok()
        .and_then(|bytes| Some(bundle_entries(&bytes).nth(place)?.ok()?.1.to_vec()));
    let id = TileId {
        level: 0,
        index: index / width,
    };
    let hash = tree
        .read(&id.path(id.width_at(size)), BUNDLE_BYTES_MAX)
        .ok()
        .and_then(|bytes| tile_hashes(&bytes, place + 1)?.pop());
    (entry, hash)
}
