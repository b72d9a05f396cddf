//! Rules in the order in which they are tried, and their tests.

use std::collections::BTreeSet;

use super::Resolver;
use crate::directory::load::raw::{RawFacts, RawRule, RawTest};
use crate::directory::load::{At, RULES_MAX};
use crate::directory::{RouteTest, Rule, When};
use crate::id::AgencyId;
use crate::routing::{AGE_MAX, AGE_MIN, Facts};

/// Where a rule without an `order` stands among those with one.
const ORDER_DEFAULT: i64 = 1_000;

impl Resolver<'_> {
    pub(super) fn rules(&mut self, raw: Vec<At<'_, RawRule>>) -> Vec<Rule> {
        if let Some(first_over) = raw.get(RULES_MAX) {
            let place = first_over.place();
            self.fault(
                "limit",
                place,
                format!("more than {RULES_MAX} rules"),
                "merge rules that differ in one value",
            );
        }
        let mut rules: Vec<(i64, Rule)> = raw.into_iter().filter_map(|at| self.rule(at)).collect();
        // Stable: files in the order of their names, lines in their order within a file.
        rules.sort_by_key(|(order, _)| *order);
        rules.into_iter().map(|(_, rule)| rule).collect()
    }

    fn rule(&mut self, at: At<'_, RawRule>) -> Option<(i64, Rule)> {
        let place = at.place();
        for service in &at.value.to.0 {
            self.refer("service", "to", service, at.place_of(service));
        }
        for sender in &at.value.sender.0 {
            self.refer("agency", "sender", sender, at.place_of(sender));
        }
        let r = at.value;
        let id = r.id.into_inner();
        let to: Vec<_> = r.to.into_values();
        if to.is_empty() {
            let message = format!("rule {id} sends to nobody");
            self.fault(
                "no-destination",
                place.clone(),
                message,
                "name at least one service in `to`",
            );
        }
        if to.iter().collect::<BTreeSet<_>>().len() != to.len() {
            let message = format!("rule {id} names a service twice in `to`");
            self.fault("duplicate", place.clone(), message, "name each once");
        }
        let (age_min, age_max) = (r.age.min.or(r.age_min), r.age.max.or(r.age_max));
        let (low, high) = (age_min.unwrap_or(AGE_MIN), age_max.unwrap_or(AGE_MAX));
        if low > high
            || high > AGE_MAX
            || (r.age.min.is_some() && r.age_min.is_some())
            || (r.age.max.is_some() && r.age_max.is_some())
        {
            let message = format!(
                "rule {id}: ages {low} to {high} are not a part of {AGE_MIN} to {AGE_MAX}, or are given twice"
            );
            self.fault(
                "age-range",
                place.clone(),
                message,
                "write age = { min = 5, max = 18 } with min up to max",
            );
        }
        let validity = self.validity(r.valid_from, r.valid_to, place.clone());
        let when = When {
            pathway: r.pathway.into_values(),
            need: r.need.into_values(),
            age_min,
            age_max,
            area: r.area.0.into_iter().map(|a| a.into_inner().0).collect(),
            setting: r.setting.into_values(),
            priority: r.priority.into_values(),
            consent: r.consent.into_values(),
            sender: r.sender.into_values(),
        };
        self.declare("rule", id.as_str(), place.clone()).then(|| {
            (
                r.order.unwrap_or(ORDER_DEFAULT),
                Rule {
                    id,
                    when,
                    to,
                    validity,
                    place,
                },
            )
        })
    }

    pub(super) fn test(
        &mut self,
        at: At<'_, RawTest>,
        asker: Option<&AgencyId>,
    ) -> Option<RouteTest> {
        let place = at.place();
        for service in &at.value.expect.0 {
            self.refer("service", "expect", service, at.place_of(service));
        }
        let RawTest {
            name,
            given,
            on,
            expect,
        } = at.value;
        if !self.declare("test", &name, place.clone()) {
            return None;
        }
        let sender = given.sender.clone().or_else(|| asker.cloned())?;
        Some(RouteTest {
            name,
            given: facts(given, sender),
            on: on.map(|d| d.0),
            expect: expect.into_values(),
            place,
        })
    }
}

fn facts(given: RawFacts, sender: AgencyId) -> Facts {
    Facts {
        pathway: given.pathway,
        needs: given.needs.into_values(),
        age: given.age,
        area: given.area.map(|a| a.0),
        setting: given.setting,
        priority: given.priority,
        consent_status: given.consent_status,
        consent: given.consent,
        lawful_basis: given.lawful_basis,
        sender,
        requested_service: given.requested_service,
    }
}
