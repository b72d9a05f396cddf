//! A CSV file that came without a manifest, as a spreadsheet saves it: what its manifest would say. Pure.
//!
//! Its id is its digest, so that the same file again is the same message. Its first row says in `message.environment`
//! whether it is test or live, and in `message.kind` what it is; without that, rows with a `state` are statuses.

use waymark_core::delivery::Kind;
use waymark_core::directory::Environment;
use waymark_core::error::Violation;
use waymark_core::time::Timestamp;

use super::name::Name;
use super::package::{FileRole, Format, ListedFile, MANIFEST_VERSION, Manifest, sha256};
use super::table;

/// Hexadecimal digits of the digest that make the id.
const ID_DIGITS: usize = 40;

/// The manifest of a file without one.
pub(super) fn manifest(
    name: &Name,
    modified: Timestamp,
    bytes: &[u8],
) -> Result<Manifest, Vec<Violation>> {
    let rows = table::rows(bytes)?;
    let first = rows.first();
    let cell = |column: &str| first.and_then(|row| row.message(column));
    let fault = |column: &str, why: &str| vec![Violation::new(format!("row 2, {column}"), why)];
    let environment = match cell("message.environment") {
        Some("test") => Environment::Test,
        Some("live") => Environment::Live,
        Some(_) | None => return Err(fault("message.environment", "is required: test or live")),
    };
    let kind = match cell("message.kind") {
        Some(word) => Kind::parse(word)
            .ok_or_else(|| fault("message.kind", "is new, amend, cancel or status"))?,
        None if first.is_some_and(|row| row.has("state")) => Kind::Status,
        None => Kind::New,
    };
    let digest = sha256(bytes);
    let id: String = digest.chars().take(ID_DIGITS).collect();
    let wrong = |_| fault("file", "has a name that no file here may have");
    Ok(Manifest {
        version: MANIFEST_VERSION,
        environment,
        id: Name::parse(&format!("csv-{id}")).map_err(wrong)?,
        kind,
        reference: None,
        sender: None,
        recipient: None,
        created: jiff::Timestamp::from_millisecond(modified.as_ms()).unwrap_or_default(),
        format: Format::Csv,
        files: vec![ListedFile {
            name: name.clone(),
            role: FileRole::Data,
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            media_type: Format::Csv.media_type().to_owned(),
            sha256: digest,
        }],
    })
}
