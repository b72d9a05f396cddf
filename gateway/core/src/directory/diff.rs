//! What differs between two directories, in the words of their files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::time::Duration;

use serde::Serialize;

use crate::family::Template;

use super::{CodeList, CodeMap, CodeTest, Directory, Expected, RouteTest, Rule, Validity};

/// What happened to a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Some of its fields differ.
    Changed,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// To what, e.g. `rule autism-u5`.
    pub what: String,
    /// The fields that differ as they were, `field = value` joined by `; `; empty when added.
    pub before: String,
    /// The same fields as they are; empty when removed.
    pub after: String,
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ChangeKind::Added => write!(f, "+ {}: {}", self.what, self.after),
            ChangeKind::Removed => write!(f, "- {}: {}", self.what, self.before),
            ChangeKind::Changed => write!(f, "~ {}: {} -> {}", self.what, self.before, self.after),
        }
    }
}

/// Lists every difference between two directories; where things stand in their files is none.
pub fn diff(old: &Directory, new: &Directory) -> Vec<Change> {
    let (before, after) = (things(old), things(new));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut changes: Vec<Change> = names
        .into_iter()
        .filter_map(|what| change(what, before.get(what), after.get(what)))
        .collect();
    changes.extend(order(old, new));
    changes
}

/// Fields by name; a field that was left out is not there.
type Fields = BTreeMap<&'static str, String>;

fn change(what: &str, before: Option<&Fields>, after: Option<&Fields>) -> Option<Change> {
    let kind = match (before, after) {
        (None, _) => ChangeKind::Added,
        (_, None) => ChangeKind::Removed,
        (Some(before), Some(after)) if before == after => return None,
        (Some(_), Some(_)) => ChangeKind::Changed,
    };
    let differing = |own: Option<&Fields>, other: Option<&Fields>| {
        let own = own?;
        let other_names = other.into_iter().flat_map(Fields::keys);
        let names: BTreeSet<&&str> = own.keys().chain(other_names).collect();
        let texts = names
            .into_iter()
            .filter(|n| own.get(**n) != other.and_then(|o| o.get(**n)));
        Some(
            texts
                .map(|n| format!("{n} = {}", own.get(*n).map_or("(none)", String::as_str)))
                .collect::<Vec<_>>()
                .join("; "),
        )
    };
    Some(Change {
        kind,
        what: what.to_owned(),
        before: differing(before, after).unwrap_or_default(),
        after: differing(after, before).unwrap_or_default(),
    })
}

/// Whether the rules that both have are tried in another order.
fn order(old: &Directory, new: &Directory) -> Option<Change> {
    let common = |of: &Directory, other: &Directory| -> Vec<String> {
        let kept = |rule: &&Rule| other.rules.iter().any(|r| r.id == rule.id);
        of.rules
            .iter()
            .filter(kept)
            .map(|r| r.id.to_string())
            .collect()
    };
    let (before, after) = (common(old, new), common(new, old));
    (before != after).then(|| Change {
        kind: ChangeKind::Changed,
        what: "order of rules".to_owned(),
        before: before.join(", "),
        after: after.join(", "),
    })
}

/// Everything in a directory, by kind and id.
fn things(directory: &Directory) -> BTreeMap<String, Fields> {
    let mut things = BTreeMap::new();
    let area = &directory.area;
    let mut fields = Fields::new();
    fields.insert("id", area.id.clone());
    fields.insert("name", area.name.clone());
    fields.insert("environment", area.environment.as_str().to_owned());
    fields.insert("triage", area.triage.to_string());
    things.insert("area".to_owned(), fields);
    for a in directory.agencies.values() {
        let mut fields = validity(a.validity);
        fields.insert("name", a.name.clone());
        fields.insert("sector", word(&a.sector));
        fields.extend(
            a.return_endpoint
                .as_ref()
                .map(|e| ("return_endpoint", e.to_string())),
        );
        things.insert(format!("agency {}", a.id), fields);
    }
    for i in directory.identities.values() {
        let mut fields = validity(i.validity);
        fields.insert("agency", i.agency.to_string());
        fields.insert(
            "roles",
            i.roles.iter().map(word).collect::<Vec<_>>().join(", "),
        );
        set(&mut fields, "acts_for", &i.acts_for);
        set(&mut fields, "hl7_senders", &i.hl7_senders);
        fields.extend(i.codes.id.as_ref().map(|id| ("code_map", id.to_string())));
        things.insert(format!("identity {}", i.name), fields);
    }
    for s in directory.services.values() {
        let mut fields = validity(s.validity);
        fields.insert("name", s.name.clone());
        fields.insert("agency", s.agency.to_string());
        fields.insert("endpoint", s.endpoint.to_string());
        fields.insert("owner_role", s.owner_role.clone());
        set(&mut fields, "pathways", &s.pathways);
        things.insert(format!("service {}", s.id), fields);
    }
    for e in directory.endpoints.values() {
        things.insert(format!("endpoint {}", e.id), endpoint(e));
    }
    for r in &directory.rules {
        things.insert(format!("rule {}", r.id), rule(r));
    }
    for t in &directory.tests {
        things.insert(format!("test \"{}\"", t.name), test(t));
    }
    for s in &directory.successions {
        let fields = Fields::from([("to", s.to.to_string()), ("on", s.on.to_string())]);
        things.insert(format!("succession {}", s.from), fields);
    }
    for m in directory.code_maps.values() {
        let id = m.id.as_ref().map(ToString::to_string).unwrap_or_default();
        things.insert(format!("code_map {id}"), code_map(m));
    }
    for t in &directory.code_tests {
        things.insert(format!("code_test \"{}\"", t.name), code_test(t));
    }
    for t in &directory.templates {
        things.insert(format!("template {}/{}", t.id, t.version), template(t));
    }
    things
}

fn code_map(m: &CodeMap) -> Fields {
    let mut fields = Fields::new();
    for list in CodeList::ALL {
        let codes: Vec<String> = m
            .entries(*list)
            .map(|(canonical, wire)| format!("{canonical} = {wire}"))
            .collect();
        if !codes.is_empty() {
            fields.insert(list.as_str(), codes.join(", "));
        }
    }
    fields
}

fn code_test(t: &CodeTest) -> Fields {
    let (given, expect) = match &t.expected {
        Expected::Wire(canonical, wire) => (canonical.clone(), wire.to_string()),
        Expected::Canonical(wire, canonical) => (wire.to_string(), canonical.clone()),
    };
    Fields::from([
        ("code_map", t.map.to_string()),
        ("list", t.list.as_str().to_owned()),
        ("given", given),
        ("expect", expect),
    ])
}

fn template(t: &Template) -> Fields {
    let mut fields = validity(t.validity);
    fields.insert("endpoint", t.endpoint.to_string());
    fields.insert("remote", t.remote.clone());
    fields.insert("way", t.way.as_str().to_owned());
    set(&mut fields, "states", &t.states);
    set(&mut fields, "pathways", &t.pathways);
    fields.insert("language", t.language.clone());
    fields.insert("format", t.format.to_string());
    let names: BTreeSet<&str> = t.fields.iter().map(|field| field.as_str()).collect();
    set(&mut fields, "fields", &names);
    fields
}

fn endpoint(e: &super::Endpoint) -> Fields {
    let mut fields = validity(e.validity);
    fields.insert("agency", e.agency.to_string());
    fields.insert("adapter", e.adapter.as_str().to_owned());
    let settings: Vec<String> = e
        .settings
        .iter()
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    if !settings.is_empty() {
        fields.insert("settings", format!("{{ {} }}", settings.join(", ")));
    }
    fields.insert("releases_at", e.releases_at.to_string());
    fields.insert("deadline", lasting(e.deadline));
    fields.insert("evidence_within", lasting(e.evidence_within));
    fields.insert("attempt_timeout", lasting(e.attempt_timeout));
    fields.insert("concurrency", e.concurrency.to_string());
    fields.insert("retry", word(&e.retry));
    fields.extend(e.codes.id.as_ref().map(|id| ("code_map", id.to_string())));
    fields
}

fn rule(r: &Rule) -> Fields {
    let mut fields = validity(r.validity);
    let when = &r.when;
    set(&mut fields, "pathway", &when.pathway);
    set(&mut fields, "need", &when.need);
    fields.extend(when.age_min.map(|age| ("age_min", age.to_string())));
    fields.extend(when.age_max.map(|age| ("age_max", age.to_string())));
    set(&mut fields, "area", &when.area);
    set(&mut fields, "setting", &when.setting);
    set(&mut fields, "priority", &when.priority);
    set(&mut fields, "consent", &when.consent);
    set(&mut fields, "sender", &when.sender);
    fields.insert(
        "to",
        r.to.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    );
    fields
}

fn test(t: &RouteTest) -> Fields {
    let mut fields = Fields::from([("given", word(&t.given))]);
    fields.extend(t.on.map(|on| ("on", on.to_string())));
    set(&mut fields, "expect", &t.expect);
    fields
}

fn validity(validity: Validity) -> Fields {
    let from = validity
        .valid_from
        .map(|day| ("valid_from", day.to_string()));
    let to = validity.valid_to.map(|day| ("valid_to", day.to_string()));
    from.into_iter().chain(to).collect()
}

fn set<T: Display>(fields: &mut Fields, name: &'static str, items: &BTreeSet<T>) {
    if !items.is_empty() {
        fields.insert(
            name,
            items
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        );
    }
}

fn lasting(length: Duration) -> String {
    jiff::SignedDuration::try_from(length)
        .map_or_else(|_| format!("{length:?}"), |d| format!("{d:#}"))
}

/// The word that serialising gives, without quotes where it is one.
fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value)
        .unwrap_or_default()
        .trim_matches('"')
        .to_owned()
}

#[cfg(test)]
mod tests;
