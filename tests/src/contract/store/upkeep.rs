//! The log, the check, alarms and lists.

use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::audit::{EntryKind, LogEntry};
use waymark_core::delivery::{DeliveryState, Evidence};
use waymark_core::id::StreamId;
use waymark_core::leg::LegState;
use waymark_core::port::{DeliveryQuery, OpenOnly, WorkClass};
use waymark_tlog::note::VerifierKey;
use waymark_tlog::{Checkpoint, Hash};

use super::{Subject, deliver, key, lease_one};
use crate::build::{Maker, agency};

/// An entry of its own is sequenced as any other, in the order of its stream.
pub async fn an_act_without_a_trace_of_its_own_is_in_the_log_all_the_same(store: Subject) {
    let mut make = Maker::default();
    let stream = StreamId::from_bytes(*b"waymark/contract");
    let mut events = Vec::new();
    for _ in 0..2 {
        let entry = make.entry(EntryKind::AdminAction, stream);
        events.push(entry.event);
        store.append(entry).await.expect("append");
    }
    let done = store
        .sequence(&key(), 10, make.now)
        .await
        .expect("sequence");
    assert_eq!(done.added, 2);
    let mut sequences = Vec::new();
    for event in events {
        let bytes = store.entry_of(event).await.expect("read").expect("there");
        let entry = LogEntry::decode(&bytes).expect("an entry");
        assert_eq!((entry.kind, entry.stream), (EntryKind::AdminAction, stream));
        sequences.push(entry.stream_seq);
    }
    assert_eq!(sequences, [0, 1]);
}

/// Every event is in the log once, in stream order, under checkpoints that agree with each other.
pub async fn every_event_is_in_the_log_once(store: Subject) {
    let mut make = Maker::default();
    let key = key();
    let verifier = VerifierKey::parse(&key.vkey()).expect("a key reads back");
    let mut events = Vec::new();
    for round in 0..3 {
        for n in 0..5 {
            events.push(
                store
                    .accept(make.accept(&format!("{round}-{n}"), "c", &["e1"]))
                    .await
                    .expect("accept")
                    .event,
            );
        }
        let done = store.sequence(&key, 4, make.now).await.expect("sequence");
        assert_eq!(done.added, 4, "a round takes no more than it is told");
    }
    while store
        .sequence(&key, 4, make.now)
        .await
        .expect("sequence")
        .added
        > 0
    {}
    let state = store.log_state().await.expect("state");
    assert_eq!((state.size, state.accepted), (15, 15));
    let signed = state.checkpoint.expect("signed");
    let checkpoint = Checkpoint::open(&signed.note, &verifier).expect("opens");
    assert_eq!(
        (checkpoint.size(), checkpoint.root()),
        (15, Hash::from_bytes(state.root))
    );
    let mut indexes = Vec::new();
    for event in events {
        indexes.push(
            store
                .log_index(event)
                .await
                .expect("index")
                .expect("sequenced"),
        );
    }
    indexes.sort_unstable();
    assert_eq!(indexes, (0..15).collect::<Vec<u64>>());
    let entries = store.entries(0, 100).await.expect("entries");
    let mut leaves = waymark_tlog::Edge::empty();
    for (_, bytes) in &entries {
        leaves.append(waymark_tlog::leaf_hash(bytes));
    }
    assert_eq!(leaves.root(), Hash::from_bytes(state.root));
    assert_eq!(store.outbox(make.now).await.expect("outbox").0, 0);
}

/// The check finds a referral's open leg without work or alarm, and nothing else.
pub async fn the_check_holds_through_a_delivery_s_life(store: Subject) {
    let mut make = Maker::default();
    let accept = make.accept("1", "c", &["e1", "e2"]);
    let id = accept.referral;
    store.accept(accept).await.expect("accept");
    let faults = || async { store.check_page(None, 100).await.expect("check").faults };
    assert_eq!(faults().await, []);
    let head = lease_one(&store, &mut make, "e1", WorkClass::Fresh).await;
    deliver(&store, &mut make, &head, DeliveryState::Done).await;
    assert_eq!(faults().await, []);
    let head = lease_one(&store, &mut make, "e2", WorkClass::Fresh).await;
    let open = make.open(&head, "bytes");
    store.open_attempt(open).await.expect("open");
    let mut close = make.close(&head, DeliveryState::Rejected, Evidence::Sent, None);
    close.alarms.push(NewAlarm {
        kind: AlarmKind::Rejected,
        subject: head.token.delivery.to_string(),
        owner: agency("R1L"),
        role: "triage".to_owned(),
        text: "refused".to_owned(),
    });
    store.close_attempt(close).await.expect("close");
    assert_eq!(
        faults().await,
        [],
        "a refused delivery has an owner who was told"
    );
    store
        .resolve_alarm(
            AlarmKind::Rejected,
            &head.token.delivery.to_string(),
            make.now,
        )
        .await
        .expect("resolve");
    let found = faults().await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        found.first().map(|f| f.referral.clone()),
        Some(id.to_string())
    );
    let counters = store.counters().await.expect("counters");
    assert_eq!(counters.by_state.get("done"), Some(&1));
    assert_eq!(counters.by_state.get("rejected"), Some(&1));
}

/// One alarm is open for a thing at a time.
pub async fn an_alarm_is_open_once(store: Subject) {
    let make = Maker::default();
    let alarm = NewAlarm {
        kind: AlarmKind::EndpointDown,
        subject: "e1".to_owned(),
        owner: agency("R1L"),
        role: "triage".to_owned(),
        text: "down".to_owned(),
    };
    assert!(store.raise_alarm(&alarm, make.now).await.expect("raise"));
    assert!(!store.raise_alarm(&alarm, make.now).await.expect("raise"));
    assert_eq!(
        store.alarms(OpenOnly::Yes, 10).await.expect("alarms").len(),
        1
    );
    store
        .resolve_alarm(AlarmKind::EndpointDown, "e1", make.now)
        .await
        .expect("resolve");
    assert!(
        store
            .alarms(OpenOnly::Yes, 10)
            .await
            .expect("alarms")
            .is_empty()
    );
    assert!(store.raise_alarm(&alarm, make.now).await.expect("raise"));
    assert_eq!(
        store.alarms(OpenOnly::No, 10).await.expect("alarms").len(),
        2
    );
}

/// A status version counts once.
pub async fn a_status_version_counts_once(store: Subject) {
    let mut make = Maker::default();
    let accept = make.accept("1", "c", &["e1"]);
    let id = accept.referral;
    store.accept(accept).await.expect("accept");
    let view = store.referral(id).await.expect("read").expect("there");
    let leg = view.legs.first().expect("one").clone();
    let mut change = make.change(&view);
    change.status_version = Some((leg.leg.id, agency("R1L"), 4));
    change.legs.push(waymark_core::port::LegChange {
        leg: leg.leg.id,
        state: LegState::Accepted,
        owner: leg.owner.clone(),
        clock: leg.clock.clone(),
        next_action: leg.next_action.clone(),
    });
    store.change(change).await.expect("change");
    assert!(
        store
            .status_seen(leg.leg.id, &agency("R1L"), 4)
            .await
            .expect("seen")
    );
    assert!(
        !store
            .status_seen(leg.leg.id, &agency("R1L"), 5)
            .await
            .expect("seen")
    );
    let view = store.referral(id).await.expect("read").expect("there");
    assert_eq!(
        (view.version, view.legs.first().map(|l| l.state)),
        (2, Some(LegState::Accepted))
    );
}

/// Deliveries are listed by state, oldest first, page by page.
pub async fn deliveries_are_listed_page_by_page(store: Subject) {
    let mut make = Maker::default();
    for n in 0..5 {
        make.later(1);
        store
            .accept(make.accept(&n.to_string(), "c", &["e1"]))
            .await
            .expect("accept");
    }
    let mut query = DeliveryQuery {
        state: Some(DeliveryState::Queued),
        limit: 2,
        ..Default::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = store.deliveries(&query).await.expect("list");
        let Some(last) = page.last() else { break };
        query.after = Some(last.delivery.id);
        seen.extend(page.iter().map(|d| d.delivery.id));
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|a, b| a < b));
}
