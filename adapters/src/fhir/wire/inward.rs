//! From BaRS messages to what the gateway is asked to do.
//!
//! What a foreign message cannot say comes from the agreement with its sender ([`Assumptions`]). What has no field here
//! goes into the narrative in words; kinds of resource that nobody here reads are named there, and the original is kept.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use waymark_core::directory::CodeMap;
use waymark_core::id::{Pathway, ReferralId};
use waymark_core::personal::Personal;
use waymark_core::port::{CancelCode, InboundBody, InboundDocument};
use waymark_core::referral::{
    ConsentScope, ExternalId, LawfulBasis, Priority, Reason, Referral, SenderReference, Tested,
};

use super::super::name;
use super::message::{Event, Message, Reason as Why};
use super::node::{Fault, Issue, Node};
use super::{aside, code, people, support};

/// The reason code of a referral that states none.
const REASON_UNSTATED: &str = "unstated";

/// What a BaRS message cannot say and the agreement with its sender says once for all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assumptions {
    /// The pathway of a referral whose request and reason name none.
    pub pathway: Pathway,
    /// Pathways by the code of the reason or of what is requested.
    pub pathways: BTreeMap<String, Pathway>,
    /// The lawful basis of sharing.
    pub lawful_basis: LawfulBasis,
    /// What the consent covers that the sender holds by agreement.
    pub consent_scope: Vec<ConsentScope>,
}

/// What a request asks for.
pub(crate) struct Asked {
    pub(crate) body: InboundBody,
    pub(crate) documents: Vec<InboundDocument>,
    /// The id that it names a referral by beside a reference of its sender's own: ours, or no more than its sender's.
    pub(crate) by_id: Option<SenderReference>,
}

/// Everything of one request while it is read.
pub(super) struct Reading<'m, 'v> {
    pub(super) message: &'m Message<'v>,
    pub(super) request: &'m Node<'v>,
    pub(super) assumptions: &'m Assumptions,
    /// The sender's own code lists.
    pub(super) codes: &'m CodeMap,
    /// What has no field, in words.
    pub(super) words: Vec<String>,
    pub(super) documents: Vec<InboundDocument>,
}

impl Reading<'_, '_> {
    pub(super) fn say(&mut self, words: impl Into<String>) {
        self.words.push(words.into());
    }
}

/// Reads a request: new, update or cancel.
pub(crate) fn read(
    message: &Message<'_>,
    assumptions: &Assumptions,
    codes: &CodeMap,
) -> Result<Asked, Fault> {
    aside::understood(message)?;
    single(message)?;
    let (why, request) = (message.reason()?, message.request()?);
    debug_assert_eq!(
        message.event(),
        Ok(Event::Request),
        "responses are read elsewhere"
    );
    let status = request.required_text("status")?;
    match (why, status) {
        _ if ends(why, status) => {
            let code = match status {
                "entered-in-error" => CancelCode::EnteredInError,
                _ => CancelCode::CancelledBySender,
            };
            let body = InboundBody::Cancel(named(request)?, code, ending(request)?);
            Ok(Asked {
                body,
                documents: Vec::new(),
                by_id: by_id(request)?,
            })
        }
        (Why::New | Why::Update, "active") => {
            let (referral, documents) = referral(message, request, assumptions, codes)?;
            let referral = Box::new(referral);
            let (body, by_id) = match why {
                Why::New => (InboundBody::Submit(referral), None),
                Why::Update => {
                    let body = InboundBody::Amend(named(request)?, referral);
                    (body, by_id(request)?)
                }
            };
            Ok(Asked {
                body,
                documents,
                by_id,
            })
        }
        _ => {
            let rule = "is active; or, of an update, revoked or entered-in-error";
            Err(request.fault_of("status", rule, Issue::Value))
        }
    }
}

/// Refuses what holds more than one request or child: what is said of the second would be lost, or read as of the first
/// (`GET /MessageDefinition`: at most one of each).
fn single(message: &Message<'_>) -> Result<(), Fault> {
    if let Some(second) = message.header.list("focus")?.get(1) {
        return Err(second.fault(
            "is not there: a message has one request in focus",
            Issue::Value,
        ));
    }
    for kind in ["ServiceRequest", "Patient"] {
        if let Some(second) = message.all(kind).nth(1) {
            let rule =
                format!("is not a second {kind}: send each referral in a message of its own");
            return Err(second.fault(rule, Issue::Value));
        }
    }
    Ok(())
}

/// Whether a request of that reason and status ends one that was sent before.
pub(crate) fn ends(why: Why, status: &str) -> bool {
    why == Why::Update && matches!(status, "revoked" | "entered-in-error")
}

/// The reference by which the sender names a referral that it sent before: its own, else the id that our answer gave, else
/// our reference of it.
fn named(request: &Node<'_>) -> Result<SenderReference, Fault> {
    if let Some(reference) = own_reference(request)? {
        return Ok(reference);
    }
    let mut ours = None;
    for identifier in request.list("identifier")? {
        if is_ours(&identifier)? && identifier.text("system")? == Some(name::REFERENCE) {
            ours = identifier.text("value")?;
        }
    }
    let id = request.text("id")?.or(ours).ok_or_else(|| {
        let rule = "is required: the id that our answer to the request gave, or the identifier that the request had";
        request.fault_of("id", rule, Issue::Required)
    })?;
    Ok(SenderReference {
        value: id.to_owned(),
        namespace: String::new(),
    })
}

/// The request's id where it can be one that we gave, beside a reference of the sender's own.
fn by_id(request: &Node<'_>) -> Result<Option<SenderReference>, Fault> {
    if own_reference(request)?.is_none() {
        return Ok(None);
    }
    let id = request
        .text("id")?
        .filter(|id| id.parse::<ReferralId>().is_ok());
    Ok(id.map(|id| SenderReference {
        value: id.to_owned(),
        namespace: String::new(),
    }))
}

/// Whether an identifier is one that we gave: as the filler of the request, our reference is ours.
fn is_ours(identifier: &Node<'_>) -> Result<bool, Fault> {
    let system = identifier.text("system")?.unwrap_or_default();
    let filler = || -> Result<bool, Fault> {
        let kind = identifier.concept("type")?;
        Ok(kind.codings.iter().any(|c| c.code == Some("FILL")))
    };
    let always = [name::REFERRAL_ID, name::DELIVERY_ID, name::EXCHANGE_ID].contains(&system);
    Ok(always || (system == name::REFERENCE && filler()?))
}

/// The sender's own reference: the placer's identifier, else the first that is not another system's.
fn own_reference(request: &Node<'_>) -> Result<Option<SenderReference>, Fault> {
    let mut first = None;
    for identifier in request.list("identifier")? {
        let system = identifier.text("system")?;
        let reference = SenderReference {
            value: identifier.required_text("value")?.to_owned(),
            namespace: name::namespace_of(system),
        };
        if identifier
            .concept("type")?
            .codings
            .iter()
            .any(|c| c.code == Some("PLAC"))
        {
            return Ok(Some(reference));
        }
        let foreign = name::is_system(system, "https://fhir.nhs.uk/Id/UBRN");
        if !foreign && !is_ours(&identifier)? && first.is_none() {
            first = Some(reference);
        }
    }
    Ok(first)
}

/// Why it is cancelled: the words of its notes, else of its reason.
fn ending(request: &Node<'_>) -> Result<Option<Personal<String>>, Fault> {
    let mut words = Vec::new();
    for note in request.list("note")? {
        words.push(note.required_text("text")?.to_owned());
    }
    if words.is_empty()
        && let Some(reason) = request.list("reasonCode")?.first()
    {
        let concept = super::node::Concept::read(reason)?;
        words.extend(concept.words().map(ToOwned::to_owned));
    }
    Ok((!words.is_empty()).then(|| Personal::new(words.join("\n"))))
}

/// Kinds of resource that are read, or that say only who takes part.
pub(super) const READ: [&str; 18] = [
    "MessageHeader",
    "ServiceRequest",
    "Patient",
    "Encounter",
    "CarePlan",
    "Organization",
    "Practitioner",
    "PractitionerRole",
    "Flag",
    "Consent",
    "AllergyIntolerance",
    "RelatedPerson",
    "Observation",
    "Condition",
    "DocumentReference",
    "HealthcareService",
    "Location",
    "Endpoint",
];

fn referral(
    message: &Message<'_>,
    request: &Node<'_>,
    assumptions: &Assumptions,
    codes: &CodeMap,
) -> Result<(Referral, Vec<InboundDocument>), Fault> {
    category(request)?;
    if request.required_text("intent")? != "plan" {
        return Err(request.fault_of("intent", "is plan (BaRS Core 1.4)", Issue::Value));
    }
    let mut reading = Reading {
        message,
        request,
        assumptions,
        codes,
        words: Vec::new(),
        documents: Vec::new(),
    };
    let child = people::child(&mut reading)?;
    let contacts = people::contacts(&mut reading)?;
    let referrer = people::referrer(&mut reading)?;
    let (mut narrative, priority_reason) = notes(request)?;
    let found = support::read(&mut reading)?;
    aside::request(&mut reading)?;
    let reason = reason(request, codes)?;
    let pathway = pathway(request, &reason.code, assumptions)?;
    let sender_reference = own_reference(request)?;
    let requested = request.extension(&name::extension("requested-service"))?;
    let requested_service = match &requested {
        None => None,
        Some(node) => {
            let service = node.required_text("valueString")?.parse();
            Some(
                service
                    .map_err(|_| node.fault_of("valueString", "is a service's id", Issue::Value))?,
            )
        }
    };
    let kinds: BTreeSet<&str> = message
        .resources
        .iter()
        .map(|r| r.kind)
        .filter(|kind| !READ.contains(kind))
        .collect();
    if !kinds.is_empty() {
        let kinds: Vec<&str> = kinds.into_iter().collect();
        reading.say(format!(
            "Also sent, and kept with the original: {}.",
            kinds.join(", ")
        ));
    }
    narrative.append(&mut reading.words);
    let referral = Referral {
        child,
        contacts,
        referrer,
        setting: found.setting,
        needs: found.needs,
        pathway,
        requested_service,
        priority: priority(request, codes)?,
        priority_reason,
        reason,
        concerns: found.concerns,
        graduated_response: found.cycles,
        hearing_checked: found.hearing.unwrap_or(Tested::Unknown),
        vision_checked: found.vision.unwrap_or(Tested::Unknown),
        attendance_percent: found.attendance,
        safeguarding: found.safeguarding,
        reasonable_adjustments: found.adjustments,
        allergies: found.allergies,
        consent: found.consent,
        lawful_basis: found.lawful_basis,
        documents: Vec::new(),
        external_ids: external_ids(request, sender_reference.as_ref())?,
        sender_reference,
        narrative: (!narrative.is_empty()).then(|| Personal::new(narrative.join("\n"))),
    };
    Ok((referral, reading.documents))
}

/// Its category is a referral: validations and the like are other use cases.
fn category(request: &Node<'_>) -> Result<(), Fault> {
    let categories = request.list("category")?;
    for category in &categories {
        let concept = super::node::Concept::read(category)?;
        if concept.code_of(name::CATEGORY) == Some("referral") {
            return Ok(());
        }
    }
    let issue = if categories.is_empty() {
        Issue::Required
    } else {
        Issue::NotSupported
    };
    Err(request.fault_of(
        "category",
        "is `referral` of message-category-servicerequest: nothing else is taken here",
        issue,
    ))
}

/// The lines of the narrative, and why the request is as urgent as it is. Our banner repeats what resources say.
fn notes(request: &Node<'_>) -> Result<(Vec<String>, Option<Personal<String>>), Fault> {
    let (mut narrative, mut soon) = (Vec::new(), None);
    for note in request.list("note")? {
        let text = note.required_text("text")?.to_owned();
        let kind = note.extension(&name::extension("note"))?;
        match kind
            .map(|kind| kind.required_text("valueCode"))
            .transpose()?
        {
            Some("banner") => {}
            Some("priority-reason") => soon = Some(Personal::new(text)),
            _ => narrative.push(text),
        }
    }
    Ok((narrative, soon))
}

fn reason(request: &Node<'_>, codes: &CodeMap) -> Result<Reason, Fault> {
    let Some(first) = request.list("reasonCode")?.into_iter().next() else {
        return Ok(Reason {
            code: REASON_UNSTATED.to_owned(),
            text: None,
        });
    };
    let concept = super::node::Concept::read(&first)?;
    let mapped = || {
        let mut codings = concept.codings.iter();
        codings.find_map(|coding| codes.reason_of(coding.system.unwrap_or_default(), coding.code?))
    };
    let code = concept.code_of(name::REASON).or_else(mapped);
    let code = code.or_else(|| concept.codings.iter().find_map(|coding| coding.code));
    let display = || concept.codings.iter().find_map(|coding| coding.display);
    Ok(Reason {
        code: code.unwrap_or(REASON_UNSTATED).to_owned(),
        text: concept.text.or_else(display).map(Personal::from),
    })
}

fn pathway(request: &Node<'_>, reason: &str, assumptions: &Assumptions) -> Result<Pathway, Fault> {
    let asked = request.concept("code")?;
    if let Some(own) = asked.code_of(name::PATHWAY) {
        return own
            .parse()
            .map_err(|_| request.fault_of("code.coding.code", "is a pathway", Issue::Value));
    }
    let codes = asked.codings.iter().filter_map(|coding| coding.code);
    let mut codes = codes.chain([reason]);
    let agreed = codes.find_map(|code| assumptions.pathways.get(code));
    Ok(agreed.unwrap_or(&assumptions.pathway).clone())
}

fn priority(request: &Node<'_>, codes: &CodeMap) -> Result<Priority, Fault> {
    if let Some(exact) = request.extension(&name::extension("priority"))? {
        let code = exact.required_text("valueCode")?;
        return Priority::parse(code)
            .ok_or_else(|| exact.fault_of("valueCode", "is a priority", Issue::Value));
    }
    match request.text("priority")? {
        None => Ok(Priority::Routine),
        Some(written) => codes
            .priority_of("", written)
            .or(code::priority_of(written))
            .ok_or_else(|| {
                request.fault_of("priority", "is routine, urgent, asap or stat", Issue::Value)
            }),
    }
}

/// Every other identifier of the request.
fn external_ids(
    request: &Node<'_>,
    own: Option<&SenderReference>,
) -> Result<Vec<ExternalId>, Fault> {
    let mut ids = Vec::new();
    for identifier in request.list("identifier")? {
        let system = identifier.text("system")?;
        let id = ExternalId {
            system: name::namespace_of(system),
            value: identifier.required_text("value")?.to_owned(),
        };
        let is_own = own.is_some_and(|own| own.value == id.value && own.namespace == id.system);
        if !is_own && !is_ours(&identifier)? {
            ids.push(id);
        }
    }
    Ok(ids)
}
