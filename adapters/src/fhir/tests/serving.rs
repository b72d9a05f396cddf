//! Our server as a pure function: what a request asks for by its sender's own lists and names, and what answers name.

use waymark_core::directory::{CodeMap, WireCode};
use waymark_core::error::ErrorKind;
use waymark_core::port::{CancelCode, Conversation, StatusNotice};
use waymark_core::referral::{NeedType, Priority, Referral, SenderReference};

use super::super::server::{Answer, Caller, Ready, Server, ServerOptions};
use super::super::wire::tests::{BARS, assumptions, rendered};
use super::*;

fn server() -> Server {
    let targets = ["2000011147", "2000099999"];
    Server::new(ServerOptions {
        environment: Environment::Test,
        targets: targets.map(|id| format!("{DOS_SERVICE}|{id}")).into(),
        assumptions: assumptions(),
    })
}

/// Hands a message to the server, with the headers that its sender gives it.
fn processed(bundle: &Value, codes: &CodeMap) -> Result<Ready, Box<Answer>> {
    let headers = Outgoing::of(bundle, "WM1").unwrap();
    let caller = Caller {
        identity: AGENCY,
        agency: None,
        acts_for: None,
        codes,
        traceparent: None,
    };
    let headers = headers.headers("1.4.0").unwrap();
    server().process(&headers, bundle.to_string().as_bytes(), caller)
}

fn body_of(bundle: &Value, codes: &CodeMap) -> InboundBody {
    let ready = processed(bundle, codes);
    let ready = ready.map_err(|answer| String::from_utf8(answer.body).unwrap());
    ready.unwrap().inbound.body
}

fn referral_of(bundle: &Value, codes: &CodeMap) -> Referral {
    match body_of(bundle, codes) {
        InboundBody::Submit(referral) => *referral,
        other => panic!("not a submit: {other:?}"),
    }
}

fn resource<'b>(bundle: &'b mut Value, kind: &str) -> &'b mut Value {
    let entries = bundle["entry"].as_array_mut().unwrap().iter_mut();
    let mut found = entries.map(|entry| &mut entry["resource"]);
    found
        .find(|resource| resource["resourceType"] == kind)
        .unwrap()
}

fn code(system: &str, code: &str) -> WireCode {
    WireCode {
        code: code.to_owned(),
        system: system.to_owned(),
        display: String::new(),
    }
}

#[test]
fn a_cancel_or_update_made_from_our_own_answer_names_our_own_referral() {
    let codes = CodeMap::default();
    let ready = processed(&rendered(&sample::source(Kind::New), BARS), &codes).unwrap();
    let id = ReferralId::from_bytes([4; 16]);
    let taken = IntakeAnswer {
        referral: id,
        reference: Reference::of(id),
        repeated: false,
        state: None,
    };
    let answer = server().answered(&ready.ticket, &Ok(taken));
    let mut answer: Value = serde_json::from_slice(&answer.body).unwrap();
    let mut ours = resource(&mut answer, "ServiceRequest").clone();
    ours["status"] = json!("revoked");
    let mut revoke = rendered(&sample::source(Kind::Cancel), BARS);
    let url = revoke["entry"][0]["resource"]["focus"][0]["reference"].clone();
    let entries = revoke["entry"].as_array_mut().unwrap();
    let entry = entries.iter_mut().find(|entry| entry["fullUrl"] == url);
    let entry = entry.unwrap();
    for (resource, expected) in [
        (ours.clone(), id.to_string()),
        (
            {
                ours.as_object_mut().unwrap().remove("id");
                ours
            },
            Reference::of(id).as_str().to_owned(),
        ),
    ] {
        entry["resource"] = resource;
        let bundle = json!({"resourceType": "Bundle", "type": "message", "id": "b-1", "entry": [
            rendered(&sample::source(Kind::Cancel), BARS)["entry"][0], entry.clone()]});
        let message = wire::message::Message::read(&bundle).unwrap();
        let asked = wire::inward::read(&message, &assumptions(), &codes).unwrap();
        let InboundBody::Cancel(named, why, _) = asked.body else {
            panic!("not a cancel")
        };
        assert_eq!((named.value, named.namespace), (expected, String::new()));
        assert_eq!(why, CancelCode::CancelledBySender);
    }
}

#[test]
fn the_answer_to_a_cancel_says_how_the_request_stands_and_not_what_was_asked() {
    let cancel = rendered(&sample::source(Kind::Cancel), BARS);
    let amend = rendered(&sample::source(Kind::Amend), BARS);
    for (bundle, state, expected) in [
        (&cancel, LegState::Cancelled, "revoked"),
        (&cancel, LegState::EnteredInError, "entered-in-error"),
        (&cancel, LegState::InAssessment, "active"),
        (&cancel, LegState::Closed, "active"),
        (&amend, LegState::InAssessment, "active"),
    ] {
        let ready = processed(bundle, &CodeMap::default()).unwrap();
        let id = ReferralId::from_bytes([4; 16]);
        let taken = IntakeAnswer {
            referral: id,
            reference: Reference::of(id),
            repeated: false,
            state: Some(state),
        };
        let answer = server().answered(&ready.ticket, &Ok(taken));
        let mut answer: Value = serde_json::from_slice(&answer.body).unwrap();
        let request = resource(&mut answer, "ServiceRequest");
        assert_eq!(request["status"], expected, "{state}");
    }
}

#[test]
fn an_update_that_has_our_id_and_its_sender_s_reference_is_of_the_referral_that_both_may_name() {
    let mut cancel = rendered(&sample::source(Kind::Cancel), BARS);
    let [ours, other] = [4, 5].map(|byte| ReferralId::from_bytes([byte; 16]));
    resource(&mut cancel, "ServiceRequest")["id"] = json!(ours.to_string());
    let answer = |id: ReferralId| {
        Ok(IntakeAnswer {
            referral: id,
            reference: Reference::of(id),
            repeated: true,
            state: None,
        })
    };
    let fails = |kind| {
        Err(IntakeError {
            kind,
            violations: Vec::new(),
            reason: "TEST",
        })
    };
    let ready = || processed(&cancel, &CodeMap::default()).unwrap();
    let [by_id, by_own] = ready().enquiries().unwrap();
    let reference = sample::source(Kind::Cancel).reference;
    for (asked, value) in [(by_id, ours.to_string()), (by_own, reference.to_string())] {
        let InboundBody::Enquiry(named) = asked.body else {
            panic!("not an enquiry")
        };
        assert_eq!(named.value, value);
    }
    let named = |by_id, by_own| match ready().settled(by_id, by_own) {
        Ok(inbound) => match inbound.body {
            InboundBody::Cancel(named, ..) => Ok(named.value),
            other => panic!("not a cancel: {other:?}"),
        },
        Err(error) => Err(error.kind),
    };
    let nothing = || fails(ErrorKind::NotFound);
    assert_eq!(named(answer(ours), nothing()), Ok(ours.to_string()));
    assert_eq!(named(answer(ours), answer(ours)), Ok(ours.to_string()));
    // An id of the sender's own making says nothing here.
    assert_eq!(named(nothing(), answer(ours)), Ok(reference.to_string()));
    assert_eq!(named(nothing(), nothing()), Ok(reference.to_string()));
    assert_eq!(named(answer(ours), answer(other)), Err(ErrorKind::Conflict));
    let down = || fails(ErrorKind::Unavailable);
    assert_eq!(named(answer(ours), down()), Err(ErrorKind::Unavailable));
    assert_eq!(named(down(), answer(ours)), Err(ErrorKind::Unavailable));

    // With one name alone nothing is asked first.
    resource(&mut cancel, "ServiceRequest")["id"] = json!("A-1");
    let ready = processed(&cancel, &CodeMap::default()).unwrap();
    assert!(ready.enquiries().is_none());
    let new = processed(
        &rendered(&sample::source(Kind::New), BARS),
        &CodeMap::default(),
    );
    assert!(new.unwrap().enquiries().is_none());
}

#[test]
fn news_may_name_an_agency_that_its_gateway_acts_for_and_a_request_its_own_alone() {
    let codes = CodeMap::default();
    let acts_for = ["RX2".parse().unwrap()].into();
    let status = |from: &str| {
        let mut source = told(sample::referral(), None);
        source.status.as_mut().unwrap().from = from.parse().unwrap();
        rendered(&source, BARS)
    };
    let mut request = sample::source(Kind::New);
    request.sender = "RX2".parse().unwrap();
    let request = rendered(&request, BARS);
    for (bundle, taken) in [
        (&status("R1L"), true),
        (&status("RX2"), true),
        (&status("RX3"), false),
        (&request, false),
    ] {
        let headers = Outgoing::of(bundle, "WM1").unwrap().headers("1.4.0");
        let caller = Caller {
            identity: AGENCY,
            agency: Some("R1L"),
            acts_for: Some(&acts_for),
            codes: &codes,
            traceparent: None,
        };
        let body = bundle.to_string();
        let read = server().process(&headers.unwrap(), body.as_bytes(), caller);
        assert_eq!(read.is_ok(), taken);
        if let Err(answer) = read {
            assert_eq!(answer.status, StatusCode::FORBIDDEN);
            let said = String::from_utf8(answer.body).unwrap();
            assert!(
                said.contains("MessageHeader") || said.contains(".sender"),
                "{said}"
            );
        }
    }
}

#[test]
fn a_sender_s_own_code_lists_are_read_before_our_defaults() {
    const LIST: &str = "urn:list";
    let codes = CodeMap {
        priority: [(Priority::Soon, code("", "asap"))].into(),
        reason: [("ASD".to_owned(), code(LIST, "401204006"))].into(),
        need: [(NeedType::Hearing, code(LIST, "h-1"))].into(),
        status: [
            (LegState::Waiting, code(LIST, "on-list")),
            (
                LegState::Booked,
                code("http://hl7.org/fhir/encounter-status", "planned"),
            ),
        ]
        .into(),
        id: None,
    };
    let mut bundle = rendered(&sample::source(Kind::New), BARS);
    let request = resource(&mut bundle, "ServiceRequest");
    request["extension"] = json!([{"url": "urn:other", "valueCode": "x"}]);
    request["priority"] = json!("asap");
    request["reasonCode"] = json!([{"coding": [{"system": LIST, "code": "401204006"}]}]);
    let need = resource(&mut bundle, "Condition");
    need["code"] = json!({"coding": [{"system": LIST, "code": "h-1"}]});
    need["extension"] = json!([{"url": "urn:other", "valueCode": "x"}]);
    let mapped = referral_of(&bundle, &codes);
    assert_eq!(mapped.priority, Priority::Soon);
    assert_eq!(mapped.reason.code, "ASD");
    assert_eq!(mapped.needs[0].kind, NeedType::Hearing);
    let plain = referral_of(&bundle, &CodeMap::default());
    assert_eq!(
        (plain.priority, plain.reason.code.as_str()),
        (Priority::Urgent, "401204006")
    );

    bundle["entry"][0]["resource"]["eventCoding"]["code"] = json!("servicerequest-response");
    bundle["entry"][0]["resource"]["definition"] = json!(name::DEFINITION_RESPONSE);
    let state = |bundle: &Value, codes: &CodeMap| match body_of(bundle, codes) {
        InboundBody::Status(status) => status.state,
        other => panic!("not a status: {other:?}"),
    };
    assert_eq!(state(&bundle, &codes), LegState::Booked);
    assert_eq!(state(&bundle, &CodeMap::default()), LegState::Accepted);
    resource(&mut bundle, "Encounter")["type"] =
        json!([{"coding": [{"system": LIST, "code": "on-list"}]}]);
    assert_eq!(state(&bundle, &codes), LegState::Waiting);

    let source = sample::source(Kind::New);
    let task = json!({"resourceType": "Task", "id": "t-1", "status": "accepted", "intent": "order",
        "businessStatus": {"coding": [{"system": LIST, "code": "on-list"}]},
        "identifier": [{"system": name::REFERENCE, "value": source.reference.as_str()}]});
    let caller = Caller {
        identity: AGENCY,
        agency: None,
        acts_for: None,
        codes: &codes,
        traceparent: None,
    };
    let brought = server().callback(&HeaderMap::new(), task.to_string().as_bytes(), caller);
    let InboundBody::Status(status) = brought.unwrap().inbound.body else {
        panic!("not a status")
    };
    assert_eq!(status.state, LegState::Waiting, "by a subscription too");
}

/// A status for the sender of a referral that a message of its own brought.
fn told(referral: Referral, conversation: Option<Conversation>) -> Source {
    let mut source = sample::source(Kind::Status);
    source.sender_reference = referral.sender_reference;
    source.conversation = conversation;
    source.status = source.status.map(|notice| StatusNotice {
        state: LegState::Accepted,
        ..notice
    });
    source
}

#[test]
fn a_status_names_the_message_the_case_and_the_reference_of_its_sender() {
    let codes = CodeMap::default();
    let request = rendered(&sample::source(Kind::New), BARS);
    let sent = Outgoing::of(&request, "WM1").unwrap();
    let inbound = processed(&request, &codes).unwrap().inbound;
    let referral = referral_of(&request, &codes);
    let own = referral.sender_reference.clone().unwrap();
    let source = told(referral, inbound.conversation);
    let mut status = rendered(&source, BARS);
    let header = status["entry"][0]["resource"].clone();
    assert_eq!(header["response"]["identifier"], request["id"]);
    let placer = resource(&mut status, "ServiceRequest")["identifier"][0].clone();
    assert_eq!(placer["type"]["coding"][0]["code"], "PLAC");
    assert_eq!(
        (&placer["system"], &placer["value"]),
        (&json!(own.namespace), &json!(own.value))
    );
    let answered = Outgoing::of(&status, "WM2").unwrap();
    assert_eq!(answered.correlation, sent.correlation);
    assert_ne!(answered.request, sent.request);
    // Another gateway finds its own referral by it.
    let InboundBody::Status(read) = body_of(&status, &codes) else {
        panic!("not a status")
    };
    assert_eq!(read.referral, sample::source(Kind::New).reference.as_str());

    // A sender that has no such ids is told by ours, and one whose words no identifier holds without them.
    let mut bare = sample::source(Kind::Status);
    bare.sender_reference = Some(SenderReference {
        value: "7".to_owned(),
        namespace: "two words".to_owned(),
    });
    bare.conversation = Some(Conversation {
        exchange: sent.correlation.clone(),
        message: "no id of FHIR".to_owned(),
    });
    let status = rendered(&bare, BARS);
    let response = &status["entry"][0]["resource"]["response"];
    assert_eq!(response["identifier"], bare.referral.to_string());
}
