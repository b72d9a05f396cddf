//! A message of the Booking and Referral Standard where HTTP is not what carries it: the same bundle, as a body. Pure.

use waymark_core::directory::{CodeMap, Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::port::{InboundBody, RenderError, Rendered, Source};

use super::config::Settings;
use super::server::defined;
use super::wire::inward::{self, Assumptions};
use super::wire::message::{Event, Message};
use super::wire::node::Fault;
use super::wire::{self, bars};
use crate::body::Said;
use crate::context::EgressPolicy;
use crate::settings::unusable;

/// Settings that only a server of FHIR has.
const OF_A_SERVER: [&str; 9] = [
    "url",
    "mode",
    "auth",
    "token",
    "peer_identity",
    "tls_profile",
    "plain",
    "private_network",
    "poll_seconds",
];

/// The settings of a FHIR endpoint without its server.
fn settings(endpoint: &Endpoint, table: &toml::Table) -> Result<Settings, Vec<Violation>> {
    if let Some(key) = OF_A_SERVER.into_iter().find(|key| table.contains_key(*key)) {
        let why = "belongs to a FHIR server: there is none here";
        return Err(vec![Violation::new(format!("settings.{key}"), why)]);
    }
    let mut served = endpoint.clone();
    served.settings = table.clone();
    for (key, value) in [
        ("url", "https://carried.invalid/"),
        ("mode", "bars"),
        ("auth", "mtls"),
    ] {
        served.settings.insert(key.to_owned(), value.into());
    }
    Settings::read(&served, EgressPolicy::PublicOnly)
}

/// What is wrong with the settings.
pub(crate) fn faults(endpoint: &Endpoint, table: &toml::Table) -> Vec<Violation> {
    settings(endpoint, table).err().unwrap_or_default()
}

/// Bytes of documents that go inline.
pub(crate) fn inline_bytes_max(endpoint: &Endpoint, table: &toml::Table) -> u64 {
    settings(endpoint, table).map_or(0, |settings| settings.inline_bytes_max)
}

/// Renders the message.
pub(crate) fn render(
    source: &Source,
    endpoint: &Endpoint,
    table: &toml::Table,
    environment: Environment,
) -> Result<Rendered, RenderError> {
    let settings = settings(endpoint, table).map_err(unusable)?;
    wire::render(source, &settings, &endpoint.codes, environment)
}

/// Reads a message; whoever it says that it is from must be the agency that its channel is of;
/// `codes` are the agency's own code lists.
pub(crate) fn read(
    value: &serde_json::Value,
    agency: &str,
    assumptions: Option<&Assumptions>,
    codes: &CodeMap,
) -> Result<Said, Violation> {
    let of = |fault: Fault| Violation::new(fault.path, fault.rule);
    let message = Message::read(value).map_err(of)?;
    let event = message.event().map_err(of)?;
    defined(&message, event).map_err(of)?;
    let sender = message.sender().map_err(of)?;
    if sender.is_some_and(|written| !written.eq_ignore_ascii_case(agency)) {
        let path = format!("{}.sender", message.header.path());
        return Err(Violation::new(path, "is the agency that this came from"));
    }
    let environment = bars::environment(&message).map_err(of)?;
    let (body, documents) = match event {
        Event::Response => {
            let status = bars::read_status(&message, codes).map_err(of)?;
            (InboundBody::Status(status), Vec::new())
        }
        Event::Request => {
            let assumptions = assumptions.ok_or_else(|| {
                let why =
                    "FHIR referrals are not agreed with this agency: the endpoint has no [assume]";
                Violation::new("Bundle", why)
            })?;
            let asked = inward::read(&message, assumptions, codes).map_err(of)?;
            (asked.body, asked.documents)
        }
    };
    Ok(Said {
        body,
        claimed_sender: None,
        environment,
        documents,
    })
}
