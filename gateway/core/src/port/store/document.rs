//! Documents: kept, and described.

use super::{
    AgencyId, BodyId, DocumentId, MessageKey, NewBody, Opening, Personal, ReferralId, StreamId,
    Timestamp,
};

use crate::audit::EntryDraft;

/// A document to keep.
#[derive(Clone, Debug)]
pub struct NewDocument {
    /// Its id.
    pub id: DocumentId,
    /// The agency that uploads it.
    pub sender: AgencyId,
    /// What makes an upload the same upload.
    pub message_key: MessageKey,
    /// Its bytes.
    pub body: NewBody,
    /// SHA-256 of its bytes, lower-case hex: stored sealed.
    pub sha256: Personal<String>,
    /// When.
    pub at: Timestamp,
    /// The log entry.
    pub entry: EntryDraft,
    /// The salts of its commitments.
    pub openings: Vec<Opening>,
}

/// What became of a document to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// The document: the earlier one when repeated.
    pub id: DocumentId,
    /// Whether the same upload had been kept before.
    pub repeated: bool,
}

/// A document's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentView {
    /// Its id.
    pub id: DocumentId,
    /// The agency that uploaded it.
    pub sender: AgencyId,
    /// The referral it went with.
    pub referral: Option<ReferralId>,
    /// Its body.
    pub body: BodyId,
    /// Media type.
    pub media_type: String,
    /// SHA-256, lower-case hex.
    pub sha256: Personal<String>,
    /// Size.
    pub size_bytes: u64,
    /// Its stream in the log.
    pub stream: StreamId,
}
