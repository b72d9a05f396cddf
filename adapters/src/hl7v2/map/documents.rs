//! Documents of a referral, both ways: inline as far as the endpoint takes them, the rest by reference.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use waymark_core::error::Violation;
use waymark_core::personal::Personal;
use waymark_core::port::{Attachment, InboundDocument, RenderError, Source};
use waymark_core::referral::DocumentRef;

use super::super::brought::Enclosed;
use super::super::build::{SegmentWriter, Version};
use super::super::config::Settings;
use super::super::content::Coded;
use super::super::document::{self, Content, DIGEST_SYSTEM, Document, KIND_UNSTATED, TABLE};
use super::super::referral::RefMessage;
use super::super::timestamp;
use super::outward::{cut, whole};

/// The segments that carry a referral's documents: one OBR, an OBX for each, and a PV1 behind which notes are the
/// message's own again. None where there are no documents.
pub(super) fn segments(
    source: &Source,
    documents: &[DocumentRef],
    settings: &Settings,
) -> Result<Vec<SegmentWriter>, RenderError> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let order = [source.reference.as_str(), &settings.reference_namespace];
    let mut order = SegmentWriter::new("OBR")
        .text(1, "1")
        .set(2, &order)
        .set(3, &order)
        .set(4, &["DOCUMENTS", "Documents of the referral", TABLE]);
    if settings.dialect.version == Version::V23 {
        // Version 2.3 requires when: OBR-27, the fourth component.
        let day = timestamp::write_date(source.at.london_date());
        order = order.set(27, &["", "", "", &day]);
    }
    let mut segments = vec![order];
    for (document, nth) in documents.iter().zip(1_u32..) {
        let inline = source.attachments.iter();
        let inline = inline.into_iter().find(|it| it.document.id == document.id);
        segments.push(observation(document, inline, nth, settings)?);
    }
    segments.push(SegmentWriter::new("PV1").text(1, "1").text(2, "N"));
    Ok(segments)
}

fn observation(
    document: &DocumentRef,
    inline: Option<&Attachment>,
    nth: u32,
    settings: &Settings,
) -> Result<SegmentWriter, RenderError> {
    let unknown = || {
        let why = "is of a media type that OBX-5 has no name for";
        RenderError::CannotCarry(Violation::new("documents", why))
    };
    let (kind, subtype) = document::ed_type(&document.media_type).ok_or_else(unknown)?;
    let title = document.title.as_ref().map_or("", |title| title.expose());
    let name = document.kind.as_deref().map_or("", whole);
    let name = if name.is_empty() { KIND_UNSTATED } else { name };
    let nth = nth.to_string();
    let obx = SegmentWriter::new("OBX")
        .text(1, &nth)
        .set(
            3,
            &[name, cut(title), TABLE, &document.sha256, "", DIGEST_SYSTEM],
        )
        .text(4, &nth)
        .text(11, "F");
    let app = settings.sending.app.as_str();
    Ok(match inline {
        Some(attachment) => {
            let data = STANDARD.encode(attachment.bytes.expose());
            obx.text(2, "ED")
                .set(5, &[app, kind, subtype, "Base64", &data])
        }
        None => {
            let id = document.id.to_string();
            obx.text(2, "RP").set(5, &[&id, app, kind, subtype])
        }
    })
}

/// The documents that came inline with a referral.
pub fn inward(message: &RefMessage) -> Vec<InboundDocument> {
    let read = |document: &Document| {
        let Content::Inline(bytes) = &document.content else {
            return None;
        };
        let name = document.name.as_ref();
        let kind = name.map(|it| it.code.as_str());
        let kind = kind.filter(|code| !code.is_empty() && *code != KIND_UNSTATED);
        let title = name.map(|it| it.text.as_str());
        Some(InboundDocument {
            media_type: document.media_type?.to_owned(),
            sha256: document.sha256.clone(),
            title: title.filter(|it| !it.is_empty()).map(Personal::from),
            kind: kind.map(str::to_owned),
            bytes: bytes.clone(),
        })
    };
    message.documents.iter().filter_map(read).collect()
}

/// Words for the documents that a message points to and does not hold.
pub(super) fn pointed_to(documents: &[Document]) -> impl Iterator<Item = String> {
    let elsewhere = |document: &&Document| document.content == Content::Elsewhere;
    documents.iter().filter(elsewhere).map(|document| {
        let title = title(document.name.as_ref());
        let digest = document.sha256.as_ref();
        let digest = digest.map_or_else(String::new, |it| format!(" (SHA-256 {it})"));
        format!("Document held by the sender, not enclosed: {title}{digest}")
    })
}

/// What a status says of the documents that came with it.
pub(super) fn not_taken(enclosed: &[Enclosed]) -> impl Iterator<Item = String> {
    enclosed.iter().map(|document| {
        let title = title(document.name.as_ref());
        format!("A document came with this and was not taken, ask for it: {title}")
    })
}

fn title(name: Option<&Coded>) -> &str {
    name.map_or("untitled", |it| {
        if it.text.is_empty() {
            &it.code
        } else {
            &it.text
        }
    })
}
