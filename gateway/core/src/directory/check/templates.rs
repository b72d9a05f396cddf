//! What is wrong with what families are told.

use super::Finding;
use crate::directory::{AdapterKind, Directory, Validity};
use crate::family::{Field, Template, Way};

pub(super) fn findings(directory: &Directory) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, template) in directory.templates.iter().enumerate() {
        sent_from(template, directory, &mut findings);
        says(template, &mut findings);
        let later = directory.templates.iter().skip(at + 1);
        later.for_each(|other| together(template, other, &mut findings));
    }
    agencies_endpoints(directory, &mut findings);
    findings
}

fn error(of: &Template, code: &'static str, message: String, remedy: &str) -> Finding {
    Finding::error(code, of.place.clone(), message, remedy)
}

fn named(template: &Template) -> String {
    format!("template {}/{}", template.id, template.version)
}

fn sent_from(template: &Template, directory: &Directory, findings: &mut Vec<Finding>) {
    let endpoint = directory.endpoints.get(&template.endpoint);
    if endpoint.is_some_and(|e| e.adapter != AdapterKind::Notify) {
        findings.push(error(
            template,
            "template-endpoint",
            format!(
                "{} is sent from {}, which writes to no family",
                named(template),
                template.endpoint
            ),
            "name an endpoint whose adapter is notify",
        ));
    }
}

fn says(template: &Template, findings: &mut Vec<Finding>) {
    if template.way == Way::Sms && template.fields.contains(&Field::Contact) {
        findings.push(error(
            template,
            "template-field",
            format!("{} names a person in a text message", named(template)),
            "leave `contact` out: a telephone is read by others",
        ));
    }
    let dayless = template.states.iter().find(|state| state.duty().is_none());
    if let Some(state) = dayless.filter(|_| template.fields.contains(&Field::NextStepBy)) {
        findings.push(error(
            template,
            "template-field",
            format!(
                "{} says next_step_by of {state}, after which no step is due",
                named(template)
            ),
            "leave `next_step_by` out, or the state",
        ));
    }
}

/// Two templates that may be due for the same leg.
fn together(one: &Template, other: &Template, findings: &mut Vec<Finding>) {
    let states = one.states.intersection(&other.states).next();
    let pathways = one.pathways.is_empty()
        || other.pathways.is_empty()
        || !one.pathways.is_disjoint(&other.pathways);
    let (Some(state), true, true) = (states, pathways, overlap(one.validity, other.validity))
    else {
        return;
    };
    if one.endpoint != other.endpoint {
        findings.push(error(
            other,
            "template-endpoint",
            format!(
                "{} and {} tell {state} of one pathway from two endpoints",
                named(one),
                named(other)
            ),
            "send both from one: what failed by one way is told by the next from there",
        ));
    }
    let alike = one.way == other.way
        && one.format == other.format
        && one.language.eq_ignore_ascii_case(&other.language);
    if alike && one.id != other.id {
        findings.push(error(
            other,
            "ambiguous-template",
            format!("{} and {} tell {state} alike", named(one), named(other)),
            "end one of them, or make one a version of the other",
        ));
    }
}

fn overlap(one: Validity, other: Validity) -> bool {
    let ends_before = |a: Validity, b: Validity| matches!((a.valid_to, b.valid_from), (Some(to), Some(from)) if to < from);
    !ends_before(one, other) && !ends_before(other, one)
}

/// An endpoint that writes to families carries nothing between agencies.
fn agencies_endpoints(directory: &Directory, findings: &mut Vec<Finding>) {
    let writes_to_families = |id| {
        let endpoint = directory.endpoints.get(id);
        endpoint.is_some_and(|e| e.adapter == AdapterKind::Notify)
    };
    let services = directory.services.values();
    let services = services.map(|s| ("service", s.id.as_str(), Some(&s.endpoint)));
    let agencies = directory.agencies.values();
    let agencies = agencies.map(|a| ("agency", a.id.as_str(), a.return_endpoint.as_ref()));
    for (kind, id, endpoint) in services.chain(agencies) {
        if let Some(endpoint) = endpoint.filter(|id| writes_to_families(*id)) {
            findings.push(Finding::error(
                "family-endpoint",
                directory.place(kind, id),
                format!(
                    "{kind} {id} is sent its messages at {endpoint}, which writes to families alone"
                ),
                "name an endpoint of its own system",
            ));
        }
    }
}
