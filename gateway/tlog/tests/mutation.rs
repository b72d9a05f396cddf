//! Every way to bend a proof, a checkpoint or a proof file is refused.

use std::collections::BTreeMap;

use proptest::prelude::*;
use waymark_tlog::note::{NOTE_BYTES_MAX, NoteError, SigningKey};
use waymark_tlog::{
    Checkpoint, CheckpointError, EXTRA_BYTES_MAX, Edge, Hash, PROOF_HASHES_MAX, ProofFileError,
    TileId, TlogProof, VerifyError, consistency_proof, inclusion_proof, leaf_hash, root_from_tiles,
    verify_consistency, verify_inclusion,
};

const ORIGIN: &str = "gateway.test/delivery/2026";

#[test]
fn a_bent_inclusion_proof_is_refused() {
    let tiles = tiles(600);
    for size in [1, 2, 3, 7, 64, 65, 255, 256, 257, 511, 600] {
        let root = root(size, &tiles);
        for index in [0, size / 3, size / 2, size - 1] {
            let leaf = leaf_hash(&index.to_be_bytes());
            let proof = inclusion_proof(index, size, &tiles).expect("tiles");
            assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));
            for bent in bend(&proof) {
                assert!(
                    verify_inclusion(&leaf, index, size, &bent, &root).is_err(),
                    "{index} of {size}"
                );
            }
            for other in (0..=size).filter(|other| *other != index) {
                assert!(verify_inclusion(&leaf, other, size, &proof, &root).is_err());
            }
            let other_leaf = leaf_hash(b"another");
            let refused = verify_inclusion(&other_leaf, index, size, &proof, &root);
            assert_eq!(refused, Err(VerifyError::RootMismatch));
            assert!(verify_inclusion(&leaf, index, size, &proof, &flip(&root)).is_err());
        }
    }
}

#[test]
fn a_bent_consistency_proof_is_refused() {
    let tiles = tiles(600);
    for new in [2, 3, 7, 64, 65, 255, 256, 257, 600] {
        for old in [1, new / 2, new / 3 + 1, new - 1] {
            let (old_root, new_root) = (root(old, &tiles), root(new, &tiles));
            let proof = consistency_proof(old, new, &tiles).expect("tiles");
            let verify = |old_root: &Hash, new_root: &Hash, proof: &[Hash]| {
                verify_consistency(old, old_root, new, new_root, proof)
            };
            assert_eq!(verify(&old_root, &new_root, &proof), Ok(()));
            for bent in bend(&proof) {
                assert!(
                    verify(&old_root, &new_root, &bent).is_err(),
                    "{old} to {new}"
                );
            }
            assert!(verify(&flip(&old_root), &new_root, &proof).is_err());
            assert!(verify(&old_root, &flip(&new_root), &proof).is_err());
            assert!(verify_consistency(new, &new_root, old, &old_root, &proof).is_err());
        }
    }
}

#[test]
fn trees_of_one_size_are_consistent_only_if_they_are_the_same() {
    let (a, b) = (leaf_hash(b"a"), leaf_hash(b"b"));
    assert_eq!(verify_consistency(5, &a, 5, &a, &[]), Ok(()));
    assert_eq!(
        verify_consistency(5, &a, 5, &b, &[]),
        Err(VerifyError::OldRootMismatch)
    );
    assert_eq!(
        verify_consistency(5, &a, 5, &a, &[b]),
        Err(VerifyError::WrongLength)
    );
    assert_eq!(verify_consistency(0, &Hash::EMPTY_ROOT, 5, &a, &[]), Ok(()));
    assert_eq!(
        verify_consistency(0, &b, 5, &a, &[]),
        Err(VerifyError::OldRootMismatch)
    );
}

/// AUDITLOG 3.4: a proof also holds for other sizes under the same root, so the size must be the
/// signed one.
#[test]
fn a_proof_holds_for_a_band_of_sizes_but_a_receipt_only_for_the_signed_one() {
    let tiles = tiles(255);
    let (root, leaf) = (root(255, &tiles), leaf_hash(&0_u64.to_be_bytes()));
    let hashes = inclusion_proof(0, 255, &tiles).expect("tiles");
    let band: Vec<u64> = (1..=600)
        .filter(|size| verify_inclusion(&leaf, 0, *size, &hashes, &root).is_ok())
        .collect();
    assert_eq!(
        band,
        (129..=256).collect::<Vec<_>>(),
        "127 wrong sizes and the right one"
    );

    let key = key(ORIGIN);
    let signed = Checkpoint::new(ORIGIN, 255, root)
        .expect("good origin")
        .sign(&key)
        .expect("own");
    let receipt = TlogProof {
        index: 0,
        hashes,
        checkpoint_note: signed.clone(),
        extra: None,
    };
    let opened = receipt
        .verify(&leaf, &key.verifier())
        .expect("true receipt");
    assert_eq!((opened.size(), opened.root()), (255, root));
    for size in band.into_iter().filter(|size| *size != 255) {
        let note = signed.replacen("\n255\n", &format!("\n{size}\n"), 1);
        let bent = TlogProof {
            checkpoint_note: note,
            ..receipt.clone()
        };
        let refused = bent.verify(&leaf, &key.verifier());
        assert!(
            matches!(refused, Err(ProofFileError::Checkpoint(_))),
            "size {size}"
        );
    }
}

#[test]
fn every_flipped_byte_of_a_receipt_is_refused() {
    let key = key(ORIGIN);
    let (leaf, receipt) = receipt(&key);
    let text = receipt.encode();
    for at in 0..text.len() {
        for bit in [0x01, 0x20, 0x80] {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= bit;
            let Ok(bent) = String::from_utf8(bytes) else {
                continue;
            };
            let opened =
                TlogProof::parse(&bent).and_then(|bent| bent.verify(&leaf, &key.verifier()));
            assert!(opened.is_err(), "byte {at} bit {bit:02x}: {bent:?}");
        }
    }
    for end in 0..text.len() {
        let Some(cut) = text.get(..end) else { continue };
        let opened = TlogProof::parse(cut).and_then(|cut| cut.verify(&leaf, &key.verifier()));
        assert!(opened.is_err(), "cut at {end}");
    }
}

#[test]
fn a_receipt_holds_under_the_logs_own_key_alone() {
    let (leaf, receipt) = receipt(&key(ORIGIN));
    let stranger = SigningKey::from_seed(ORIGIN, [8; 32])
        .expect("good name")
        .verifier();
    let refused = receipt.verify(&leaf, &stranger);
    let expected = CheckpointError::Note(NoteError::NoKnownSignature);
    assert_eq!(refused, Err(ProofFileError::Checkpoint(expected)));
    let keys = [stranger, key(ORIGIN).verifier()];
    assert!(receipt.verify_any(&leaf, &keys).is_ok());
}

#[test]
fn a_known_key_cannot_speak_for_another_origin() {
    let checkpoint = Checkpoint::new(ORIGIN, 0, Hash::EMPTY_ROOT).expect("good origin");
    let other = key("gateway.test/access/2026");
    assert_eq!(
        checkpoint.sign(&other),
        Err(CheckpointError::OriginMismatch)
    );
    let note = waymark_tlog::note::sign(&checkpoint.text(), &[&other]).expect("a note");
    let refused = Checkpoint::open(&note, &other.verifier());
    assert_eq!(refused, Err(CheckpointError::OriginMismatch));
}

#[test]
fn proof_file_limits_hold_at_their_edges() {
    let good = TlogProof {
        index: 0,
        hashes: vec![Hash::EMPTY_ROOT; PROOF_HASHES_MAX],
        checkpoint_note: "n".repeat(NOTE_BYTES_MAX),
        extra: Some(vec![0; EXTRA_BYTES_MAX]),
    };
    assert_eq!(TlogProof::parse(&good.encode()).as_ref(), Ok(&good));
    let hashes = vec![Hash::EMPTY_ROOT; PROOF_HASHES_MAX + 1];
    let over = TlogProof {
        hashes,
        ..good.clone()
    };
    assert_eq!(
        TlogProof::parse(&over.encode()),
        Err(ProofFileError::TooManyHashes)
    );
    let over = TlogProof {
        checkpoint_note: "n".repeat(NOTE_BYTES_MAX + 1),
        ..good.clone()
    };
    assert_eq!(
        TlogProof::parse(&over.encode()),
        Err(ProofFileError::TooLong)
    );
    let over = TlogProof {
        extra: Some(vec![0; EXTRA_BYTES_MAX + 1]),
        ..good
    };
    assert_eq!(
        TlogProof::parse(&over.encode()),
        Err(ProofFileError::TooLong)
    );
}

#[test]
fn a_proof_file_has_its_lines_in_order_and_nothing_between() {
    let good = receipt(&key(ORIGIN)).1.encode();
    for (from, to) in [
        ("@v1", "@v2"),
        ("index 20\n", ""),
        ("index 20", "index 020"),
        ("index 20", "index +20"),
        ("index 20", "Index 20"),
        ("index 20\n", "index 20\nextra AAAA\n"),
        ("index 20\n", "extra AAAA\nextra AAAA\nindex 20\n"),
        ("index 20\n", "extra AA\nindex 20\n"),
        ("=\n\n", "=\n"),
        ("=\n", "=\r\n"),
    ] {
        let bent = good.replacen(from, to, 1);
        let refused = TlogProof::parse(&bent);
        assert!(
            matches!(refused, Err(ProofFileError::Malformed { .. })),
            "{from:?}: {refused:?}"
        );
    }
}

proptest! {
    #[test]
    fn proof_files_round_trip(
        index: u64,
        hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..=63),
        extra in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..90)),
        checkpoint_note in "[a-z\n]{0,40}",
    ) {
        let hashes = hashes.into_iter().map(Hash::from_bytes).collect();
        let proof = TlogProof { index, hashes, checkpoint_note, extra };
        prop_assert_eq!(TlogProof::parse(&proof.encode()), Ok(proof));
    }

    #[test]
    fn any_text_is_a_proof_file_in_one_spelling_or_refused(
        text in "(c2sp.org/tlog-proof@v1\n)?(extra [A-Za-z=]{0,8}\n)?(index [0-9]{0,3}\n)?[A-Za-z0-9=\n]{0,60}\n?"
    ) {
        if let Ok(proof) = TlogProof::parse(&text) {
            prop_assert_eq!(proof.encode(), text);
        }
    }

    #[test]
    fn any_text_is_a_checkpoint_in_one_spelling_or_refused(
        text in "[a-z+ \t]{0,5}\n[0-9+]{0,3}\n(47DEQpj8HBSa\\+/TImW\\+5JCeuQeRkm5NMpJWZG3hSuFU=|[A-Z=]{0,6})\n?"
    ) {
        if let Ok(checkpoint) = Checkpoint::parse(&text) {
            prop_assert_eq!(checkpoint.text(), text);
        }
    }
}

/// Each hash changed, removed, doubled, swapped with its neighbour; one more at either end.
fn bend(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut bent = Vec::new();
    for place in 0..proof.len() {
        let mut change = |alter: &dyn Fn(&mut Vec<Hash>)| {
            let mut copy = proof.to_vec();
            alter(&mut copy);
            if copy != proof {
                bent.push(copy);
            }
        };
        change(&|copy| {
            copy.iter_mut()
                .skip(place)
                .take(1)
                .for_each(|hash| *hash = flip(hash));
        });
        change(&|copy| {
            copy.remove(place);
        });
        change(&|copy| copy.extend(proof.get(place).copied()));
        change(&|copy| {
            if place > 0 {
                copy.swap(place - 1, place);
            }
        });
    }
    let more = leaf_hash(b"one more");
    bent.push(proof.iter().copied().chain([more]).collect());
    bent.push([more].into_iter().chain(proof.iter().copied()).collect());
    bent
}

fn flip(hash: &Hash) -> Hash {
    let mut bytes = *hash.as_bytes();
    bytes
        .iter_mut()
        .skip(17)
        .take(1)
        .for_each(|byte| *byte ^= 4);
    Hash::from_bytes(bytes)
}

fn tiles(size: u64) -> BTreeMap<TileId, Vec<u8>> {
    let mut edge = Edge::empty();
    for n in 0..size {
        edge.append(leaf_hash(&n.to_be_bytes()));
    }
    edge.take_changed().into_iter().collect()
}

fn root(size: u64, tiles: &BTreeMap<TileId, Vec<u8>>) -> Hash {
    root_from_tiles(size, tiles).expect("tiles")
}

fn key(name: &str) -> SigningKey {
    SigningKey::from_seed(name, [7; 32]).expect("good name")
}

fn receipt(key: &SigningKey) -> (Hash, TlogProof) {
    let tiles = tiles(37);
    let checkpoint = Checkpoint::new(ORIGIN, 37, root(37, &tiles)).expect("good origin");
    let proof = TlogProof {
        index: 20,
        hashes: inclusion_proof(20, 37, &tiles).expect("tiles"),
        checkpoint_note: checkpoint.sign(key).expect("own key"),
        extra: None,
    };
    (leaf_hash(&20_u64.to_be_bytes()), proof)
}
