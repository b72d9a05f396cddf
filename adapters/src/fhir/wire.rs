//! FHIR R4 on the wire, pure: what we send and how what comes is read.
//!
//! Lost on the way out, beside what [`super`] lists: nothing. What FHIR has no element for travels in extensions under
//! `urn:waymark:extension:`, and what is safety-critical in words as well.

use serde_json::{Map, Value, json};
use waymark_core::directory::{CodeMap, Environment};
use waymark_core::error::Violation;
use waymark_core::port::{RenderError, Rendered, Source};
use waymark_core::referral::Referral;

use super::config::{Mode, Settings};

mod aside;
pub(crate) mod bars;
mod code;
mod consent;
pub(crate) mod inward;
pub(crate) mod message;
pub(crate) mod node;
mod notice;
mod outward;
mod part;
mod people;
pub(crate) mod plain;
mod safety;
mod support;
#[cfg(test)]
pub(super) mod tests;
mod words;

/// The media type of FHIR JSON.
pub(crate) const MEDIA_TYPE: &str = "application/fhir+json";

fn cannot(field: &str, why: &str) -> RenderError {
    RenderError::CannotCarry(Violation::new(field, why))
}

fn content(source: &Source) -> Result<&Referral, RenderError> {
    source
        .content
        .as_ref()
        .ok_or_else(|| cannot("content", "is missing"))
}

/// The status of a BaRS request in a state.
pub(crate) fn bars_status(state: waymark_core::leg::LegState) -> &'static str {
    code::bars_status(state)
}

/// The metadata of a bundle: test data says that it is (v3-ActReason `HTEST`; ruling 22).
fn meta(environment: Environment, profile: Option<&str>) -> Map<String, Value> {
    let test =
        json!({ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST" });
    let mut meta = Map::new();
    meta.extend(profile.map(|profile| ("profile".to_owned(), json!([profile]))));
    if environment == Environment::Test {
        meta.insert("security".to_owned(), json!([test]));
    }
    meta
}

/// Renders what an endpoint's far side understands.
pub(super) fn render(
    source: &Source,
    settings: &Settings,
    codes: &CodeMap,
    environment: Environment,
) -> Result<Rendered, RenderError> {
    if source.environment != environment {
        let why = format!(
            "this deployment sends {} messages alone",
            environment.as_str()
        );
        return Err(cannot("environment", &why));
    }
    match settings.mode {
        Mode::Bars => bars::render(source, settings, codes),
        Mode::Plain => plain::render(source, settings, codes),
    }
}
