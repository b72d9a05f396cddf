//! Code maps and their tests: known canonical codes, and nothing said twice.

use std::collections::BTreeMap;

use toml::Spanned;

use super::{CodeMaps, Resolver};
use crate::directory::load::At;
use crate::directory::load::raw::{RawCode, RawCodeMap, RawCodeTest, RawCodes};
use crate::directory::{CodeList, CodeMap, CodeTest, Expected, WireCode};
use crate::id::CodeMapId;
use crate::leg::LegState;
use crate::referral::{NeedType, Priority};

/// Codes of one list of a map.
const CODES_MAX: usize = 1_000;
/// Characters of a code.
const CODE_CHARS_MAX: usize = 64;
/// Characters of a list's name and of a code's words.
const TEXT_CHARS_MAX: usize = 199;

impl Resolver<'_> {
    /// Resolves every map.
    pub(super) fn code_maps(&mut self, raw: Vec<At<'_, RawCodeMap>>) -> CodeMaps {
        raw.into_iter()
            .filter_map(|at| self.code_map_of(&at))
            .collect()
    }

    /// The map that an endpoint or an identity names.
    pub(super) fn code_map<T>(
        &mut self,
        at: &At<'_, T>,
        named: Option<&Spanned<CodeMapId>>,
        maps: &CodeMaps,
    ) -> CodeMap {
        let Some(id) = named else {
            return CodeMap::default();
        };
        self.refer("code_map", "code_map", id, at.place_of(id));
        maps.get(id.get_ref()).cloned().unwrap_or_default()
    }

    fn code_map_of(&mut self, at: &At<'_, RawCodeMap>) -> Option<(CodeMapId, CodeMap)> {
        let id = at.value.id.get_ref().clone();
        let map = CodeMap {
            id: Some(id.clone()),
            priority: self.codes(at, CodeList::Priority, &at.value.priority, Priority::parse),
            reason: self.codes(at, CodeList::Reason, &at.value.reason, reason),
            need: self.codes(at, CodeList::Need, &at.value.need, NeedType::parse),
            status: self.codes(at, CodeList::Status, &at.value.status, LegState::parse),
        };
        self.declare("code_map", id.as_str(), at.place())
            .then_some((id, map))
    }

    /// Reads one list: every canonical code must be known, and no code of the far side may stand for two of them.
    fn codes<K: Ord>(
        &mut self,
        at: &At<'_, RawCodeMap>,
        list: CodeList,
        raw: &RawCodes,
        parse: fn(&str) -> Option<K>,
    ) -> BTreeMap<K, WireCode> {
        let list = list.as_str();
        if raw.len() > CODES_MAX {
            let message = format!("{list} has more than {CODES_MAX} codes");
            self.fault("limit", at.place(), message, "map fewer codes");
            return BTreeMap::new();
        }
        let mut known = BTreeMap::new();
        let mut seen: Vec<(&str, &Spanned<WireCode>)> = Vec::new();
        for (canonical, wire) in raw {
            let name = canonical.get_ref().as_str();
            if !well_formed(wire.get_ref()) {
                let message = format!("the code of {list} {name} is empty or too long");
                let remedy =
                    "use 1 to 64 characters for a code, at most 199 for system and display";
                self.fault("invalid-code", at.place_of(wire), message, remedy);
                continue;
            }
            let twin = seen
                .iter()
                .find(|(_, other)| overlap(wire.get_ref(), other.get_ref()));
            if let Some((other, first)) = twin {
                let message = format!(
                    "{list} {name} has the same code as {other}, at {}: inward it could mean either",
                    at.place_of(first)
                );
                let remedy = "give each its own code, or leave one to the adapter's default";
                self.fault("ambiguous-code", at.place_of(wire), message, remedy);
            }
            seen.push((name, wire));
            match parse(name) {
                Some(value) => {
                    known.insert(value, wire.get_ref().clone());
                }
                None => self.fault(
                    "unknown-code",
                    at.place_of(canonical),
                    format!("{name} is not a {list} of the canonical list"),
                    "use a code of the list in the referral's own words",
                ),
            }
        }
        known
    }

    pub(super) fn code_test(&mut self, at: At<'_, RawCodeTest>) -> Option<CodeTest> {
        let place = at.place();
        let map = &at.value.code_map;
        self.refer("code_map", "code_map", map, at.place_of(map));
        let canonical_at = match (at.value.given.get_ref(), at.value.expect.get_ref()) {
            (RawCode::Canonical(_), RawCode::Wire(_)) => &at.value.given,
            (RawCode::Wire(_), RawCode::Canonical(_)) => &at.value.expect,
            (RawCode::Canonical(_), RawCode::Canonical(_))
            | (RawCode::Wire(_), RawCode::Wire(_)) => {
                let message = "a test of codes goes from one side to the other".to_owned();
                let remedy =
                    "write one of given and expect as text (canonical), the other as a table";
                self.fault("invalid-code-test", place, message, remedy);
                return None;
            }
        };
        if let RawCode::Canonical(name) = canonical_at.get_ref()
            && !is_known(at.value.list, name)
        {
            let list = at.value.list.as_str();
            let message = format!("{name} is not a {list} of the canonical list");
            let remedy = "use a code of the list in the referral's own words";
            self.fault("unknown-code", at.place_of(canonical_at), message, remedy);
        }
        let RawCodeTest {
            name,
            code_map,
            list,
            given,
            expect,
        } = at.value;
        let expected = match (given.into_inner(), expect.into_inner()) {
            (RawCode::Canonical(canonical), RawCode::Wire(wire)) => Expected::Wire(canonical, wire),
            (RawCode::Wire(wire), RawCode::Canonical(canonical)) => {
                Expected::Canonical(wire, canonical)
            }
            (RawCode::Canonical(_), RawCode::Canonical(_))
            | (RawCode::Wire(_), RawCode::Wire(_)) => {
                return None;
            }
        };
        self.declare("code_test", &name, place.clone())
            .then_some(CodeTest {
                name,
                map: code_map.into_inner(),
                list,
                expected,
                place,
            })
    }
}

fn is_known(list: CodeList, name: &str) -> bool {
    match list {
        CodeList::Priority => Priority::parse(name).is_some(),
        CodeList::Reason => reason(name).is_some(),
        CodeList::Need => NeedType::parse(name).is_some(),
        CodeList::Status => LegState::parse(name).is_some(),
    }
}

/// Reasons are the area's own list: any code that a referral may hold.
fn reason(name: &str) -> Option<String> {
    let good = name.trim() == name && (1..=CODE_CHARS_MAX).contains(&name.chars().count());
    good.then(|| name.to_owned())
}

fn well_formed(wire: &WireCode) -> bool {
    let within = |text: &str, max| {
        text.trim() == text && text.chars().count() <= max && !text.chars().any(char::is_control)
    };
    !wire.code.is_empty()
        && within(&wire.code, CODE_CHARS_MAX)
        && within(&wire.system, TEXT_CHARS_MAX)
        && within(&wire.display, TEXT_CHARS_MAX)
}

/// Whether a code on the wire could be either.
fn overlap(one: &WireCode, other: &WireCode) -> bool {
    one.is(&other.system, &other.code)
}
