//! What changing and reading referrals promises (ruling 3; the port's own words).

use std::collections::BTreeSet;

use sqlx::Database as _;
use waymark_core::audit::{CommitmentTag, EntryKind, LogEntry};
use waymark_core::delivery::{DeliveryState, Evidence, Kind};
use waymark_core::id::{BodyId, DeliveryId, EventId, LegId, ReferralId};
use waymark_core::leg::LegState;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    ConflictKey, DeliveryStore as _, FeedQuery, LegChange, LogStore as _, MessageKey, Opening,
    ReferralChange, ReferralKey, ReferralQuery, ReferralStore as _, StoreError, SubjectKey,
    WorkClass,
};
use waymark_core::referral::{ConsentScope, SenderReference};

use super::Db;
use super::fixture::{Bench, Sent, bench, ms, next, owner};
use super::read::{PAGE_MAX, WINDOW_MAX};

async fn version(bench: &Bench, of: &Sent) -> u64 {
    bench
        .store
        .referral(of.referral)
        .await
        .unwrap()
        .unwrap()
        .version
}

fn message(key: &str, content: &[u8]) -> MessageKey {
    MessageKey {
        sender: "EE100001".parse().unwrap(),
        key: Personal::from(key),
        content: Payload::new(content.to_vec()),
    }
}

#[tokio::test]
async fn a_change_writes_all_that_it_carries_at_once() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a"]).await;
    let amended = bench.body(b"amended");
    let mut change = bench.no_change(&sent, 1, ms(5));
    change.openings = vec![Opening {
        tag: CommitmentTag::Payload,
        salt: [8; 32],
    }];
    change.content = Some(amended.id);
    change.event.text = Some(amended.id);
    change.bodies = vec![amended.clone()];
    change.withdraws = BTreeSet::from([ConsentScope::ShareHealth, ConsentScope::FamilyMessages]);
    change.receiver_reference = Some(("RXX".parse().unwrap(), "PAS-77".to_owned()));
    change.legs = vec![LegChange {
        leg: sent.legs[0],
        state: LegState::InTriage,
        owner: owner(),
        clock: Some("TRIAGE".to_owned()),
        next_action: Some("2026-12-08".to_owned()),
    }];
    let changed = bench.store.change(change.clone()).await.unwrap();
    assert_eq!((changed.version, changed.repeated), (2, false));
    let view = bench.store.referral(sent.referral).await.unwrap().unwrap();
    assert_eq!(
        (view.version, view.content, view.withdrawn),
        (2, amended.id, change.withdraws.clone())
    );
    assert_eq!(view.legs[0].state, LegState::InTriage);
    assert_eq!(view.legs[0].next_action.as_deref(), Some("2026-12-08"));
    assert_eq!(view.legs[0].leg.next_action, "2026-12-07");
    let key = ReferralKey::Receiver("RXX".parse().unwrap(), "PAS-77".to_owned());
    assert_eq!(
        bench.store.resolve(&key).await.unwrap(),
        Some(sent.referral)
    );
    let entry = bench
        .store
        .entry_of(change.event.id)
        .await
        .unwrap()
        .unwrap();
    let entry = LogEntry::decode(&entry).unwrap();
    let first = bench.store.entry_of(sent.event).await.unwrap().unwrap();
    assert_eq!(entry.stream_seq, 1);
    assert_eq!(
        entry.prev_leaf,
        Some(waymark_core::audit::leaf_hash(&first))
    );
    assert_eq!(
        bench.store.openings(change.event.id).await.unwrap(),
        change.openings
    );
}

#[tokio::test]
async fn a_change_decided_on_an_older_version_is_stale_and_leaves_nothing() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a"]).await;
    bench
        .follow_up(&sent, 1, (Kind::Amend, "ep-a"), ms(1))
        .await;
    let mut late = bench.no_change(&sent, 1, ms(2));
    late.deliveries = vec![bench.delivery(Kind::Amend, "ep-a", None)];
    late.message_key = Some(message("grpc:late", b"x"));
    assert!(matches!(
        bench.store.change(late.clone()).await,
        Err(StoreError::Stale)
    ));
    assert_eq!(bench.store.entry_of(late.event.id).await.unwrap(), None);
    // Decided again it goes through under the same message key.
    late.expected_version = 2;
    assert!(!bench.store.change(late).await.unwrap().repeated);
    assert!(bench.faults().await.is_empty());
}

#[tokio::test]
async fn of_changes_decided_on_one_version_one_wins() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a", "ep-b"]).await;
    let changes = (0..8).map(|_| {
        let mut change = bench.no_change(&sent, 1, ms(1));
        change.deliveries = vec![
            bench.delivery(Kind::Amend, "ep-b", None),
            bench.delivery(Kind::Amend, "ep-a", None),
        ];
        bench.store.change(change)
    });
    let results = futures::future::join_all(changes).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(
        results
            .iter()
            .all(|r| matches!(r, Ok(_) | Err(StoreError::Stale))),
        "{results:?}"
    );
    assert_eq!(version(&bench, &sent).await, 2);
    assert!(bench.faults().await.is_empty());
}

#[tokio::test]
async fn the_same_message_changes_a_referral_once() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a"]).await;
    let mut change = bench.no_change(&sent, 1, ms(1));
    change.message_key = Some(message("grpc:1", b"cancel"));
    let first = bench.store.change(change).await.unwrap();
    let mut again = bench.no_change(&sent, 1, ms(2));
    again.message_key = Some(message("grpc:1", b"cancel"));
    let repeat = bench.store.change(again.clone()).await.unwrap();
    assert_eq!(
        (repeat.event, repeat.version, repeat.repeated),
        (first.event, 2, true)
    );
    again.message_key = Some(message("grpc:1", b"amend"));
    let refused = bench.store.change(again).await;
    assert!(matches!(
        refused,
        Err(StoreError::Conflict {
            key: ConflictKey::Message,
            ..
        })
    ));
    // The same key cannot be an accept either, whatever its content.
    let mut accept = bench.draft("9434765919", &["ep-a"]);
    accept.message_key = message("grpc:1", b"cancel");
    let refused = bench.store.accept(accept).await;
    assert!(matches!(
        refused,
        Err(StoreError::Conflict {
            key: ConflictKey::Message,
            ..
        })
    ));
}

#[tokio::test]
async fn a_version_of_a_source_is_applied_once() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a"]).await;
    let source = "RXX".parse().unwrap();
    let with = |version, number| ReferralChange {
        status_version: Some((sent.legs[0], "RXX".parse().unwrap(), number)),
        ..bench.no_change(&sent, version, ms(1))
    };
    assert!(
        !bench
            .store
            .status_seen(sent.legs[0], &source, 4)
            .await
            .unwrap()
    );
    bench.store.change(with(1, 4)).await.unwrap();
    assert!(
        bench
            .store
            .status_seen(sent.legs[0], &source, 4)
            .await
            .unwrap()
    );
    assert!(matches!(
        bench.store.change(with(2, 4)).await,
        Err(StoreError::Stale)
    ));
    bench.store.change(with(2, 5)).await.unwrap();
    assert!(
        !bench
            .store
            .status_seen(LegId::from_bytes([0; 16]), &source, 5)
            .await
            .unwrap()
    );
}

fn cancelling(bench: &Bench, sent: &Sent, version: u64) -> ReferralChange {
    ReferralChange {
        cancel: sent.deliveries.clone(),
        ..bench.no_change(sent, version, ms(5))
    }
}

#[tokio::test]
async fn what_was_never_attempted_is_cancelled_and_frees_its_lanes() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-b", "ep-a"]).await;
    let behind = bench.send("9434765919", &["ep-a"]).await;
    // A lease does not save it: nothing was opened.
    let leased = bench.head(WorkClass::Fresh, "ep-a", 1).await;
    bench
        .store
        .change(cancelling(&bench, &sent, 1))
        .await
        .unwrap();
    for id in &sent.deliveries {
        assert_eq!(bench.state(*id).await, DeliveryState::Cancelled);
    }
    assert!(matches!(
        bench.open(&leased, 6).await,
        Err(StoreError::LeaseLost)
    ));
    assert!(bench.lease(WorkClass::Fresh, "ep-b", 7).await.is_empty());
    assert_eq!(
        bench.head(WorkClass::Fresh, "ep-a", 7).await.referral,
        behind.referral
    );
    assert!(matches!(
        bench.store.change(cancelling(&bench, &sent, 2)).await,
        Err(StoreError::Stale)
    ));
    bench.move_leg(&sent, 2, LegState::Cancelled).await;
    let faults = bench.faults().await;
    assert!(
        faults.iter().all(|f| f.rule == "leg_without_work"),
        "{faults:?}"
    );
}

#[tokio::test]
async fn a_cancel_after_an_attempt_was_opened_is_stale_for_every_delivery_of_it() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a", "ep-b"]).await;
    let head = bench.head(WorkClass::Fresh, "ep-b", 1).await;
    bench.open(&head, 2).await.unwrap();
    let refused = bench.store.change(cancelling(&bench, &sent, 1)).await;
    assert!(matches!(refused, Err(StoreError::Stale)));
    assert_eq!(bench.state(sent.deliveries[0]).await, DeliveryState::Queued);
    assert_eq!(version(&bench, &sent).await, 1);
    assert!(bench.faults().await.is_empty());
}

#[tokio::test]
async fn a_cancel_and_the_opening_of_an_attempt_never_both_succeed() {
    let Some(bench) = bench().await else { return };
    for _ in 0..20 {
        let sent = bench.send("9434765919", &["ep-a"]).await;
        let head = bench.head(WorkClass::Fresh, "ep-a", 1).await;
        let (opened, cancelled) = tokio::join!(
            bench.open(&head, 2),
            bench.store.change(cancelling(&bench, &sent, 1))
        );
        assert_ne!(
            opened.is_ok(),
            cancelled.is_ok(),
            "{opened:?} {cancelled:?}"
        );
        if opened.is_ok() {
            assert!(matches!(cancelled, Err(StoreError::Stale)), "{cancelled:?}");
            let end = next(DeliveryState::Done, Evidence::ApplicationAck);
            bench
                .store
                .close_attempt(bench.closing(&head, 1, end, 3))
                .await
                .unwrap();
        } else {
            assert!(matches!(opened, Err(StoreError::LeaseLost)), "{opened:?}");
        }
    }
    assert!(bench.lease(WorkClass::Fresh, "ep-a", 9).await.is_empty());
}

#[tokio::test]
async fn a_delivery_of_another_referral_cannot_be_cancelled() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a"]).await;
    let other = bench.send("9434765919", &["ep-a"]).await;
    for id in [other.deliveries[0], DeliveryId::from_bytes([1; 16])] {
        let mut change = bench.no_change(&sent, 1, ms(1));
        change.cancel = vec![id];
        assert!(matches!(
            bench.store.change(change).await,
            Err(StoreError::NotFound("delivery"))
        ));
    }
    assert_eq!(
        bench.state(other.deliveries[0]).await,
        DeliveryState::Queued
    );
}

#[tokio::test]
async fn what_may_be_on_its_way_is_not_superseded() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a"]).await;
    let replacing = |version| ReferralChange {
        supersede: sent.deliveries.clone(),
        deliveries: vec![bench.delivery(Kind::New, "ep-a", Some(sent.legs[0]))],
        ..bench.no_change(&sent, version, ms(9))
    };
    let head = bench.head(WorkClass::Fresh, "ep-a", 1).await;
    bench.open(&head, 2).await.unwrap();
    assert!(matches!(
        bench.store.change(replacing(1)).await,
        Err(StoreError::Stale)
    ));
    let refused = next(DeliveryState::Parked, Evidence::Sent);
    bench
        .store
        .close_attempt(bench.closing(&head, 1, refused, 3))
        .await
        .unwrap();
    bench.store.change(replacing(1)).await.unwrap();
    assert_eq!(
        bench.state(sent.deliveries[0]).await,
        DeliveryState::Superseded
    );
    assert!(matches!(
        bench.store.change(replacing(2)).await,
        Err(StoreError::Stale)
    ));
    assert_eq!(bench.lease(WorkClass::Fresh, "ep-a", 10).await.len(), 1);
    assert!(bench.faults().await.is_empty());
}

#[tokio::test]
async fn a_referral_is_found_by_each_of_its_keys() {
    let Some(bench) = bench().await else { return };
    let mut accept = bench.draft("9434765919", &["ep-a"]);
    let reference = |value: &str| SenderReference {
        value: value.to_owned(),
        namespace: "MIS".to_owned(),
    };
    accept.sender_reference = Some((reference("R1"), Payload::new(b"one".to_vec())));
    let (ours, wire) = (
        accept.reference.clone(),
        accept.deliveries[0].wire_id.clone(),
    );
    let message = accept.message_key.key.clone();
    let sent = bench.accept(accept).await;
    let sender = || "EE100001".parse().unwrap();
    for key in [
        ReferralKey::Reference(ours),
        ReferralKey::Wire(wire),
        ReferralKey::Event(sent.event),
        ReferralKey::Sender(sender(), reference("R1")),
        ReferralKey::Message(sender(), message.clone()),
    ] {
        assert_eq!(
            bench.store.resolve(&key).await.unwrap(),
            Some(sent.referral),
            "{key:?}"
        );
    }
    for key in [
        ReferralKey::Sender(sender(), reference("R2")),
        ReferralKey::Sender("EE200002".parse().unwrap(), reference("R1")),
        ReferralKey::Receiver(sender(), "R1".to_owned()),
        ReferralKey::Event(EventId::from_bytes([1; 16])),
        ReferralKey::Message("EE200002".parse().unwrap(), message),
    ] {
        assert_eq!(bench.store.resolve(&key).await.unwrap(), None, "{key:?}");
    }
}

#[tokio::test]
async fn a_body_is_opened_only_after_its_reading_is_in_the_log() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a"]).await;
    let content = bench
        .store
        .referral(sent.referral)
        .await
        .unwrap()
        .unwrap()
        .content;
    let entry = bench.entry(EntryKind::AdminRead, sent.stream, ms(1));
    let event = entry.event;
    let read = bench
        .store
        .read_body(content, entry.clone())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read.expose(), b"content");
    assert!(bench.store.entry_of(event).await.unwrap().is_some());
    // An entry that cannot be kept keeps the body shut.
    assert!(bench.store.read_body(content, entry).await.is_err());
    let nothing = bench.entry(EntryKind::AdminRead, sent.stream, ms(1));
    let absent = BodyId::from_bytes([1; 16]);
    assert_eq!(
        bench
            .store
            .read_body(absent, nothing.clone())
            .await
            .unwrap(),
        None
    );
    assert_eq!(bench.store.entry_of(nothing.event).await.unwrap(), None);
}

#[tokio::test]
async fn a_body_moved_to_another_row_does_not_open() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("9434765919", &["ep-a"]).await;
    let other = bench.send("9434765919", &["ep-a"]).await;
    let content = bench
        .store
        .referral(sent.referral)
        .await
        .unwrap()
        .unwrap()
        .content;
    let others = bench
        .store
        .referral(other.referral)
        .await
        .unwrap()
        .unwrap()
        .content;
    let hex = |id: BodyId| hex::encode(id.as_bytes());
    let (open, close) = if Db::NAME == "SQLite" {
        ("X'", "'")
    } else {
        ("'\\x", "'")
    };
    let literal = |id| format!("{open}{}{close}", hex(id));
    let swap =
        "UPDATE body SET (wrapped_key, sealed) = (SELECT wrapped_key, sealed FROM body WHERE id = ";
    bench
        .run(&format!(
            "{swap}{}) WHERE id = {}",
            literal(others),
            literal(content)
        ))
        .await;
    let entry = bench.entry(EntryKind::AdminRead, sent.stream, ms(1));
    let refused = bench.store.read_body(content, entry).await;
    assert!(
        matches!(refused, Err(StoreError::Corrupt { table: "body", .. })),
        "{refused:?}"
    );
}

fn asked(agency: Option<&str>, limit: u32) -> ReferralQuery {
    ReferralQuery {
        agencies: agency.map(|a| vec![a.parse().unwrap()]),
        pathway: None,
        subject: None,
        before: None,
        limit,
    }
}

async fn listed(bench: &Bench, query: &ReferralQuery) -> Vec<ReferralId> {
    bench
        .store
        .list(query)
        .await
        .unwrap()
        .iter()
        .map(|view| view.id)
        .collect()
}

#[tokio::test]
async fn a_list_shows_what_an_agency_sends_or_receives_newest_first() {
    let Some(bench) = bench().await else { return };
    let a = bench.send("child 1", &["ep-a", "ep-b"]).await.referral;
    let b = bench.send("child 2", &["ep-a"]).await.referral;
    let mut foreign = bench.draft("child 1", &["ep-z"]);
    foreign.sender = "EE200002".parse().unwrap();
    foreign.pathway = "speech".parse().unwrap();
    foreign.legs[0].agency = "RZZ".parse().unwrap();
    let c = bench.accept(foreign).await.referral;
    assert_eq!(listed(&bench, &asked(None, 10)).await, [c, b, a]);
    for (agency, expected) in [
        ("EE100001", vec![b, a]),
        ("RXX", vec![b, a]),
        ("RZZ", vec![c]),
        ("EE200002", vec![c]),
    ] {
        assert_eq!(
            listed(&bench, &asked(Some(agency), 10)).await,
            expected,
            "{agency}"
        );
    }
    assert_eq!(listed(&bench, &asked(Some("RXX"), 1)).await, [b]);
    let next = ReferralQuery {
        before: Some(b),
        ..asked(Some("RXX"), 1)
    };
    assert_eq!(listed(&bench, &next).await, [a]);
    let child = |text: &str| Some(SubjectKey::NhsNumber(Personal::from(text)));
    let of_child = ReferralQuery {
        subject: child("child 1"),
        ..asked(None, 10)
    };
    assert_eq!(listed(&bench, &of_child).await, [c, a]);
    let of_agency = ReferralQuery {
        subject: child("child 1"),
        ..asked(Some("RXX"), 10)
    };
    assert_eq!(listed(&bench, &of_agency).await, [a]);
    let nobody = ReferralQuery {
        subject: child("child 3"),
        ..asked(None, 10)
    };
    assert!(listed(&bench, &nobody).await.is_empty());
    let speech = ReferralQuery {
        pathway: Some("speech".parse().unwrap()),
        ..asked(None, 10)
    };
    assert_eq!(listed(&bench, &speech).await, [c]);
}

#[tokio::test]
async fn a_page_is_never_longer_than_its_limit() {
    let Some(bench) = bench().await else { return };
    let limit = usize::try_from(PAGE_MAX).unwrap();
    let more = (0..=limit).map(|n| bench.store.accept(bench.draft(&n.to_string(), &["ep-a"])));
    assert!(
        futures::future::join_all(more)
            .await
            .iter()
            .all(Result::is_ok)
    );
    assert_eq!(
        listed(&bench, &asked(None, PAGE_MAX + 1)).await.len(),
        limit
    );
}

#[tokio::test]
async fn the_feed_shows_an_agencys_events_in_the_order_of_the_log_window_by_window() {
    let Some(bench) = bench().await else { return };
    let sent = bench.send("child 1", &["ep-a"]).await;
    let mut foreign = bench.draft("child 2", &["ep-z"]);
    foreign.sender = "EE200002".parse().unwrap();
    foreign.legs[0].agency = "RZZ".parse().unwrap();
    bench.accept(foreign).await;
    let change = bench.no_change(&sent, 1, ms(1));
    let status = bench.store.change(change).await.unwrap().event;
    let ask = |from, window| FeedQuery {
        agencies: vec!["RXX".parse().unwrap()],
        from,
        window,
    };
    let empty = bench.store.feed(&ask(0, 10)).await.unwrap();
    assert_eq!((empty.events.len(), empty.next), (0, 0));
    let key = waymark_tlog::note::SigningKey::from_seed("waymark.test/log", [9; 32]).unwrap();
    bench.store.sequence(&key, 100, ms(2)).await.unwrap();
    let page = bench.store.feed(&ask(0, WINDOW_MAX + 1)).await.unwrap();
    let ids: Vec<EventId> = page.events.iter().map(|e| e.event.id).collect();
    assert_eq!((ids, page.next), (vec![sent.event, status], 3));
    assert_eq!(page.events[1].log_index, Some(2));
    let first = bench.store.feed(&ask(0, 2)).await.unwrap();
    assert_eq!((first.events.len(), first.next), (1, 2));
    let rest = bench.store.feed(&ask(first.next, 2)).await.unwrap();
    assert_eq!((rest.events.len(), rest.next), (1, 3));
    assert_eq!(bench.store.feed(&ask(3, 2)).await.unwrap().next, 3);
    assert_eq!(
        bench.store.timeline(sent.referral, 1).await.unwrap().len(),
        1
    );
}
