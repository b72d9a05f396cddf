use proptest::prelude::*;
use serde_json::{Value, json};
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::directory::{AdapterKind, CodeMap, Endpoint, Environment, WireCode};
use waymark_core::id::LegId;
use waymark_core::leg::LegState;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    Attachment, CancelCode, Conversation, InboundBody, InboundStatus, RenderError, Source,
    StatusNotice, StopNotice,
};
use waymark_core::referral::{ExternalId, LawfulBasis, Priority, Referral, SenderReference};

use super::super::config::Settings;
use super::super::header::Outgoing;
use super::super::name;
use super::inward::{self, Assumptions};
use super::message::Message;
use super::node::{Fault, Issue, Node};
use super::{bars, plain, render};
use crate::context::EgressPolicy;
use crate::contract::sample;
use crate::far_side;

mod aside;
mod consent;
mod refusals;
mod told;

pub(in crate::fhir) const BARS: &str = "url = \"https://r1l.example/FHIR/R4\"\nmode = \"bars\"\nauth = \"mtls\"\n\
     target = { value = \"2000011147\" }\nsource = { value = \"2000099999\" }";
const PLAIN: &str = "url = \"https://r1l.example/FHIR/R4\"\nmode = \"plain\"\nauth = \"mtls\"";

fn endpoint(settings: &str) -> Endpoint {
    far_side::endpoint(AdapterKind::Fhir, settings)
}

fn settings(text: &str) -> Settings {
    Settings::read(&endpoint(text), EgressPolicy::AsFlagged).unwrap()
}

pub(in crate::fhir) fn assumptions() -> Assumptions {
    Assumptions {
        pathway: "unsorted".parse().unwrap(),
        pathways: [("310000".to_owned(), "adhd-assessment".parse().unwrap())].into(),
        lawful_basis: LawfulBasis::LegalObligation,
        consent_scope: Vec::new(),
    }
}

pub(in crate::fhir) fn rendered(source: &Source, text: &str) -> Value {
    let rendered = render(
        source,
        &settings(text),
        &CodeMap::default(),
        Environment::Test,
    )
    .unwrap();
    assert_eq!(rendered.media_type, super::MEDIA_TYPE);
    serde_json::from_slice(rendered.bytes.expose()).unwrap()
}

fn read(bundle: &Value) -> Result<inward::Asked, Fault> {
    inward::read(&Message::read(bundle)?, &assumptions(), &CodeMap::default())
}

fn submitted(bundle: &Value) -> Result<Referral, Fault> {
    match read(bundle)?.body {
        InboundBody::Submit(referral) => Ok(*referral),
        other => panic!("not a submit: {other:?}"),
    }
}

/// The one resource of a kind; changes of it are seen by whoever reads the bundle then.
fn resource<'b>(bundle: &'b mut Value, kind: &str) -> &'b mut Value {
    let entries = bundle["entry"].as_array_mut().unwrap().iter_mut();
    let mut found = entries.map(|entry| &mut entry["resource"]);
    found
        .find(|resource| resource["resourceType"] == kind)
        .unwrap()
}

/// What a referral becomes at a gateway that reads it from the wire: what the loss list says, and nothing else.
fn as_read(mut content: Referral) -> Referral {
    let source = sample::source(Kind::New);
    let own = content.sender_reference.replace(SenderReference {
        value: source.reference.as_str().to_owned(),
        namespace: name::REFERENCE.to_owned(),
    });
    let own = own.map(|own| ExternalId {
        system: own.namespace,
        value: own.value,
    });
    content.external_ids = own.into_iter().chain(content.external_ids).collect();
    let announced: Vec<String> = content
        .documents
        .iter()
        .map(|d| {
            let title = d.title.as_ref().map_or("without a title", |t| t.expose());
            format!(
                "Document not sent along: {title} {} sha256 {} urn:uuid:{}",
                d.media_type, d.sha256, d.id
            )
        })
        .collect();
    if !announced.is_empty() {
        let mut lines: Vec<String> = content
            .narrative
            .iter()
            .map(|n| n.expose().clone())
            .collect();
        lines.extend(announced);
        content.narrative = Some(Personal::new(lines.join("\n")));
    }
    content.documents.clear();
    content
}

#[test]
fn a_full_referral_comes_back_whole() {
    let source = sample::source(Kind::New);
    let back = submitted(&rendered(&source, BARS)).unwrap();
    assert_eq!(
        serde_json::to_value(&back).unwrap(),
        serde_json::to_value(as_read(sample::referral())).unwrap()
    );
    assert_eq!(back.violations(jiff::civil::date(2026, 3, 2)), Vec::new());
}

#[test]
fn documents_go_inline_with_their_digests_and_a_spoilt_one_is_refused() {
    let mut source = sample::source(Kind::New);
    let listed = &mut source.content.as_mut().unwrap().documents[0];
    listed.size_bytes = 15;
    let document = listed.clone();
    source.attachments = vec![Attachment {
        document,
        bytes: Payload::new(b"%PDF-1.7 sample".to_vec()),
    }];
    let mut bundle = rendered(&source, BARS);
    let asked = read(&bundle).unwrap();
    assert_eq!(asked.documents.len(), 1);
    assert_eq!(asked.documents[0].bytes.expose(), b"%PDF-1.7 sample");
    assert_eq!(asked.documents[0].sha256, Some("ab".repeat(32)));
    assert_eq!(asked.documents[0].kind.as_deref(), Some("questionnaire"));
    for (element, value) in [("size", json!(14)), ("data", json!("AAAA"))] {
        resource(&mut bundle, "DocumentReference")["content"][0]["attachment"][element] = value;
        let fault = read(&bundle).err().unwrap();
        let wrong = if element == "data" { "hash" } else { element };
        let path = format!("content[0].attachment.{wrong}");
        assert!(fault.path.ends_with(&path), "{fault}");
    }
}

#[test]
fn rendering_is_a_function_of_its_input_and_ids_follow_from_the_wire_id() {
    let source = sample::source(Kind::New);
    assert_eq!(rendered(&source, BARS), rendered(&source, BARS));
    let mut other = source.clone();
    other.wire_id = "WM0000000002".parse().unwrap();
    assert_ne!(rendered(&source, BARS)["id"], rendered(&other, BARS)["id"]);
}

#[test]
fn a_message_has_the_parts_that_the_standard_asks_for() {
    let mut bundle = rendered(&sample::source(Kind::New), BARS);
    let count = |kind: &str| {
        let entries = bundle["entry"].as_array().unwrap().iter();
        entries
            .filter(|entry| entry["resource"]["resourceType"] == kind)
            .count()
    };
    for (kind, at_least) in [
        ("MessageHeader", 1),
        ("ServiceRequest", 1),
        ("Patient", 1),
        ("Encounter", 1),
        ("CarePlan", 1),
        ("Organization", 2),
        ("Practitioner", 1),
        ("PractitionerRole", 1),
        ("Flag", 2),
        ("Consent", 1),
        ("AllergyIntolerance", 1),
        ("RelatedPerson", 2),
    ] {
        assert!(count(kind) >= at_least, "{kind}");
    }
    let header = bundle["entry"][0]["resource"].clone();
    assert_eq!(header["eventCoding"]["code"], "servicerequest-request");
    assert_eq!(header["reason"]["coding"][0]["code"], "new");
    assert_eq!(
        header["destination"][0]["endpoint"],
        "https://fhir.nhs.uk/Id/dos-service-id|2000011147"
    );
    assert_eq!(header["definition"], name::DEFINITION_REFERRAL);
    let request = resource(&mut bundle, "ServiceRequest").clone();
    assert_eq!(request["intent"], "plan");
    assert_eq!(
        request["category"][0]["coding"][1],
        json!({"system": name::USE_CASE, "code": "send-referral"})
    );
    assert!(request.get("id").is_none(), "the receiver mints it");
    let banner = request["note"][0]["text"].as_str().unwrap();
    for word in sample::SAFETY_WORDS {
        assert!(banner.contains(word), "the banner lacks {word}");
    }
    for line in [
        "DO NOT CONTACT: Ellis Quillfeather (parent)",
        "NEEDS EASY READ: Marisol Quillfeather (parent)",
        "CONSENT COVERS: referral, share_health",
    ] {
        assert!(
            banner.lines().any(|found| found == line),
            "{line}: {banner}"
        );
    }
    let entries = bundle["entry"].as_array().unwrap().iter();
    let mut flags = entries.map(|entry| &entry["resource"]["code"]["text"]);
    let format = "NEEDS EASY READ: Marisol Quillfeather (parent)";
    assert!(flags.any(|text| text == format), "a flag says it too");
    let person = bundle["entry"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["resource"]);
    let mut people = person.filter(|r| r["resourceType"] == "RelatedPerson");
    assert!(
        people.all(|person| person["modifierExtension"].is_array()),
        "unsafe contact modifies"
    );
}

#[test]
fn an_amendment_and_a_cancel_name_the_request_by_the_receivers_id() {
    let mut source = sample::source(Kind::Amend);
    source.receiver_reference = Some("236bb75d-90ef-461f-b71e-fde7f899802c".to_owned());
    let mut bundle = rendered(&source, BARS);
    assert_eq!(
        resource(&mut bundle, "ServiceRequest")["id"],
        "236bb75d-90ef-461f-b71e-fde7f899802c"
    );
    let asked = read(&bundle).unwrap();
    let InboundBody::Amend(reference, content) = asked.body else {
        panic!("not an amendment")
    };
    assert_eq!(reference.value, source.reference.as_str());
    assert_eq!(content.safeguarding, sample::referral().safeguarding);

    source.kind = Kind::Cancel;
    source.reason = Some("the family moved".into());
    let mut bundle = rendered(&source, BARS);
    assert_eq!(
        bundle["entry"][0]["resource"]["definition"],
        name::DEFINITION_CANCELLED
    );
    assert_eq!(
        bundle["entry"][0]["resource"]["reason"]["coding"][0]["code"],
        "update"
    );
    assert_eq!(resource(&mut bundle, "ServiceRequest")["status"], "revoked");
    assert!(
        resource(&mut bundle, "Patient").get("name").is_none(),
        "only identifiers"
    );
    let InboundBody::Cancel(reference, CancelCode::CancelledBySender, words) =
        read(&bundle).unwrap().body
    else {
        panic!("not a cancel")
    };
    assert_eq!(reference.value, source.reference.as_str());
    assert_eq!(words.unwrap().expose(), "the family moved");

    source.stop = Some(StopNotice::Cancelled {
        code: CancelCode::EnteredInError,
        text: None,
    });
    let mut bundle = rendered(&source, BARS);
    let request = resource(&mut bundle, "ServiceRequest");
    assert_eq!(request["status"], "entered-in-error");
    assert!(matches!(
        read(&bundle).unwrap().body,
        InboundBody::Cancel(_, CancelCode::EnteredInError, _)
    ));
    let mut bundle = rendered(&source, PLAIN);
    for kind in ["ServiceRequest", "Task"] {
        assert_eq!(resource(&mut bundle, kind)["status"], "entered-in-error");
    }

    source.kind = Kind::Withdraw;
    source.stop = None;
    let InboundBody::Cancel(_, _, words) = read(&rendered(&source, BARS)).unwrap().body else {
        panic!("not a cancel")
    };
    assert!(words.unwrap().expose().starts_with("CONSENT WITHDRAWN"));
}

#[test]
fn a_status_is_of_the_exchange_and_answers_the_message_that_opened_its_referral() {
    let exchange = "0197f3c2-7d11-7a10-9c1e-2f6b0c9f1a01";
    let response = |source: &Source| {
        let bundle = rendered(source, BARS);
        let outgoing = Outgoing::of(&bundle, source.wire_id.as_str()).unwrap();
        let header = bundle["entry"][0]["resource"].clone();
        (
            outgoing.correlation,
            header["response"]["identifier"].clone(),
        )
    };
    let mut source = told(LegState::Accepted);
    let own = source.referral.to_string();
    assert_eq!(response(&source), (own.clone(), json!(own)));
    source.conversation = Some(Conversation {
        exchange: exchange.to_owned(),
        message: "bundle-1".to_owned(),
    });
    assert_eq!(response(&source), (exchange.to_owned(), json!("bundle-1")));
}

fn status_of(bundle: &Value) -> Result<InboundStatus, Fault> {
    bars::read_status(&Message::read(bundle)?, &CodeMap::default())
}

fn told(state: LegState) -> Source {
    let mut source = sample::source(Kind::Status);
    source.recipient = source.sender.clone();
    source.sender_reference = Some(SenderReference {
        value: "S-1".to_owned(),
        namespace: "https://sender.example/ref".to_owned(),
    });
    source.status = Some(StatusNotice {
        from: "R1L".parse().unwrap(),
        service: Some("community".parse().unwrap()),
        state,
        code: "told".to_owned(),
        text: Some("words | here".into()),
        due: Some(jiff::civil::date(2026, 4, 1)),
        at: source.at,
    });
    source
}

#[test]
fn every_state_told_to_a_sender_is_read_back_exactly_from_a_message_and_from_a_task() {
    for state in LegState::ALL {
        let source = told(*state);
        let read = status_of(&rendered(&source, BARS)).unwrap();
        assert_eq!(read.state, *state);
        assert_eq!(read.receiver_reference, Some(source.referral.to_string()));
        assert_eq!(read.reason_code.as_deref(), Some("told"));
        assert_eq!(read.text.unwrap().expose(), "words | here");
        assert_eq!(read.due, Some(jiff::civil::date(2026, 4, 1)));
        assert_eq!(read.at, Some(source.at));
        let mut bundle = rendered(&source, PLAIN);
        let task = resource(&mut bundle, "Task");
        task["id"] = json!("t-1");
        let (key, read) = plain::read_task(&Node::new(task, "Task"), &CodeMap::default())
            .unwrap()
            .unwrap();
        assert_eq!(
            (read.state, read.referral.as_str()),
            (*state, source.reference.as_str())
        );
        assert_eq!(read.due, Some(jiff::civil::date(2026, 4, 1)));
        assert!(key.starts_with("Task/t-1/"), "{key}");
    }
}

#[test]
fn a_foreign_response_is_read_by_its_statuses_and_echoed_identifiers() {
    let source = sample::source(Kind::New);
    let mut bundle = rendered(&source, BARS);
    bundle["entry"][0]["resource"]["eventCoding"]["code"] = json!("servicerequest-response");
    for (request, encounter, state) in [
        ("active", "planned", LegState::Accepted),
        ("active", "triaged", LegState::InTriage),
        ("active", "arrived", LegState::InAssessment),
        ("active", "finished", LegState::Assessed),
        ("revoked", "planned", LegState::Declined),
        ("entered-in-error", "planned", LegState::EnteredInError),
    ] {
        resource(&mut bundle, "ServiceRequest")["status"] = json!(request);
        resource(&mut bundle, "Encounter")["status"] = json!(encounter);
        let read = status_of(&bundle).unwrap();
        assert_eq!(read.state, state, "{request} {encounter}");
        assert_eq!(read.answers.as_deref(), Some(source.wire_id.as_str()));
        assert_eq!(read.referral, source.reference.as_str());
        assert_eq!(read.grade, Evidence::ApplicationAck);
    }
    let system = "https://fhir.nhs.uk/CodeSystem/rejected-reasons-bars";
    resource(&mut bundle, "Encounter")["reasonCode"] =
        json!([{"coding": [{"system": system, "code": "RRNA"}]}]);
    assert_eq!(
        status_of(&bundle).unwrap().reason_code.as_deref(),
        Some("RRNA")
    );
    resource(&mut bundle, "ServiceRequest")["status"] = json!("draft");
    assert!(status_of(&bundle).err().unwrap().path.ends_with(".status"));
}

#[test]
fn a_response_names_its_request_by_the_bundle_that_it_answers_alone() {
    let source = sample::source(Kind::New);
    let mut bundle = rendered(&source, BARS);
    let answered = bundle["id"].clone();
    bundle["entry"][0]["resource"]["eventCoding"]["code"] = json!("servicerequest-response");
    let request = resource(&mut bundle, "ServiceRequest");
    request["identifier"] = json!([{"system": "https://receiver.example/id", "value": "9"}]);
    let refused = status_of(&bundle).err().unwrap();
    assert!(refused.path.ends_with(".identifier"), "{refused}");
    let mut answer = |identifier: &Value, code: &str| {
        let response = json!({"identifier": identifier, "code": code});
        bundle["entry"][0]["resource"]["response"] = response;
        status_of(&bundle)
    };
    let read = answer(&answered, "ok").unwrap();
    assert_eq!(read.answers.as_deref(), Some(source.wire_id.as_str()));
    assert_eq!(read.grade, Evidence::ApplicationAck);
    let foreign = answer(&json!("86e3371d-1c15-4862-9552-d9560f8292ba"), "ok");
    assert!(foreign.err().unwrap().path.ends_with(".identifier"));
    for code in ["transient-error", "fatal-error"] {
        let refused = answer(&answered, code).err().unwrap();
        assert!(refused.path.ends_with("response.code"), "{refused}");
    }
}

#[test]
fn a_task_is_read_by_the_endpoints_map_before_our_defaults_and_says_nothing_before_it_moves() {
    let mut bundle = rendered(&sample::source(Kind::New), PLAIN);
    let task = resource(&mut bundle, "Task");
    task["id"] = json!("9");
    let state = |task: &Value, codes: &CodeMap| {
        let read = plain::read_task(&Node::new(task, "Task"), codes).unwrap();
        read.map(|(_, status)| status.state)
    };
    let none = CodeMap::default();
    assert_eq!(state(task, &none), None, "requested");
    for (status, expected) in [
        ("received", None),
        ("accepted", Some(LegState::Accepted)),
        ("rejected", Some(LegState::Declined)),
        ("ready", Some(LegState::Waiting)),
        ("in-progress", Some(LegState::InAssessment)),
        ("on-hold", Some(LegState::OnHold)),
        ("cancelled", Some(LegState::Cancelled)),
        ("completed", Some(LegState::Assessed)),
    ] {
        task["status"] = json!(status);
        assert_eq!(state(task, &none), expected, "{status}");
    }
    task["status"] = json!("on-hold");
    task["businessStatus"] = json!({"coding": [{"system": "urn:x", "code": "dna"}]});
    let wire = WireCode {
        code: "dna".to_owned(),
        system: "urn:x".to_owned(),
        display: String::new(),
    };
    let codes = CodeMap {
        status: [(LegState::WasNotBrought, wire)].into(),
        ..CodeMap::default()
    };
    assert_eq!(state(task, &codes), Some(LegState::WasNotBrought));
    task["identifier"] = json!([]);
    assert!(
        plain::read_task(&Node::new(task, "Task"), &none).is_err(),
        "whose it is must be said"
    );
}

#[test]
fn a_plain_transaction_creates_under_our_identifiers_and_a_decline_leaves_the_request_active() {
    let bundle = rendered(&sample::source(Kind::New), PLAIN);
    assert_eq!(bundle["type"], "transaction");
    for entry in bundle["entry"].as_array().unwrap() {
        assert_eq!(entry["request"]["method"], "POST");
        let key = entry["request"]["ifNoneExist"].as_str().unwrap();
        let own = &entry["resource"]["identifier"][0];
        assert_eq!(
            key,
            format!(
                "identifier={}|{}",
                own["system"].as_str().unwrap(),
                own["value"].as_str().unwrap()
            )
        );
    }
    let mut source = sample::source(Kind::Cancel);
    source.reason = Some("not needed".into());
    let mut bundle = rendered(&source, PLAIN);
    assert_eq!(resource(&mut bundle, "Task")["status"], "cancelled");
    assert_eq!(resource(&mut bundle, "ServiceRequest")["status"], "revoked");
    assert_eq!(bundle["entry"][0]["request"]["method"], "PUT");
    let mut declined = rendered(&told(LegState::Declined), PLAIN);
    assert_eq!(resource(&mut declined, "Task")["status"], "rejected");
    assert!(!declined.to_string().contains("\"revoked\""), "ruling 24");
}

proptest! {
    #[test]
    fn any_words_in_any_text_come_back(
        words in prop::collection::vec("([^\\p{Cc}]|\n|\t){1,40}", 9),
    ) {
        let mut source = sample::source(Kind::New);
        let content = source.content.as_mut().unwrap();
        let text = |n: usize| Personal::new(words[n].clone());
        content.narrative = Some(text(0));
        content.allergies = Some(text(1));
        content.concerns[0].text = text(2);
        content.concerns[0].onset = Some(text(3));
        content.contacts[0].safe_contact_note = Some(text(4));
        content.safeguarding[0].text = Some(text(5));
        content.priority_reason = Some(text(6));
        content.referrer.name = text(7);
        content.graduated_response[0].what = text(8);
        let expected = as_read(content.clone());
        let back = submitted(&rendered(&source, BARS)).unwrap();
        prop_assert_eq!(back, expected);
    }

    #[test]
    fn no_document_panics(text in "[\\[\\]{}\":,a-zA-Z0-9 ]{0,200}") {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            prop_assert!(read(&value).is_err());
        }
    }
}

/// Messages of our own making, of every kind: what we send, and what a test of a receiver may begin from.
#[test]
fn the_golden_files_are_what_is_rendered() {
    let mut sources = vec![
        ("new", sample::source(Kind::New)),
        ("update", sample::source(Kind::Amend)),
        ("revoke", sample::source(Kind::Cancel)),
        ("withdraw", sample::source(Kind::Withdraw)),
    ];
    let states: Vec<String> = LegState::ALL
        .iter()
        .map(|s| format!("response-{s}"))
        .collect();
    sources.extend(
        states
            .iter()
            .map(String::as_str)
            .zip(LegState::ALL.iter().map(|s| told(*s))),
    );
    let mut stale = Vec::new();
    for (name, source) in sources {
        for (mode, text) in [("bars", BARS), ("plain", PLAIN)] {
            let path = format!(
                "{}/src/fhir/fixtures/{mode}-{name}.json",
                env!("CARGO_MANIFEST_DIR")
            );
            let written = serde_json::to_string_pretty(&rendered(&source, text)).unwrap() + "\n";
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            if golden != written {
                std::fs::write(format!("{path}.new"), written).unwrap();
                stale.push(path);
            }
        }
    }
    assert_eq!(
        stale,
        Vec::<String>::new(),
        "are not what is rendered: see the .new beside each"
    );
}
