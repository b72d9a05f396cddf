//! One message as files: a manifest that names the others with sizes and digests. Pure.
//!
//! The bytes that are stored of a delivery are its manifest on one line, then the files in the manifest's order; they
//! are taken apart again by the sizes that the manifest gives, so every attempt writes the same files.

use jiff::Timestamp as Instant;
use serde::{Deserialize, Serialize};
use waymark_core::delivery::Kind;
use waymark_core::directory::Environment;
use waymark_core::error::Violation;
use waymark_core::port::Source;

use super::name::Name;

/// The version of the manifest that is written, and the only one read.
pub const MANIFEST_VERSION: u32 = 1;
/// What a manifest's name ends with.
pub const MANIFEST_SUFFIX: &str = ".manifest.json";
/// The media type of the stored bytes.
pub(super) const MEDIA_TYPE: &str = "application/vnd.waymark.file-drop";
/// The most bytes of a manifest.
pub(super) const MANIFEST_BYTES_MAX: usize = 64 * 1024;
/// The most files that one manifest names: the message and its documents.
pub(super) const FILES_MAX: usize = 51;

/// How a message is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Canonical JSON.
    #[default]
    Canonical,
    /// HL7 v2, one message, segments ended by a carriage return.
    Hl7v2,
    /// CSV, a header row and one row for each referral.
    Csv,
}

impl Format {
    /// The ending of a data file's name.
    pub(super) const fn ending(self) -> &'static str {
        match self {
            Self::Canonical => "json",
            Self::Hl7v2 => "hl7",
            Self::Csv => "csv",
        }
    }

    /// The media type of a data file.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Canonical => "application/json",
            Self::Hl7v2 => crate::hl7v2::outbound::MEDIA_TYPE,
            Self::Csv => "text/csv",
        }
    }
}

/// What a file of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileRole {
    /// The message.
    Data,
    /// A document that goes with it.
    Document,
}

/// One file of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedFile {
    /// Its name, beside the manifest.
    pub name: Name,
    /// What it is.
    pub role: FileRole,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// SHA-256 of its bytes, lower-case hex.
    pub sha256: String,
}

/// What a message is and which files it has. It names nobody: whom it is about stands in the data alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// Test or live.
    pub environment: Environment,
    /// The message's id: the same id again is the same message.
    pub id: Name,
    /// `new`, `amend`, `cancel`, `withdraw` or `status`.
    pub kind: Kind,
    /// The short reference of the referral at this gateway; absent in a new referral from an agency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The agency that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// The agency that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// When it was made.
    pub created: Instant,
    /// How its data is written.
    pub format: Format,
    /// Its files: one of role `data`, the others documents.
    pub files: Vec<ListedFile>,
}

impl Manifest {
    /// The name of the manifest's own file.
    pub fn file_name(&self) -> String {
        format!("{}{MANIFEST_SUFFIX}", self.id)
    }

    /// The message's own file.
    pub fn data(&self) -> Option<&ListedFile> {
        self.files.iter().find(|file| file.role == FileRole::Data)
    }
}

/// A message taken apart.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Package {
    /// Its manifest.
    pub(super) manifest: Manifest,
    /// The manifest as written.
    pub(super) manifest_bytes: Vec<u8>,
    /// Its files, in the manifest's order.
    pub(super) files: Vec<Vec<u8>>,
}

/// SHA-256 as lower-case hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a string does not fail.
            write!(hex, "{byte:02x}").unwrap_or_default();
            hex
        })
}

/// The ending of a document's name, by its media type; unknown ones are bytes.
fn ending_of(media_type: &str) -> &'static str {
    match media_type {
        "application/pdf" => "pdf",
        "application/json" => "json",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => "docx",
        "image/jpeg" => "jpg",
        "image/png" => "png",
        "image/tiff" => "tif",
        "text/csv" => "csv",
        "text/plain" => "txt",
        _ => "bin",
    }
}

/// Puts a message and its documents together; `None` when a name or the manifest cannot be written.
pub(super) fn pack(source: &Source, format: Format, data: Vec<u8>) -> Option<Vec<u8>> {
    let id = Name::parse(source.wire_id.as_str()).ok()?;
    let listed = |name: String, role, media_type: &str, bytes: &[u8]| {
        Some(ListedFile {
            name: Name::parse(&name).ok()?,
            role,
            size: u64::try_from(bytes.len()).ok()?,
            media_type: media_type.to_owned(),
            sha256: sha256(bytes),
        })
    };
    let name = format!("{id}.{}", format.ending());
    let mut files = vec![listed(name, FileRole::Data, format.media_type(), &data)?];
    let mut bodies = vec![data];
    for (at, attachment) in source.attachments.iter().enumerate() {
        let media_type = &attachment.document.media_type;
        let name = format!("{id}-d{}.{}", at + 1, ending_of(media_type));
        let bytes = attachment.bytes.expose();
        files.push(listed(name, FileRole::Document, media_type, bytes)?);
        bodies.push(bytes.to_vec());
    }
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        environment: source.environment,
        id,
        kind: source.kind,
        reference: Some(source.reference.as_str().to_owned()),
        sender: Some(source.sender.as_str().to_owned()),
        recipient: Some(source.recipient.as_str().to_owned()),
        created: Instant::from_millisecond(source.at.as_ms()).ok()?,
        format,
        files,
    };
    let mut packed = serde_json::to_vec(&manifest).ok()?;
    packed.push(b'\n');
    for body in bodies {
        packed.extend_from_slice(&body);
    }
    Some(packed)
}

/// Takes stored bytes apart; `None` when they are not what [`pack`] makes.
pub(super) fn unpack(packed: &[u8]) -> Option<Package> {
    let end = packed.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = packed.split_at_checked(end + 1)?;
    let manifest: Manifest = serde_json::from_slice(line).ok()?;
    let mut files = Vec::with_capacity(manifest.files.len());
    let mut rest = rest;
    for file in &manifest.files {
        let (body, left) = rest.split_at_checked(usize::try_from(file.size).ok()?)?;
        files.push(body.to_vec());
        rest = left;
    }
    rest.is_empty().then(|| Package {
        manifest,
        manifest_bytes: line.to_vec(),
        files,
    })
}

/// What is wrong with a manifest, whatever its files hold.
pub(super) fn ill_formed(manifest: &Manifest) -> Option<Violation> {
    let data = manifest
        .files
        .iter()
        .filter(|f| f.role == FileRole::Data)
        .count();
    let mut names: Vec<&Name> = manifest.files.iter().map(|f| &f.name).collect();
    names.sort();
    names.dedup();
    let own = manifest.file_name();
    if manifest.version != MANIFEST_VERSION {
        Some(Violation::new(
            "manifest.version",
            format!("is {MANIFEST_VERSION}"),
        ))
    } else if data != 1 || manifest.files.len() > FILES_MAX {
        Some(Violation::new(
            "manifest.files",
            format!("has one file of role data and at most {FILES_MAX} in all"),
        ))
    } else if names.len() != manifest.files.len() || names.iter().any(|n| n.as_str() == own) {
        Some(Violation::new(
            "manifest.files",
            "names each file once, and not the manifest itself",
        ))
    } else if manifest.kind == Kind::Status && manifest.files.len() > 1 {
        let why =
            "has a document, and a status carries none: leave it out and pass it on by another way";
        Some(Violation::new("manifest.files", why))
    } else {
        None
    }
}
