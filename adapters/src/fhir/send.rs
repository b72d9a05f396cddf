//! Sending a message from a file, as `waymark send` does: the headers that follow from the file itself, and what the
//! answer says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use waymark_core::error::Violation;

use super::header::Outgoing;
use super::name;
use super::wire::message::Message;
use super::wire::node::{Fault, Issue, Node};

/// The version of the standard that is asked for.
const VERSION: &str = "1.4.0";

/// The headers of `$process-message` for the bytes of a file: its ids follow from its content, so that the same file
/// again is the same message.
///
/// # Errors
/// Why the bytes are not a BaRS message.
pub fn headers_of(bytes: &[u8]) -> Result<HeaderMap, Fault> {
    let malformed = || {
        Fault::new(
            "Bundle",
            "is JSON, nested at most 128 deep",
            Issue::Structure,
        )
    };
    let value: Value = serde_json::from_slice(bytes).map_err(|_| malformed())?;
    let message = Message::read(&value)?;
    message.event()?;
    message.request()?;
    let sender = message.header.fault_of(
        "sender",
        "leads to an Organization with an ODS code",
        Issue::Required,
    );
    message.sender()?.ok_or(sender)?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let seed = STANDARD.encode(digest);
    let unaddressed = || {
        let rule = "has an endpoint `system|value`, and the request an id or identifier";
        message.header.fault_of("destination", rule, Issue::Value)
    };
    let mut outgoing = Outgoing::of(&value, &seed).ok_or_else(unaddressed)?;
    // A case of somebody else has an id that need not be a UUID.
    if outgoing.correlation.parse::<uuid::Uuid>().is_err() {
        outgoing.correlation = name::uuid_of(&[&outgoing.correlation, "correlation"]).to_string();
    }
    outgoing.headers(VERSION).ok_or_else(unaddressed)
}

/// What an answer to such a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// It was taken.
    Taken {
        /// The id that the gateway gave the request: the referral's.
        id: Option<String>,
        /// The referral's short reference.
        reference: Option<String>,
    },
    /// The same message came before.
    Repeated,
    /// It may be sent again later.
    Later(String),
    /// It was refused.
    Refused {
        /// The code of the standard.
        code: String,
        /// What is wrong, by path.
        violations: Vec<Violation>,
    },
}

/// Reads an answer of this gateway.
pub fn answer_of(status: StatusCode, body: &[u8]) -> Answered {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    if status.is_success() {
        let (id, reference) = request_in(&value);
        return Answered::Taken { id, reference };
    }
    let outcome = Node::new(&value, "OperationOutcome");
    let issues = outcome.list("issue").unwrap_or_default();
    let code = issues.first().and_then(|issue| {
        let details = issue.concept("details").ok()?;
        details
            .codings
            .iter()
            .find_map(|coding| coding.code)
            .map(ToOwned::to_owned)
    });
    let code = code.unwrap_or_else(|| format!("HTTP_{}", status.as_u16()));
    let duplicate = issues
        .iter()
        .any(|issue| issue.text("code").ok().flatten() == Some("duplicate"));
    if status == StatusCode::CONFLICT && duplicate {
        return Answered::Repeated;
    }
    let later = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    if status.is_server_error() || later.contains(&status) {
        return Answered::Later(code);
    }
    let violation = |issue: &Node<'_>| {
        let path = issue
            .texts("expression")
            .ok()
            .and_then(|all| all.first().copied());
        let why = issue
            .text("diagnostics")
            .ok()
            .flatten()
            .unwrap_or("is refused");
        let field = path.unwrap_or("message");
        let why = why
            .strip_prefix(field)
            .and_then(|rest| rest.strip_prefix(": "))
            .unwrap_or(why);
        Violation::new(field, why)
    };
    Answered::Refused {
        code,
        violations: issues.iter().map(violation).collect(),
    }
}

fn request_in(bundle: &Value) -> (Option<String>, Option<String>) {
    let Ok(message) = Message::read(bundle) else {
        return (None, None);
    };
    let Some(request) = message.all("ServiceRequest").next() else {
        return (None, None);
    };
    let own = request
        .list("identifier")
        .unwrap_or_default()
        .into_iter()
        .find_map(|identifier| {
            let system = identifier.text("system").ok()??;
            (system == name::REFERENCE).then(|| {
                identifier
                    .text("value")
                    .ok()
                    .flatten()
                    .map(ToOwned::to_owned)
            })?
        });
    (
        request.text("id").ok().flatten().map(ToOwned::to_owned),
        own,
    )
}

#[cfg(test)]
mod tests {
    use super::super::header::{CORRELATION_ID, REQUEST_ID};
    use super::*;

    const NEW: &[u8] = include_bytes!("fixtures/bars-new.json");

    #[test]
    fn the_same_file_is_the_same_message_and_another_is_another_of_the_same_case() {
        let (one, again) = (headers_of(NEW).unwrap(), headers_of(NEW).unwrap());
        assert_eq!(one, again);
        let other = headers_of(include_bytes!("fixtures/bars-revoke.json")).unwrap();
        assert_ne!(one[REQUEST_ID], other[REQUEST_ID]);
        assert_eq!(one[CORRELATION_ID], other[CORRELATION_ID]);
    }

    #[test]
    fn what_is_no_message_is_refused_by_its_path() {
        for (bytes, path) in [
            (&b"no"[..], "Bundle"),
            (b"{\"resourceType\": \"Patient\"}", "Bundle"),
            (
                b"{\"resourceType\": \"Bundle\", \"type\": \"searchset\"}",
                "Bundle.type",
            ),
        ] {
            assert_eq!(headers_of(bytes).unwrap_err().path, path);
        }
    }

    #[test]
    fn an_answer_is_read_as_what_it_says() {
        let outcome = |code: &str, issue: &str| {
            format!(
                "{{\"resourceType\":\"OperationOutcome\",\"issue\":[{{\"code\":\"{issue}\",\"expression\":[\"Patient.name\"],\
                 \"diagnostics\":\"Patient.name: is required\",\"details\":{{\"coding\":[{{\"code\":\"{code}\"}}]}}}}]}}"
            )
        };
        let of = |status: u16, code: &str, issue: &str| {
            answer_of(
                StatusCode::from_u16(status).unwrap(),
                outcome(code, issue).as_bytes(),
            )
        };
        assert_eq!(of(409, "REC_CONFLICT", "duplicate"), Answered::Repeated);
        assert_eq!(
            of(503, "REC_SERVICE_UNAVAILABLE", "transient"),
            Answered::Later("REC_SERVICE_UNAVAILABLE".to_owned())
        );
        let violations = vec![Violation::new("Patient.name", "is required")];
        assert_eq!(
            of(400, "REC_BAD_REQUEST", "required"),
            Answered::Refused {
                code: "REC_BAD_REQUEST".to_owned(),
                violations
            }
        );
    }
}
