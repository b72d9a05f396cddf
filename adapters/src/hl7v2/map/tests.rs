//! The map, both ways, in both versions.

use proptest::prelude::*;
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::directory::{CodeMap, Environment};
use waymark_core::id::{DeliveryId, Reference, ReferralId, WireId};
use waymark_core::leg::LegState;
use waymark_core::personal::Personal;
use waymark_core::port::{InboundBody, RenderError, Source, StatusNotice, StopNotice, Withdrawal};
use waymark_core::referral::{ConsentGiver, ConsentScope, Priority, Referral, SenderReference};
use waymark_core::time::Timestamp;

use super::{inward, outward, status};
use crate::hl7v2::config::tests::{PLAIN, endpoint};
use crate::hl7v2::config::{Assumptions, Settings};
use crate::hl7v2::fault::FieldFault;
use crate::hl7v2::message::{LineEndings, Message};
use crate::hl7v2::referral::RefMessage;
use crate::hl7v2::status::RriMessage;

/// A referral with something in every field.
pub(in crate::hl7v2) const FULL: &str = r#"{
    "child": {
        "name": {"family": "Te|st", "given": "Ch^ild", "middle": "Zoë"},
        "date_of_birth": "2016-05-04", "sex": "female",
        "nhs_number": "9434765919", "nhs_verification": "verified", "upn": "H882200021001",
        "local_ids": [
            {"system": "https://school.example/pupil", "value": "P-77"},
            {"system": "MIS", "value": "12"}
        ],
        "address": {"lines": ["3 Mill Street", "Flat 2", "Northtown"], "postcode": "SS1 1AB"},
        "language": "pl", "interpreter_required": true
    },
    "contacts": [
        {"name": {"family": "Test", "given": "Parent"}, "role": "mother",
         "parental_responsibility": true, "phone": "01632 960001", "email": "p@example.org",
         "safe_to_contact": "no", "safe_contact_note": "only through school",
         "format": "easy_read", "channel": "sms"},
        {"name": {"family": "Swift", "given": "Sam"}, "role": "social_worker",
         "phone": "01632 960002", "safe_to_contact": "with_care"}
    ],
    "referrer": {"name": "Ada Grace Okoro", "role": "SENCO", "phone": "01632 960003", "email": "a@example.org"},
    "setting": {"urn": "123456", "name": "North School", "kind": "primary", "year_group": 5, "sen_provision": "K"},
    "needs": [{"kind": "ASD", "rank": 1}, {"kind": "SLCN", "rank": 2}],
    "pathway": "autism-assessment", "requested_service": "paed-autism",
    "priority": "soon", "priority_reason": "placement at risk",
    "reason": {"code": "AUT", "text": "Suspected autism"},
    "concerns": [{"setting": "home", "text": "one\ntwo & three", "onset": "2023", "impact": "sleep"}],
    "graduated_response": [{"from": "2025-09-01", "to": "2025-12-01", "what": "1:1 reading", "outcome": "little"}],
    "hearing_checked": "yes", "vision_checked": "no", "attendance_percent": 81,
    "safeguarding": [
        {"system": "http://snomed.info/sct", "code": "836881000000105", "text": "Child is cause for concern"}
    ],
    "reasonable_adjustments": [
        {"system": "https://fhir.nhs.uk/CodeSystem/flag-categories-bars", "code": "requiresinformationineasyread"},
        {"system": "local", "code": "quiet-room", "text": "needs a quiet ~ room"}
    ],
    "allergies": "Peanut: anaphylaxis",
    "consent": {"status": "given", "given_by": "Parent Test", "role": "parent_with_pr",
        "scope": ["referral", "share_health"], "date": "2026-02-01", "evidence": "form 7"},
    "lawful_basis": "public_task_care",
    "external_ids": [{"system": "https://fhir.nhs.uk/Id/UBRN", "value": "000000070000"}],
    "narrative": "First line.\nSecond \\ line | with separators."
}"#;

pub(in crate::hl7v2) fn referral() -> Referral {
    serde_json::from_str(FULL).unwrap()
}

fn withdrawn() -> StopNotice {
    StopNotice::Withdrawn(Withdrawal {
        scopes: [ConsentScope::Referral].into(),
        by: "Parent Test".into(),
        role: ConsentGiver::Parent,
        date: jiff::civil::date(2026, 2, 1),
        evidence: None,
    })
}

pub(in crate::hl7v2) fn source(kind: Kind, content: Option<Referral>) -> Source {
    let delivery = DeliveryId::from_bytes([7; 16]);
    let referral = ReferralId::from_bytes([9; 16]);
    Source {
        delivery,
        wire_id: WireId::of(delivery),
        referral,
        reference: Reference::of(referral),
        leg: None,
        version: 1,
        kind,
        sender: "EE123456".parse().unwrap(),
        recipient: "R1L".parse().unwrap(),
        service: Some("paed-autism".parse().unwrap()),
        content,
        status: None,
        family: None,
        stop: (kind == Kind::Withdraw).then(withdrawn),
        reason: None,
        sender_reference: Some(SenderReference {
            value: "SM-7".into(),
            namespace: "SCHOOLMIS".into(),
        }),
        receiver_reference: None,
        attachments: Vec::new(),
        conversation: None,
        at: Timestamp::from_ms(1_772_447_400_000),
        environment: Environment::Test,
    }
}

fn settings(version: &str) -> Settings {
    Settings::read(&endpoint(&PLAIN.replace("2.5", version))).unwrap()
}

fn assumptions() -> Assumptions {
    Assumptions::of("unsorted".parse().unwrap())
}

fn parsed(wire: &str) -> Message {
    Message::parse(wire.as_bytes(), LineEndings::Cr).unwrap()
}

fn read(wire: &str) -> Result<InboundBody, FieldFault> {
    inward::read(
        &RefMessage::read(&parsed(wire))?,
        &assumptions(),
        &CodeMap::default(),
    )
}

/// What a referral becomes at a gateway that reads it from the wire.
fn as_read(mut content: Referral) -> Referral {
    let reference = source(Kind::New, None).reference;
    content.sender_reference = Some(SenderReference {
        value: reference.as_str().into(),
        namespace: "WAYMARK".into(),
    });
    content.documents.clear();
    content
}

#[test]
fn full_referral_comes_back_whole_in_both_versions() {
    for version in ["2.4", "2.5"] {
        let wire = outward::render(&source(Kind::New, Some(referral())), &settings(version));
        let Ok(InboundBody::Submit(back)) = read(&wire.unwrap()) else {
            panic!("not a submit")
        };
        assert_eq!(
            serde_json::to_value(&*back).unwrap(),
            serde_json::to_value(as_read(referral())).unwrap(),
            "{version}"
        );
    }
}

#[test]
fn header_and_referral_segment_hold_what_the_rulings_say() {
    let source = source(Kind::New, Some(referral()));
    let wire = outward::render(&source, &settings("2.5")).unwrap();
    let message = parsed(&wire);
    let msh = message.segment("MSH", 1).unwrap();
    assert_eq!(msh.text(10, 1), source.wire_id.as_str());
    assert_eq!(msh.text(11, 1), "T");
    assert_eq!(msh.text(12, 1), "2.5");
    assert_eq!(msh.text(7, 1), "20260302103000+0000");
    let rf1 = message.segment("RF1", 1).unwrap();
    assert_eq!(rf1.text(6, 1), source.reference.as_str());
    assert_eq!(rf1.text(6, 2), "WAYMARK");
    assert!(rf1.text(6, 1).len() <= 30);
    assert_eq!(rf1.text(11, 1), "SM-7");
    assert_eq!(
        rf1.text(2, 1),
        "A",
        "soon is nearest to as soon as possible"
    );
    let live = Source {
        environment: Environment::Live,
        ..source
    };
    let wire = outward::render(&live, &settings("2.4")).unwrap();
    assert!(wire.contains("|P|2.4|"), "{wire}");
}

#[test]
fn safety_critical_content_comes_first_with_its_banner() {
    let wire = outward::render(&source(Kind::New, Some(referral())), &settings("2.5")).unwrap();
    let message = parsed(&wire);
    let banners: Vec<String> = message
        .segments_named("NTE")
        .map(|note| note.field(3).first().whole().into_owned())
        .collect();
    assert_eq!(
        banners[..7],
        [
            "SAFEGUARDING FLAG: Child is cause for concern",
            "UNSAFE: DO NOT CONTACT Parent (mother). only through school NEEDS EASY READ.",
            "CONTACT ONLY WITH CARE: Sam (social_worker).",
            "ALLERGIES: Peanut: anaphylaxis",
            "REASONABLE ADJUSTMENT: requiresinformationineasyread",
            "REASONABLE ADJUSTMENT: needs a quiet ~ room",
            "CONSENT given covers: referral, share_health",
        ]
    );
    // The number of somebody unsafe to contact stands in no field that a system may dial from.
    let kin: Vec<String> = message
        .segments_named("NK1")
        .map(|kin| kin.field(5).raw().to_owned())
        .collect();
    assert_eq!(kin, ["", "01632 960002^PRN^PH"]);
}

#[test]
fn amend_and_cancel_carry_their_events_and_the_same_reference() {
    let amend = outward::render(&source(Kind::Amend, Some(referral())), &settings("2.5"));
    let Ok(InboundBody::Amend(reference, content)) = read(&amend.unwrap()) else {
        panic!("not an amend")
    };
    assert_eq!(Some(&reference), content.sender_reference.as_ref());
    for (kind, banner) in [
        (Kind::Cancel, "REFERRAL CANCELLED: moved away"),
        (
            Kind::Withdraw,
            "CONSENT WITHDRAWN, STOP AND DO NOT SHARE FURTHER: moved away",
        ),
    ] {
        let source = Source {
            reason: Some("moved away".into()),
            ..source(kind, Some(referral()))
        };
        let wire = outward::render(&source, &settings("2.5")).unwrap();
        assert!(wire.contains("REF^I14^REF_I12"));
        assert!(wire.contains(banner), "{wire}");
        assert!(
            wire.contains("SAFEGUARDING FLAG"),
            "a cancel keeps the flag"
        );
        assert!(!wire.contains("Mill Street"), "a cancel repeats no address");
        let reference = match read(&wire) {
            Ok(InboundBody::Cancel(reference, _, reason)) if kind == Kind::Cancel => {
                assert_eq!(reason, Some(Personal::from("moved away")));
                reference
            }
            Ok(InboundBody::Withdraw(reference, _)) if kind == Kind::Withdraw => reference,
            other => panic!("{kind}: {other:?}"),
        };
        assert_eq!(reference.value, source.reference.as_str());
    }
}

#[test]
fn address_is_left_out_where_the_endpoint_says_so() {
    let settings = Settings {
        send_address: false,
        ..settings("2.5")
    };
    let wire = outward::render(&source(Kind::New, Some(referral())), &settings).unwrap();
    assert!(!wire.contains("Mill Street"));
    assert!(!wire.contains("SS1 1AB"));
}

#[test]
fn message_that_would_be_too_large_is_refused_and_the_edge_is_taken() {
    let of_size = |size: usize| {
        let mut content = referral();
        content.narrative = Some(Personal::new("x".repeat(size)));
        outward::render(&source(Kind::New, Some(content)), &settings("2.5"))
    };
    let limit = crate::hl7v2::message::MESSAGE_BYTES_MAX;
    let overhead = of_size(0).unwrap().len();
    // The narrative stands twice: as the banner and as a part.
    let edge = (limit - overhead) / 2;
    assert!(of_size(edge).is_ok());
    assert!(matches!(
        of_size(edge + 1),
        Err(RenderError::CannotCarry(_))
    ));
}

#[test]
fn long_words_are_cut_in_fields_and_whole_in_notes() {
    let mut content = referral();
    let long = "|".repeat(outward::TEXT_CHARS_MAX);
    content.reason.text = Some(Personal::new(long.clone()));
    content.allergies = Some(Personal::new(long.clone()));
    content.referrer.name = Personal::new(long.clone());
    content.contacts[1].name.family = Personal::new(long.clone());
    content.child.local_ids[0].value = Personal::new(long.clone());
    content.external_ids[0].value = long;
    let wire = outward::render(&source(Kind::New, Some(content.clone())), &settings("2.5"));
    let wire = wire.unwrap();
    for segment in wire
        .split('\r')
        .filter(|segment| !segment.starts_with("NTE"))
    {
        for part in segment.split(['|', '~', '^']) {
            assert!(part.chars().count() <= outward::TEXT_CHARS_MAX, "{segment}");
        }
    }
    let Ok(InboundBody::Submit(back)) = read(&wire) else {
        panic!("not a submit")
    };
    assert_eq!(*back, as_read(content));
}

#[test]
fn documents_are_announced_and_not_taken_back() {
    let mut content = referral();
    content.documents = serde_json::from_value(serde_json::json!([{
        "id": "0197f3c2-7d11-7a10-9c1e-2f6b0c9f1a01", "sha256": "0".repeat(64),
        "media_type": "application/pdf", "size_bytes": 12, "title": "Form"
    }]))
    .unwrap();
    let wire = outward::render(&source(Kind::New, Some(content)), &settings("2.5")).unwrap();
    assert!(wire.contains("Document held by the gateway, not enclosed: Form"));
    let Ok(InboundBody::Submit(back)) = read(&wire) else {
        panic!("not a submit")
    };
    assert!(back.documents.is_empty());
}

const FOREIGN: &str = include_str!("../fixtures/ref-i12-v28-wide.hl7");

fn read_foreign(text: &str, assumptions: &Assumptions) -> Result<Referral, FieldFault> {
    let message = Message::parse(text.as_bytes(), LineEndings::Any)?;
    match inward::read(
        &RefMessage::read(&message)?,
        assumptions,
        &CodeMap::default(),
    )? {
        InboundBody::Submit(content) => Ok(*content),
        other => panic!("not a submit: {other:?}"),
    }
}

#[test]
fn foreign_referral_is_read_with_what_the_agreement_assumes() {
    let mut agreed = assumptions();
    agreed
        .pathways
        .insert("O".into(), "neurodevelopment".parse().unwrap());
    let content = read_foreign(FOREIGN, &agreed).unwrap();
    assert_eq!(content.pathway.as_str(), "neurodevelopment");
    assert_eq!(
        read_foreign(FOREIGN, &assumptions())
            .unwrap()
            .pathway
            .as_str(),
        "unsorted"
    );
    assert_eq!(content.child.name.family.expose(), "SWIFT");
    assert_eq!(
        content.child.date_of_birth.expose().to_string(),
        "2014-06-15"
    );
    assert_eq!(content.child.local_ids.len(), 2);
    assert_eq!(content.child.local_ids[0].system, "ADT1");
    assert_eq!(content.child.language.as_deref(), Some("en"));
    assert_eq!(content.child.address.as_ref().unwrap().lines.len(), 3);
    assert_eq!(content.referrer.name.expose(), "ADA OKORO");
    assert_eq!(content.priority, Priority::Routine);
    assert_eq!(content.reason.code, "O");
    assert_eq!(
        content.allergies.as_ref().unwrap().expose(),
        "PEN Penicillin, Mild MI, moderate"
    );
    assert_eq!(
        content.requested_service, None,
        "a foreign code is no service of ours"
    );
    let narrative = content.narrative.as_ref().unwrap().expose();
    assert!(narrative.starts_with("Hearing test\nNo loss found & no follow-up\nSchool note\n"));
    assert_eq!(content.sender_reference.as_ref().unwrap().value, "710042");
    let today = jiff::civil::date(2026, 3, 2);
    assert_eq!(content.violations(today), Vec::new());
}

#[test]
fn public_corpus_becomes_two_referrals_and_a_cancel() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus/hl7v2");
    let Ok(entries) = std::fs::read_dir(folder) else {
        eprintln!("the shared corpus is absent: nothing of it was mapped");
        return;
    };
    let (mut submits, mut cancels) = (0, 0);
    for entry in entries {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let message = Message::parse(&bytes, LineEndings::Any).unwrap();
        match inward::read(
            &RefMessage::read(&message).unwrap(),
            &assumptions(),
            &CodeMap::default(),
        )
        .unwrap()
        {
            InboundBody::Submit(content) => {
                assert_eq!(
                    content.violations(jiff::civil::date(2026, 3, 2)),
                    Vec::new()
                );
                submits += 1;
            }
            InboundBody::Cancel(reference, _, _) => {
                assert_eq!(
                    (&*reference.value, &*reference.namespace),
                    ("226839", "EPIC")
                );
                cancels += 1;
            }
            other => panic!("neither: {other:?}"),
        }
    }
    assert_eq!((submits, cancels), (2, 1));
}

#[test]
fn fields_without_a_place_in_a_referral_are_named() {
    for (from, to, place) in [
        ("|R^Routine^HL70280|", "|Q^Quick^HL70280|", "RF1-2"),
        ("|20140615|", "||", "PID-7"),
        ("|20140615|", "|20141399|", "PID-7"),
        ("|20140615|M|", "|20140615|Q|", "PID-8"),
        ("SWIFT^ADAM^A^III", "", "PID-5"),
        ("123456789^^^^^LOCALSS^", "9434765918^^^NHS^NH", "PID-3"),
        ("123456789^^^^^LOCALSS^", "A882200021001^^^DFE^UPN", "PID-3"),
        (
            "123456789^^^^^LOCALSS^",
            "9434765919^^^NHS^NH~9434765870^^^NHS^NH",
            "PID-3",
        ),
    ] {
        assert!(FOREIGN.contains(from), "{from}");
        let fault = read_foreign(&FOREIGN.replacen(from, to, 1), &assumptions()).unwrap_err();
        assert_eq!(fault.place(), place, "{from} -> {to}");
        assert!(
            !fault.to_string().contains("943476"),
            "a fault quotes no number"
        );
    }
}

#[test]
fn notes_of_our_form_may_not_say_what_segments_say() {
    let note = |kind: &str, part: &str| {
        let text = format!("{FOREIGN}\nNTE|9|P|banner~{part}|{kind}^x^WMNOTE");
        read_foreign(&text, &assumptions())
    };
    assert_eq!(note("NEED", "kind=ASD~rank:=1").unwrap().needs.len(), 1);
    for (kind, part) in [
        ("CHILD", "nhs_number=9434765919"),
        ("REQUEST", "sender_reference.value=X"),
        ("NEED", "kind=NOPE~rank:=1"),
        ("NEED", "rank:=oops"),
        ("SG", "flag=unknown field"),
        ("NARRATIVE", "words=x"),
    ] {
        let fault = note(kind, part).unwrap_err();
        assert_eq!(fault.segment, "NTE", "{kind} {part}");
    }
}

fn rri(text: &str) -> waymark_core::port::InboundStatus {
    let message = Message::parse(text.as_bytes(), LineEndings::Any).unwrap();
    status::read(&RriMessage::read(&message).unwrap(), &CodeMap::default()).unwrap()
}

const ACCEPTED: &str = include_str!("../fixtures/rri-i12-v25.hl7");

#[test]
fn answer_becomes_a_status_with_its_evidence() {
    let read = rri(ACCEPTED);
    assert_eq!(read.referral, "WM-7QK2");
    assert_eq!(read.answers.as_deref(), Some("WM0000000001"));
    assert_eq!(read.receiver_reference.as_deref(), Some("PAS-5521"));
    assert_eq!(read.state, LegState::Accepted);
    assert_eq!(read.grade, Evidence::ApplicationAck);
    assert_eq!(read.text.unwrap().expose(), "Seen in clinic 4");
    assert_eq!(read.at.unwrap().to_string(), "2026-03-05T10:30:00.000Z");
    let unsolicited = rri(&ACCEPTED.replace("MSA|AA|WM0000000001\n", ""));
    assert_eq!(
        (unsolicited.answers, unsolicited.grade),
        (None, Evidence::None)
    );
}

#[test]
fn each_code_of_rf1_1_becomes_its_nearest_state() {
    let bare = ACCEPTED.replace("NTE|1|L|Seen in clinic 4\n", "");
    for (text, from, to, state, reason) in [
        (bare.as_str(), "RF1|A", "RF1|R", LegState::Declined, None),
        (&bare, "RF1|A", "RF1|P", LegState::InTriage, None),
        (ACCEPTED, "RF1|A", "RF1|P", LegState::InfoNeeded, None),
        (&bare, "RF1|A", "RF1|E", LegState::OnHold, Some("expired")),
        (&bare, "RRI^I12", "RRI^I14", LegState::Cancelled, None),
    ] {
        let read = rri(&text.replacen(from, to, 1));
        assert_eq!(
            (read.state, read.reason_code.as_deref()),
            (state, reason),
            "{to}"
        );
    }
    let refused = bare.replace("RRI^I12", "RRI^I14").replace("RF1|A", "RF1|R");
    let read = rri(&refused);
    assert_eq!(read.reason_code.as_deref(), Some("cancel_refused"));
    let message = Message::parse(refused.as_bytes(), LineEndings::Any).unwrap();
    assert!(
        status::refuses_cancel(&RriMessage::read(&message).unwrap(), &CodeMap::default()).unwrap()
    );
}

#[test]
fn every_state_told_to_a_sender_is_read_back_exactly() {
    for state in LegState::ALL {
        let notice = StatusNotice {
            from: "R1L".parse().unwrap(),
            service: Some("paed-autism".parse().unwrap()),
            state: *state,
            code: "told".into(),
            text: Some("words | here".into()),
            due: None,
            at: Timestamp::from_ms(1_772_447_400_000),
        };
        let source = Source {
            status: Some(notice),
            ..source(Kind::Status, None)
        };
        let wire = outward::render(&source, &settings("2.5")).unwrap();
        let read = rri(&wire);
        assert_eq!(read.state, *state);
        assert_eq!(
            read.referral, "SM-7",
            "the sender's own reference is echoed"
        );
        assert_eq!(
            read.receiver_reference.as_deref(),
            Some(source.reference.as_str())
        );
        assert_eq!(read.reason_code.as_deref(), Some("told"));
        assert_eq!(read.text.unwrap().expose(), "words | here");
    }
    let without = outward::render(&source(Kind::Status, None), &settings("2.5"));
    assert!(matches!(without, Err(RenderError::CannotCarry(_))));
}

proptest! {
    #[test]
    fn any_words_in_any_text_come_back(
        words in prop::collection::vec("([^\\p{Cc}]|\n|\t){1,40}", 8),
        escaped in "[|^~&\\\\#\\.brXE0-9=:~]{1,30}",
    ) {
        let mut content = referral();
        let text = |n: usize| Personal::new(words[n].clone());
        content.narrative = Some(Personal::new(escaped.clone() + &words[0]));
        content.allergies = Some(text(1));
        content.concerns[0].text = text(2);
        content.concerns[0].onset = Some(text(3));
        content.contacts[0].safe_contact_note = Some(text(4));
        content.safeguarding[0].text = Some(text(5));
        content.reasonable_adjustments[1].text = Some(text(6));
        content.referrer.name = Personal::new(format!("A{}", words[7]));
        let wire = outward::render(&source(Kind::New, Some(content.clone())), &settings("2.5"));
        let Ok(InboundBody::Submit(back)) = read(&wire.unwrap()) else {
            return Err(TestCaseError::fail("not a submit"));
        };
        prop_assert_eq!(*back, as_read(content));
    }
}
