//! The signed status that an agency posts back: checked and read, pure.
//!
//! Signed like what we send (Standard Webhooks, a secret of its own), the body is:
//! ```json
//! {"type": "referral.status", "environment": "test", "referral": "WM-...", "answers": "WM...",
//!  "state": "accepted", "source_version": 3, "receiver_reference": "R1L/88", "reason_code": "RRNA",
//!  "text": "...", "at": "2026-03-02T10:00:00Z", "accepted_by": "Dr Ada Okoro"}
//! ```
//! `type`, `environment`, `referral` (our reference or id) and `state` are required. `answers` is the wire id of the
//! delivery that this is evidence for. `accepted_by` names the person who accepted: it makes the evidence a human's.
//! A repeat is known by `source_version`; where that is not given, by `webhook-id` and the body.

use http::HeaderMap;
use serde::Deserialize;
use waymark_core::delivery::Evidence;
use waymark_core::directory::Environment;
use waymark_core::id::EndpointId;
use waymark_core::leg::LegState;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{Channel, Inbound, InboundBody, InboundStatus};
use waymark_core::time::Timestamp;

use super::sign::{SignatureError, WebhookSecret, check};
use super::wire::MEDIA_TYPE;

/// The most bytes of a callback.
pub const CALLBACK_BYTES_MAX: usize = 64 * 1024;

/// The most characters of a code or reference.
const SHORT_CHARS_MAX: usize = 200;
/// The most characters of a text.
const TEXT_CHARS_MAX: usize = 4_000;

/// Why a callback is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// Longer than [`CALLBACK_BYTES_MAX`].
    #[error("a callback has at most {CALLBACK_BYTES_MAX} bytes")]
    TooLong,
    /// Not signed by this agency, now.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Signed, but not the JSON that is documented.
    #[error("not a status: line {line}, column {column}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// A field has a value that it may not have.
    #[error("{field} {why}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A status that an agency signed for.
#[derive(Clone, Debug)]
pub struct Callback {
    /// The sender's message key (`webhook-id`).
    pub id: String,
    /// Test or live, as it says.
    pub environment: Environment,
    /// The status.
    pub status: InboundStatus,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    r#type: String,
    environment: Environment,
    referral: String,
    #[serde(default)]
    answers: Option<String>,
    state: LegState,
    #[serde(default)]
    source_version: Option<u64>,
    #[serde(default)]
    receiver_reference: Option<String>,
    #[serde(default)]
    reason_code: Option<String>,
    #[serde(default)]
    text: Option<Personal<String>>,
    #[serde(default)]
    due: Option<jiff::civil::Date>,
    #[serde(default)]
    at: Option<jiff::Timestamp>,
    #[serde(default)]
    accepted_by: Option<Personal<String>>,
}

/// Checks a callback's signature and reads it. `secrets` are those of the endpoint that it was posted to.
///
/// # Errors
/// [`CallbackError`] names what is wrong; it never repeats the body.
pub fn verify_callback(
    headers: &HeaderMap,
    body: &[u8],
    secrets: &[WebhookSecret],
    now: Timestamp,
) -> Result<Callback, CallbackError> {
    if body.len() > CALLBACK_BYTES_MAX {
        return Err(CallbackError::TooLong);
    }
    let id = check(headers, body, secrets, now)?.to_owned();
    let (environment, status) = read_status(body)?;
    Ok(Callback {
        id,
        environment,
        status,
    })
}

/// Reads the body of a callback, however it came.
///
/// # Errors
/// [`CallbackError`] names what is wrong; it never repeats the body.
pub(crate) fn read_status(body: &[u8]) -> Result<(Environment, InboundStatus), CallbackError> {
    let body: Body = serde_json::from_slice(body).map_err(|e| CallbackError::Json {
        line: e.line(),
        column: e.column(),
    })?;
    Ok((body.environment, status(body)?))
}

fn status(body: Body) -> Result<InboundStatus, CallbackError> {
    let field = |field, why| Err(CallbackError::Field { field, why });
    if body.r#type != "referral.status" {
        return field("type", "is referral.status");
    }
    if body.referral.trim().is_empty() {
        return field("referral", "is our reference or id");
    }
    let short = [
        ("referral", Some(&body.referral)),
        ("answers", body.answers.as_ref()),
        ("receiver_reference", body.receiver_reference.as_ref()),
        ("reason_code", body.reason_code.as_ref()),
        (
            "accepted_by",
            body.accepted_by.as_ref().map(Personal::expose),
        ),
    ];
    for (name, value) in short {
        if value.is_some_and(|v| v.chars().count() > SHORT_CHARS_MAX) {
            return field(name, "is too long");
        }
    }
    if body
        .text
        .as_ref()
        .is_some_and(|t| t.expose().chars().count() > TEXT_CHARS_MAX)
    {
        return field("text", "is too long");
    }
    let named = body
        .accepted_by
        .as_ref()
        .is_some_and(|n| !n.expose().trim().is_empty());
    if body.accepted_by.is_some() && !(named && body.answers.is_some()) {
        return field(
            "accepted_by",
            "names a person, beside the delivery that it answers",
        );
    }
    let grade = match &body.answers {
        Some(_) if named => Evidence::HumanAcceptance,
        Some(_) => Evidence::ApplicationAck,
        None => Evidence::None,
    };
    Ok(InboundStatus {
        referral: body.referral,
        answers: body.answers,
        receiver_reference: body.receiver_reference,
        state: body.state,
        source_version: body.source_version,
        reason_code: body.reason_code,
        text: body.text,
        due: body.due,
        at: body.at.map(|at| Timestamp::from_ms(at.as_millisecond())),
        grade,
    })
}

impl Callback {
    /// Makes it ready for the intake: what was posted to an endpoint's callback address speaks for
    /// `webhook:<endpoint>`, which the secret proved.
    pub fn into_inbound(
        self,
        endpoint: &EndpointId,
        body: Vec<u8>,
        traceparent: Option<String>,
    ) -> Inbound {
        Inbound {
            channel: Channel::Peer(format!("webhook:{endpoint}")),
            claimed_sender: None,
            message_key: self.id,
            fingerprint: Payload::new(body.clone()),
            original: Payload::new(body),
            media_type: MEDIA_TYPE.to_owned(),
            traceparent,
            environment: Some(self.environment),
            attachments: Vec::new(),
            conversation: None,
            body: InboundBody::Status(self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::sign::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, seconds, signature};
    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_772_445_600_000);
    const BODY: &str = r#"{"type":"referral.status","environment":"test","referral":"WM-AAAAA-BBBBB-CCCCC",
        "answers":"WM1","state":"accepted","source_version":3,"receiver_reference":"R1L/88",
        "text":"Tam is on the list","at":"2026-03-02T09:59:00Z"}"#;

    fn secret() -> WebhookSecret {
        WebhookSecret::parse(b"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz").unwrap()
    }

    fn read(body: &str) -> Result<Callback, CallbackError> {
        let mut headers = HeaderMap::new();
        let signed = signature(&[secret()], "msg_1", NOW, body.as_bytes());
        headers.insert(ID_HEADER, HeaderValue::from_static("msg_1"));
        headers.insert(TIMESTAMP_HEADER, HeaderValue::from(seconds(NOW)));
        headers.insert(SIGNATURE_HEADER, HeaderValue::from_str(&signed).unwrap());
        verify_callback(&headers, body.as_bytes(), &[secret()], NOW)
    }

    #[test]
    fn a_signed_status_is_read_with_its_evidence() {
        let callback = read(BODY).unwrap();
        assert_eq!(
            (callback.id.as_str(), callback.environment),
            ("msg_1", Environment::Test)
        );
        let status = &callback.status;
        assert_eq!(status.state, LegState::Accepted);
        assert_eq!(
            (status.grade, status.source_version),
            (Evidence::ApplicationAck, Some(3))
        );
        assert_eq!(status.at, Some(Timestamp::from_ms(NOW.as_ms() - 60_000)));
        assert!(!format!("{callback:?}").contains("Tam"));
        let inbound = callback.into_inbound(&"therapy".parse().unwrap(), BODY.into(), None);
        assert_eq!(
            (&inbound.channel, inbound.message_key.as_str()),
            (&Channel::Peer("webhook:therapy".to_owned()), "msg_1")
        );
    }

    #[test]
    fn only_a_named_person_beside_a_delivery_is_a_humans_acceptance() {
        let with = |name: &str| {
            BODY.replace(
                "\"state\"",
                &format!("\"accepted_by\":\"{name}\",\"state\""),
            )
        };
        assert_eq!(
            read(&with("Ada Okoro")).unwrap().status.grade,
            Evidence::HumanAcceptance
        );
        let refused = |body: &str| match read(body).unwrap_err() {
            CallbackError::Field { field, .. } => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&with(" ")), "accepted_by");
        assert_eq!(
            refused(&with("Ada").replace("\"answers\":\"WM1\",", "")),
            "accepted_by"
        );
        let unanswered = BODY.replace("\"answers\":\"WM1\",", "");
        assert_eq!(read(&unanswered).unwrap().status.grade, Evidence::None);
    }

    #[test]
    fn unknown_words_fields_and_lengths_are_refused_and_never_repeated() {
        for wrong in [
            BODY.replace("\"accepted\"", "\"on_its_way\""),
            BODY.replace("\"state\"", "\"status\""),
            BODY.replace("{\"type\"", "{\"extra\":1,\"type\""),
            "Tam 9434765870".to_owned(),
        ] {
            let error = read(&wrong).unwrap_err();
            assert!(matches!(error, CallbackError::Json { .. }), "{error}");
            assert!(
                !error.to_string().contains("Tam") && !error.to_string().contains("on_its_way")
            );
        }
        let other = BODY.replace("referral.status", "referral.other");
        assert!(matches!(
            read(&other),
            Err(CallbackError::Field { field: "type", .. })
        ));
        let code = |n: usize| BODY.replace("R1L/88", &"x".repeat(n));
        assert!(read(&code(SHORT_CHARS_MAX)).is_ok());
        assert!(matches!(
            read(&code(SHORT_CHARS_MAX + 1)),
            Err(CallbackError::Field {
                field: "receiver_reference",
                ..
            })
        ));
        let text = |n: usize| BODY.replace("Tam is on the list", &"x".repeat(n));
        assert!(read(&text(TEXT_CHARS_MAX)).is_ok());
        assert!(matches!(
            read(&text(TEXT_CHARS_MAX + 1)),
            Err(CallbackError::Field { field: "text", .. })
        ));
    }

    #[test]
    fn a_callback_is_read_up_to_its_limit_and_only_when_signed() {
        let padded = |n: usize| format!("{BODY}{}", " ".repeat(n - BODY.len()));
        assert!(read(&padded(CALLBACK_BYTES_MAX)).is_ok());
        assert!(matches!(
            read(&padded(CALLBACK_BYTES_MAX + 1)),
            Err(CallbackError::TooLong)
        ));
        let unsigned = verify_callback(&HeaderMap::new(), BODY.as_bytes(), &[secret()], NOW);
        assert!(matches!(unsigned, Err(CallbackError::Signature(_))));
    }
}
