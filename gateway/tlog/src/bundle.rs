//! Entry bundles of tlog-tiles: entries behind big-endian 16-bit lengths.

use std::fmt;

use crate::tile::TILE_WIDTH;

/// Longest entry that a bundle can hold.
pub const ENTRY_BYTES_MAX: usize = 0xFFFF;

const LENGTH_BYTES: usize = 2;

/// Why a bundle cannot be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// An entry is longer than [`ENTRY_BYTES_MAX`].
    EntryTooLong {
        /// Place of the entry in the bundle.
        entry: usize,
    },
    /// There are more entries than a full bundle holds.
    TooManyEntries,
    /// The bytes end inside an entry or its length.
    Truncated {
        /// Place of the entry in the bundle.
        entry: usize,
        /// Byte at which that entry's length begins.
        at: usize,
    },
}

impl fmt::Display for BundleError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EntryTooLong { entry } => write!(out, "entry {entry} of the bundle is too long"),
            Self::TooManyEntries => write!(out, "more than {TILE_WIDTH} entries in one bundle"),
            Self::Truncated { entry, at } => {
                write!(
                    out,
                    "the bundle ends inside its entry {entry}, which begins at byte {at}"
                )
            }
        }
    }
}

impl std::error::Error for BundleError {}

/// Writes up to 256 entries as one bundle.
pub fn encode_bundle<E: AsRef<[u8]>>(entries: &[E]) -> Result<Vec<u8>, BundleError> {
    if entries.len() > TILE_WIDTH {
        return Err(BundleError::TooManyEntries);
    }
    let mut bytes = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        let length = u16::try_from(entry.as_ref().len())
            .map_err(|_| BundleError::EntryTooLong { entry: place })?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(entry.as_ref());
    }
    Ok(bytes)
}

/// Reads a whole bundle of up to 256 entries.
pub fn decode_bundle(bytes: &[u8]) -> Result<Vec<Vec<u8>>, BundleError> {
    bundle_entries(bytes)
        .map(|entry| entry.map(|(_, entry)| entry.to_vec()))
        .collect()
}

/// Walks a bundle without copying: each item is the byte at which its length begins, and the entry.
pub fn bundle_entries(bytes: &[u8]) -> Entries<'_> {
    Entries {
        rest: bytes,
        at: 0,
        entry: 0,
    }
}

/// Iterator of [`bundle_entries`]; it ends after the first error.
#[derive(Clone, Debug)]
pub struct Entries<'bundle> {
    rest: &'bundle [u8],
    at: usize,
    entry: usize,
}

impl<'bundle> Entries<'bundle> {
    fn take(&mut self) -> Result<(usize, &'bundle [u8]), BundleError> {
        if self.entry >= TILE_WIDTH {
            return Err(BundleError::TooManyEntries);
        }
        let (at, entry) = (self.at, self.entry);
        let truncated = BundleError::Truncated { entry, at };
        let (length, rest) = self
            .rest
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or(truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (bytes, rest) = rest.split_at_checked(length).ok_or(truncated)?;
        self.rest = rest;
        self.at += LENGTH_BYTES + length;
        self.entry += 1;
        Ok((at, bytes))
    }
}

impl<'bundle> Iterator for Entries<'bundle> {
    type Item = Result<(usize, &'bundle [u8]), BundleError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let taken = self.take();
        if taken.is_err() {
            self.rest = &[];
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::{BundleError, ENTRY_BYTES_MAX, decode_bundle, encode_bundle};
    use proptest::prelude::*;

    #[test]
    fn a_bundle_is_lengths_and_entries() {
        let bytes = encode_bundle(&[&b"ab"[..], b"", b"c"]).expect("short entries");
        assert_eq!(bytes, b"\x00\x02ab\x00\x00\x00\x01c");
        assert_eq!(
            decode_bundle(&bytes),
            Ok(vec![b"ab".to_vec(), vec![], b"c".to_vec()])
        );
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let longest = vec![7_u8; ENTRY_BYTES_MAX];
        let bytes = encode_bundle(&[&longest]).expect("as long as allowed");
        assert_eq!(decode_bundle(&bytes), Ok(vec![longest]));
        let too_long = encode_bundle(&[vec![7_u8; ENTRY_BYTES_MAX + 1]]);
        assert_eq!(too_long, Err(BundleError::EntryTooLong { entry: 0 }));
        let full = encode_bundle(&[b""; 256]).expect("256 entries");
        assert_eq!(decode_bundle(&full).map(|entries| entries.len()), Ok(256));
        assert_eq!(encode_bundle(&[b""; 257]), Err(BundleError::TooManyEntries));
        let over = [full, vec![0, 0]].concat();
        assert_eq!(decode_bundle(&over), Err(BundleError::TooManyEntries));
    }

    #[test]
    fn truncation_names_the_entry_and_where_it_begins() {
        let bytes = encode_bundle(&[&b"ab"[..], b"cde"]).expect("short entries");
        for end in 5..bytes.len() {
            let cut = decode_bundle(&bytes[..end]);
            assert_eq!(
                cut,
                Err(BundleError::Truncated { entry: 1, at: 4 }),
                "cut at {end}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_canonically_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(entries) = decode_bundle(&bytes) {
                prop_assert_eq!(encode_bundle(&entries), Ok(bytes));
            }
        }

        #[test]
        fn bundles_round_trip(entries in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..=256)) {
            let bytes = encode_bundle(&entries).expect("short entries");
            prop_assert_eq!(decode_bundle(&bytes), Ok(entries));
        }
    }
}
