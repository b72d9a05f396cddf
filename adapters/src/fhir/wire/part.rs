//! Small parts of resources, and the folder in which the resources of one message are gathered.

use serde::Serialize;
use serde_json::{Map, Value, json};
use waymark_core::error::Violation;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{RenderError, Rendered};
use waymark_core::referral::{Address, Name};

use super::super::name;
use super::{MEDIA_TYPE, cannot};
use crate::limits::BODY_BYTES_MAX;

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
    pub(super) fn put(&mut self, name: &str, kind: &str, mut elements: Value) {
        prune(&mut elements);
        if let Some(map) = elements.as_object_mut() {
            map.insert("resourceType".to_owned(), kind.into());
        }
        self.entries.push(Entry {
            name: name.to_owned(),
            url: self.url(name),
            resource: elements,
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

/// Takes out what is empty, and says whether anything is left: FHIR has neither nulls nor empty texts, lists or objects
/// (FHIR R4, 2.6.2).
fn prune(value: &mut Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => {
            items.retain_mut(prune);
            !items.is_empty()
        }
        Value::Object(map) => {
            map.retain(|_, value| prune(value));
            !map.is_empty()
        }
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// A bundle as it is written. What it is made of is moved here, not copied again.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bundle {
    pub(super) entry: Vec<BundleEntry>,
    pub(super) id: String,
    pub(super) identifier: Value,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) meta: Map<String, Value>,
    pub(super) resource_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timestamp: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
}

/// An entry of it; what a server shall do with the resource in a transaction alone.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BundleEntry {
    pub(super) full_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<Value>,
    pub(super) resource: Value,
}

impl Bundle {
    /// Its bytes, within the limit.
    pub(super) fn written(&self) -> Result<Rendered, RenderError> {
        let bytes =
            serde_json::to_vec(self).map_err(|_| cannot("content", "cannot be written as JSON"))?;
        if bytes.len() > BODY_BYTES_MAX {
            let why = format!("is longer than {BODY_BYTES_MAX} bytes");
            return Err(cannot("body", &why));
        }
        Ok(Rendered {
            media_type: MEDIA_TYPE.to_owned(),
            bytes: Payload::new(bytes),
        })
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
