//! The body of a webhook, and what the agency's answer means: pure.
//!
//! ```json
//! {"type": "referral.new", "id": "WM...", "timestamp": "2026-03-02T10:00:00.000Z", "environment": "test",
//!  "data": {"referral_id": "...", "reference": "WM-...", "sender": "EE123456", "recipient": "R1L",
//!           "service": "r1l-paeds", "sender_reference": {"value": "...", "namespace": "..."},
//!           "referral": {...}, "status": {...}, "reason": "...", "code": "entered_in_error", "withdrawal": {...}}}
//! ```
//! `type` is `referral.` and `new`, `amended`, `cancelled`, `consent_withdrawn` or `status`. `id` is the wire id, the
//! same on every attempt. `referral` is the canonical referral (`waymark_core::referral::Referral`); `status` has
//! `from`, `service`, `state`, `code`, `text`, `at` (milliseconds since 1970). `code` is why a sender cancels, `withdrawal`
//! has `scopes`, `by`, `role`, `date`, `evidence`; `reason` says either in words. What does not apply is `null`.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use waymark_core::delivery::{Evidence, Kind, Outcome, ParkReason, Why};
use waymark_core::directory::Environment;
use waymark_core::error::{Fault, Violation};
use waymark_core::id::ServiceId;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{RenderError, Rendered, Source, StatusNotice, StopNotice, Withdrawal};
use waymark_core::referral::{Referral, SenderReference};
use waymark_core::time::Timestamp;

use crate::limits::{BODY_BYTES_MAX, REFERENCE_CHARS_MAX, RETRY_AFTER_MAX};

/// The media type of what is rendered.
pub const MEDIA_TYPE: &str = "application/json";

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    id: &'a str,
    timestamp: String,
    environment: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    referral_id: String,
    reference: &'a str,
    sender: &'a str,
    recipient: &'a str,
    service: Option<&'a str>,
    sender_reference: Option<&'a SenderReference>,
    referral: Option<&'a Referral>,
    status: Option<&'a StatusNotice>,
    reason: Option<&'a Personal<String>>,
    code: Option<&'static str>,
    withdrawal: Option<&'a Withdrawal>,
}

const fn event_type(kind: Kind) -> &'static str {
    match kind {
        Kind::New => "referral.new",
        Kind::Amend => "referral.amended",
        Kind::Cancel => "referral.cancelled",
        Kind::Withdraw => "referral.consent_withdrawn",
        Kind::Status => "referral.status",
        Kind::Guidance => "referral.guidance",
    }
}

/// Renders the body: fields in the order above, without spaces.
pub(crate) fn render(source: &Source, environment: Environment) -> Result<Rendered, RenderError> {
    let cannot = |field: &str, why: String| RenderError::CannotCarry(Violation::new(field, why));
    if source.environment != environment {
        let why = format!(
            "this deployment sends {} messages alone",
            environment.as_str()
        );
        return Err(cannot("environment", why));
    }
    let missing = match source.kind {
        Kind::New | Kind::Amend => source.content.is_none().then_some("content"),
        Kind::Status => source.status.is_none().then_some("status"),
        Kind::Cancel | Kind::Withdraw => None,
        Kind::Guidance => return Err(RenderError::not_to_agencies()),
    };
    if let Some(what) = missing {
        return Err(cannot(what, "is missing".to_owned()));
    }
    let shares_content = matches!(source.kind, Kind::New | Kind::Amend);
    let (code, withdrawal) = match &source.stop {
        Some(StopNotice::Cancelled { code, .. }) => (Some(code.as_str()), None),
        Some(StopNotice::Withdrawn(withdrawal)) => (None, Some(withdrawal)),
        None => (None, None),
    };
    let event = Event {
        r#type: event_type(source.kind),
        id: source.wire_id.as_str(),
        timestamp: source.at.to_string(),
        environment: environment.as_str(),
        data: Data {
            referral_id: source.referral.to_string(),
            reference: source.reference.as_str(),
            sender: source.sender.as_str(),
            recipient: source.recipient.as_str(),
            service: source.service.as_ref().map(ServiceId::as_str),
            sender_reference: source.sender_reference.as_ref(),
            referral: source.content.as_ref().filter(|_| shares_content),
            status: source.status.as_ref(),
            reason: source.reason.as_ref(),
            code,
            withdrawal,
        },
    };
    let bytes = serde_json::to_vec(&event)
        .map_err(|_| cannot("content", "cannot be written as JSON".to_owned()))?;
    if bytes.len() > BODY_BYTES_MAX {
        return Err(cannot(
            "body",
            format!("is longer than {BODY_BYTES_MAX} bytes"),
        ));
    }
    Ok(Rendered {
        media_type: MEDIA_TYPE.to_owned(),
        bytes: Payload::new(bytes),
    })
}

/// What a 2xx means: an object that echoes our id is the application's word, anything else the transport's.
/// `{"id": "WM...", "receiver_reference": "..."}` says which event was taken, and under which name.
pub(super) fn taken(wire_id: &str, body: Vec<u8>, callbacks: Callbacks) -> Outcome {
    let answer: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&body).unwrap_or_default();
    let text = |key: &str| answer.get(key).and_then(serde_json::Value::as_str);
    let echoed = text("id") == Some(wire_id);
    let reference = text("receiver_reference")
        .filter(|r| echoed && (1..=REFERENCE_CHARS_MAX).contains(&r.chars().count()))
        .map(ToOwned::to_owned);
    let awaiting = match callbacks {
        Callbacks::Expected if !echoed => Some(Evidence::ApplicationAck),
        Callbacks::Expected | Callbacks::None => None,
    };
    Outcome::Delivered {
        grade: if echoed {
            Evidence::ApplicationAck
        } else {
            Evidence::TransportAck
        },
        awaiting,
        receiver_reference: reference,
        receipt: (!body.is_empty()).then(|| Payload::new(body)),
    }
}

/// Whether the agency sends status callbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callbacks {
    Expected,
    None,
}

/// What any other status means (DOMAIN.md 2.6).
pub(super) fn refused(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Outcome {
    let why = Why::new(
        format!("webhook.{}", status.as_u16()),
        format!("the agency answered {status}"),
    );
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Outcome::Retry {
                after: retry_after(headers, now),
                why,
            }
        }
        _ if status.is_server_error() => Outcome::Retry {
            after: retry_after(headers, now),
            why,
        },
        StatusCode::CONFLICT => Outcome::Duplicate { why },
        StatusCode::UNPROCESSABLE_ENTITY => Outcome::Reject {
            why,
            fault: Fault::Send,
        },
        StatusCode::GONE => Outcome::Park {
            reason: ParkReason::NoEndpoint,
            why,
        },
        _ => Outcome::Park {
            reason: ParkReason::Refused,
            why,
        },
    }
}

/// `Retry-After`: seconds, or an HTTP date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let hint = if text.bytes().all(|b| b.is_ascii_digit()) {
        // Digits that do not fit are longer than any limit.
        text.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        let at = jiff::fmt::rfc2822::parse(text).ok()?;
        Timestamp::from_ms(at.timestamp().as_millisecond()).since(now)
    };
    Some(hint.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::contract::sample;

    fn body(kind: Kind) -> serde_json::Value {
        let rendered = render(&sample::source(kind), Environment::Test).unwrap();
        serde_json::from_slice(rendered.bytes.expose()).unwrap()
    }

    #[test]
    fn a_new_referral_is_written_as_documented() {
        let rendered = render(&sample::source(Kind::New), Environment::Test).unwrap();
        let text = String::from_utf8(rendered.bytes.into_inner()).unwrap();
        let wire_id = sample::source(Kind::New).wire_id;
        let head = format!(
            "{{\"type\":\"referral.new\",\"id\":\"{wire_id}\",\"timestamp\":\"2026-03-02T10:00:00.000Z\",\
             \"environment\":\"test\",\"data\":{{\"referral_id\":\"09090909-0909-0909-0909-090909090909\","
        );
        assert!(text.starts_with(&head), "{text}");
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        let referral: Referral = serde_json::from_value(body["data"]["referral"].clone()).unwrap();
        assert_eq!(referral, sample::referral());
    }

    #[test]
    fn each_kind_carries_its_own_part_and_no_other() {
        for (kind, r#type, referral, status, reason) in [
            (Kind::New, "referral.new", true, false, false),
            (Kind::Amend, "referral.amended", true, false, false),
            (Kind::Cancel, "referral.cancelled", false, false, true),
            (
                Kind::Withdraw,
                "referral.consent_withdrawn",
                false,
                false,
                true,
            ),
            (Kind::Status, "referral.status", false, true, false),
        ] {
            let body = body(kind);
            assert_eq!(body["type"], r#type);
            assert_eq!(!body["data"]["referral"].is_null(), referral, "{kind}");
            assert_eq!(!body["data"]["status"].is_null(), status, "{kind}");
            assert_eq!(!body["data"]["reason"].is_null(), reason, "{kind}");
        }
        assert_eq!(body(Kind::Status)["data"]["status"]["state"], "declined");
        let (cancel, withdraw) = (body(Kind::Cancel), body(Kind::Withdraw));
        assert_eq!(cancel["data"]["code"], "family_request");
        assert!(cancel["data"]["withdrawal"].is_null());
        assert!(withdraw["data"]["code"].is_null());
        let scopes = &withdraw["data"]["withdrawal"]["scopes"];
        assert_eq!(scopes, &serde_json::json!(["share_health"]));
    }

    #[test]
    fn missing_content_another_environment_and_too_long_a_body_are_refused() {
        let mut source = sample::source(Kind::New);
        assert!(render(&source, Environment::Live).is_err());
        let plain = render(&source, Environment::Test)
            .unwrap()
            .bytes
            .expose()
            .len();
        let old = source
            .content
            .as_ref()
            .unwrap()
            .narrative
            .as_ref()
            .unwrap()
            .expose()
            .len();
        let mut sized = |n: usize| {
            source.content.as_mut().unwrap().narrative = Some("x".repeat(n).into());
            render(&source, Environment::Test)
        };
        assert!(sized(BODY_BYTES_MAX - plain + old).is_ok());
        assert!(sized(BODY_BYTES_MAX - plain + old + 1).is_err());
        source.content = None;
        assert!(render(&source, Environment::Test).is_err());
    }

    #[test]
    fn an_echoed_id_is_the_applications_word_and_nothing_else_is() {
        let grade = |body: &str, callbacks| match taken("WM1", body.as_bytes().to_vec(), callbacks)
        {
            Outcome::Delivered {
                grade,
                awaiting,
                receiver_reference,
                ..
            } => (grade, awaiting, receiver_reference),
            other => panic!("{other:?}"),
        };
        let echoed = grade(
            "{\"id\":\"WM1\",\"receiver_reference\":\"A/1\",\"more\":1}",
            Callbacks::Expected,
        );
        assert_eq!(
            echoed,
            (Evidence::ApplicationAck, None, Some("A/1".to_owned()))
        );
        for other in [
            "",
            "ok",
            "{}",
            "{\"id\":\"WM2\",\"receiver_reference\":\"A/1\"}",
            "[\"WM1\"]",
            "\"WM1\"",
        ] {
            let transport = (Evidence::TransportAck, None, None);
            assert_eq!(grade(other, Callbacks::None), transport, "{other}");
        }
        assert_eq!(
            grade("", Callbacks::Expected).1,
            Some(Evidence::ApplicationAck)
        );
        let long = format!(
            "{{\"id\":\"WM1\",\"receiver_reference\":\"{}\"}}",
            "x".repeat(81)
        );
        assert_eq!(
            grade(&long, Callbacks::None),
            (Evidence::ApplicationAck, None, None)
        );
    }

    #[test]
    fn every_status_has_its_meaning() {
        let now = Timestamp::from_ms(0);
        let word = |status: u16| {
            refused(
                StatusCode::from_u16(status).unwrap(),
                &HeaderMap::new(),
                now,
            )
            .word()
        };
        for (status, expected) in [
            (408, "retry"),
            (425, "retry"),
            (429, "retry"),
            (500, "retry"),
            (502, "retry"),
            (503, "retry"),
            (504, "retry"),
            (409, "duplicate"),
            (422, "reject"),
            (410, "park"),
            (400, "park"),
            (401, "park"),
            (403, "park"),
            (404, "park"),
            (405, "park"),
            (413, "park"),
            (301, "park"),
            (307, "park"),
        ] {
            assert_eq!(word(status), expected, "{status}");
        }
        let gone = refused(StatusCode::GONE, &HeaderMap::new(), now);
        assert!(matches!(
            gone,
            Outcome::Park {
                reason: ParkReason::NoEndpoint,
                ..
            }
        ));
    }

    #[test]
    fn a_hint_is_read_as_seconds_or_date_and_never_longer_than_its_limit() {
        // 2026-03-02T10:00:00Z.
        let now = Timestamp::from_ms(1_772_445_600_000);
        let hint = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(hint("120"), Some(Duration::from_mins(2)));
        assert_eq!(
            hint("Mon, 02 Mar 2026 10:01:30 GMT"),
            Some(Duration::from_secs(90))
        );
        assert_eq!(hint("Mon, 02 Mar 2026 09:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(hint("99999999999999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(hint("86401"), Some(RETRY_AFTER_MAX));
        assert_eq!(hint("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
