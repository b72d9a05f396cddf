//! Answers that come by themselves, and what they bring.

use waymark_core::delivery::{Evidence, ParkReason};
use waymark_core::directory::CodeMap;
use waymark_core::leg::LegState;
use waymark_core::port::InboundBody;

use crate::hl7v2::content::Envelope;
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
