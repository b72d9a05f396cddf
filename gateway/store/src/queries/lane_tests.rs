//! What lanes promise: one at a time, in order, and no child waits for another.

use std::time::Duration;

use futures::future::join_all;
use waymark_core::alarm::AlarmKind;
use waymark_core::delivery::{DeliveryState, Evidence, Kind, ParkReason};
use waymark_core::leg::LegState;
use waymark_core::port::{
    DeliveryStore as _, EventKind, LegChange, OpenOnly, ReferralChange, ReferralStore as _,
    StoreError, UpkeepStore as _, WorkClass,
};

use super::fixture::{alarm, bench, due, ms, next, owner, token};

const FRESH: WorkClass = WorkClass::Fresh;
const RETRY: WorkClass = WorkClass::Retry;

#[tokio::test]
async fn two_heads_of_one_lane_are_never_leased_together() {
    let Some(b) = bench().await else { return };
    let first = b.send("9434765919", &["mllp"]).await;
    let second = b.send("9434765919", &["mllp"]).await;
    let leased = b.head(FRESH, "mllp", 0).await;
    assert_eq!(leased.token.delivery, first.deliveries[0]);
    assert!(b.lease(FRESH, "mllp", 1).await.is_empty());
    b.attempt(
        &leased,
        next(DeliveryState::Done, Evidence::ApplicationAck),
        2,
    )
    .await;
    assert_eq!(
        b.head(FRESH, "mllp", 3).await.token.delivery,
        second.deliveries[0]
    );
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn eight_claimers_lease_each_lane_once() {
    let Some(b) = bench().await else { return };
    let children: Vec<String> = (0..40).map(|n| format!("child {n}")).collect();
    join_all(children.iter().map(|child| b.send(child, &["mllp"]))).await;
    let claims = (0..8).map(|_| async {
        let mut mine = Vec::new();
        loop {
            let leased = b.try_lease((FRESH, "mllp"), (1, 60_000), 3).await.unwrap();
            if leased.is_empty() {
                return mine;
            }
            mine.extend(leased.into_iter().map(|one| one.token.delivery));
        }
    });
    let mut all: Vec<_> = join_all(claims).await.into_iter().flatten().collect();
    all.sort();
    all.dedup();
    // A claimer that saw only rows held by others stops early; what is left is claimed now.
    let left = b.lease(FRESH, "mllp", 1).await.len();
    assert_eq!(all.len() + left, 40, "each lane once");
    assert_eq!(b.number("SELECT MAX(fence) FROM lane").await, 1);
}

#[tokio::test]
async fn expired_lease_is_given_to_another_worker_and_the_first_loses_it() {
    let Some(b) = bench().await else { return };
    let sent = b.send("9434765919", &["mllp"]).await;
    let first = b.head(FRESH, "mllp", 0).await;
    b.open(&first, 1).await.unwrap();
    assert!(b.lease(RETRY, "mllp", 59_999).await.is_empty());
    let second = b.head(RETRY, "mllp", 60_000).await;
    assert_eq!(second.state, DeliveryState::Attempting);
    assert_eq!((second.attempts, second.unfinished), (1, 1));
    let end = next(DeliveryState::Done, Evidence::ApplicationAck);
    let late = b
        .store
        .close_attempt(b.closing(&first, 1, end.clone(), 60_001))
        .await;
    assert!(matches!(late, Err(StoreError::LeaseLost)));
    assert!(matches!(
        b.open(&first, 60_001).await,
        Err(StoreError::LeaseLost)
    ));
    assert!(matches!(
        b.store.release(&token(&first), ms(5)).await,
        Err(StoreError::LeaseLost)
    ));
    assert!(
        b.store
            .renew(&[token(&first)], ms(90_000))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(b.state(sent.deliveries[0]).await, DeliveryState::Attempting);
    b.store
        .close_attempt(b.closing(&second, 1, end, 60_002))
        .await
        .unwrap();
    assert_eq!(b.state(sent.deliveries[0]).await, DeliveryState::Done);
    assert_eq!(b.number("SELECT COUNT(*) FROM lane").await, 0);
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn renewed_lease_holds_and_a_released_one_is_due_again() {
    let Some(b) = bench().await else { return };
    b.send("9434765919", &["mllp"]).await;
    let leased = b.head(FRESH, "mllp", 0).await;
    let held = b.store.renew(&[token(&leased)], ms(120_000)).await.unwrap();
    assert_eq!(held, [leased.token.delivery]);
    assert!(b.lease(FRESH, "mllp", 60_001).await.is_empty());
    b.store.release(&token(&leased), ms(70_000)).await.unwrap();
    assert!(b.lease(FRESH, "mllp", 69_999).await.is_empty());
    let again = b.head(FRESH, "mllp", 70_000).await;
    assert_eq!(again.state, DeliveryState::Queued);
    assert!(matches!(
        b.open(&leased, 70_001).await,
        Err(StoreError::LeaseLost)
    ));
}

#[tokio::test]
async fn due_endpoints_are_those_with_due_lanes_of_the_class() {
    let Some(b) = bench().await else { return };
    b.send("1", &["b-mllp", "a-mesh"]).await;
    b.send("2", &["b-mllp"]).await;
    let named = |class, now| {
        let b = &b;
        async move {
            let found = b.store.due_endpoints(class, ms(now)).await.unwrap();
            found
                .into_iter()
                .map(|id| id.to_string())
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(named(FRESH, 0).await, ["a-mesh", "b-mllp"]);
    assert!(named(FRESH, -1).await.is_empty());
    assert!(named(RETRY, 0).await.is_empty());
    let leased = b.head(FRESH, "a-mesh", 0).await;
    b.attempt(&leased, due(DeliveryState::RetryWait, 5_000), 1)
        .await;
    assert_eq!(named(FRESH, 10).await, ["b-mllp"]);
    assert!(named(RETRY, 4_999).await.is_empty());
    assert_eq!(named(RETRY, 5_000).await, ["a-mesh"]);
}

#[tokio::test]
async fn failing_child_delays_no_other_and_a_dead_destination_no_other() {
    let Some(b) = bench().await else { return };
    let failing = b.send("1", &["mllp", "mesh"]).await;
    let behind = b.send("1", &["mllp"]).await;
    let other = b.send("2", &["mllp"]).await;
    let heads = b.lease(FRESH, "mllp", 0).await;
    assert_eq!(heads.len(), 2);
    for head in &heads {
        let to = if head.referral == failing.referral {
            due(DeliveryState::RetryWait, 9_000)
        } else {
            next(DeliveryState::Done, Evidence::ApplicationAck)
        };
        b.attempt(head, to, 1).await;
    }
    assert_eq!(b.state(other.deliveries[0]).await, DeliveryState::Done);
    assert_eq!(b.state(behind.deliveries[0]).await, DeliveryState::Queued);
    assert_eq!(b.head(FRESH, "mesh", 1).await.referral, failing.referral);
    assert!(
        b.lease(FRESH, "mllp", 9_000).await.is_empty(),
        "the child's own lane waits"
    );
    assert_eq!(
        b.head(RETRY, "mllp", 9_000).await.referral,
        failing.referral
    );
}

#[tokio::test]
async fn every_attempt_sends_the_bytes_of_the_first() {
    let Some(b) = bench().await else { return };
    b.send("1", &["mllp"]).await;
    let first = b.head(FRESH, "mllp", 0).await;
    let before = b.store.content(&first).await.unwrap();
    assert_eq!(before.content.unwrap().expose(), b"content");
    assert!(before.rendered.is_none());
    b.attempt(&first, due(DeliveryState::RetryWait, 10), 1)
        .await;
    let second = b.head(RETRY, "mllp", 10).await;
    let rendered = b.store.content(&second).await.unwrap().rendered.unwrap();
    assert_eq!(rendered.bytes.expose(), b"MSH|");
    assert_eq!(rendered.media_type, "x-application/hl7-v2+er7");
    let mut other = second.clone();
    other.attempts = 0;
    assert!(
        matches!(b.open(&other, 11).await, Err(StoreError::Stale)),
        "no other bytes"
    );
    other.attempts = 2;
    assert!(
        matches!(b.open(&other, 11).await, Err(StoreError::Stale)),
        "no number left out"
    );
    b.attempt(
        &second,
        next(DeliveryState::Done, Evidence::ApplicationAck),
        12,
    )
    .await;
    let view = b
        .store
        .delivery_by_wire_id(&second.wire_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        view.attempts.iter().map(|a| a.number).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(view.attempts[1].closed, Some(ms(12)));
    assert_eq!(view.attempts[1].evidence, Some(Evidence::ApplicationAck));
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn rejected_head_takes_its_cancel_along_as_cancelled() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let other = b.send("1", &["mllp"]).await;
    let leased = b.head(FRESH, "mllp", 0).await;
    b.open(&leased, 1).await.unwrap();
    let amend = b.follow_up(&sent, 1, (Kind::Amend, "mllp"), ms(2)).await;
    let cancel = b.follow_up(&sent, 2, (Kind::Cancel, "mllp"), ms(3)).await;
    let end = next(DeliveryState::Rejected, Evidence::Sent);
    let mut close = b.closing(&leased, 1, end, 4);
    close.alarms = vec![alarm(AlarmKind::Rejected, &sent.deliveries[0])];
    b.store.close_attempt(close).await.unwrap();
    assert_eq!(b.state(cancel).await, DeliveryState::Cancelled);
    let amend = b.store.delivery(amend).await.unwrap().unwrap();
    assert_eq!(
        (amend.state, amend.parked),
        (DeliveryState::Parked, Some(ParkReason::Behind))
    );
    assert_eq!(
        b.head(FRESH, "mllp", 5).await.token.delivery,
        other.deliveries[0]
    );
    let timeline = b.store.timeline(sent.referral, 100).await.unwrap();
    let moved = timeline
        .iter()
        .filter(|e| e.event.kind == EventKind::Delivery);
    let codes: Vec<_> = moved
        .map(|e| (e.event.code.clone(), e.delivery_state))
        .collect();
    assert!(codes.contains(&(
        "cancelled_unneeded".to_owned(),
        Some(DeliveryState::Cancelled)
    )));
    assert!(codes.contains(&("parked_behind".to_owned(), Some(DeliveryState::Parked))));
    let open = b.store.alarms(OpenOnly::Yes, 10).await.unwrap();
    let behind = open
        .iter()
        .find(|a| a.alarm.subject == amend.delivery.id.to_string())
        .unwrap();
    assert_eq!(
        (behind.alarm.kind, behind.alarm.role.as_str()),
        (AlarmKind::Parked, "triage")
    );
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn end_of_an_attempt_tells_the_sender_in_the_same_transaction() {
    let Some(b) = bench().await else { return };
    for (endpoint, back) in [("a-mllp", "z-return"), ("z-mllp", "a-return")] {
        let sent = b.send(endpoint, &[endpoint]).await;
        let leased = b.head(FRESH, endpoint, 0).await;
        b.open(&leased, 1).await.unwrap();
        let end = next(DeliveryState::Done, Evidence::SignedReceipt);
        let mut close = b.closing(&leased, 1, end, 2);
        let note = b.body(b"{}");
        let mut tell = b.delivery(Kind::Status, back, None);
        tell.note = Some(note.id);
        close.receipt = Some(b.body(b"receipt"));
        close.event = Some(b.event(close.entry.event, Some(leased.token.delivery)));
        close.receiver_reference = Some(format!("FAR-{endpoint}"));
        close.tell = Some((note, tell));
        b.store.close_attempt(close).await.unwrap();
        let told = b.head(FRESH, back, 3).await;
        assert_eq!((told.kind, told.referral), (Kind::Status, sent.referral));
        let content = b.store.content(&told).await.unwrap();
        assert_eq!(content.note.unwrap().expose(), b"{}");
    }
    assert_eq!(b.store.counters().await.unwrap().deliveries, 4);
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn a_status_alone_is_given_the_ids_that_its_answer_repeats() {
    let Some(b) = bench().await else { return };
    for (child, ids) in [("1", Some(&b"ids"[..])), ("2", None)] {
        let mut accept = b.draft(child, &["mllp"]);
        accept.conversation = ids.map(|ids| b.body(ids));
        // What a family is told lies behind it, and is not taken for it.
        accept.notes.push(b.body(b"note"));
        let sent = b.accept(accept).await;
        let new = b.head(FRESH, "mllp", 0).await;
        assert_eq!(b.store.content(&new).await.unwrap().conversation, None);
        b.follow_up(&sent, 1, (Kind::Status, "return"), ms(1)).await;
        let told = b.head(FRESH, "return", 2).await;
        assert_eq!((told.kind, told.referral), (Kind::Status, sent.referral));
        let content = b.store.content(&told).await.unwrap();
        let found = content.conversation;
        assert_eq!(
            found.as_ref().map(waymark_core::personal::Payload::expose),
            ids
        );
    }
}

#[tokio::test]
async fn lost_lease_writes_nothing() {
    let Some(b) = bench().await else { return };
    b.send("1", &["mllp"]).await;
    let leased = b.head(FRESH, "mllp", 0).await;
    b.store.release(&token(&leased), ms(0)).await.unwrap();
    let before = b.store.outbox(ms(0)).await.unwrap().0;
    let end = next(DeliveryState::Rejected, Evidence::Sent);
    let mut close = b.closing(&leased, 0, end, 1);
    close.tell = Some((b.body(b"{}"), b.delivery(Kind::Status, "a-return", None)));
    close.alarms = vec![alarm(AlarmKind::Rejected, &leased.token.delivery)];
    assert!(matches!(
        b.store.close_attempt(close).await,
        Err(StoreError::LeaseLost)
    ));
    assert_eq!(b.store.outbox(ms(0)).await.unwrap().0, before);
    assert!(b.store.alarms(OpenOnly::No, 10).await.unwrap().is_empty());
    assert!(b.lease(FRESH, "a-return", 5).await.is_empty());
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn urgent_message_behind_another_is_told_of_once_and_resolved_at_the_head() {
    let Some(b) = bench().await else { return };
    b.send("1", &["mllp"]).await;
    let mut draft = b.draft("1", &["mllp"]);
    draft.deliveries[0].urgent = true;
    let urgent = b.accept(draft).await;
    let mut draft = b.draft("2", &["mllp"]);
    draft.deliveries[0].urgent = true;
    b.accept(draft).await;
    let told = b.store.overdue(ms(10), &[], 10).await.unwrap();
    assert_eq!(told.len(), 1, "not the one at the head of its own lane");
    assert_eq!(told[0].subject, urgent.deliveries[0].to_string());
    assert_eq!(told[0].kind, AlarmKind::UrgentHeld);
    b.store.raise_alarm(&told[0], ms(10)).await.unwrap();
    assert!(b.store.overdue(ms(11), &[], 10).await.unwrap().is_empty());
    let heads = b.lease(FRESH, "mllp", 12).await;
    let first = heads.iter().find(|h| !h.urgent).unwrap();
    b.attempt(
        first,
        next(DeliveryState::Done, Evidence::ApplicationAck),
        13,
    )
    .await;
    assert!(b.store.alarms(OpenOnly::Yes, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn cancelled_head_lets_the_next_go_and_its_lease_is_lost() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let other = b.send("1", &["mllp"]).await;
    let leased = b.head(FRESH, "mllp", 0).await;
    let change = ReferralChange {
        cancel: sent.deliveries.clone(),
        ..b.no_change(&sent, 1, ms(1))
    };
    b.store.change(change).await.unwrap();
    assert_eq!(b.state(sent.deliveries[0]).await, DeliveryState::Cancelled);
    assert!(matches!(
        b.open(&leased, 2).await,
        Err(StoreError::LeaseLost)
    ));
    assert_eq!(
        b.head(FRESH, "mllp", 3).await.token.delivery,
        other.deliveries[0]
    );
}

#[tokio::test]
async fn accept_and_completion_of_one_lane_never_leave_work_without_a_lane() {
    let Some(b) = bench().await else { return };
    for round in 0..25 {
        b.send("1", &["mllp"]).await;
        let head = b.head(FRESH, "mllp", round).await;
        b.open(&head, round).await.unwrap();
        let end = next(DeliveryState::Done, Evidence::ApplicationAck);
        let close = b
            .store
            .close_attempt(b.closing(&head, 1, end.clone(), round));
        let (closed, sent) = tokio::join!(close, b.send("1", &["mllp"]));
        closed.unwrap();
        let head = b.head(FRESH, "mllp", round).await;
        assert_eq!(head.token.delivery, sent.deliveries[0], "round {round}");
        b.attempt(&head, end, round).await;
        assert_eq!(b.number("SELECT COUNT(*) FROM lane").await, 0);
    }
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn concurrent_changes_of_one_child_end_without_a_deadlock() {
    let Some(b) = bench().await else { return };
    let mut heads = Vec::new();
    for n in 0..12 {
        b.send(&format!("child {n}"), &["a-mllp", "z-mllp"]).await;
    }
    for endpoint in ["a-mllp", "z-mllp"] {
        heads.extend(b.lease(FRESH, endpoint, 0).await);
    }
    assert_eq!(heads.len(), 24);
    let work = heads.iter().map(|head| async {
        b.open(head, 1).await.unwrap();
        let end = next(DeliveryState::Done, Evidence::ApplicationAck);
        let mut close = b.closing(head, 1, end, 2);
        let note = b.body(b"{}");
        let mut tell = b.delivery(Kind::Status, "m-return", None);
        tell.note = Some(note.id);
        close.tell = Some((note, tell));
        b.store.close_attempt(close).await.unwrap();
    });
    let accepts = (0..12).map(|n| {
        b.send(
            if n % 2 == 0 { "child 1" } else { "child 2" },
            &["z-mllp", "a-mllp"],
        )
    });
    tokio::join!(join_all(work), join_all(accepts));
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn waiting_for_work_ends_when_work_is_committed() {
    let Some(b) = bench().await else { return };
    let waited = async {
        tokio::time::timeout(Duration::from_secs(20), b.store.work_added())
            .await
            .unwrap();
    };
    tokio::join!(waited, b.send("1", &["mllp"]));
}

#[tokio::test]
async fn a_refused_cancel_gives_its_leg_back_once_and_the_referral_moves_on() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    b.move_leg(&sent, 1, LegState::Cancelled).await;
    let head = b.head(FRESH, "mllp", 1).await;
    b.open(&head, 1).await.unwrap();
    let rejected = next(DeliveryState::Rejected, Evidence::Sent);
    let mut close = b.closing(&head, 1, rejected, 2);
    close.reopen = Some(LegChange {
        leg: sent.legs[0],
        state: LegState::Booked,
        owner: owner(),
        clock: Some("APPOINTMENT".to_owned()),
        next_action: Some("2026-03-02".to_owned()),
    });
    b.store.close_attempt(close).await.unwrap();
    let view = b.store.referral(sent.referral).await.unwrap().unwrap();
    assert_eq!((view.legs[0].state, view.version), (LegState::Booked, 3));
    assert_eq!(view.legs[0].clock.as_deref(), Some("APPOINTMENT"));
}

#[tokio::test]
async fn post_that_nobody_takes_is_told_of_once_for_each_child_and_then_of_what_lay_behind_it() {
    let Some(b) = bench().await else { return };
    let first = b.send("1", &["post"]).await.deliveries[0];
    let behind = b.send("1", &["post"]).await.deliveries[0];
    b.send("2", &["mllp"]).await;
    let told = async |queued_before| {
        let mailboxes = [("post".parse().unwrap(), ms(queued_before))];
        b.store.overdue(ms(10), &mailboxes, 10).await.unwrap()
    };
    assert!(told(-1).await.is_empty(), "it is not there long enough");
    let alarms = told(1_000_000).await;
    let subjects: Vec<&str> = alarms.iter().map(|a| a.subject.as_str()).collect();
    assert_eq!(subjects, [first.to_string()]);
    assert_eq!(alarms[0].kind, AlarmKind::EvidenceOverdue);
    b.store.raise_alarm(&alarms[0], ms(10)).await.unwrap();
    assert!(told(1_000_000).await.is_empty(), "told once");
    let head = b.head(FRESH, "post", 11).await;
    b.attempt(
        &head,
        next(DeliveryState::Done, Evidence::ApplicationAck),
        12,
    )
    .await;
    let alarms = told(1_000_000).await;
    assert_eq!(alarms.len(), 1);
    assert_eq!(alarms[0].subject, behind.to_string());
}
