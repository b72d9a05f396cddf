//! Answers that come by themselves, and what they bring.

use waymark_core::delivery::{Evidence, ParkReason};
use waymark_core::directory::CodeMap;
use waymark_core::leg::LegState;
use waymark_core::port::InboundBody;

use crate::hl7v2::content::Envelope;
use crate::hl7v2::fault::FieldFault;
use crate::hl7v2::message::{LineEndings, Message};

const ACCEPTED: &str = include_str!("../fixtures/rri-i12-v25.hl7");

#[test]
fn an_answer_that_comes_by_itself_and_refuses_is_no_status() {
    let later = |msa: &str| {
        let text = ACCEPTED.replace("MSA|AA|WM0000000001", msa);
        let text = text.replacen("RF1|A", "RF1|P", 1);
        let message = Message::parse(text.as_bytes(), LineEndings::Any).unwrap();
        let envelope = Envelope::read(&message).unwrap();
        let read = super::answer(&message, &envelope, &CodeMap::default());
        read.unwrap().unwrap()
    };
    for (code, why) in [
        ("AE", "hl7.ae"),
        ("AR", "hl7.ar"),
        ("CE", "hl7.ce"),
        ("CR", "hl7.cr"),
        ("AE|WM1|words|||207", "hl7.ae.207"),
    ] {
        let msa = match code.split_once('|') {
            Some(_) => format!("MSA|{code}"),
            None => format!("MSA|{code}|WM1"),
        };
        let InboundBody::Undelivered(undelivered) = later(&msa) else {
            panic!("{code} is progress");
        };
        assert_eq!(undelivered.answers, "WM1");
        assert_eq!(undelivered.reason, ParkReason::Refused);
        assert_eq!(undelivered.why.code, why);
        assert!(!undelivered.why.text.contains("words"));
    }
    let InboundBody::Status(status) = later("MSA|CA|WM1") else {
        panic!("no status");
    };
    assert_eq!(status.state, LegState::InfoNeeded);
    assert_eq!(status.grade, Evidence::TransportAck);
    // What it has already it neither takes nor refuses.
    let InboundBody::Status(status) = later("MSA|AE|WM1||||205") else {
        panic!("a repeat is no refusal");
    };
    assert_eq!(
        (status.state, status.grade),
        (LegState::Submitted, Evidence::None)
    );
}

#[test]
fn a_refusal_is_heard_whatever_else_stands_with_it_or_does_not() {
    let header = ACCEPTED.lines().next().unwrap();
    for more in [
        "",
        "RF1|R|R\n",
        "RF1|P|R||||WM-1\nRF1|P|R||||WM-2\n",
        "OBX|1|ED|r||EPR^AP^pdf^Base64^QUJD\nAL1|1||\n",
    ] {
        let bare = format!("{header}\nMSA|AR|WM1\n{more}");
        let InboundBody::Undelivered(undelivered) = read(&bare).unwrap() else {
            panic!("{more} is progress");
        };
        assert_eq!(undelivered.answers, "WM1", "{more}");
    }
    let unreadable = read(&format!("{header}\nMSA|ZZ|WM1\n")).unwrap_err();
    assert_eq!(&*unreadable.place(), "MSA-1");
    let progress = read(&format!("{header}\nMSA|AA|WM1\n")).unwrap_err();
    assert_eq!(&*progress.place(), "RF1-6", "what it accepts it must name");
}

const SIU: &str = include_str!("../fixtures/siu-s12-v24.hl7");
/// What comes with an answer, and must not be lost.
const BRINGS: &str = "DG1|1||F84.0^Childhood autism^I10\nAL1|1||^Penicillin|SV^Severe|rash\n\
    OBX|1|TX|RISK^Risk||do not visit alone\nOBX|2|RP|r^Letter^L^AB^^SHA-256||9^EPR^AP^pdf\nZRX|1|seen by the duty team\n";
const BROUGHT: &str = "Diagnosis: F84.0 Childhood autism\nAllergy: Penicillin, Severe SV, rash\nRisk: do not visit alone\n\
    Document held by the sender, not enclosed: Letter (SHA-256 ab)\nAlso sent: ZRX|1|seen by the duty team";
const OWN: &str = "NTE|2|P|Referral is on_hold.~state=on_hold~text=Own words|STATE^x^WMNOTE\n";

fn read(text: &str) -> Result<InboundBody, FieldFault> {
    let message = Message::parse(text.as_bytes(), LineEndings::Any).unwrap();
    let envelope = Envelope::read(&message).unwrap();
    super::answer(&message, &envelope, &CodeMap::default()).unwrap()
}

fn words(text: &str) -> String {
    match read(text) {
        Ok(InboundBody::Status(status)) => status.text.unwrap().expose().clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_comes_with_a_status_stands_in_its_words() {
    let rri = format!("{ACCEPTED}{BRINGS}");
    assert_eq!(words(&rri), format!("Seen in clinic 4\n{BROUGHT}"));
    let rri = format!("{rri}{OWN}");
    let own = "Own words\nSeen in clinic 4";
    assert_eq!(words(&rri), format!("{own}\n{BROUGHT}"));
    let siu = format!("{SIU}{BRINGS}");
    let said = "Appointment on 4 May 2026 at 10:30: Paediatric clinic\nBring the red book";
    assert_eq!(words(&siu), format!("{said}\n{BROUGHT}"));
    let own = "Own words\nBring the red book";
    assert_eq!(words(&format!("{siu}{OWN}")), format!("{own}\n{BROUGHT}"));
}

#[test]
fn nobody_is_told_with_a_status_where_a_family_lives() {
    let segments = "PID|1||1||Test^Child||||||9 Refuge Lane\nPD1||||G123^Gale\nNK1|1|Gale^Nan|MTH|9 Refuge Lane|01632960044\n\
        GT1|1||Gale^Nan||9 Refuge Lane\nIN1|1|X|Y|Z|9 Refuge Lane\nIN2|1|Gale\nIN3|1|Gale\nPV2||Gale\n\
        CTD|EC|Gale^Nan|9 Refuge Lane\nCTD|EC|Gale\nPRB|AD|2026|Gale\nZRX|1|seen\n";
    for answer in [ACCEPTED, SIU] {
        let words = words(&format!("{answer}{segments}"));
        assert!(
            !words.contains("Refuge") && !words.contains("Gale"),
            "{words}"
        );
        let named = "Also sent: ZRX|1|seen\nAlso sent, and not read: CTD, PRB.";
        assert!(words.ends_with(named), "{words}");
        assert_eq!(words.matches("Also").count(), 2, "{words}");
    }
}

#[test]
fn a_status_with_a_document_is_refused_at_its_place() {
    for answer in [ACCEPTED, SIU] {
        let with = format!("{answer}OBX|1|TX|a||b\nOBX|2|ED|r||EPR^AP^pdf^Base64^QUJD\n");
        let fault = read(&with).unwrap_err();
        assert_eq!(&*fault.place(), "OBX[2]-5");
        assert!(fault.rule.contains("a status carries none"));
    }
}

#[test]
fn a_place_for_an_allergy_that_nobody_filled_refuses_no_status_and_what_comes_of_one_is_told() {
    for answer in [ACCEPTED, SIU] {
        let with = format!("{answer}AL1|1||\nAL1|2|DA\nAL1|3|||SV^Severe|rash\n");
        let words = words(&with);
        assert!(words.ends_with("\nAllergy: Severe SV, rash"), "{words}");
        assert_eq!(words.matches("Allergy").count(), 1, "{words}");
    }
}
