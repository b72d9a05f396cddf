//! Documents among a message's observations: OBX with encapsulated data (ED), or with a pointer (RP).
//!
//! ```text
//! OBX|1|ED|report^EP report^WMDOC^<sha-256>^^SHA-256|1|WAYMARK^AP^pdf^Base64^JVBERi0...||||||F
//! ```
//! OBX-3 holds kind and title, and as its alternate identifier the digest of the bytes. Other observations are no
//! documents: they stay what they are, kept segments.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use waymark_core::personal::Payload;
use waymark_core::referral::limits::DOCUMENTS_MAX;

use super::content::{Coded, Repeated, filled_text, opaque_debug};
use super::fault::{ErrorCode, FieldFault};
use super::message::{Message, Segment};

/// The name of the table that OBX-3 of our documents is coded in.
pub const TABLE: &str = "WMDOC";
/// The code of a document whose kind is not stated.
pub const KIND_UNSTATED: &str = "DOCUMENT";
/// The alternate coding system of OBX-3 whose code is a digest.
pub const DIGEST_SYSTEM: &str = "SHA-256";

/// Senders leave the padding out, or wrap lines: bytes are bytes.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One document as it was sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    /// OBX-3: kind and title.
    pub name: Option<Coded>,
    /// SHA-256 as the sender has it, lower-case hex, where OBX-3 holds one.
    pub sha256: Option<String>,
    /// What it is.
    pub media_type: Option<&'static str>,
    /// Where its bytes are.
    pub content: Content,
}

/// Where a document's bytes are.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// In the message.
    Inline(Payload),
    /// At the sender.
    Elsewhere,
}

opaque_debug!(Document, Content);

impl Document {
    /// Reads every document of a message.
    ///
    /// # Errors
    /// A document that cannot be decoded, is of a type that nobody takes, or is one too many: none is dropped.
    pub(super) fn read_all(message: &Message) -> Result<Vec<Self>, FieldFault> {
        let mut documents = Vec::new();
        for (obx, nth) in message.segments_named("OBX").zip(1..) {
            let content = match &*obx.text(2, 1) {
                "ED" => Content::Inline(encapsulated(obx).map_err(|fault| fault.at(nth))?),
                "RP" => Content::Elsewhere,
                _ => continue,
            };
            let media_type = match &content {
                Content::Inline(_) => {
                    let rule = "is of a type that is not taken: send PDF, Word, text, JPEG or PNG";
                    let unknown = FieldFault::field("OBX", 5, rule, ErrorCode::TableValueNotFound);
                    Some(media_type(obx).ok_or_else(|| unknown.at(nth))?)
                }
                Content::Elsewhere => media_type(obx),
            };
            if documents.len() == DOCUMENTS_MAX {
                let rule = "holds more documents than a referral may have";
                return Err(FieldFault::field("OBX", 5, rule, ErrorCode::DataType).at(nth));
            }
            documents.push(Self::of(obx, media_type, content));
        }
        Ok(documents)
    }

    /// Reads every document that a message points to.
    pub(super) fn read_pointers(message: &Message) -> Vec<Self> {
        let pointers = message.segments_named("OBX");
        let pointers = pointers.filter(|obx| &*obx.text(2, 1) == "RP");
        let read = |obx| Self::of(obx, media_type(obx), Content::Elsewhere);
        pointers.map(read).collect()
    }

    fn of(obx: Segment<'_>, media_type: Option<&'static str>, content: Content) -> Self {
        Self {
            name: Coded::first(obx, 3),
            sha256: digest(obx),
            media_type,
            content,
        }
    }
}

fn digest(obx: Segment<'_>) -> Option<String> {
    let is_digest = obx.text(3, 6).eq_ignore_ascii_case(DIGEST_SYSTEM);
    filled_text(obx, 3, 4)
        .filter(|_| is_digest)
        .map(|digest| digest.to_ascii_lowercase())
}

/// Decodes ED-5 by ED-4, table 0299.
fn encapsulated(obx: Segment<'_>) -> Result<Payload, FieldFault> {
    let bad = |rule, code| FieldFault::field("OBX", 5, rule, code);
    let encoding = obx.text(5, 4).to_ascii_uppercase();
    let data = obx.field(5).first().component(5).whole().into_owned();
    let bytes = match encoding.as_str() {
        "BASE64" => {
            let packed: String = data.chars().filter(|c| !c.is_whitespace()).collect();
            let decoded = BASE64.decode(packed);
            decoded.map_err(|_| bad("is not the Base64 that it says", ErrorCode::DataType))?
        }
        "A" => data.into_bytes(),
        _ => {
            let rule = "is encoded neither as Base64 nor as A";
            return Err(bad(rule, ErrorCode::TableValueNotFound));
        }
    };
    if bytes.is_empty() {
        let rule = "is required and missing";
        return Err(bad(rule, ErrorCode::RequiredFieldMissing));
    }
    Ok(Payload::new(bytes))
}

/// Media types with their type (table 0191) and the subtypes that they are known by, what we write first.
const TYPES: [(&str, &str, &[&str]); 7] = [
    ("application/pdf", "AP", &["pdf"]),
    ("application/json", "AP", &["json"]),
    ("application/msword", "AP", &["msword", "doc"]),
    (
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "AP",
        &[
            "vnd.openxmlformats-officedocument.wordprocessingml.document",
            "docx",
        ],
    ),
    ("image/jpeg", "IM", &["jpeg", "jpg"]),
    ("image/png", "IM", &["png"]),
    ("text/plain", "TEXT", &["plain", "txt"]),
];

/// Type and subtype of a media type, as ED-2 and ED-3 say it; none for one that no gateway takes.
pub(super) fn ed_type(media_type: &str) -> Option<(&'static str, &'static str)> {
    let (_, kind, subtypes) = TYPES.iter().find(|(name, _, _)| *name == media_type)?;
    Some((kind, subtypes.first()?))
}

/// The media type of an OBX-5 of type ED (2 and 3) or RP (3 and 4).
fn media_type(obx: Segment<'_>) -> Option<&'static str> {
    let first = if &*obx.text(2, 1) == "RP" { 3 } else { 2 };
    let part = |n| obx.text(5, n).to_ascii_lowercase();
    let (kind, subtype) = (part(first), part(first + 1));
    // Some systems put the whole media type into one component, or the subtype into the first.
    let whole = |text: &str| TYPES.iter().find(|(name, _, _)| *name == text);
    let by_subtype = |text: &str| TYPES.iter().find(|(_, _, known)| known.contains(&text));
    let found = whole(&kind)
        .or_else(|| whole(&subtype))
        .or_else(|| by_subtype(&subtype))
        .or_else(|| by_subtype(&kind).filter(|_| subtype.is_empty()));
    let plain = matches!(kind.as_str(), "text" | "tx" | "ft") && subtype.is_empty();
    found
        .map(|(name, _, _)| *name)
        .or_else(|| plain.then_some("text/plain"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hl7v2::message::LineEndings;

    fn read(obx: &str) -> Result<Vec<Document>, FieldFault> {
        let text = format!("MSH|^~\\&|A|B|C|D|2026||REF^I12|1|P|2.4\r{obx}\r");
        Document::read_all(&Message::parse(text.as_bytes(), LineEndings::Cr).unwrap())
    }

    #[test]
    fn encapsulated_data_is_decoded_whatever_its_type_is_called() {
        for (value, media_type) in [
            ("^AP^pdf^Base64^QUJD", "application/pdf"),
            ("X^application^PDF^BASE64^QUJD", "application/pdf"),
            ("^PDF^^Base64^QUJD", "application/pdf"),
            ("^application/pdf^^Base64^QUJD", "application/pdf"),
            ("^IM^jpg^Base64^QUJD", "image/jpeg"),
            ("^TEXT^^Base64^QUJD", "text/plain"),
            ("^TX^plain^A^ABC", "text/plain"),
            ("^AP^pdf^Base64^QU\\.br\\JD", "application/pdf"),
        ] {
            let found = read(&format!("OBX|1|ED|r^Report||{value}")).unwrap();
            assert_eq!(found[0].media_type, Some(media_type), "{value}");
            assert!(found[0].content == Content::Inline(Payload::new(b"ABC".to_vec())));
        }
        let unpadded = read("OBX|1|ED|r||^AP^pdf^Base64^QUI").unwrap();
        assert!(unpadded[0].content == Content::Inline(Payload::new(b"AB".to_vec())));
    }

    #[test]
    fn what_cannot_be_taken_is_refused_at_its_place_and_what_is_no_document_is_left() {
        for (obx, code) in [
            ("OBX|1|ED|r||^AP^pdf^Base64^Q?", ErrorCode::DataType),
            ("OBX|1|ED|r||^AP^pdf^Hex^41", ErrorCode::TableValueNotFound),
            (
                "OBX|1|ED|r||^AP^exe^Base64^QUJD",
                ErrorCode::TableValueNotFound,
            ),
            (
                "OBX|1|ED|r||^AP^pdf^Base64^",
                ErrorCode::RequiredFieldMissing,
            ),
        ] {
            let fault = read(&format!("OBX|1|NM|x||4\r{obx}")).unwrap_err();
            assert_eq!(
                (&*fault.place(), fault.hl7_code),
                ("OBX[2]-5", code),
                "{obx}"
            );
        }
        assert!(read("OBX|1|ST|x||words").unwrap().is_empty());
        let many = "OBX|1|RP|r||1\r".repeat(DOCUMENTS_MAX);
        assert_eq!(read(&many).unwrap().len(), DOCUMENTS_MAX);
        assert!(read(&(many + "OBX|1|RP|r||1")).is_err());
    }

    #[test]
    fn every_type_that_is_written_is_read_back() {
        for (name, _, _) in TYPES {
            let (kind, subtype) = ed_type(name).unwrap();
            let obx = format!("OBX|1|ED|r^t^WMDOC^AB12^^SHA-256|1|W^{kind}^{subtype}^Base64^QUJD");
            let found = read(&obx).unwrap();
            assert_eq!(found[0].media_type, Some(name));
            assert_eq!(found[0].sha256.as_deref(), Some("ab12"));
        }
        assert_eq!(ed_type("video/mp4"), None);
    }
}
