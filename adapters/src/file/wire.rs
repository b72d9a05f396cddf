//! What a message's data file says, both ways. Pure.
//!
//! Outward, canonical JSON is the body of a webhook (`webhook/wire.rs`). Inward it is the canonical referral itself for
//! `new` and `amend`, the body of a webhook's callback (`webhook/callback.rs`) for `status`, and for `cancel`
//! `{"sender_reference": {"value": "...", "namespace": "..."}, "reason": "..."}`.

use serde_json::Value;
use waymark_core::delivery::Kind;
use waymark_core::directory::{CodeMap, Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::personal::Payload;
use waymark_core::port::{InboundBody, InboundDocument, RenderError, Rendered, Source};
use waymark_core::referral::Referral;

use super::config::Settings;
use super::package::{self, FileRole, Format, Manifest};
use super::table;
use crate::{body, hl7v2, webhook};

fn cannot(field: &str, why: &str) -> RenderError {
    RenderError::CannotCarry(Violation::new(field, why))
}

/// Renders a message and its documents.
pub(super) fn render(
    source: &Source,
    endpoint: &Endpoint,
    settings: &Settings,
    environment: Environment,
) -> Result<Rendered, RenderError> {
    // Says what is missing, too long or of the other environment, whatever the format.
    let canonical = webhook::wire::render(source, environment)?;
    let data = match (settings.payload, &settings.hl7v2) {
        (Format::Canonical, _) => canonical.bytes.into_inner(),
        (Format::Csv, _) => table::render(source)?,
        (Format::Hl7v2, Some(table)) => {
            let dialect = body::dialect(endpoint, table).map_err(|faults| {
                let first = faults.into_iter().next();
                let wrong = || Violation::new("settings.hl7v2", "is wrong");
                RenderError::Settings(first.unwrap_or_else(wrong))
            })?;
            // Documents lie beside the message, and not in it as well.
            let mut bare = source.clone();
            bare.attachments.clear();
            let message = hl7v2::map::outward::render(&bare, &dialect)?;
            let encoded = dialect.dialect.charset.encode(&message);
            encoded.map_err(|fault| cannot("referral", &fault.to_string()))?
        }
        (Format::Hl7v2, None) => {
            let missing = Violation::new("settings.hl7v2", "is required");
            return Err(RenderError::Settings(missing));
        }
    };
    let packed = package::pack(source, settings.payload, data)
        .ok_or_else(|| cannot("content", "cannot be written as files"))?;
    Ok(Rendered {
        media_type: package::MEDIA_TYPE.to_owned(),
        bytes: Payload::new(packed),
    })
}

/// One message that a data file holds.
pub(super) struct Said {
    /// What it says.
    pub(super) body: InboundBody,
    /// MSH-3 and 4, for HL7 v2.
    pub(super) claimed_sender: Option<String>,
    /// Its row, where a file holds several.
    pub(super) row: Option<usize>,
    /// The environment that it names itself.
    pub(super) environment: Option<Environment>,
    /// Documents within it.
    pub(super) documents: Vec<InboundDocument>,
}

impl Said {
    const fn whole(body: InboundBody) -> Self {
        Self {
            body,
            claimed_sender: None,
            row: None,
            environment: None,
            documents: Vec::new(),
        }
    }
}

fn submit(kind: Kind, referral: Referral) -> Result<InboundBody, Violation> {
    if kind == Kind::Amend {
        body::amend(referral)
    } else {
        Ok(body::submit(referral))
    }
}

fn no_withdrawal() -> Violation {
    let why = "a withdrawal of consent has no columns: send it as format canonical, see docs/partners/file.md";
    Violation::new("kind", why)
}

fn not_inward() -> Violation {
    Violation::new("kind", "is none that an agency sends")
}

/// Reads what a data file says; `codes` are the agency's own code lists.
pub(super) fn read(
    manifest: &Manifest,
    data: &[u8],
    settings: &Settings,
    codes: &CodeMap,
) -> Result<Vec<Said>, Vec<Violation>> {
    match manifest.format {
        Format::Canonical => canonical(manifest.kind, data)
            .map(|said| vec![said])
            .map_err(|f| vec![f]),
        Format::Csv => sheet(manifest.kind, data),
        Format::Hl7v2 => hl7(manifest, data, settings, codes)
            .map(|said| vec![said])
            .map_err(|f| vec![f]),
    }
}

fn canonical(kind: Kind, data: &[u8]) -> Result<Said, Violation> {
    let json = |error: serde_json::Error| {
        let why = format!(
            "is not JSON: line {}, column {}",
            error.line(),
            error.column()
        );
        Violation::new("data", why)
    };
    if kind == Kind::Status {
        let (environment, status) = webhook::read_status(data)
            .map_err(|error| Violation::new("data", error.to_string()))?;
        let mut said = Said::whole(InboundBody::Status(status));
        said.environment = Some(environment);
        return Ok(said);
    }
    let value: Value = serde_json::from_slice(data).map_err(json)?;
    let body = match kind {
        Kind::New | Kind::Amend => submit(kind, body::typed(value)?)?,
        Kind::Cancel => body::ending(value)?,
        Kind::Withdraw => body::withdrawal(value)?,
        Kind::Status | Kind::Guidance => return Err(not_inward()),
    };
    Ok(Said::whole(body))
}

fn sheet(kind: Kind, data: &[u8]) -> Result<Vec<Said>, Vec<Violation>> {
    let rows = table::rows(data)?;
    if kind != Kind::Status && rows.len() > 1 {
        let why = "has more than one referral: send a file for each, so that each can be answered";
        return Err(vec![Violation::new("file", why)]);
    }
    let mut said = Vec::with_capacity(rows.len());
    let mut faults = Vec::new();
    for row in &rows {
        let body = match kind {
            Kind::New | Kind::Amend => row
                .referral()
                .and_then(|referral| submit(kind, referral).map_err(|f| vec![f])),
            Kind::Cancel => row
                .ending()
                .and_then(|value| body::ending(value).map_err(|f| vec![f])),
            Kind::Status => status_row(row),
            Kind::Withdraw => Err(vec![no_withdrawal()]),
            Kind::Guidance => Err(vec![not_inward()]),
        };
        match body {
            Ok(body) => said.push(Said {
                row: (kind == Kind::Status).then(|| row.number()),
                ..Said::whole(body)
            }),
            Err(wrong) => faults.extend(wrong),
        }
    }
    if faults.is_empty() {
        Ok(said)
    } else {
        Err(faults)
    }
}

/// A status row has the fields of a callback, but for the two that a file's manifest says for all of its rows.
fn status_row(row: &table::Row) -> Result<InboundBody, Vec<Violation>> {
    let mut value = row.status()?;
    if let Some(object) = value.as_object_mut() {
        object.insert("type".to_owned(), "referral.status".into());
        // The manifest's own environment is what counts.
        object.insert("environment".to_owned(), Environment::Test.as_str().into());
    }
    let wrong = |why: String| vec![Violation::new(format!("row {}", row.number()), why)];
    let bytes = serde_json::to_vec(&value).map_err(|_| wrong("cannot be read".to_owned()))?;
    match webhook::read_status(&bytes) {
        Ok((_, status)) => Ok(InboundBody::Status(status)),
        Err(webhook::CallbackError::Field { field, why }) => Err(vec![Violation::new(
            format!("row {}, {field}", row.number()),
            why,
        )]),
        Err(_) => {
            let why = "needs referral and state, a state of the list and an RFC 3339 time in at: see docs/partners/file.md";
            Err(wrong(why.to_owned()))
        }
    }
}

fn hl7(
    manifest: &Manifest,
    data: &[u8],
    settings: &Settings,
    codes: &CodeMap,
) -> Result<Said, Violation> {
    let kind = manifest.kind;
    let documents = manifest.files.iter();
    let beside = documents.filter(|file| file.role == FileRole::Document);
    let beside: Vec<&str> = beside.map(|file| file.sha256.as_str()).collect();
    let read = body::hl7(data, settings.assume.as_ref(), codes, &beside)?;
    let says = match &read.body {
        InboundBody::Submit(_) => Kind::New,
        InboundBody::Amend(..) => Kind::Amend,
        InboundBody::Cancel(..) => Kind::Cancel,
        InboundBody::Withdraw(..) => Kind::Withdraw,
        InboundBody::Status(_) | InboundBody::Undelivered(_) | InboundBody::Enquiry(_) => {
            Kind::Status
        }
    };
    if says != kind {
        let why = format!("the manifest says {kind}, the message is {says}");
        return Err(Violation::new("kind", why));
    }
    Ok(Said {
        body: read.body,
        claimed_sender: read.claimed_sender,
        row: None,
        environment: read.environment,
        documents: read.documents,
    })
}

#[cfg(test)]
mod tests;
