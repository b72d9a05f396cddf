//! What a sender is told of its referral: who says it, and what happened, in words beside the codes.

use serde_json::{Value, json};
use waymark_core::port::StatusNotice;

use super::super::name;
use super::node::{Fault, Node};
use super::part::note;

/// The kind of the note that says who speaks.
const SPEAKER: &str = "speaker";

/// Its notes: who speaks, what happened where the code alone would say it, and the speaker's own words.
pub(super) fn notes(notice: &StatusNotice) -> [Value; 3] {
    let speaker = match &notice.service {
        Some(service) => format!("From {}, service {service}.", notice.from),
        None => format!("From {}.", notice.from),
    };
    let text = notice.text.as_ref().map(|text| text.expose().as_str());
    [
        note(SPEAKER, Some(&speaker)),
        note("event", notice.words()),
        note("status", text),
    ]
}

/// The service that speaks, as a reference by its id in the area's directory; nothing where there is none.
pub(super) fn service(notice: &StatusNotice) -> Value {
    match &notice.service {
        Some(service) => json!({
            "type": "HealthcareService",
            "identifier": { "system": name::SERVICE_ID, "value": service.as_str() },
        }),
        None => Value::Null,
    }
}

/// The words of a status. Who speaks is known by its channel, and is not among them.
pub(super) fn words_of(node: &Node<'_>) -> Result<Option<String>, Fault> {
    let mut words = Vec::new();
    for note in node.list("note")? {
        let kind = note.extension(&name::extension("note"))?;
        let kind = kind
            .map(|kind| kind.required_text("valueCode"))
            .transpose()?;
        if kind != Some(SPEAKER) {
            words.push(note.required_text("text")?);
        }
    }
    Ok((!words.is_empty()).then(|| words.join("\n")))
}
