use proptest::prelude::*;
use serde_json::json;
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::directory::AdapterKind;
use waymark_core::id::DocumentId;
use waymark_core::leg::LegState;
use waymark_core::personal::Payload as Bytes;
use waymark_core::port::{Attachment, CancelCode, StopNotice};

use super::*;
use crate::context::EgressPolicy;
use crate::contract::sample;
use crate::far_side;

const PLAIN: &str = "url = \"http://127.0.0.1:1\"\nplain = true\nmailbox = \"X26ABC1\"\npassword = \"secret:mesh-password\"\n\
    shared_key = \"secret:mesh-key\"\nto = \"X26ABC2\"\nworkflow = \"SEND_REFERRAL\"";
const ASSUME: &str = "[assume]\npathway = \"autism-assessment\"";
const HL7: &str = "payload = \"hl7v2\"\n[hl7v2]\nversion = \"2.5\"\nack_mode = \"original\"\nsending_app = \"WAYMARK\"\n\
    sending_facility = \"GW\"\nreceiving_app = \"EPR\"\nreceiving_facility = \"R1L\"";
const FHIR: &str = "payload = \"fhir\"\n[fhir]\ntarget = { value = \"2000011147\" }\nsource = { value = \"2000099999\" }";

fn endpoint(more: &str) -> Endpoint {
    let mut endpoint = far_side::endpoint(AdapterKind::Mesh, &format!("{PLAIN}\n{more}\n{ASSUME}"));
    endpoint.releases_at = Evidence::TransportAck;
    endpoint
}

fn settings(endpoint: &Endpoint) -> Settings {
    Settings::read(endpoint, EgressPolicy::AsFlagged).unwrap()
}

fn source(kind: Kind) -> Source {
    let mut source = sample::source(kind);
    let Some(content) = source.content.as_mut() else {
        return source;
    };
    let mut document = content.documents.first().unwrap().clone();
    document.id = DocumentId::from_bytes([6; 16]);
    document.sha256 = super::super::envelope::checksum(b"%PDF")
        .strip_prefix("SHA-256 ")
        .unwrap()
        .to_owned();
    document.size_bytes = 4;
    content.documents = vec![document.clone()];
    source.attachments = vec![Attachment {
        document,
        bytes: Bytes::new(b"%PDF".to_vec()),
    }];
    source
}

fn sent(kind: Kind, endpoint: &Endpoint) -> Vec<u8> {
    let rendered = render(
        &source(kind),
        endpoint,
        &settings(endpoint),
        Environment::Test,
    );
    rendered.unwrap().bytes.into_inner()
}

/// The endpoint as the other gateway has it, whose agency is the one that sends.
fn theirs(endpoint: &Endpoint) -> Endpoint {
    Endpoint {
        agency: sample::source(Kind::New).sender,
        ..endpoint.clone()
    }
}

#[test]
fn the_body_with_its_documents_is_as_it_is_documented() {
    let shown: Value = serde_json::from_slice(&sent(Kind::New, &endpoint(""))).unwrap();
    insta::assert_json_snapshot!(shown);
}

#[test]
fn what_canonical_json_carries_comes_back_whole() {
    let endpoint = theirs(&endpoint(""));
    for kind in [Kind::New, Kind::Amend] {
        let said = read(&sent(kind, &endpoint), &endpoint, &settings(&endpoint)).unwrap();
        let mut expected = sample::referral();
        expected.documents.clear();
        let (InboundBody::Submit(referral) | InboundBody::Amend(_, referral)) = said.body else {
            panic!("no referral");
        };
        assert_eq!(*referral, expected);
        assert_eq!(said.environment, Some(Environment::Test));
        let [document] = said.documents.as_slice() else {
            panic!("{} documents", said.documents.len());
        };
        assert_eq!(document.bytes.expose(), b"%PDF");
        assert_eq!(document.kind.as_deref(), Some("questionnaire"));
    }
    let said = read(
        &sent(Kind::Cancel, &endpoint),
        &endpoint,
        &settings(&endpoint),
    );
    let Ok(Said {
        body: InboundBody::Cancel(reference, code, reason),
        ..
    }) = said
    else {
        panic!("no cancel");
    };
    assert_eq!(code, CancelCode::FamilyRequest);
    assert_eq!(
        Some(reference),
        sample::source(Kind::Cancel).sender_reference
    );
    assert_eq!(reason, sample::source(Kind::Cancel).reason);
    let bytes = sent(Kind::Withdraw, &endpoint);
    let said = read(&bytes, &endpoint, &settings(&endpoint)).unwrap();
    let InboundBody::Withdraw(_, withdrawal) = said.body else {
        panic!("no withdrawal");
    };
    let stop = sample::source(Kind::Withdraw).stop;
    assert_eq!(Some(StopNotice::Withdrawn(withdrawal)), stop);
}

#[test]
fn hl7_v2_and_fhir_are_told_by_their_content_and_bring_safety_back() {
    for more in [HL7, FHIR] {
        let endpoint = theirs(&endpoint(more));
        let bytes = sent(Kind::New, &endpoint);
        let said = read(&bytes, &endpoint, &settings(&endpoint)).unwrap();
        let InboundBody::Submit(referral) = said.body else {
            panic!("no referral");
        };
        let expected = sample::referral();
        assert_eq!(referral.safeguarding.len(), expected.safeguarding.len());
        assert_eq!(
            referral.reasonable_adjustments.first().unwrap().code,
            "requiresinformationineasyread"
        );
        assert_eq!(said.environment, Some(Environment::Test), "{more}");
        assert_eq!(said.documents.first().unwrap().bytes.expose(), b"%PDF");
    }
}

#[test]
fn who_a_message_says_that_it_is_from_must_be_who_sent_it() {
    let own = endpoint("");
    let fault = read(&sent(Kind::New, &own), &own, &settings(&own));
    assert_eq!(fault.err().unwrap().field, "data.sender");
    let own = endpoint(FHIR);
    let fault = read(&sent(Kind::New, &own), &own, &settings(&own));
    assert!(fault.err().unwrap().field.ends_with(".sender"));
}

#[test]
fn what_cannot_be_taken_in_is_named_by_its_place_and_never_repeated() {
    let endpoint = endpoint("");
    let settings = settings(&endpoint);
    let event = |r#type: &str, data: Value| {
        json!({"type": r#type, "environment": "test", "data": data}).to_string()
    };
    for (body, field) in [
        ("hello Quillfeather".to_owned(), "data"),
        ("{\"colour\": \"Quillfeather\"}".to_owned(), "colour"),
        (event("referral.new", json!({})), "data.referral"),
        (event("referral.odd", json!({})), "type"),
        (event("referral.consent_withdrawn", json!({})), "data"),
        (event("referral.cancelled", json!({})), "sender_reference"),
        (
            json!({"type": "referral.new", "environment": "test", "data": {}, "documents":
                [{"media_type": "text/plain", "content": "Quillfeather!"}]})
            .to_string(),
            "documents[0].content",
        ),
    ] {
        let fault = read(body.as_bytes(), &endpoint, &settings).err().unwrap();
        assert!(!fault.to_string().contains("Quillfeather"), "{fault}");
        let named = fault.field == field || fault.why.contains(field);
        assert!(named, "{field}: {fault}");
    }
}

#[test]
fn an_acknowledgement_is_a_receipt_a_refusal_or_hl7_v2() {
    let read = |data: &[u8], id| acknowledgement(data, id, &CodeMap::default()).map(|it| it.body);
    let said = |data: &[u8]| read(data, Some("WM000001"));
    let grade = |body: InboundBody| match body {
        InboundBody::Status(status) => {
            assert_eq!(status.answers.as_deref(), Some("WM000001"));
            status.grade
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(grade(said(b" ").unwrap()), Evidence::ApplicationAck);
    let person = br#"{"id": "WM000001", "accepted_by": "Dr Ada Okoro"}"#;
    assert_eq!(grade(said(person).unwrap()), Evidence::HumanAcceptance);
    assert_eq!(
        grade(read(person, Some("their own id")).unwrap()),
        Evidence::HumanAcceptance
    );
    let hl7 = |code: &str| {
        format!(
            "MSH|^~\\&|EPR|R1L|WAYMARK|GW|20260302103001||ACK^I12^ACK|88|T|2.5\rMSA|{code}|WM000001\r"
        )
    };
    assert_eq!(
        grade(said(hl7("AA").as_bytes()).unwrap()),
        Evidence::ApplicationAck
    );
    for refusal in [
        hl7("AE").as_bytes(),
        br#"{"code": "NOT_OURS", "text": "Quillfeather is not ours"}"#,
    ] {
        let InboundBody::Undelivered(undelivered) = said(refusal).unwrap() else {
            panic!("taken");
        };
        assert_eq!(undelivered.answers, "WM000001");
        assert!(!undelivered.why.text.contains("Quillfeather"));
    }
    for wrong in [
        &b"thank you"[..],
        br#"{"id": "WM000002"}"#,
        br#"{"id": "WM000002", "code": "NOT_OURS"}"#,
    ] {
        assert!(said(wrong).is_err());
    }
    assert!(read(b" ", None).is_err());
}

#[test]
fn an_answer_to_a_referral_says_under_ack_what_it_says_anywhere_and_no_other_message_is_one() {
    let rri = |code: &str| {
        format!(
            "MSH|^~\\&|EPR|R1L|WAYMARK|GW|20260302103001||RRI^I12^RRI_I12|88|T|2.5\rMSA|{code}|WM000001\r\
             RF1|R^Rejected^HL70283|||||WM-366JL-4AB66-JL4AB^WAYMARK\rNTE|1|L|Not of our area\r"
        )
    };
    let read = |data: &str| acknowledgement(data.as_bytes(), None, &CodeMap::default());
    let said = read(&rri("AA")).unwrap();
    assert_eq!(said.claimed_sender.as_deref(), Some("EPR|R1L"));
    assert_eq!(said.environment, Some(Environment::Test));
    let InboundBody::Status(status) = said.body else {
        panic!("no status");
    };
    assert_eq!(status.state, LegState::Declined);
    assert_eq!(status.grade, Evidence::ApplicationAck);
    assert_eq!(status.answers.as_deref(), Some("WM000001"));
    assert_eq!(status.text.unwrap().expose(), "Not of our area");
    let said = read(&rri("AE")).unwrap().body;
    assert!(matches!(said, InboundBody::Undelivered(_)), "{said:?}");
    // Of a refusal MSA is all that is asked for.
    let refusal = rri("AR");
    let bare = refusal.split_inclusive('\r').take(2).collect::<String>();
    let said = read(&bare).unwrap().body;
    assert!(matches!(said, InboundBody::Undelivered(_)), "{said:?}");
    let fault = read(&rri("AA").replacen("RRI^I12^RRI_I12", "REF^I12^REF_I12", 1));
    let fault = fault.err().unwrap();
    assert!(fault.why.contains("ACK, RRI and SIU"), "{fault}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_comes_is_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..300), start in 0usize..5) {
        let starts: [&[u8]; 5] = [b"", b"MSH|^~\\&|", b"{\"resourceType\": \"Bundle\", ", b"{\"type\": \"referral.new\", ", b"{\"id\": \"WM1\""];
        let bytes = [starts[start], &data].concat();
        let endpoint = endpoint("");
        let _read = read(&bytes, &endpoint, &settings(&endpoint));
        let _answer = acknowledgement(&bytes, Some("WM1"), &CodeMap::default());
    }

    #[test]
    fn words_of_any_kind_come_back_as_they_went(words in "\\PC{1,200}", document in prop::collection::vec(any::<u8>(), 1..200)) {
        let endpoint = theirs(&endpoint(""));
        let mut source = source(Kind::New);
        source.content.as_mut().unwrap().narrative = Some(words.clone().into());
        source.attachments[0].bytes = Bytes::new(document.clone());
        let rendered = render(&source, &endpoint, &settings(&endpoint), Environment::Test).unwrap();
        let said = read(rendered.bytes.expose(), &endpoint, &settings(&endpoint)).unwrap();
        let InboundBody::Submit(referral) = said.body else {
            panic!("no referral");
        };
        let mut expected = source.content.unwrap();
        expected.documents.clear();
        prop_assert_eq!(*referral, expected);
        prop_assert_eq!(said.documents[0].bytes.expose(), document.as_slice());
    }
}
