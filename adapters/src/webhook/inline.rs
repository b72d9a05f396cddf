//! Documents within a message of the gateway's own JSON, both ways. Pure.
//!
//! ```json
//! {"type": "referral.new", ..., "data": {"referral": {...}},
//!  "documents": [{"media_type": "application/pdf", "sha256": "...", "title": "...", "kind": "...", "content": "<base64>"}]}
//! ```
//! What is too large to travel inline is named in `data.referral.documents` alone, by id, digest, size and media type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use waymark_core::error::Violation;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{Attachment, InboundDocument, RenderError, Rendered, Source};

/// A document within a message.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inline {
    media_type: String,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    title: Option<Personal<String>>,
    #[serde(default)]
    kind: Option<String>,
    content: Personal<String>,
}

impl Inline {
    fn of(attachment: &Attachment) -> Self {
        Self {
            media_type: attachment.document.media_type.clone(),
            sha256: Some(attachment.document.sha256.clone()),
            title: attachment.document.title.clone(),
            kind: attachment.document.kind.clone(),
            content: Personal::new(STANDARD.encode(attachment.bytes.expose())),
        }
    }

    /// Opens what stands at a place of `documents`.
    pub(crate) fn opened(self, at: usize) -> Result<InboundDocument, Violation> {
        let bytes = STANDARD.decode(self.content.expose()).map_err(|_| {
            let field = format!("documents[{at}].content");
            Violation::new(field, "is no base64")
        })?;
        Ok(InboundDocument {
            media_type: self.media_type,
            sha256: self.sha256,
            title: self.title,
            kind: self.kind,
            bytes: Payload::new(bytes),
        })
    }
}

/// The canonical message with the documents that were opened for it.
pub(crate) fn with_documents(
    canonical: Rendered,
    source: &Source,
) -> Result<Rendered, RenderError> {
    if source.attachments.is_empty() {
        return Ok(canonical);
    }
    let unwritten = |_| {
        let why = Violation::new("documents", "cannot be written as JSON");
        RenderError::CannotCarry(why)
    };
    let documents: Vec<Inline> = source.attachments.iter().map(Inline::of).collect();
    let mut event: Map<String, Value> =
        serde_json::from_slice(canonical.bytes.expose()).map_err(unwritten)?;
    let documents = serde_json::to_value(documents).map_err(unwritten)?;
    event.insert("documents".to_owned(), documents);
    let bytes = serde_json::to_vec(&event).map_err(unwritten)?;
    Ok(Rendered {
        media_type: canonical.media_type,
        bytes: Payload::new(bytes),
    })
}
