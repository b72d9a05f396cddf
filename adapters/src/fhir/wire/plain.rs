//! Transactions for FHIR R4 servers that are not BaRS: a `ServiceRequest`, which is the ask, and a Task, its fulfilment.
//!
//! A new referral creates each resource only if the server has none under our identifier, so that a repeat changes
//! nothing (FHIR R4, 3.1.0.8.1, conditional create); amendments put under the same identifiers, and what ends a referral
//! puts the request and its task alone. What
//! supports the request is contained in it: it goes and changes as one, and the transaction stays within what servers
//! take of conditional entries (Medplum: 8).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::directory::CodeMap;
use waymark_core::id::ServiceId;
use waymark_core::leg::LegState;
use waymark_core::personal::Personal;
use waymark_core::port::{InboundStatus, RenderError, Rendered, Source, StatusNotice};
use waymark_core::time::Timestamp;

use super::super::config::Settings;
use super::super::name;
use super::node::{Fault, Issue, Node};
use super::outward::{self, Standing};
use super::part::{Bundle, BundleEntry, Entry, Folder, code_extension, text_extension};
use super::{bars, cannot, code, notice};

/// The system of the identifiers that a server finds our resources again by.
pub(crate) const RESOURCE_ID: &str = "urn:waymark:id:resource";

/// What a transaction does with its resources.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Create,
    Put,
}

/// Renders a transaction.
pub(super) fn render(
    source: &Source,
    settings: &Settings,
    codes: &CodeMap,
) -> Result<Rendered, RenderError> {
    // A server resolves `urn:uuid:` within the transaction: what it names need only be unique there.
    let mut folder = Folder::new(source.wire_id.as_str());
    let standing = |status: &'static str| Standing {
        status,
        intent: "order",
        use_case: &settings.use_case,
        id: None,
        delivery: None,
    };
    let act = match source.kind {
        Kind::New => {
            outward::whole(
                &mut folder,
                source,
                super::content(source)?,
                codes,
                standing("active"),
            );
            let parties = Parties {
                patient: folder.reference("patient"),
                sender: folder.reference("sender"),
                receiver: folder.reference("receiver"),
            };
            let wire_id = Some(source.wire_id.as_str());
            task(&mut folder, source, "requested", wire_id, &parties);
            Act::Create
        }
        Kind::Amend => {
            outward::whole(
                &mut folder,
                source,
                super::content(source)?,
                codes,
                standing("active"),
            );
            Act::Put
        }
        Kind::Cancel | Kind::Withdraw => {
            ended(&mut folder, source, &settings.use_case);
            Act::Put
        }
        Kind::Guidance => return Err(RenderError::not_to_agencies()),
        Kind::Status => {
            let notice = source
                .status
                .as_ref()
                .ok_or_else(|| cannot("status", "is missing"))?;
            status(&mut folder, source, notice, codes);
            Act::Put
        }
    };
    if let Some(fault) = folder.faults.first() {
        return Err(RenderError::CannotCarry(fault.clone()));
    }
    let entry = contained(folder.entries).into_iter().map(|entry| {
        let (key, resource) = identified(source, &entry.name, entry.resource);
        let kind = resource
            .get("resourceType")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let request = match act {
            Act::Create => {
                json!({ "method": "POST", "url": kind, "ifNoneExist": format!("identifier={key}") })
            }
            Act::Put => json!({ "method": "PUT", "url": format!("{kind}?identifier={key}") }),
        };
        BundleEntry {
            full_url: entry.url,
            request: Some(request),
            resource,
        }
    });
    let bundle = Bundle {
        entry: entry.collect(),
        id: name::bundle_id(&source.wire_id).to_string(),
        identifier: json!({ "system": name::DELIVERY_ID, "value": source.wire_id.as_str() }),
        meta: super::meta(source.environment, None),
        resource_type: "Bundle",
        timestamp: None,
        kind: "transaction",
    };
    bundle.written()
}

/// What has an existence of its own at a server; all else exists for the request alone.
const OWN: [&str; 7] = [
    "patient",
    "request",
    "task",
    "sender",
    "receiver",
    "practitioner",
    "role",
];

/// Puts what supports the request into it (FHIR R4, 2.28.3), and lets references lead there.
fn contained(entries: Vec<Entry>) -> Vec<Entry> {
    let is_own = |entry: &Entry| OWN.contains(&entry.name.as_str());
    let (mut own, inner): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(is_own);
    let id = |entry: &Entry| entry.name.replace('_', "-");
    let places: BTreeMap<String, String> = inner
        .iter()
        .map(|entry| (entry.url.clone(), format!("#{}", id(entry))))
        .collect();
    let mut inside = Vec::with_capacity(inner.len());
    for entry in inner {
        let id = id(&entry);
        let mut resource = entry.resource;
        lead(&mut resource, &places);
        if let Some(map) = resource.as_object_mut() {
            map.insert("id".to_owned(), id.into());
        }
        inside.push(resource);
    }
    for entry in own.iter_mut().filter(|entry| entry.name == "request") {
        lead(&mut entry.resource, &places);
        if let Some(map) = entry.resource.as_object_mut()
            && !inside.is_empty()
        {
            map.insert(
                "contained".to_owned(),
                Value::Array(std::mem::take(&mut inside)),
            );
        }
    }
    own
}

/// Leads the references in a value to their new places.
fn lead(value: &mut Value, places: &BTreeMap<String, String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| lead(item, places)),
        Value::Object(map) => {
            for (key, value) in map {
                let url = value.as_str().filter(|_| key == "reference");
                match url.and_then(|url| places.get(url)) {
                    Some(place) => *value = Value::String(place.clone()),
                    None => lead(value, places),
                }
            }
        }
        _ => {}
    }
}

/// One for each referral, leg and place: a referral that comes back to a service that had it before is a new request
/// there. Of a status, which has no leg, one for each service that tells it, or agency.
fn key(source: &Source, name: &str) -> String {
    let leg = source.leg.map(|leg| leg.to_string());
    let teller = source.status.as_ref().map(|notice| {
        let service = notice.service.as_ref().map(ServiceId::as_str);
        service.unwrap_or(notice.from.as_str()).to_owned()
    });
    let place = leg.or(teller).unwrap_or_default();
    format!("{}-{place}-{name}", source.reference.as_str())
}

/// Gives a resource the identifier that the server finds it again by.
fn identified(source: &Source, name: &str, resource: Value) -> (String, Value) {
    let value = key(source, name);
    let own = json!({ "system": RESOURCE_ID, "value": value });
    let Value::Object(mut map) = resource else {
        return (String::new(), resource);
    };
    let list = map.entry("identifier").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.insert(0, own);
    }
    (format!("{RESOURCE_ID}|{value}"), Value::Object(map))
}

/// Who takes part in a task.
struct Parties {
    patient: Value,
    sender: Value,
    receiver: Value,
}

/// A referral that ends: the request and its task, which the server has, and nothing more of the child than the identifier
/// that the server knows it by. All else that supported the request goes with it.
fn ended(folder: &mut Folder<'_>, source: &Source, use_case: &str) {
    let patient = json!({ "type": "Patient", "identifier": { "system": RESOURCE_ID, "value": key(source, "patient") } });
    let parties = Parties {
        patient: patient.clone(),
        sender: agency(source.sender.as_str()),
        receiver: agency(source.recipient.as_str()),
    };
    let identifier = outward::request_identifiers(folder, source, None);
    let request = json!({
        "identifier": identifier,
        "status": code::ended_request(source.stop.as_ref()),
        "intent": "order",
        "category": [{ "coding": [
            { "system": name::CATEGORY, "code": "referral", "display": "Transfer of Care" },
            { "system": name::USE_CASE, "code": use_case },
        ] }],
        "subject": patient,
        "authoredOn": source.at.to_string(),
        "requester": parties.sender,
        "performer": [parties.receiver],
        "note": ending(source),
    });
    folder.put("request", "ServiceRequest", request);
    let status = code::ended_task(source.stop.as_ref());
    task(folder, source, status, None, &parties);
}

/// An agency by its id.
fn agency(id: &str) -> Value {
    json!({ "type": "Organization", "identifier": { "system": name::agency_system(id), "value": id } })
}

/// Why it ends, in words.
fn ending(source: &Source) -> Value {
    let withdrawn = (source.kind == Kind::Withdraw).then(|| json!({ "text": bars::WITHDRAWN }));
    let reason = source.reason.as_ref();
    json!([
        withdrawn,
        reason.map(|text| json!({ "text": text.expose() }))
    ])
}

/// The task: what the receiver moves as it works on the referral.
fn task(
    folder: &mut Folder<'_>,
    source: &Source,
    status: &str,
    wire_id: Option<&str>,
    parties: &Parties,
) {
    let body = json!({
        "identifier": [
            wire_id.map(|id| json!({ "system": name::DELIVERY_ID, "value": id })),
            { "system": name::REFERENCE, "value": source.reference.as_str() },
        ],
        "status": status,
        "intent": "order",
        "code": { "coding": [{ "system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "fulfill" }] },
        "focus": folder.reference("request"),
        "for": parties.patient,
        "authoredOn": source.at.to_string(),
        "lastModified": source.at.to_string(),
        "requester": parties.sender,
        "owner": parties.receiver,
        "note": ending(source),
    });
    folder.put("task", "Task", body);
}

/// A status for the agency that sent the referral: a task of the agency that tells it. The child is not named.
fn status(folder: &mut Folder<'_>, source: &Source, notice: &StatusNotice, codes: &CodeMap) {
    let mapped = codes.status.get(&notice.state);
    let mapped = mapped.map(|wire| json!({ "system": name::system_of(&wire.system), "code": wire.code, "display": wire.display }));
    let own = json!({ "system": name::STATE, "code": notice.state.as_str() });
    let body = json!({
        "extension": [
            code_extension("state", notice.state.as_str()),
            text_extension("service", notice.service.as_ref().map(ServiceId::as_str)),
        ],
        "identifier": [
            { "system": name::REFERENCE, "value": source.reference.as_str() },
            { "system": name::REFERRAL_ID, "value": source.referral.to_string() },
            outward::sender_identifier(source),
        ],
        "status": code::task_status(notice.state, notice.did_not_arrive()),
        "statusReason": { "coding": [{ "system": name::REASON, "code": notice.code }] },
        "businessStatus": { "coding": [mapped, own] },
        "intent": "order",
        "restriction": { "period": { "end": notice.due.map(|day| day.to_string()) } },
        "lastModified": notice.at.to_string(),
        "owner": agency(notice.from.as_str()),
        "note": notice::notes(notice),
    });
    folder.put("task", "Task", body);
}

/// What the server says of our task: none where it has not moved.
pub(crate) fn read_task(
    task: &Node<'_>,
    codes: &CodeMap,
) -> Result<Option<(String, InboundStatus)>, Fault> {
    if task.text("resourceType")? != Some("Task") {
        return Err(task.fault("is a Task", Issue::NotSupported));
    }
    let (mut wire_id, mut reference) = (None, None);
    for identifier in task.list("identifier")? {
        let value = identifier.text("value")?;
        match identifier.text("system")? {
            Some(name::DELIVERY_ID) => wire_id = value,
            Some(name::REFERENCE) => reference = value,
            _ => {}
        }
    }
    let Some(reference) = reference else {
        return Err(task.fault_of(
            "identifier",
            "holds our reference, as we gave it",
            Issue::Required,
        ));
    };
    let status = task.required_text("status")?;
    let Some(state) = state(task, status, codes)? else {
        return Ok(None);
    };
    let id = task.required_text("id")?;
    let meta = task.object("meta")?;
    let meta_text = |element: &str| match &meta {
        Some(meta) => meta.text(element),
        None => Ok(None),
    };
    let changed = match &meta {
        Some(meta) => bars::instant(meta, "lastUpdated")?,
        None => None,
    };
    let at = bars::instant(task, "lastModified")
        .ok()
        .flatten()
        .or(changed);
    let version = meta_text("versionId")?.map_or_else(
        || format!("{status}@{}", at.map_or(0, Timestamp::as_ms)),
        ToOwned::to_owned,
    );
    let due = match task.object("restriction")? {
        Some(restriction) => match restriction.object("period")? {
            Some(period) => period
                .text("end")?
                .and_then(|end| end.get(..10)?.parse().ok()),
            None => None,
        },
        None => None,
    };
    let status = InboundStatus {
        referral: reference.to_owned(),
        answers: wire_id.map(ToOwned::to_owned),
        receiver_reference: Some(format!("Task/{id}")),
        state,
        source_version: changed.and_then(|at| u64::try_from(at.as_ms()).ok()),
        reason_code: reason(task)?,
        text: notice::words_of(task)?.map(Personal::new),
        due,
        at,
        grade: Evidence::ApplicationAck,
    };
    Ok(Some((format!("Task/{id}/{version}"), status)))
}

/// The state: by our own code or the endpoint's map of business statuses, else what the status alone says.
fn state(task: &Node<'_>, status: &str, codes: &CodeMap) -> Result<Option<LegState>, Fault> {
    let business = task.concept("businessStatus")?;
    if let Some(own) = business.code_of(name::STATE).and_then(LegState::parse) {
        return Ok(Some(own));
    }
    let mut mapped = business
        .codings
        .iter()
        .filter_map(|coding| codes.status_of(coding.system.unwrap_or_default(), coding.code?));
    if let Some(state) = mapped.next() {
        return Ok(Some(state));
    }
    let codes: Vec<&str> = business
        .codings
        .iter()
        .filter_map(|coding| coding.code)
        .collect();
    let known = codes.iter().find_map(|code| match *code {
        "triage" => Some(LegState::InTriage),
        "info" => Some(LegState::InfoNeeded),
        "wnb" => Some(LegState::WasNotBrought),
        other => LegState::parse(other),
    });
    if known.is_some() {
        return Ok(known);
    }
    let asks = task
        .concept("statusReason")?
        .codings
        .iter()
        .any(|coding| coding.code == Some("info"));
    if status == "on-hold" && asks {
        return Ok(Some(LegState::InfoNeeded));
    }
    let has_output = !task.list("output")?.is_empty();
    Ok(code::task_state(status, has_output))
}

fn reason(task: &Node<'_>) -> Result<Option<String>, Fault> {
    let reason = task.concept("statusReason")?;
    let code = reason.codings.iter().find_map(|coding| coding.code);
    Ok(code.map(ToOwned::to_owned))
}
