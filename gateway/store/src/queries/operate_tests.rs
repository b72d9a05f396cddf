//! What happens to a delivery outside an attempt: evidence, and operators.

use waymark_core::alarm::AlarmKind;
use waymark_core::audit::EntryKind;
use waymark_core::delivery::{DeliveryState, Evidence, Kind, Next, ParkReason};
use waymark_core::id::DeliveryId;
use waymark_core::leg::LegState;
use waymark_core::personal::Payload;
use waymark_core::port::{
    Act, AsksAfter, CloseAttempt, DeliveryStore as _, EventKind, LogStore as _, MessageKey,
    NewDelivery, NewEvent, OpenOnly, Operation, RaiseEvidence, ReferralChange, ReferralStore as _,
    SentPage, StoreError, UpkeepStore as _, WorkClass,
};

use super::fixture::{Bench, Sent, alarm, bench, due, ms, next};

const FRESH: WorkClass = WorkClass::Fresh;
const RETRY: WorkClass = WorkClass::Retry;

fn operation(b: &Bench, of: &Sent, index: usize, act: Act, at: i64) -> Operation {
    let delivery = of.deliveries[index];
    let entry = b.entry(EntryKind::AdminAction, of.stream, ms(at));
    let alarms = match act {
        Act::Park(_) => vec![alarm(AlarmKind::Parked, &delivery)],
        Act::Resume => Vec::new(),
    };
    let note = b.body(b"asked by telephone");
    let event = b.event(entry.event, Some(delivery));
    Operation {
        delivery,
        message_key: None,
        act,
        at: ms(at),
        deadline: ms(at + 86_400_000),
        event: NewEvent {
            text: Some(note.id),
            ..event
        },
        note,
        tell: None,
        alarms,
        resolve: Vec::new(),
        entry,
        openings: Vec::new(),
    }
}

fn raise(b: &Bench, of: &Sent, grade: Evidence, at: i64) -> RaiseEvidence {
    RaiseEvidence {
        delivery: of.deliveries[0],
        grade,
        releases_at: Evidence::ApplicationAck,
        at: ms(at),
        receiver_reference: Some("FAR-1".to_owned()),
        receipt: Some(b.body(b"signed")),
        event: None,
        entry: b.entry(EntryKind::Receipt, of.stream, ms(at)),
        openings: Vec::new(),
    }
}

#[tokio::test]
async fn parked_head_parks_its_followers_and_no_other_referral_and_resume_restores_order() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let other = b.send("1", &["mllp"]).await;
    let amend = b.follow_up(&sent, 1, (Kind::Amend, "mllp"), ms(1)).await;
    b.store
        .operate(operation(&b, &sent, 0, Act::Park(ParkReason::Operator), 2))
        .await
        .unwrap();
    assert_eq!(b.state(amend).await, DeliveryState::Parked);
    assert_eq!(b.state(other.deliveries[0]).await, DeliveryState::Queued);
    assert_eq!(b.faults().await, []);
    let early = Operation {
        delivery: amend,
        ..operation(&b, &sent, 0, Act::Resume, 3)
    };
    assert!(
        matches!(b.store.operate(early).await, Err(StoreError::Stale)),
        "nothing overtakes"
    );

    b.store
        .operate(operation(&b, &sent, 0, Act::Resume, 4))
        .await
        .unwrap();
    let mut order = Vec::new();
    for at in 5..8 {
        let head = b.head(FRESH, "mllp", at).await;
        order.push(head.token.delivery);
        b.attempt(
            &head,
            next(DeliveryState::Done, Evidence::ApplicationAck),
            at,
        )
        .await;
    }
    assert_eq!(order, [sent.deliveries[0], other.deliveries[0], amend]);
    assert!(b.store.alarms(OpenOnly::Yes, 10).await.unwrap().is_empty());
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn resumed_message_goes_before_what_its_referral_sent_after_it() {
    let Some(b) = bench().await else { return };
    // Its number in the lane is 2; the lane then ends and is made again.
    let first = b.send("1", &["mllp"]).await;
    let sent = b.send("1", &["mllp"]).await;
    b.store
        .operate(operation(&b, &sent, 0, Act::Park(ParkReason::Operator), 1))
        .await
        .unwrap();
    let head = b.head(FRESH, "mllp", 1).await;
    assert_eq!(head.token.delivery, first.deliveries[0]);
    b.attempt(
        &head,
        next(DeliveryState::Done, Evidence::ApplicationAck),
        2,
    )
    .await;
    assert_eq!(b.number("SELECT COUNT(*) FROM lane").await, 0);
    let cancel = b.follow_up(&sent, 1, (Kind::Cancel, "mllp"), ms(3)).await;
    b.store
        .operate(operation(&b, &sent, 0, Act::Resume, 4))
        .await
        .unwrap();
    let head = b.head(FRESH, "mllp", 5).await;
    assert_eq!(head.token.delivery, sent.deliveries[0]);
    b.attempt(
        &head,
        next(DeliveryState::Done, Evidence::ApplicationAck),
        6,
    )
    .await;
    assert_eq!(b.head(FRESH, "mllp", 7).await.token.delivery, cancel);
}

#[tokio::test]
async fn an_open_attempt_cannot_be_parked_and_a_leased_head_can() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let leased = b.head(FRESH, "mllp", 0).await;
    b.store
        .operate(operation(&b, &sent, 0, Act::Park(ParkReason::Operator), 1))
        .await
        .unwrap();
    assert!(matches!(
        b.open(&leased, 2).await,
        Err(StoreError::LeaseLost)
    ));
    b.store
        .operate(operation(&b, &sent, 0, Act::Resume, 3))
        .await
        .unwrap();
    assert!(
        matches!(b.open(&leased, 4).await, Err(StoreError::LeaseLost)),
        "an old lease"
    );
    let leased = b.head(FRESH, "mllp", 4).await;
    b.open(&leased, 5).await.unwrap();
    let park = b
        .store
        .operate(operation(&b, &sent, 0, Act::Park(ParkReason::Operator), 6))
        .await;
    assert!(matches!(park, Err(StoreError::Stale)));
    let resume = b
        .store
        .operate(operation(&b, &sent, 0, Act::Resume, 6))
        .await;
    assert!(matches!(resume, Err(StoreError::Stale)));
}

#[tokio::test]
async fn attempt_of_unknown_end_is_resumed_as_unknown() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let leased = b.head(FRESH, "mllp", 0).await;
    b.open(&leased, 1).await.unwrap();
    let mut close = b.closing(&leased, 1, due(DeliveryState::Unknown, 10), 2);
    close.outcome = "unknown";
    b.store.close_attempt(close).await.unwrap();
    b.store
        .operate(operation(&b, &sent, 0, Act::Park(ParkReason::Operator), 3))
        .await
        .unwrap();
    b.store
        .operate(operation(&b, &sent, 0, Act::Resume, 4))
        .await
        .unwrap();
    assert_eq!(b.head(RETRY, "mllp", 5).await.state, DeliveryState::Unknown);
}

#[tokio::test]
async fn lane_waits_for_the_evidence_that_its_endpoint_names() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let behind = b.send("1", &["mllp"]).await;
    let leased = b.head(FRESH, "mllp", 0).await;
    b.open(&leased, 1).await.unwrap();
    let wait = next(DeliveryState::AwaitingEvidence, Evidence::TransportAck);
    let mut close = b.closing(&leased, 1, wait, 2);
    close.evidence_due = Some(ms(1_000));
    b.store.close_attempt(close).await.unwrap();
    for class in [FRESH, RETRY] {
        assert!(b.lease(class, "mllp", 999_999).await.is_empty());
    }
    assert!(b.store.overdue(ms(999), &[], 10).await.unwrap().is_empty());
    let told = b.store.overdue(ms(1_000), &[], 10).await.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].kind, AlarmKind::EvidenceOverdue);
    assert!(b.store.raise_alarm(&told[0], ms(1_000)).await.unwrap());
    assert!(
        b.store
            .overdue(ms(2_000), &[], 10)
            .await
            .unwrap()
            .is_empty(),
        "told once"
    );

    b.store
        .raise_evidence(raise(&b, &sent, Evidence::Sent, 3))
        .await
        .unwrap();
    let view = b.store.delivery(sent.deliveries[0]).await.unwrap().unwrap();
    assert_eq!(view.evidence, Evidence::TransportAck, "never worse");
    assert_eq!(view.receiver_reference.as_deref(), Some("FAR-1"));
    b.store
        .raise_evidence(raise(&b, &sent, Evidence::ApplicationAck, 4))
        .await
        .unwrap();
    assert_eq!(b.state(sent.deliveries[0]).await, DeliveryState::Done);
    assert!(b.store.alarms(OpenOnly::Yes, 10).await.unwrap().is_empty());
    assert_eq!(
        b.head(FRESH, "mllp", 5).await.token.delivery,
        behind.deliveries[0]
    );
    b.store
        .raise_evidence(raise(&b, &sent, Evidence::HumanAcceptance, 6))
        .await
        .unwrap();
    let view = b.store.delivery(sent.deliveries[0]).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.evidence),
        (DeliveryState::Done, Evidence::HumanAcceptance)
    );
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn evidence_that_overtakes_the_answer_ends_the_delivery_once() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["webhook"]).await;
    let leased = b.head(FRESH, "webhook", 0).await;
    b.open(&leased, 1).await.unwrap();
    b.store
        .raise_evidence(raise(&b, &sent, Evidence::ApplicationAck, 2))
        .await
        .unwrap();
    assert_eq!(b.state(sent.deliveries[0]).await, DeliveryState::Done);
    let wait = next(DeliveryState::AwaitingEvidence, Evidence::TransportAck);
    let late = b.store.close_attempt(b.closing(&leased, 1, wait, 3)).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)));
    let view = b.store.delivery(sent.deliveries[0]).await.unwrap().unwrap();
    assert_eq!(view.attempts[0].outcome.as_deref(), Some("evidence"));
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn evidence_without_an_attempt_sends_the_message_all_the_same() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["webhook"]).await;
    b.store
        .raise_evidence(raise(&b, &sent, Evidence::SignedReceipt, 1))
        .await
        .unwrap();
    let leased = b.head(FRESH, "webhook", 2).await;
    assert_eq!(
        (leased.state, leased.evidence),
        (DeliveryState::Queued, Evidence::SignedReceipt)
    );
}

#[tokio::test]
async fn entries_of_moves_reach_the_log() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    b.follow_up(&sent, 1, (Kind::Amend, "mllp"), ms(1)).await;
    let park = operation(&b, &sent, 0, Act::Park(ParkReason::Operator), 2);
    let event = park.entry.event;
    b.store.operate(park).await.unwrap();
    assert!(b.store.entry_of(event).await.unwrap().is_some());
    // Accept, amend, park, and the amendment that was parked behind.
    assert_eq!(b.store.outbox(ms(10)).await.unwrap(), (4, 10));
}

#[tokio::test]
async fn a_delivery_that_did_not_arrive_after_all_is_parked_and_its_sender_told_at_once() {
    let Some(b) = bench().await else { return };
    for back in ["a-return", "z-return"] {
        let sent = b.send("1", &["mesh"]).await;
        let head = b.head(FRESH, "mesh", 1).await;
        let waiting = next(DeliveryState::AwaitingEvidence, Evidence::Sent);
        b.attempt(&head, waiting, 1).await;
        let note = b.body(b"{}");
        let mut tell = b.delivery(Kind::Status, back, None);
        tell.note = Some(note.id);
        let lost = Operation {
            tell: Some((note, tell.clone())),
            ..operation(&b, &sent, 0, Act::Park(ParkReason::Exhausted), 2)
        };
        b.store.operate(lost).await.unwrap();
        let view = b.store.delivery(sent.deliveries[0]).await.unwrap().unwrap();
        assert_eq!(view.parked, Some(ParkReason::Exhausted));
        assert_eq!(b.state(tell.id).await, DeliveryState::Queued);
        assert_eq!(b.faults().await, []);
    }
}

#[tokio::test]
async fn news_that_parked_a_delivery_is_a_repeat_afterwards_and_parks_what_was_resumed_anew() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let news = MessageKey {
        sender: "R1L".parse().unwrap(),
        key: "undelivered:1".to_owned().into(),
        content: Payload::new(b"refused".to_vec()),
    };
    for at in [2, 10] {
        let lost = Operation {
            message_key: Some(news.clone()),
            ..operation(&b, &sent, 0, Act::Park(ParkReason::Refused), at)
        };
        b.store.operate(lost).await.unwrap();
        assert_eq!(b.state(sent.deliveries[0]).await, DeliveryState::Parked);
        let again = ReferralChange {
            message_key: Some(news.clone()),
            ..b.no_change(&sent, 1, ms(at + 1))
        };
        assert!(b.store.change(again).await.unwrap().repeated);
        let resume = operation(&b, &sent, 0, Act::Resume, at + 2);
        b.store.operate(resume).await.unwrap();
    }
    // A park that did not happen leaves no key behind.
    let late = Operation {
        message_key: Some(MessageKey {
            key: "undelivered:2".to_owned().into(),
            ..news.clone()
        }),
        ..operation(&b, &sent, 0, Act::Park(ParkReason::Refused), 20)
    };
    let head = b.head(FRESH, "mllp", 15).await;
    let done = next(DeliveryState::Done, Evidence::ApplicationAck);
    b.attempt(&head, done, 15).await;
    let key = late.message_key.clone();
    assert!(matches!(
        b.store.operate(late).await,
        Err(StoreError::Stale)
    ));
    let first = ReferralChange {
        message_key: key,
        ..b.no_change(&sent, 1, ms(21))
    };
    assert!(!b.store.change(first).await.unwrap().repeated);
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn what_was_sent_and_may_have_news_is_paged_newest_first() {
    let Some(b) = bench().await else { return };
    let ends = [
        Some(next(DeliveryState::Done, Evidence::ApplicationAck)),
        Some(next(DeliveryState::AwaitingEvidence, Evidence::Sent)),
        Some(next(DeliveryState::Rejected, Evidence::Sent)),
        None,
    ];
    let mut made = Vec::new();
    let mut referrals = Vec::new();
    for (child, end) in ["1", "2", "3", "4"].into_iter().zip(ends) {
        let sent = b.send(child, &["mesh"]).await;
        made.push(sent.deliveries[0]);
        referrals.push(sent);
        if let Some(end) = end {
            let head = b.head(FRESH, "mesh", 1).await;
            b.attempt(&head, end, 1).await;
        }
    }
    let endpoint = "mesh".parse().unwrap();
    let all = b
        .store
        .sent(&endpoint, AsksAfter::Cases, None, 10)
        .await
        .unwrap();
    let ids: Vec<DeliveryId> = all.sent.iter().map(|sent| sent.delivery).collect();
    // Done with an open leg, and awaiting evidence; neither what was refused nor what was never sent.
    assert_eq!((ids, all.next), (vec![made[1], made[0]], None));
    let mut paged = Vec::new();
    let mut cursor = None;
    loop {
        let page = b.store.sent(&endpoint, AsksAfter::Cases, cursor, 1);
        let page = page.await.unwrap();
        paged.extend(page.sent.iter().map(|sent| sent.delivery));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, [made[1], made[0]]);
    let other = b
        .store
        .sent(&"mllp".parse().unwrap(), AsksAfter::Cases, None, 10)
        .await
        .unwrap();
    assert!(other.sent.is_empty(), "of another endpoint");
    // What is closed has no news any more, and has again once it is open.
    for (version, state, cases) in [(1, LegState::Closed, 1), (2, LegState::OnHold, 2)] {
        b.move_leg(&referrals[0], version, state).await;
        let page = b.store.sent(&endpoint, AsksAfter::Cases, None, 10);
        assert_eq!(page.await.unwrap().sent.len(), cases, "{state:?}");
    }
    let awaiting = b.store.sent(&endpoint, AsksAfter::Evidence, None, 10);
    assert_eq!(awaiting.await.unwrap().sent.len(), 1, "evidence alone");
    let none = b.store.sent(&endpoint, AsksAfter::Nothing, None, 10);
    assert_eq!(none.await.unwrap(), SentPage::default());
}

#[tokio::test]
async fn an_amendment_waits_behind_what_is_parked_whichever_came_first_and_goes_with_it_in_order() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp", "mesh"]).await;
    let before = b.follow_up(&sent, 1, (Kind::Amend, "mllp"), ms(1)).await;
    b.store
        .operate(operation(&b, &sent, 0, Act::Park(ParkReason::Operator), 2))
        .await
        .unwrap();
    // Behind the parked head, and behind one that waits behind it.
    let after = b.follow_up(&sent, 2, (Kind::Amend, "mllp"), ms(3)).await;
    let last = b.follow_up(&sent, 3, (Kind::Amend, "mllp"), ms(3)).await;
    for amendment in [before, after, last] {
        let view = b.store.delivery(amendment).await.unwrap().unwrap();
        assert_eq!(
            (view.state, view.parked),
            (DeliveryState::Parked, Some(ParkReason::Behind))
        );
    }
    assert!(
        b.lease(FRESH, "mllp", 4).await.is_empty(),
        "nothing overtakes"
    );
    assert_eq!(b.store.alarms(OpenOnly::Yes, 10).await.unwrap().len(), 4);
    assert_eq!(b.faults().await, []);

    b.store
        .operate(operation(&b, &sent, 0, Act::Resume, 5))
        .await
        .unwrap();
    let mut order = Vec::new();
    // What comes after the resume goes behind all of them.
    let new = b.follow_up(&sent, 4, (Kind::Amend, "mllp"), ms(6)).await;
    for at in 6..11 {
        let head = b.head(FRESH, "mllp", at).await;
        order.push(head.token.delivery);
        b.attempt(
            &head,
            next(DeliveryState::Done, Evidence::ApplicationAck),
            at,
        )
        .await;
    }
    assert_eq!(order, [sent.deliveries[0], before, after, last, new]);
    assert!(b.store.alarms(OpenOnly::Yes, 10).await.unwrap().is_empty());
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn an_amendment_never_takes_the_place_of_what_was_parked_after_it_was_decided_on() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let fresh = NewDelivery {
        replaces: Some(sent.deliveries[0]),
        ..b.delivery(Kind::New, "mllp", sent.legs.first().copied())
    };
    let mut change = b.no_change(&sent, 1, ms(2));
    change.event.kind = EventKind::Amended;
    change.supersede = vec![sent.deliveries[0]];
    change.deliveries = vec![fresh];
    b.store
        .operate(operation(&b, &sent, 0, Act::Park(ParkReason::Operator), 1))
        .await
        .unwrap();
    assert!(matches!(
        b.store.change(change).await,
        Err(StoreError::Stale)
    ));
    assert_eq!(b.state(sent.deliveries[0]).await, DeliveryState::Parked);
}

#[tokio::test]
async fn an_amendment_takes_the_place_of_what_its_content_alone_had_parked() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let head = b.head(FRESH, "mllp", 1).await;
    let parked = Next {
        parked: Some(ParkReason::CannotCarry),
        ..next(DeliveryState::Parked, Evidence::None)
    };
    let end = CloseAttempt {
        alarms: vec![alarm(AlarmKind::Parked, &sent.deliveries[0])],
        ..b.closing(&head, 0, parked, 2)
    };
    b.store.close_attempt(end).await.unwrap();
    let seen = b.store.referral(sent.referral).await.unwrap().unwrap();
    assert_eq!(seen.deliveries[0].parked, Some(ParkReason::CannotCarry));
    let fresh = NewDelivery {
        replaces: Some(sent.deliveries[0]),
        ..b.delivery(Kind::New, "mllp", sent.legs.first().copied())
    };
    let id = fresh.id;
    let mut change = b.no_change(&sent, 1, ms(3));
    change.event.kind = EventKind::Amended;
    change.supersede = vec![sent.deliveries[0]];
    change.resolve = vec![(AlarmKind::Parked, sent.deliveries[0].to_string())];
    change.deliveries = vec![fresh];
    b.store.change(change).await.unwrap();
    assert_eq!(b.head(FRESH, "mllp", 4).await.token.delivery, id);
    assert!(b.store.alarms(OpenOnly::Yes, 10).await.unwrap().is_empty());
    assert_eq!(b.faults().await, []);
}
