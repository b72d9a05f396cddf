//! What the log promises: every committed entry once, in one tree that never forks.

use futures::future::join_all;
use waymark_core::audit::{CommitmentTag, LogEntry, leaf_hash};
use waymark_core::port::{
    LogStore as _, Opening, ReferralStore as _, StoreError, UpkeepStore as _,
};
use waymark_tlog::note::SigningKey;
use waymark_tlog::{
    Checkpoint, Edge, Hash, TileId, inclusion_proof, tiles_for_inclusion, verify_inclusion,
};

use super::super::ROUND_MAX;
use super::fixture::{Bench, bench, ms};

fn key() -> SigningKey {
    SigningKey::from_seed("waymark.test/delivery/2026", [9; 32]).unwrap()
}

async fn rounds(b: &Bench, max: u32) -> u64 {
    let key = key();
    let mut added = 0;
    loop {
        let round = b.store.sequence(&key, max, ms(5)).await.unwrap();
        if round.added == 0 {
            return added;
        }
        added += round.added;
    }
}

#[tokio::test]
async fn every_entry_is_in_the_tree_once_and_the_checkpoint_proves_it() {
    let Some(b) = bench().await else { return };
    let mut sent = Vec::new();
    for n in 0..30 {
        sent.push(b.send(&format!("child {n}"), &["mllp"]).await);
    }
    assert_eq!(b.store.log_index(sent[0].event).await.unwrap(), None);
    let before = b.store.entry_of(sent[0].event).await.unwrap().unwrap();
    assert_eq!(b.store.counters().await.unwrap().accepted_entries, 30);
    assert_eq!(rounds(&b, 7).await, 30);
    assert_eq!(b.store.outbox(ms(0)).await.unwrap(), (0, 0));
    assert_eq!(b.store.counters().await.unwrap().accepted_entries, 30);
    assert_eq!(
        b.store.entry_of(sent[0].event).await.unwrap().unwrap(),
        before
    );

    let state = b.store.log_state().await.unwrap();
    assert_eq!((state.size, state.accepted), (30, 30));
    let newest = state.checkpoint.unwrap();
    let checkpoint = Checkpoint::open(&newest.note, &key().verifier()).unwrap();
    assert_eq!(
        (checkpoint.size(), *checkpoint.root().as_bytes()),
        (30, state.root)
    );
    assert_eq!(b.store.checkpoint(30).await.unwrap().unwrap(), newest);
    assert_eq!(b.store.checkpoint(29).await.unwrap(), None);
    let sizes: Vec<u64> = b
        .store
        .checkpoints(7, 2)
        .await
        .unwrap()
        .into_iter()
        .map(|signed| signed.size)
        .collect();
    assert_eq!(sizes, [14, 21]);

    let mut edge = Edge::empty();
    let entries = b.store.entries(0, 100).await.unwrap();
    for (n, (index, entry)) in entries.iter().enumerate() {
        assert_eq!(*index, u64::try_from(n).unwrap());
        LogEntry::decode(entry).unwrap();
        edge.append(Hash::from_bytes(leaf_hash(entry)));
    }
    assert_eq!(*edge.root().as_bytes(), state.root);
    let index = b.store.log_index(sent[17].event).await.unwrap().unwrap();
    let tiles = b
        .store
        .tiles(&tiles_for_inclusion(index, 30).unwrap())
        .await
        .unwrap();
    let tiles = tiles.into_iter().collect();
    let proof = inclusion_proof(index, 30, &tiles).unwrap();
    let entry = b.store.entry_of(sent[17].event).await.unwrap().unwrap();
    let leaf = Hash::from_bytes(leaf_hash(&entry));
    verify_inclusion(&leaf, index, 30, &proof, &Hash::from_bytes(state.root)).unwrap();
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn round_without_entries_signs_nothing() {
    let Some(b) = bench().await else { return };
    let round = b.store.sequence(&key(), ROUND_MAX, ms(5)).await.unwrap();
    assert_eq!((round.added, round.size), (0, 0));
    assert_eq!(b.store.log_state().await.unwrap().checkpoint, None);
    b.send("1", &["mllp"]).await;
    assert_eq!(rounds(&b, ROUND_MAX).await, 1);
    assert_eq!(b.number("SELECT COUNT(*) FROM log_checkpoint").await, 1);
}

#[tokio::test]
async fn rival_sequencers_never_fork() {
    let Some(b) = bench().await else { return };
    let accepts = async {
        for n in 0..40 {
            b.send(&format!("child {n}"), &["mllp"]).await;
        }
    };
    let rivals = (0..2).map(|_| async {
        let key = key();
        let mut sizes = Vec::new();
        for _ in 0..60 {
            let round = b.store.sequence(&key, 3, ms(5)).await.unwrap();
            if round.added > 0 {
                sizes.push(round.size);
            }
        }
        sizes
    });
    let (mut sizes, ()) = tokio::join!(join_all(rivals), accepts);
    rounds(&b, 3).await;
    let state = b.store.log_state().await.unwrap();
    assert_eq!((state.size, state.accepted), (40, 40));
    let mut signed: Vec<u64> = sizes.drain(..).flatten().collect();
    signed.sort_unstable();
    let distinct = signed.len();
    signed.dedup();
    assert_eq!(signed.len(), distinct, "no size was signed twice");
    let mut edge = Edge::empty();
    for (_, entry) in b.store.entries(0, 100).await.unwrap() {
        edge.append(Hash::from_bytes(leaf_hash(&entry)));
        let Some(signed) = b.store.checkpoint(edge.size()).await.unwrap() else {
            continue;
        };
        let checkpoint = Checkpoint::open(&signed.note, &key().verifier()).unwrap();
        assert_eq!(
            checkpoint.root(),
            edge.root(),
            "one tree at size {}",
            edge.size()
        );
    }
    assert_eq!(*edge.root().as_bytes(), state.root);
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn log_grows_over_the_edge_of_a_tile() {
    let Some(b) = bench().await else { return };
    let children: Vec<String> = (0..300).map(|n| format!("child {n}")).collect();
    join_all(children.iter().map(|child| b.send(child, &[]))).await;
    assert_eq!(rounds(&b, 100).await, 300);
    let full = TileId { level: 0, index: 0 };
    let rest = TileId { level: 0, index: 1 };
    let above = TileId { level: 1, index: 0 };
    let tiles = b
        .store
        .tiles(&[full, rest, above, TileId { level: 2, index: 0 }])
        .await
        .unwrap();
    let widths: Vec<(TileId, usize)> = tiles
        .iter()
        .map(|(id, data)| (*id, data.len() / 32))
        .collect();
    assert_eq!(widths, [(full, 256), (rest, 44), (above, 1)]);
    let entries = b.store.entries(298, 100).await.unwrap();
    assert_eq!(entries.len(), 2);
}

#[tokio::test]
async fn tampered_tree_or_lost_checkpoint_stops_the_sequencer() {
    for harm in [
        "UPDATE log_state SET root = (SELECT leaf FROM log_entry ORDER BY idx LIMIT 1)",
        "DELETE FROM log_checkpoint",
        "DELETE FROM log_tile",
    ] {
        let Some(b) = bench().await else { return };
        b.send("1", &["mllp"]).await;
        rounds(&b, ROUND_MAX).await;
        b.send("2", &["mllp"]).await;
        rounds(&b, ROUND_MAX).await;
        assert!(b.run(harm).await > 0, "{harm}");
        b.send("3", &["mllp"]).await;
        let refused = b.store.sequence(&key(), ROUND_MAX, ms(6)).await;
        assert!(
            matches!(refused, Err(StoreError::Internal(_))),
            "{harm}: {refused:?}"
        );
        assert_eq!(
            b.store.outbox(ms(0)).await.unwrap().0,
            1,
            "nothing was taken"
        );
    }
}

#[tokio::test]
async fn salts_open_until_their_subject_is_erased() {
    let Some(b) = bench().await else { return };
    let mut draft = b.draft("1", &["mllp"]);
    let salt = Opening {
        tag: CommitmentTag::Payload,
        salt: [3; 32],
    };
    draft.openings = vec![salt.clone()];
    let event = draft.event;
    b.store.accept(draft).await.unwrap();
    assert_eq!(b.store.openings(event).await.unwrap(), [salt]);
    b.run("DELETE FROM subject").await;
    assert_eq!(b.store.openings(event).await.unwrap(), []);
}
