//! What a foreign message says beside what has a field here: in words for the narrative, so that nobody overlooks it
//! (invariant 12). What changes the meaning of what is read, and is not known here, refuses the message.

use serde_json::Value;

use super::super::name;
use super::inward::{READ, Reading};
use super::message::Message;
use super::node::{Concept, Fault, Issue, Node};

/// The one modifier that is known here: whether somebody may be contacted.
const KNOWN_MODIFIER: &str = "safe-to-contact";

/// Refuses what says that the rest means something else: a modifier extension or implicit rules that are not known here
/// (FHIR R4, 2.5.0.1 and 2.26.3.7), and a request to do nothing.
pub(super) fn understood(message: &Message<'_>) -> Result<(), Fault> {
    for resource in message.resources.iter().filter(|r| READ.contains(&r.kind)) {
        modifiers(resource.node.value()).map_err(|fault| fault.beneath(resource.node.path()))?;
        if resource.node.truth("doNotPerform")? == Some(true) {
            let rule = "is not true: a request to do nothing is not taken here";
            let issue = Issue::NotSupported;
            return Err(resource.node.fault_of("doNotPerform", rule, issue));
        }
    }
    Ok(())
}

/// Goes through a value, which is nested at most 128 deep. The path of a fault begins at it.
fn modifiers(value: &Value) -> Result<(), Fault> {
    match value {
        Value::Array(items) => {
            for (nth, item) in items.iter().enumerate() {
                modifiers(item).map_err(|fault| fault.beneath(&format!("[{nth}]")))?;
            }
        }
        Value::Object(map) => {
            for (key, inner) in map {
                let looked = match key.as_str() {
                    "modifierExtension" => known(inner),
                    "implicitRules" => {
                        let rule = "is absent: rules of another place are not known here";
                        Err(Fault::new("", rule, Issue::NotSupported))
                    }
                    _ => modifiers(inner),
                };
                looked.map_err(|fault| fault.beneath(&format!(".{key}")))?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn known(extensions: &Value) -> Result<(), Fault> {
    let known = name::extension(KNOWN_MODIFIER);
    let all = extensions.as_array().map(Vec::as_slice).unwrap_or_default();
    let foreign = all
        .iter()
        .position(|one| one.get("url").and_then(Value::as_str) != Some(&known));
    match foreign {
        None => Ok(()),
        Some(nth) => {
            let rule = "is an extension that is known here: what it modifies would be misread";
            Err(Fault::new(format!("[{nth}]"), rule, Issue::NotSupported))
        }
    }
}

/// Says the words, if there are any.
fn say(reading: &mut Reading<'_, '_>, what: &str, words: Option<&str>) {
    if let Some(words) = words.filter(|words| !words.is_empty()) {
        reading.say(format!("{what}: {words}"));
    }
}

/// Whether a name, address, telecommunication or identifier is one that holds no longer: a use that modifies
/// (FHIR R4, 2.24.0.14).
pub(super) fn is_old(node: &Node<'_>) -> Result<bool, Fault> {
    Ok(node.text("use")? == Some("old"))
}

/// Which of a list is taken: the first of that use, else the first that is not old.
pub(super) fn preferred(all: &[Node<'_>], wanted: &str) -> Result<Option<usize>, Fault> {
    let mut first = None;
    for (nth, one) in all.iter().enumerate() {
        match one.text("use")? {
            Some(found) if found == wanted => return Ok(Some(nth)),
            Some("old") => {}
            _ => first = first.or(Some(nth)),
        }
    }
    Ok(first)
}

/// What of a person is not read elsewhere: every name, address and telecommunication but those that are taken.
pub(super) fn person(
    reading: &mut Reading<'_, '_>,
    node: &Node<'_>,
    (who, takes_address, takes_telecom): (&str, bool, bool),
) -> Result<(), Fault> {
    let names = node.list("name")?;
    let taken = preferred(&names, "official")?;
    for (_, other) in names
        .iter()
        .enumerate()
        .filter(|(nth, _)| Some(*nth) != taken)
    {
        let words = super::people::name_words(other)?;
        let kind = other.text("use")?.unwrap_or("other");
        say(reading, &format!("{who}, {kind} name"), words.as_deref());
    }
    let addresses = node.list("address")?;
    let taken = preferred(&addresses, "home")?.filter(|_| takes_address);
    for (_, other) in addresses
        .iter()
        .enumerate()
        .filter(|(nth, _)| Some(*nth) != taken)
    {
        let mut parts = other.texts("line")?;
        for part in ["city", "district", "state", "postalCode", "country"] {
            parts.extend(other.text(part)?);
        }
        if parts.is_empty() {
            parts.extend(other.text("text")?);
        }
        let kind = other.text("use")?.unwrap_or("other");
        let words = parts.join(", ");
        say(reading, &format!("{who}, {kind} address"), Some(&words));
    }
    let (mut phone, mut email) = (!takes_telecom, !takes_telecom);
    for point in node.list("telecom")? {
        let system = point.text("system")?;
        let first = match system {
            _ if is_old(&point)? => false,
            Some("phone" | "sms") => !std::mem::replace(&mut phone, true),
            Some("email") => !std::mem::replace(&mut email, true),
            _ => false,
        };
        if !first {
            let kind = [point.text("use")?, system];
            let kind: Vec<&str> = kind.into_iter().flatten().collect();
            let what = format!("{who}, {}", kind.join(" "));
            say(
                reading,
                what.trim_end_matches([',', ' ']),
                point.text("value")?,
            );
        }
    }
    for identifier in node.list("identifier")? {
        if is_old(&identifier)? {
            let what = format!("{who}, old identifier");
            say(reading, &what, identifier.text("value")?);
        }
    }
    if node.truth("active")? == Some(false) {
        reading.say(format!("{who}: the record is marked as not in use"));
    }
    Ok(())
}

/// That a child has died, which no field says.
pub(super) fn deceased(reading: &mut Reading<'_, '_>, patient: &Node<'_>) -> Result<(), Fault> {
    let day = patient.text("deceasedDateTime")?;
    if day.is_some() || patient.truth("deceasedBoolean")? == Some(true) {
        let line = format!(
            "The child is recorded as deceased {}",
            day.unwrap_or_default()
        );
        reading.say(line.trim_end());
    }
    Ok(())
}

/// What of the request is not read elsewhere.
pub(super) fn request(reading: &mut Reading<'_, '_>) -> Result<(), Fault> {
    let request = reading.request;
    let asked = request.concept("code")?;
    if asked.code_of(name::PATHWAY).is_none() {
        say(reading, "Asked for", asked.words());
    }
    for detail in request.list("orderDetail")? {
        say(
            reading,
            "Asked for, in detail",
            Concept::read(&detail)?.words(),
        );
    }
    say(
        reading,
        "For the patient",
        request.text("patientInstruction")?,
    );
    for (nth, reason) in request.list("reasonCode")?.iter().enumerate() {
        let concept = Concept::read(reason)?;
        if nth > 0 {
            say(reading, "Further reason", concept.words());
        }
        for coding in concept.codings.iter().skip(1) {
            // Our own code beside a mapped one says nothing new.
            if coding.system != Some(name::REASON) {
                say(
                    reading,
                    "Reason, coded also",
                    coding.display.or(coding.code),
                );
            }
        }
    }
    window(reading, request)
}

/// When the request is wanted. Ours says no more than when it was sent.
fn window(reading: &mut Reading<'_, '_>, request: &Node<'_>) -> Result<(), Fault> {
    say(reading, "Wanted on", request.text("occurrenceDateTime")?);
    let Some(period) = request.object("occurrencePeriod")? else {
        return Ok(());
    };
    let (start, end) = (period.text("start")?, period.text("end")?);
    if end.is_none() && start == request.text("authoredOn")? {
        return Ok(());
    }
    let start = start.map(|start| format!("from {start}"));
    let end = end.map(|end| format!("until {end}"));
    let words: Vec<String> = start.into_iter().chain(end).collect();
    say(reading, "Wanted", Some(&words.join(" ")));
    Ok(())
}

/// Whether a resource's status says that it holds no longer, or never did: that status.
pub(super) fn stale<'v>(node: &Node<'v>, stale: &[&str]) -> Result<Option<&'v str>, Fault> {
    Ok(node.text("status")?.filter(|status| stale.contains(status)))
}

/// Whether a finding was ruled out or entered in error: its verification's code.
pub(super) fn ruled_out<'v>(node: &Node<'v>) -> Result<Option<&'v str>, Fault> {
    let codes = node.concept("verificationStatus")?.codings;
    let mut codes = codes.iter().filter_map(|coding| coding.code);
    Ok(codes.find(|code| ["refuted", "entered-in-error"].contains(code)))
}

/// Whether a finding is no longer there: its clinical status's code.
pub(super) fn past<'v>(node: &Node<'v>) -> Result<Option<&'v str>, Fault> {
    let codes = node.concept("clinicalStatus")?.codings;
    let mut codes = codes.iter().filter_map(|coding| coding.code);
    Ok(codes.find(|code| ["inactive", "remission", "resolved"].contains(code)))
}
