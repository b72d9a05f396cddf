//! The tree against two independent implementations, at every small size and at random large ones.

use std::collections::BTreeMap;
use std::convert::Infallible;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use proptest::prelude::*;
use sha2::Sha256;
use waymark_tlog::{
    Edge, Hash, LoadError, ProofError, TILE_WIDTH, TREE_SIZE_MAX, TileId, TileSource,
    consistency_proof, inclusion_proof, leaf_hash, node_hash, read_tiles, root_from_tiles,
    tiles_for_consistency, tiles_for_inclusion, tiles_for_root, verify_consistency,
    verify_inclusion,
};

const SIZE_MAX: u64 = 1100;

#[test]
fn roots_are_those_of_both_oracles_at_every_size() {
    let mut edge = Edge::empty();
    let mut tiles = Tiles::default();
    let mut memory = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let mut stored = Stored::default();
    for size in 0..=SIZE_MAX {
        let root = edge.root();
        assert_eq!(edge.size(), size);
        assert_eq!(
            root.as_bytes()[..],
            memory.root().as_bytes()[..],
            "ct-merkle at {size}"
        );
        let go = tlog_tiles::tree_hash(size, &stored).expect("stored hashes");
        assert_eq!(root.as_bytes(), &go.0, "tlog_tiles at {size}");
        tiles.0.extend(edge.take_changed());
        let cut = tiles.cut_to(size, &tiles_for_root(size).expect("small"));
        assert_eq!(
            root_from_tiles(size, &cut),
            Ok(root),
            "from tiles at {size}"
        );
        let loaded = Edge::load(size, |id| Ok::<_, Infallible>(cut.get(&id).cloned()));
        assert_eq!(loaded.expect("all tiles").root(), root, "loaded at {size}");

        let entry = entry(size);
        edge.append(leaf_hash(&entry));
        stored.append(&entry);
        memory.push(entry);
    }
}

#[test]
fn a_loaded_edge_goes_on_as_the_one_that_was_kept() {
    for start in [0, 1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537] {
        let mut kept = Edge::empty();
        let mut tiles = Tiles::default();
        for n in 0..start {
            kept.append(leaf_hash(&entry(n)));
        }
        tiles.0.extend(kept.take_changed());
        let loaded = Edge::load(start, |id| Ok::<_, Infallible>(tiles.0.get(&id).cloned()));
        let mut loaded = loaded.expect("all tiles");
        for n in start..start + 600 {
            kept.append(leaf_hash(&entry(n)));
            loaded.append(leaf_hash(&entry(n)));
        }
        assert_eq!(kept.root(), loaded.root(), "from {start}");
        assert_eq!(kept.take_changed(), loaded.take_changed(), "from {start}");
        assert_eq!(loaded.take_changed(), [], "nothing changed since");
        for (id, bytes) in loaded.partial_tiles() {
            assert_eq!(bytes.len(), 32 * id.width_at(start + 600), "from {start}");
        }
        assert_eq!(loaded.partial_tiles(), kept.partial_tiles());
    }
}

#[test]
fn changed_tiles_are_those_that_the_path_rule_names() {
    let (_, tiles) = grown(70_000);
    let widths: Vec<(u8, u64, usize)> = tiles
        .0
        .iter()
        .map(|(id, bytes)| (id.level, id.index, bytes.len() / 32))
        .filter(|(_, _, width)| *width < TILE_WIDTH)
        .collect();
    assert_eq!(widths, [(0, 273, 112), (1, 1, 17), (2, 0, 1)]);
    assert_eq!(tiles.0.len(), 274 + 2 + 1);
}

#[test]
fn inclusion_proofs_agree_with_both_oracles() {
    let (log, tiles) = grown(SIZE_MAX);
    let mut random = Random(1);
    for size in 1..=SIZE_MAX {
        let root = log.root(size);
        let indices: Vec<u64> = if size <= 70 {
            (0..size).collect()
        } else {
            vec![
                0,
                size - 1,
                size / 2,
                random.below(size),
                random.below(size),
            ]
        };
        for index in indices {
            let needed = tiles_for_inclusion(index, size).expect("inside");
            let proof = inclusion_proof(index, size, &tiles.cut_to(size, &needed)).expect("tiles");
            let leaf = leaf_hash(&entry(index));
            assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));

            let go = tlog_tiles::prove_record(size, index, &log.stored).expect("stored hashes");
            assert!(
                go.iter()
                    .map(|hash| hash.0)
                    .eq(proof.iter().map(|hash| *hash.as_bytes()))
            );
            let theirs = InclusionProof::<Sha256>::try_from_bytes(concat(&proof)).expect("whole");
            let oracle = RootHash::<Sha256>::new((*root.as_bytes()).into(), size);
            assert!(
                oracle
                    .verify_inclusion(&entry(index), index, &theirs)
                    .is_ok()
            );
        }
    }
}

#[test]
fn consistency_proofs_agree_with_both_oracles() {
    let (log, tiles) = grown(SIZE_MAX);
    let mut random = Random(2);
    for new in 1..=SIZE_MAX {
        let olds: Vec<u64> = if new <= 70 {
            (1..=new).collect()
        } else {
            vec![
                1,
                new,
                new - 1,
                new / 2,
                random.below(new) + 1,
                random.below(new) + 1,
            ]
        };
        for old in olds {
            let needed = tiles_for_consistency(old, new).expect("in order");
            let proof = consistency_proof(old, new, &tiles.cut_to(new, &needed)).expect("tiles");
            let (old_root, new_root) = (log.root(old), log.root(new));
            let verified = verify_consistency(old, &old_root, new, &new_root, &proof);
            assert_eq!(verified, Ok(()), "{old} to {new}");

            let go = tlog_tiles::prove_tree(new, old, &log.stored).expect("stored hashes");
            assert!(
                go.iter()
                    .map(|hash| hash.0)
                    .eq(proof.iter().map(|hash| *hash.as_bytes()))
            );
            if old < new {
                let theirs = ConsistencyProof::<Sha256>::try_from_bytes(concat(&proof));
                let of =
                    |size, root: Hash| RootHash::<Sha256>::new((*root.as_bytes()).into(), size);
                let verified = of(new, new_root)
                    .verify_consistency(&of(old, old_root), &theirs.expect("whole"));
                assert!(verified.is_ok(), "ct-merkle, {old} to {new}");
            }
        }
    }
}

proptest! {
    #[test]
    fn proofs_in_huge_trees_agree_with_the_oracle(size in 1_u64..(1 << 40), a: u64, b: u64) {
        // All leaves are equal, so a perfect subtree's hash depends on its height alone.
        let perfect = Perfect::new();
        let (index, old) = (a % size, b % size + 1);
        let tiles = read_tiles(&perfect, &tiles_for_root(size).expect("in range")).expect("made up");
        let root = root_from_tiles(size, &tiles).expect("tiles");
        prop_assert_eq!(root.as_bytes(), &tlog_tiles::tree_hash(size, &perfect).expect("made up").0);

        let needed = tiles_for_inclusion(index, size).expect("inside");
        prop_assert!(needed.iter().all(|id| id.width_at(size) > 0));
        let tiles = perfect.cut_to(size, &needed);
        let proof = inclusion_proof(index, size, &tiles).expect("tiles");
        let go = tlog_tiles::prove_record(size, index, &perfect).expect("made up");
        prop_assert!(go.iter().map(|hash| hash.0).eq(proof.iter().map(|hash| *hash.as_bytes())));
        prop_assert_eq!(verify_inclusion(&perfect.height(0), index, size, &proof, &root), Ok(()));

        let tiles = perfect.cut_to(size, &tiles_for_consistency(old, size).expect("in order"));
        let proof = consistency_proof(old, size, &tiles).expect("tiles");
        let go = tlog_tiles::prove_tree(size, old, &perfect).expect("made up");
        prop_assert!(go.iter().map(|hash| hash.0).eq(proof.iter().map(|hash| *hash.as_bytes())));
        let tiles = read_tiles(&perfect, &tiles_for_root(old).expect("in range")).expect("made up");
        let old_root = root_from_tiles(old, &tiles).expect("tiles");
        prop_assert_eq!(verify_consistency(old, &old_root, size, &root, &proof), Ok(()));
    }

    #[test]
    fn no_sizes_panic(a: u64, b: u64, hash: [u8; 32], count in 0_usize..70) {
        let hash = Hash::from_bytes(hash);
        let proof = vec![hash; count];
        let nothing = BTreeMap::new();
        for (a, b) in [(a, b), (a, a), (0, b), (a, u64::MAX), (TREE_SIZE_MAX - 1, TREE_SIZE_MAX)] {
            prop_assert!(verify_inclusion(&hash, a, b, &proof, &hash).is_err() || b == 1);
            let same = a == b && proof.is_empty();
            prop_assert!(same || verify_consistency(a, &hash, b, &hash, &proof).is_err());
            prop_assert!(inclusion_proof(a, b, &nothing).is_err() || b == 1);
            let trivial = a == 0 || a == b;
            prop_assert!(consistency_proof(a, b, &nothing).is_err() || trivial);
            prop_assert!(root_from_tiles(a, &nothing).is_err() || a == 0);
        }
    }
}

#[test]
fn sizes_up_to_the_limit_are_served_and_none_beyond() {
    assert!(tiles_for_inclusion(TREE_SIZE_MAX - 1, TREE_SIZE_MAX).is_ok());
    let size = TREE_SIZE_MAX + 1;
    assert_eq!(
        tiles_for_inclusion(0, size),
        Err(ProofError::TooLarge { size })
    );
    assert_eq!(
        tiles_for_consistency(1, size),
        Err(ProofError::TooLarge { size })
    );
    assert_eq!(tiles_for_root(size), Err(ProofError::TooLarge { size }));
    let loaded = Edge::load(size, |_| Ok::<_, Infallible>(None));
    assert_eq!(loaded.err(), Some(LoadError::TooLarge { size }));
}

#[test]
fn a_missing_or_short_tile_is_named() {
    let (_, tiles) = grown(600);
    let id = TileId { level: 0, index: 2 };
    for (cut, expected) in [
        (None, ProofError::MissingTile(id)),
        (Some(32 * 87), ProofError::ShortTile(id)),
    ] {
        let mut tiles = tiles.0.clone();
        let full = tiles.remove(&id).expect("600 entries fill it in part");
        tiles.extend(cut.map(|cut| (id, full[..cut].to_vec())));
        assert_eq!(inclusion_proof(0, 600, &tiles), Err(expected));
        assert_eq!(consistency_proof(512, 600, &tiles), Err(expected));
        assert_eq!(root_from_tiles(600, &tiles), Err(expected));
        let loaded = Edge::load(600, |id| Ok::<_, Infallible>(tiles.get(&id).cloned())).err();
        let missing = if cut.is_none() {
            LoadError::Missing(id)
        } else {
            LoadError::Short(id)
        };
        assert_eq!(loaded, Some(missing));
    }
}

fn entry(n: u64) -> Vec<u8> {
    format!("entry {n}").into_bytes()
}

fn concat(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

struct Log {
    stored: Stored,
}

impl Log {
    fn root(&self, size: u64) -> Hash {
        Hash::from_bytes(
            tlog_tiles::tree_hash(size, &self.stored)
                .expect("stored hashes")
                .0,
        )
    }
}

fn grown(size: u64) -> (Log, Tiles) {
    let (mut edge, mut tiles, mut stored) = (Edge::empty(), Tiles::default(), Stored::default());
    for n in 0..size {
        edge.append(leaf_hash(&entry(n)));
        stored.append(&entry(n));
        if n % 97 == 0 {
            tiles.0.extend(edge.take_changed());
        }
    }
    tiles.0.extend(edge.take_changed());
    (Log { stored }, tiles)
}

#[derive(Default)]
struct Tiles(BTreeMap<TileId, Vec<u8>>);

impl Tiles {
    /// Only the named tiles, each with exactly the hashes that a tree of `size` has.
    fn cut_to(&self, size: u64, ids: &[TileId]) -> BTreeMap<TileId, Vec<u8>> {
        let cut = |id: &TileId| {
            let full = self.0.get(id)?;
            Some((*id, full.get(..32 * id.width_at(size))?.to_vec()))
        };
        ids.iter().filter_map(cut).collect()
    }
}

/// Hashes in the order of Go's `sumdb/tlog`.
#[derive(Default)]
struct Stored {
    hashes: Vec<tlog_tiles::Hash>,
    size: u64,
}

impl Stored {
    fn append(&mut self, entry: &[u8]) {
        let new = tlog_tiles::stored_hashes(self.size, entry, self).expect("stored hashes");
        self.hashes.extend(new);
        self.size += 1;
    }
}

impl tlog_tiles::HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        let hash = |index: &u64| self.hashes.get(usize::try_from(*index).ok()?).copied();
        indexes
            .iter()
            .map(hash)
            .collect::<Option<_>>()
            .ok_or(tlog_tiles::Error::IndexesNotInTree)
    }
}

/// A tree of any size, all of whose leaves are the same.
struct Perfect(Vec<Hash>);

impl Perfect {
    fn new() -> Self {
        let mut heights = vec![leaf_hash(b"same")];
        for _ in 0..64 {
            let below = *heights.last().expect("never empty");
            heights.push(node_hash(&below, &below));
        }
        Self(heights)
    }

    fn height(&self, height: u8) -> Hash {
        *self.0.get(usize::from(height)).expect("no tree is higher")
    }

    fn cut_to(&self, size: u64, ids: &[TileId]) -> BTreeMap<TileId, Vec<u8>> {
        let cut = |id: &TileId| {
            (
                *id,
                concat(&vec![self.height(8 * id.level); id.width_at(size)]),
            )
        };
        ids.iter().map(cut).collect()
    }
}

impl TileSource for Perfect {
    type Error = Infallible;

    fn tile(&self, id: TileId) -> Result<Vec<u8>, Infallible> {
        Ok(concat(&vec![self.height(8 * id.level); TILE_WIDTH]))
    }
}

impl tlog_tiles::HashReader for Perfect {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        let hash = |index: &u64| {
            let (level, _) = tlog_tiles::split_stored_hash_index(*index);
            tlog_tiles::Hash(*self.height(level).as_bytes())
        };
        Ok(indexes.iter().map(hash).collect())
    }
}

/// A small generator with a fixed seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}
