//! SHA-256 hashes of RFC 6962 section 2.1, with its separate prefixes for leaves and nodes.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::encoding;

/// Length of a hash in bytes.
pub const HASH_BYTES: usize = 32;

/// A Merkle tree hash: of a leaf, of a subtree or of a whole tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; HASH_BYTES]);

impl Hash {
    /// Hash of the tree without entries: SHA-256 of nothing.
    pub const EMPTY_ROOT: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9,
        0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52,
        0xb8, 0x55,
    ]);

    /// Takes 32 bytes as a hash.
    pub const fn from_bytes(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// Takes a slice of exactly 32 bytes as a hash.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Gives the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }

    /// Reads the base64 form that [`fmt::Display`] writes.
    pub fn from_base64(text: &str) -> Option<Self> {
        Self::from_slice(&encoding::from_base64(text)?)
    }
}

/// Writes base64, the form that checkpoints and proof files use.
impl fmt::Display for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&encoding::base64(&self.0))
    }
}

impl fmt::LowerHex for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:x}")
    }
}

/// Hashes the verbatim bytes of an entry.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    digest(&[&[0], entry])
}

/// Hashes two neighbours into their parent.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    digest(&[&[1], &left.0, &right.0])
}

/// Merkle tree hash of a list of neighbours of one height.
///
/// Pairing neighbours and lifting a lone last one unchanged gives the same tree as RFC 6962's
/// split at the largest power of two, so the last hash may also stand for a smaller subtree.
pub fn tree_hash(hashes: &[Hash]) -> Hash {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row
            .chunks(2)
            .filter_map(|pair| match pair {
                [left, right] => Some(node_hash(left, right)),
                _ => pair.first().copied(),
            })
            .collect();
    }
    row.first().copied().unwrap_or(Hash::EMPTY_ROOT)
}

fn digest(parts: &[&[u8]]) -> Hash {
    let mut state = Sha256::new();
    for part in parts {
        state.update(part);
    }
    Hash(state.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::{Hash, leaf_hash, tree_hash};
    use sha2::{Digest, Sha256};

    #[test]
    fn the_empty_root_is_the_hash_of_nothing() {
        assert_eq!(Hash::EMPTY_ROOT.as_bytes()[..], Sha256::digest([])[..]);
        assert_eq!(tree_hash(&[]), Hash::EMPTY_ROOT);
    }

    #[test]
    fn debug_is_hex_and_display_is_base64() {
        let hash = leaf_hash(b"");
        let hex = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(format!("{hash:?}"), hex);
        assert_eq!(Hash::from_base64(&hash.to_string()), Some(hash));
        assert_eq!(Hash::from_base64("AAAA"), None);
    }
}
