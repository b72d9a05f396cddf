//! What accepting promises (invariants 1 and 2, rulings 1, 5 and 14).

use std::collections::BTreeSet;

use futures::StreamExt as _;
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::audit::{CommitmentTag, EntryKind, LogEntry, leaf_hash};
use waymark_core::id::{DocumentId, EventId, StreamId};
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    Accept, Accepted, ConflictKey, DeliveryStore as _, LogStore as _, MessageKey, NewDocument,
    OpenOnly, Opening, ReferralStore as _, StoreError, SubjectKey, UpkeepStore as _, WorkClass,
};
use waymark_core::referral::SenderReference;

use super::accept::{Done, Item, accept_all};
use super::committer::{BATCH_MAX, QUEUE_MAX};
use super::fixture::{Bench, bench, ms};

/// The same message again, with ids of a second try.
fn again(bench: &Bench, first: &Accept) -> Accept {
    Accept {
        message_key: first.message_key.clone(),
        ..bench.draft("9434765919", &["ep-a"])
    }
}

fn named(mut accept: Accept, reference: &str, content: &[u8]) -> Accept {
    let reference = SenderReference {
        value: reference.to_owned(),
        namespace: "MIS".to_owned(),
    };
    accept.sender_reference = Some((reference, Payload::new(content.to_vec())));
    accept
}

fn is_conflict(result: &Result<Accepted, StoreError>, with: ConflictKey) -> bool {
    matches!(result, Err(StoreError::Conflict { key, .. }) if *key == with)
}

/// Runs items as one batch of the committer.
async fn together(bench: &Bench, accepts: Vec<Accept>) -> Vec<Result<Done, StoreError>> {
    let mut items = Vec::new();
    for accept in accepts {
        items.push(Item::prepare(bench.store.seal(), accept).await.unwrap());
    }
    accept_all(&bench.store.shared, items).await
}

#[tokio::test]
async fn the_same_message_again_gets_the_same_receipt() {
    let Some(bench) = bench().await else { return };
    let mut first = bench.draft("9434765919", &["ep-a", "ep-b"]);
    first.openings = vec![Opening {
        tag: CommitmentTag::Payload,
        salt: [3; 32],
    }];
    let receipt = bench.store.accept(first.clone()).await.unwrap();
    assert!(!receipt.repeated);
    assert_eq!(leaf_hash(&receipt.entry), receipt.leaf);
    assert_eq!(LogEntry::decode(&receipt.entry).unwrap().stream_seq, 0);
    let repeat = bench.store.accept(again(&bench, &first)).await.unwrap();
    assert_eq!(
        repeat,
        Accepted {
            repeated: true,
            ..receipt
        }
    );
    assert_eq!(bench.number("SELECT COUNT(*) FROM referral").await, 1);
    assert!(bench.faults().await.is_empty());
}

#[tokio::test]
async fn the_receipt_is_the_same_once_the_entry_is_sequenced_and_legs_were_added() {
    let Some(bench) = bench().await else { return };
    let first = bench.draft("9434765919", &["ep-a"]);
    let sent = bench.accept(first.clone()).await;
    let receipt = bench.store.accept(again(&bench, &first)).await.unwrap();
    let mut change = bench.no_change(&sent, 1, ms(1));
    change.new_legs = bench.draft("9434765919", &["ep-c"]).legs;
    bench.store.change(change).await.unwrap();
    let key = waymark_tlog::note::SigningKey::from_seed("waymark.test/log", [9; 32]).unwrap();
    bench.store.sequence(&key, 100, ms(2)).await.unwrap();
    assert_eq!(
        bench.store.accept(again(&bench, &first)).await.unwrap(),
        receipt
    );
    assert_eq!(
        bench
            .store
            .referral(sent.referral)
            .await
            .unwrap()
            .unwrap()
            .legs
            .len(),
        2
    );
}

#[tokio::test]
async fn other_content_under_a_message_key_is_refused() {
    let Some(bench) = bench().await else { return };
    let first = bench.draft("9434765919", &["ep-a"]);
    let sent = bench.accept(first.clone()).await;
    let mut other = again(&bench, &first);
    other.message_key.content = Payload::new(b"other".to_vec());
    let refused = bench.store.accept(other.clone()).await.unwrap_err();
    assert!(matches!(
        refused,
        StoreError::Conflict { key: ConflictKey::Message, existing } if existing == sent.referral
    ));
    // The same key of another sender is another key.
    other.message_key.sender = "EE200002".parse().unwrap();
    assert!(!bench.store.accept(other).await.unwrap().repeated);
}

#[tokio::test]
async fn a_second_new_under_a_reference_repeats_or_conflicts_by_its_content() {
    let Some(bench) = bench().await else { return };
    let first = named(bench.draft("9434765919", &["ep-a"]), "R1", b"one");
    let receipt = bench.store.accept(first).await.unwrap();
    let mut same = named(bench.draft("9434765919", &["ep-a"]), "R1", b"one");
    let repeat = bench.store.accept(same.clone()).await.unwrap();
    assert_eq!(
        repeat,
        Accepted {
            repeated: true,
            ..receipt
        }
    );
    // Its own message key is remembered as well.
    same.message_key.content = Payload::new(b"changed".to_vec());
    assert!(is_conflict(
        &bench.store.accept(same).await,
        ConflictKey::Message
    ));
    let other = named(bench.draft("9434765919", &["ep-a"]), "R1", b"two");
    assert!(is_conflict(
        &bench.store.accept(other.clone()).await,
        ConflictKey::Reference
    ));
    // What was refused leaves nothing, so that the same message may come with another reference.
    let put_right = named(other, "R2", b"two");
    assert!(!bench.store.accept(put_right).await.unwrap().repeated);
    assert_eq!(bench.number("SELECT COUNT(*) FROM referral").await, 2);
    assert!(bench.faults().await.is_empty());
}

#[tokio::test]
async fn duplicate_conflict_poison_and_good_of_one_batch_fail_or_succeed_alone() {
    let Some(bench) = bench().await else { return };
    let known = bench.draft("9434765919", &["ep-a"]);
    let sent = bench.accept(known.clone()).await;
    let mut conflict = again(&bench, &known);
    conflict.message_key.content = Payload::new(b"other".to_vec());
    // A second row under an event that is in the outbox already: the database refuses the statement.
    let mut poison = bench.draft("9434765919", &["ep-a"]);
    poison.entry.event = sent.event;
    let good = bench.draft("9434765919", &["ep-a"]);
    let twin = Accept {
        message_key: good.message_key.clone(),
        ..bench.draft("1", &["ep-a"])
    };
    let mut bad_twin = twin.clone();
    bad_twin.message_key.content = Payload::new(b"twin".to_vec());
    let batch = vec![
        again(&bench, &known),
        conflict,
        poison,
        good.clone(),
        twin,
        bad_twin,
    ];
    let answers = together(&bench, batch).await;
    let [duplicate, conflict, poison, fresh, twin, bad_twin] = answers.as_slice() else {
        panic!("an answer each")
    };
    assert!(matches!(duplicate, Ok(Done::Repeated(id)) if *id == sent.referral));
    let existing = sent.referral;
    assert!(matches!(conflict, Err(StoreError::Conflict { existing: e, .. }) if *e == existing));
    assert!(matches!(poison, Err(StoreError::Internal(_))));
    assert!(matches!(fresh, Ok(Done::Accepted(a)) if a.referral == good.referral && !a.repeated));
    assert!(matches!(twin, Ok(Done::Accepted(a)) if a.referral == good.referral && a.repeated));
    let existing = good.referral;
    assert!(matches!(bad_twin, Err(StoreError::Conflict { existing: e, .. }) if *e == existing));
    assert_eq!(bench.number("SELECT COUNT(*) FROM referral").await, 2);
    assert!(bench.faults().await.is_empty());
}

#[tokio::test]
async fn twins_under_one_reference_are_settled_within_the_batch() {
    let Some(bench) = bench().await else { return };
    let mut batch = Vec::new();
    for content in [b"one", b"one", b"two", b"one"] {
        batch.push(named(bench.draft("9434765919", &["ep-a"]), "R1", content));
    }
    let answers = together(&bench, batch.clone()).await;
    let accepted = answers
        .iter()
        .filter(|a| matches!(a, Ok(Done::Accepted(_))))
        .count();
    assert_eq!(accepted, 1);
    assert_eq!(bench.number("SELECT COUNT(*) FROM referral").await, 1);
    // Whichever came first decides; those of its content are repeats of it, the others conflict.
    let others = answers
        .iter()
        .filter(|a| matches!(a, Ok(Done::Repeated(_))))
        .count();
    let refused = answers
        .iter()
        .filter(|a| {
            matches!(
                a,
                Err(StoreError::Conflict {
                    key: ConflictKey::Reference,
                    ..
                })
            )
        })
        .count();
    assert!(
        [(2, 1), (0, 3)].contains(&(others, refused)),
        "{others} repeats, {refused} conflicts"
    );
    assert_eq!(
        bench.number("SELECT COUNT(*) FROM message_key").await,
        1 + i64::try_from(others).unwrap()
    );
}

#[tokio::test]
async fn a_child_is_one_subject_and_an_unknown_child_is_always_a_new_one() {
    let Some(bench) = bench().await else { return };
    let upn = |bench: &Bench, text: &str| Accept {
        subject: SubjectKey::UpnAndBirth(Personal::from(text)),
        ..bench.draft("", &["ep-a"])
    };
    let unknown = |bench: &Bench| Accept {
        subject: SubjectKey::New,
        ..bench.draft("", &["ep-a"])
    };
    let batch = vec![
        bench.draft("9434765919", &["ep-a"]),
        bench.draft("9434765919", &["ep-a"]),
        upn(&bench, "9434765919"),
        unknown(&bench),
        unknown(&bench),
    ];
    assert!(together(&bench, batch).await.iter().all(Result::is_ok));
    assert_eq!(bench.number("SELECT COUNT(*) FROM subject").await, 4);
    bench.send("9434765919", &["ep-a"]).await;
    assert_eq!(bench.number("SELECT COUNT(*) FROM subject").await, 4);
    // Of one lane, in the order in which they came.
    let lanes = "SELECT COUNT(*) FROM lane WHERE last_seq = 3";
    assert_eq!(bench.number(lanes).await, 1);
}

#[tokio::test]
async fn referrals_of_one_child_in_one_batch_are_queued_in_the_order_they_came() {
    let Some(bench) = bench().await else { return };
    let batch: Vec<Accept> = (0..9)
        .map(|_| bench.draft("9434765919", &["ep-a"]))
        .collect();
    let order: Vec<_> = batch.iter().map(|a| a.referral).collect();
    together(&bench, batch).await;
    for (number, referral) in order.iter().enumerate() {
        let seq = format!(
            "SELECT COUNT(*) FROM delivery d JOIN referral r ON r.id = d.referral_id \
             WHERE r.reference = '{}' AND d.lane_seq = {}",
            waymark_core::id::Reference::of(*referral),
            number + 1
        );
        assert_eq!(bench.number(&seq).await, 1, "number {number}");
    }
    let first = bench.head(WorkClass::Fresh, "ep-a", 1).await;
    assert_eq!(first.referral, order[0]);
}

#[tokio::test]
async fn many_at_once_are_all_accepted_and_counted() {
    let Some(bench) = bench().await else { return };
    let waiting = (0..300).map(|n| {
        let accept = bench.draft(&format!("child {}", n % 40), &["ep-a", "ep-b"]);
        bench.store.accept(accept)
    });
    let receipts = futures::future::join_all(waiting).await;
    let ids: BTreeSet<_> = receipts
        .iter()
        .map(|r| r.as_ref().unwrap().referral)
        .collect();
    assert_eq!(ids.len(), 300);
    assert_eq!(bench.number("SELECT COUNT(*) FROM lane").await, 80);
    assert!(bench.faults().await.is_empty());
}

#[tokio::test]
async fn one_accept_more_than_the_queue_holds_is_refused() {
    let Some(bench) = bench().await else { return };
    // While something else holds the committer's connection nothing leaves the queue but the first batch.
    let shared = &bench.store.shared;
    let held = shared.begin_on(&shared.pools.committer).await.unwrap();
    let waiting = (0..=BATCH_MAX + QUEUE_MAX).map(|n| {
        let accept = Accept {
            deliveries: Vec::new(),
            ..bench.draft(&n.to_string(), &["ep-a"])
        };
        bench.store.accept(accept)
    });
    let mut waiting: futures::stream::FuturesUnordered<_> = waiting.collect();
    let first = waiting.next().await.unwrap();
    assert!(matches!(
        first,
        Err(StoreError::Exhausted {
            limit: "accept_queue"
        })
    ));
    drop(held);
    let refused = 1 + waiting
        .filter(|a| std::future::ready(a.is_err()))
        .count()
        .await;
    // How many the committer had taken before depends on the scheduler; what the queue holds does not.
    assert!(
        (1..=BATCH_MAX + 1).contains(&refused),
        "{refused} were refused"
    );
    let kept = i64::try_from(BATCH_MAX + QUEUE_MAX + 1 - refused).unwrap();
    assert_eq!(bench.number("SELECT COUNT(*) FROM referral").await, kept);
}

#[tokio::test]
async fn alarms_of_an_accept_are_opened_once() {
    let Some(bench) = bench().await else { return };
    let mut accept = bench.draft("9434765919", &["ep-a"]);
    accept.alarms = vec![NewAlarm {
        kind: AlarmKind::Unrouted,
        subject: "leg".to_owned(),
        owner: "RXX".parse().unwrap(),
        role: "triage".to_owned(),
        text: "no rule".to_owned(),
    }];
    let mut second = bench.draft("9434765919", &["ep-a"]);
    second.alarms.clone_from(&accept.alarms);
    assert!(
        together(&bench, vec![accept, second])
            .await
            .iter()
            .all(Result::is_ok)
    );
    assert_eq!(
        bench.store.alarms(OpenOnly::Yes, 10).await.unwrap().len(),
        1
    );
}

fn document(bench: &Bench, bytes: &[u8]) -> NewDocument {
    let stream = StreamId::from_bytes(bench.bytes());
    NewDocument {
        id: DocumentId::from_bytes(bench.bytes()),
        sender: "EE100001".parse().unwrap(),
        message_key: MessageKey {
            sender: "EE100001".parse().unwrap(),
            key: Personal::new(format!(
                "upload:{}",
                hex::encode(bytes.get(..8).unwrap_or(bytes))
            )),
            content: Payload::new(bytes.to_vec()),
        },
        body: bench.body(bytes),
        sha256: Personal::new(hex::encode(leaf_hash(bytes))),
        at: ms(0),
        entry: bench.entry(EntryKind::AdminAction, stream, ms(0)),
        openings: vec![Opening {
            tag: CommitmentTag::Payload,
            salt: [5; 32],
        }],
    }
}

#[tokio::test]
async fn a_document_goes_with_its_referral_and_hangs_on_its_subject_alone() {
    let Some(bench) = bench().await else { return };
    let put = document(&bench, &vec![0x5a; 300_000]);
    let first = bench.store.put_document(put.clone()).await.unwrap();
    assert_eq!((first.id, first.repeated), (put.id, false));
    // The same upload again, under whatever new id, is the document kept before.
    let again = NewDocument {
        message_key: put.message_key.clone(),
        ..document(&bench, &vec![0x5a; 300_000])
    };
    let again = bench.store.put_document(again).await.unwrap();
    assert_eq!((again.id, again.repeated), (put.id, true));
    let other = NewDocument {
        message_key: MessageKey {
            content: Payload::new(b"other".to_vec()),
            ..put.message_key.clone()
        },
        ..document(&bench, b"other")
    };
    assert!(matches!(
        bench.store.put_document(other).await,
        Err(StoreError::Conflict {
            key: ConflictKey::Message,
            ..
        })
    ));
    assert_eq!(bench.number("SELECT COUNT(*) FROM document").await, 1);
    let mut accept = bench.draft("9434765919", &["ep-a"]);
    accept.documents = vec![(put.id, put.sha256.expose().clone())];
    let sent = bench.accept(accept).await;
    let held = bench.store.document(put.id).await.unwrap().unwrap();
    assert_eq!(held.referral, Some(sent.referral));
    assert_eq!((held.sha256, held.size_bytes), (put.sha256, 300_000));
    // The document's own subject is gone, and all that it kept opens under the referral's.
    assert_eq!(bench.number("SELECT COUNT(*) FROM subject").await, 1);
    assert_eq!(
        bench.store.openings(put.entry.event).await.unwrap(),
        put.openings
    );
    let entry = bench.entry(EntryKind::AdminRead, sent.stream, ms(1));
    let bytes = bench
        .store
        .read_body(held.body, entry)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bytes.expose(), vec![0x5a; 300_000]);
    let other = bench.send("2", &["ep-b"]).await;
    for (endpoint, theirs) in [("ep-a", true), ("ep-b", false)] {
        let leased = bench.head(WorkClass::Fresh, endpoint, 1).await;
        assert_eq!(leased.referral == other.referral, !theirs);
        let opened = bench.store.attachment(&leased, put.id).await.unwrap();
        assert_eq!(
            opened.is_some(),
            theirs,
            "a document goes with its own referral alone"
        );
    }
}

#[tokio::test]
async fn a_document_that_is_not_held_as_described_refuses_its_referral_alone() {
    let Some(bench) = bench().await else { return };
    let put = document(&bench, b"letter");
    bench.store.put_document(put.clone()).await.unwrap();
    let digest = put.sha256.expose().clone();
    let with = |id, digest: &str| Accept {
        documents: vec![(id, digest.to_owned())],
        ..named(bench.draft("9434765919", &["ep-a"]), "R1", b"one")
    };
    let missing = with(DocumentId::from_bytes([1; 16]), &digest);
    let changed = with(put.id, "00");
    let mut foreign = with(put.id, &digest);
    foreign.sender = "EE200002".parse().unwrap();
    for accept in [missing, changed.clone(), foreign] {
        let refused = bench.store.accept(accept).await;
        assert!(
            matches!(refused, Err(StoreError::Document(_))),
            "{refused:?}"
        );
    }
    assert_eq!(
        bench.number("SELECT COUNT(*) FROM message_key").await,
        1,
        "the upload's alone"
    );
    // Put right under the same keys it is accepted; a second referral cannot take the document too.
    let right = Accept {
        documents: vec![(put.id, digest.clone())],
        ..changed
    };
    let mut rival = with(put.id, &digest);
    rival.sender_reference = None;
    let answers = together(&bench, vec![right, rival]).await;
    assert_eq!(
        answers.iter().filter(|a| a.is_ok()).count(),
        1,
        "{answers:?}"
    );
    assert!(bench.faults().await.is_empty());
}

#[tokio::test]
async fn an_entry_over_the_limit_is_refused_before_anything_is_kept() {
    let Some(bench) = bench().await else { return };
    let mut accept = bench.draft("9434765919", &["ep-a"]);
    for n in 0..40 {
        accept.entry.codes.push(waymark_core::audit::Code {
            name: format!("code{n}"),
            value: "x".repeat(waymark_core::audit::CODE_BYTES_MAX),
        });
    }
    assert!(matches!(
        bench.store.accept(accept).await,
        Err(StoreError::Internal(_))
    ));
    assert_eq!(bench.number("SELECT COUNT(*) FROM referral").await, 0);
}

#[tokio::test]
async fn an_accept_shows_as_an_event_with_its_entry() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a"]).await;
    let timeline = bench.store.timeline(sent.referral, 10).await.unwrap();
    assert_eq!(
        timeline
            .iter()
            .map(|e| e.event.id)
            .collect::<Vec<EventId>>(),
        [sent.event]
    );
    assert!(bench.store.entry_of(sent.event).await.unwrap().is_some());
}

#[tokio::test]
async fn changed_content_takes_its_documents_along_and_names_again_those_it_has() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("1", &["ep-a"]).await;
    let put = document(&bench, b"letter");
    bench.store.put_document(put.clone()).await.unwrap();
    let named = (put.id, put.sha256.expose().clone());
    for version in [1, 2] {
        let mut change = bench.no_change(&sent, version, ms(1));
        change.event.source = put.sender.clone();
        change.documents = vec![named.clone()];
        bench.store.change(change).await.unwrap();
        let held = bench.store.document(put.id).await.unwrap().unwrap();
        assert_eq!(held.referral, Some(sent.referral));
    }
    let foreign = document(&bench, b"theirs");
    bench.store.put_document(foreign.clone()).await.unwrap();
    for (id, digest, source) in [
        (put.id, "00", "EE100001"),
        (foreign.id, foreign.sha256.expose().as_str(), "EE200002"),
    ] {
        let mut change = bench.no_change(&sent, 3, ms(2));
        change.event.source = source.parse().unwrap();
        change.documents = vec![(id, digest.to_owned())];
        let refused = bench.store.change(change).await;
        assert!(matches!(refused, Err(StoreError::Document(d)) if d == id));
    }
}

#[tokio::test]
async fn a_document_that_nobody_takes_is_destroyed_with_all_that_opens_it() {
    let Some(bench) = bench().await else { return };
    let (left, taken) = (document(&bench, b"left"), document(&bench, b"taken"));
    for document in [&left, &taken] {
        bench.store.put_document(document.clone()).await.unwrap();
    }
    let mut accept = bench.draft("9434765919", &["ep-a"]);
    accept.documents = vec![(taken.id, taken.sha256.expose().clone())];
    bench.accept(accept).await;
    let store = &bench.store;
    // What is as old as that is not older.
    assert_eq!(store.untaken_documents(ms(0), 10).await.unwrap(), []);
    let found = store.untaken_documents(ms(1), 10).await.unwrap();
    assert_eq!(found, [(left.id, left.entry.stream)]);
    let entry = || bench.entry(EntryKind::Erased, left.entry.stream, ms(1));
    let erased = entry();
    let event = erased.event;
    assert!(!store.forget_document(taken.id, entry()).await.unwrap());
    assert!(store.forget_document(left.id, erased).await.unwrap());
    assert!(!store.forget_document(left.id, entry()).await.unwrap());
    assert!(store.document(left.id).await.unwrap().is_none());
    assert!(store.document(taken.id).await.unwrap().is_some());
    assert!(store.openings(left.entry.event).await.unwrap().is_empty());
    assert!(store.entry_of(event).await.unwrap().is_some());
    assert_eq!(bench.number("SELECT COUNT(*) FROM subject").await, 1);
    assert_eq!(bench.faults().await, []);
    // The same upload again finds nothing that was kept, and is kept anew.
    let again = NewDocument {
        message_key: left.message_key.clone(),
        ..document(&bench, b"left")
    };
    let kept = store.put_document(again.clone()).await.unwrap();
    assert_eq!((kept.id, kept.repeated), (again.id, false));
}
