//! Merkle tree of RFC 6962 on C2SP tlog-tiles, with signed notes, checkpoints and proof files.
//!
//! Pure: nothing here does I/O, and no input makes it panic. Formats follow the C2SP documents
//! signed-note v1.0.0, tlog-checkpoint v1.0.0, tlog-tiles v0.1.0 and the untagged tlog-proof, all
//! as they stood at C2SP commit 5ba5ee8.

mod bundle;
mod checkpoint;
mod edge;
mod encoding;
mod hash;
pub mod note;
mod proof;
mod proof_file;
mod tile;
mod verify;

pub use bundle::{
    BundleError, ENTRY_BYTES_MAX, Entries, bundle_entries, decode_bundle, encode_bundle,
};
pub use checkpoint::{Checkpoint, CheckpointError, ORIGIN_BYTES_MAX};
pub use edge::{Edge, LoadError};
pub use hash::{HASH_BYTES, Hash, leaf_hash, node_hash, tree_hash};
pub use proof::{
    ProofError, consistency_proof, inclusion_proof, root_from_tiles, tiles_for_consistency,
    tiles_for_inclusion, tiles_for_root,
};
pub use proof_file::{EXTRA_BYTES_MAX, PROOF_HASHES_MAX, ProofFileError, TlogProof};
pub use tile::{
    TILE_HEIGHT, TILE_WIDTH, TREE_SIZE_MAX, TileId, TilePath, TilePathError, TileSource,
    bundle_path, bundle_width, read_tiles, tile_hashes,
};
pub use verify::{VerifyError, verify_consistency, verify_inclusion};
