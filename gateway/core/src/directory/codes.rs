//! Code maps: how one far side's code lists say what the canonical lists say, as data of the directory.
//!
//! An endpoint or an identity names a map; a code that the map does not have is said by the adapter's own default.
//! What a map says twice could be told apart by nothing, so loading refuses it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Place;
use crate::id::CodeMapId;
use crate::leg::LegState;
use crate::referral::{NeedType, Priority};

/// A code of a far side's list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireCode {
    /// The code, e.g. `R`.
    pub code: String,
    /// Its list: a FHIR system or an HL7 v2 table; empty where the wire names none.
    #[serde(default)]
    pub system: String,
    /// Words.
    #[serde(default)]
    pub display: String,
}

impl fmt::Display for WireCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code)?;
        for part in [&self.system, &self.display] {
            if !part.is_empty() {
                write!(f, " ({part})")?;
            }
        }
        Ok(())
    }
}

impl WireCode {
    /// Whether a code on the wire is this one; a code without a list fits any list.
    pub fn is(&self, system: &str, code: &str) -> bool {
        let list =
            self.system.is_empty() || system.is_empty() || self.system.eq_ignore_ascii_case(system);
        list && self.code == code
    }
}

/// The lists of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodeList {
    /// Priorities.
    Priority,
    /// Reasons, by the area's own code.
    Reason,
    /// Types of need.
    Need,
    /// States of a leg.
    Status,
}

impl CodeList {
    /// Every list.
    pub const ALL: &[Self] = &[Self::Priority, Self::Reason, Self::Need, Self::Status];

    /// The list as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Priority => "priority",
            Self::Reason => "reason",
            Self::Need => "need",
            Self::Status => "status",
        }
    }
}

/// One map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeMap {
    /// Its id; absent for the empty map of a far side that names none.
    pub id: Option<CodeMapId>,
    /// Priorities.
    pub priority: BTreeMap<Priority, WireCode>,
    /// Reasons, by the area's own code.
    pub reason: BTreeMap<String, WireCode>,
    /// Types of need.
    pub need: BTreeMap<NeedType, WireCode>,
    /// States of a leg.
    pub status: BTreeMap<LegState, WireCode>,
}

/// The canonical value that a far side's code stands for.
fn inward<'m, K>(map: &'m BTreeMap<K, WireCode>, system: &str, code: &str) -> Option<&'m K> {
    map.iter()
        .find(|(_, wire)| wire.is(system, code))
        .map(|(value, _)| value)
}

impl CodeMap {
    /// The priority that a far side's code stands for.
    pub fn priority_of(&self, system: &str, code: &str) -> Option<Priority> {
        inward(&self.priority, system, code).copied()
    }

    /// The area's reason code that a far side's code stands for.
    pub fn reason_of(&self, system: &str, code: &str) -> Option<&str> {
        inward(&self.reason, system, code).map(String::as_str)
    }

    /// The type of need that a far side's code stands for.
    pub fn need_of(&self, system: &str, code: &str) -> Option<NeedType> {
        inward(&self.need, system, code).copied()
    }

    /// The state that a far side's code stands for.
    pub fn status_of(&self, system: &str, code: &str) -> Option<LegState> {
        inward(&self.status, system, code).copied()
    }

    /// A list's canonical codes, each with the far side's.
    pub fn entries(&self, list: CodeList) -> impl Iterator<Item = (&str, &WireCode)> {
        let entries: Vec<(&str, &WireCode)> = match list {
            CodeList::Priority => self.priority.iter().map(|(k, w)| (k.as_str(), w)).collect(),
            CodeList::Reason => self.reason.iter().map(|(k, w)| (k.as_str(), w)).collect(),
            CodeList::Need => self.need.iter().map(|(k, w)| (k.as_str(), w)).collect(),
            CodeList::Status => self.status.iter().map(|(k, w)| (k.as_str(), w)).collect(),
        };
        entries.into_iter()
    }
}

/// A test of a map, kept with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeTest {
    /// What it states.
    pub name: String,
    /// The map.
    pub map: CodeMapId,
    /// The list within it.
    pub list: CodeList,
    /// What is given, and what must come of it.
    pub expected: Expected,
    /// Where it stands.
    pub place: Place,
}

/// What a test of a map states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This canonical code goes out as that.
    Wire(String, WireCode),
    /// This code of the far side is read as that canonical one.
    Canonical(WireCode, String),
}

impl CodeTest {
    /// Runs the test on its map: how the outcome differs, if it does. Words are not compared where the test gives none.
    pub fn failure(&self, map: &CodeMap) -> Option<String> {
        let mut entries = map.entries(self.list);
        let nothing = || "nothing: the map does not have it".to_owned();
        match &self.expected {
            Expected::Wire(canonical, expected) => {
                let got = entries.find(|(code, _)| code == canonical).map(|e| e.1);
                let same = got.is_some_and(|got| {
                    let words = expected.display.is_empty() || got.display == expected.display;
                    got.code == expected.code && got.system == expected.system && words
                });
                let got = got.map_or_else(nothing, ToString::to_string);
                (!same).then(|| format!("{canonical} goes out as {got}, expected {expected}"))
            }
            Expected::Canonical(wire, expected) => {
                let got = entries.find(|(_, of)| of.is(&wire.system, &wire.code));
                let same = got.is_some_and(|(canonical, _)| canonical == expected);
                let got = got.map_or_else(nothing, |(canonical, _)| canonical.to_owned());
                (!same).then(|| format!("{wire} is read as {got}, expected {expected}"))
            }
        }
    }
}
