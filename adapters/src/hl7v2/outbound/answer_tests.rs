//! What an answer says besides its acknowledgement: statuses that are kept, refused, or that nobody can read.

use waymark_core::delivery::{Evidence, Kind};
use waymark_core::error::ErrorKind;
use waymark_core::id::{Reference, ReferralId};
use waymark_core::leg::LegState;
use waymark_core::port::{Channel, InboundBody, IntakeError};

use super::tests::{Seen, Then, adapter, against_as, against_within, framed, summary, wire_id};
use super::*;
use crate::hl7v2::testing::TestIntake;

/// MSH-15 and 16 of an answer that asks for a commit acknowledgement.
const ASKS: &str = "|||AL|NE";
const RF1_6_TO_11: &str = "|R||||WM-7^WAYMARK|||||PAS-5521^PAEDPAS";

fn answer(event: &str, segments: &str) -> String {
    framed(&format!(
        "MSH|^~\\&|PAEDPAS|R1L|WAYMARK|WM01|20260302||RRI^{event}^RRI_I12|77|T|2.5{ASKS}\r\
         MSA|AA|{}\r{segments}\r",
        wire_id()
    ))
}

fn rri(event: &str, status: &str) -> String {
    answer(event, &format!("RF1|{status}{RF1_6_TO_11}"))
}

/// One message that is answered so; what its receiver heard then.
async fn seen(intake: &Arc<TestIntake>, kind: Kind, answers: &str) -> Seen {
    let adapter = adapter().with_intake(Arc::clone(intake) as Arc<dyn Intake>);
    against_as(&adapter, ("", kind), answers, Then::Wait).await
}

fn commits(seen: &Seen) -> String {
    let text = String::from_utf8(seen.rest.clone()).unwrap();
    let codes = text.split('\r').filter(|s| s.starts_with("MSA|"));
    codes
        .filter_map(|s| s.get(4..6))
        .collect::<Vec<_>>()
        .join(" ")
}

fn refusing(kind: ErrorKind) -> Arc<TestIntake> {
    TestIntake::refusing(IntakeError {
        kind,
        violations: Vec::new(),
        reason: "X",
    })
}

#[tokio::test]
async fn a_status_in_an_answer_is_kept_as_one_of_the_delivery_that_it_answers() {
    let intake = TestIntake::accepting();
    let seen = seen(&intake, Kind::New, &rri("I12", "A")).await;
    let Outcome::Delivered {
        receiver_reference, ..
    } = &seen.outcome
    else {
        panic!()
    };
    assert_eq!(receiver_reference.as_deref(), Some("PAS-5521"));
    let taken = intake.taken.lock().unwrap();
    let channel = Channel::Endpoint("paed-mllp".parse().unwrap());
    assert_eq!(taken[0].channel, channel);
    assert_eq!(taken[0].message_key, "PAEDPAS|R1L|RRI^I12|77");
    let InboundBody::Status(status) = &taken[0].body else {
        panic!()
    };
    assert_eq!(status.state, LegState::Accepted);
    assert_eq!(
        status.answers.as_deref(),
        Some(wire_id().as_str()),
        "by it the gateway finds the leg"
    );
    assert_eq!(
        status.grade,
        Evidence::None,
        "the attempt carries the evidence"
    );
    assert_eq!(commits(&seen), "CA");
}

#[tokio::test]
async fn a_status_that_cannot_be_kept_yet_is_tried_again_while_the_attempt_has_time() {
    let intake = TestIntake::busy(1);
    let kept = seen(&intake, Kind::New, &rri("I12", "R")).await;
    assert_eq!(kept.outcome.word(), "delivered");
    assert!(matches!(kept.outcome, Outcome::Delivered { .. }));
    assert_eq!((intake.count(), &*commits(&kept)), (2, "CA"));

    // It came with this answer alone: what was not kept in time is never left to a repeat.
    for kind in [Kind::New, Kind::Cancel] {
        let busy = refusing(ErrorKind::Unavailable) as Arc<dyn Intake>;
        let adapter = adapter().with_intake(busy);
        let within = Duration::from_millis(1_200);
        let answers = rri("I12", "A");
        let seen = against_within(&adapter, ("", kind), &answers, Then::Wait, within).await;
        let Outcome::Unread { receipt, why, .. } = &seen.outcome else {
            panic!("{:?}", seen.outcome)
        };
        assert_eq!(why.code, "mllp.status_not_kept");
        let receipt = String::from_utf8(receipt.as_ref().unwrap().expose().to_vec()).unwrap();
        assert!(
            receipt.contains("\rRF1|A|R|"),
            "the answer is kept: {receipt}"
        );
        assert_eq!(commits(&seen), "CE");
    }
}

#[tokio::test]
async fn a_status_that_is_not_taken_is_told_so_and_asks_for_a_person() {
    let nobody = "RF1|A|R||||";
    let twice = format!("RF1|A{RF1_6_TO_11}\rRF1|A{RF1_6_TO_11}");
    let code = format!("RF1|ZZ^Local^PAS{RF1_6_TO_11}");
    let good = format!("RF1|A{RF1_6_TO_11}");
    for (segments, intake) in [
        (nobody, TestIntake::accepting()),
        (&twice, TestIntake::accepting()),
        (&code, TestIntake::accepting()),
        (&good, refusing(ErrorKind::NotFound)),
    ] {
        let seen = seen(&intake, Kind::New, &answer("I12", segments)).await;
        let Outcome::Unread { grade, why, .. } = &seen.outcome else {
            panic!("{segments}: {:?}", seen.outcome)
        };
        assert_eq!(*grade, Evidence::ApplicationAck, "it arrived all the same");
        assert_eq!(why.code, "mllp.status_not_taken");
        assert_eq!(commits(&seen), "CE", "{segments}");
    }
}

#[tokio::test]
async fn a_cancel_whose_answer_cannot_be_read_is_never_taken_for_done() {
    let nobody = "RF1|R|R||||";
    let twice = format!("RF1|R{RF1_6_TO_11}\rRF1|R{RF1_6_TO_11}");
    let code = format!("RF1|ZZ^Too late^PAS{RF1_6_TO_11}");
    let none = format!("RF1|{RF1_6_TO_11}");
    let good = format!("RF1|A{RF1_6_TO_11}");
    for kind in [Kind::Cancel, Kind::Withdraw] {
        for (segments, intake) in [
            (nobody, TestIntake::accepting()),
            (&twice, TestIntake::accepting()),
            (&code, TestIntake::accepting()),
            (&none, TestIntake::accepting()),
            (&good, refusing(ErrorKind::Invalid)),
        ] {
            let seen = seen(&intake, kind, &answer("I14", segments)).await;
            assert!(
                matches!(
                    seen.outcome,
                    Outcome::ParkWritten {
                        reason: ParkReason::Refused,
                        ..
                    }
                ),
                "{segments}: {:?}",
                seen.outcome
            );
            assert_eq!(commits(&seen), "CE", "{segments}");
        }
    }
}

#[tokio::test]
async fn a_cancel_is_refused_by_the_table_or_by_the_exact_state_in_a_note() {
    let note = |state: &str| {
        format!("RF1|A{RF1_6_TO_11}\rNTE|1|P|Referral is {state}.~state={state}|STATE^x^WMNOTE")
    };
    let refused = ("reject", "mllp.cancel_refused".to_owned());
    let taken = ("delivered", String::new());
    for (segments, expected) in [
        (format!("RF1|R{RF1_6_TO_11}"), &refused),
        (format!("RF1|A{RF1_6_TO_11}"), &taken),
        (note("booked"), &refused),
        (note("cancelled"), &taken),
    ] {
        let intake = TestIntake::accepting();
        let seen = seen(&intake, Kind::Cancel, &answer("I14", &segments)).await;
        assert_eq!(summary(&seen.outcome), *expected, "{segments}");
        assert_eq!(commits(&seen), "CA", "{segments}");
        assert_eq!(intake.count(), 1, "what it says is kept: {segments}");
    }
}

#[tokio::test]
async fn what_a_refused_cancel_says_is_kept_or_asked_for_again() {
    let refusal = format!("RF1|R{RF1_6_TO_11}\rNTE|1|L|Booked for Monday");
    let intake = TestIntake::accepting();
    let kept = seen(&intake, Kind::Cancel, &answer("I14", &refusal)).await;
    assert_eq!(commits(&kept), "CA");
    let InboundBody::Status(status) = intake.taken.lock().unwrap().remove(0).body else {
        panic!()
    };
    assert_eq!(status.state, LegState::InTriage);
    assert_eq!(status.text.unwrap().expose(), "Booked for Monday");
    assert_eq!(status.answers.as_deref(), Some(wire_id().as_str()));
    for kind in [ErrorKind::Invalid, ErrorKind::Unavailable] {
        let adapter = adapter().with_intake(refusing(kind) as Arc<dyn Intake>);
        let within = Duration::from_millis(1_200);
        let answers = answer("I14", &refusal);
        let heard = against_within(&adapter, ("", Kind::Cancel), &answers, Then::Wait, within);
        let heard = heard.await;
        let refused = ("reject", "mllp.cancel_refused".to_owned());
        assert_eq!(summary(&heard.outcome), refused, "{kind:?}");
        assert_eq!(commits(&heard), "CE", "{kind:?}");
    }
}

/// A cancel that is asked about first, with this RF1 in the answer.
async fn asked(rf1: &str, intake: &Arc<TestIntake>) -> (Outcome, String) {
    let adapter = adapter().with_intake(Arc::clone(intake) as Arc<dyn Intake>);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let endpoint = tests::at_port(port, "ask_before_cancel = true");
    let receiver = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = String::new();
        while let Some(frame) = crate::hl7v2::testing::read_frame(&mut stream).await {
            let field = |nth| frame.split('|').nth(nth).unwrap().to_owned();
            let kind = field(8).chars().take(7).collect::<String>();
            heard.push_str(&kind);
            heard.push(' ');
            let text = answer("I15", rf1).replace(wire_id().as_str(), &field(9));
            let text = match kind.as_str() {
                "REF^I15" => text,
                "REF^I14" => tests::own("AA"),
                _ => continue,
            };
            stream.write_all(text.as_bytes()).await.unwrap();
        }
        heard
    };
    tokio::join!(
        tests::deliver_as(&adapter, &endpoint, Kind::Cancel),
        receiver
    )
}

#[tokio::test]
async fn where_another_referral_stands_says_nothing_of_a_cancel() {
    let other = Reference::of(ReferralId::from_bytes([3; 16]));
    for status in ["P", "R"] {
        let intake = TestIntake::accepting();
        let rf1 = format!("RF1|{status}|R||||{other}^WAYMARK");
        let (outcome, heard) = asked(&rf1, &intake).await;
        assert_eq!(summary(&outcome), ("park", "mllp.ask".into()), "{status}");
        assert_eq!(heard, "REF^I15 ACK^I15 ", "the cancel is not written");
        assert_eq!(intake.count(), 0);
    }
}

#[tokio::test]
async fn what_stood_against_a_cancel_is_of_the_cancels_own_delivery() {
    let intake = TestIntake::accepting();
    let rf1 = format!("RF1|R{RF1_6_TO_11}");
    let (outcome, _) = asked(&rf1, &intake).await;
    assert_eq!(outcome.word(), "reject");
    let taken = intake.taken.lock().unwrap().remove(0);
    let InboundBody::Status(status) = taken.body else {
        panic!()
    };
    assert_eq!(status.answers.as_deref(), Some(wire_id().as_str()));
    // What is refused to be kept gives no leg back.
    let (outcome, _) = asked(&rf1, &refusing(ErrorKind::Invalid)).await;
    assert_eq!(summary(&outcome), ("park", "mllp.ask".into()));
}

#[tokio::test]
async fn a_document_in_an_answer_takes_nothing_from_what_the_answer_says() {
    let letter = "OBX|1|ED|L^Clinic letter||EPR^AP^pdf^Base64^QUJD\rAL1|1||";
    for (kind, event, status, state) in [
        (Kind::New, "I12", "R", LegState::Declined),
        (Kind::Cancel, "I14", "A", LegState::Cancelled),
    ] {
        let intake = TestIntake::accepting();
        let rf1 = format!("RF1|{status}{RF1_6_TO_11}\rNTE|1|L|Said why\r{letter}");
        let seen = seen(&intake, kind, &answer(event, &rf1)).await;
        let Outcome::Delivered {
            receiver_reference, ..
        } = &seen.outcome
        else {
            panic!("{event}: {:?}", seen.outcome)
        };
        assert_eq!(receiver_reference.as_deref(), Some("PAS-5521"));
        assert_eq!(commits(&seen), "CA");
        let InboundBody::Status(status) = intake.taken.lock().unwrap().remove(0).body else {
            panic!()
        };
        assert_eq!(status.state, state);
        let told =
            "Said why\nA document came with this and was not taken, ask for it: Clinic letter";
        assert_eq!(status.text.unwrap().expose(), told);
    }
    // It says nothing of whether a cancel may go.
    let rf1 = format!("RF1|P{RF1_6_TO_11}\r{letter}");
    let (outcome, heard) = asked(&rf1, &TestIntake::accepting()).await;
    assert_eq!(outcome.word(), "delivered");
    assert_eq!(heard, "REF^I15 ACK^I15 REF^I14 ", "the cancel is written");
}
