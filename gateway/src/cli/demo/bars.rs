//! The occupational therapy service: a receiver and sender of the Booking and Referral Standard over mutual TLS. It
//! accepts each referral by a `servicerequest-response` of its own, and refers a child itself.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response, header};
use axum::routing::post;
use http_body_util::Full;
use rustls::{ClientConfig, ServerConfig};
use serde_json::{Value, json};
use waymark_adapters::fhir::send::{Answered, answer_of, headers_of};
use waymark_adapters::fhir::server::{
    Answer, BODY_BYTES_MAX, Caller, Ready, Refusal, Server, ServerOptions,
};
use waymark_adapters::fhir::{Assumptions, DOS_SERVICE};
use waymark_core::delivery::Kind;
use waymark_core::directory::{CodeMap, Environment};
use waymark_core::id::{Reference, ReferralId};
use waymark_core::port::{InboundBody, IntakeAnswer};
use waymark_core::referral::{LawfulBasis, Referral};

use super::answer;
use super::ledger::{Arrival, Ledger, Taken};
use crate::cli::https::{self, Reserved};
use crate::lifecycle::Lifecycle;

/// The service's code in the directory.
pub(super) const AGENCY: &str = "OT001";
/// Where messages go, at either side.
const PROCESS: &str = "/$process-message";
/// What the service is asked for.
const SERVICE: &str = "occupational-therapy";
/// What it asks of others, and so hears of.
const ASKED_FOR: &str = "portage";
/// The service, and the gateway, as BaRS addresses them.
const OURS: &str = "2000011147";
const GATEWAY: &str = "2000099999";
/// Identifier systems that the gateway writes.
const DELIVERY_ID: &str = "urn:waymark:id:delivery";
const REFERENCE: &str = "urn:waymark:id:reference";
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

#[derive(Clone)]
struct Desk {
    ledger: Arc<Ledger>,
    lifecycle: Lifecycle,
    server: Arc<Server>,
    client: Client,
}

/// How it reaches the gateway.
#[derive(Clone)]
struct Client {
    tls: Arc<ClientConfig>,
    gateway: SocketAddr,
}

/// The running service.
pub(super) struct Bars {
    /// What it took.
    pub(super) ledger: Arc<Ledger>,
    client: Client,
}

impl Bars {
    /// Opens at a reserved address; `gateway` is where it sends to, as whom `client` proves.
    ///
    /// # Errors
    /// When the area's pathways cannot be read.
    pub(super) fn open(
        reserved: Reserved,
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
        gateway: SocketAddr,
        lifecycle: &Lifecycle,
    ) -> anyhow::Result<Self> {
        let ledger = Arc::new(Ledger::new(AGENCY));
        let client = Client {
            tls: client,
            gateway,
        };
        let desk = Desk {
            ledger: Arc::clone(&ledger),
            lifecycle: lifecycle.clone(),
            server: Arc::new(receiver(OURS, SERVICE)?),
            client: client.clone(),
        };
        let routes = Router::new().route(PROCESS, post(process)).with_state(desk);
        reserved.serve("demo occupational therapy", server, routes, lifecycle);
        Ok(Self { ledger, client })
    }

    /// Refers a child: sends a message and wants it taken.
    ///
    /// # Errors
    /// When it is not.
    pub(super) async fn refer(&self, message: &[u8]) -> anyhow::Result<()> {
        self.client.send(message).await
    }
}

/// A receiver of BaRS messages for one service.
fn receiver(target: &str, pathway: &str) -> anyhow::Result<Server> {
    let options = ServerOptions {
        environment: Environment::Test,
        targets: vec![format!("{DOS_SERVICE}|{target}")],
        assumptions: Assumptions {
            pathway: pathway.parse().context("a pathway")?,
            pathways: std::collections::BTreeMap::new(),
            lawful_basis: LawfulBasis::PublicTaskCare,
            consent_scope: Vec::new(),
        },
    };
    Ok(Server::new(options))
}

/// What a message to the gateway asks for, as its receiver will read it.
///
/// # Errors
/// When it is no request.
pub(super) fn referral_in(message: &[u8]) -> anyhow::Result<Referral> {
    let headers =
        headers_of(message).map_err(|fault| anyhow::anyhow!("{}: {}", fault.path, fault.rule))?;
    let codes = CodeMap::default();
    let read = receiver(GATEWAY, ASKED_FOR)?.process(&headers, message, gateway(&codes));
    match read.map(|ready| ready.inbound.body) {
        Ok(InboundBody::Submit(referral)) => Ok(*referral),
        Ok(_) => bail!("the message asks for nothing new"),
        Err(refused) => bail!(
            "the message is refused: {}",
            String::from_utf8_lossy(&refused.body)
        ),
    }
}

/// Who calls: the certificate's authority signs for nobody else here.
const fn gateway(codes: &CodeMap) -> Caller<'_> {
    Caller {
        codes,
        identity: "gateway",
        agency: None,
        acts_for: None,
        traceparent: None,
    }
}

fn sent(answer: Answer) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

async fn process(State(desk): State<Desk>, headers: HeaderMap, body: Body) -> Response<Body> {
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return sent(Server::refuse(&headers, &Refusal::too_long()));
    };
    let codes = CodeMap::default();
    match desk.server.process(&headers, &body, gateway(&codes)) {
        Ok(ready) => sent(desk.take(&ready, &body)),
        Err(refused) => {
            let status = refused.status;
            desk.ledger
                .fault(format!("a message was refused with {status}"));
            sent(*refused)
        }
    }
}

impl Desk {
    /// Takes a message, and answers with an id of its own for the request.
    fn take(&self, ready: &Ready, bytes: &[u8]) -> Answer {
        let message: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let wire_id = text(&message, "/identifier/value");
        let mut number = [0; 16];
        for (to, from) in number
            .iter_mut()
            .zip(digest(&SHA256, wire_id.as_bytes()).as_ref())
        {
            *to = *from;
        }
        let referral = ReferralId::from_bytes(number);
        let (kind, content) = match &ready.inbound.body {
            InboundBody::Submit(content) => (Kind::New, Some((**content).clone())),
            InboundBody::Amend(_, content) => (Kind::Amend, Some((**content).clone())),
            InboundBody::Status(_) => (Kind::Status, None),
            InboundBody::Withdraw(..) => (Kind::Withdraw, None),
            InboundBody::Cancel(..) | InboundBody::Undelivered(_) | InboundBody::Enquiry(_) => {
                (Kind::Cancel, None)
            }
        };
        let service = if kind == Kind::Status {
            ASKED_FOR
        } else {
            SERVICE
        };
        let arrival = Arrival {
            wire_id: wire_id.clone(),
            kind,
            reference: reference_in(&message),
            service: service.to_owned(),
            content,
        };
        if text(&message, "/identifier/system") != DELIVERY_ID || arrival.reference.is_empty() {
            self.ledger
                .fault("a message names no delivery or reference");
        }
        let taken = self.ledger.take(arrival, bytes);
        if taken == Taken::First && kind == Kind::New {
            self.accept(message, referral, &wire_id);
        }
        let answer = IntakeAnswer {
            referral,
            reference: Reference::of(referral),
            repeated: taken == Taken::Again,
            state: None,
        };
        self.server.answered(&ready.ticket, &Ok(answer))
    }

    fn accept(&self, message: Value, own: ReferralId, wire_id: &str) {
        let (client, what) = (self.client.clone(), format!("the response to {wire_id}"));
        let response = accepted(message, &own.to_string());
        let response = Arc::new(response.to_string().into_bytes());
        answer::later(&self.lifecycle, &self.ledger, what, move || {
            let (client, response) = (client.clone(), Arc::clone(&response));
            async move { client.send(&response).await }
        });
    }
}

impl Client {
    async fn send(&self, message: &[u8]) -> anyhow::Result<()> {
        let headers = headers_of(message)
            .map_err(|fault| anyhow::anyhow!("{}: {}", fault.path, fault.rule))?;
        let body = Full::new(Bytes::copy_from_slice(message));
        let mut request = Request::post(PROCESS)
            .header(header::CONTENT_TYPE, "application/fhir+json")
            .body(body)?;
        request.headers_mut().extend(headers);
        let (tls, address) = (Arc::clone(&self.tls), self.gateway.to_string());
        let answer = https::ask(tls, &address, request, ANSWER_BYTES_MAX).await?;
        match answer_of(answer.status(), answer.body()) {
            Answered::Taken { .. } | Answered::Repeated => Ok(()),
            Answered::Later(code) | Answered::Refused { code, .. } => {
                bail!("the gateway answered {} {code}", answer.status().as_u16())
            }
        }
    }
}

fn text(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

/// The request of a message.
fn request(message: &mut Value) -> Option<&mut Value> {
    let entries = message.get_mut("entry")?.as_array_mut()?.iter_mut();
    let mut resources = entries.filter_map(|entry| entry.get_mut("resource"));
    resources.find(|resource| text(resource, "/resourceType") == "ServiceRequest")
}

/// The gateway's reference of the referral.
fn reference_in(message: &Value) -> String {
    let mut message = message.clone();
    let identifiers = request(&mut message).and_then(|request| request.get("identifier"));
    let mut own = identifiers.and_then(Value::as_array).into_iter().flatten();
    let found = own.find(|identifier| text(identifier, "/system") == REFERENCE);
    found.map(|found| text(found, "/value")).unwrap_or_default()
}

/// The response that accepts a request: the message itself, with the roles turned round, under ids of this service.
fn accepted(mut message: Value, own: &str) -> Value {
    if let Some(header) = message.pointer_mut("/entry/0/resource") {
        let receiver = header.pointer("/destination/0/receiver").cloned();
        let source = text(header, "/source/endpoint");
        let definition =
            "https://fhir.nhs.uk/MessageDefinition/bars-message-servicerequest-response-referral";
        for (key, value) in [
            (
                "eventCoding",
                json!({"system": "https://fhir.nhs.uk/CodeSystem/message-events-bars", "code": "servicerequest-response"}),
            ),
            ("definition", json!(definition)),
            ("destination", json!([{ "endpoint": source }])),
            (
                "source",
                json!({"endpoint": format!("{DOS_SERVICE}|{OURS}"), "name": "Therapy record", "software": "Therapy record"}),
            ),
            ("sender", receiver.unwrap_or_default()),
        ] {
            if let Some(header) = header.as_object_mut() {
                header.insert(key.to_owned(), value);
            }
        }
    }
    if let Some(request) = request(&mut message).and_then(Value::as_object_mut) {
        request.insert("id".to_owned(), json!(own));
        request.remove("extension");
    }
    if let Some(bundle) = message.as_object_mut() {
        bundle.insert("id".to_owned(), json!(own));
        let identifier = json!({"system": "urn:waymark:namespace:THERAPY", "value": own});
        bundle.insert("identifier".to_owned(), identifier);
    }
    message
}
