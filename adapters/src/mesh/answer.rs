//! What the hub's answers mean (NHS MESH API, "Error codes"; DOMAIN 2.6 and 3.4). Pure.

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use waymark_core::delivery::{Evidence, Outcome, ParkReason, Why};
use waymark_core::personal::Payload;
use waymark_core::time::Timestamp;

use crate::webhook::wire::retry_after;

/// The most characters of an id of the hub's, or of a code.
pub(super) const ID_CHARS_MAX: usize = 100;

/// What the hub said of a message or of its first chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Posted {
    /// It has it, under this id.
    Taken(String, Vec<u8>),
    /// It ended otherwise.
    Ended(Outcome),
}

/// The hub has the message: that says nothing of the agency.
pub(super) fn delivered(receipt: Vec<u8>) -> Outcome {
    Outcome::Delivered {
        grade: Evidence::Sent,
        awaiting: Some(Evidence::TransportAck),
        receiver_reference: None,
        receipt: (!receipt.is_empty()).then(|| Payload::new(receipt)),
    }
}

fn is_id(text: &str) -> bool {
    (1..=ID_CHARS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

/// An id that may stand in a path.
pub(super) fn id(value: Option<&Value>) -> Option<String> {
    let text = value?.as_str()?;
    is_id(text).then(|| text.to_owned())
}

fn field<'a>(body: &'a Value, names: [&str; 2]) -> Option<&'a Value> {
    names.into_iter().find_map(|name| body.get(name))
}

/// The hub's error code, in either version of its answers; nothing else of what it says is kept.
fn code_of(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let newer = body
        .get("detail")
        .and_then(|d| d.get(0).unwrap_or(d).get("code"));
    let code = newer.or_else(|| {
        body.get("errorCode")
            .or_else(|| body.get("detail")?.get("errorCode"))
    });
    id(code)
}

/// What a code says, for an operator.
pub(super) fn meaning(code: &str) -> &'static str {
    match code {
        "02" => "the message has no data",
        "06" => "a header is malformed",
        "07" => "the sending mailbox is not ours",
        "08" => "there is no recipient",
        "09" | "11" | "19" => "a header has a value that MESH does not take",
        "12" => "there is no such mailbox",
        "14" => "the agency did not collect it in the time that MESH keeps messages",
        "16" => "we may not send to this mailbox",
        "17" => "the mailbox is not registered for the workflow",
        "20" => "there is no such message",
        _ => "see the error codes of the MESH API",
    }
}

/// Why a message did not arrive, in the words of a code that the hub gave.
pub(super) fn undelivered(code: Option<&str>) -> (ParkReason, Why) {
    let code = code.filter(|code| is_id(code));
    let reason = match code {
        Some("14") => ParkReason::Exhausted,
        Some("12") => ParkReason::NoEndpoint,
        _ => ParkReason::Refused,
    };
    let text = code.map_or_else(
        || "MESH says that it did not arrive, and not why".to_owned(),
        |code| {
            format!(
                "MESH says that it did not arrive: {} ({code})",
                meaning(code)
            )
        },
    );
    let word = code.map_or_else(|| "mesh.report".to_owned(), |c| format!("mesh.report_{c}"));
    (reason, Why::new(word, text))
}

/// Reads the answer to a message or its first chunk.
pub(super) fn posted(
    status: StatusCode,
    headers: &HeaderMap,
    body: Vec<u8>,
    now: Timestamp,
) -> Posted {
    if status == StatusCode::ACCEPTED {
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        return match id(field(&answer, ["message_id", "messageID"])) {
            Some(id) => Posted::Taken(id, body),
            None => Posted::Ended(Outcome::Unknown {
                why: Why::new("mesh.no_id", "the hub took the message and named no id"),
            }),
        };
    }
    Posted::Ended(refused(status, headers, &body, now))
}

/// What any other status means. Whatever may have been taken is asked about before anything is sent again.
pub(super) fn refused(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Outcome {
    let code = code_of(body);
    let said = code
        .as_deref()
        .map(|code| format!(": {} ({code})", meaning(code)))
        .unwrap_or_default();
    let why = Why::new(
        format!("mesh.{}", status.as_u16()),
        format!("the hub answered {}{said}", status.as_u16()),
    );
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY => Outcome::Retry {
            after: retry_after(headers, now),
            why,
        },
        // Nothing was taken, and no message is at fault: it goes once the mailbox's papers are in order.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::Retry { after: None, why },
        StatusCode::REQUEST_TIMEOUT => Outcome::Unknown { why },
        _ if status.is_server_error() || status.is_success() => Outcome::Unknown { why },
        _ => {
            let (reason, _) = undelivered(code.as_deref());
            Outcome::Park { reason, why }
        }
    }
}

/// Where a message of ours stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its last chunk has not come: nobody sees it.
    Uploading,
    /// It lies in the agency's inbox.
    Accepted,
    /// The agency has it.
    Acknowledged,
    /// It did not arrive.
    Undeliverable,
}

/// What tracking by our own id found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tracked {
    /// Nothing.
    None,
    /// One message.
    One {
        /// The hub's id.
        id: String,
        /// Where it stands.
        stage: Stage,
        /// The hub's code, where there is one.
        code: Option<String>,
    },
    /// Several: something was sent twice.
    Several,
}

/// Reads the answer to tracking by local id.
pub(super) fn tracked(status: StatusCode, body: &[u8]) -> Result<Tracked, Why> {
    let unclear = |text: String| Why::new("mesh.tracking", text);
    match status {
        StatusCode::NOT_FOUND => Ok(Tracked::None),
        StatusCode::MULTIPLE_CHOICES => Ok(Tracked::Several),
        StatusCode::OK => {
            let answer: Value = serde_json::from_slice(body).unwrap_or_default();
            let word = answer.get("status").and_then(Value::as_str);
            let stage = match word.map(str::to_ascii_lowercase).as_deref() {
                Some("uploading") => Stage::Uploading,
                Some("accepted") => Stage::Accepted,
                Some("acknowledged") => Stage::Acknowledged,
                Some("undeliverable" | "error") => Stage::Undeliverable,
                _ => {
                    let text = "the hub's answer to tracking names no status that is known";
                    return Err(unclear(text.to_owned()));
                }
            };
            let id = id(field(&answer, ["message_id", "messageId"]));
            let id =
                id.ok_or_else(|| unclear("the hub's answer to tracking names no id".to_owned()))?;
            let code = field(&answer, ["status_code", "statusCode"]);
            let code = code.and_then(Value::as_str).filter(|c| is_id(c));
            Ok(Tracked::One {
                id,
                stage,
                code: code.map(ToOwned::to_owned),
            })
        }
        _ => Err(unclear(format!(
            "tracking was answered {}",
            status.as_u16()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_772_445_600_000);

    fn ended(status: u16, body: &str) -> Outcome {
        let status = StatusCode::from_u16(status).unwrap();
        match posted(status, &HeaderMap::new(), body.as_bytes().to_vec(), NOW) {
            Posted::Ended(outcome) => outcome,
            Posted::Taken(..) => panic!("taken"),
        }
    }

    #[test]
    fn a_message_is_taken_with_its_id_in_either_version_and_without_one_its_end_is_unknown() {
        for body in [r#"{"message_id": "M1"}"#, r#"{"messageID": "M1"}"#] {
            let read = posted(StatusCode::ACCEPTED, &HeaderMap::new(), body.into(), NOW);
            assert_eq!(read, Posted::Taken("M1".to_owned(), body.into()));
        }
        for body in ["", "{}", r#"{"message_id": "../M1"}"#] {
            assert!(matches!(ended(202, body), Outcome::Unknown { .. }));
        }
    }

    #[test]
    fn what_may_have_been_taken_is_unknown_and_what_was_not_is_tried_again_or_parked() {
        for status in [200, 408, 500, 502, 503, 504] {
            assert!(
                matches!(ended(status, ""), Outcome::Unknown { .. }),
                "{status}"
            );
        }
        for status in [401, 403, 425, 429] {
            assert!(
                matches!(ended(status, ""), Outcome::Retry { .. }),
                "{status}"
            );
        }
        for status in [302, 400, 404, 413, 417, 422] {
            assert!(
                matches!(ended(status, ""), Outcome::Park { .. }),
                "{status}"
            );
        }
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7".parse().unwrap());
        let later = refused(StatusCode::TOO_MANY_REQUESTS, &headers, b"", NOW);
        assert!(
            matches!(later, Outcome::Retry { after: Some(after), .. } if after == Duration::from_secs(7))
        );
    }

    #[test]
    fn a_code_is_explained_and_the_hub_s_own_words_are_not_repeated() {
        let older = r#"{"errorCode": "12", "errorDescription": "Tam Quillfeather"}"#;
        let newer = r#"{"detail": [{"event": "SEND", "code": "12", "msg": "Tam Quillfeather"}]}"#;
        for body in [older, newer] {
            let Outcome::Park { reason, why } = ended(417, body) else {
                panic!("not parked");
            };
            assert_eq!(reason, ParkReason::NoEndpoint);
            assert_eq!(
                why.text,
                "the hub answered 417: there is no such mailbox (12)"
            );
        }
        let hostile = ended(417, r#"{"errorCode": "Tam Quillfeather"}"#);
        assert_eq!(hostile.why().unwrap().text, "the hub answered 417");
    }

    #[test]
    fn tracking_is_read_in_either_version() {
        let read = |body: &str| tracked(StatusCode::OK, body.as_bytes());
        for (word, stage) in [
            ("Accepted", Stage::Accepted),
            ("acknowledged", Stage::Acknowledged),
            ("Uploading", Stage::Uploading),
            ("undeliverable", Stage::Undeliverable),
            ("Error", Stage::Undeliverable),
        ] {
            for name in ["messageId", "message_id"] {
                let body = format!(r#"{{"{name}": "M1", "status": "{word}"}}"#);
                let one = Tracked::One {
                    id: "M1".to_owned(),
                    stage,
                    code: None,
                };
                assert_eq!(read(&body), Ok(one));
            }
        }
        assert!(read("{}").is_err());
        assert_eq!(tracked(StatusCode::NOT_FOUND, b""), Ok(Tracked::None));
        assert_eq!(
            tracked(StatusCode::MULTIPLE_CHOICES, b""),
            Ok(Tracked::Several)
        );
        assert!(tracked(StatusCode::BAD_GATEWAY, b"").is_err());
    }
}
