//! What is refused, and how it is named; and what foreign messages are read as.

use super::*;

#[test]
fn what_cannot_be_carried_is_refused_by_its_field() {
    let refused = |change: &dyn Fn(&mut Source)| {
        let mut source = sample::source(Kind::New);
        change(&mut source);
        match render(
            &source,
            &settings(BARS),
            &CodeMap::default(),
            Environment::Test,
        ) {
            Err(RenderError::CannotCarry(violation)) => violation.field,
            other => panic!("{other:?}"),
        }
    };
    let content = |source: &mut Source, change: &dyn Fn(&mut Referral)| {
        change(source.content.as_mut().unwrap());
    };
    assert_eq!(refused(&|s| s.content = None), "content");
    assert_eq!(
        refused(&|s| s.environment = Environment::Live),
        "environment"
    );
    assert_eq!(
        refused(&|s| content(s, &|c| c.narrative = Some("x".repeat(1024 * 1024).into()))),
        "body"
    );
    assert_eq!(
        refused(&|s| content(s, &|c| c.reason.code = "two  blanks".to_owned())),
        "reason.code"
    );
    assert_eq!(
        refused(&|s| content(s, &|c| c.safeguarding[0].code = " x".to_owned())),
        "safeguarding[0].code"
    );
}

#[test]
fn each_priority_is_read_as_it_was_and_a_foreign_one_as_no_later() {
    for priority in Priority::ALL {
        let mut source = sample::source(Kind::New);
        source.content.as_mut().unwrap().priority = *priority;
        let mut bundle = rendered(&source, BARS);
        assert_eq!(submitted(&bundle).unwrap().priority, *priority);
        let request = resource(&mut bundle, "ServiceRequest");
        request["extension"] = json!([{"url": "urn:other", "valueCode": "x"}]);
        assert!(submitted(&bundle).unwrap().priority >= *priority);
    }
}

#[test]
fn a_foreign_referral_is_read_with_what_the_agreement_assumes_and_loses_no_flag() {
    let mut bundle = rendered(&sample::source(Kind::New), BARS);
    let entries = bundle["entry"].as_array_mut().unwrap();
    entries.retain(|e| {
        !["Consent", "RelatedPerson", "Observation", "Condition"]
            .contains(&e["resource"]["resourceType"].as_str().unwrap())
    });
    entries.push(json!({"fullUrl": "urn:uuid:1", "resource": {"resourceType": "MedicationStatement", "status": "active"}}));
    let category = json!([{"coding": [{"system": name::FLAG_CATEGORY, "code": "HC"}]}]);
    entries.push(json!({"fullUrl": "urn:uuid:2", "resource": {"resourceType": "Flag", "status": "active", "category": category, "code": {"text": "dog at home"}}}));
    entries.push(json!({"fullUrl": "urn:uuid:3", "resource": {"resourceType": "Observation", "status": "final", "code": {"text": "Growth"}, "valueString": "normal"}}));
    let request = resource(&mut bundle, "ServiceRequest");
    for element in ["extension", "note", "supportingInfo", "reasonReference"] {
        request.as_object_mut().unwrap().remove(element);
    }
    request["code"] = json!({"coding": [{"system": "http://snomed.info/sct", "code": "310000"}]});
    request["reasonCode"] = json!([{"coding": [{"system": "http://snomed.info/sct", "code": "401204006", "display": "Suspected autism"}]}]);
    request["identifier"] = json!([{"system": "https://fhir.nhs.uk/Id/UBRN", "value": "000049973123"}, {"system": "https://sender.example/ref", "value": "S-1"}]);
    let read = submitted(&bundle).unwrap();
    assert_eq!(read.pathway.as_str(), "adhd-assessment");
    assert_eq!(
        (read.reason.code.as_str(), read.lawful_basis),
        ("401204006", LawfulBasis::LegalObligation)
    );
    assert_eq!(read.reason.text.unwrap().expose(), "Suspected autism");
    assert_eq!(read.sender_reference.unwrap().value, "S-1");
    assert_eq!(read.external_ids[0].value, "000049973123");
    assert_eq!(read.safeguarding.len(), 1);
    let narrative = read.narrative.unwrap();
    for words in [
        "Flag HC: dog at home",
        "Observation: Growth: normal",
        "MedicationStatement",
    ] {
        assert!(narrative.expose().contains(words), "{words}");
    }
}

#[test]
fn a_fault_names_its_path_its_rule_and_no_content() {
    let whole = rendered(&sample::source(Kind::New), BARS);
    let fault = |change: &dyn Fn(&mut Value)| {
        let mut bundle = whole.clone();
        change(&mut bundle);
        let fault = read(&bundle).err().unwrap();
        assert!(
            !fault.to_string().contains("Quillfeather") && !fault.to_string().contains("94347"),
            "{fault}"
        );
        (fault.path, fault.issue)
    };
    let set = |kind: &'static str, element: &'static str, value: Value| {
        move |b: &mut Value| resource(b, kind)[element] = value.clone()
    };
    let ends = |found: (String, Issue), end: &str, issue: Issue| {
        assert!(found.0.ends_with(end) && found.1 == issue, "{found:?}");
    };
    ends(
        fault(&|b| b["type"] = json!("searchset")),
        "Bundle.type",
        Issue::NotSupported,
    );
    ends(
        fault(&|b| b["entry"] = json!({})),
        "Bundle.entry",
        Issue::Structure,
    );
    ends(
        fault(&|b| {
            b["entry"].as_array_mut().unwrap().remove(0);
        }),
        "Bundle.entry[0].resource",
        Issue::Required,
    );
    ends(
        fault(&set(
            "MessageHeader",
            "focus",
            json!([{"reference": "urn:uuid:x"}]),
        )),
        "focus[0].reference",
        Issue::Value,
    );
    ends(
        fault(&set(
            "MessageHeader",
            "reason",
            json!({"coding": [{"code": "delete"}]}),
        )),
        "reason.coding[0].code",
        Issue::NotSupported,
    );
}

#[test]
fn wrong_elements_of_a_request_are_named() {
    let whole = rendered(&sample::source(Kind::New), BARS);
    for (kind, element, value, end) in [
        (
            "ServiceRequest",
            "status",
            json!("draft"),
            "resource.status",
        ),
        (
            "ServiceRequest",
            "intent",
            json!("order"),
            "resource.intent",
        ),
        (
            "ServiceRequest",
            "category",
            json!([{"coding": [{"system": name::CATEGORY, "code": "validation"}]}]),
            "resource.category",
        ),
        (
            "ServiceRequest",
            "requester",
            json!({"reference": "Practitioner/1"}),
            "requester.reference",
        ),
        (
            "ServiceRequest",
            "subject",
            json!({"reference": "Patient/1"}),
            "subject.reference",
        ),
        (
            "ServiceRequest",
            "note",
            json!([{"text": ""}]),
            "note[0].text",
        ),
        ("Patient", "birthDate", json!("2016"), "resource.birthDate"),
        ("Patient", "gender", json!("M"), "resource.gender"),
        ("Patient", "name", json!([]), "resource.name"),
        (
            "Patient",
            "identifier",
            json!([{"system": name::NHS_NUMBER, "value": "4857773456"}]),
            "identifier[0].value",
        ),
        (
            "Patient",
            "identifier",
            json!({"system": "x"}),
            "resource.identifier",
        ),
        ("Consent", "status", json!("unknown"), "resource.status"),
    ] {
        let mut bundle = whole.clone();
        let found = resource(&mut bundle, kind);
        found[element] = value;
        // The exact code of ours would speak before FHIR's.
        if kind == "Consent" {
            found["extension"] = json!([{"url": "urn:other"}]);
        }
        let fault = read(&bundle).err().unwrap();
        assert!(fault.path.ends_with(end), "{kind}.{element}: {fault}");
    }
}

#[test]
fn a_second_request_child_or_focus_is_refused_by_its_path_and_a_response_is_read() {
    let whole = rendered(&sample::source(Kind::New), BARS);
    let second = |kind: &str| {
        let mut bundle = whole.clone();
        let entries = bundle["entry"].as_array_mut().unwrap();
        let mut entry = entries
            .iter()
            .find(|entry| entry["resource"]["resourceType"] == kind)
            .unwrap()
            .clone();
        entry["fullUrl"] = json!("urn:uuid:0b0e5f5e-0000-4000-8000-000000000001");
        entries.push(entry);
        (
            format!("Bundle.entry[{}].resource", entries.len() - 1),
            bundle,
        )
    };
    for kind in ["ServiceRequest", "Patient"] {
        let (path, bundle) = second(kind);
        let fault = read(&bundle).err().unwrap();
        assert_eq!(fault.path, path, "{fault}");
        assert!(fault.rule.contains(kind), "{fault}");
    }
    let mut bundle = whole.clone();
    let focus = &mut bundle["entry"][0]["resource"]["focus"];
    let first = focus[0].clone();
    focus.as_array_mut().unwrap().push(first);
    let fault = read(&bundle).err().unwrap();
    assert_eq!(fault.path, "Bundle.entry[0].resource.focus[1]", "{fault}");
    // What a resource contains is no entry of the message, and news may bring its encounter in focus.
    let mut bundle = whole.clone();
    resource(&mut bundle, "ServiceRequest")["contained"] =
        json!([{"resourceType": "ServiceRequest", "id": "earlier"}]);
    assert!(read(&bundle).is_ok());
    let mut bundle = rendered(&told(LegState::Accepted), BARS);
    let focus = &mut bundle["entry"][0]["resource"]["focus"];
    let first = focus[0].clone();
    focus.as_array_mut().unwrap().push(first);
    assert!(status_of(&bundle).is_ok());
}
