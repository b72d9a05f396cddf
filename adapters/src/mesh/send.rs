//! Speaking with a hub from an agency's mailbox, as `waymark send --mesh` and the demo's hearing service do: the headers
//! of each request, and what the answers say. Pure; who sends them opens the connection.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use waymark_core::delivery::Outcome;
use waymark_core::directory::Environment;
use waymark_core::error::Violation;
use waymark_core::time::Timestamp;
use zeroize::Zeroizing;

use super::answer::{self, Posted, Stage, Tracked};
use super::auth::Credentials;
use super::call::BASE;
use super::config::ACK_SUFFIX;
use super::envelope::{Envelope, Lies, checksum, sums_up, unpacked};
use super::wire::MESSAGE_BYTES_MAX;

/// The most bytes of a message, both ways.
pub const BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Characters of an id of ours that follows from a message's content.
const LOCAL_ID_CHARS: usize = 20;

/// A mailbox and what it proves itself by.
pub struct Mailbox {
    /// Its id.
    pub id: String,
    /// Its password.
    pub password: Zeroizing<Vec<u8>>,
    /// The key that all mailboxes of the environment share.
    pub shared_key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Mailbox {
    /// The header that one request proves itself by; the hub takes each `nonce` once.
    pub fn authorization(&self, nonce: uuid::Uuid, at: Timestamp) -> Option<HeaderValue> {
        let credentials = Credentials {
            mailbox: &self.id,
            password: self.password.trim_ascii(),
            shared_key: self.shared_key.trim_ascii(),
        };
        credentials.header(&nonce.to_string(), 0, at)
    }
}

/// The path of a request, below the hub's address.
pub fn path(below: &[&str]) -> String {
    format!("/{BASE}/{}", below.join("/"))
}

/// The headers of a handshake (NHS MESH API, "Validate a mailbox").
pub fn handshake() -> HeaderMap {
    [
        (
            "mex-clientversion",
            concat!("waymark/", env!("CARGO_PKG_VERSION")),
        ),
        ("mex-osname", std::env::consts::OS),
        ("mex-osversion", std::env::consts::ARCH),
    ]
    .into_iter()
    .map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    })
    .collect()
}

/// A message to send.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// The mailbox that sends it.
    pub from: &'a str,
    /// The mailbox that it is for.
    pub to: &'a str,
    /// What it is about, as agreed.
    pub workflow: &'a str,
    /// Its sender's own id of it.
    pub local_id: &'a str,
    /// Its file's name.
    pub file_name: &'a str,
    /// What it is called; nothing about the child.
    pub subject: &'a str,
    /// Its media type.
    pub media_type: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

impl Letter<'_> {
    /// The headers of it; none where one of them cannot be written.
    pub fn headers(&self) -> Option<HeaderMap> {
        let checksum = checksum(self.bytes);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("mex-from", self.from),
            ("mex-to", self.to),
            ("mex-workflowid", self.workflow),
            ("mex-localid", self.local_id),
            ("mex-filename", self.file_name),
            ("mex-subject", self.subject),
            ("mex-content-checksum", &*checksum),
            ("mex-content-type", self.media_type),
            (CONTENT_TYPE.as_str(), self.media_type),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_str(value).ok()?,
            );
        }
        Some(headers)
    }
}

/// An id that follows from a message's content: the same file again is the same message.
pub fn local_id_of(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex = hex::encode_upper(digest);
    hex.chars().take(LOCAL_ID_CHARS).collect()
}

/// The workflow under which a message of another is answered.
pub fn ack_workflow(workflow: &str) -> String {
    format!("{workflow}{ACK_SUFFIX}")
}

/// A canonical referral as the message that a gateway takes in; what says its type by itself stays as it is.
///
/// # Errors
/// When it is no JSON object.
pub fn canonical(bytes: &[u8], environment: Environment) -> Result<Vec<u8>, Violation> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Violation::new(place, "is not JSON")
    })?;
    if !value.is_object() {
        return Err(Violation::new("file", "is no JSON object"));
    }
    if value.get("type").is_some() {
        return Ok(bytes.to_vec());
    }
    let event = json!({
        "type": "referral.new", "environment": environment.as_str(), "data": { "referral": value },
    });
    Ok(event.to_string().into_bytes())
}

/// What the hub said of a message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubSaid {
    /// It has it, under this id: that says nothing of the receiver.
    Taken(String),
    /// It may have it, or may take it later: ask before it is sent again.
    NotKnown(String),
    /// It will not take it.
    Refused {
        /// Why, as a code.
        code: String,
        /// Why, in words.
        why: String,
    },
}

/// Reads the answer to a message.
pub fn posted(status: StatusCode, headers: &HeaderMap, body: Vec<u8>, now: Timestamp) -> HubSaid {
    let outcome = match answer::posted(status, headers, body, now) {
        Posted::Taken(id, _) => return HubSaid::Taken(id),
        Posted::Ended(outcome) => outcome,
    };
    let why = outcome.why().cloned();
    let words = || why.as_ref().map(|w| w.text.clone()).unwrap_or_default();
    // The hub turned the sender away: no message is at fault, and none will go before that is put right.
    let turned_away = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
    match &outcome {
        Outcome::Retry { .. } | Outcome::Unknown { .. } if !turned_away => {
            HubSaid::NotKnown(words())
        }
        _ => HubSaid::Refused {
            code: why.as_ref().map(|w| w.code.clone()).unwrap_or_default(),
            why: words(),
        },
    }
}

/// Where a message that was sent stands, as the hub says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The hub does not have it.
    Absent,
    /// It lies in the receiver's inbox, or a part of it does.
    Waiting,
    /// The receiver acknowledged it.
    Acknowledged,
    /// It was given back.
    GivenBack(String),
    /// There are several under this id.
    Several,
}

/// Reads the answer to tracking by our own id; none where it says nothing.
pub fn tracked(status: StatusCode, body: &[u8]) -> Option<Standing> {
    Some(match answer::tracked(status, body).ok()? {
        Tracked::None => Standing::Absent,
        Tracked::Several => Standing::Several,
        Tracked::One { stage, code, .. } => match stage {
            Stage::Uploading | Stage::Accepted => Standing::Waiting,
            Stage::Acknowledged => Standing::Acknowledged,
            Stage::Undeliverable => {
                Standing::GivenBack(answer::undelivered(code.as_deref()).1.text)
            }
        },
    })
}

/// Ids of what lies in an inbox; none where the answer is no list.
pub fn listed(body: &[u8]) -> Option<Vec<String>> {
    let list: Value = serde_json::from_slice(body).ok()?;
    let ids = list.get("messages")?.as_array()?.iter();
    ids.map(|id| answer::id(Some(id))).collect()
}

/// A message that was fetched.
#[derive(Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The mailbox that sent it; empty for a report of the hub.
    pub from: String,
    /// What it is about.
    pub workflow: String,
    /// Its sender's own id of it.
    pub local_id: Option<String>,
    /// Whether it is the hub's own word that a message did not arrive.
    pub is_report: bool,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Reads a message of one chunk.
///
/// # Errors
/// What is wrong with it.
pub fn fetched(headers: &HeaderMap, body: Vec<u8>) -> Result<Fetched, Violation> {
    let envelope = Envelope::read(headers)?;
    let bytes = unpacked(headers, body, BYTES_MAX)?;
    if !sums_up(envelope.checksum.as_deref(), &bytes) {
        return Err(Violation::new(
            "Mex-Content-Checksum",
            "is not that of the message",
        ));
    }
    Ok(Fetched {
        from: envelope.from,
        workflow: envelope.workflow,
        local_id: envelope.local_id,
        is_report: envelope.lies == Lies::Report,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_follows_from_the_content_and_is_short_enough_for_any_hub() {
        let (one, other) = (local_id_of(b"a"), local_id_of(b"b"));
        assert_eq!(one, local_id_of(b"a"));
        assert_ne!(one, other);
        let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        assert!(one.len() == LOCAL_ID_CHARS && one.bytes().all(plain));
    }

    #[test]
    fn a_referral_is_wrapped_and_what_names_its_type_is_not() {
        let wrapped = canonical(br#"{"pathway": "x"}"#, Environment::Test).unwrap();
        let wrapped: Value = serde_json::from_slice(&wrapped).unwrap();
        assert_eq!(
            wrapped,
            json!({"type": "referral.new", "environment": "test", "data": {"referral": {"pathway": "x"}}})
        );
        let event = br#"{"type": "referral.cancelled"}"#;
        assert_eq!(canonical(event, Environment::Test).unwrap(), event);
        assert!(
            canonical(b"[]", Environment::Test).is_err()
                && canonical(b"x", Environment::Test).is_err()
        );
    }

    #[test]
    fn what_the_hub_has_is_never_called_received() {
        let said = |status, body: &[u8]| {
            posted(
                status,
                &HeaderMap::new(),
                body.to_vec(),
                Timestamp::from_ms(0),
            )
        };
        assert_eq!(
            said(StatusCode::ACCEPTED, br#"{"message_id": "M1"}"#),
            HubSaid::Taken("M1".to_owned())
        );
        assert!(matches!(
            said(StatusCode::ACCEPTED, b"taken"),
            HubSaid::NotKnown(_)
        ));
        assert!(matches!(
            said(StatusCode::SERVICE_UNAVAILABLE, b""),
            HubSaid::NotKnown(_)
        ));
        assert!(matches!(
            said(StatusCode::FORBIDDEN, b""),
            HubSaid::Refused { .. }
        ));
        let unknown = br#"{"detail": [{"code": "12"}]}"#;
        let HubSaid::Refused { why, .. } = said(StatusCode::EXPECTATION_FAILED, unknown) else {
            panic!("not refused")
        };
        assert!(why.contains("no such mailbox"), "{why}");
    }

    #[test]
    fn tracking_tells_waiting_from_acknowledged() {
        let of = |word: &str| {
            let body = format!("{{\"messageId\": \"M1\", \"status\": \"{word}\"}}");
            tracked(StatusCode::OK, body.as_bytes())
        };
        assert_eq!(of("Accepted"), Some(Standing::Waiting));
        assert_eq!(of("Acknowledged"), Some(Standing::Acknowledged));
        assert!(matches!(of("Undeliverable"), Some(Standing::GivenBack(_))));
        assert_eq!(tracked(StatusCode::NOT_FOUND, b""), Some(Standing::Absent));
        assert_eq!(
            tracked(StatusCode::MULTIPLE_CHOICES, b""),
            Some(Standing::Several)
        );
        assert_eq!(tracked(StatusCode::BAD_GATEWAY, b""), None);
    }
}
