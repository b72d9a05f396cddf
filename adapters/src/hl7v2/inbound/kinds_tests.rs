//! Every kind of message on a real listener: appointments, status requests, documents.

use waymark_core::error::ErrorKind;
use waymark_core::leg::LegState;
use waymark_core::port::{Inbound, InboundStatus, IntakeError};

use super::tests::{answer_to, options, referral, say, wire, with_listener};
use super::*;
use crate::hl7v2::status::RriMessage;
use crate::hl7v2::testing::TestIntake;

const BOOKED: &str = include_str!("../fixtures/siu-s12-v24.hl7");

fn siu(event: &str) -> String {
    wire(BOOKED).replacen("SIU^S12", &format!("SIU^{event}"), 1)
}

/// What the intake is given of a message, and its acknowledgement.
async fn taken(message: &str) -> (Inbound, String) {
    let intake = TestIntake::accepting();
    let answer = answer_to(message, intake.clone()).await;
    let taken = intake.taken.lock().unwrap().pop();
    (taken.unwrap_or_else(|| panic!("{answer}")), answer)
}

async fn status(message: &str) -> InboundStatus {
    match taken(message).await.0.body {
        InboundBody::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_appointment_event_becomes_its_state_with_day_and_words() {
    let day = "2026-05-04".parse().ok();
    let at = " on 4 May 2026 at 10:30";
    let tail = ": Paediatric clinic\nBring the red book";
    for (event, state, due, words) in [
        (
            "S12",
            LegState::Booked,
            day,
            format!("Appointment{at}{tail}"),
        ),
        (
            "S13",
            LegState::Booked,
            day,
            format!("Appointment changed: now{at}{tail}"),
        ),
        (
            "S14",
            LegState::Booked,
            day,
            format!("Appointment changed: now{at}{tail}"),
        ),
        (
            "S15",
            LegState::AppointmentCancelled,
            None,
            format!("Appointment{at} cancelled{tail}"),
        ),
        (
            "S26",
            LegState::WasNotBrought,
            None,
            format!("Was not brought to the appointment{at}{tail}"),
        ),
    ] {
        let (inbound, answer) = taken(&siu(event)).await;
        assert!(answer.contains(&format!("|ACK^{event}^ACK|")), "{answer}");
        assert!(answer.contains("\rMSA|AA|SIU0001\r"), "{answer}");
        assert_eq!(
            inbound.message_key,
            format!("PAEDPAS|R1L|SIU^{event}|SIU0001")
        );
        let InboundBody::Status(status) = inbound.body else {
            panic!("not a status")
        };
        assert_eq!((status.state, status.due), (state, due), "{event}");
        assert_eq!(status.text.unwrap().expose(), &words);
        assert_eq!(status.referral, "WM-62J42-A3262-J42A3");
        assert_eq!(
            status.receiver_reference, None,
            "an appointment's id is no referral's"
        );
        assert_eq!(status.reason_code.as_deref(), Some("NORMAL"));
    }
}

#[tokio::test]
async fn the_reference_is_found_where_real_systems_put_it() {
    let ours = "WM-62J42-A3262-J42A3^WAYMARK";
    let without = siu("S12").replacen(ours, "", 1);
    for (from, to) in [
        ("SCH|APP-1^PAEDPAS|", format!("SCH|{ours}|")),
        ("APT-55^PAEDPAS|||", format!("APT-55^PAEDPAS||{ours}|")),
    ] {
        let message = without.replacen(from, &to, 1);
        assert_ne!(message, without);
        assert_eq!(
            status(&message).await.referral,
            "WM-62J42-A3262-J42A3",
            "{message}"
        );
    }
    // Without ours, what the receiver told in RF1-11 of its answer: its order, else its appointment.
    let found = status(&without).await;
    assert_eq!(found.referral, "");
    assert_eq!(found.receiver_reference.as_deref(), Some("PAS-5521"));
    let found = status(&without.replacen("PAS-5521^PAEDPAS", "", 1)).await;
    assert_eq!(found.receiver_reference.as_deref(), Some("APT-55"));
}

#[tokio::test]
async fn the_day_is_found_wherever_a_version_puts_it() {
    let sch = "^^^20260504103000";
    let ais = "|20260504103000\rAIL";
    for (message, day, clock) in [
        (siu("S12").replacen(sch, "", 1), "2026-05-04", " at 10:30"),
        (
            siu("S12").replacen(sch, "", 1).replacen(ais, "\rAIL", 1)
                + "TQ1|1||||||20260601233000+0000\r",
            "2026-06-02",
            " at 00:30",
        ),
        (siu("S12").replacen(sch, "^^^20260701", 1), "2026-07-01", ""),
    ] {
        let found = status(&message).await;
        assert_eq!(found.due, day.parse().ok(), "{message}");
        let words = found.text.unwrap().expose().clone();
        assert_eq!(words.contains(" at "), !clock.is_empty(), "{words}");
        assert!(words.contains(clock), "{words}");
    }
}

#[tokio::test]
async fn appointments_that_name_no_referral_or_an_unknown_one_are_refused_at_sch() {
    let nothing = siu("S12");
    let nothing: Vec<String> = nothing
        .split('\r')
        .map(|segment| match segment.strip_prefix("SCH|") {
            Some(_) => "SCH||||||NORMAL|||||^^^20260504".to_owned(),
            None => segment.to_owned(),
        })
        .collect();
    let intake = TestIntake::accepting();
    let answer = answer_to(&nothing.join("\r"), intake.clone()).await;
    assert!(answer.contains("\rMSA|AE|SIU0001|"), "{answer}");
    assert!(answer.contains("SCH^1^26^101"), "{answer}");
    assert_eq!(intake.count(), 0);
    let error = IntakeError {
        kind: ErrorKind::NotFound,
        violations: Vec::new(),
        reason: "NO_SUCH_REFERRAL",
    };
    let answer = answer_to(&siu("S26"), TestIntake::refusing(error)).await;
    assert!(answer.contains("SCH^1^26^204"), "{answer}");
}

#[tokio::test]
async fn a_status_request_is_answered_with_what_it_asks_for() {
    let asked = referral().replacen("REF^I12^REF_I12", "REF^I15^REF_I12", 1);
    let (inbound, answer) = taken(&asked).await;
    let InboundBody::Enquiry(reference) = inbound.body else {
        panic!("not an enquiry")
    };
    assert_eq!(reference.value, "SM-2026-0007");
    assert!(answer.contains("|RRI^I15^RRI_I12|"), "{answer}");
    assert!(answer.contains("\rMSA|AA|SM0000000001\r"), "{answer}");
    let status = RriMessage::read(&Message::parse(answer.as_bytes(), LineEndings::Cr).unwrap());
    let status = status.unwrap();
    assert_eq!(status.rf1.originating.id, "SM-2026-0007", "echoed");
    let read = map::status::read(&status, &CodeMap::default()).unwrap();
    assert_eq!(read.state, LegState::Submitted);
}

#[tokio::test]
async fn a_status_request_in_enhanced_mode_gets_its_commit_first_and_an_unknown_one_its_refusal() {
    let asked = wire(include_str!("../fixtures/ref-i12-v25.hl7"));
    let asked = asked.replacen("REF^I12^REF_I12", "REF^I15^REF_I12", 1);
    let frame = format!("\u{b}{asked}\u{1c}\r");
    let talk = |address| async move { say(address, frame.as_bytes(), 2).await };
    let answers = with_listener(options(), TestIntake::accepting(), talk).await;
    assert!(answers[0].contains("\rMSA|CA|"), "{}", answers[0]);
    assert!(answers[1].contains("|RRI^I15^"), "{}", answers[1]);
    let error = IntakeError {
        kind: ErrorKind::NotFound,
        violations: Vec::new(),
        reason: "NO_SUCH_REFERRAL",
    };
    let asked = referral().replacen("REF^I12^REF_I12", "REF^I15^REF_I12", 1);
    let answer = answer_to(&asked, TestIntake::refusing(error)).await;
    assert!(answer.contains("|ACK^I15^ACK|"), "{answer}");
    assert!(answer.contains("|204^"), "{answer}");
}

#[tokio::test]
async fn a_code_map_holds_for_who_speaks_in_both_directions() {
    let mut codes = CodeMap::default();
    let wire = |code: &str, system: &str| waymark_core::directory::WireCode {
        code: code.to_owned(),
        system: system.to_owned(),
        display: "Words".to_owned(),
    };
    codes.priority.insert(
        waymark_core::referral::Priority::Immediate,
        wire("1", "LOCAL"),
    );
    codes
        .status
        .insert(LegState::Submitted, wire("NEW", "LOCAL"));
    let options = || {
        let codes = codes.clone();
        let mut options = options();
        options.codes = Arc::new(move |name| match name {
            "mllp:school" => codes.clone(),
            _ => CodeMap::default(),
        });
        options
    };
    let intake = TestIntake::accepting();
    let local = referral().replacen("S^Stat^HL70280", "1^Now^LOCAL", 1);
    let asked = local.replacen("REF^I12^REF_I12", "REF^I15^REF_I12", 1);
    let both = format!("\u{b}{local}\u{1c}\r\u{b}{asked}\u{1c}\r");
    let talk = |address| async move { say(address, both.as_bytes(), 2).await };
    let answers = with_listener(options(), intake.clone(), talk).await;
    assert!(
        answers[1].contains("\rRF1|NEW^Words^LOCAL|"),
        "{}",
        answers[1]
    );
    let taken = intake.taken.lock().unwrap();
    let InboundBody::Submit(referral) = &taken[0].body else {
        panic!("not a referral")
    };
    assert_eq!(
        referral.priority,
        waymark_core::referral::Priority::Immediate
    );
}

#[tokio::test]
async fn a_document_comes_inline_with_its_digest_and_one_that_cannot_be_read_is_refused() {
    let obx = "OBX|1|ED|report^EP report^WMDOC^ABCD^^SHA-256|1|MIS^AP^pdf^Base64^QUJD||||||F\r";
    let (inbound, _) = taken(&(referral() + obx)).await;
    let [document] = &inbound.attachments[..] else {
        panic!("{:?}", inbound.attachments)
    };
    assert_eq!(document.media_type, "application/pdf");
    assert_eq!(document.sha256.as_deref(), Some("abcd"));
    assert_eq!(document.kind.as_deref(), Some("report"));
    assert_eq!(document.title.as_ref().unwrap().expose(), "EP report");
    assert_eq!(document.bytes.expose(), b"ABC");
    let intake = TestIntake::accepting();
    let broken = referral() + &obx.replace("QUJD", "?");
    let answer = answer_to(&broken, intake.clone()).await;
    assert!(answer.contains("ERR||OBX^1^5|102^"), "{answer}");
    assert_eq!(intake.count(), 0);
}
