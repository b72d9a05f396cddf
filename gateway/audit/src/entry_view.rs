//! A log entry as people and scripts read it.

use serde::Serialize;
use waymark_core::audit::{CommitmentTag, LogEntry};

/// An entry's fields as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryView {
    /// What it records.
    pub kind: &'static str,
    /// Its id.
    pub event: String,
    /// When it happened, RFC 3339.
    pub at: String,
    /// Whose stream.
    pub stream: String,
    /// Its number in the stream, from 0.
    pub stream_seq: u32,
    /// Leaf hash of the stream's entry before it, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_leaf: Option<String>,
    /// Who acted, hexadecimal.
    pub actor: String,
    /// For which agency.
    pub org: String,
    /// Facts in clear, `name=value`.
    pub codes: Vec<String>,
    /// Commitments, `tag=hexadecimal`.
    pub commitments: Vec<String>,
    /// The event that this one answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

impl From<&LogEntry> for EntryView {
    fn from(entry: &LogEntry) -> Self {
        Self {
            kind: entry.kind.as_str(),
            event: entry.event.to_string(),
            at: entry.at.to_string(),
            stream: entry.stream.to_string(),
            stream_seq: entry.stream_seq,
            prev_leaf: entry.prev_leaf.map(|leaf| hex(&leaf)),
            actor: hex(&entry.actor),
            org: entry.org.to_string(),
            codes: entry
                .codes
                .iter()
                .map(|code| format!("{}={}", code.name, code.value))
                .collect(),
            commitments: entry
                .commitments
                .iter()
                .map(|commitment| format!("{}={}", tag_name(commitment.tag), hex(&commitment.hash)))
                .collect(),
            reference: entry.reference.map(|event| event.to_string()),
        }
    }
}

fn tag_name(tag: CommitmentTag) -> &'static str {
    match tag {
        CommitmentTag::Payload => "payload",
        CommitmentTag::Rendered => "rendered",
        CommitmentTag::Answer => "answer",
        CommitmentTag::RoutingInputs => "routing_inputs",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        for nibble in [byte >> 4, byte & 0xF] {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
        text
    })
}
