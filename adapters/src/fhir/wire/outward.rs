//! From the canonical referral to the resources that both kinds of FHIR message carry.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use waymark_core::directory::CodeMap;
use waymark_core::id::{AgencyId, ServiceId};
use waymark_core::identifier::{Uln, Upn};
use waymark_core::personal::Personal;
use waymark_core::port::Source;
use waymark_core::referral::{
    Child, Consent, ConsentStatus, Contact, DocumentRef, Flag, NhsVerification, Priority, Referral,
    Setting, Sex, Tested,
};

use super::super::name;
use super::part::{
    Folder, address, code_extension, human_name, note, observed, telecom, text_extension,
    value_concept,
};
use super::safety::{banner, contact_words, format_words, is_unsafe};

/// A request's status and intent, which differ between a message and a transaction.
#[derive(Clone, Copy)]
pub(super) struct Standing<'a> {
    /// FHIR's status.
    pub(super) status: &'a str,
    /// FHIR's intent.
    pub(super) intent: &'a str,
    /// The local use case.
    pub(super) use_case: &'a str,
    /// The receiver's own id of the request, where it gave one.
    pub(super) id: Option<&'a str>,
    /// The delivery's own id, where the receiver may echo it.
    pub(super) delivery: Option<&'a str>,
}

/// Puts everything in that a referral is made of.
pub(super) fn whole(
    folder: &mut Folder<'_>,
    source: &Source,
    content: &Referral,
    codes: &CodeMap,
    standing: Standing<'_>,
) {
    parties(folder, &source.sender, &source.recipient);
    referrer(folder, content);
    patient(folder, &content.child);
    let encounter = json!({
        "status": "planned",
        "class": { "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB", "display": "ambulatory" },
        "subject": folder.reference("patient"),
    });
    folder.put("encounter", "Encounter", encounter);
    plan(folder, content);
    let before = folder.entries.len();
    supporting(folder, source, content, codes);
    let supporting: Vec<Value> = folder
        .entries
        .iter()
        .skip(before)
        .map(|entry| json!({ "reference": entry.url }))
        .collect();
    request(folder, source, content, codes, standing, &supporting);
}

/// The two organisations.
pub(super) fn parties(folder: &mut Folder<'_>, from: &AgencyId, to: &AgencyId) {
    for (name, agency) in [("sender", from), ("receiver", to)] {
        let agency = agency.as_str();
        let urn =
            name::school_of(agency).map(|urn| json!({ "system": name::SCHOOL_URN, "value": urn }));
        let own = json!({ "system": name::agency_system(agency), "value": agency });
        folder.put(
            name,
            "Organization",
            json!({ "identifier": [own, urn], "active": true }),
        );
    }
}

fn referrer(folder: &mut Folder<'_>, content: &Referral) {
    let who = &content.referrer;
    let practitioner = json!({
        "name": [{ "text": who.name.expose() }],
        "telecom": telecom(who.phone.as_ref().map(|p| p.expose().as_str()), who.email.as_ref().map(|e| e.expose().as_str())),
    });
    folder.put("practitioner", "Practitioner", practitioner);
    let role = json!({
        "practitioner": folder.reference("practitioner"),
        "organization": folder.reference("sender"),
        "code": [{ "text": who.role }],
    });
    folder.put("role", "PractitionerRole", role);
}

/// The child's identifiers.
fn identifiers(folder: &mut Folder<'_>, child: &Child) -> Vec<Value> {
    let mut all = Vec::new();
    if let Some(number) = &child.nhs_number {
        let (code, display) = match child.nhs_verification {
            NhsVerification::Verified => {
                ("number-present-and-verified", "Number present and verified")
            }
            NhsVerification::Unverified => (
                "number-present-but-not-traced",
                "Number present but not traced",
            ),
        };
        let status = json!({
            "url": name::VERIFICATION_EXTENSION,
            "valueCodeableConcept": { "coding": [{ "system": name::VERIFICATION, "code": code, "display": display }] },
        });
        all.push(
            json!({ "extension": [status], "system": name::NHS_NUMBER, "value": number.expose() }),
        );
    }
    let own = [
        (name::UPN, child.upn.as_ref().map(Upn::expose)),
        (name::ULN, child.uln.as_ref().map(Uln::expose)),
    ];
    for (system, value) in own {
        all.extend(value.map(|value| json!({ "system": system, "value": value })));
    }
    for (nth, local) in child.local_ids.iter().enumerate() {
        let field = format!("child.local_ids[{nth}].system");
        all.push(folder.identifier(&field, &local.system, local.value.expose()));
    }
    all
}

/// The child by identifiers alone: enough for who has the referral already.
pub(super) fn patient_named(folder: &mut Folder<'_>, child: &Child) {
    let identifier = identifiers(folder, child);
    folder.put("patient", "Patient", json!({ "identifier": identifier }));
}

fn patient(folder: &mut Folder<'_>, child: &Child) {
    let identifier = identifiers(folder, child);
    let gender = match child.sex {
        Sex::Female => "female",
        Sex::Male => "male",
        Sex::Other => "other",
        Sex::Unknown => "unknown",
    };
    let language = child.language.as_ref().map(|tag| {
        let coding = folder.coding("child.language", "urn:ietf:bcp:47", tag);
        json!([{ "language": { "coding": [coding] }, "preferred": true }])
    });
    let interpreter = child
        .interpreter_required
        .then(|| json!({ "url": name::INTERPRETER, "valueBoolean": true }));
    let patient = json!({
        "extension": [interpreter],
        "identifier": identifier,
        "name": [human_name(&child.name)],
        "gender": gender,
        "birthDate": child.date_of_birth.expose().to_string(),
        "address": [child.address.as_ref().map(address)],
        "communication": language,
    });
    folder.put("patient", "Patient", patient);
}

/// What was tried: a care plan with an activity for each cycle.
fn plan(folder: &mut Folder<'_>, content: &Referral) {
    let activities: Vec<Value> = content
        .graduated_response
        .iter()
        .map(|cycle| {
            json!({
                "progress": [cycle.outcome.as_ref().map(|text| json!({ "text": text.expose() }))],
                "detail": {
                    "status": "completed",
                    "scheduledPeriod": {
                        "start": cycle.from.map(|day| day.to_string()),
                        "end": cycle.to.map(|day| day.to_string()),
                    },
                    "description": cycle.what.expose(),
                },
            })
        })
        .collect();
    let plan = json!({
        "status": "active",
        "intent": "plan",
        "title": "Graduated response: assess, plan, do, review",
        "subject": folder.reference("patient"),
        "encounter": folder.reference("encounter"),
        "activity": activities,
    });
    folder.put("plan", "CarePlan", plan);
}

/// Everything that supports the request; what is safety-critical stands first.
fn supporting(folder: &mut Folder<'_>, source: &Source, content: &Referral, codes: &CodeMap) {
    for (nth, flag) in content.safeguarding.iter().enumerate() {
        self::flag(folder, ("safeguarding", nth), ("SG", "Safeguarding"), flag);
    }
    for (nth, flag) in content.reasonable_adjustments.iter().enumerate() {
        let category = ("RA", "Reasonable adjustment");
        self::flag(folder, ("reasonable_adjustments", nth), category, flag);
    }
    for (nth, contact) in content.contacts.iter().enumerate() {
        related(folder, nth, contact);
    }
    if let Some(text) = &content.allergies {
        let allergy = json!({
            "clinicalStatus": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active" }] },
            "verificationStatus": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification", "code": "unconfirmed" }] },
            "code": { "text": text.expose() },
            "patient": folder.reference("patient"),
        });
        folder.put("allergies", "AllergyIntolerance", allergy);
    }
    consent(folder, content);
    for (nth, need) in content.needs.iter().enumerate() {
        let own = json!({ "system": name::NEED, "code": need.kind.as_str() });
        let mapped = codes.need.get(&need.kind);
        let mapped = mapped.map(|wire| json!({ "system": name::system_of(&wire.system), "code": wire.code, "display": wire.display }));
        let condition = json!({
            "extension": [{ "url": name::extension("rank"), "valuePositiveInt": need.rank }],
            "clinicalStatus": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active" }] },
            "code": { "coding": [mapped, own] },
            "subject": folder.reference("patient"),
        });
        folder.put(&format!("need-{nth}"), "Condition", condition);
    }
    for (nth, concern) in content.concerns.iter().enumerate() {
        let words = |code: &str, text: Option<&str>| {
            text.filter(|text| !text.is_empty())
                .map(|text| json!({ "code": observed(code), "valueString": text }))
        };
        let components = json!([
            words("place", Some(&concern.setting)),
            words("onset", concern.onset.as_ref().map(|t| t.expose().as_str())),
            words(
                "impact",
                concern.impact.as_ref().map(|t| t.expose().as_str())
            ),
        ]);
        let value = ("valueString", json!(concern.text.expose()));
        observation(
            folder,
            &format!("concern-{nth}"),
            "concern",
            value,
            &components,
        );
    }
    facts(folder, content);
    for (nth, document) in content.documents.iter().enumerate() {
        self::document(folder, source, nth, document);
    }
}

fn flag(folder: &mut Folder<'_>, place: (&str, usize), category: (&str, &str), flag: &Flag) {
    let (list, nth) = place;
    let coding = folder.coding(&format!("{list}[{nth}].code"), &flag.system, &flag.code);
    let body = json!({
        "status": "active",
        "category": [{ "coding": [{ "system": name::FLAG_CATEGORY, "code": category.0, "display": category.1 }] }],
        "code": { "coding": [coding], "text": flag.text.as_ref().map(Personal::expose) },
        "subject": folder.reference("patient"),
    });
    folder.put(&format!("{list}-{nth}"), "Flag", body);
}

/// A person around the child. Where contact is unsafe the resource says so by a modifier, which nobody may overlook
/// (FHIR R4, 2.5.0.1); a flag and the banner say it in words, and whatever note there is on contact.
fn related(folder: &mut Folder<'_>, nth: usize, contact: &Contact) {
    let safe = code_extension("safe-to-contact", contact.safe_to_contact.as_str());
    let (plain, modifier) = if is_unsafe(contact) {
        (Value::Null, safe)
    } else {
        (safe, Value::Null)
    };
    let note = contact
        .safe_contact_note
        .as_ref()
        .map(|text| text.expose().as_str());
    let person = json!({
        "extension": [
            plain,
            text_extension("safe-contact-note", note),
            { "url": name::extension("parental-responsibility"), "valueBoolean": contact.parental_responsibility },
            code_extension("format", contact.format.as_str()),
            code_extension("channel", contact.channel.as_str()),
        ],
        "modifierExtension": [modifier],
        "patient": folder.reference("patient"),
        "relationship": [{ "coding": [
            super::code::relationship(contact.role),
            { "system": name::VALUE, "code": contact.role.as_str() },
        ] }],
        "name": [human_name(&contact.name)],
        "telecom": telecom(contact.phone.as_ref().map(|p| p.expose().as_str()), contact.email.as_ref().map(|e| e.expose().as_str())),
    });
    folder.put(&format!("contact-{nth}"), "RelatedPerson", person);
    let derived = [
        ("unsafe-contact", contact_words(contact)),
        ("format", format_words(contact)),
    ];
    for (what, words) in derived {
        let Some(words) = words else { continue };
        let flag = json!({
            "extension": [code_extension("derived", what)],
            "status": "active",
            "category": [{ "coding": [{ "system": name::FLAG_CATEGORY, "code": "API", "display": "Additional patient information" }] }],
            "code": { "text": words },
            "subject": folder.reference("patient"),
        });
        folder.put(&format!("{what}-{nth}"), "Flag", flag);
    }
}

fn consent(folder: &mut Folder<'_>, content: &Referral) {
    let consent: &Consent = &content.consent;
    let status = match consent.status {
        ConsentStatus::Given => "active",
        ConsentStatus::Withheld => "rejected",
        ConsentStatus::Withdrawn => "inactive",
        ConsentStatus::NotSought => "proposed",
    };
    let purposes: Vec<Value> = consent
        .scope
        .iter()
        .map(|scope| json!({ "system": name::VALUE, "code": scope.as_str() }))
        .collect();
    let display = |text: &Option<Personal<String>>| {
        text.as_ref()
            .map(|text| json!({ "display": text.expose() }))
    };
    let body = json!({
        "extension": [
            code_extension("consent-status", consent.status.as_str()),
            code_extension("consent-role", consent.role.as_str()),
        ],
        "status": status,
        "scope": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy" }] },
        "category": [{ "coding": [{ "system": "http://loinc.org", "code": "59284-0", "display": "Consent Document" }] }],
        "patient": folder.reference("patient"),
        "dateTime": consent.date.map(|day| day.to_string()),
        "performer": [display(&consent.given_by)],
        "sourceReference": display(&consent.evidence),
        "policyRule": value_concept(content.lawful_basis.as_str()),
        "provision": { "purpose": purposes },
    });
    folder.put("consent", "Consent", body);
}

fn observation(
    folder: &mut Folder<'_>,
    name: &str,
    code: &str,
    value: (&str, Value),
    components: &Value,
) {
    let mut body = json!({
        "status": "final",
        "code": observed(code),
        "subject": folder.reference("patient"),
        "component": components,
    });
    if let Some(map) = body.as_object_mut() {
        map.insert(value.0.to_owned(), value.1);
    }
    folder.put(name, "Observation", body);
}

/// Facts without a resource of their own.
fn facts(folder: &mut Folder<'_>, content: &Referral) {
    if let Some(setting) = &content.setting {
        let components = setting_components(setting);
        let value = ("valueCodeableConcept", value_concept(setting.kind.as_str()));
        observation(folder, "setting", "education-setting", value, &components);
    }
    if let Some(percent) = content.attendance_percent {
        let quantity = json!({ "value": percent, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%" });
        observation(
            folder,
            "attendance",
            "attendance",
            ("valueQuantity", quantity),
            &Value::Null,
        );
    }
    for (code, tested) in [
        ("hearing-checked", content.hearing_checked),
        ("vision-checked", content.vision_checked),
    ] {
        if tested != Tested::Unknown {
            let value = ("valueCodeableConcept", value_concept(tested.as_str()));
            observation(folder, code, code, value, &Value::Null);
        }
    }
}

fn setting_components(setting: &Setting) -> Value {
    let urn = setting
        .urn
        .as_ref()
        .map(|urn| json!({ "system": name::SCHOOL_URN, "code": urn.expose() }));
    let school = (urn.is_some() || setting.name.is_some()).then(|| {
        json!({ "code": observed("school"), "valueCodeableConcept": { "coding": [urn], "text": setting.name } })
    });
    let year = setting
        .year_group
        .map(|year| json!({ "code": observed("year-group"), "valueInteger": year }));
    let provision = json!({ "code": observed("sen-provision"), "valueCodeableConcept": value_concept(setting.sen_provision.as_str()) });
    json!([school, year, provision])
}

/// A document, inline where it was opened for us, else by reference; its digest goes along either way. FHIR R4's own
/// hash is SHA-1 (FHIR R4, 2.24.0.9).
fn document(folder: &mut Folder<'_>, source: &Source, nth: usize, document: &DocumentRef) {
    let inline = source
        .attachments
        .iter()
        .find(|attachment| attachment.document.id == document.id);
    let (data, hash, url) = match inline {
        Some(attachment) => {
            let bytes = attachment.bytes.expose();
            let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
            (
                Some(STANDARD.encode(bytes)),
                Some(STANDARD.encode(hash)),
                None,
            )
        }
        None => (None, None, Some(format!("urn:uuid:{}", document.id))),
    };
    let media = folder.coding(
        &format!("documents[{nth}].media_type"),
        "",
        &document.media_type,
    );
    let size = u32::try_from(document.size_bytes).ok();
    let body = json!({
        "identifier": [{ "system": name::DOCUMENT_ID, "value": document.id.to_string() }],
        "status": "current",
        "type": { "text": document.kind },
        "subject": folder.reference("patient"),
        "content": [{ "attachment": {
            "extension": [{ "url": name::extension("sha256"), "valueString": document.sha256 }],
            "contentType": media.get("code"),
            "data": data,
            "url": url,
            "size": size,
            "hash": hash,
            "title": document.title.as_ref().map(Personal::expose),
        } }],
    });
    folder.put(&format!("document-{nth}"), "DocumentReference", body);
}

/// The sender's own reference, for a status to it; none where it gave none, or one that no identifier can hold.
pub(super) fn sender_identifier(source: &Source) -> Value {
    let Some(own) = &source.sender_reference else {
        return Value::Null;
    };
    let system = name::system_of(&own.namespace);
    if system
        .as_deref()
        .unwrap_or_default()
        .contains(char::is_whitespace)
    {
        return Value::Null;
    }
    let placer = json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "PLAC" }] });
    json!({ "type": placer, "system": system, "value": own.value })
}

/// The identifiers of a request: ours first, by which the far side's answers name it, then the sender's own.
pub(super) fn request_identifiers(
    folder: &mut Folder<'_>,
    source: &Source,
    content: Option<&Referral>,
) -> Vec<Value> {
    let placer = json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "PLAC" }] });
    let mut all = vec![
        json!({ "type": placer, "system": name::REFERENCE, "value": source.reference.as_str() }),
        json!({ "system": name::REFERRAL_ID, "value": source.referral.to_string() }),
    ];
    if let Some(own) = &source.sender_reference {
        all.push(folder.identifier("sender_reference.namespace", &own.namespace, &own.value));
    }
    for (nth, id) in content.iter().flat_map(|c| &c.external_ids).enumerate() {
        let field = format!("external_ids[{nth}].system");
        all.push(folder.identifier(&field, &id.system, &id.value));
    }
    all
}

fn request(
    folder: &mut Folder<'_>,
    source: &Source,
    content: &Referral,
    codes: &CodeMap,
    standing: Standing<'_>,
    supporting: &[Value],
) {
    let mut identifier = request_identifiers(folder, source, Some(content));
    let delivery = standing.delivery;
    identifier.extend(delivery.map(|id| json!({ "system": name::DELIVERY_ID, "value": id })));
    let pathway = folder.coding("pathway", name::PATHWAY, content.pathway.as_str());
    let own = folder.coding("reason.code", name::REASON, &content.reason.code);
    let mapped = codes.reason.get(&content.reason.code);
    let mapped = mapped.map(|wire| json!({ "system": name::system_of(&wire.system), "code": wire.code, "display": wire.display }));
    let needs: Vec<Value> = (0..content.needs.len())
        .map(|nth| folder.reference(&format!("need-{nth}")))
        .collect();
    let service = content.requested_service.as_ref().map(ServiceId::as_str);
    let why_soon = content
        .priority_reason
        .as_ref()
        .map(|t| t.expose().as_str());
    let narrative = content.narrative.as_ref().map(|t| t.expose().as_str());
    let at = source.at.to_string();
    let body = json!({
        "id": standing.id,
        "extension": [
            code_extension("priority", content.priority.as_str()),
            text_extension("requested-service", service),
        ],
        "identifier": identifier,
        "basedOn": [folder.reference("plan")],
        "status": standing.status,
        "intent": standing.intent,
        "category": [{ "coding": [
            { "system": name::CATEGORY, "code": "referral", "display": "Transfer of Care" },
            { "system": name::USE_CASE, "code": standing.use_case },
        ] }],
        "priority": priority(content.priority, codes),
        "code": { "coding": [pathway] },
        "subject": folder.reference("patient"),
        "encounter": folder.reference("encounter"),
        "occurrencePeriod": { "start": at },
        "authoredOn": at,
        "requester": folder.reference("role"),
        "performer": [folder.reference("receiver")],
        "reasonCode": [{ "coding": [mapped, own], "text": content.reason.text.as_ref().map(Personal::expose) }],
        "reasonReference": needs,
        "supportingInfo": supporting,
        "note": [
            note("banner", Some(&banner(content))),
            note("priority-reason", why_soon),
            note("narrative", narrative),
        ],
    });
    folder.put("request", "ServiceRequest", body);
}

/// How soon, as FHIR says it; the exact code travels beside it. `asap` is sooner than `urgent` there, so an urgent
/// referral may be read as no less than it is.
fn priority(priority: Priority, codes: &CodeMap) -> String {
    let own = match priority {
        Priority::Routine => "routine",
        Priority::Soon | Priority::Urgent => "urgent",
        Priority::Immediate => "stat",
    };
    let mapped = codes.priority.get(&priority).map(|wire| wire.code.as_str());
    mapped
        .filter(|code| ["routine", "urgent", "asap", "stat"].contains(code))
        .unwrap_or(own)
        .to_owned()
}
