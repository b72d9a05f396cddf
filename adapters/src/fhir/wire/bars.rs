//! BaRS messages as we send them (BaRS Core 1.4, `$process-message`).

use serde_json::{Value, json};
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::directory::{CodeMap, Environment};
use waymark_core::error::Violation;
use waymark_core::id::WireId;
use waymark_core::leg::LegState;
use waymark_core::personal::Personal;
use waymark_core::port::{InboundStatus, RenderError, Rendered, Source, StatusNotice};
use waymark_core::referral::Referral;
use waymark_core::time::Timestamp;

use super::super::config::{Settings, Target};
use super::super::name;
use super::message::Message;
use super::node::{Concept, Fault, Issue, Node};
use super::outward::{self, Standing};
use super::part::{Bundle, BundleEntry, Folder, code_extension, note};
use super::{cannot, code, notice};

/// What a message says beyond its resources.
struct Header<'a> {
    event: &'a str,
    reason: &'a str,
    definition: &'a str,
    response: Option<String>,
}

/// Renders a message.
pub(super) fn render(
    source: &Source,
    settings: &Settings,
    codes: &CodeMap,
) -> Result<Rendered, RenderError> {
    let missing =
        |key: &str| RenderError::Settings(Violation::new(format!("settings.{key}"), "is required"));
    let target = settings.target.as_ref().ok_or_else(|| missing("target"))?;
    let own = settings.source.as_ref().ok_or_else(|| missing("source"))?;
    let mut folder = Folder::new(source.wire_id.as_str());
    let standing = |status: &'static str| Standing {
        status,
        intent: "plan",
        use_case: &settings.use_case,
        id: source.receiver_reference.as_deref().filter(|id| is_id(id)),
        delivery: Some(source.wire_id.as_str()),
    };
    let request = |reason, definition| Header {
        event: "servicerequest-request",
        reason,
        definition,
        response: None,
    };
    let header = match source.kind {
        Kind::New => {
            let standing = Standing {
                id: None,
                ..standing("active")
            };
            outward::whole(
                &mut folder,
                source,
                super::content(source)?,
                codes,
                standing,
            );
            request("new", name::DEFINITION_REFERRAL)
        }
        Kind::Amend => {
            outward::whole(
                &mut folder,
                source,
                super::content(source)?,
                codes,
                standing("active"),
            );
            request("update", name::DEFINITION_REFERRAL)
        }
        Kind::Cancel | Kind::Withdraw => {
            ended(
                &mut folder,
                source,
                super::content(source)?,
                standing(code::ended_request(source.stop.as_ref())),
            );
            request("update", name::DEFINITION_CANCELLED)
        }
        Kind::Guidance => return Err(RenderError::not_to_agencies()),
        Kind::Status => {
            let notice = source
                .status
                .as_ref()
                .ok_or_else(|| cannot("status", "is missing"))?;
            status(&mut folder, source, notice, codes);
            Header {
                event: "servicerequest-response",
                reason: "new",
                definition: name::DEFINITION_RESPONSE,
                response: Some(match &source.conversation {
                    Some(ids) if is_id(&ids.message) => ids.message.clone(),
                    _ => source.referral.to_string(),
                }),
            }
        }
    };
    bundle(folder, source, (target, own), &header)
}

/// Whether a text can be a resource's id (FHIR R4, 2.24.0.1).
pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

/// A request that ends: enough to name it, why, and nothing more of the child than its identifiers.
fn ended(folder: &mut Folder<'_>, source: &Source, content: &Referral, standing: Standing<'_>) {
    outward::parties(folder, &source.sender, &source.recipient);
    outward::patient_named(folder, &content.child);
    let mut identifier = outward::request_identifiers(folder, source, Some(content));
    let delivery = standing.delivery;
    identifier.extend(delivery.map(|id| json!({ "system": name::DELIVERY_ID, "value": id })));
    let words = source
        .reason
        .as_ref()
        .map(|reason| reason.expose().as_str());
    let withdrawn = (source.kind == Kind::Withdraw).then_some(WITHDRAWN);
    let request = json!({
        "id": standing.id,
        "identifier": identifier,
        "status": standing.status,
        "intent": standing.intent,
        "category": [{ "coding": [
            { "system": name::CATEGORY, "code": "referral", "display": "Transfer of Care" },
            { "system": name::USE_CASE, "code": standing.use_case },
        ] }],
        "subject": folder.reference("patient"),
        "authoredOn": source.at.to_string(),
        "requester": folder.reference("sender"),
        "performer": [folder.reference("receiver")],
        "note": [note("ending", withdrawn), note("ending", words)],
    });
    folder.put("request", "ServiceRequest", request);
}

/// What a receiver must do once consent is withdrawn; it stands in words because BaRS has no message for it.
pub(super) const WITHDRAWN: &str =
    "CONSENT WITHDRAWN: stop work on this referral, and do not share it further.";

/// A status for the agency that sent the referral: the id is the one that our answer to its request gave. The child is
/// not named again. Who says it is the agency of the leg, whose service performs the request: several may tell of one.
fn status(folder: &mut Folder<'_>, source: &Source, notice: &StatusNotice, codes: &CodeMap) {
    outward::parties(folder, &notice.from, &source.recipient);
    let mapped = codes.status.get(&notice.state);
    let mapped = mapped.map(|wire| json!({ "system": name::system_of(&wire.system), "code": wire.code, "display": wire.display }));
    let reference = json!({ "system": name::REFERENCE, "value": source.reference.as_str() });
    let filler = json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "FILL" }] });
    let exchange = source.conversation.as_ref();
    let exchange =
        exchange.map(|ids| json!({ "system": name::EXCHANGE_ID, "value": ids.exchange }));
    let subject = json!({ "type": "Patient", "identifier": reference });
    let encounter = json!({
        "extension": [code_extension("state", notice.state.as_str())],
        "status": code::encounter_status(notice.state),
        "class": { "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB", "display": "ambulatory" },
        "type": [{ "coding": [mapped] }],
        "subject": subject,
    });
    folder.put("encounter", "Encounter", encounter);
    let request = json!({
        "id": source.referral.to_string(),
        "extension": [code_extension("state", notice.state.as_str())],
        "identifier": [
            outward::sender_identifier(source),
            { "type": filler, "system": name::REFERENCE, "value": source.reference.as_str() },
            exchange,
        ],
        "status": code::bars_status(notice.state),
        "intent": "plan",
        "category": [{ "coding": [{ "system": name::CATEGORY, "code": "referral", "display": "Transfer of Care" }] }],
        "subject": subject,
        "encounter": folder.reference("encounter"),
        "occurrencePeriod": { "start": notice.due.map(|day| day.to_string()) },
        "authoredOn": notice.at.to_string(),
        "performer": [folder.reference("sender"), notice::service(notice)],
        "reasonCode": [{ "coding": [{ "system": name::REASON, "code": notice.code }] }],
        "note": notice::notes(notice),
    });
    folder.put("request", "ServiceRequest", request);
}

/// Puts the header before the resources, and the whole into one message.
fn bundle(
    folder: Folder<'_>,
    source: &Source,
    (target, own): (&Target, &Target),
    header: &Header<'_>,
) -> Result<Rendered, RenderError> {
    if let Some(fault) = folder.faults.first() {
        return Err(RenderError::CannotCarry(fault.clone()));
    }
    let seed = source.wire_id.as_str();
    let mut own_folder = Folder::new(seed);
    let body = json!({
        "meta": { "profile": [format!("https://fhir.nhs.uk/StructureDefinition/BARSMessageHeader-{}", header.event)] },
        "eventCoding": { "system": name::EVENTS, "code": header.event },
        "destination": [{ "endpoint": target.endpoint(), "receiver": folder.reference("receiver") }],
        "sender": folder.reference("sender"),
        "source": { "name": "Waymark", "software": "Waymark", "endpoint": own.endpoint() },
        "reason": { "coding": [{ "system": name::REASONS, "code": header.reason }] },
        "response": header.response.as_ref().map(|id| json!({ "identifier": id, "code": "ok" })),
        "focus": [folder.reference("request")],
        "definition": header.definition,
    });
    own_folder.put("header", "MessageHeader", body);
    let rest = folder.entries.into_iter();
    let entry = own_folder
        .entries
        .into_iter()
        .chain(rest)
        .map(|entry| BundleEntry {
            full_url: entry.url,
            request: None,
            resource: entry.resource,
        });
    let bundle = Bundle {
        entry: entry.collect(),
        id: name::bundle_id(&source.wire_id).to_string(),
        identifier: json!({ "system": name::DELIVERY_ID, "value": seed }),
        meta: super::meta(source.environment, Some(name::BUNDLE_PROFILE)),
        resource_type: "Bundle",
        timestamp: Some(source.at.to_string()),
        kind: "message",
    };
    bundle.written()
}

/// Reads the status that a response tells of.
pub(crate) fn read_status(message: &Message<'_>, codes: &CodeMap) -> Result<InboundStatus, Fault> {
    super::aside::understood(message)?;
    let request = message.request()?;
    let (mut referral, mut answers) = (String::new(), answered(message)?);
    for identifier in request.list("identifier")? {
        let filler = identifier
            .concept("type")?
            .codings
            .iter()
            .any(|c| c.code == Some("FILL"));
        let value = identifier.text("value")?;
        match identifier.text("system")? {
            Some(name::REFERENCE) if !filler => value.unwrap_or_default().clone_into(&mut referral),
            Some(name::DELIVERY_ID) => answers = value.map(ToOwned::to_owned).or(answers),
            _ => {}
        }
    }
    let id = request.text("id")?.map(ToOwned::to_owned);
    if referral.is_empty() && answers.is_none() && id.is_none() {
        let rule = "is required: echo the identifiers of our request, the id that you gave it, or its Bundle.id in \
                    MessageHeader.response.identifier";
        return Err(request.fault_of("identifier", rule, Issue::Required));
    }
    let due = match request.object("occurrencePeriod")? {
        Some(period) => period
            .text("start")?
            .and_then(|start| start.get(..10)?.parse().ok()),
        None => None,
    };
    Ok(InboundStatus {
        referral,
        grade: if answers.is_some() {
            Evidence::ApplicationAck
        } else {
            Evidence::None
        },
        answers,
        receiver_reference: id,
        state: state(message, request, codes)?,
        source_version: None,
        reason_code: reason_code(message, request)?,
        text: notice::words_of(request)?.map(Personal::new),
        due,
        at: instant(&message.bundle, "timestamp")?,
    })
}

/// The delivery of ours that a response answers, where it names one by the id of its bundle (BaRS Core 1.4). Nothing is
/// told by a response that something went wrong: that is the HTTP status's to say.
fn answered(message: &Message<'_>) -> Result<Option<String>, Fault> {
    let Some(response) = message.header.object("response")? else {
        return Ok(None);
    };
    if response.required_text("code")? != "ok" {
        let rule = "is ok: an error is told by the HTTP status";
        return Err(response.fault_of("code", rule, Issue::NotSupported));
    }
    let delivery = name::delivery_of(response.required_text("identifier")?);
    Ok(delivery.map(WireId::into))
}

/// Where the statuses of an encounter are listed.
const ENCOUNTER_STATUSES: &str = "http://hl7.org/fhir/encounter-status";

/// The state: exactly, where the far side knows our list, then by the far side's own code lists, else what BaRS's
/// statuses say.
fn state(message: &Message<'_>, request: &Node<'_>, codes: &CodeMap) -> Result<LegState, Fault> {
    if let Some(exact) = request.extension(&name::extension("state"))? {
        let code = exact.required_text("valueCode")?;
        return LegState::parse(code)
            .ok_or_else(|| exact.fault_of("valueCode", "is a state of a referral", Issue::Value));
    }
    let focus = message.header.list("focus")?;
    let in_focus = focus
        .first()
        .map(|first| message.resolve(first))
        .transpose()?
        .flatten();
    let in_focus = in_focus
        .filter(|resource| resource.kind == "Encounter")
        .map(|r| &r.node);
    let named = match request.object("encounter")? {
        Some(reference) => message.resolve(&reference)?.map(|r| &r.node),
        None => None,
    };
    let encounter = in_focus.or(named);
    if let Some(encounter) = encounter {
        for kind in encounter.list("type")? {
            for coding in Concept::read(&kind)?.codings {
                let (system, code) = (coding.system.unwrap_or_default(), coding.code);
                if let Some(state) = code.and_then(|code| codes.status_of(system, code)) {
                    return Ok(state);
                }
            }
        }
    }
    let encounter = encounter
        .map(|node| node.text("status"))
        .transpose()?
        .flatten();
    let mapped = encounter.and_then(|code| codes.status_of(ENCOUNTER_STATUSES, code));
    if let Some(state) = mapped {
        return Ok(state);
    }
    let status = request.required_text("status")?;
    code::bars_state(status, encounter).ok_or_else(|| {
        let rule = "is active, revoked or entered-in-error, with an encounter that BaRS application 6 knows";
        request.fault_of("status", rule, Issue::Value)
    })
}

/// Why: a BaRS reason for rejecting first, wherever it stands among the reasons.
fn reason_code(message: &Message<'_>, request: &Node<'_>) -> Result<Option<String>, Fault> {
    let mut first = None;
    let encounters = message.all("Encounter");
    for node in std::iter::once(request).chain(encounters) {
        for reason in node.list("reasonCode")? {
            for coding in Concept::read(&reason)?.codings {
                let rejected = coding
                    .system
                    .is_some_and(|s| s.to_ascii_lowercase().ends_with(name::REJECTED_REASONS_END));
                if rejected {
                    return Ok(coding.code.map(ToOwned::to_owned));
                }
                first = first.or(coding.code);
            }
        }
    }
    Ok(first.map(ToOwned::to_owned))
}

/// An instant of any offset.
pub(super) fn instant(node: &Node<'_>, element: &str) -> Result<Option<Timestamp>, Fault> {
    let Some(written) = node.text(element)? else {
        return Ok(None);
    };
    let at = written.parse::<jiff::Timestamp>();
    at.map(|at| Some(Timestamp::from_ms(at.as_millisecond())))
        .map_err(|_| node.fault_of(element, "is an instant with its offset", Issue::Value))
}

/// The receiver's own id of the request, as its answer gives it.
pub(crate) fn minted_id(answer: &Value) -> Option<String> {
    let message = Message::read(answer).ok()?;
    let id = message.all("ServiceRequest").next()?.text("id").ok()??;
    is_id(id).then(|| id.to_owned())
}

/// The wrong environment, as far as a message says which it is of.
pub(crate) fn environment(message: &Message<'_>) -> Result<Option<Environment>, Fault> {
    Ok(message.is_test()?.then_some(Environment::Test))
}
