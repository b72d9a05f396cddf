//! What a foreign message says beside what has a field: nothing of it is lost, and what would be misread is refused.

use super::*;

/// The message of the sample with one resource changed; further resources go in behind it.
fn with(kind: &str, changes: &Value, more: &[Value]) -> Value {
    let mut bundle = rendered(&sample::source(Kind::New), BARS);
    let found = resource(&mut bundle, kind).as_object_mut().unwrap();
    found.extend(changes.as_object().unwrap().clone());
    let entries = bundle["entry"].as_array_mut().unwrap();
    entries.extend(more.iter().map(|one| json!({ "resource": one })));
    bundle
}

fn narrative(bundle: &Value) -> String {
    submitted(bundle).unwrap().narrative.unwrap().into_inner()
}

#[test]
fn what_has_no_field_is_said_in_words() {
    let person = json!({
        "name": [{"use": "official", "family": "Quillfeather", "given": ["Tam"]}, {"use": "nickname", "text": "Tammy"}],
        "address": [{"use": "temp", "line": ["2 Refuge Road"], "postalCode": "SS2 2BB"}, {"use": "home", "line": ["4 Lower Lane"]}],
        "telecom": [{"system": "phone", "use": "mobile", "value": "07700900999"}],
        "deceasedBoolean": true,
    });
    let contact = json!({"telecom": [{"system": "phone", "value": "1"}, {"system": "phone", "use": "work", "value": "2"},
        {"system": "email", "value": "a@b.example"}, {"system": "email", "value": "c@d.example"}],
        "address": [{"line": ["9 Other Street"]}]});
    let request = json!({
        "reasonCode": [{"coding": [{"system": "urn:a", "code": "1", "display": "First"}, {"system": "urn:b", "code": "2", "display": "Same, otherwise"}]},
            {"text": "self-harm"}, {"coding": [{"code": "3"}]}],
        "occurrencePeriod": {"start": "2026-03-02", "end": "2026-03-09"},
        "code": {"text": "Neurodevelopmental assessment"},
        "patientInstruction": "bring the red book",
    });
    for (kind, changes, lines) in [
        (
            "Patient",
            person,
            vec![
                "Child, nickname name: Tammy",
                "Child, temp address: 2 Refuge Road, SS2 2BB",
                "Child, mobile phone: 07700900999",
                "The child is recorded as deceased",
            ],
        ),
        (
            "RelatedPerson",
            contact,
            vec![
                "Contact Marisol Quillfeather, work phone: 2",
                "Contact Marisol Quillfeather, email: c@d.example",
                "Contact Marisol Quillfeather, other address: 9 Other Street",
            ],
        ),
        (
            "ServiceRequest",
            request,
            vec![
                "Reason, coded also: Same, otherwise",
                "Further reason: self-harm",
                "Further reason: 3",
                "Wanted: from 2026-03-02 until 2026-03-09",
                "Asked for: Neurodevelopmental assessment",
                "For the patient: bring the red book",
            ],
        ),
    ] {
        let words = narrative(&with(kind, &changes, &[]));
        for line in lines {
            assert!(words.lines().any(|found| found == line), "{line}: {words}");
        }
    }
    let ours = narrative(&rendered(&sample::source(Kind::New), BARS));
    for word in ["Child", "Contact", "Reason", "Wanted", "Asked"] {
        assert!(!ours.contains(word), "our own message says no more: {ours}");
    }
}

#[test]
fn what_is_no_longer_or_never_was_so_is_said_and_not_taken() {
    let code = |list: &str, code: &str| json!({"coding": [{"system": format!("http://terminology.hl7.org/CodeSystem/{list}"), "code": code}]});
    let category = json!([{"coding": [{"system": name::FLAG_CATEGORY, "code": "SG"}]}]);
    let flag = |status: &str| json!({"resourceType": "Flag", "status": status, "category": category, "code": {"text": "old plan"}});
    let whole = submitted(&rendered(&sample::source(Kind::New), BARS)).unwrap();
    let more = [
        flag("inactive"),
        flag("entered-in-error"),
        json!({"resourceType": "AllergyIntolerance", "code": {"text": "Latex"},
            "verificationStatus": code("allergyintolerance-verification", "refuted")}),
        json!({"resourceType": "AllergyIntolerance", "code": {"text": "Milk"},
            "clinicalStatus": code("allergyintolerance-clinical", "resolved")}),
        json!({"resourceType": "Condition", "code": {"coding": [{"system": name::NEED, "code": "HI"}]},
            "verificationStatus": code("condition-ver-status", "entered-in-error")}),
        json!({"resourceType": "Observation", "status": "cancelled", "code": {"text": "Weight"}}),
        json!({"resourceType": "DocumentReference", "status": "superseded", "description": "Old report",
            "content": [{"attachment": {"contentType": "text/plain", "data": "AAAA"}}]}),
    ];
    let bundle = with("Patient", &json!({}), &more);
    let asked = read(&bundle).unwrap();
    assert!(asked.documents.is_empty());
    let read = submitted(&bundle).unwrap();
    assert_eq!(read.safeguarding, whole.safeguarding);
    assert_eq!(read.needs, whole.needs);
    let allergies = read.allergies.unwrap();
    assert!(!allergies.expose().contains("Latex"));
    assert!(allergies.expose().contains("Milk (resolved)"));
    let words = read.narrative.unwrap();
    for line in [
        "Flag that is not in force: SG inactive old plan",
        "Flag that is not in force: SG entered-in-error old plan",
        "Not an allergy (refuted): Latex",
        "Condition that does not stand (entered-in-error): HI",
        "Observation that does not stand (cancelled): Weight",
        "Document not taken, for it is superseded: Old report",
    ] {
        let found = words.expose().lines().any(|found| found == line);
        assert!(found, "{line}: {}", words.expose());
    }
}

#[test]
fn what_changes_the_meaning_of_the_rest_is_refused_by_its_path() {
    let foreign = json!([{"url": "urn:other", "valueBoolean": true}]);
    for (kind, changes, end) in [
        (
            "ServiceRequest",
            json!({"doNotPerform": true}),
            "doNotPerform",
        ),
        (
            "ServiceRequest",
            json!({"modifierExtension": foreign}),
            "modifierExtension[0]",
        ),
        (
            "Patient",
            json!({"name": [{"family": "Q", "modifierExtension": foreign}]}),
            "name[0].modifierExtension[0]",
        ),
        (
            "Flag",
            json!({"modifierExtension": foreign}),
            "modifierExtension[0]",
        ),
        (
            "MessageHeader",
            json!({"implicitRules": "urn:rules"}),
            "implicitRules",
        ),
    ] {
        let mut bundle = with(kind, &changes, &[]);
        let fault = read(&bundle).err().unwrap();
        assert!(fault.path.ends_with(end), "{kind}: {fault}");
        assert_eq!(fault.issue, Issue::NotSupported);
        bundle["entry"][0]["resource"]["eventCoding"]["code"] = json!("servicerequest-response");
        assert!(
            status_of(&bundle).err().unwrap().path.ends_with(end),
            "{kind}"
        );
    }
    let said = with("ServiceRequest", &json!({"doNotPerform": false}), &[]);
    assert!(read(&said).is_ok());
}
