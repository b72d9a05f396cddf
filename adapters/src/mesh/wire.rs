//! What a message's body says, both ways. Pure.
//!
//! Canonical JSON is the body of a webhook (`webhook/wire.rs`, `webhook/inline.rs`). Inward it is read in the same form:
//! `referral.new` and `referral.amended` with `data.referral`, `referral.cancelled` with `data.sender_reference` and
//! `data.reason`, `referral.consent_withdrawn` with `data.sender_reference` and `data.withdrawal`; `referral.status` as a
//! webhook's callback (`webhook/callback.rs`).

use serde::Deserialize;
use serde_json::Value;
use waymark_core::delivery::{ParkReason, Why};
use waymark_core::directory::{CodeMap, Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::id::WireId;
use waymark_core::personal;
use waymark_core::port::{InboundBody, InboundStatus, RenderError, Rendered, Source, Undelivered};
use waymark_core::referral::Referral;

use super::config::{Payload, Settings};
use crate::body::{self, Said};
use crate::receipt::{self, Receipt};
use crate::webhook::inline::{Inline, with_documents};
use crate::{fhir, hl7v2, webhook};

/// The most bytes of a message, both ways, before it is packed for its way.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most bytes of a message without its documents.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// The most documents of one message.
const DOCUMENTS_MAX: usize = 50;
/// Bytes of documents that a canonical message carries inline: base64 makes a third more of them.
const INLINE_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// What a message of HL7 v2 begins with.
const HL7: &[u8] = b"MSH";

/// What is read of a message; the rest is known, and says nothing that its envelope or ours does not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    r#type: String,
    environment: Environment,
    data: Data,
    #[serde(default)]
    documents: Vec<Inline>,
    #[serde(default, rename = "id")]
    _id: serde::de::IgnoredAny,
    #[serde(default, rename = "timestamp")]
    _timestamp: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    #[serde(default)]
    referral: Option<Referral>,
    #[serde(default)]
    sender_reference: Option<Value>,
    #[serde(default)]
    reason: Option<Value>,
    #[serde(default)]
    code: Option<Value>,
    #[serde(default)]
    withdrawal: Option<Value>,
    #[serde(default)]
    sender: Option<String>,
    #[serde(default, rename = "referral_id")]
    _referral_id: serde::de::IgnoredAny,
    #[serde(default, rename = "reference")]
    _reference: serde::de::IgnoredAny,
    #[serde(default, rename = "recipient")]
    _recipient: serde::de::IgnoredAny,
    #[serde(default, rename = "service")]
    _service: serde::de::IgnoredAny,
    #[serde(default, rename = "status")]
    _status: serde::de::IgnoredAny,
}

fn cannot(field: &str, why: impl Into<String>) -> RenderError {
    RenderError::CannotCarry(Violation::new(field, why))
}

/// Bytes of documents that go inline.
pub(super) fn inline_bytes_max(endpoint: &Endpoint, settings: &Settings) -> u64 {
    match (settings.payload, &settings.hl7v2, &settings.fhir) {
        (Payload::Canonical, _, _) => INLINE_BYTES_MAX,
        (Payload::Hl7v2, Some(table), _) => {
            body::dialect(endpoint, table).map_or(0, |of| of.dialect.inline_bytes_max)
        }
        (Payload::Fhir, _, Some(table)) => fhir::carried::inline_bytes_max(endpoint, table),
        (Payload::Hl7v2 | Payload::Fhir, _, _) => 0,
    }
}

/// Renders a message.
pub(super) fn render(
    source: &Source,
    endpoint: &Endpoint,
    settings: &Settings,
    environment: Environment,
) -> Result<Rendered, RenderError> {
    // Says what is missing, too long or of the other environment, whatever the payload.
    let canonical = webhook::wire::render(source, environment)?;
    let missing = |table: &str| {
        let wrong = Violation::new(format!("settings.{table}"), "is required");
        RenderError::Settings(wrong)
    };
    let rendered = match settings.payload {
        Payload::Canonical => with_documents(canonical, source)?,
        Payload::Hl7v2 => {
            let table = settings.hl7v2.as_ref().ok_or_else(|| missing("hl7v2"))?;
            let dialect = body::dialect(endpoint, table).map_err(|faults| {
                let first = faults.into_iter().next();
                first.map_or_else(|| missing("hl7v2"), RenderError::Settings)
            })?;
            let message = hl7v2::map::outward::render(source, &dialect)?;
            let encoded = dialect.dialect.charset.encode(&message);
            Rendered {
                media_type: hl7v2::outbound::MEDIA_TYPE.to_owned(),
                bytes: encoded
                    .map(personal::Payload::new)
                    .map_err(|fault| cannot("referral", fault.to_string()))?,
            }
        }
        Payload::Fhir => {
            let table = settings.fhir.as_ref().ok_or_else(|| missing("fhir"))?;
            fhir::carried::render(source, endpoint, table, environment)?
        }
    };
    if rendered.bytes.expose().len() > MESSAGE_BYTES_MAX {
        let why = format!("is longer than {MESSAGE_BYTES_MAX} bytes with its documents");
        return Err(cannot("body", why));
    }
    Ok(rendered)
}

/// What the name of a message's file ends with.
pub(super) fn ending(media_type: &str) -> &'static str {
    if media_type == hl7v2::outbound::MEDIA_TYPE {
        "hl7"
    } else {
        "json"
    }
}

/// Reads what a message says, by its content: HL7 v2, FHIR, or the gateway's own JSON.
pub(super) fn read(
    data: &[u8],
    endpoint: &Endpoint,
    settings: &Settings,
) -> Result<Said, Violation> {
    if data.starts_with(HL7) {
        return body::hl7(data, settings.assume.as_ref(), &endpoint.codes, &[]);
    }
    let value: Value = serde_json::from_slice(data).map_err(|error| {
        let why = format!(
            "is neither HL7 v2 nor JSON: line {}, column {}",
            error.line(),
            error.column()
        );
        Violation::new("data", why)
    })?;
    if value.get("resourceType").is_some() {
        let assume = settings.assume.as_ref().map(|assume| fhir::Assumptions {
            pathway: assume.pathway.clone(),
            pathways: assume.pathways.clone(),
            lawful_basis: assume.lawful_basis,
            consent_scope: assume.consent_scope.clone(),
        });
        return fhir::carried::read(
            &value,
            endpoint.agency.as_str(),
            assume.as_ref(),
            &endpoint.codes,
        );
    }
    if value.get("type").and_then(Value::as_str) == Some("referral.status") {
        let (environment, status) = webhook::read_status(data)
            .map_err(|error| Violation::new("data", error.to_string()))?;
        return Ok(Said {
            body: InboundBody::Status(status),
            claimed_sender: None,
            environment: Some(environment),
            documents: Vec::new(),
        });
    }
    canonical(body::typed(value)?, endpoint)
}

fn canonical(event: Event, endpoint: &Endpoint) -> Result<Said, Violation> {
    let data = event.data;
    if data
        .sender
        .is_some_and(|from| from != endpoint.agency.as_str())
    {
        let why = "is not the agency that this came from";
        return Err(Violation::new("data.sender", why));
    }
    if event.documents.len() > DOCUMENTS_MAX {
        return Err(Violation::new("documents", "are more than 50"));
    }
    let mut documents = Vec::new();
    for (at, inline) in event.documents.into_iter().enumerate() {
        documents.push(inline.opened(at)?);
    }
    let referral = data.referral.map(|mut referral| {
        // What came inline is named anew when it is kept; its sender's name for it says nothing here.
        let inline = |sha256: &String| documents.iter().any(|d| d.sha256.as_ref() == Some(sha256));
        referral.documents.retain(|named| !inline(&named.sha256));
        referral
    });
    let missing = || Violation::new("data.referral", "is required");
    let body = match event.r#type.as_str() {
        "referral.new" => body::submit(referral.ok_or_else(missing)?),
        "referral.amended" => body::amend(referral.ok_or_else(missing)?)?,
        "referral.cancelled" => {
            let named = [
                ("sender_reference", data.sender_reference),
                ("reason", data.reason),
                ("code", data.code),
            ];
            within_data(named, body::ending)?
        }
        "referral.consent_withdrawn" => {
            let named = [
                ("sender_reference", data.sender_reference),
                ("withdrawal", data.withdrawal),
            ];
            within_data(named, body::withdrawal)?
        }
        _ => return Err(Violation::new("type", "is none that is taken by MESH")),
    };
    Ok(Said {
        body,
        claimed_sender: None,
        environment: Some(event.environment),
        documents,
    })
}

/// Reads what ends a referral from its fields within `data`, whose faults are named so.
fn within_data<const N: usize>(
    fields: [(&str, Option<Value>); N],
    read: impl FnOnce(Value) -> Result<InboundBody, Violation>,
) -> Result<InboundBody, Violation> {
    let filled = fields.into_iter().filter_map(|(key, value)| {
        let value = value.filter(|value| !value.is_null())?;
        Some((key.to_owned(), value))
    });
    read(Value::Object(filled.collect())).map_err(|fault| {
        let below = Some(fault.field).filter(|field| field != ".");
        let path = below.map_or_else(|| "data".to_owned(), |f| format!("data.{f}"));
        Violation::new(path, fault.why)
    })
}

/// Reads a business acknowledgement: an answer of HL7 v2, or a receipt or refusal in JSON. It answers the message whose
/// `Mex-LocalID` it bears; HL7 v2 says so in MSA-2.
pub(super) fn acknowledgement(
    data: &[u8],
    local_id: Option<&str>,
    codes: &CodeMap,
) -> Result<Said, Violation> {
    if data.len() > TEXT_BYTES_MAX {
        return Err(Violation::new("data", "is longer than an acknowledgement"));
    }
    if data.starts_with(HL7) {
        return body::hl7_answer(data, codes);
    }
    noted(data, local_id).map(Said::of)
}

/// Reads an acknowledgement that is blank or JSON.
fn noted(data: &[u8], local_id: Option<&str>) -> Result<InboundBody, Violation> {
    let unnamed = || {
        let why = "is the Mex-LocalID of the message that is acknowledged";
        Violation::new("Mex-LocalID", why)
    };
    let value: Option<Value> = serde_json::from_slice(data).ok();
    let named = || value.as_ref()?.get("id")?.as_str();
    let wire = local_id.and_then(|id| id.parse::<WireId>().ok());
    let wire = wire.or_else(|| named()?.parse().ok()).ok_or_else(unnamed)?;
    if let Some(code) = receipt::refusal_code(data) {
        if named().is_some_and(|id| id != wire.as_str()) {
            return Err(unnamed());
        }
        return Ok(refused(wire.to_string(), &code));
    }
    let receipt = Receipt::read(data, &wire)?;
    Ok(InboundBody::Status(InboundStatus {
        receiver_reference: receipt.receiver_reference,
        at: receipt.at,
        ..receipt::evidence(wire.to_string(), receipt.grade)
    }))
}

fn refused(answers: String, code: &str) -> InboundBody {
    let text = format!("the agency would not take it ({code}): ask it why");
    InboundBody::Undelivered(Undelivered {
        answers,
        reason: ParkReason::Refused,
        why: Why::new("mesh.refused", text),
    })
}

#[cfg(test)]
mod tests;
