//! What an accept writes: bytes of write-ahead log, which no other load on the machine changes.

use waymark_core::alarm::AlarmKind;
use waymark_core::audit::CommitmentTag;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{Accept, Likeness, Opening};

use super::accept::{Item, accept_all};
use super::fixture::{Bench, alarm, bench, ms};

/// Accepts of one batch.
const BATCH: usize = 64;
/// Batches that make the database large enough for keyed hashes to lie on pages of their own.
const BEFORE: usize = 24;
/// Batches that are measured.
const MEASURED: usize = 8;
/// Bytes that each of a batch may write to SQLite's write-ahead log.
const BATCHED_BYTES_MAX: u64 = 20_000;
/// Bytes that one alone may write.
const ALONE_BYTES_MAX: u64 = 175_000;

/// A referral as a school sends it: a child of its own, matched by number and compared by name.
fn referral(bench: &Bench, n: usize) -> Accept {
    let mut accept = bench.draft(&format!("9{n:09}"), &["hospital"]);
    accept.at = ms(i64::try_from(n).unwrap());
    accept.likeness = Some(Likeness {
        upn_and_birth: None,
        name_and_birth: Personal::new(format!("child-{n}|2016-05-04")),
        alarm: alarm(AlarmKind::IdentityConflict, &accept.referral),
    });
    accept.body.bytes = Payload::new(vec![b'x'; 1_500]);
    accept.openings = vec![Opening {
        tag: CommitmentTag::Payload,
        salt: [3; 32],
    }];
    for n in 0..6 {
        let code = format!("code-{n}");
        accept.entry = accept
            .entry
            .code(&code, "some words of the routing decision");
    }
    accept
}

/// Bytes of write-ahead log that `batches` of `size` write, each.
async fn bytes_each(bench: &Bench, from: usize, (batches, size): (usize, usize)) -> u64 {
    let before = written(bench).await;
    for batch in 0..batches {
        let mut items = Vec::with_capacity(size);
        for n in 0..size {
            let accept = referral(bench, from + batch * size + n);
            let item = Item::prepare(bench.store.seal(), accept).await;
            items.push(item.unwrap());
        }
        for answer in accept_all(&bench.store.shared, items).await {
            answer.unwrap();
        }
    }
    (written(bench).await - before) / u64::try_from(batches * size).unwrap()
}

async fn written(bench: &Bench) -> u64 {
    if bench.is_postgres() {
        let all = "SELECT CAST(pg_current_wal_insert_lsn() - '0/0' AS BIGINT)";
        return u64::try_from(bench.number(all).await).unwrap();
    }
    let wal = bench.dir.as_ref().unwrap().path().join("w.db-wal");
    std::fs::metadata(wal).unwrap().len()
}

#[tokio::test]
async fn an_accept_writes_to_few_pages() {
    let Some(bench) = bench().await else { return };
    bytes_each(&bench, 0, (BEFORE, BATCH)).await;
    let batched = bytes_each(&bench, BEFORE * BATCH, (MEASURED, BATCH)).await;
    let from = (BEFORE + MEASURED) * BATCH;
    let alone = bytes_each(&bench, from, (BATCH, 1)).await;
    eprintln!("bytes of write-ahead log an accept: {batched} of {BATCH}, {alone} alone");
    // PostgreSQL's log is one of the whole server, which other tests share.
    if !bench.is_postgres() {
        assert!(batched < BATCHED_BYTES_MAX, "{batched}");
        assert!(alone < ALONE_BYTES_MAX, "{alone}");
    }
}
