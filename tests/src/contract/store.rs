//! What both stores must do.

#![expect(
    clippy::missing_panics_doc,
    reason = "a contract test fails by panicking"
)]

use std::sync::Arc;

use waymark_core::delivery::{DeliveryState, Evidence, Kind};
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    Accept, Accepted, ConflictKey, LeaseAsk, Leased, ReferralKey, Store, StoreError, SubjectKey,
    WorkClass,
};
use waymark_tlog::note::SigningKey;

use crate::build::{Maker, agency, sender_reference};

mod upkeep;

pub use upkeep::*;

/// The store under test.
pub type Subject = Arc<dyn Store>;

fn key() -> SigningKey {
    SigningKey::from_seed("waymark.test/southmere/delivery", [3; 32])
        .expect("a fixed origin is a log's name")
}

async fn lease_one(store: &Subject, make: &mut Maker, endpoint: &str, class: WorkClass) -> Leased {
    let ask = make.ask(endpoint, class, 1);
    let mut leased = store.lease(&ask).await.expect("lease");
    assert_eq!(leased.len(), 1, "one head of {endpoint} is due");
    leased.remove(0)
}

async fn deliver(store: &Subject, make: &mut Maker, leased: &Leased, state: DeliveryState) {
    let open = make.open(leased, "bytes");
    store.open_attempt(open).await.expect("open");
    let due = (state == DeliveryState::RetryWait).then_some(make.now);
    let close = make.close(leased, state, Evidence::ApplicationAck, due);
    store.close_attempt(close).await.expect("close");
}

fn accepts_conflict(result: &Result<Accepted, StoreError>, key: ConflictKey) -> bool {
    matches!(result, Err(StoreError::Conflict { key: k, .. }) if *k == key)
}

/// The same message again has the same receipt: same referral, event and leaf.
pub async fn the_same_message_again_has_the_same_receipt(store: Subject) {
    let mut make = Maker::default();
    let first = store
        .accept(make.accept("k1", "content", &["e1"]))
        .await
        .expect("accept");
    make.later(5);
    let again = store
        .accept(make.accept("k1", "content", &["e1"]))
        .await
        .expect("repeat");
    assert!(!first.repeated && again.repeated);
    assert_eq!(
        (first.referral, first.event, first.leaf),
        (again.referral, again.event, again.leaf)
    );
    assert_eq!(
        (first.entry, first.openings, first.legs),
        (again.entry, again.openings, again.legs)
    );
    assert_eq!(store.counters().await.expect("counters").referrals, 1);
}

/// Another content under the same message key is refused, and nothing of it is kept.
pub async fn other_content_under_a_message_key_is_refused(store: Subject) {
    let mut make = Maker::default();
    let first = store
        .accept(make.accept("k1", "content", &["e1"]))
        .await
        .expect("accept");
    let other = make.accept("k1", "other", &["e1"]);
    let id = other.referral;
    let refused = store.accept(other).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { key: ConflictKey::Message, existing }) if existing == first.referral)
    );
    assert!(store.referral(id).await.expect("read").is_none());
}

/// A second new under one sender's reference is the first again when its content is, and refused when not.
pub async fn a_second_new_under_a_reference_is_refused_unless_the_same(store: Subject) {
    let mut make = Maker::default();
    let with = |mut accept: Accept, content: &str| {
        accept.sender_reference = Some((
            sender_reference("226839"),
            Payload::new(content.as_bytes().to_vec()),
        ));
        accept
    };
    let first = make.accept("k1", "one", &["e1"]);
    let first = store.accept(with(first, "one")).await.expect("accept");
    let same = make.accept("k2", "one", &["e1"]);
    let same = store
        .accept(with(same, "one"))
        .await
        .expect("the same content");
    assert!(same.repeated && same.referral == first.referral);
    let other = make.accept("k3", "two", &["e1"]);
    assert!(accepts_conflict(
        &store.accept(with(other, "two")).await,
        ConflictKey::Reference
    ));
    let found = store
        .resolve(&ReferralKey::Sender(
            agency("EE123456"),
            sender_reference("226839"),
        ))
        .await
        .expect("resolve");
    assert_eq!(found, Some(first.referral));
}

/// Duplicate, conflict, poison and good in one batch each get their own answer.
pub async fn each_item_of_a_batch_gets_its_own_answer(store: Subject) {
    let mut make = Maker::default();
    let original = store
        .accept(make.accept("dup", "d", &["e1"]))
        .await
        .expect("accept");
    let duplicate = make.accept("dup", "d", &["e1"]);
    let conflict = make.accept("dup", "x", &["e1"]);
    let mut poison = make.accept("poison", "p", &["e1"]);
    poison
        .deliveries
        .push(poison.deliveries.first().expect("one").clone());
    let (good, twin) = (
        make.accept("good", "g", &["e1", "e2"]),
        make.accept("good", "g", &["e1", "e2"]),
    );
    let other = make.accept("other", "o", &["e2"]);
    let (duplicate, conflict, poison, good, twin, other) = tokio::join!(
        store.accept(duplicate),
        store.accept(conflict),
        store.accept(poison),
        store.accept(good),
        store.accept(twin),
        store.accept(other),
    );
    assert_eq!(duplicate.expect("duplicate").event, original.event);
    assert!(accepts_conflict(&conflict, ConflictKey::Message));
    assert!(matches!(poison, Err(StoreError::Internal(_))), "{poison:?}");
    let (good, twin) = (good.expect("good"), twin.expect("twin"));
    assert_eq!(good.event, twin.event);
    assert!(
        good.repeated != twin.repeated,
        "one of two twins is the repeat"
    );
    assert!(!other.expect("other").repeated);
    let counters = store.counters().await.expect("counters");
    assert_eq!((counters.referrals, counters.deliveries), (3, 4));
}

/// A lane gives its head alone; another child's lane at the same endpoint is free.
pub async fn a_lane_gives_its_head_alone(store: Subject) {
    let mut make = Maker::default();
    let child = SubjectKey::NhsNumber(Personal::new("9434765870".to_owned()));
    let mut accept = |key: &str, subject: &SubjectKey| {
        let mut accept = make.accept(key, key, &["e1"]);
        accept.subject = subject.clone();
        make.later(1);
        accept
    };
    let (one, two, other) = (
        accept("1", &child),
        accept("2", &child),
        accept("3", &SubjectKey::New),
    );
    let first = one.deliveries.first().expect("one").id;
    let second = two.deliveries.first().expect("one").id;
    let free = other.deliveries.first().expect("one").id;
    for accept in [one, two, other] {
        store.accept(accept).await.expect("accept");
    }
    assert_eq!(
        store
            .due_endpoints(WorkClass::Fresh, make.now)
            .await
            .expect("due")
            .len(),
        1
    );
    let ask = make.ask("e1", WorkClass::Fresh, 10);
    let leased = store.lease(&ask).await.expect("lease");
    let ids: Vec<_> = leased.iter().map(|l| l.token.delivery).collect();
    assert!(
        ids.contains(&first) && ids.contains(&free) && !ids.contains(&second),
        "{ids:?}"
    );
    let ask = make.ask("e1", WorkClass::Fresh, 10);
    assert!(
        store.lease(&ask).await.expect("lease").is_empty(),
        "leased heads are nobody else's"
    );
    let head = leased
        .iter()
        .find(|l| l.token.delivery == first)
        .expect("the head");
    deliver(&store, &mut make, head, DeliveryState::Done).await;
    let next = lease_one(&store, &mut make, "e1", WorkClass::Fresh).await;
    assert_eq!(next.token.delivery, second);
}

/// Whoever asks for a service's work is given it and what is of no service, however much older work of others waits at the
/// endpoint.
pub async fn a_service_s_work_is_found_behind_that_of_others(store: Subject) {
    let mut make = Maker::default();
    let mut wanted = Vec::new();
    let services = ["a", "a", "a", "b", "c", ""];
    for (key, service) in ["1", "2", "3", "4", "5", "6"].into_iter().zip(services) {
        let mut accept = make.accept(key, key, &["e1"]);
        for delivery in &mut accept.deliveries {
            delivery.service = service.parse().ok();
            if ["b", ""].contains(&service) {
                wanted.push(delivery.id);
            }
        }
        store.accept(accept).await.expect("accept");
        make.later(1);
    }
    let mut of = |services: &[&str]| LeaseAsk {
        services: services.iter().map(|s| s.parse().expect("id")).collect(),
        ..make.ask("e1", WorkClass::Fresh, 2)
    };
    let (asks, rest) = ([of(&["b", "none"]), of(&["b"])], [of(&["a", "c"]), of(&[])]);
    let [first, again] = asks;
    let leased = store.lease(&first).await.expect("lease");
    let mut ids: Vec<_> = leased.iter().map(|one| one.token.delivery).collect();
    ids.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(ids, wanted);
    assert!(store.lease(&again).await.expect("lease").is_empty());
    for ask in &rest {
        assert_eq!(store.lease(ask).await.expect("lease").len(), 2);
    }
}

/// An expired lease is given to another worker, and the first one's fence is refused.
pub async fn an_expired_lease_is_given_to_another_and_fenced(store: Subject) {
    let mut make = Maker::default();
    store
        .accept(make.accept("1", "c", &["e1"]))
        .await
        .expect("accept");
    let first = lease_one(&store, &mut make, "e1", WorkClass::Fresh).await;
    let open = make.open(&first, "bytes");
    store.open_attempt(open).await.expect("open");
    make.later(21_000);
    let second = match store
        .lease(&make.ask("e1", WorkClass::Fresh, 1))
        .await
        .expect("lease")
        .pop()
    {
        Some(leased) => leased,
        None => lease_one(&store, &mut make, "e1", WorkClass::Retry).await,
    };
    assert_eq!(second.token.delivery, first.token.delivery);
    assert_eq!(
        (second.state, second.attempts, second.unfinished),
        (DeliveryState::Attempting, 1, 1)
    );
    let stale = make.close(&first, DeliveryState::Done, Evidence::ApplicationAck, None);
    assert!(matches!(
        store.close_attempt(stale).await,
        Err(StoreError::LeaseLost)
    ));
    let content = store.content(&second).await.expect("content");
    assert_eq!(
        content.rendered.expect("rendered once").bytes.expose(),
        b"bytes"
    );
    deliver(&store, &mut make, &second, DeliveryState::Done).await;
    let view = store
        .delivery(first.token.delivery)
        .await
        .expect("read")
        .expect("there");
    assert_eq!((view.state, view.attempts.len()), (DeliveryState::Done, 2));
}

/// A kept lease is not given away; a lost one is not kept.
pub async fn a_lease_is_kept_by_its_heartbeat(store: Subject) {
    let mut make = Maker::default();
    store
        .accept(make.accept("1", "c", &["e1"]))
        .await
        .expect("accept");
    let leased = lease_one(&store, &mut make, "e1", WorkClass::Fresh).await;
    let until = make.now.plus(std::time::Duration::from_mins(1));
    let kept = store
        .renew(std::slice::from_ref(&leased.token), until)
        .await
        .expect("renew");
    assert_eq!(kept, [leased.token.delivery]);
    make.later(21_000);
    assert!(
        store
            .lease(&make.ask("e1", WorkClass::Fresh, 1))
            .await
            .expect("lease")
            .is_empty()
    );
    make.later(60_000);
    let again = lease_one(&store, &mut make, "e1", WorkClass::Fresh).await;
    assert!(
        store
            .renew(std::slice::from_ref(&leased.token), make.now)
            .await
            .expect("renew")
            .is_empty()
    );
    assert!(again.token.fence > leased.token.fence);
}

/// A retrying head blocks its lane and waits among retried work.
pub async fn a_retrying_head_blocks_its_lane_among_retried_work(store: Subject) {
    let mut make = Maker::default();
    let child = SubjectKey::NhsNumber(Personal::new("9434765870".to_owned()));
    for key in ["1", "2"] {
        let mut accept = make.accept(key, key, &["e1"]);
        accept.subject = child.clone();
        make.later(1);
        store.accept(accept).await.expect("accept");
    }
    let head = lease_one(&store, &mut make, "e1", WorkClass::Fresh).await;
    deliver(&store, &mut make, &head, DeliveryState::RetryWait).await;
    assert!(
        store
            .due_endpoints(WorkClass::Fresh, make.now)
            .await
            .expect("due")
            .is_empty()
    );
    let again = lease_one(&store, &mut make, "e1", WorkClass::Retry).await;
    assert_eq!(again.token.delivery, head.token.delivery);
}

/// A refused head leaves its lane; a cancel behind it is not needed any more, another referral of the child goes on.
pub async fn a_refused_head_takes_its_own_cancel_along(store: Subject) {
    let mut make = Maker::default();
    let child = SubjectKey::NhsNumber(Personal::new("9434765870".to_owned()));
    let mut one = make.accept("1", "1", &["e1"]);
    one.subject = child.clone();
    let id = one.referral;
    make.later(1);
    store.accept(one).await.expect("accept");
    let head = lease_one(&store, &mut make, "e1", WorkClass::Fresh).await;
    let view = store.referral(id).await.expect("read").expect("there");
    let mut cancel = make.change(&view);
    let leg = view.legs.first().expect("one").leg.id;
    let behind = make.delivery(Some(leg), Kind::Cancel, "e1", Some(view.content));
    cancel.deliveries.push(behind.clone());
    store.change(cancel).await.expect("change");
    make.later(1);
    let mut two = make.accept("2", "2", &["e1"]);
    two.subject = child;
    let free = two.deliveries.first().expect("one").id;
    store.accept(two).await.expect("accept");
    deliver(&store, &mut make, &head, DeliveryState::Rejected).await;
    let cancelled = store
        .delivery(behind.id)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(cancelled.state, DeliveryState::Cancelled);
    let next = lease_one(&store, &mut make, "e1", WorkClass::Fresh).await;
    assert_eq!(next.token.delivery, free);
}

/// A change decided on an old version, or one that cancels what was attempted, is stale.
pub async fn a_change_decided_on_what_is_no_more_is_stale(store: Subject) {
    let mut make = Maker::default();
    let accept = make.accept("1", "c", &["e1"]);
    let id = accept.referral;
    store.accept(accept).await.expect("accept");
    let view = store.referral(id).await.expect("read").expect("there");
    let one = make.change(&view);
    let two = make.change(&view);
    store.change(one).await.expect("the first");
    assert!(matches!(store.change(two).await, Err(StoreError::Stale)));
    let view = store.referral(id).await.expect("read").expect("there");
    let mut cancel = make.change(&view);
    cancel.cancel.extend(view.deliveries.iter().map(|d| d.id));
    let head = lease_one(&store, &mut make, "e1", WorkClass::Fresh).await;
    let open = make.open(&head, "bytes");
    store.open_attempt(open).await.expect("open");
    assert!(
        matches!(store.change(cancel).await, Err(StoreError::Stale)),
        "an attempt was opened meanwhile"
    );
}

/// What was never attempted is cancelled in one step, and its lane is empty.
pub async fn what_was_never_attempted_is_cancelled_at_once(store: Subject) {
    let mut make = Maker::default();
    let accept = make.accept("1", "c", &["e1"]);
    let id = accept.referral;
    store.accept(accept).await.expect("accept");
    let view = store.referral(id).await.expect("read").expect("there");
    let mut cancel = make.change(&view);
    cancel.cancel.extend(view.deliveries.iter().map(|d| d.id));
    store.change(cancel).await.expect("change");
    assert!(
        store
            .due_endpoints(WorkClass::Fresh, make.now)
            .await
            .expect("due")
            .is_empty()
    );
    let view = store.referral(id).await.expect("read").expect("there");
    assert_eq!(
        view.deliveries.first().map(|d| d.state),
        Some(DeliveryState::Cancelled)
    );
}

/// Two verified referrals of one child share a subject; unverified ones never do.
pub async fn only_a_verified_identifier_matches_a_child(store: Subject) {
    let mut make = Maker::default();
    let number = SubjectKey::NhsNumber(Personal::new("9434765870".to_owned()));
    for (key, subject) in [("1", &number), ("2", &number), ("3", &SubjectKey::New)] {
        let mut accept = make.accept(key, key, &["e1"]);
        accept.subject = subject.clone();
        make.later(1);
        store.accept(accept).await.expect("accept");
    }
    let query = |subject| waymark_core::port::ReferralQuery {
        agencies: None,
        pathway: None,
        subject: Some(subject),
        before: None,
        limit: 10,
    };
    assert_eq!(store.list(&query(number)).await.expect("list").len(), 2);
    let other = SubjectKey::NhsNumber(Personal::new("9434765919".to_owned()));
    assert!(store.list(&query(other)).await.expect("list").is_empty());
}

/// Stamps the suite over an engine.
#[macro_export]
macro_rules! store_contract {
    ($($engine:ident: $($test:ident)*;)*) => {$(
        mod $engine {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let engine = $crate::engine::named(stringify!($engine));
                    let database = $crate::engine::Database::new(engine).await.expect("a fresh database");
                    let store = database.open($crate::build::START).await.expect("open");
                    $crate::contract::store::$test(store).await;
                }
            )*
        }
    )*};
}
