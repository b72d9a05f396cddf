//! The map in every dialect: versions, character sets, local codes, documents, segments of the receiver's own.

use waymark_core::delivery::Kind;
use waymark_core::directory::{CodeMap, Endpoint, WireCode};
use waymark_core::id::DocumentId;
use waymark_core::leg::LegState;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{Adapter, Attachment, InboundBody, InboundStatus, Source, StatusNotice};
use waymark_core::referral::{DocumentRef, NeedType, Priority, Referral};
use waymark_core::time::Timestamp;

use super::tests::{referral, source};
use super::{appointment, documents, inward, outward, status};
use crate::hl7v2::appointment::SiuMessage;
use crate::hl7v2::build::Version;
use crate::hl7v2::config::tests::{PLAIN, endpoint};
use crate::hl7v2::config::{Assumptions, Settings};
use crate::hl7v2::message::{LineEndings, Message};
use crate::hl7v2::outbound::{Hl7v2Adapter, TlsProfiles};
use crate::hl7v2::referral::RefMessage;
use crate::hl7v2::status::RriMessage;
use crate::hl7v2::testing::TestClock;

fn dialect(version: Version, more: &str) -> Endpoint {
    let settings = PLAIN.replace("\"2.5\"", &format!("\"{}\"", version.code()));
    endpoint(&format!("{settings}\n{more}"))
}

fn settings(endpoint: &Endpoint) -> Settings {
    Settings::read(endpoint).unwrap()
}

fn parsed(wire: &[u8]) -> Message {
    Message::parse(wire, LineEndings::Any).unwrap()
}

fn read_as(wire: &[u8], codes: &CodeMap) -> InboundBody {
    let message = RefMessage::read(&parsed(wire)).unwrap();
    inward::read(
        &message,
        &Assumptions::of("unsorted".parse().unwrap()),
        codes,
    )
    .unwrap()
}

fn submitted(wire: &[u8], codes: &CodeMap) -> Referral {
    match read_as(wire, codes) {
        InboundBody::Submit(referral) => *referral,
        other => panic!("{other:?}"),
    }
}

/// What a referral becomes at a gateway that reads it from the wire.
fn as_read(mut content: Referral) -> Referral {
    content.sender_reference = Some(waymark_core::referral::SenderReference {
        value: source(Kind::New, None).reference.as_str().into(),
        namespace: "WAYMARK".into(),
    });
    content.documents.clear();
    content
}

fn rendered(source: &Source, endpoint: &Endpoint) -> Result<Vec<u8>, String> {
    let adapter = Hl7v2Adapter::new(
        TlsProfiles::new(),
        waymark_core::directory::Environment::Test,
        std::sync::Arc::new(TestClock),
    );
    let rendered = adapter.render(source, endpoint);
    let rendered = rendered.map_err(|error| error.to_string())?;
    let frame = rendered.bytes.expose();
    Ok(frame[1..frame.len() - 2].to_vec())
}

fn wire_code(code: &str, system: &str) -> WireCode {
    WireCode {
        code: code.to_owned(),
        system: system.to_owned(),
        display: "Words".to_owned(),
    }
}

#[test]
fn every_kind_in_every_version_comes_back_by_every_line_ending() {
    for version in Version::ALL {
        let endpoint = dialect(version, "");
        for kind in [Kind::New, Kind::Amend, Kind::Cancel, Kind::Withdraw] {
            let wire = rendered(&source(kind, Some(referral())), &endpoint).unwrap();
            let text = String::from_utf8(wire).unwrap();
            for ending in ["\r", "\n", "\r\n"] {
                let file = text.replace('\r', ending);
                let content = match read_as(file.as_bytes(), &CodeMap::default()) {
                    InboundBody::Submit(content) if kind == Kind::New => content,
                    InboundBody::Amend(_, content) if kind == Kind::Amend => content,
                    InboundBody::Cancel(..) if kind == Kind::Cancel => continue,
                    InboundBody::Withdraw(..) if kind == Kind::Withdraw => continue,
                    other => panic!("{other:?}"),
                };
                let (found, expected) = (
                    serde_json::to_value(&*content).unwrap(),
                    serde_json::to_value(as_read(referral())).unwrap(),
                );
                assert_eq!(found, expected, "{version:?} {kind}");
            }
        }
    }
}

#[test]
fn type_and_version_stand_as_each_version_has_them() {
    for (version, kind, code) in [
        (Version::V23, "REF^I12", "2.3"),
        (Version::V231, "REF^I12^REF_I12", "2.3.1"),
        (Version::V24, "REF^I12^REF_I12", "2.4"),
        (Version::V25, "REF^I12^REF_I12", "2.5"),
        (Version::V251, "REF^I12^REF_I12", "2.5.1"),
    ] {
        let wire = rendered(&source(Kind::New, Some(referral())), &dialect(version, "")).unwrap();
        let message = parsed(&wire);
        let msh = message.segment("MSH", 1).unwrap();
        assert_eq!((msh.field(9).raw(), msh.field(12).raw()), (kind, code));
        let kinds_in_nte_4 = message
            .segments_named("NTE")
            .all(|nte| !nte.field(4).raw().is_empty());
        assert_eq!(kinds_in_nte_4, version != Version::V23);
    }
}

#[test]
fn a_letter_that_the_receiver_cannot_read_is_refused_and_typography_becomes_plain() {
    let mut content = referral();
    content.narrative = Some("“Quiet” – it’s calm…".into());
    let of = |content: &Referral, charset: &str| {
        let endpoint = dialect(Version::V24, &format!("charset = \"{charset}\""));
        rendered(&source(Kind::New, Some(content.clone())), &endpoint)
    };
    let latin = of(&content, "8859/1").unwrap();
    assert!(latin.windows(3).any(|bytes| bytes == b"Zo\xeb"));
    let back = submitted(&latin, &CodeMap::default());
    assert_eq!(back.narrative.unwrap().expose(), "\"Quiet\" - it's calm...");
    assert_eq!(back.child.name.middle.unwrap().expose(), "Zoë");
    let why = of(&content, "ASCII").unwrap_err();
    assert!(why.contains("PID-5") && !why.contains("Zoë"), "{why}");
    content.child.name.middle = None;
    assert!(of(&content, "ASCII").unwrap().is_ascii());
    content.child.name.family = Personal::from("Łuczak");
    assert!(of(&content, "8859/1").is_err());
    assert!(of(&content, "UNICODE UTF-8").is_ok());
}

#[test]
fn local_codes_go_out_and_come_in_by_the_map_and_the_defaults_fill_its_gaps() {
    let mut endpoint = dialect(Version::V25, "");
    let codes = &mut endpoint.codes;
    codes
        .priority
        .insert(Priority::Soon, wire_code("2", "LOCAL"));
    codes.reason.insert("AUT".into(), wire_code("F84", "ICD10"));
    codes
        .need
        .insert(NeedType::Autism, wire_code("N1", "LOCAL"));
    let codes = codes.clone();
    let wire = rendered(&source(Kind::New, Some(referral())), &endpoint).unwrap();
    let message = parsed(&wire);
    let rf1 = message.segment("RF1", 1).unwrap();
    assert_eq!(rf1.field(2).raw(), "2^Words^LOCAL");
    assert_eq!(rf1.field(10).raw(), "F84^Words^ICD10");
    let dg1: Vec<&str> = message
        .segments_named("DG1")
        .map(|it| it.field(3).raw())
        .collect();
    assert_eq!(
        dg1,
        ["N1^Words^LOCAL"],
        "the need without a code stands in its note"
    );
    // A foreign message, without our notes, is read by the same map.
    let foreign: String = String::from_utf8(wire)
        .unwrap()
        .split_inclusive('\r')
        .filter(|segment| !segment.starts_with("NTE"))
        .collect();
    let back = submitted(foreign.as_bytes(), &codes);
    assert_eq!(back.priority, Priority::Soon);
    assert_eq!(back.reason.code, "AUT");
    assert_eq!(back.needs.len(), 1);
    assert_eq!(back.needs[0].kind, NeedType::Autism);
    let urgent = foreign.replacen("2^Words^LOCAL", "S^STAT^HL70280", 1);
    assert_eq!(
        submitted(urgent.as_bytes(), &codes).priority,
        Priority::Immediate
    );
}

fn document(nth: u8, media_type: &str, bytes: &[u8]) -> Attachment {
    Attachment {
        document: DocumentRef {
            id: DocumentId::from_bytes([nth; 16]),
            sha256: format!("{nth:064x}"),
            media_type: media_type.to_owned(),
            size_bytes: u64::try_from(bytes.len()).unwrap(),
            title: Some(format!("Report {nth}").into()),
            kind: (nth == 1).then(|| "report".to_owned()),
        },
        bytes: Payload::new(bytes.to_vec()),
    }
}

#[test]
fn documents_go_inline_as_far_as_they_were_opened_and_come_back_with_their_digests() {
    let (one, two) = (
        document(1, "application/pdf", b"%PDF-1.7 | ^ ~ \\ & \r\n"),
        document(2, "image/png", &[0, 255, 11, 28, 13]),
    );
    let elsewhere = document(3, "text/plain", b"").document;
    let mut content = referral();
    content.documents = vec![
        one.document.clone(),
        two.document.clone(),
        elsewhere.clone(),
    ];
    for version in Version::ALL {
        let source = Source {
            attachments: vec![one.clone(), two.clone()],
            ..source(Kind::New, Some(content.clone()))
        };
        let wire = rendered(&source, &dialect(version, "")).unwrap();
        let message = parsed(&wire);
        let names: Vec<&str> = message.segments().map(|segment| segment.name()).collect();
        let at = names.iter().position(|name| *name == "OBR").unwrap();
        assert_eq!(
            names[at..at + 6],
            ["OBR", "OBX", "OBX", "OBX", "PV1", "NTE"]
        );
        let came = documents::inward(&RefMessage::read(&message).unwrap());
        assert_eq!(came.len(), 2, "{version:?}");
        for (found, sent) in came.iter().zip([&one, &two]) {
            assert_eq!(found.bytes, sent.bytes);
            assert_eq!(found.media_type, sent.document.media_type);
            assert_eq!(found.sha256.as_ref(), Some(&sent.document.sha256));
            assert_eq!(found.title, sent.document.title);
            assert_eq!(found.kind, sent.document.kind);
        }
        let pointer = message.segment("OBX", 3).unwrap();
        assert_eq!(pointer.text(2, 1), "RP");
        assert_eq!(pointer.text(5, 1), elsewhere.id.to_string());
        let back = submitted(&wire, &CodeMap::default());
        let mut expected = as_read(content.clone());
        // Who reads it must know that there is a document, and by what to find it.
        let own = expected.narrative.as_ref().unwrap().expose();
        let sha256 = &elsewhere.sha256;
        let told = format!(
            "{own}\nDocument held by the sender, not enclosed: Report 3 (SHA-256 {sha256})"
        );
        expected.narrative = Some(told.into());
        assert_eq!(
            serde_json::to_value(back).unwrap(),
            serde_json::to_value(expected).unwrap()
        );
    }
}

#[test]
fn what_would_make_a_message_too_large_goes_by_reference_and_what_has_no_type_is_refused() {
    let large = document(1, "application/pdf", &vec![7; 800_000]);
    let mut content = referral();
    content.documents = vec![large.document.clone()];
    let source = Source {
        attachments: vec![large],
        ..source(Kind::New, Some(content))
    };
    let wire = rendered(&source, &dialect(Version::V25, "")).unwrap();
    let message = parsed(&wire);
    assert_eq!(message.segment("OBX", 1).unwrap().text(2, 1), "RP");
    assert!(
        String::from_utf8(wire)
            .unwrap()
            .contains("not enclosed: Report 1")
    );
    let mut content = referral();
    content.documents = vec![document(1, "video/mp4", b"x").document];
    let source = super::tests::source(Kind::New, Some(content));
    assert!(rendered(&source, &dialect(Version::V25, "")).is_err());
}

#[test]
fn a_receivers_own_segments_end_its_referrals_and_a_senders_are_kept() {
    let endpoint = dialect(
        Version::V24,
        "extra_segments = [\"ZWM|1|SEND\", \"ZWX|a^b\"]",
    );
    let wire = rendered(&source(Kind::Cancel, Some(referral())), &endpoint).unwrap();
    assert!(wire.ends_with(b"\rZWM|1|SEND\rZWX|a^b\r"));
    let kept = RefMessage::read(&parsed(&wire)).unwrap().kept;
    let kept: Vec<&str> = kept.iter().map(|segment| segment.raw.as_str()).collect();
    assert_eq!(kept, ["ZWM|1|SEND", "ZWX|a^b"]);
}

fn told(state: LegState, due: Option<&str>) -> Source {
    Source {
        status: Some(StatusNotice {
            from: "R1L".parse().unwrap(),
            service: Some("paed-autism".parse().unwrap()),
            state,
            code: "booked-by-phone".into(),
            text: Some("Clinic 4".into()),
            due: due.map(|day| day.parse().unwrap()),
            at: Timestamp::from_ms(1_772_447_400_000),
        }),
        ..source(Kind::Status, None)
    }
}

fn status_of(wire: &[u8], codes: &CodeMap) -> (String, InboundStatus) {
    let message = parsed(wire);
    let kind = message.segment("MSH", 1).unwrap();
    let kind = format!("{}^{}", kind.text(9, 1), kind.text(9, 2));
    let status = if kind.starts_with("SIU") {
        appointment::read(&SiuMessage::read(&message).unwrap()).unwrap()
    } else {
        status::read(&RriMessage::read(&message).unwrap(), codes).unwrap()
    };
    (kind, status)
}

#[test]
fn appointments_are_told_as_siu_where_the_dialect_says_so_and_everything_else_as_rri() {
    for version in Version::ALL {
        let siu = dialect(version, "status_as = \"siu\"");
        for (state, due, expected) in [
            (LegState::Booked, Some("2026-05-04"), "SIU^S12"),
            (LegState::Booked, None, "RRI^I12"),
            (LegState::AppointmentCancelled, None, "SIU^S15"),
            (LegState::WasNotBrought, None, "SIU^S26"),
            (LegState::Declined, None, "RRI^I12"),
        ] {
            let wire = rendered(&told(state, due), &siu).unwrap();
            let (kind, status) = status_of(&wire, &CodeMap::default());
            assert_eq!(
                (kind.as_str(), status.state),
                (expected, state),
                "{version:?}"
            );
            assert_eq!(status.due, due.map(|day| day.parse().unwrap()));
            assert_eq!(status.text, Some("Clinic 4".into()));
            assert_eq!(status.reason_code.as_deref(), Some("booked-by-phone"));
            let (kind, _) = status_of(
                &rendered(&told(state, due), &dialect(version, "")).unwrap(),
                &CodeMap::default(),
            );
            assert_eq!(kind, "RRI^I12");
        }
    }
}

#[test]
fn a_status_goes_out_by_the_receivers_own_code_and_is_read_by_it() {
    let mut endpoint = dialect(Version::V25, "");
    endpoint
        .codes
        .status
        .insert(LegState::Waiting, wire_code("LIST", "LOCAL"));
    let wire = rendered(&told(LegState::Waiting, None), &endpoint).unwrap();
    let text = String::from_utf8(wire).unwrap();
    assert!(text.contains("\rRF1|LIST^Words^LOCAL|"), "{text}");
    let foreign: String = text
        .split_inclusive('\r')
        .filter(|segment| !segment.starts_with("NTE"))
        .collect();
    let (_, status) = status_of(foreign.as_bytes(), &endpoint.codes);
    assert_eq!(status.state, LegState::Waiting);
}

#[test]
fn settings_of_a_dialect_reach_the_map() {
    let settings = settings(&dialect(Version::V251, "inline_bytes_max = 5"));
    assert_eq!(settings.dialect.version, Version::V251);
    assert_eq!(settings.dialect.inline_bytes_max, 5);
    assert!(outward::render(&source(Kind::New, Some(referral())), &settings).is_ok());
}

#[test]
fn answers_of_every_event_are_read_in_every_version_and_by_every_line_ending() {
    let answer = include_str!("../fixtures/rri-i12-v25.hl7");
    for version in Version::ALL {
        for (event, expected) in [
            ("I12", LegState::Accepted),
            ("I13", LegState::Accepted),
            ("I14", LegState::Cancelled),
            ("I15", LegState::Accepted),
        ] {
            let text = answer
                .replacen("RRI^I12", &format!("RRI^{event}"), 1)
                .replacen("|P|2.5", &format!("|P|{}", version.code()), 1);
            for ending in ["\r", "\n", "\r\n"] {
                let file = text.replace('\n', ending);
                let (_, status) = status_of(file.as_bytes(), &CodeMap::default());
                assert_eq!(status.state, expected, "{version:?} {event}");
                assert_eq!(status.referral, "WM-7QK2");
            }
        }
    }
}

/// What goes on the wire, word for word: a change here is a change for every partner.
#[test]
fn golden_messages_stand_as_they_are() {
    let (mut content, document) = (referral(), document(1, "application/pdf", b"ABC"));
    content.documents = vec![document.document.clone()];
    for (name, version, kind) in [
        ("ref-i12-v23", Version::V23, Kind::New),
        ("ref-i13-v24", Version::V24, Kind::Amend),
        ("ref-i14-v251", Version::V251, Kind::Cancel),
    ] {
        let source = Source {
            attachments: vec![document.clone()],
            ..source(kind, Some(content.clone()))
        };
        let wire = rendered(&source, &dialect(version, "")).unwrap();
        let text = String::from_utf8(wire).unwrap().replace('\r', "\n");
        insta::assert_snapshot!(name, text);
    }
    for (name, state) in [
        ("siu-s12-v25", LegState::Booked),
        ("siu-s26-v25", LegState::WasNotBrought),
        ("rri-i12-v25", LegState::Declined),
    ] {
        let due = (state == LegState::Booked).then_some("2026-05-04");
        let endpoint = dialect(Version::V25, "status_as = \"siu\"");
        let wire = rendered(&told(state, due), &endpoint).unwrap();
        let text = String::from_utf8(wire).unwrap().replace('\r', "\n");
        insta::assert_snapshot!(name, text);
    }
}
