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

#[test]
fn what_is_old_is_said_in_words_and_never_chosen() {
    let contact = json!({"telecom": [{"system": "phone", "use": "old", "value": "1"},
        {"system": "phone", "use": "mobile", "value": "2"}, {"system": "email", "use": "old", "value": "a@b.example"}]});
    let bundle = with("RelatedPerson", &contact, &[]);
    let read = submitted(&bundle).unwrap();
    assert_eq!(read.contacts[0].phone.as_ref().unwrap().expose(), "2");
    assert!(read.contacts[0].email.is_none());
    let words = narrative(&bundle);
    for line in [
        "Contact Marisol Quillfeather, old phone: 1",
        "Contact Marisol Quillfeather, old email: a@b.example",
    ] {
        assert!(words.lines().any(|found| found == line), "{line}: {words}");
    }
    let name = json!({"use": "old", "family": "Before", "given": ["Tam"]});
    let child = json!({"address": [{"use": "old", "line": ["4 Left Lane"]}],
        "name": [name, {"family": "Quillfeather", "given": ["Tam"]}],
        "identifier": [{"use": "old", "system": name::NHS_NUMBER, "value": "9434765919"}]});
    let bundle = with("Patient", &child, &[]);
    let read = submitted(&bundle).unwrap();
    assert_eq!(read.child.name.family.expose(), "Quillfeather");
    assert!(read.child.address.is_none() && read.child.nhs_number.is_none());
    let words = narrative(&bundle);
    for line in [
        "Child, old name: Tam Before",
        "Child, old address: 4 Left Lane",
        "Child, old identifier: 9434765919",
    ] {
        assert!(words.lines().any(|found| found == line), "{line}: {words}");
    }
    let only = with("Patient", &json!({ "name": [name] }), &[]);
    assert!(read_fault(&only).ends_with("resource.name"));
}

fn read_fault(bundle: &Value) -> String {
    read(bundle).err().unwrap().path
}

#[test]
fn a_finding_is_said_with_its_value_whatever_its_type_and_with_its_parts_and_notes() {
    let observation = |more: Value| {
        let mut one = json!({"resourceType": "Observation", "status": "final",
            "code": {"text": "Child protection plan in place"}});
        one.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        one
    };
    for (more, said) in [
        (json!({"valueBoolean": false}), ": no"),
        (json!({"valueBoolean": true}), ": yes"),
        (
            json!({"valueQuantity": {"comparator": "<", "value": 12.5, "unit": "kg"}}),
            ": < 12.5 kg",
        ),
        (json!({"valueInteger": 3}), ": 3"),
        (json!({"valueDateTime": "2026-03-01"}), ": 2026-03-01"),
        (
            json!({"valueRange": {"low": {"value": 1}, "high": {"value": 2, "unit": "h"}}}),
            ": 1 to 2 h",
        ),
        (
            json!({"valuePeriod": {"start": "2026-01-01"}}),
            ": 2026-01-01 to ?",
        ),
        (
            json!({"dataAbsentReason": {"text": "not asked"}}),
            ": no value (not asked)",
        ),
        (
            json!({"valueString": "since May", "interpretation": [{"text": "high"}], "note": [{"text": "under review"}],
                "component": [{"code": {"text": "Emotional harm"}, "valueBoolean": false}]}),
            ": since May [high]; Emotional harm: no (under review)",
        ),
        (json!({}), ""),
    ] {
        let words = narrative(&with("Patient", &json!({}), &[observation(more)]));
        let line = format!("Observation: Child protection plan in place{said}");
        assert!(words.lines().any(|found| found == line), "{line}: {words}");
    }
    let samples = observation(json!({"valueSampledData": {"data": "1 2"}}));
    let refused = read_fault(&with("Patient", &json!({}), &[samples]));
    assert!(refused.ends_with("valueSampledData"), "{refused}");
}

#[test]
fn a_care_plan_loses_neither_words_nor_what_must_not_be_done() {
    let plan = json!({"resourceType": "CarePlan", "description": "Early help", "note": [{"text": "agreed in May"}],
    "activity": [
        {"detail": {"status": "completed", "code": {"text": "Parenting course"}}, "progress": [{"text": "went well"}]},
        {"detail": {"status": "cancelled", "doNotPerform": true, "description": "home visits"}},
        {"detail": {"status": "completed", "description": "Sleep diary"}, "progress": [{"text": "kept"}, {"text": "and read"}]},
    ]});
    let bundle = with("Patient", &json!({}), &[plan]);
    let words = narrative(&bundle);
    for line in [
        "Care plan: Early help",
        "Care plan, note: agreed in May",
        "Care plan, activity: Parenting course, completed, went well",
        "Care plan, NOT TO BE DONE: home visits, cancelled",
    ] {
        assert!(words.lines().any(|found| found == line), "{line}: {words}");
    }
    let cycles = submitted(&bundle).unwrap().graduated_response;
    let last = cycles.last().unwrap();
    assert_eq!(last.what.expose(), "Sleep diary");
    assert_eq!(last.outcome.as_ref().unwrap().expose(), "kept\nand read");
}

#[test]
fn a_note_on_contact_stands_in_words_whether_contact_is_safe_or_not_known() {
    use waymark_core::referral::SafeToContact;
    for (safe, begins) in [
        (SafeToContact::Yes, "BEFORE CONTACT: "),
        (
            SafeToContact::Unknown,
            "BEFORE CONTACT, WHICH MAY BE UNSAFE: ",
        ),
    ] {
        let mut source = sample::source(Kind::New);
        let contact = &mut source.content.as_mut().unwrap().contacts[0];
        contact.safe_to_contact = safe;
        contact.safe_contact_note = Some("never say where they live now".into());
        for settings in [BARS, PLAIN] {
            let mut bundle = rendered(&source, settings);
            let said = bundle.to_string();
            let line = format!("{begins}Marisol Quillfeather");
            let banner = &resource(&mut bundle, "ServiceRequest")["note"][0]["text"];
            let banner = banner.as_str().unwrap();
            let found = banner
                .lines()
                .find(|found| found.starts_with(&line))
                .unwrap();
            assert!(found.ends_with("never say where they live now"), "{found}");
            assert!(said.matches(found).count() >= 2, "a flag says it too");
        }
        let back = submitted(&rendered(&source, BARS)).unwrap();
        assert_eq!(
            back,
            as_read(source.content.unwrap()),
            "and it comes back as it was"
        );
    }
}
