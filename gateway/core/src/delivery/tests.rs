use proptest::prelude::*;

use super::*;
use crate::personal::Payload;

fn standing() -> Standing {
    Standing {
        attempts: 1,
        failures: 0,
        soft_rejects: 0,
        evidence: Evidence::None,
        earlier_attempt: false,
        deadline: Timestamp::from_ms(1_000_000),
        releases_at: Evidence::ApplicationAck,
        repeat: Repeat::DedupesById,
    }
}

fn delivered(grade: Evidence) -> Outcome {
    Outcome::Delivered {
        grade,
        awaiting: None,
        receiver_reference: None,
        receipt: Some(Payload::new(vec![1])),
    }
}

fn why() -> Why {
    Why::new("test", "test")
}

fn decide(s: &Standing, o: &Outcome) -> Next {
    next(s, o, &RetryPolicy::default(), Timestamp::from_ms(0), 512)
}

#[test]
fn evidence_at_the_releasing_grade_ends_the_delivery() {
    assert_eq!(
        decide(&standing(), &delivered(Evidence::ApplicationAck)).state,
        DeliveryState::Done
    );
    assert_eq!(
        decide(&standing(), &delivered(Evidence::TransportAck)).state,
        DeliveryState::AwaitingEvidence
    );
}

#[test]
fn evidence_never_falls() {
    let s = Standing {
        evidence: Evidence::TransportAck,
        ..standing()
    };
    let n = decide(
        &s,
        &Outcome::Retry {
            after: None,
            why: why(),
        },
    );
    assert_eq!(n.evidence, Evidence::TransportAck);
}

#[test]
fn a_duplicate_answer_counts_only_after_an_earlier_attempt() {
    let first = decide(&standing(), &Outcome::Duplicate { why: why() });
    assert_eq!(
        (first.state, first.parked),
        (DeliveryState::Parked, Some(ParkReason::IdCollision))
    );
    assert_eq!(first.evidence, Evidence::Sent);
    let later = Standing {
        earlier_attempt: true,
        ..standing()
    };
    assert_eq!(
        decide(&later, &Outcome::Duplicate { why: why() }).state,
        DeliveryState::Done
    );
}

#[test]
fn an_unknown_end_is_its_own_state() {
    let n = decide(&standing(), &Outcome::Unknown { why: why() });
    assert_eq!(n.state, DeliveryState::Unknown);
    assert!(n.due.is_some());
}

#[test]
fn past_the_deadline_a_person_is_asked() {
    let s = Standing {
        deadline: Timestamp::from_ms(10),
        ..standing()
    };
    let n = decide(
        &s,
        &Outcome::Retry {
            after: None,
            why: why(),
        },
    );
    assert_eq!(
        (n.state, n.parked),
        (DeliveryState::Parked, Some(ParkReason::Exhausted))
    );
}

#[test]
fn a_hint_is_honoured_and_clamped() {
    let p = RetryPolicy::default();
    assert_eq!(p.hinted(Duration::from_secs(30)), Duration::from_secs(30));
    assert_eq!(
        p.hinted(Duration::from_hours(24)),
        Duration::from_millis(p.cap_ms)
    );
    assert_eq!(p.hinted(Duration::ZERO), Duration::from_millis(p.first_ms));
}

#[test]
fn soft_rejects_are_bounded() {
    let p = RetryPolicy::default();
    let s = Standing {
        soft_rejects: p.soft_rejects_max - 2,
        ..standing()
    };
    let n = decide(&s, &Outcome::SoftReject { why: why() });
    assert_eq!(
        (n.state, n.soft_rejects),
        (DeliveryState::RetryWait, p.soft_rejects_max - 1)
    );
    let s = Standing {
        soft_rejects: p.soft_rejects_max - 1,
        ..standing()
    };
    assert_eq!(
        decide(&s, &Outcome::SoftReject { why: why() }).parked,
        Some(ParkReason::Refused)
    );
}

#[test]
fn the_breaker_opens_at_its_limit_and_probes_once() {
    let p = RetryPolicy::default();
    let mut b = Breaker::default();
    for _ in 1..BREAKER_FAILURES {
        b.failed(&p, Timestamp::from_ms(0), 0);
    }
    assert!(b.allows(Timestamp::from_ms(0)));
    b.failed(&p, Timestamp::from_ms(0), 0);
    assert!(!b.allows(Timestamp::from_ms(0)));
    assert!(b.allows(Timestamp::from_ms(10_000)));
    assert_eq!(b.probes(), 1);
    b.succeeded();
    assert_eq!(b.probes(), u32::MAX);
}

#[test]
fn long_words_are_cut() {
    assert_eq!(
        Why::new("c", "x".repeat(Why::TEXT_MAX + 1)).text.len(),
        Why::TEXT_MAX
    );
}

proptest! {
    #[test]
    fn waits_grow_and_stay_within_the_cap(failures in 1u32..200, jitter in 0u16..1024) {
        let p = RetryPolicy::default();
        let w = p.wait(failures, jitter);
        prop_assert!(w >= Duration::from_millis(p.first_ms / 2));
        prop_assert!(w <= Duration::from_millis(p.cap_ms + 1));
    }
}

#[test]
fn what_was_written_is_never_called_unsent_and_an_unread_answer_undoes_no_arrival() {
    let park = |written: bool| {
        let (reason, why) = (ParkReason::WrongRecipient, why());
        let outcome = if written {
            Outcome::ParkWritten { reason, why }
        } else {
            Outcome::Park { reason, why }
        };
        let n = decide(&standing(), &outcome);
        (n.state, n.parked, n.evidence)
    };
    let parked = (DeliveryState::Parked, Some(ParkReason::WrongRecipient));
    assert_eq!(park(true), (parked.0, parked.1, Evidence::Sent));
    assert_eq!(park(false), (parked.0, parked.1, Evidence::None));
    let unread = Outcome::Unread {
        grade: Evidence::ApplicationAck,
        receipt: None,
        why: why(),
    };
    let n = decide(&standing(), &unread);
    assert_eq!(n, decide(&standing(), &delivered(Evidence::ApplicationAck)));
}
