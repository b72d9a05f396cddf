//! The gateway's canonical JSON, as the agencies that take it read it: by webhook, by file and by MESH.

use anyhow::{Context as _, bail};
use serde::Deserialize;
use waymark_core::delivery::Kind;
use waymark_core::referral::Referral;

use super::ledger::Arrival;

#[derive(Deserialize)]
struct Event {
    r#type: String,
    id: String,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    reference: String,
    service: Option<String>,
    referral: Option<Referral>,
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Status {
    service: Option<String>,
}

/// Reads a message.
///
/// # Errors
/// When it is none.
pub(super) fn read(body: &[u8]) -> anyhow::Result<Arrival> {
    let event: Event = serde_json::from_slice(body).context("read an event")?;
    let kind = match event.r#type.as_str() {
        "referral.new" => Kind::New,
        "referral.amended" => Kind::Amend,
        "referral.cancelled" => Kind::Cancel,
        "referral.consent_withdrawn" => Kind::Withdraw,
        "referral.status" => Kind::Status,
        _ => bail!("an event of an unknown type"),
    };
    let reporting = event.data.status.and_then(|status| status.service);
    Ok(Arrival {
        wire_id: event.id,
        kind,
        reference: event.data.reference,
        service: event.data.service.or(reporting).unwrap_or_default(),
        content: event.data.referral,
    })
}
