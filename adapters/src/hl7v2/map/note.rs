//! Notes of a fixed form, for what HL7 v2 has no field for.
//!
//! ```text
//! NTE|1|P|SAFEGUARDING: see plan~code=836881000000105~system=http://snomed.info/sct|SG^Safeguarding^WMNOTE
//! ```
//! NTE-4 names the kind of note in table `WMNOTE`. NTE-3's first repetition is the banner, for people;
//! each further one is a part, for machines: `path=text`, or `path:=json` for a number, a truth value or
//! a list. A dot in a path steps into a nested value.

use serde::Serialize;
use serde_json::{Map, Value};

use super::super::build::{SegmentWriter, Version};
use super::super::content::Note;
use super::super::separators::Separators;

/// The name of the table that NTE-4 of our notes is coded in.
pub const TABLE: &str = "WMNOTE";

/// The kinds of note, in the order in which a message has them: what must be read first comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKind {
    /// A safeguarding flag.
    Safeguarding,
    /// A person around the child, and whether contact is safe.
    Contact,
    /// Allergies.
    Allergies,
    /// A reasonable adjustment.
    Adjustment,
    /// Consent and what it covers.
    Consent,
    /// Why a referral is cancelled or withdrawn.
    Ending,
    /// The state that a status tells of.
    State,
    /// What is asked for and how soon.
    Request,
    /// Who refers.
    Referrer,
    /// What PID has no field for.
    Child,
    /// Where the child learns.
    Setting,
    /// One need.
    Need,
    /// One concern.
    Concern,
    /// One cycle of assess, plan, do and review.
    Cycle,
    /// One document, announced.
    Document,
    /// One reference of another system.
    External,
    /// Anything else the receiver should read.
    Narrative,
}

impl NoteKind {
    /// Every kind, in the order of a message.
    pub const ALL: [Self; 17] = [
        Self::Safeguarding,
        Self::Contact,
        Self::Allergies,
        Self::Adjustment,
        Self::Consent,
        Self::Ending,
        Self::State,
        Self::Request,
        Self::Referrer,
        Self::Child,
        Self::Setting,
        Self::Need,
        Self::Concern,
        Self::Cycle,
        Self::Document,
        Self::External,
        Self::Narrative,
    ];

    /// Returns code and words of NTE-4.
    pub fn code(self) -> (&'static str, &'static str) {
        match self {
            Self::Safeguarding => ("SG", "Safeguarding"),
            Self::Contact => ("CONTACT", "Person around the child"),
            Self::Allergies => ("ALLERGY", "Allergies"),
            Self::Adjustment => ("RA", "Reasonable adjustment"),
            Self::Consent => ("CONSENT", "Consent"),
            Self::Ending => ("ENDING", "Reason for cancelling"),
            Self::State => ("STATE", "Status of the referral"),
            Self::Request => ("REQUEST", "Request"),
            Self::Referrer => ("REFERRER", "Referrer"),
            Self::Child => ("CHILD", "Child"),
            Self::Setting => ("SETTING", "Education setting"),
            Self::Need => ("NEED", "Need"),
            Self::Concern => ("CONCERN", "Concern"),
            Self::Cycle => ("CYCLE", "Assess, plan, do, review"),
            Self::Document => ("DOCUMENT", "Document"),
            Self::External => ("EXTERNAL", "Other reference"),
            Self::Narrative => ("NARRATIVE", "Narrative"),
        }
    }

    /// Finds the kind of this code.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code().0 == code)
    }
}

/// Writes one note. A value that is neither an object nor a text has no parts.
pub(super) fn write(kind: NoteKind, banner: &str, value: &impl Serialize) -> SegmentWriter {
    let (code, words) = kind.code();
    let mut segment = SegmentWriter::new("NTE").text(2, "P").text(3, banner);
    let mut parts = Vec::new();
    flatten(
        "",
        &serde_json::to_value(value).unwrap_or(Value::Null),
        &mut parts,
    );
    for part in &parts {
        segment = segment.repeat(3, &[part]);
    }
    segment.set(4, &[code, words, TABLE])
}

/// Numbers the notes of a message in NTE-1. Version 2.3 has no NTE-4: there the kind is the last part.
pub(super) fn numbered(
    notes: impl IntoIterator<Item = SegmentWriter>,
    version: Version,
) -> Vec<SegmentWriter> {
    let number = |(note, nth): (SegmentWriter, u32)| note.text(1, &nth.to_string());
    let fit = |note: SegmentWriter| match version {
        Version::V23 => {
            let (note, kind) = note.take(4);
            let code = kind.split(Separators::STANDARD.component).next();
            note.repeat(3, &[&format!("{TABLE}={}", code.unwrap_or_default())])
        }
        Version::V231 | Version::V24 | Version::V25 | Version::V251 => note,
    };
    notes.into_iter().map(fit).zip(1..).map(number).collect()
}

fn flatten(path: &str, value: &Value, parts: &mut Vec<String>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                flatten(&path, value, parts);
            }
        }
        Value::String(text) => parts.push(format!("{path}={text}")),
        Value::Array(items) if items.is_empty() => {}
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            parts.push(format!("{path}:={value}"));
        }
    }
}

/// One note of ours, read back.
#[derive(Clone, PartialEq)]
pub(super) struct ReadNote {
    /// Its kind.
    pub(super) kind: NoteKind,
    /// Its parts, nested as they were.
    pub(super) parts: Map<String, Value>,
}

/// A part of a note that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadPart;

/// Reads a note if it is one of ours: none for anybody else's.
pub(super) fn read(note: &Note) -> Option<Result<ReadNote, BadPart>> {
    let (code, lines) = coded(note)?;
    let kind = NoteKind::from_code(code)?;
    let mut parts = Map::new();
    for line in lines.iter().skip(1) {
        if insert(&mut parts, line).is_none() {
            return Some(Err(BadPart));
        }
    }
    Some(Ok(ReadNote { kind, parts }))
}

/// The lines of the notes that are not ours.
pub(super) fn free_lines(notes: &[Note]) -> impl Iterator<Item = String> {
    let free = notes.iter().filter(|note| read(note).is_none());
    free.flat_map(|note| &note.lines)
        .map(|line| line.trim().to_owned())
}

/// The code of a note's kind and its lines: NTE-4, or in version 2.3 the last line.
fn coded(note: &Note) -> Option<(&str, &[String])> {
    if let Some(coded) = &note.kind {
        return (coded.system == TABLE).then_some((coded.code.as_str(), note.lines.as_slice()));
    }
    let (last, lines) = note.lines.split_last()?;
    let code = last.strip_prefix(TABLE)?.strip_prefix('=')?;
    Some((code, lines))
}

fn insert(parts: &mut Map<String, Value>, line: &str) -> Option<()> {
    let (path, text) = line.split_once('=')?;
    let (path, value) = match path.strip_suffix(':') {
        Some(path) => (path, serde_json::from_str(text).ok()?),
        None => (path, Value::String(text.to_owned())),
    };
    let mut steps = path.split('.');
    let last = steps.next_back()?;
    let mut map = parts;
    for step in steps {
        let nested = map.entry(step).or_insert_with(|| Value::Object(Map::new()));
        map = nested.as_object_mut()?;
    }
    map.insert(last.to_owned(), value);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::hl7v2::build::write as write_segments;
    use crate::hl7v2::message::{LineEndings, Message};

    fn through_the_wire(note: &SegmentWriter) -> Note {
        let text = format!("MSH|^~\\&|A\r{}", write_segments([note]));
        let message = Message::parse(text.as_bytes(), LineEndings::Cr).unwrap();
        Note::read_all(&message).remove(0)
    }

    #[test]
    fn note_has_banner_parts_and_kind() {
        let value = json!({"code": "a|b", "rank": 2, "name": {"family": "T~st"}, "none": null, "list": ["x", "y"], "empty": []});
        let note = write(NoteKind::Need, "Need: a", &value);
        assert_eq!(
            write_segments([&numbered([note], Version::V25).remove(0)]),
            "NTE|1|P|Need: a~code=a\\F\\b~list:=[\"x\",\"y\"]~name.family=T\\R\\st~rank:=2|\
             NEED^Need^WMNOTE\r"
        );
    }

    #[test]
    fn notes_of_others_are_left_alone_and_broken_ones_are_told_apart() {
        let own = SegmentWriter::new("NTE")
            .text(3, "hello")
            .set(4, &["RE", "Remark", "HL70364"]);
        assert!(read(&through_the_wire(&own)).is_none());
        assert!(
            read(&through_the_wire(
                &SegmentWriter::new("NTE").text(3, "hello")
            ))
            .is_none()
        );
        for part in ["no equals sign", "rank:=not json"] {
            let broken = SegmentWriter::new("NTE")
                .repeat(3, &["banner"])
                .repeat(3, &[part])
                .set(4, &["NEED", "Need", TABLE]);
            assert!(
                matches!(read(&through_the_wire(&broken)), Some(Err(BadPart))),
                "{part}"
            );
        }
        let clash = SegmentWriter::new("NTE")
            .repeat(3, &["banner"])
            .repeat(3, &["name=x"])
            .repeat(3, &["name.family=y"])
            .set(4, &["NEED", "Need", TABLE]);
        assert!(matches!(
            read(&through_the_wire(&clash)),
            Some(Err(BadPart))
        ));
    }

    #[test]
    fn every_kind_is_found_by_its_code() {
        for kind in NoteKind::ALL {
            assert_eq!(NoteKind::from_code(kind.code().0), Some(kind));
        }
    }

    proptest! {
        #[test]
        fn parts_survive_the_wire(
            texts in prop::collection::btree_map("[a-z_]{1,8}", "([^\\p{Cc}]|\n){0,20}", 0..5),
            nested in prop::collection::btree_map("[a-z_]{1,8}", any::<i64>(), 1..4),
        ) {
            let mut value = serde_json::to_value(&texts).unwrap();
            value["NESTED"] = serde_json::to_value(&nested).unwrap();
            for version in Version::ALL {
                let note = write(NoteKind::Child, "banner", &value);
                let note = through_the_wire(&numbered([note], version).remove(0));
                prop_assert_eq!(note.kind.is_none(), version == Version::V23);
                let read = read(&note).unwrap().unwrap();
                prop_assert_eq!(read.kind, NoteKind::Child);
                prop_assert_eq!(Value::Object(read.parts), value.clone());
            }
        }
    }
}
