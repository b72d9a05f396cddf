//! Finding an entry by its leaf hash: the tree has no index of them, so its newest leaves are looked through.

use waymark_core::error::ErrorKind;
use waymark_tlog::{HASH_BYTES, Hash, TILE_WIDTH, TileId};

use super::super::status::field;
use crate::service::{Service, ServiceError};

/// Tiles of leaves that one search reads at most: the newest quarter of a million entries.
const TILES_MAX: u64 = 1_024;
/// Tiles read at a time.
const BATCH: u64 = 32;

/// The index of the entry with a leaf hash, in the tree of a size.
pub(super) async fn index_of(
    service: &Service,
    hash: &[u8],
    size: u64,
) -> Result<u64, ServiceError> {
    let wanted = Hash::from_slice(hash)
        .ok_or_else(|| field("leaf_hash", format!("is {HASH_BYTES} bytes")))?;
    let width = u64::try_from(TILE_WIDTH).unwrap_or(u64::MAX);
    let first = size.div_ceil(width).saturating_sub(TILES_MAX);
    let mut end = size.div_ceil(width);
    while end > first {
        let begin = end.saturating_sub(BATCH).max(first);
        let ids: Vec<TileId> = (begin..end)
            .map(|index| TileId { level: 0, index })
            .collect();
        for (tile, bytes) in service.store().tiles(&ids).await? {
            if let Some(index) = within(&bytes, &wanted).map(|place| tile.index * width + place)
                && index < size
            {
                return Ok(index);
            }
        }
        end = begin;
    }
    if first > 0 {
        let why = "is not among the newest entries, and older ones are not looked through: name the index or the event";
        return Err(field("leaf_hash", why));
    }
    Err(ServiceError::new(ErrorKind::NotFound, "NO_SUCH_ENTRY"))
}

/// Where a tile has a leaf hash.
fn within(tile: &[u8], wanted: &Hash) -> Option<u64> {
    tile.chunks_exact(HASH_BYTES)
        .zip(0..)
        .find(|(hash, _)| hash == wanted.as_bytes())
        .map(|(_, place)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_found_at_its_place_and_nowhere_between() {
        let mut tile = vec![1; HASH_BYTES];
        tile.extend([2; HASH_BYTES]);
        assert_eq!(within(&tile, &Hash::from_bytes([2; HASH_BYTES])), Some(1));
        let mut across = [1; HASH_BYTES];
        across[HASH_BYTES - 1] = 2;
        assert_eq!(within(&tile, &Hash::from_bytes(across)), None);
    }
}
