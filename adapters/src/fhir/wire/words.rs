//! What has no field here, in words: findings with their values of any type, and what care plans say.

use std::fmt::Write as _;

use super::inward::Reading;
use super::node::{Concept, Fault, Issue, Node};

/// A finding: what it observes, its value, its parts and its notes.
pub(super) fn finding(node: &Node<'_>) -> Result<String, Fault> {
    let mut line = node.concept("code")?.words().unwrap_or_default().to_owned();
    if let Some(value) = value(node)? {
        let between = if line.is_empty() { "" } else { ": " };
        write!(line, "{between}{value}").unwrap_or_default();
    }
    for meaning in node.list("interpretation")? {
        let meaning = Concept::read(&meaning)?;
        write!(line, " [{}]", meaning.words().unwrap_or_default()).unwrap_or_default();
    }
    for part in node.list("component")? {
        write!(line, "; {}", finding(&part)?).unwrap_or_default();
    }
    for note in node.list("note")? {
        write!(line, " ({})", note.required_text("text")?).unwrap_or_default();
    }
    Ok(line)
}

/// The value, of whatever type (FHIR R4, 2.1.28): without it "no" would read as "yes". A type that is not read is refused.
fn value(node: &Node<'_>) -> Result<Option<String>, Fault> {
    let elements = node
        .value()
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys());
    let mut all = Vec::new();
    for element in elements.filter(|element| is_value(element)) {
        let words = match element.as_str() {
            "valueString" | "valueTime" | "valueDateTime" => {
                node.text(element)?.map(ToOwned::to_owned)
            }
            "valueBoolean" => {
                let truth = node.truth(element)?;
                truth.map(|truth| if truth { "yes" } else { "no" }.to_owned())
            }
            "valueInteger" => node.integer(element)?.map(|number| number.to_string()),
            "valueCodeableConcept" => node.concept(element)?.words().map(ToOwned::to_owned),
            "valueQuantity" => Some(quantity(&node.required(element)?)?),
            "valueRange" => Some(pair(&node.required(element)?, ("low", " to ", "high"))?),
            "valueRatio" => {
                let parts = ("numerator", " of ", "denominator");
                Some(pair(&node.required(element)?, parts)?)
            }
            "valuePeriod" => {
                let period = node.required(element)?;
                let (start, end) = (period.text("start")?, period.text("end")?);
                let (start, end) = (start.unwrap_or("?"), end.unwrap_or("?"));
                Some(format!("{start} to {end}"))
            }
            _ => {
                let rule = "is of a type that is not read here: send valueString, valueQuantity or another of one value";
                return Err(node.fault_of(element, rule, Issue::NotSupported));
            }
        };
        all.extend(words);
    }
    if all.is_empty()
        && let Some(why) = node.concept("dataAbsentReason")?.words()
    {
        all.push(format!("no value ({why})"));
    }
    Ok((!all.is_empty()).then(|| all.join(", ")))
}

fn is_value(element: &str) -> bool {
    let kind = element.strip_prefix("value");
    kind.is_some_and(|kind| kind.starts_with(|c: char| c.is_ascii_uppercase()))
}

fn quantity(node: &Node<'_>) -> Result<String, Fault> {
    let mut words: Vec<String> = Vec::new();
    words.extend(node.text("comparator")?.map(ToOwned::to_owned));
    match node.value().get("value") {
        None => {}
        Some(number) if number.is_number() => words.push(number.to_string()),
        Some(_) => return Err(node.fault_of("value", "is a number", Issue::Structure)),
    }
    let unit = node.text("unit")?.or(node.text("code")?);
    words.extend(unit.map(ToOwned::to_owned));
    Ok(words.join(" "))
}

fn pair(node: &Node<'_>, (one, between, other): (&str, &str, &str)) -> Result<String, Fault> {
    let part = |element: &str| match node.object(element)? {
        None => Ok("?".to_owned()),
        Some(found) => quantity(&found),
    };
    Ok(format!("{}{between}{}", part(one)?, part(other)?))
}

/// What a care plan says beside its activities.
pub(super) fn plan(reading: &mut Reading<'_, '_>, plan: &Node<'_>) -> Result<(), Fault> {
    let description = plan.text("description")?;
    reading
        .words
        .extend(description.map(|text| format!("Care plan: {text}")));
    for note in plan.list("note")? {
        let text = note.required_text("text")?;
        reading.say(format!("Care plan, note: {text}"));
    }
    Ok(())
}

/// An activity of a care plan that is no cycle of what was tried: it has no description, or says what must not be done.
pub(super) fn activity(reading: &mut Reading<'_, '_>, activity: &Node<'_>) -> Result<(), Fault> {
    let mut parts: Vec<String> = Vec::new();
    let mut what = "Care plan, activity";
    if let Some(detail) = activity.object("detail")? {
        if detail.truth("doNotPerform")? == Some(true) {
            what = "Care plan, NOT TO BE DONE";
        }
        parts.extend(detail.concept("code")?.words().map(ToOwned::to_owned));
        parts.extend(detail.text("description")?.map(ToOwned::to_owned));
        parts.extend(detail.text("scheduledString")?.map(ToOwned::to_owned));
        parts.extend(detail.text("status")?.map(ToOwned::to_owned));
    }
    for progress in activity.list("progress")? {
        parts.push(progress.required_text("text")?.to_owned());
    }
    if !parts.is_empty() {
        reading.say(format!("{what}: {}", parts.join(", ")));
    }
    Ok(())
}
