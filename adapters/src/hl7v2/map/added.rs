//! What somebody added to a message of ours on its way: segments beside notes of ours that do not say the same.
//!
//! A note stands for the segments that were written with it, and for no others.

use serde_json::Value;

use super::super::content::Name;
use super::super::referral::{Kin, RefMessage};
use super::leftover;
use super::note::{NoteKind, ReadNote};
use super::outward::cut;

/// Allergies (AL1) that no note holds, a line each.
pub(super) fn allergies(message: &RefMessage, notes: &[ReadNote]) -> Vec<String> {
    let lines = message.allergies.iter().map(leftover::allergy);
    lines.filter(|line| !is_noted(line, notes)).collect()
}

/// Whether the line is what we write into AL1 of a note's text: the whole of it, or as much as the field holds.
fn is_noted(line: &str, notes: &[ReadNote]) -> bool {
    let line = even(line);
    let own = notes.iter().filter(|note| note.kind == NoteKind::Allergies);
    let mut texts = own.filter_map(|note| note.parts.get("text")?.as_str());
    texts.any(|text| {
        let whole = even(text);
        line == whole || (cut(text) != text && !line.is_empty() && whole.starts_with(&line))
    })
}

/// People (NK1) that no note is about.
pub(super) fn people<'m>(
    message: &'m RefMessage,
    notes: &'m [ReadNote],
) -> impl Iterator<Item = &'m Kin> {
    let is_about = |note: &ReadNote, name: &Name| {
        let part = |key: &str| {
            let name = note.parts.get("name")?.get(key);
            name.and_then(Value::as_str).map(|text| even(cut(text)))
        };
        note.kind == NoteKind::Contact
            && part("family").as_ref() == Some(&even(&name.family))
            && part("given").as_ref() == Some(&even(&name.given))
    };
    message.next_of_kin.iter().filter(move |kin| {
        let name = kin.name.as_ref();
        !name.is_some_and(|name| notes.iter().any(|note| is_about(note, name)))
    })
}

/// Words without what line ends and blanks become on the wire.
fn even(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}
