//! The last stage of a probe: `GET [base]/metadata`, which changes nothing, with the token that messages go with. It
//! fails where the token is refused, a clock is wrong, or the server is none that takes what we send (FHIR R4, 3.1.0.12).

use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;
use waymark_core::delivery::Outcome;

use super::config::Mode;
use super::header::{CORRELATION_ID, Outgoing, REQUEST_ID, TARGET};
use super::wire::MEDIA_TYPE;
use super::wire::node::{Fault, Node};
use super::{Ask, Call, Fhir, reading};
use crate::https::{below, clocks};

/// What the definitions of the messages that we send begin with.
const MESSAGES: &str = "bars-message-servicerequest-";
/// What a plain server must keep.
const KEPT: [&str; 2] = ["ServiceRequest", "Task"];

impl Fhir {
    /// Whether the application takes us for whom we are and understands what we send; the words for the operator.
    pub(super) async fn application(&self, call: Call<'_>) -> Result<String, String> {
        let ask = Ask {
            method: Method::GET,
            url: below(&call.settings.address.url, &["metadata"]),
            headers: headers(call).ok_or("no headers can be written: see the settings")?,
            body: None,
            traceparent: None,
        };
        let unasked = |outcome: &Outcome| {
            let why = outcome.why().map(|why| why.text.clone());
            why.unwrap_or_else(|| "metadata was not answered".to_owned())
        };
        let answer = self.ask(call, &ask).await;
        let answer = answer.map_err(|outcome| unasked(&outcome))?;
        let apart = clocks(&answer.headers, self.clock.now());
        let apart = apart.filter(|_| call.settings.token.is_some());
        let status = answer.status.as_u16();
        match (answer.status.is_success(), apart) {
            (_, Some(apart)) => return Err(format!("metadata was answered {status}, and {apart}")),
            (false, None) if matches!(status, 401 | 403) => {
                return Err(format!(
                    "the server refuses our token or certificate: metadata was answered {status}"
                ));
            }
            (false, None) => return Err(format!("metadata was answered {status}")),
            (true, None) => {}
        }
        let statement: Value = serde_json::from_slice(&answer.body)
            .map_err(|_| "what metadata answers is not JSON".to_owned())?;
        let node = Node::new(&statement, "CapabilityStatement");
        serves(&node, call.settings.mode).map_err(|fault| fault.to_string())?
    }
}

/// What a read is asked with: of a BaRS proxy, who it is for and ids of its own.
fn headers(call: Call<'_>) -> Option<HeaderMap> {
    let mut headers = reading();
    let Some(target) = call.settings.target.as_ref() else {
        return Some(headers);
    };
    let id = uuid::Builder::from_random_bytes(super::random().ok()?)
        .into_uuid()
        .to_string();
    let target = Outgoing::target_of(&target.system, &target.value);
    for (name, value) in [
        (TARGET, target),
        (REQUEST_ID, id.clone()),
        (CORRELATION_ID, id),
    ] {
        headers.insert(name, HeaderValue::from_str(&value).ok()?);
    }
    let accept = format!("{MEDIA_TYPE}; version={}", call.settings.version);
    headers.insert(http::header::ACCEPT, HeaderValue::from_str(&accept).ok()?);
    Some(headers)
}

/// What the statement says that the server is; the inner error is what is missing.
fn serves(statement: &Node<'_>, mode: Mode) -> Result<Result<String, String>, Fault> {
    if statement.text("resourceType")? != Some("CapabilityStatement") {
        return Ok(Err(
            "what metadata answers is no CapabilityStatement".to_owned()
        ));
    }
    let version = statement.text("fhirVersion")?.unwrap_or_default();
    if !version.starts_with("4.0") {
        return Ok(Err("the server does not serve FHIR R4 (4.0.1)".to_owned()));
    }
    let missing = match mode {
        Mode::Bars => {
            let mut named = false;
            for messaging in statement.list("messaging")? {
                for message in messaging.list("supportedMessage")? {
                    let definition = message.required_text("definition")?;
                    let last = definition.rsplit('/').next().unwrap_or_default();
                    named |= last.starts_with(MESSAGES);
                }
            }
            (!named).then_some("message of servicerequest-request or servicerequest-response")
        }
        Mode::Plain => {
            let mut kinds = Vec::new();
            for rest in statement.list("rest")? {
                for resource in rest.list("resource")? {
                    kinds.push(resource.required_text("type")?);
                }
            }
            KEPT.into_iter().find(|kind| !kinds.contains(kind))
        }
    };
    Ok(match missing {
        Some(missing) => Err(format!("the server's metadata names no {missing}")),
        None => Ok("metadata names what we send".to_owned()),
    })
}
