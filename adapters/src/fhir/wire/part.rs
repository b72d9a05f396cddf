//! Small parts of resources, and the folder in which the resources of one message are gathered.

use serde_json::{Map, Value, json};
use waymark_core::error::Violation;
use waymark_core::personal::Personal;
use waymark_core::referral::{Address, Name};

use super::super::name;

/// A resource under its place in the message.
pub(super) struct Entry {
    /// Its name within the message, e.g. `flag-0`: ids follow from it.
    pub(super) name: String,
    /// Its `fullUrl`.
    pub(super) url: String,
    /// The resource.
    pub(super) resource: Value,
}

/// The resources of one message, and what of the content FHIR's types cannot hold.
pub(super) struct Folder<'a> {
    /// What the ids follow from: the wire id.
    seed: &'a str,
    pub(super) entries: Vec<Entry>,
    pub(super) faults: Vec<Violation>,
}

impl<'a> Folder<'a> {
    pub(super) fn new(seed: &'a str) -> Self {
        Self {
            seed,
            entries: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Where the resource of that name stands, whether it is in already or not.
    pub(super) fn url(&self, name: &str) -> String {
        format!("urn:uuid:{}", name::uuid_of(&[self.seed, name]))
    }

    /// A reference to it.
    pub(super) fn reference(&self, name: &str) -> Value {
        json!({ "reference": self.url(name) })
    }

    /// Puts a resource in: its type, then what is not empty of its elements.
    pub(super) fn put(&mut self, name: &str, kind: &str, elements: Value) {
        let mut resource = Map::new();
        resource.insert("resourceType".to_owned(), kind.into());
        if let Some(Value::Object(elements)) = pruned(elements) {
            resource.extend(elements);
        }
        self.entries.push(Entry {
            name: name.to_owned(),
            url: self.url(name),
            resource: Value::Object(resource),
        });
    }

    /// A coding whose parts FHIR's types can hold; a fault of the field otherwise.
    pub(super) fn coding(&mut self, field: &str, system: &str, code: &str) -> Value {
        let system = name::system_of(system);
        let whole = !system
            .as_deref()
            .unwrap_or_default()
            .contains(char::is_whitespace);
        if !whole || !is_code(code) {
            let why = "has blanks that a FHIR code or system cannot hold: correct it";
            self.faults.push(Violation::new(field, why));
        }
        json!({ "system": system, "code": code })
    }

    /// An identifier, likewise.
    pub(super) fn identifier(&mut self, field: &str, namespace: &str, value: &str) -> Value {
        let system = name::system_of(namespace);
        if system
            .as_deref()
            .unwrap_or_default()
            .contains(char::is_whitespace)
        {
            let why = "has blanks that a FHIR system cannot hold: correct it";
            self.faults.push(Violation::new(field, why));
        }
        json!({ "system": system, "value": value })
    }
}

/// A FHIR code: no blank at either end, and no two together (FHIR R4, 2.24.0.1).
fn is_code(text: &str) -> bool {
    !text.is_empty()
        && text.trim() == text
        && !text.contains(|c: char| c.is_whitespace() && c != ' ')
        && !text.contains("  ")
}

/// The value without what is empty: FHIR has neither nulls nor empty texts, lists or objects (FHIR R4, 2.6.2).
pub(super) fn pruned(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then_some(Value::String(text)),
        Value::Array(items) => {
            let items: Vec<Value> = items.into_iter().filter_map(pruned).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::Object(map) => {
            let map: Map<String, Value> = map
                .into_iter()
                .filter_map(|(key, value)| Some((key, pruned(value)?)))
                .collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
        Value::Bool(_) | Value::Number(_) => Some(value),
    }
}

/// An extension of ours with a code of one of our closed lists.
pub(super) fn code_extension(name: &str, code: &str) -> Value {
    json!({ "url": name::extension(name), "valueCode": code })
}

/// An extension of ours with words; nothing where there are none.
pub(super) fn text_extension(name: &str, text: Option<&str>) -> Value {
    match text.filter(|text| !text.is_empty()) {
        Some(text) => json!({ "url": name::extension(name), "valueString": text }),
        None => Value::Null,
    }
}

/// A value of one of our closed lists.
pub(super) fn value_concept(code: &str) -> Value {
    json!({ "coding": [{ "system": name::VALUE, "code": code }] })
}

/// What one of our observations observes.
pub(super) fn observed(code: &str) -> Value {
    json!({ "coding": [{ "system": name::OBSERVED, "code": code }], "text": code })
}

pub(super) fn human_name(written: &Name) -> Value {
    json!({
        "use": "official",
        "family": written.family.expose(),
        "given": [written.given.expose(), written.middle.as_ref().map(Personal::expose)],
    })
}

pub(super) fn address(address: &Address) -> Value {
    let lines: Vec<&String> = address.lines.iter().map(Personal::expose).collect();
    json!({
        "use": "home",
        "line": lines,
        "postalCode": address.postcode.as_ref().map(Personal::expose),
    })
}

pub(super) fn telecom(phone: Option<&str>, email: Option<&str>) -> Value {
    let point = |system: &str, value: Option<&str>| {
        value
            .filter(|value| !value.is_empty())
            .map(|value| json!({ "system": system, "value": value }))
    };
    json!([point("phone", phone), point("email", email)])
}

/// A note, marked with what it is where it is ours to read back.
pub(super) fn note(kind: &str, text: Option<&str>) -> Value {
    match text.filter(|text| !text.is_empty()) {
        Some(text) => json!({ "extension": [code_extension("note", kind)], "text": text }),
        None => Value::Null,
    }
}
