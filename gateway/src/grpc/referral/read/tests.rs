use waymark_adapters::grpc::convert::timestamp_to_proto;
use waymark_core::id::ReferralId;

use super::*;

const NOW: Timestamp = Timestamp::from_ms(1_772_445_600_000);

fn field_of<T: std::fmt::Debug>(refused: Result<T, ServiceError>) -> String {
    refused.unwrap_err().violations.remove(0).field
}

fn cancel(
    reason: v1::CancelReason,
    text: &str,
) -> Result<(CancelCode, Option<Personal<String>>), ServiceError> {
    cancellation(Some(v1::Cancellation {
        reason: reason.into(),
        text: text.to_owned(),
    }))
}

#[test]
fn a_referral_is_named_in_one_of_three_ways() {
    let named = |named| key("key", Some(v1::ReferralKey { key: Some(named) }));
    let id = ReferralId::from_bytes([7; 16]);
    assert_eq!(
        named(Named::ReferralId(id.to_string())).unwrap(),
        Key::Id(id)
    );
    let Key::SenderReference(own) =
        named(Named::SenderReference(" 226839^EPIC ".to_owned())).unwrap()
    else {
        panic!("another kind of key")
    };
    assert_eq!(
        (own.value.as_str(), own.namespace.as_str()),
        ("226839", "EPIC")
    );
    assert_eq!(
        field_of(named(Named::ReferralId("x".to_owned()))),
        "key.referral_id"
    );
    assert_eq!(
        field_of(named(Named::Reference("WM-1".to_owned()))),
        "key.reference"
    );
    assert_eq!(
        field_of(named(Named::SenderReference("x".repeat(REFERENCE_MAX + 1)))),
        "key.sender_reference"
    );
    assert_eq!(field_of(key("key", None)), "key");
}

#[test]
fn a_number_out_of_its_vocabulary_is_refused_by_name() {
    assert_eq!(field_of(purpose("purpose", 99)), "purpose");
    assert_eq!(field_of(purpose("purpose", 0)), "purpose");
    let unknown = Some(v1::Cancellation {
        reason: 99,
        text: String::new(),
    });
    assert_eq!(field_of(cancellation(unknown)), "cancellation.reason");
    let change = v1::StatusChange {
        state: 99,
        source_version: 1,
        ..v1::StatusChange::default()
    };
    assert_eq!(field_of(status(change)), "change.state");
}

#[test]
fn a_cancel_says_why() {
    assert_eq!(
        cancel(v1::CancelReason::MovedAway, "").unwrap(),
        (CancelCode::Moved, None)
    );
    assert_eq!(
        field_of(cancel(v1::CancelReason::Other, " ")),
        "cancellation.text"
    );
    assert_eq!(
        field_of(cancel(v1::CancelReason::EnteredInError, "")),
        "cancellation.text"
    );
    assert_eq!(
        field_of(cancel(v1::CancelReason::Unspecified, "")),
        "cancellation.reason"
    );
    assert!(cancel(v1::CancelReason::Other, &"x".repeat(WORDS_MAX)).is_ok());
    assert_eq!(
        field_of(cancel(v1::CancelReason::Other, &"x".repeat(WORDS_MAX + 1))),
        "cancellation.text"
    );
    let (code, text) = cancel(v1::CancelReason::Duplicate, "WM-1").unwrap();
    assert_eq!(code, CancelCode::Duplicate);
    assert_eq!(text.unwrap().expose(), "WM-1");
}

fn withdrawn() -> v1::ConsentWithdrawal {
    v1::ConsentWithdrawal {
        withdrawn_by: "A parent".to_owned(),
        role: v1::ConsentGiverRole::ParentWithPr.into(),
        date: "2026-03-01".to_owned(),
        ..v1::ConsentWithdrawal::default()
    }
}

#[test]
fn consent_is_withdrawn_by_somebody_on_a_day_that_has_come() {
    let today = NOW.london_date();
    let said = withdrawal(Some(withdrawn()), today).unwrap();
    assert_eq!(said.by.expose(), "A parent");
    assert!(said.is_whole());
    let read = |change: fn(&mut v1::ConsentWithdrawal)| {
        let mut said = withdrawn();
        change(&mut said);
        field_of(withdrawal(Some(said), today))
    };
    assert_eq!(
        read(|w| w.withdrawn_by = String::new()),
        "withdrawal.withdrawn_by"
    );
    assert_eq!(read(|w| w.role = 0), "withdrawal.role");
    assert_eq!(
        read(|w| w.date = "2026-03-03".to_owned()),
        "withdrawal.date"
    );
    assert_eq!(read(|w| w.date = "1 March".to_owned()), "withdrawal.date");
    assert_eq!(read(|w| w.scopes = vec![99]), "withdrawal.scopes[0]");
}

#[test]
fn a_withdrawal_in_part_is_never_taken_as_one_in_whole() {
    let of = |scopes: &[v1::ConsentScope]| {
        let said = v1::ConsentWithdrawal {
            scopes: scopes.iter().map(|s| (*s).into()).collect(),
            ..withdrawn()
        };
        withdrawal(Some(said), NOW.london_date())
    };
    assert!(!of(&[v1::ConsentScope::ShareHealth]).unwrap().is_whole());
    assert!(
        of(&[v1::ConsentScope::Referral, v1::ConsentScope::ShareHealth])
            .unwrap()
            .is_whole()
    );
    assert_eq!(
        field_of(of(&[
            v1::ConsentScope::ShareHealth,
            v1::ConsentScope::ShareHealth
        ])),
        "withdrawal.scopes[1]"
    );
}

fn status(change: v1::StatusChange) -> Result<StatusUpdate, ServiceError> {
    let key = Some(Named::ReferralId(
        ReferralId::from_bytes([7; 16]).to_string(),
    ));
    let ask = v1::UpdateStatusRequest {
        key: Some(v1::ReferralKey { key }),
        change: Some(change),
        ..v1::UpdateStatusRequest::default()
    };
    status_update(ask, NOW)
}

fn accepted() -> v1::StatusChange {
    v1::StatusChange {
        state: v1::LegState::Accepted.into(),
        source_version: 1,
        ..v1::StatusChange::default()
    }
}

#[test]
fn a_status_has_a_version_and_a_decline_its_reason() {
    assert_eq!(status(accepted()).unwrap().source_version, 1);
    assert_eq!(
        field_of(status(v1::StatusChange {
            source_version: 0,
            ..accepted()
        })),
        "change.source_version"
    );
    let declined = v1::StatusChange {
        state: v1::LegState::Declined.into(),
        ..accepted()
    };
    assert_eq!(field_of(status(declined.clone())), "change.reason_code");
    let reasoned = v1::StatusChange {
        reason_code: "not-this-service".to_owned(),
        ..declined
    };
    assert_eq!(
        status(reasoned).unwrap().reason_code.as_deref(),
        Some("not-this-service")
    );
}

#[test]
fn a_source_s_clock_may_be_five_minutes_ahead_and_no_more() {
    let at = |at: Timestamp| {
        status(v1::StatusChange {
            occurred_at: Some(timestamp_to_proto(at)),
            ..accepted()
        })
    };
    assert_eq!(
        at(NOW.plus(AHEAD_MAX)).unwrap().at,
        Some(NOW.plus(AHEAD_MAX))
    );
    assert_eq!(
        field_of(at(NOW.plus(AHEAD_MAX + Duration::from_millis(1)))),
        "change.occurred_at"
    );
}

#[test]
fn what_happens_next_is_told_with_the_words_for_the_family() {
    let told = v1::StatusChange {
        text_for_family: "We have your referral.".to_owned(),
        next_action: "we ring you".to_owned(),
        due: "2026-04-01".to_owned(),
        ..accepted()
    };
    let words = status(told.clone()).unwrap().text.unwrap();
    assert_eq!(
        words.expose(),
        "We have your referral.\n\nNext: we ring you, by 2026-04-01"
    );
    assert_eq!(
        field_of(status(v1::StatusChange {
            due: String::new(),
            ..told.clone()
        })),
        "change.due"
    );
    assert_eq!(
        field_of(status(v1::StatusChange {
            next_action: String::new(),
            ..told
        })),
        "change.next_action"
    );
}

#[test]
fn a_child_is_looked_up_by_a_traced_number_or_a_pupil_number_and_birth() {
    let traced = v1::NhsNumberVerification::PresentAndVerified.into();
    let by_number = v1::ChildIdentifier {
        nhs_number: "9449305552".to_owned(),
        nhs_number_verification: traced,
        ..v1::ChildIdentifier::default()
    };
    assert!(matches!(child(Some(&by_number)), Ok((Some(_), None))));
    let untraced = v1::ChildIdentifier {
        nhs_number_verification: 0,
        ..by_number.clone()
    };
    assert_eq!(
        field_of(child(Some(&untraced))),
        "child.nhs_number_verification"
    );
    let wrong = v1::ChildIdentifier {
        nhs_number: "9449305553".to_owned(),
        ..by_number
    };
    assert_eq!(field_of(child(Some(&wrong))), "child.nhs_number");
    assert_eq!(
        field_of(child(Some(&v1::ChildIdentifier::default()))),
        "child"
    );
    assert_eq!(child(None).unwrap(), (None, None));
}
