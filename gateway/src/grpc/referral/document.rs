//! Documents in and out: capped, in chunks, and only what their digest says.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use futures::stream;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, Streaming};
use waymark_core::error::ErrorKind;
use waymark_core::id::DocumentId;
use waymark_core::personal::Payload;
use waymark_proto::v1;
use waymark_proto::v1::download_document_response::Part as Out;
use waymark_proto::v1::upload_document_request::Part as In;

use super::super::face::{Caller, Face};
use super::super::status::{CONTENT_DIFFERS, field, refusal};
use super::{Answers, read, required};
use crate::service::{ServiceError, Upload};

/// Bytes in one chunk.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// Bytes in one document, as the contract says.
const DOCUMENT_BYTES_MAX: u64 = 25 * 1024 * 1024;
/// Characters in a file's name or title.
const NAME_MAX: usize = 200;

/// Takes a document.
pub(super) async fn upload(
    face: &Face,
    caller: &Caller,
    mut parts: Streaming<v1::UploadDocumentRequest>,
) -> Result<v1::UploadDocumentResponse, Status> {
    let refused = |e: ServiceError| refusal(&e);
    let first = parts.message().await?.and_then(|first| first.part);
    let Some(In::Metadata(metadata)) = first else {
        return Err(refused(field(
            "metadata",
            "is the first message of an upload",
        )));
    };
    let said = check(&metadata).map_err(refused)?;
    let mut content = Vec::new();
    while let Some(part) = parts.message().await? {
        let Some(In::Chunk(chunk)) = part.part else {
            return Err(refused(field("metadata", "comes once, before the content")));
        };
        if !(1..=CHUNK_BYTES).contains(&chunk.len()) {
            return Err(refused(field(
                "chunk",
                format!("is 1 to {CHUNK_BYTES} bytes"),
            )));
        }
        if content.len() + chunk.len() > said.size {
            return Err(refused(differs("size_bytes", "more came than it says")));
        }
        content.extend_from_slice(&chunk);
    }
    if content.len() != said.size {
        return Err(refused(differs("size_bytes", "less came than it says")));
    }
    if digest(&SHA256, &content).as_ref() != metadata.sha256 {
        return Err(refused(differs(
            "sha256",
            "does not match what came: compute it over the whole file",
        )));
    }
    let upload = Upload {
        request_id: metadata.request_id,
        media_type: metadata.media_type.clone(),
        sha256: hex::encode(&metadata.sha256),
        bytes: Payload::new(content),
    };
    let kept = face
        .service
        .upload(&caller.principal, upload)
        .await
        .map_err(refused)?;
    let document = v1::DocumentRef {
        document_id: kept.id.to_string(),
        sha256: metadata.sha256,
        media_type: metadata.media_type,
        size_bytes: metadata.size_bytes,
        title: said.title,
        kind: metadata.kind,
    };
    Ok(v1::UploadDocumentResponse {
        document: Some(document),
        duplicate: kept.repeated,
    })
}

struct Said {
    size: usize,
    title: String,
}

fn check(metadata: &v1::DocumentMetadata) -> Result<Said, ServiceError> {
    if !(1..=DOCUMENT_BYTES_MAX).contains(&metadata.size_bytes) {
        return Err(field("size_bytes", format!("is 1 to {DOCUMENT_BYTES_MAX}")));
    }
    if metadata.sha256.len() != 32 {
        return Err(field("sha256", "is 32 bytes: SHA-256 of the whole content"));
    }
    if v1::DocumentKind::try_from(metadata.kind).is_err() {
        return Err(field(
            "kind",
            format!("{} is not a value this release knows", metadata.kind),
        ));
    }
    let file_name = read::text("file_name", &metadata.file_name, NAME_MAX)?;
    if file_name.is_empty() || file_name.contains(['/', '\\']) {
        return Err(field("file_name", "is a name without a path"));
    }
    let title = read::text("title", &metadata.title, NAME_MAX)?;
    let size = usize::try_from(metadata.size_bytes).unwrap_or(usize::MAX);
    Ok(Said {
        size,
        title: if title.is_empty() { file_name } else { title },
    })
}

fn differs(name: &str, why: &str) -> ServiceError {
    ServiceError::new(ErrorKind::Invalid, CONTENT_DIFFERS).with_violation(name, why)
}

/// What is left to send of a document.
struct Sending {
    first: Option<v1::DocumentRef>,
    rest: Bytes,
    room: OwnedSemaphorePermit,
}

/// Hands a document out; the read is in the log before this returns.
pub(super) async fn download(
    face: &Face,
    caller: &Caller,
    ask: v1::DownloadDocumentRequest,
    room: OwnedSemaphorePermit,
) -> Result<Answers<v1::DownloadDocumentResponse>, ServiceError> {
    let id: DocumentId = required("document_id", &ask.document_id)?;
    let purpose = read::purpose("purpose", ask.purpose)?;
    let (view, content) = face
        .service
        .download(&caller.principal, id, purpose)
        .await?;
    let first = v1::DocumentRef {
        document_id: view.id.to_string(),
        sha256: hex::decode(view.sha256.expose()).unwrap_or_default(),
        media_type: view.media_type,
        size_bytes: view.size_bytes,
        ..v1::DocumentRef::default()
    };
    let sending = Sending {
        first: Some(first),
        rest: content.into_inner().into(),
        room,
    };
    Ok(Box::pin(stream::unfold(
        sending,
        |mut sending| async move {
            let part = match sending.first.take() {
                Some(first) => Out::Document(first),
                None if sending.rest.is_empty() => {
                    drop(sending.room);
                    return None;
                }
                None => {
                    let length = sending.rest.len().min(CHUNK_BYTES);
                    Out::Chunk(sending.rest.split_to(length).to_vec())
                }
            };
            Some((
                Ok(v1::DownloadDocumentResponse { part: Some(part) }),
                sending,
            ))
        },
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> v1::DocumentMetadata {
        v1::DocumentMetadata {
            media_type: "application/pdf".to_owned(),
            sha256: vec![7; 32],
            size_bytes: DOCUMENT_BYTES_MAX,
            file_name: "report.pdf".to_owned(),
            ..v1::DocumentMetadata::default()
        }
    }

    fn refused(change: impl FnOnce(&mut v1::DocumentMetadata)) -> String {
        let mut metadata = metadata();
        change(&mut metadata);
        check(&metadata).err().unwrap().violations.remove(0).field
    }

    #[test]
    fn a_document_is_checked_before_its_first_byte_is_taken() {
        let said = check(&metadata()).unwrap();
        assert_eq!(u64::try_from(said.size).unwrap(), DOCUMENT_BYTES_MAX);
        assert_eq!(said.title, "report.pdf");
        assert_eq!(
            refused(|m| m.size_bytes = DOCUMENT_BYTES_MAX + 1),
            "size_bytes"
        );
        assert_eq!(refused(|m| m.size_bytes = 0), "size_bytes");
        assert_eq!(refused(|m| m.sha256 = vec![7; 31]), "sha256");
        assert_eq!(refused(|m| m.kind = 99), "kind");
    }

    #[test]
    fn a_file_is_named_without_a_path() {
        for name in ["", " ", "../report.pdf", "a\\b"] {
            assert_eq!(refused(|m| m.file_name = name.to_owned()), "file_name");
        }
        assert_eq!(
            refused(|m| m.file_name = "x".repeat(NAME_MAX + 1)),
            "file_name"
        );
        assert_eq!(refused(|m| m.title = "x".repeat(NAME_MAX + 1)), "title");
        let most = v1::DocumentMetadata {
            file_name: "x".repeat(NAME_MAX),
            ..metadata()
        };
        assert!(check(&most).is_ok());
    }
}
