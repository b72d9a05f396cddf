//! What an answer means (DOMAIN.md 2.2 and 2.6): whose fault by the prefix of its code, later or never by its status.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use waymark_core::delivery::{Evidence, Outcome, ParkReason, Why};
use waymark_core::personal::Payload;
use waymark_core::time::Timestamp;

use super::header::{self, Outgoing};
use super::wire::bars;
use super::wire::node::Node;
use crate::webhook::wire::retry_after;

/// What an `OperationOutcome` says, as far as it decides anything.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    /// The code of http-error-codes.
    code: String,
    /// The issue's type.
    issue: String,
}

/// Reads an `OperationOutcome`; none where an answer has none, and then nothing is known (BaRS Core 1.4: retry).
fn said(body: &[u8]) -> Option<Said> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let outcome = Node::new(&value, "OperationOutcome");
    if outcome.text("resourceType").ok()? != Some("OperationOutcome") {
        return None;
    }
    let issue = outcome.list("issue").ok()?.into_iter().next()?;
    let details = issue.concept("details").unwrap_or_default();
    let code = details.codings.iter().find_map(|coding| coding.code);
    Some(Said {
        code: known(code.unwrap_or_default()),
        issue: issue.text("code").ok()?.unwrap_or_default().to_owned(),
    })
}

/// Whether the receiver itself says that it does not know what was asked for.
pub(super) fn is_unknown_there(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::NOT_FOUND && said(body).is_some_and(|said| said.code == "REC_NOT_FOUND")
}

/// Whether an error is of the token that we showed, and not of what we asked for (BaRS Core 1.4, `SEND_`).
pub(super) fn of_our_token(status: StatusCode, body: &[u8]) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        && said(body).is_some_and(|said| said.code.starts_with("SEND_"))
}

/// The code where it is shaped as one; an answer's own words are never kept.
fn known(code: &str) -> String {
    let shaped = code.len() <= 40 && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    if shaped {
        code.to_owned()
    } else {
        String::new()
    }
}

/// What an answer to `$process-message` means.
pub(super) fn of_message(
    status: StatusCode,
    headers: &HeaderMap,
    body: Vec<u8>,
    sent: &Outgoing,
    now: Timestamp,
) -> Outcome {
    if !status.is_success() {
        return refused(status, headers, &body, now);
    }
    if !header::echoes(headers, sent) {
        let text = "the answer does not echo the ids of the message: whether it was processed is not known";
        return Outcome::Unknown {
            why: Why::new("fhir.not_echoed", text),
        };
    }
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    Outcome::Delivered {
        grade: Evidence::ApplicationAck,
        awaiting: None,
        receiver_reference: bars::minted_id(&answer),
        receipt: (!body.is_empty()).then(|| Payload::new(body)),
    }
}

/// What an answer to a transaction means: the server has all of it or none (FHIR R4, 3.1.0.11.2).
pub(super) fn of_transaction(
    status: StatusCode,
    headers: &HeaderMap,
    body: Vec<u8>,
    now: Timestamp,
) -> Outcome {
    if !status.is_success() {
        let said = said(&body);
        let why = |text: &str| Why::new("fhir.conflict", text);
        return match (status, said.as_ref().map(|said| said.issue.as_str())) {
            (StatusCode::CONFLICT, Some("duplicate")) => Outcome::Duplicate {
                why: why("the server says that it has this transaction"),
            },
            (StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED, Some(_)) => Outcome::Park {
                reason: ParkReason::Refused,
                why: why("the server says that the transaction conflicts with what it holds"),
            },
            _ => refused(status, headers, &body, now),
        };
    }
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let bundle = Node::new(&answer, "Bundle");
    let answered = bundle.text("type").ok().flatten() == Some("transaction-response");
    let entries = bundle.list("entry").unwrap_or_default();
    let failed = entries.iter().find_map(failed_entry);
    match failed {
        // Some servers answer 200 and put the refusal into the entry.
        Some(status) => refused(status, headers, &body, now),
        None if answered => Outcome::Delivered {
            grade: Evidence::ApplicationAck,
            awaiting: None,
            receiver_reference: entries.iter().find_map(task_location),
            receipt: Some(Payload::new(body)),
        },
        None => Outcome::Unknown {
            why: Why::new(
                "fhir.no_transaction",
                "the answer is not that of a transaction",
            ),
        },
    }
}

fn failed_entry(entry: &Node<'_>) -> Option<StatusCode> {
    let response = entry.object("response").ok()??;
    let status = response.text("status").ok()??;
    let code: StatusCode = status.get(..3)?.parse().ok()?;
    (!code.is_success() && code != StatusCode::NOT_MODIFIED).then_some(code)
}

/// Where the server put the task: `Task/<id>`, whatever its base and version.
fn task_location(entry: &Node<'_>) -> Option<String> {
    let response = entry.object("response").ok()??;
    let location = response.text("location").ok()??;
    let mut parts = location.split('/').skip_while(|part| *part != "Task");
    let (kind, id) = (parts.next()?, parts.next()?);
    let short = (1..=64).contains(&id.len());
    (short
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.'))
    .then(|| format!("{kind}/{id}"))
}

/// What an error means.
pub(super) fn refused(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Outcome {
    let number = status.as_u16();
    let Some(said) = said(body) else {
        let after: Option<Duration> = retry_after(headers, now);
        let why = Why::new(
            format!("fhir.{number}"),
            format!("the far side answered {number} without an OperationOutcome"),
        );
        return match status {
            // The server's own limits speak before any application does.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::TOO_EARLY => Outcome::Retry { after, why },
            _ => Outcome::Unknown { why },
        };
    };
    let text = format!(
        "the far side answered {number} {} ({})",
        said.code,
        known_issue(&said.issue)
    );
    let why = Why::new(format!("fhir.{number}"), text);
    let park = |why| Outcome::Park {
        reason: ParkReason::Refused,
        why,
    };
    match status {
        StatusCode::CONFLICT if said.issue == "duplicate" && said.code == "REC_CONFLICT" => {
            Outcome::Duplicate { why }
        }
        // The receiver, or the proxy before it, gave up waiting: it may have been processed.
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT | StatusCode::BAD_GATEWAY => {
            Outcome::Unknown { why }
        }
        StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Outcome::Retry {
                after: retry_after(headers, now),
                why,
            }
        }
        _ if said.code == "TOO_MANY_REQUESTS" => Outcome::Retry {
            after: retry_after(headers, now),
            why,
        },
        // Our token is not taken: nothing was processed, and a new token may be (DOMAIN.md 2.2).
        _ if of_our_token(status, body) => Outcome::Retry {
            after: retry_after(headers, now),
            why,
        },
        StatusCode::INTERNAL_SERVER_ERROR => Outcome::SoftReject { why },
        _ => park(why),
    }
}

/// The issue's type where it is one of FHIR's.
fn known_issue(issue: &str) -> &str {
    let shaped = issue.len() <= 20 && issue.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    if shaped { issue } else { "unknown" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(code: &str, issue: &str) -> Vec<u8> {
        let outcome = json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": issue,
            "details": {"coding": [{"code": code}]}, "diagnostics": "Quillfeather"}]});
        outcome.to_string().into_bytes()
    }

    fn word(status: u16, body: &[u8]) -> &'static str {
        let status = StatusCode::from_u16(status).unwrap();
        refused(status, &HeaderMap::new(), body, Timestamp::from_ms(0)).word()
    }

    #[test]
    fn each_code_of_the_standard_has_its_meaning() {
        for (status, code, issue, expected) in [
            (409, "REC_CONFLICT", "duplicate", "duplicate"),
            (409, "REC_CONFLICT", "conflict", "park"),
            (409, "BAD_REQUEST", "duplicate", "park"),
            (408, "REC_TIMEOUT", "timeout", "unknown"),
            (425, "REC_TOO_EARLY", "transient", "retry"),
            (429, "SEND_TOO_MANY_REQUESTS", "throttled", "retry"),
            (500, "TOO_MANY_REQUESTS", "throttled", "retry"),
            (503, "REC_SERVICE_UNAVAILABLE", "transient", "retry"),
            (503, "SERVICE_UNAVAILABLE", "transient", "retry"),
            (504, "TIMEOUT", "timeout", "unknown"),
            (500, "REC_SERVER_ERROR", "exception", "soft_reject"),
            (401, "SEND_UNAUTHORIZED", "expired", "retry"),
            (403, "SEND_FORBIDDEN", "forbidden", "retry"),
            (403, "REC_FORBIDDEN", "security", "park"),
            (400, "REC_BAD_REQUEST", "required", "park"),
            (400, "PROXY_BAD_REQUEST", "structure", "park"),
            (404, "REC_NOT_FOUND", "not-found", "park"),
            (405, "SEND_METHOD_NOT_ALLOWED", "not-supported", "park"),
            (406, "REC_NOT_ACCEPTABLE", "processing", "park"),
            (422, "REC_UNPROCESSABLE_ENTITY", "too-costly", "park"),
            (501, "REC_NOT_IMPLEMENTED", "not-supported", "park"),
        ] {
            assert_eq!(
                word(status, &error(code, issue)),
                expected,
                "{status} {code} {issue}"
            );
        }
    }

    #[test]
    fn an_error_without_an_operation_outcome_says_nothing() {
        for status in [400, 404, 409, 422, 500, 502, 504] {
            assert_eq!(word(status, b"<html>"), "unknown", "{status}");
        }
        for status in [425, 429, 503] {
            assert_eq!(word(status, b""), "retry", "{status}");
        }
    }

    #[test]
    fn an_answers_own_words_are_not_kept() {
        let shown = format!(
            "{:?}",
            refused(
                StatusCode::BAD_REQUEST,
                &HeaderMap::new(),
                &error("Quillfeather", "Quillfeather"),
                Timestamp::from_ms(0)
            )
        );
        assert!(!shown.contains("Quillfeather"), "{shown}");
    }

    #[test]
    fn a_transaction_is_known_by_its_answer_alone() {
        let of = |body: Value| {
            let body = body.to_string().into_bytes();
            of_transaction(
                StatusCode::OK,
                &HeaderMap::new(),
                body,
                Timestamp::from_ms(0),
            )
        };
        let good = json!({"resourceType": "Bundle", "type": "transaction-response", "entry": [
            {"response": {"status": "201", "location": "ServiceRequest/a/_history/1"}},
            {"response": {"status": "201 Created", "location": "https://x.example/fhir/Task/t-1/_history/1"}}]});
        let Outcome::Delivered {
            receiver_reference, ..
        } = of(good)
        else {
            panic!("not delivered")
        };
        assert_eq!(receiver_reference.as_deref(), Some("Task/t-1"));
        assert_eq!(of(json!({"resourceType": "Bundle"})).word(), "unknown");
        let failed = json!({"resourceType": "Bundle", "type": "transaction-response", "entry": [{"response": {"status": "412"}}]});
        assert_eq!(of(failed).word(), "unknown");
    }
}
