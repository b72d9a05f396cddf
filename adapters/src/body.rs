//! What several protocols carry in the same forms: HL7 v2 without a connection, and the canonical JSON of a referral.
//! Pure.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use waymark_core::directory::{CodeMap, Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::personal::Personal;
use waymark_core::port::{CancelCode, InboundBody, InboundDocument, Withdrawal};
use waymark_core::referral::{ConsentGiver, ConsentScope, Referral, SenderReference};

use crate::hl7v2;
use crate::hl7v2::config::Assumptions;
use crate::hl7v2::content::Envelope;
use crate::hl7v2::document::Content;
use crate::hl7v2::message::{LineEndings, Message};

/// Settings of HL7 v2 that only a connection has.
const OF_A_CONNECTION: [&str; 4] = ["host", "port", "transport", "interface"];

/// One message, read.
pub(crate) struct Said {
    /// What it says.
    pub(crate) body: InboundBody,
    /// The sender that it names itself.
    pub(crate) claimed_sender: Option<String>,
    /// The environment that it names itself.
    pub(crate) environment: Option<Environment>,
    /// Documents within it.
    pub(crate) documents: Vec<InboundDocument>,
}

/// How an agency speaks HL7 v2 where MLLP is not what carries it: an MLLP endpoint's settings without its connection.
pub(crate) fn dialect(
    endpoint: &Endpoint,
    table: &toml::Table,
) -> Result<hl7v2::config::Settings, Vec<Violation>> {
    if let Some(key) = OF_A_CONNECTION
        .into_iter()
        .find(|key| table.contains_key(*key))
    {
        let why = "belongs to MLLP: there is no such connection here";
        return Err(vec![Violation::new(format!("settings.{key}"), why)]);
    }
    let mut as_mllp = endpoint.clone();
    as_mllp.settings = table.clone();
    for (key, value) in [
        ("host", toml::Value::from("carried")),
        ("port", toml::Value::from(1)),
        ("transport", toml::Value::from("plain")),
        ("interface", toml::Value::from("127.0.0.1")),
    ] {
        as_mllp.settings.insert(key.to_owned(), value);
    }
    hl7v2::config::Settings::read(&as_mllp)
}

/// The faults of a table within an endpoint's settings, under its own name.
pub(crate) fn within(table: &str, faults: Vec<Violation>) -> impl Iterator<Item = Violation> {
    let prefix = format!("settings.{table}");
    faults.into_iter().map(move |fault| {
        let path = fault.field.strip_prefix("settings").unwrap_or_default();
        Violation::new(format!("{prefix}{path}"), fault.why)
    })
}

/// Reads JSON into its type; the fault names the field, and never repeats a value.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Violation> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let words = error.inner().to_string();
        // The library's other words quote what was found.
        let why = if words.starts_with("missing field") || words.starts_with("unknown field") {
            words
        } else {
            "has a value that it may not have: see the protocol's page in docs/partners".to_owned()
        };
        Violation::new(path, why)
    })
}

/// A new referral.
pub(crate) fn submit(referral: Referral) -> InboundBody {
    InboundBody::Submit(Box::new(referral))
}

/// New content for the referral that its sender's own reference names.
pub(crate) fn amend(referral: Referral) -> Result<InboundBody, Violation> {
    let missing = || {
        let why = "is required: it says which referral is amended";
        Violation::new("sender_reference", why)
    };
    let reference = referral.sender_reference.clone().ok_or_else(missing)?;
    Ok(InboundBody::Amend(reference, Box::new(referral)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ending {
    sender_reference: SenderReference,
    #[serde(default)]
    reason: Option<Personal<String>>,
    #[serde(default)]
    code: Option<CancelCode>,
}

/// A cancel: `{"sender_reference": {"value": "...", "namespace": "..."}, "reason": "...", "code": "entered_in_error"}`.
pub(crate) fn ending(value: Value) -> Result<InboundBody, Violation> {
    let ending: Ending = typed(value)?;
    let code = ending.code.unwrap_or(CancelCode::CancelledBySender);
    Ok(InboundBody::Cancel(
        ending.sender_reference,
        code,
        ending.reason,
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Withdrawing {
    sender_reference: SenderReference,
    withdrawal: Withdrawn,
}

/// What is withdrawn: `scopes` must be there, and when it is empty that is everything.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Withdrawn {
    scopes: BTreeSet<ConsentScope>,
    by: Personal<String>,
    role: ConsentGiver,
    date: Date,
    #[serde(default)]
    evidence: Option<Personal<String>>,
}

/// A withdrawal of consent: `{"sender_reference": {"value": "...", "namespace": "..."}, "withdrawal": {"scopes":
/// ["share_health"], "by": "...", "role": "parent_with_pr", "date": "2026-03-02", "evidence": "..."}}`.
pub(crate) fn withdrawal(value: Value) -> Result<InboundBody, Violation> {
    let asked: Withdrawing = typed(value)?;
    let said = asked.withdrawal;
    let withdrawal = Withdrawal {
        scopes: said.scopes,
        by: said.by,
        role: said.role,
        date: said.date,
        evidence: said.evidence,
    };
    Ok(InboundBody::Withdraw(asked.sender_reference, withdrawal))
}

fn of(fault: &hl7v2::fault::FieldFault) -> Violation {
    Violation::new("data", fault.to_string())
}

fn opened(data: &[u8]) -> Result<(Message, Envelope), Violation> {
    let message = Message::parse(data, LineEndings::Any).map_err(|fault| of(&fault))?;
    let envelope = Envelope::read(&message).map_err(|fault| of(&fault))?;
    Ok((message, envelope))
}

impl Said {
    /// A message that names neither its sender nor its environment.
    pub(crate) const fn of(body: InboundBody) -> Self {
        Self {
            body,
            claimed_sender: None,
            environment: None,
            documents: Vec::new(),
        }
    }

    fn by(envelope: &Envelope, body: InboundBody, documents: Vec<InboundDocument>) -> Self {
        // A bare acknowledgement says nothing but of a message of ours: its channel knows whom it is from.
        if envelope.message_code == "ACK" {
            return Self::of(body);
        }
        let (app, facility) = (&envelope.sending_app.name, &envelope.sending_facility.name);
        Self {
            body,
            claimed_sender: Some(format!("{app}|{facility}")),
            environment: hl7v2::map::code::environment(&envelope.processing_id),
            documents,
        }
    }
}

/// Reads an answer in HL7 v2: an acknowledgement, what became of a referral, or an appointment. `codes` are the agency's
/// own code lists.
pub(crate) fn hl7_answer(data: &[u8], codes: &CodeMap) -> Result<Said, Violation> {
    let (message, envelope) = opened(data)?;
    let body = hl7v2::map::answer(&message, &envelope, codes).ok_or_else(|| {
        let why = "is no answer: it is none of ACK, RRI and SIU (MSH-9)";
        Violation::new("data", why)
    })?;
    Ok(Said::by(
        &envelope,
        body.map_err(|fault| of(&fault))?,
        Vec::new(),
    ))
}

/// Reads a message of HL7 v2: a referral or an answer. `codes` are the agency's own code lists; of the documents that
/// it points to, those with these digests came with it.
pub(crate) fn hl7(
    data: &[u8],
    assume: Option<&Assumptions>,
    codes: &CodeMap,
    beside: &[&str],
) -> Result<Said, Violation> {
    let (message, envelope) = opened(data)?;
    if let Some(body) = hl7v2::map::answer(&message, &envelope, codes) {
        return Ok(Said::by(
            &envelope,
            body.map_err(|fault| of(&fault))?,
            Vec::new(),
        ));
    }
    let assume = assume.ok_or_else(|| {
        let why = "HL7 v2 referrals are not agreed with this agency: the endpoint has no [assume]";
        Violation::new("format", why)
    })?;
    let mut referral = hl7v2::referral::RefMessage::read(&message).map_err(|fault| of(&fault))?;
    referral.documents.retain(|it| {
        let came = it.sha256.as_deref().is_some_and(|it| beside.contains(&it));
        it.content != Content::Elsewhere || !came
    });
    let documents = hl7v2::map::documents::inward(&referral);
    let body = hl7v2::map::inward::read(&referral, assume, codes).map_err(|fault| of(&fault))?;
    Ok(Said::by(&envelope, body, documents))
}
