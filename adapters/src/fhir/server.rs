//! The server side: what a request that came by HTTP asks for, and how it is answered. Pure but for nothing: the
//! listener, the certificate and the intake are the gateway's.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use waymark_core::directory::{CodeMap, Environment};
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::id::AgencyId;
use waymark_core::leg::LegState;
use waymark_core::personal::Payload;
use waymark_core::port::{Channel, Conversation, Inbound, InboundBody, IntakeAnswer, IntakeError};
use waymark_core::referral::SenderReference;

use super::header::{self, CORRELATION_ID, HeaderFault, REQUEST_ID};
use super::wire::inward::{self, Assumptions};
use super::wire::message::{Event, Message, Reason as Why};
use super::wire::node::{Fault, Issue, Node};
use super::wire::{MEDIA_TYPE, bars};
use super::{collect, name};

mod capability;
mod outcome;
mod ready;

pub use outcome::Refusal;
pub use ready::{Ready, Ticket};

/// The most bytes of one message.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the server is.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Test or live.
    pub environment: Environment,
    /// Target identifiers of ours, as `system|value`: messages for others are refused.
    pub targets: Vec<String>,
    /// What foreign messages cannot say.
    pub assumptions: Assumptions,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers; the ids of the request among them, where it had them.
    pub headers: HeaderMap,
    /// Its body, FHIR JSON; empty where there is none.
    pub body: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Asked {
    Message(Box<Echo>),
    Enquiry,
    Callback,
}

/// What of a message its answer repeats: nothing about the child.
#[derive(Debug, Clone)]
struct Echo {
    bundle_id: String,
    event: &'static str,
    reason: &'static str,
    destination: String,
    source: String,
    status: String,
    /// Whether it is to end a request that was sent before.
    ends: bool,
}

/// The FHIR server.
#[derive(Clone, Debug)]
pub struct Server {
    options: ServerOptions,
}

/// Who calls, as the channel proves it.
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    /// The name that the certificate proves.
    pub identity: &'a str,
    /// The agency that it stands for, if any.
    pub agency: Option<&'a str>,
    /// Others that it may tell the news of, as the directory says.
    pub acts_for: Option<&'a BTreeSet<AgencyId>>,
    /// Its own code lists.
    pub codes: &'a CodeMap,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

impl Caller<'_> {
    /// Whether a message may name that sender: a request the agency itself, news of a request one that it acts for too.
    fn speaks_for(&self, sender: &str, event: Event) -> bool {
        let same = |agency: &str| agency.eq_ignore_ascii_case(sender);
        let mut others = self.acts_for.into_iter().flatten();
        self.agency.is_none_or(same)
            || (event == Event::Response && others.any(|agency| same(agency.as_str())))
    }
}

impl Server {
    /// Makes a server.
    pub const fn new(options: ServerOptions) -> Self {
        Self { options }
    }

    /// Reads a `$process-message`: headers, destination, definition, focus, content, in the standard's order.
    ///
    /// # Errors
    /// The answer that refuses it, boxed for its size.
    pub fn process(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        caller: Caller<'_>,
    ) -> Result<Ready, Box<Answer>> {
        let ids = echoed(headers);
        let refuse = |refusal: Refusal| Box::new(refusal.answer(&ids));
        let incoming = header::read(headers).map_err(|fault| refuse(of_header(&fault)))?;
        if !self.is_me(&incoming.target) {
            return Err(refuse(Refusal::not_me(header::TARGET)));
        }
        let value: Value = serde_json::from_slice(body).map_err(|_| {
            refuse(Refusal::of_fault(&Fault::new(
                "Bundle",
                "is JSON, nested at most 128 deep",
                Issue::Structure,
            )))
        })?;
        let (inbound, by_id, kind) = self
            .message(&value, body, caller, &incoming)
            .map_err(refuse)?;
        Ok(Ready {
            inbound,
            by_id,
            ticket: Ticket { ids, kind },
        })
    }

    fn message(
        &self,
        value: &Value,
        body: &[u8],
        caller: Caller<'_>,
        incoming: &header::Incoming,
    ) -> Result<(Inbound, Option<SenderReference>, Asked), Refusal> {
        let message = Message::read(value)?;
        self.addressed(&message)?;
        let event = message.event()?;
        defined(&message, event)?;
        if message
            .sender()?
            .is_some_and(|written| !caller.speaks_for(written, event))
        {
            let path = format!("{}.sender", message.header.path());
            let rule = match event {
                Event::Request => {
                    "is the organisation that the certificate of this connection stands for"
                }
                Event::Response => {
                    "is the organisation that the certificate of this connection stands for, or one that it acts for"
                }
            };
            return Err(Refusal::forbidden(path, rule));
        }
        if bars::environment(&message)?.is_some_and(|written| written != self.options.environment) {
            let rule = format!(
                "says test data: this deployment is {}",
                self.options.environment.as_str()
            );
            return Err(Refusal::forbidden("Bundle.meta.security", rule));
        }
        let asked = match event {
            Event::Response => inward::Asked {
                body: InboundBody::Status(bars::read_status(&message, caller.codes)?),
                documents: Vec::new(),
                by_id: None,
            },
            Event::Request => inward::read(&message, &self.options.assumptions, caller.codes)?,
        };
        let echo = echo_of(&message, event)?;
        // "Feedback" is of the exchange that it answers, and names the message that opened it (BaRS Core 1.4).
        let conversation = (event == Event::Request).then(|| Conversation {
            exchange: incoming.correlation.clone(),
            message: echo.bundle_id.clone(),
        });
        let original = Payload::new(body.to_vec());
        let inbound = Inbound {
            channel: Channel::Peer(caller.identity.to_owned()),
            claimed_sender: None,
            message_key: format!("{}|{}", incoming.request, incoming.correlation),
            fingerprint: original.clone(),
            original,
            media_type: MEDIA_TYPE.to_owned(),
            traceparent: caller.traceparent,
            environment: None,
            attachments: asked.documents,
            conversation,
            body: asked.body,
        };
        Ok((inbound, asked.by_id, Asked::Message(Box::new(echo))))
    }

    fn is_me(&self, target: &str) -> bool {
        let same = |own: &String| match (own.rsplit_once('|'), target.rsplit_once('|')) {
            (Some((system, value)), Some((other, written))) => {
                name::is_system(Some(other), system) && value == written
            }
            _ => false,
        };
        self.options.targets.iter().any(same)
    }

    /// The message itself says that it is for us.
    fn addressed(&self, message: &Message<'_>) -> Result<(), Refusal> {
        let destinations = message.destinations()?;
        if destinations.iter().any(|endpoint| self.is_me(endpoint)) {
            return Ok(());
        }
        Err(Refusal::not_me(&format!(
            "{}.destination[0].endpoint",
            message.header.path()
        )))
    }

    /// An enquiry: `GET /ServiceRequest/<id>`.
    ///
    /// # Errors
    /// The answer that refuses it.
    pub fn enquiry(
        &self,
        headers: &HeaderMap,
        id: &str,
        caller: Caller<'_>,
    ) -> Result<Ready, Box<Answer>> {
        let ids = echoed(headers);
        header::acceptable(headers).map_err(|fault| Box::new(of_header(&fault).answer(&ids)))?;
        let reference = SenderReference {
            value: id.to_owned(),
            namespace: String::new(),
        };
        let key = headers
            .get(REQUEST_ID)
            .and_then(|id| id.to_str().ok())
            .unwrap_or_default();
        let channel = Channel::Peer(caller.identity.to_owned());
        let inbound = ready::enquiry(channel, key, reference, caller.traceparent);
        let kind = Asked::Enquiry;
        Ok(Ready {
            inbound,
            by_id: None,
            ticket: Ticket { ids, kind },
        })
    }

    /// What a subscription of ours at a plain server brings: a task. One without a resource says that something moved,
    /// and the next round of asking finds it.
    ///
    /// # Errors
    /// The answer: a refusal, or that there is nothing to take in.
    pub fn callback(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        caller: Caller<'_>,
    ) -> Result<Ready, Box<Answer>> {
        let ids = echoed(headers);
        let nothing = || {
            Box::new(Answer {
                status: StatusCode::OK,
                headers: ids.clone(),
                body: Vec::new(),
            })
        };
        if body.is_empty() {
            return Err(nothing());
        }
        let refuse = |refusal: Refusal| Box::new(refusal.answer(&ids));
        let malformed = Fault::new("Task", "is JSON, nested at most 128 deep", Issue::Structure);
        let value: Value =
            serde_json::from_slice(body).map_err(|_| refuse(Refusal::of_fault(&malformed)))?;
        let channel = Channel::Peer(caller.identity.to_owned());
        let task = Node::new(&value, "Task");
        let read = collect::read(&task, channel, caller.codes, caller.traceparent);
        match read.map_err(|fault| refuse(Refusal::of_fault(&fault)))? {
            None => Err(nothing()),
            Some(inbound) => Ok(Ready {
                inbound,
                by_id: None,
                ticket: Ticket {
                    ids,
                    kind: Asked::Callback,
                },
            }),
        }
    }

    /// Answers, once the intake has.
    pub fn answered(&self, ticket: &Ticket, taken: &Result<IntakeAnswer, IntakeError>) -> Answer {
        match (taken, &ticket.kind) {
            (Err(error), _) => of_intake(error).answer(&ticket.ids),
            (Ok(answer), Asked::Message(_)) if answer.repeated => {
                Refusal::duplicate().answer(&ticket.ids)
            }
            (Ok(answer), Asked::Message(echo)) => accepted(echo, answer, &ticket.ids),
            (Ok(answer), Asked::Enquiry) => standing(answer, &ticket.ids),
            (Ok(_), Asked::Callback) => Answer {
                status: StatusCode::OK,
                headers: ticket.ids.clone(),
                body: Vec::new(),
            },
        }
    }

    /// Answers what has no message to it: another method, path or too long a body.
    pub fn refuse(headers: &HeaderMap, refusal: &Refusal) -> Answer {
        refusal.answer(&echoed(headers))
    }
}

/// The ids of a request, which its answer repeats.
fn echoed(headers: &HeaderMap) -> HeaderMap {
    let mut ids = HeaderMap::new();
    for id in [REQUEST_ID, CORRELATION_ID] {
        let found = headers.get(id).filter(|value| value.len() <= 64);
        if let (Some(value), Ok(name)) = (found, HeaderName::from_bytes(id.as_bytes())) {
            ids.insert(name, value.clone());
        }
    }
    ids
}

fn answer(status: StatusCode, resource: &Value, ids: &HeaderMap) -> Answer {
    let mut headers = ids.clone();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static(MEDIA_TYPE),
    );
    Answer {
        status,
        headers,
        body: resource.to_string().into_bytes(),
    }
}

/// The definition of a message is one that is taken here.
pub(super) fn defined(message: &Message<'_>, event: Event) -> Result<(), Fault> {
    let header = &message.header;
    let Some(definition) = header.text("definition")? else {
        return Err(header.fault_of("definition", "is required", Issue::Required));
    };
    let url = definition.split('|').next().unwrap_or_default();
    let taken: &[&str] = match event {
        Event::Request => &[name::DEFINITION_REFERRAL, name::DEFINITION_CANCELLED],
        Event::Response => &[name::DEFINITION_RESPONSE],
    };
    // Foreign responses name the definition of their own use case.
    let response = event == Event::Response
        && url.starts_with(
            "https://fhir.nhs.uk/MessageDefinition/bars-message-servicerequest-response",
        );
    if taken.contains(&url) || response {
        return Ok(());
    }
    let rule = "is one that GET /MessageDefinition lists";
    Err(header.fault_of("definition", rule, Issue::NotSupported))
}

fn echo_of(message: &Message<'_>, event: Event) -> Result<Echo, Fault> {
    let header = &message.header;
    let source = header.required("source")?;
    let (reason, status) = (
        message.reason()?,
        message.request()?.required_text("status")?,
    );
    Ok(Echo {
        bundle_id: message.bundle.required_text("id")?.to_owned(),
        event: match event {
            Event::Request => "servicerequest-request",
            Event::Response => "servicerequest-response",
        },
        reason: match reason {
            Why::New => "new",
            Why::Update => "update",
        },
        destination: message
            .destinations()?
            .first()
            .map(|d| (*d).to_owned())
            .unwrap_or_default(),
        source: source.required_text("endpoint")?.to_owned(),
        status: status.to_owned(),
        ends: event == Event::Request && inward::ends(reason, status),
    })
}

/// The synchronous answer: the id that we gave the request, and nothing of the child.
fn accepted(echo: &Echo, taken: &IntakeAnswer, ids: &HeaderMap) -> Answer {
    let id = taken.referral.to_string();
    let url = |part: &str| format!("urn:uuid:{}", name::uuid_of(&[&echo.bundle_id, &id, part]));
    let header = json!({
        "resourceType": "MessageHeader",
        "eventCoding": { "system": name::EVENTS, "code": echo.event },
        // Roles are reversed: who sent is answered.
        "destination": [{ "endpoint": echo.source }],
        "source": { "name": "Waymark", "software": "Waymark", "endpoint": echo.destination },
        "reason": { "coding": [{ "system": name::REASONS, "code": echo.reason }] },
        "response": { "identifier": echo.bundle_id, "code": "ok" },
        "focus": [{ "reference": url("request") }],
    });
    let request = request(taken, status_after(echo, taken));
    let bundle = json!({
        "resourceType": "Bundle",
        "id": name::uuid_of(&[&echo.bundle_id, &id, "answer"]).to_string(),
        "meta": { "profile": [name::BUNDLE_PROFILE] },
        "type": "message",
        "entry": [
            { "fullUrl": url("header"), "resource": header },
            { "fullUrl": url("request"), "resource": request },
        ],
    });
    answer(StatusCode::OK, &bundle, ids)
}

/// The status that an answer names: what the sender says of a request that goes on, and of one that it ends how the
/// request stands now. After assessment began, a cancel is a request and no fact.
fn status_after<'a>(echo: &'a Echo, taken: &IntakeAnswer) -> &'a str {
    match taken.state {
        Some(state) if echo.ends => super::wire::bars_status(state),
        _ => &echo.status,
    }
}

fn request(taken: &IntakeAnswer, status: &str) -> Value {
    let reference = json!({ "system": name::REFERENCE, "value": taken.reference.as_str() });
    let filler = json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "FILL" }] });
    json!({
        "resourceType": "ServiceRequest",
        "id": taken.referral.to_string(),
        "identifier": [{ "type": filler, "system": name::REFERENCE, "value": taken.reference.as_str() }],
        "status": status,
        "intent": "plan",
        "subject": { "type": "Patient", "identifier": reference },
    })
}

/// Where a referral stands, for one of its parties.
fn standing(taken: &IntakeAnswer, ids: &HeaderMap) -> Answer {
    let state = taken.state.unwrap_or(LegState::Submitted);
    let mut resource = request(taken, super::wire::bars_status(state));
    if let Some(map) = resource.as_object_mut() {
        map.insert(
            "extension".to_owned(),
            json!([{ "url": name::extension("state"), "valueCode": state.as_str() }]),
        );
    }
    answer(StatusCode::OK, &resource, ids)
}

fn of_header(fault: &HeaderFault) -> Refusal {
    Refusal::of_header(fault.header, fault.rule, fault.status, fault.missing)
}

/// What the intake's refusal is to the caller.
fn of_intake(error: &IntakeError) -> Refusal {
    let (status, code, issue) = match error.kind {
        ErrorKind::Invalid => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "REC_UNPROCESSABLE_ENTITY",
            "value",
        ),
        ErrorKind::Unauthenticated => (StatusCode::UNAUTHORIZED, "REC_UNAUTHORIZED", "forbidden"),
        ErrorKind::Denied => (StatusCode::FORBIDDEN, "REC_FORBIDDEN", "forbidden"),
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "REC_NOT_FOUND", "not-found"),
        ErrorKind::Conflict | ErrorKind::Precondition => {
            (StatusCode::CONFLICT, "REC_CONFLICT", "conflict")
        }
        ErrorKind::Exhausted => (
            StatusCode::TOO_MANY_REQUESTS,
            "SEND_TOO_MANY_REQUESTS",
            "throttled",
        ),
        ErrorKind::Unavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "REC_SERVICE_UNAVAILABLE",
            "transient",
        ),
        ErrorKind::Corrupt | ErrorKind::Internal => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "REC_SERVER_ERROR",
            "exception",
        ),
    };
    let mut refusal = Refusal::new(status, code);
    for violation in &error.violations {
        refusal = refusal.with(issue, Some(path_of(violation)), &violation.why);
    }
    if error.violations.is_empty() {
        refusal = refusal.with(issue, None, error.kind.sentence());
    }
    refusal
}

/// Where in a message the field of a referral stands.
fn path_of(violation: &Violation) -> String {
    const PLACES: [(&str, &str); 20] = [
        ("environment", "Bundle.meta.security"),
        ("sender_reference", "ServiceRequest.identifier"),
        ("sender", "MessageHeader.sender"),
        ("referral", "ServiceRequest.identifier"),
        ("answers", "ServiceRequest.identifier"),
        ("child.name", "Patient.name"),
        ("child.date_of_birth", "Patient.birthDate"),
        ("child.address", "Patient.address"),
        ("child", "Patient.identifier"),
        ("referrer", "ServiceRequest.requester"),
        ("contacts", "RelatedPerson"),
        ("consent", "Consent"),
        ("needs", "Condition"),
        ("concerns", "Observation"),
        ("safeguarding", "Flag"),
        ("reasonable_adjustments", "Flag"),
        ("reason", "ServiceRequest.reasonCode"),
        ("allergies", "AllergyIntolerance"),
        ("narrative", "ServiceRequest.note"),
        ("documents", "DocumentReference"),
    ];
    let path = violation.field.as_str();
    let path = path.strip_prefix("referral.").unwrap_or(path);
    let place = PLACES.iter().find(|(field, _)| path.starts_with(field));
    place.map_or_else(|| violation.field.clone(), |(_, path)| (*path).to_owned())
}
