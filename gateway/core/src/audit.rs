//! The delivery log's entry: its bytes are made once, stored verbatim and hashed verbatim (AUDITLOG.md 3.1).
//!
//! The encoding is protobuf wire format `waymark.audit.v1.LogEntry` in a strict profile: fields in tag order, no
//! unknown fields, defaults left out. `decode` refuses anything that `encode` would not write.

use sha2::{Digest, Sha256};

use crate::id::{AgencyId, EventId, StreamId};
use crate::time::Timestamp;

mod codec;

pub use codec::DecodeError;

/// Version of the entry's format.
pub const VERSION: u32 = 1;
/// Bytes of the longest entry.
pub const ENTRY_BYTES_MAX: usize = 4096;
/// Codes in one entry.
pub const CODES_MAX: usize = 12;
/// Commitments in one entry.
pub const COMMITMENTS_MAX: usize = 8;
/// Bytes in a code's name or value.
pub const CODE_BYTES_MAX: usize = 128;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $n:literal $text:literal,)*) => {
        /// What an entry records.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EntryKind { $($(#[$doc])* $variant,)* }
        impl EntryKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The number on the wire.
            pub const fn number(self) -> u32 { match self { $(Self::$variant => $n,)* } }
            /// Reads the number.
            pub fn from_number(n: u32) -> Option<Self> { match n { $($n => Some(Self::$variant),)* _ => None } }
            /// The kind as text.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
        }
    };
}

kinds! {
    /// A referral was accepted, with its routing decision.
    Accepted = 1 "ACCEPTED",
    /// A delivery was added, redirected or resent after accept.
    Routed = 2 "ROUTED",
    /// An attempt was opened or closed.
    Attempt = 3 "ATTEMPT",
    /// Evidence of arrival came in.
    Receipt = 4 "RECEIPT",
    /// A status of a leg came in, or the sender changed the referral.
    Status = 5 "STATUS",
    /// Somebody read a body.
    AdminRead = 6 "ADMIN_READ",
    /// Somebody acted on the gateway.
    AdminAction = 7 "ADMIN_ACTION",
    /// A child's or referral's keys were destroyed.
    Erased = 8 "ERASED",
    /// The log's key changed.
    KeyChange = 9 "KEY_CHANGE",
    /// The log was opened.
    LogOpened = 10 "LOG_OPENED",
    /// The log was closed.
    LogClosed = 11 "LOG_CLOSED",
    /// The nightly reconciliation's result.
    Reconciled = 12 "RECONCILED",
}

/// What a commitment covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommitmentTag {
    /// The canonical body.
    Payload,
    /// The bytes written to a peer.
    Rendered,
    /// What the peer answered.
    Answer,
    /// What routing saw.
    RoutingInputs,
}

impl CommitmentTag {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Payload => 1,
            Self::Rendered => 2,
            Self::Answer => 3,
            Self::RoutingInputs => 4,
        }
    }

    /// Reads the number.
    pub const fn from_number(n: u32) -> Option<Self> {
        match n {
            1 => Some(Self::Payload),
            2 => Some(Self::Rendered),
            3 => Some(Self::Answer),
            4 => Some(Self::RoutingInputs),
            _ => None,
        }
    }
}

/// A salted commitment: it proves the bytes to whoever holds salt and bytes, and says nothing to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commitment {
    /// What it covers.
    pub tag: CommitmentTag,
    /// SHA-256 over domain, tag, salt and bytes.
    pub hash: [u8; 32],
}

impl Commitment {
    /// Commits to bytes: SHA-256("waymark/commit/v1" || 0x00 || tag || salt || bytes).
    pub fn to(tag: CommitmentTag, salt: &[u8; 32], bytes: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"waymark/commit/v1\0");
        hasher.update([u8::try_from(tag.number()).unwrap_or(0)]);
        hasher.update(salt);
        hasher.update(bytes);
        Self {
            tag,
            hash: hasher.finalize().into(),
        }
    }
}

/// A named fact in clear: rule, attempt number, endpoint, outcome. Never anything of a person.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code {
    /// Name, lower-case ASCII.
    pub name: String,
    /// Value, printable ASCII.
    pub value: String,
}

/// An entry as a use case drafts it; the store adds its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryDraft {
    /// What it records.
    pub kind: EntryKind,
    /// Its id, unique: the same event is never logged twice.
    pub event: EventId,
    /// When it happened.
    pub at: Timestamp,
    /// Whose stream.
    pub stream: StreamId,
    /// Who acted: a random id that stands for one identity of the directory.
    pub actor: [u8; 16],
    /// For which agency.
    pub org: AgencyId,
    /// Facts in clear.
    pub codes: Vec<Code>,
    /// Commitments.
    pub commitments: Vec<Commitment>,
    /// The event that this one answers.
    pub reference: Option<EventId>,
}

impl EntryDraft {
    /// Adds a fact. Bytes outside printable ASCII become `?` and long values are cut, so that an entry always encodes.
    #[must_use]
    pub fn code(mut self, name: &str, value: impl AsRef<str>) -> Self {
        let clean = |s: &str| -> String {
            s.chars()
                .map(|c| if matches!(c, ' '..='~') { c } else { '?' })
                .take(CODE_BYTES_MAX)
                .collect()
        };
        if self.codes.len() < CODES_MAX {
            self.codes.push(Code {
                name: clean(name),
                value: clean(value.as_ref()),
            });
        }
        self
    }

    /// Gives the draft its place in its stream.
    pub fn placed(self, seq: u32, prev: Option<[u8; 32]>) -> LogEntry {
        LogEntry {
            kind: self.kind,
            event: self.event,
            at: self.at,
            stream: self.stream,
            stream_seq: seq,
            prev_leaf: prev,
            actor: self.actor,
            org: self.org,
            codes: self.codes,
            commitments: self.commitments,
            reference: self.reference,
        }
    }
}

/// An entry of the delivery log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// What it records.
    pub kind: EntryKind,
    /// Its id.
    pub event: EventId,
    /// When it happened.
    pub at: Timestamp,
    /// Whose stream.
    pub stream: StreamId,
    /// Its number in the stream, from 0.
    pub stream_seq: u32,
    /// The leaf hash of the stream's entry before it; absent at 0.
    pub prev_leaf: Option<[u8; 32]>,
    /// Who acted.
    pub actor: [u8; 16],
    /// For which agency.
    pub org: AgencyId,
    /// Facts in clear.
    pub codes: Vec<Code>,
    /// Commitments.
    pub commitments: Vec<Commitment>,
    /// The event that this one answers.
    pub reference: Option<EventId>,
}

impl LogEntry {
    /// The entry's bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads an entry strictly.
    ///
    /// # Errors
    /// [`DecodeError`] for bytes that `encode` would not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    /// The value of a fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.codes
            .iter()
            .find(|c| c.name == name)
            .map(|c| c.value.as_str())
    }
}

/// The leaf hash of entry bytes (RFC 6962: SHA-256 of 0x00 and the bytes).
pub fn leaf_hash(entry: &[u8]) -> [u8; 32] {
    *waymark_tlog::leaf_hash(entry).as_bytes()
}
