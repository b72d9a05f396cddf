//! The API's JSON (GOV.UK Notify REST API, version 2): requests written, answers and statuses read. Pure.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use waymark_core::delivery::{Evidence, Outcome, ParkReason, Why};
use waymark_core::directory::Environment;
use waymark_core::error::{Fault, Violation};
use waymark_core::family::{ADDRESS_LINES_MAX, FamilyMessage, Way};
use waymark_core::id::WireId;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    Channel, Inbound, InboundBody, InboundStatus, RenderError, Rendered, Source, Undelivered,
};

use super::config::Settings;
use crate::limits::BODY_BYTES_MAX;
use crate::receipt;
use crate::webhook::wire::retry_after;

/// The media type of news as it is kept.
const NEWS_MEDIA_TYPE: &str = "application/json";
/// How long to wait where the day's messages are used up and the answer gives no hint.
const DAY_IS_FULL: Duration = Duration::from_hours(1);
/// The most characters of a provider's id of a message.
const ID_CHARS_MAX: usize = 64;

#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    email_address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone_number: Option<&'a str>,
    template_id: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    personalisation: Map<String, Value>,
    reference: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    email_reply_to_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sanitise_content_for: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sms_sender_id: Option<&'a str>,
}

/// Renders a message to a family. Its reference is the wire id alone: no personal data may stand there.
pub(super) fn render(
    source: &Source,
    environment: Environment,
    settings: &Settings,
) -> Result<Rendered, RenderError> {
    let cannot = |field: &str, why: &str| RenderError::CannotCarry(Violation::new(field, why));
    let message = source
        .family
        .as_ref()
        .ok_or_else(|| cannot("kind", "notify carries messages to families alone"))?;
    if source.environment != environment {
        return Err(cannot(
            "environment",
            "is not that of this deployment: test messages go to no family",
        ));
    }
    let address = |way| {
        let first = message.to.first().filter(|_| message.way == way);
        first.map(|to| to.expose().as_str())
    };
    let request = Request {
        email_address: address(Way::Email),
        phone_number: address(Way::Sms),
        template_id: &message.remote,
        personalisation: personalisation(message)?,
        reference: source.wire_id.as_str(),
        email_reply_to_id: settings
            .email_reply_to_id
            .as_deref()
            .filter(|_| message.way == Way::Email),
        // What others wrote (names of people and services) makes no link and no formatting in an email.
        sanitise_content_for: match message.way {
            Way::Email => message.fields.keys().copied().collect(),
            Way::Sms | Way::Letter => Vec::new(),
        },
        sms_sender_id: settings
            .sms_sender_id
            .as_deref()
            .filter(|_| message.way == Way::Sms),
    };
    let bytes = serde_json::to_vec(&request)
        .map_err(|_| cannot("personalisation", "cannot be written as JSON"))?;
    if bytes.len() > BODY_BYTES_MAX {
        return Err(cannot("personalisation", "is too long"));
    }
    Ok(Rendered {
        media_type: message.way.media_type().to_owned(),
        bytes: Payload::new(bytes),
    })
}

fn personalisation(message: &FamilyMessage) -> Result<Map<String, Value>, RenderError> {
    let cannot = |why: &str| RenderError::CannotCarry(Violation::new("family.to", why));
    let text = |value: &Personal<String>| Value::from(value.expose().as_str());
    let mut all: Map<String, Value> = message
        .fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), text(value)))
        .collect();
    match (message.way, message.to.len()) {
        (Way::Email | Way::Sms, 1) => {}
        (Way::Letter, 3..=ADDRESS_LINES_MAX) => {
            for (number, line) in (1..).zip(&message.to) {
                all.insert(format!("address_line_{number}"), text(line));
            }
        }
        (Way::Email | Way::Sms, _) => return Err(cannot("is not one address")),
        (Way::Letter, _) => return Err(cannot("is not three to seven lines of an address")),
    }
    Ok(all)
}

/// The path below the base at which a rendered message is posted.
pub(super) const fn path(way: Way) -> [&'static str; 3] {
    match way {
        Way::Email => ["v2", "notifications", "email"],
        Way::Sms => ["v2", "notifications", "sms"],
        Way::Letter => ["v2", "notifications", "letter"],
    }
}

#[derive(Deserialize)]
struct Created {
    id: String,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<RefusalError>,
}

#[derive(Deserialize)]
struct RefusalError {
    #[serde(default)]
    error: String,
    #[serde(default)]
    message: String,
}

/// The provider's id of a message, if it can be one.
fn id(text: String) -> Option<String> {
    let good = (1..=ID_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    good.then_some(text)
}

/// A message that the provider took: nothing is known of its arrival yet.
pub(super) fn taken(body: &[u8]) -> Outcome {
    let created: Option<Created> = serde_json::from_slice(body).ok();
    Outcome::Delivered {
        grade: Evidence::Sent,
        awaiting: Some(Evidence::TransportAck),
        receiver_reference: created.and_then(|created| id(created.id)),
        // The answer repeats the text: it is kept once, as what was sent.
        receipt: None,
    }
}

/// What an answer that is no success means. The words of an error are not read: they repeat addresses, and change.
pub(super) fn refused(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: waymark_core::time::Timestamp,
) -> Outcome {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let said = |word: &str| refusal.errors.iter().any(|e| e.error == word);
    let why = |word: &str, text: &str| Why::new(format!("notify.{word}"), text);
    let hint = retry_after(headers, now);
    match status {
        StatusCode::BAD_REQUEST if said("ValidationError") => Outcome::Reject {
            why: why(
                "validation",
                "the address or a value is not one that the provider takes",
            ),
            fault: Fault::Send,
        },
        StatusCode::BAD_REQUEST => Outcome::Park {
            reason: ParkReason::Refused,
            why: why(
                "bad_request",
                "the provider refuses the template, its fields or the recipient",
            ),
        },
        // Every message would be refused alike until the key or the clock is right: nothing was taken.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::Retry {
            after: None,
            why: why(
                "auth",
                "the provider refuses the API key, or a clock is 30 s wrong",
            ),
        },
        StatusCode::TOO_MANY_REQUESTS if said("TooManyRequestsError") => Outcome::Retry {
            after: hint.or(Some(DAY_IS_FULL)),
            why: why(
                "day_limit",
                "the service's messages of this day are used up",
            ),
        },
        StatusCode::TOO_MANY_REQUESTS => Outcome::Retry {
            after: hint,
            why: why(
                "rate_limit",
                "the provider asks for fewer requests a minute",
            ),
        },
        // It may have been taken before it broke: what became of it is asked before it is sent again.
        _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Outcome::Unknown {
                why: why("broke", "the provider failed while it took the message"),
            }
        }
        _ => Outcome::Park {
            reason: ParkReason::Refused,
            why: why(
                "refused",
                &format!("the provider answered {}", status.as_u16()),
            ),
        },
    }
}

/// Why a question with nobody in it is refused: by words that are known, for the key's parts and the clock have one code.
pub(super) fn refused_key(body: &[u8]) -> &'static str {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let says = |words: &str| refusal.errors.iter().any(|e| e.message.contains(words));
    if says("clock") {
        "the provider refuses the token: our clock and its own are more than 30 s apart"
    } else if says("service not found") {
        "the provider does not know the service that the API key names"
    } else if says("API key") || says("signature") {
        "the provider refuses the API key: its secret is not one of the service, or was revoked"
    } else {
        "the provider refuses the API key"
    }
}

/// What a status of the provider says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing that ends it.
    None,
    /// It went out, and no more will ever be known: networks of other countries may report nothing.
    NoMore,
    /// It arrived, as far as the carrier knows.
    Arrived,
    /// It did not, for good.
    Failed(&'static str),
}

/// Reads the status of a message. One that is not known says nothing; `sent` is the end of a text message alone, to an
/// international number (GOV.UK Notify, status: text).
pub(super) fn news(seen: &Seen) -> News {
    match seen.status.as_str() {
        "sent" if seen.way.as_deref() == Some("sms") => News::NoMore,
        "delivered" | "received" => News::Arrived,
        "permanent-failure" => News::Failed("permanent_failure"),
        "temporary-failure" => News::Failed("temporary_failure"),
        "technical-failure" => News::Failed("technical_failure"),
        "validation-failed" => News::Failed("validation_failed"),
        "virus-scan-failed" => News::Failed("virus_scan_failed"),
        "cancelled" => News::Failed("cancelled"),
        _ => News::None,
    }
}

/// A message as the provider's answers and callbacks show it; whatever else they hold is not read.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Seen {
    pub(super) id: String,
    #[serde(default)]
    pub(super) reference: Option<String>,
    pub(super) status: String,
    /// `email`, `sms` or `letter`; a receipt has it under another name.
    #[serde(default, rename = "type", alias = "notification_type")]
    pub(super) way: Option<String>,
}

impl Seen {
    /// The wire id that it was sent under, if it is one of ours.
    pub(super) fn wire_id(&self) -> Option<WireId> {
        self.reference.as_ref()?.parse().ok()
    }

    /// What was found of it when it was asked after.
    pub(super) fn outcome(self) -> Outcome {
        match news(&self) {
            News::Failed(word) => Outcome::Reject {
                why: failed(word),
                fault: Fault::Rec,
            },
            said => Outcome::Delivered {
                grade: match said {
                    News::Arrived => Evidence::TransportAck,
                    _ => Evidence::Sent,
                },
                awaiting: Some(Evidence::TransportAck),
                receiver_reference: id(self.id),
                receipt: None,
            },
        }
    }
}

#[derive(Deserialize)]
struct List {
    notifications: Vec<Seen>,
}

/// Of the messages under one reference, the one that got furthest.
pub(super) fn furthest(body: &[u8], wire_id: &WireId) -> serde_json::Result<Option<Seen>> {
    let list: List = serde_json::from_slice(body)?;
    let ours = list
        .notifications
        .into_iter()
        .filter(|seen| seen.reference.as_deref() == Some(wire_id.as_str()));
    Ok(ours.max_by_key(|seen| match news(seen) {
        News::Failed(_) => 0,
        News::None => 1,
        News::NoMore => 2,
        News::Arrived => 3,
    }))
}

pub(super) fn failed(word: &str) -> Why {
    Why::new(
        format!("notify.{word}"),
        "the provider says that the message did not arrive",
    )
}

/// The news of a message as the intake takes it: ours alone, and no address with it.
pub(super) fn inbound(
    endpoint: &waymark_core::id::EndpointId,
    wire_id: &WireId,
    seen: (&str, &str),
    said: News,
) -> Option<Inbound> {
    let (provider_id, status) = seen;
    let grade = match said {
        News::Arrived => Evidence::TransportAck,
        _ => Evidence::Sent,
    };
    let body = match said {
        News::None => return None,
        News::NoMore | News::Arrived => InboundBody::Status(InboundStatus {
            receiver_reference: id(provider_id.to_owned()),
            ..receipt::evidence(wire_id.to_string(), grade)
        }),
        News::Failed(word) => InboundBody::Undelivered(Undelivered {
            answers: wire_id.as_str().to_owned(),
            reason: ParkReason::Refused,
            why: failed(word),
        }),
    };
    let kept = serde_json::json!({
        "id": provider_id, "reference": wire_id.as_str(), "status": status,
    })
    .to_string()
    .into_bytes();
    Some(Inbound {
        channel: Channel::Endpoint(endpoint.clone()),
        claimed_sender: None,
        message_key: format!("notify:{wire_id}:{status}"),
        original: Payload::new(kept.clone()),
        fingerprint: Payload::new(kept),
        media_type: NEWS_MEDIA_TYPE.to_owned(),
        traceparent: None,
        environment: None,
        attachments: Vec::new(),
        conversation: None,
        body,
    })
}

#[cfg(test)]
mod tests;
