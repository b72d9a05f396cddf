//! A receipt: an agency's word that its application, or a person, has a message. Pure.
//!
//! An empty file of the right name is one. With content it is JSON:
//! `{"id": "WM...", "receiver_reference": "...", "at": "2026-03-02T10:00:00Z", "accepted_by": "Dr Ada Okoro"}`,
//! all of it optional; `accepted_by` names the person who accepted, and makes the evidence a human's.

use serde::Deserialize;
use waymark_core::delivery::Evidence;
use waymark_core::error::Violation;
use waymark_core::id::WireId;
use waymark_core::leg::LegState;
use waymark_core::personal::Personal;
use waymark_core::port::InboundStatus;
use waymark_core::time::Timestamp;

use crate::limits::REFERENCE_CHARS_MAX;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    receiver_reference: Option<String>,
    #[serde(default)]
    at: Option<jiff::Timestamp>,
    #[serde(default)]
    accepted_by: Option<Personal<String>>,
}

/// The most characters of a refusal's code.
const CODE_CHARS_MAX: usize = 40;

/// Why an agency would not take a message: `{"code": "NOT_OURS", "text": "..."}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    code: String,
    #[serde(default, rename = "id")]
    _id: Option<serde::de::IgnoredAny>,
    /// For people, who read it where it lies: it may be about the child.
    #[serde(default, rename = "text")]
    _text: Option<serde::de::IgnoredAny>,
}

/// The code of a refusal, which an operator may see; `None` where there is none that is plain.
pub(crate) fn refusal_code(bytes: &[u8]) -> Option<String> {
    let refusal: Refusal = serde_json::from_slice(bytes).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let code = refusal.code;
    ((1..=CODE_CHARS_MAX).contains(&code.len()) && code.chars().all(plain)).then_some(code)
}

/// Evidence for a delivery, which moves no leg.
pub(crate) fn evidence(answers: String, grade: Evidence) -> InboundStatus {
    InboundStatus {
        referral: String::new(),
        answers: Some(answers),
        receiver_reference: None,
        state: LegState::Submitted,
        source_version: None,
        reason_code: None,
        text: None,
        due: None,
        at: None,
        grade,
    }
}

/// Writes a receipt: the application has a message, and calls it so.
pub(crate) fn written(id: &str, reference: &str) -> Vec<u8> {
    let body = serde_json::json!({ "id": id, "receiver_reference": reference });
    body.to_string().into_bytes()
}

/// Writes a refusal, with the fields that are wrong.
pub(crate) fn refusal(id: &str, code: &str, text: &str) -> Vec<u8> {
    let body = serde_json::json!({ "id": id, "code": code, "text": text });
    body.to_string().into_bytes()
}

/// What a receipt says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) receiver_reference: Option<String>,
    pub(crate) at: Option<Timestamp>,
    pub(crate) grade: Evidence,
}

impl Receipt {
    /// Reads a receipt for a message.
    pub(crate) fn read(bytes: &[u8], wire: &WireId) -> Result<Self, Violation> {
        let blank = bytes.iter().all(u8::is_ascii_whitespace);
        let body: Body = if blank {
            Body::default()
        } else {
            serde_json::from_slice(bytes).map_err(|error| {
                let place = format!("line {}, column {}", error.line(), error.column());
                Violation::new(
                    "receipt",
                    format!("is empty or the JSON that is documented: {place}"),
                )
            })?
        };
        if body.id.is_some_and(|id| id != wire.as_str()) {
            return Err(Violation::new(
                "receipt.id",
                "is not the id in the file's name",
            ));
        }
        let length = body.receiver_reference.as_ref().map(|r| r.chars().count());
        if length.is_some_and(|n| !(1..=REFERENCE_CHARS_MAX).contains(&n)) {
            let why = format!("has 1 to {REFERENCE_CHARS_MAX} characters");
            return Err(Violation::new("receipt.receiver_reference", why));
        }
        let named = body
            .accepted_by
            .is_some_and(|name| !name.expose().trim().is_empty());
        Ok(Self {
            receiver_reference: body.receiver_reference,
            at: body.at.map(|at| Timestamp::from_ms(at.as_millisecond())),
            grade: if named {
                Evidence::HumanAcceptance
            } else {
                Evidence::ApplicationAck
            },
        })
    }
}
