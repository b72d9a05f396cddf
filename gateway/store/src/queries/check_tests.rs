//! What the check finds, and what upkeep, alarms and directory releases promise.

use futures::future::join_all;
use waymark_core::alarm::AlarmKind;
use waymark_core::audit::EntryKind;
use waymark_core::delivery::{DeliveryState, Evidence, Kind};
use waymark_core::id::StreamId;
use waymark_core::leg::LegState;
use waymark_core::port::{
    DeliveryQuery, DeliveryStore as _, DirectoryStore as _, LogStore as _, NewRelease, OpenOnly,
    StoreError, UpkeepStore as _, WorkClass,
};
use waymark_tlog::note::SigningKey;

use super::fixture::{Bench, alarm, bench, ms, next};
use super::upkeep::{MESSAGE_KEY_DAYS, PRUNE_ROWS};

/// A referral that was attempted once and waits, and one whose entry is in the log.
async fn at_work() -> Option<Bench> {
    let b = bench().await?;
    b.send("1", &["mllp"]).await;
    let key = SigningKey::from_seed("waymark.test/delivery/2026", [9; 32]).unwrap();
    b.store.sequence(&key, 100, ms(1)).await.unwrap();
    b.send("2", &["mesh"]).await;
    let head = b.head(WorkClass::Fresh, "mesh", 2).await;
    b.open(&head, 3).await.unwrap();
    let wait = next(DeliveryState::AwaitingEvidence, Evidence::Sent);
    b.store
        .close_attempt(b.closing(&head, 1, wait, 4))
        .await
        .unwrap();
    let mut unrouted = b.draft("3", &["none"]);
    unrouted.deliveries.clear();
    unrouted.alarms = vec![alarm(AlarmKind::Unrouted, &unrouted.legs[0].id)];
    b.accept(unrouted).await;
    Some(b)
}

#[tokio::test]
async fn each_row_deleted_by_hand_is_a_fault() {
    let Some(b) = at_work().await else { return };
    assert_eq!(b.faults().await, [], "nothing is wrong before");
    let harms = [
        ("referral", "referral_missing"),
        ("leg", "leg_missing"),
        ("delivery", "delivery_missing"),
        ("lane", "delivery_without_lane"),
        ("wire", "wire_missing"),
        ("attempt", "attempt_missing"),
        ("event", "accept_event_missing"),
        ("subject", "subject_missing"),
        ("log_stream", "stream_missing"),
        ("log_outbox", "accept_entry_missing"),
        ("log_event", "accept_entry_missing"),
        ("log_entry", "accept_entry_missing"),
        ("body", "content_missing"),
        ("reference", "reference_missing"),
        ("alarm", "leg_without_work"),
    ];
    for (table, rule) in harms {
        b.run(&format!("CREATE TABLE kept AS SELECT * FROM {table}"))
            .await;
        assert!(b.run(&format!("DELETE FROM {table}")).await > 0, "{table}");
        let faults = b.faults().await;
        assert!(
            faults.iter().any(|fault| fault.rule == rule),
            "{table}: {faults:?}"
        );
        let overriding = if table == "log_outbox" && b.is_postgres() {
            "OVERRIDING SYSTEM VALUE"
        } else {
            ""
        };
        b.run(&format!(
            "INSERT INTO {table} {overriding} SELECT * FROM kept"
        ))
        .await;
        b.run("DROP TABLE kept").await;
        assert_eq!(b.faults().await, [], "{table} is whole again");
    }
}

#[tokio::test]
async fn each_kind_of_lost_body_is_a_fault() {
    let kinds = [
        ("SELECT content_body FROM referral", "content_missing"),
        (
            "SELECT rendered_body FROM delivery",
            "delivery_body_missing",
        ),
        ("SELECT receipt_body FROM attempt", "receipt_missing"),
        ("SELECT text_body FROM event", "event_body_missing"),
    ];
    for (bodies, rule) in kinds {
        let Some(b) = bench().await else { return };
        b.send("1", &["mllp"]).await;
        let head = b.head(WorkClass::Fresh, "mllp", 0).await;
        b.open(&head, 1).await.unwrap();
        let end = next(DeliveryState::Done, Evidence::SignedReceipt);
        let mut close = b.closing(&head, 1, end, 2);
        let receipt = b.body(b"receipt");
        let mut event = b.event(close.entry.event, Some(head.token.delivery));
        let note = b.body(b"{}");
        event.text = Some(note.id);
        close.event = Some(event);
        close.receipt = Some(receipt);
        close.tell = Some((note, b.delivery(Kind::Status, "back", None)));
        b.store.close_attempt(close).await.unwrap();
        assert_eq!(b.faults().await, [], "{rule}");
        let lost = format!("DELETE FROM body WHERE id IN ({bodies})");
        assert_eq!(b.run(&lost).await, 1, "{rule}");
        let faults = b.faults().await;
        assert!(
            faults.iter().any(|fault| fault.rule == rule),
            "{rule}: {faults:?}"
        );
    }
}

#[tokio::test]
async fn lost_counter_is_a_fault() {
    let Some(b) = at_work().await else { return };
    assert!(b.run("DELETE FROM counter WHERE name = 'referrals'").await > 0);
    assert!(
        b.faults()
            .await
            .iter()
            .any(|f| f.rule == "referral_missing")
    );
}

#[tokio::test]
async fn lane_that_is_never_due_or_has_a_finished_head_is_a_fault() {
    for harm in [
        "UPDATE lane SET due_ms = NULL WHERE endpoint_id = 'mllp'",
        "UPDATE lane SET head_id = (SELECT id FROM delivery WHERE state = 'done') WHERE endpoint_id = 'mllp'",
    ] {
        let Some(b) = bench().await else { return };
        b.send("1", &["mesh"]).await;
        let head = b.head(WorkClass::Fresh, "mesh", 0).await;
        b.attempt(
            &head,
            next(DeliveryState::Done, Evidence::ApplicationAck),
            1,
        )
        .await;
        b.send("1", &["mllp"]).await;
        assert_eq!(b.faults().await, []);
        assert_eq!(b.run(harm).await, 1);
        let faults = b.faults().await;
        assert!(
            faults.iter().any(|f| f.rule == "delivery_without_lane"),
            "{harm}: {faults:?}"
        );
    }
}

#[tokio::test]
async fn leg_whose_message_ended_unsent_needs_somebody_who_was_told() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let head = b.head(WorkClass::Fresh, "mllp", 0).await;
    b.open(&head, 1).await.unwrap();
    let end = next(DeliveryState::Rejected, Evidence::Sent);
    let mut close = b.closing(&head, 1, end, 2);
    close.alarms = vec![alarm(AlarmKind::Rejected, &sent.deliveries[0])];
    b.store.close_attempt(close).await.unwrap();
    assert_eq!(b.faults().await, [], "its owner was told");
    let subject = sent.deliveries[0].to_string();
    b.store
        .resolve_alarm(AlarmKind::Rejected, &subject, ms(3))
        .await
        .unwrap();
    let faults = b.faults().await;
    assert_eq!(
        faults.iter().map(|f| f.rule).collect::<Vec<_>>(),
        ["leg_without_work"]
    );
    assert_eq!(faults[0].detail, sent.legs[0].to_string());
    b.move_leg(&sent, 1, LegState::Cancelled).await;
    assert_eq!(b.faults().await, [], "an ended leg needs nothing");
}

#[tokio::test]
async fn leg_whose_message_arrived_waits_under_its_clock() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    let head = b.head(WorkClass::Fresh, "mllp", 0).await;
    b.attempt(
        &head,
        next(DeliveryState::Done, Evidence::ApplicationAck),
        1,
    )
    .await;
    assert_eq!(b.faults().await, []);
    b.move_leg(&sent, 1, LegState::InTriage).await;
    assert_eq!(b.faults().await, []);
    b.run("UPDATE leg SET next_action = NULL").await;
    assert_eq!(
        b.faults().await.iter().map(|f| f.rule).collect::<Vec<_>>(),
        ["leg_without_owner"]
    );
}

#[tokio::test]
async fn parked_delivery_without_an_open_alarm_is_a_fault() {
    let Some(b) = bench().await else { return };
    let sent = b.send("1", &["mllp"]).await;
    b.move_leg(&sent, 1, LegState::InTriage).await;
    let head = b.head(WorkClass::Fresh, "mllp", 0).await;
    b.attempt(&head, next(DeliveryState::Parked, Evidence::None), 1)
        .await;
    let rules: Vec<_> = b.faults().await.into_iter().map(|f| f.rule).collect();
    assert_eq!(rules, ["parked_without_alarm"]);
    b.store
        .raise_alarm(&alarm(AlarmKind::Parked, &sent.deliveries[0]), ms(2))
        .await
        .unwrap();
    assert_eq!(b.faults().await, []);
}

#[tokio::test]
async fn alarm_is_open_once_and_listed_before_resolved_ones() {
    let Some(b) = bench().await else { return };
    let down = alarm(AlarmKind::EndpointDown, &"mllp");
    assert!(b.store.raise_alarm(&down, ms(1)).await.unwrap());
    assert!(!b.store.raise_alarm(&down, ms(2)).await.unwrap());
    b.store
        .resolve_alarm(down.kind, "mllp", ms(3))
        .await
        .unwrap();
    assert!(b.store.raise_alarm(&down, ms(4)).await.unwrap());
    b.store
        .resolve_alarm(down.kind, "mllp", ms(5))
        .await
        .unwrap();
    let standing = alarm(AlarmKind::NetworkIdentity, &"mllp");
    b.store.raise_alarm(&standing, ms(0)).await.unwrap();
    let all = b.store.alarms(OpenOnly::No, 10).await.unwrap();
    let shown: Vec<_> = all
        .iter()
        .map(|a| (a.alarm.kind, a.opened, a.resolved))
        .collect();
    assert_eq!(
        shown,
        [
            (AlarmKind::NetworkIdentity, ms(0), None),
            (AlarmKind::EndpointDown, ms(4), Some(ms(5))),
            (AlarmKind::EndpointDown, ms(1), Some(ms(3))),
        ]
    );
    assert_eq!(b.store.alarms(OpenOnly::Yes, 10).await.unwrap().len(), 1);
    assert_eq!(b.store.alarms(OpenOnly::No, 2).await.unwrap().len(), 2);
}

#[tokio::test]
async fn backlog_and_outbox_tell_depth_and_age() {
    let Some(b) = bench().await else { return };
    assert_eq!(b.store.outbox(ms(5)).await.unwrap(), (0, 0));
    for child in ["1", "2", "2"] {
        b.send(child, &["mllp"]).await;
    }
    b.send("1", &["mesh"]).await;
    let backlog = b.store.backlog().await.unwrap();
    let shown: Vec<_> = backlog
        .iter()
        .map(|e| (e.endpoint.as_str(), e.lanes, e.oldest))
        .collect();
    assert_eq!(shown, [("mesh", 1, ms(0)), ("mllp", 2, ms(0))]);
    assert_eq!(b.store.outbox(ms(250)).await.unwrap(), (4, 250));
    b.store.ping().await.unwrap();
}

#[tokio::test]
async fn deliveries_are_listed_oldest_first_by_page_and_filter() {
    let Some(b) = bench().await else { return };
    let mut all = Vec::new();
    for child in ["1", "2", "3"] {
        let sent = b.send(child, &["mllp", "mesh"]).await;
        all.extend(sent.deliveries);
    }
    let list = |query: DeliveryQuery| {
        let b = &b;
        async move {
            let views = b.store.deliveries(&query).await.unwrap();
            views
                .into_iter()
                .map(|view| view.delivery.id)
                .collect::<Vec<_>>()
        }
    };
    let query = DeliveryQuery {
        limit: 4,
        ..DeliveryQuery::default()
    };
    assert_eq!(list(query.clone()).await, all[..4]);
    let after = Some(all[3]);
    assert_eq!(
        list(DeliveryQuery {
            after,
            ..query.clone()
        })
        .await,
        all[4..]
    );
    let endpoint = Some("mesh".parse().unwrap());
    assert_eq!(
        list(DeliveryQuery {
            endpoint,
            ..query.clone()
        })
        .await,
        [all[1], all[3], all[5]]
    );
    let lane = b.store.delivery(all[2]).await.unwrap().unwrap().lane;
    let (of_lane, state) = (Some(lane), Some(DeliveryState::Queued));
    let in_lane = DeliveryQuery {
        lane: of_lane,
        state,
        ..query.clone()
    };
    assert_eq!(list(in_lane).await, [all[2]], "one child at one endpoint");
    let none = Some("mllp:00112233445566778899aabbccddeeff".parse().unwrap());
    let unknown = DeliveryQuery {
        lane: none,
        ..query.clone()
    };
    assert!(list(unknown).await.is_empty());
    let state = Some(DeliveryState::Done);
    assert!(list(DeliveryQuery { state, ..query }).await.is_empty());
    let view = b.store.delivery(all[0]).await.unwrap().unwrap();
    assert_eq!(view.next_attempt, Some(ms(0)));
    assert_eq!(view.sender.as_str(), "EE100001");
}

#[tokio::test]
async fn message_keys_are_pruned_past_their_window_alone() {
    let Some(b) = bench().await else { return };
    for child in ["1", "2"] {
        b.send(child, &["mllp"]).await;
    }
    let day = 24 * 60 * 60 * 1_000;
    let edge = ms(MESSAGE_KEY_DAYS * day);
    b.store.upkeep(edge).await.unwrap();
    assert_eq!(b.number("SELECT COUNT(*) FROM message_key").await, 2);
    let more = (0..=PRUNE_ROWS).map(|n| format!("('{n:064}', '', '', '', 0)"));
    let more: Vec<String> = more.collect();
    let mut more = more.join(", ");
    if !b.is_postgres() {
        // STRICT takes blobs alone.
        more = more.replace("('", "(X'").replace(" ''", " X''");
    }
    b.run(&format!("INSERT INTO message_key VALUES {more}"))
        .await;
    b.store.upkeep(edge).await.unwrap();
    assert_eq!(
        b.number("SELECT COUNT(*) FROM message_key").await,
        2,
        "more than one batch"
    );
    b.store
        .upkeep(ms(MESSAGE_KEY_DAYS * day + 1))
        .await
        .unwrap();
    assert_eq!(b.number("SELECT COUNT(*) FROM message_key").await, 0);
}

#[tokio::test]
async fn rows_go_to_the_partition_of_their_month() {
    let Some(b) = bench().await else { return };
    if !b.is_postgres() {
        return;
    }
    at_work_in(&b).await;
    for table in [
        "body",
        "referral",
        "leg",
        "delivery",
        "attempt",
        "event",
        "log_entry",
    ] {
        assert_eq!(
            b.number(&format!("SELECT COUNT(*) FROM {table}_default"))
                .await,
            0,
            "{table}"
        );
        assert!(
            b.number(&format!("SELECT COUNT(*) FROM {table}")).await > 0,
            "{table}"
        );
    }
    assert!(b.number("SELECT COUNT(*) FROM delivery_202611").await > 0);
    assert_eq!(b.number("SELECT COUNT(*) FROM delivery_202701").await, 0);
    // A month whose rows came first: upkeep goes on, and makes the next months.
    let late = ms(200 * 24 * 60 * 60 * 1_000);
    b.run("INSERT INTO status_key VALUES ('a', 'b', 1)").await;
    b.run("INSERT INTO attempt SELECT decode('0ffe4d4d4d4d', 'hex'), number, opened_ms, closed_ms, outcome, why_code,
        why_text, evidence, receipt_body FROM attempt LIMIT 1").await;
    b.store.upkeep(late).await.unwrap();
    assert_eq!(b.number("SELECT COUNT(*) FROM delivery_202706").await, 0);
}

async fn at_work_in(b: &Bench) {
    b.send("1", &["mllp"]).await;
    let head = b.head(WorkClass::Fresh, "mllp", 2).await;
    b.attempt(
        &head,
        next(DeliveryState::Done, Evidence::ApplicationAck),
        3,
    )
    .await;
    let key = SigningKey::from_seed("waymark.test/delivery/2026", [9; 32]).unwrap();
    b.store.sequence(&key, 100, ms(1)).await.unwrap();
}

fn release(b: &Bench, expected: Option<u64>, note: &str) -> NewRelease {
    NewRelease {
        expected,
        bundle: format!("bundle of {note}"),
        sha256: "00".repeat(32),
        at: ms(1),
        by: "area admin".to_owned(),
        note: note.to_owned(),
        entry: b.entry(EntryKind::AdminAction, StreamId::from_bytes([5; 16]), ms(1)),
    }
}

#[tokio::test]
async fn release_is_made_on_the_newest_alone() {
    let Some(b) = bench().await else { return };
    assert_eq!(b.store.latest_release_number().await.unwrap(), None);
    assert_eq!(
        b.store
            .apply_release(release(&b, None, "one"))
            .await
            .unwrap(),
        1
    );
    let stale = b.store.apply_release(release(&b, None, "other")).await;
    assert!(matches!(stale, Err(StoreError::Stale)));
    assert_eq!(
        b.store
            .apply_release(release(&b, Some(1), "two"))
            .await
            .unwrap(),
        2
    );
    let rivals = ["a", "b", "c"].map(|note| b.store.apply_release(release(&b, Some(2), note)));
    let made = join_all(rivals).await;
    assert_eq!(made.iter().filter(|r| matches!(r, Ok(3))).count(), 1);
    assert_eq!(
        made.iter()
            .filter(|r| matches!(r, Err(StoreError::Stale)))
            .count(),
        2
    );
    assert_eq!(b.store.latest_release().await.unwrap().unwrap().number, 3);
    let list = b.store.releases(2).await.unwrap();
    let shown: Vec<_> = list.iter().map(|r| (r.number, r.bundle.as_str())).collect();
    assert_eq!(shown, [(3, ""), (2, "")]);
    let two = b.store.release_by_number(2).await.unwrap().unwrap();
    assert_eq!(
        (two.note.as_str(), two.bundle.as_str()),
        ("two", "bundle of two")
    );
    assert!(b.store.release_by_number(9).await.unwrap().is_none());
    assert_eq!(
        b.store.outbox(ms(1)).await.unwrap().0,
        3,
        "one entry a release"
    );
}
