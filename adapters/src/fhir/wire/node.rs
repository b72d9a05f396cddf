//! A place in a FHIR document, read by element; it knows its path, so that every fault can name it.
//!
//! `fhir-model`, the one maintained crate, is not used: see ARCHITECTURE.md. Nothing that is not read is lost here.

use serde_json::Value;

/// What kind of fault it is, as FHIR's issue types have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issue {
    /// The document is not built as FHIR is.
    Structure,
    /// An element is missing.
    Required,
    /// An element has a value that it may not have.
    Value,
    /// It is FHIR, and not what is taken here.
    NotSupported,
}

impl Issue {
    /// FHIR's code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Required => "required",
            Self::Value => "value",
            Self::NotSupported => "not-supported",
        }
    }
}

/// What is wrong with a document, and where; it repeats no content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {rule}")]
pub struct Fault {
    /// The path, e.g. `Bundle.entry[1].resource.category`.
    pub path: String,
    /// The rule that it breaks.
    pub rule: String,
    /// The kind.
    pub issue: Issue,
}

impl Fault {
    /// Names a fault.
    pub(crate) fn new(path: impl Into<String>, rule: impl Into<String>, issue: Issue) -> Self {
        Self {
            path: path.into(),
            rule: rule.into(),
            issue,
        }
    }

    /// The fault as it stands beneath a place.
    pub(crate) fn beneath(self, place: &str) -> Self {
        Self {
            path: format!("{place}{}", self.path),
            ..self
        }
    }
}

/// A place in a document.
#[derive(Clone)]
pub(crate) struct Node<'v> {
    value: &'v Value,
    path: String,
}

impl<'v> Node<'v> {
    pub(crate) fn new(value: &'v Value, path: impl Into<String>) -> Self {
        Self {
            value,
            path: path.into(),
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn value(&self) -> &'v Value {
        self.value
    }

    /// A fault of this place.
    pub(crate) fn fault(&self, rule: impl Into<String>, issue: Issue) -> Fault {
        Fault::new(self.path.clone(), rule, issue)
    }

    /// A fault of an element of it.
    pub(crate) fn fault_of(&self, element: &str, rule: impl Into<String>, issue: Issue) -> Fault {
        Fault::new(format!("{}.{element}", self.path), rule, issue)
    }

    /// The element that is one object.
    pub(crate) fn object(&self, element: &str) -> Result<Option<Self>, Fault> {
        match self.value.get(element) {
            None => Ok(None),
            Some(value) if value.is_object() => {
                Ok(Some(Self::new(value, format!("{}.{element}", self.path))))
            }
            Some(_) => Err(self.fault_of(element, "is one object", Issue::Structure)),
        }
    }

    /// The element that is one object and must be there.
    pub(crate) fn required(&self, element: &str) -> Result<Self, Fault> {
        self.object(element)?
            .ok_or_else(|| self.fault_of(element, "is required", Issue::Required))
    }

    /// The objects of an element that is a list.
    pub(crate) fn list(&self, element: &str) -> Result<Vec<Self>, Fault> {
        let Some(value) = self.value.get(element) else {
            return Ok(Vec::new());
        };
        let Some(items) = value.as_array() else {
            return Err(self.fault_of(element, "is a list", Issue::Structure));
        };
        let item = |(nth, value): (usize, &'v Value)| {
            let node = Self::new(value, format!("{}.{element}[{nth}]", self.path));
            if value.is_object() {
                Ok(node)
            } else {
                Err(node.fault("is one object", Issue::Structure))
            }
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The texts of an element that is a list of texts.
    pub(crate) fn texts(&self, element: &str) -> Result<Vec<&'v str>, Fault> {
        let Some(value) = self.value.get(element) else {
            return Ok(Vec::new());
        };
        let wrong = || self.fault_of(element, "is a list of texts", Issue::Structure);
        let items = value.as_array().ok_or_else(wrong)?;
        items
            .iter()
            .map(|item| item.as_str().ok_or_else(wrong))
            .collect()
    }

    /// The element that is a text.
    pub(crate) fn text(&self, element: &str) -> Result<Option<&'v str>, Fault> {
        match self.value.get(element) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(self.fault_of(element, "is a text that is not empty", Issue::Structure)),
        }
    }

    /// The element that is a text and must be there.
    pub(crate) fn required_text(&self, element: &str) -> Result<&'v str, Fault> {
        self.text(element)?
            .ok_or_else(|| self.fault_of(element, "is required", Issue::Required))
    }

    /// The element that is a truth value.
    pub(crate) fn truth(&self, element: &str) -> Result<Option<bool>, Fault> {
        match self.value.get(element) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(_) => Err(self.fault_of(element, "is true or false", Issue::Structure)),
        }
    }

    /// The element that is a whole number.
    pub(crate) fn integer(&self, element: &str) -> Result<Option<i64>, Fault> {
        match self.value.get(element) {
            None => Ok(None),
            Some(value) => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| self.fault_of(element, "is a whole number", Issue::Structure)),
        }
    }

    /// The codings of an element that is one concept.
    pub(crate) fn concept(&self, element: &str) -> Result<Concept<'v>, Fault> {
        match self.object(element)? {
            None => Ok(Concept::default()),
            Some(node) => Concept::read(&node),
        }
    }

    /// The extension of that URL.
    pub(crate) fn extension(&self, url: &str) -> Result<Option<Self>, Fault> {
        for list in ["extension", "modifierExtension"] {
            for found in self.list(list)? {
                if found.text("url")? == Some(url) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }
}

/// A code of a list.
#[derive(Clone, Copy)]
pub(crate) struct Coding<'v> {
    pub(crate) system: Option<&'v str>,
    pub(crate) code: Option<&'v str>,
    pub(crate) display: Option<&'v str>,
}

impl<'v> Coding<'v> {
    pub(crate) fn read(node: &Node<'v>) -> Result<Self, Fault> {
        Ok(Self {
            system: node.text("system")?,
            code: node.text("code")?,
            display: node.text("display")?,
        })
    }
}

/// A concept: codes and words.
#[derive(Clone, Default)]
pub(crate) struct Concept<'v> {
    pub(crate) codings: Vec<Coding<'v>>,
    pub(crate) text: Option<&'v str>,
}

impl<'v> Concept<'v> {
    pub(crate) fn read(node: &Node<'v>) -> Result<Self, Fault> {
        let codings = node.list("coding")?;
        Ok(Self {
            codings: codings.iter().map(Coding::read).collect::<Result<_, _>>()?,
            text: node.text("text")?,
        })
    }

    /// The code of one list.
    pub(crate) fn code_of(&self, system: &str) -> Option<&'v str> {
        let found = self
            .codings
            .iter()
            .find(|coding| super::super::name::is_system(coding.system, system));
        found.and_then(|coding| coding.code)
    }

    /// What a person reads: the words, else the first display, else the first code.
    pub(crate) fn words(&self) -> Option<&'v str> {
        let display = || self.codings.iter().find_map(|coding| coding.display);
        let code = || self.codings.iter().find_map(|coding| coding.code);
        self.text.or_else(display).or_else(code)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_names_its_path_and_its_rule() {
        let value =
            json!({"basedOn": {"reference": "x"}, "status": 5, "note": [{"text": ""}], "code": []});
        let node = Node::new(&value, "ServiceRequest");
        let path = |fault: Option<Fault>| fault.map(|fault| fault.to_string());
        assert_eq!(
            path(node.list("basedOn").err()),
            Some("ServiceRequest.basedOn: is a list".to_owned())
        );
        assert_eq!(
            path(node.required_text("intent").err()),
            Some("ServiceRequest.intent: is required".to_owned())
        );
        assert!(node.text("status").is_err());
        assert!(node.concept("code").is_err());
        let note = node.list("note").unwrap().remove(0);
        assert_eq!(note.path(), "ServiceRequest.note[0]");
        assert!(note.text("text").is_err(), "FHIR has no empty texts");
    }
}
