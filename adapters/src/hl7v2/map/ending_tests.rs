//! The end of a referral both ways: a cancel, and a withdrawal of consent, which is never taken for one; and what a
//! receiver calls a referral.

use waymark_core::delivery::Kind;
use waymark_core::directory::CodeMap;
use waymark_core::port::{CancelCode, InboundBody, Source, StopNotice, Withdrawal};
use waymark_core::referral::{ConsentGiver, ConsentScope};

use super::tests::{referral, source};
use super::{inward, outward, status};
use crate::hl7v2::config::tests::{PLAIN, endpoint};
use crate::hl7v2::config::{Assumptions, Settings};
use crate::hl7v2::fault::FieldFault;
use crate::hl7v2::message::{LineEndings, Message};
use crate::hl7v2::referral::RefMessage;
use crate::hl7v2::status::RriMessage;
use crate::limits::REFERENCE_CHARS_MAX;

fn written(kind: Kind, stop: StopNotice) -> String {
    let settings = Settings::read(&endpoint(PLAIN)).unwrap();
    let source = Source {
        stop: Some(stop),
        reason: Some("said so".into()),
        ..source(kind, Some(referral()))
    };
    outward::render(&source, &settings).unwrap()
}

fn read(wire: &str) -> Result<InboundBody, FieldFault> {
    let message = Message::parse(wire.as_bytes(), LineEndings::Any).unwrap();
    let assumptions = Assumptions::of("unsorted".parse().unwrap());
    inward::read(
        &RefMessage::read(&message)?,
        &assumptions,
        &CodeMap::default(),
    )
}

fn withdrawal(scopes: &[ConsentScope]) -> Withdrawal {
    Withdrawal {
        scopes: scopes.iter().copied().collect(),
        by: "Parent = Test".into(),
        role: ConsentGiver::Parent,
        date: jiff::civil::date(2026, 2, 1),
        evidence: Some("form 7".into()),
    }
}

#[test]
fn a_withdrawal_of_consent_comes_back_as_one() {
    for scopes in [
        &[ConsentScope::Referral][..],
        &[ConsentScope::ShareHealth],
        &[],
    ] {
        let said = withdrawal(scopes);
        let wire = written(Kind::Withdraw, StopNotice::Withdrawn(said.clone()));
        let Ok(InboundBody::Withdraw(reference, back)) = read(&wire) else {
            panic!("{wire}")
        };
        assert_eq!(reference.namespace, "WAYMARK");
        let meant = Withdrawal {
            scopes: said.withdrawn(),
            ..said
        };
        assert_eq!(back, meant);
    }
}

#[test]
fn a_withdrawal_that_does_not_say_what_of_it_is_refused_and_never_a_cancel() {
    let stop = StopNotice::Withdrawn(withdrawal(&[ConsentScope::Referral]));
    let wire = written(Kind::Withdraw, stop);
    for (from, to) in [
        ("~withdrawal.scopes:=[\"referral\"]", ""),
        ("~withdrawal.date=2026-02-01", ""),
        ("withdrawal.role=parent_with_pr", "withdrawal.role=nobody"),
    ] {
        assert!(wire.contains(from), "{wire}");
        let fault = read(&wire.replace(from, to)).unwrap_err();
        assert_eq!(fault.place(), "NTE-3");
        assert!(fault.to_string().contains("withdraws consent"), "{fault}");
    }
}

#[test]
fn a_cancel_stays_one() {
    let stop = StopNotice::Cancelled {
        code: CancelCode::Moved,
        text: None,
    };
    let Ok(InboundBody::Cancel(_, CancelCode::CancelledBySender, reason)) =
        read(&written(Kind::Cancel, stop))
    else {
        panic!("not a cancel")
    };
    assert_eq!(reason.unwrap().expose(), "said so");
}

#[test]
fn a_receivers_reference_is_kept_up_to_its_limit() {
    let called = |id: &str| {
        let text = include_str!("../fixtures/rri-i12-v25.hl7").replace("PAS-5521", id);
        let message = Message::parse(text.as_bytes(), LineEndings::Any).unwrap();
        let message = RriMessage::read(&message).unwrap();
        let status = status::read(&message, &CodeMap::default()).unwrap();
        assert_eq!(
            status.receiver_reference,
            status::receiver_reference(&message)
        );
        status.receiver_reference
    };
    let longest = "x".repeat(REFERENCE_CHARS_MAX);
    assert_eq!(called(&longest), Some(longest.clone()));
    assert_eq!(called(&format!("{longest}x")), None);
}
