//! Code maps: how one far side's code lists say what the canonical lists say, as data of the directory.
//!
//! An endpoint or a channel names a map; a code that the map does not have is said by the adapter's own default,
//! and what a map says twice is told apart by nothing, so `directory check` refuses it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

/// One map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeMap {
    /// Priorities.
    pub priority: BTreeMap<Priority, WireCode>,
    /// Reasons, by the area's own code.
    pub reason: BTreeMap<String, WireCode>,
    /// Types of need.
    pub need: BTreeMap<NeedType, WireCode>,
    /// States of a leg.
    pub status: BTreeMap<LegState, WireCode>,
}

/// The canonical value that a far side's code stands for; a code without a list fits any list.
fn inward<'m, K>(map: &'m BTreeMap<K, WireCode>, system: &str, code: &str) -> Option<&'m K> {
    map.iter()
        .find(|(_, wire)| {
            let list = wire.system.is_empty()
                || system.is_empty()
                || wire.system.eq_ignore_ascii_case(system);
            list && wire.code == code
        })
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
}
