//! Documents: uploaded before the referral that names them, by digest.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::audit::{CommitmentTag, EntryKind};
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::id::DocumentId;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{DocumentView, InboundDocument, MessageKey, NewDocument, Uploaded};
use waymark_core::referral::{DocumentRef, Referral};

use super::submit::check_request_id;
use super::{Key, Service, ServiceError, actor_of};
use crate::delivery::SYSTEM_IDENTITY;

/// Bytes in one document.
pub const DOCUMENT_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Days that a document waits for a referral that names it.
const UNTAKEN_DAYS: u64 = 7;
/// Documents destroyed in one round.
const FORGET_MAX: u32 = 100;
/// Media types that are taken.
pub const MEDIA_TYPES: &[&str] = &[
    "application/pdf",
    "application/json",
    "application/msword",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "image/jpeg",
    "image/png",
    "text/plain",
];

/// A document to keep.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The message key; uploads have keys of their own.
    pub request_id: String,
    /// Media type.
    pub media_type: String,
    /// SHA-256 as the sender has it, lower-case hex.
    pub sha256: String,
    /// Its bytes.
    pub bytes: Payload,
}

/// SHA-256 as lower-case hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

/// What is wrong with a document, by the first of size, type and digest that is; `sha256` is what its sender says.
fn fault(media_type: &str, bytes: &Payload, sha256: Option<&str>) -> Option<Violation> {
    let bytes = bytes.expose();
    if !(1..=DOCUMENT_BYTES_MAX).contains(&bytes.len()) {
        let why = format!("is 1 to {DOCUMENT_BYTES_MAX} bytes: split or compress it");
        return Some(Violation::new("size_bytes", why));
    }
    if !MEDIA_TYPES.contains(&media_type) {
        let why = format!("is one of {}", MEDIA_TYPES.join(", "));
        return Some(Violation::new("media_type", why));
    }
    let other = sha256.filter(|said| sha256_hex(bytes) != *said);
    other.map(|_| {
        let why =
            "does not match the bytes received: compute it over the whole file and send again";
        Violation::new("sha256", why)
    })
}

/// How a referral names a document that came inline, once it is kept under an id.
fn named(id: DocumentId, document: &InboundDocument) -> DocumentRef {
    let bytes = document.bytes.expose();
    DocumentRef {
        id,
        sha256: sha256_hex(bytes),
        media_type: document.media_type.clone(),
        size_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        title: document.title.clone(),
        kind: document.kind.clone(),
    }
}

impl Service {
    /// Keeps a document under a subject of its own until a referral takes it along; the same upload again is the document
    /// kept before.
    ///
    /// # Errors
    /// `Conflict` for a key used for other bytes; `Invalid` when it is too large, of a type not taken, or not what its digest says.
    pub async fn upload(
        &self,
        caller: &Principal,
        upload: Upload,
    ) -> Result<Uploaded, ServiceError> {
        permit(caller, Action::UploadDocument, Relationship::None)?;
        check_request_id(&upload.request_id)?;
        if let Some(fault) = fault(&upload.media_type, &upload.bytes, Some(&upload.sha256)) {
            return Err(ServiceError::invalid(vec![fault]));
        }
        let now = self.now();
        let draft = self.drafter();
        let id = draft.document(now);
        let mut entry = draft
            .entry(EntryKind::AdminAction, draft.stream(now), caller, now)
            .code("action", "upload")
            .code("document", id.to_string());
        let opening = draft.commit(&mut entry, CommitmentTag::Payload, upload.bytes.expose());
        let body = draft.body(now, &upload.media_type, upload.bytes.into_inner());
        let document = NewDocument {
            id,
            sender: caller.agency.clone(),
            message_key: MessageKey {
                sender: caller.agency.clone(),
                key: Personal::new(format!("grpc-upload:{}", upload.request_id)),
                content: Payload::new(
                    format!("{}|{}", upload.media_type, upload.sha256).into_bytes(),
                ),
            },
            body,
            sha256: Personal::new(upload.sha256),
            at: now,
            entry,
            openings: vec![opening],
        };
        Ok(self.parts.store.put_document(document).await?)
    }

    /// Destroys documents that no referral took within `UNTAKEN_DAYS`: nobody waits for them, and they are somebody's.
    /// Answers how many; at most one page of them a call.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn forget_untaken(&self) -> Result<usize, ServiceError> {
        let now = self.now();
        let before = now.minus(Duration::from_hours(24 * UNTAKEN_DAYS));
        let in_force = self.in_force();
        let Some(triage) = in_force.directory.triage() else {
            return Ok(0);
        };
        let mut forgotten = 0;
        let found = self.store().untaken_documents(before, FORGET_MAX).await?;
        for (id, stream) in found {
            let system = actor_of(SYSTEM_IDENTITY);
            let entry = self
                .drafter()
                .entry_by(EntryKind::Erased, stream, system, &triage.agency, now)
                .code("document", id.to_string())
                .code("basis", "untaken");
            forgotten += usize::from(self.store().forget_document(id, entry).await?);
        }
        Ok(forgotten)
    }

    /// Whether all that came inline may be kept, and the referral that it came with: decided before the first of them is
    /// kept, so that of a message that is refused nothing stays.
    ///
    /// # Errors
    /// `Invalid` names every wrong document and field.
    pub(super) fn check_inbound(
        &self,
        caller: &Principal,
        referral: &Referral,
        documents: &[InboundDocument],
    ) -> Result<(), ServiceError> {
        permit(caller, Action::UploadDocument, Relationship::None)?;
        let mut whole = referral.clone();
        let mut wrong = Vec::new();
        for (at, document) in documents.iter().enumerate() {
            let (media_type, bytes) = (&document.media_type, &document.bytes);
            let fault = fault(media_type, bytes, document.sha256.as_deref());
            wrong.extend(fault.map(|fault| {
                Violation::new(format!("documents[{at}].{}", fault.field), fault.why)
            }));
            // Its id is given when it is kept, and no rule is about it.
            let unkept = DocumentId::from_bytes([0; 16]);
            whole.documents.push(named(unkept, document));
        }
        wrong.extend(whole.violations(self.now().london_date()));
        if wrong.is_empty() {
            return Ok(());
        }
        Err(ServiceError::invalid(wrong))
    }

    /// Keeps a document that came inline with a message, and says how a referral names it. `request_id` follows from the
    /// message, so that the same message again keeps nothing twice.
    ///
    /// # Errors
    /// As [`Service::upload`]; the sender's own digest is compared where it gave one.
    pub(super) async fn keep_inbound(
        &self,
        caller: &Principal,
        request_id: String,
        document: InboundDocument,
    ) -> Result<DocumentRef, ServiceError> {
        let mut named = named(DocumentId::from_bytes([0; 16]), &document);
        let upload = Upload {
            request_id,
            media_type: document.media_type,
            sha256: document.sha256.unwrap_or_else(|| named.sha256.clone()),
            bytes: document.bytes,
        };
        named.id = self.upload(caller, upload).await?.id;
        Ok(named)
    }

    /// A document's bytes, for its uploader and for the parties of the referral that it went with; logged first.
    ///
    /// # Errors
    /// `NotFound` for anybody else.
    pub async fn download(
        &self,
        caller: &Principal,
        id: DocumentId,
        purpose: &str,
    ) -> Result<(DocumentView, Payload), ServiceError> {
        let missing = || ServiceError::new(ErrorKind::NotFound, "NO_SUCH_DOCUMENT");
        let document = self.parts.store.document(id).await?;
        let Some(document) = document else {
            permit(caller, Action::ReadBody, Relationship::None).map_err(|_| missing())?;
            return Err(missing());
        };
        let own = caller.speaks_for(&document.sender);
        let permit = match document.referral {
            _ if own => permit(caller, Action::ReadBody, Relationship::Sender)?,
            Some(referral) => {
                self.find(caller, &Key::Id(referral), Action::ReadBody)
                    .await?
                    .1
            }
            None => return Err(missing()),
        };
        let entry = self
            .read_entry(permit.principal(), document.stream, "document", purpose)?
            .code("document", id.to_string());
        let bytes = self
            .parts
            .store
            .read_body(document.body, entry)
            .await?
            .ok_or_else(missing)?;
        if sha256_hex(bytes.expose()) != *document.sha256.expose() {
            return Err(ServiceError::new(ErrorKind::Corrupt, "STORED_DATA_CORRUPT"));
        }
        Ok((document, bytes))
    }
}
