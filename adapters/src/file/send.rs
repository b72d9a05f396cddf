//! Leaving a message in an agency's inbox here, as `waymark send --folder` and an agency's own system do: the files that
//! it is, and what became of it. Pure.

use serde::Deserialize;
use serde_json::Value;
use waymark_core::delivery::Kind;
use waymark_core::directory::Environment;
use waymark_core::error::Violation;
use waymark_core::time::Timestamp;

use super::inbox::ERROR_SUFFIX;
use super::name::Name;
use super::package::{FileRole, Format, ListedFile, MANIFEST_VERSION, Manifest, sha256};
use super::place::{PART_SUFFIX, Sub};
use super::table;
use crate::hl7v2::content::Envelope;
use crate::hl7v2::map::inward::withdraws;
use crate::hl7v2::message::{LineEndings, Message};

/// Hexadecimal digits of the digest that make the id.
const ID_DIGITS: usize = 40;

/// The folder that messages are left in.
pub const INBOX: &str = Sub::Inbox.as_str();
/// The folder that they are moved to once they were taken in.
pub const DONE: &str = Sub::Done.as_str();
/// The folder that they are moved to where they were not.
pub const FAILED: &str = Sub::Failed.as_str();
/// The folder that messages for the agency lie in.
pub const OUTBOX: &str = Sub::Outbox.as_str();
/// The folder that the agency's receipts go into.
pub const RECEIPTS: &str = Sub::Receipts.as_str();

/// A message as files: what is written first, and the manifest that is renamed into place last.
#[derive(Clone, PartialEq, Eq)]
pub struct Left {
    /// Its id: it follows from its content, so that the same file again is the same message.
    pub id: Name,
    /// The name of its data file.
    pub data_name: Name,
    /// The name of its manifest.
    pub manifest_name: Name,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// The name of the file that says why, where it is not taken in.
    pub error_name: Name,
}

/// What a file is called until it is whole.
pub fn unfinished(name: &Name) -> String {
    format!("{name}{PART_SUFFIX}")
}

/// What a canonical referral is sent as: it does not say so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentAs {
    /// A new referral.
    New,
    /// New content of the one that its `sender_reference` names.
    Amendment,
}

/// Makes a message of a data file.
///
/// # Errors
/// Why the bytes are none of this format.
pub fn message_of(
    format: Format,
    data: &[u8],
    sent_as: SentAs,
    environment: Environment,
    now: Timestamp,
) -> Result<Left, Violation> {
    let kind = kind_of(format, data, sent_as)?;
    let digest = sha256(data);
    let id: String = digest.chars().take(ID_DIGITS).collect();
    let named =
        |text: String| Name::parse(&text).map_err(|e| Violation::new("file", e.to_string()));
    let id = named(format!("send-{id}"))?;
    let data_name = named(format!("{id}.{}", format.ending()))?;
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        environment,
        id: id.clone(),
        kind,
        reference: None,
        sender: None,
        recipient: None,
        created: jiff::Timestamp::from_millisecond(now.as_ms()).unwrap_or_default(),
        format,
        files: vec![ListedFile {
            name: data_name.clone(),
            role: FileRole::Data,
            size: u64::try_from(data.len()).unwrap_or(u64::MAX),
            media_type: format.media_type().to_owned(),
            sha256: digest,
        }],
    };
    let unwritten = |_| Violation::new("manifest", "cannot be written");
    Ok(Left {
        manifest: serde_json::to_vec_pretty(&manifest).map_err(unwritten)?,
        manifest_name: named(manifest.file_name())?,
        error_name: named(format!("{id}{ERROR_SUFFIX}"))?,
        id,
        data_name,
    })
}

/// What a message says it is.
fn kind_of(format: Format, data: &[u8], sent_as: SentAs) -> Result<Kind, Violation> {
    match format {
        Format::Canonical => {
            let value: Value = serde_json::from_slice(data).map_err(|error| {
                let place = format!("line {}, column {}", error.line(), error.column());
                Violation::new(place, "is not JSON")
            })?;
            let is_status = value.get("type").and_then(Value::as_str) == Some("referral.status");
            let has = |field| value.get(field).is_some();
            Ok(if is_status {
                Kind::Status
            } else if has("child") || !has("sender_reference") {
                match sent_as {
                    SentAs::New => Kind::New,
                    SentAs::Amendment => Kind::Amend,
                }
            } else if has("withdrawal") {
                Kind::Withdraw
            } else {
                Kind::Cancel
            })
        }
        Format::Hl7v2 => {
            let of =
                |fault: crate::hl7v2::fault::FieldFault| Violation::new(fault.place(), fault.rule);
            let message = Message::parse(data, LineEndings::Any).map_err(of)?;
            let envelope = Envelope::read(&message).map_err(of)?;
            Ok(match (&*envelope.message_code, &*envelope.event) {
                ("REF", "I13") => Kind::Amend,
                ("REF", "I14") if withdraws(&message) => Kind::Withdraw,
                ("REF", "I14") => Kind::Cancel,
                ("RRI" | "SIU" | "ACK", _) => Kind::Status,
                _ => Kind::New,
            })
        }
        Format::Csv => {
            let first = |mut faults: Vec<Violation>| {
                let nothing = || Violation::new("file", "is no CSV with a header row and a row");
                faults.drain(..).next().unwrap_or_else(nothing)
            };
            let rows = table::rows(data).map_err(first)?;
            let row = rows.first();
            let said = row.and_then(|row| row.message("message.kind"));
            Ok(match said.and_then(Kind::parse) {
                Some(kind) => kind,
                None if row.is_some_and(|row| row.has("state")) => Kind::Status,
                None => Kind::New,
            })
        }
    }
}

/// Why a message was not taken in, as the gateway writes it beside the message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SetAside {
    /// A stable reason.
    pub reason: String,
    /// When.
    pub at: String,
    /// What is wrong, by field.
    #[serde(default)]
    pub faults: Vec<Violation>,
}

/// Reads what the gateway wrote; none where it is not that, or not whole yet.
pub fn set_aside(note: &[u8]) -> Option<SetAside> {
    serde_json::from_slice(note).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERRAL: &[u8] = br#"{"child": {}, "sender_reference": {"value": "A"}}"#;

    fn made(format: Format, data: &[u8], sent_as: SentAs) -> Result<Left, Violation> {
        let (environment, now) = (Environment::Test, Timestamp::from_ms(0));
        message_of(format, data, sent_as, environment, now)
    }

    fn left(format: Format, data: &[u8]) -> Left {
        let made = made(format, data, SentAs::New);
        made.map_err(|fault| fault.to_string()).unwrap()
    }

    #[test]
    fn the_same_bytes_are_the_same_message_and_the_manifest_names_size_and_digest() {
        let (one, again) = (
            left(Format::Canonical, REFERRAL),
            left(Format::Canonical, REFERRAL),
        );
        assert!(one == again);
        let manifest: Manifest = serde_json::from_slice(&one.manifest).unwrap();
        assert_eq!(super::super::package::ill_formed(&manifest), None);
        let file = manifest.data().unwrap();
        assert_eq!(
            (file.sha256.clone(), &file.name),
            (sha256(REFERRAL), &one.data_name)
        );
        assert_eq!(manifest.file_name(), one.manifest_name.as_str());
        assert_eq!(
            unfinished(&one.data_name),
            format!("{}.part", one.data_name)
        );
    }

    #[test]
    fn a_message_says_by_itself_what_it_is() {
        let kind = |format, data: &[u8]| {
            let manifest: Manifest = serde_json::from_slice(&left(format, data).manifest).unwrap();
            manifest.kind
        };
        assert_eq!(kind(Format::Canonical, REFERRAL), Kind::New);
        assert_eq!(
            kind(Format::Canonical, br#"{"sender_reference": {}}"#),
            Kind::Cancel
        );
        assert_eq!(
            kind(Format::Canonical, br#"{"type": "referral.status"}"#),
            Kind::Status
        );
        for (event, is) in [
            ("REF^I12", Kind::New),
            ("REF^I13", Kind::Amend),
            ("REF^I14", Kind::Cancel),
            ("RRI^I12", Kind::Status),
        ] {
            let message = format!("MSH|^~\\&|EPR|R1L|WAYMARK|X|2026||{event}|M1|T|2.5\r");
            assert_eq!(kind(Format::Hl7v2, message.as_bytes()), is);
        }
        assert_eq!(
            kind(Format::Csv, b"referral,state\nWM-1,accepted\n"),
            Kind::Status
        );
        assert_eq!(
            kind(Format::Csv, b"pathway,priority\nportage,routine\n"),
            Kind::New
        );
        assert!(made(Format::Canonical, b"no", SentAs::New).is_err());
    }

    #[test]
    fn a_withdrawal_of_consent_is_no_cancel_and_an_amendment_is_one_where_its_sender_says_so() {
        let kind = |format, data: &[u8], sent_as| {
            let left = made(format, data, sent_as).map_err(|fault| fault.to_string());
            let manifest: Manifest = serde_json::from_slice(&left.unwrap().manifest).unwrap();
            manifest.kind
        };
        let withdrawal = br#"{"sender_reference": {}, "withdrawal": {"scopes": []}}"#;
        for sent_as in [SentAs::New, SentAs::Amendment] {
            assert_eq!(kind(Format::Canonical, withdrawal, sent_as), Kind::Withdraw);
        }
        assert_eq!(
            kind(Format::Canonical, REFERRAL, SentAs::Amendment),
            Kind::Amend
        );
        for (ending, is) in [("withdrawn", Kind::Withdraw), ("cancelled", Kind::Cancel)] {
            let message = format!(
                "MSH|^~\\&|EPR|R1L|WAYMARK|X|2026||REF^I14|M1|T|2.5\rNTE|1|P|words~kind={ending}|ENDING^x^WMNOTE\r"
            );
            assert_eq!(kind(Format::Hl7v2, message.as_bytes(), SentAs::New), is);
        }
    }

    #[test]
    fn what_the_gateway_writes_of_a_refusal_is_read() {
        let note = br#"{"file": "x", "at": "2026-03-02T10:00:00.000Z", "reason": "INVALID", "faults": [{"field": "pathway", "why": "is unknown"}]}"#;
        let read = set_aside(note).unwrap();
        assert_eq!((read.reason.as_str(), read.faults.len()), ("INVALID", 1));
        assert_eq!(set_aside(b"{"), None);
    }
}
