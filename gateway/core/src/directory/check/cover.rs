//! Whether rules leave anything of a region of possible referrals uncovered.
//!
//! Only the values where some rule changes its mind are tried, and of those only the hardest to cover: a value
//! that no rule names stands for all such values, one need stands for many. What is found is therefore true of every
//! referral of the region. The meaning of each predicate is routing's own.

use std::collections::BTreeSet;
use std::fmt;

use jiff::civil::Date;

use crate::directory::{Rule, Validity, When};
use crate::id::{AgencyId, Pathway};
use crate::referral::{ConsentScope, ConsentStatus, LawfulBasis, NeedType, Priority, SettingKind};
use crate::routing::{AGE_MAX, AGE_MIN, Facts, Predicate};

/// Steps of one search; a directory that needs more is not proven either way.
pub(super) const STEPS_MAX: usize = 50_000;

/// The order in which a search fixes values: what tells rules apart best comes first.
const AXES: [Predicate; 9] = [
    Predicate::Pathway,
    Predicate::Age,
    Predicate::Need,
    Predicate::Priority,
    Predicate::Setting,
    Predicate::Area,
    Predicate::Sender,
    Predicate::Consent,
    Predicate::Validity,
];

/// The referrals that fit a rule's predicates on the days that it holds.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) when: When,
    pub(super) validity: Validity,
    /// Sets of needs, each of which is enough; empty means any.
    pub(super) needs: Vec<BTreeSet<NeedType>>,
}

/// What a search found.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Every referral of the region fits a rule.
    Covered,
    /// This one fits none.
    Open(Box<Point>),
    /// The search was stopped at its limit.
    Unproven,
}

/// One possible referral on one day.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) facts: Facts,
    pub(super) on: Date,
}

impl Region {
    pub(super) fn of(rule: &Rule) -> Self {
        let needs = rule
            .when
            .need
            .iter()
            .map(|n| BTreeSet::from([*n]))
            .collect();
        Self {
            when: rule.when.clone(),
            validity: rule.validity,
            needs,
        }
    }

    /// Every referral of a pathway whose consent covers everything, on one day.
    pub(super) fn pathway(pathway: &Pathway, on: Date) -> Self {
        let when = When {
            pathway: BTreeSet::from([pathway.clone()]),
            consent: ConsentScope::ALL.iter().copied().collect(),
            ..When::default()
        };
        Self {
            when,
            validity: Validity {
                valid_from: Some(on),
                valid_to: Some(on),
            },
            needs: Vec::new(),
        }
    }

    /// The referrals that fit both rules, if there can be any.
    pub(super) fn both(a: &Rule, b: &Rule) -> Option<Self> {
        let pathway = common(&a.when.pathway, &b.when.pathway)?;
        let validity = Validity {
            valid_from: a.validity.valid_from.max(b.validity.valid_from),
            valid_to: earlier(a.validity.valid_to, b.validity.valid_to),
        };
        let age_min = a.when.age_min.max(b.when.age_min);
        let age_max = earlier(a.when.age_max, b.when.age_max);
        if matches!((validity.valid_from, validity.valid_to), (Some(from), Some(to)) if from > to)
            || matches!((age_min, age_max), (Some(min), Some(max)) if min > max)
        {
            return None;
        }
        let when = When {
            pathway,
            need: BTreeSet::new(),
            age_min,
            age_max,
            area: common(&a.when.area, &b.when.area)?,
            setting: common(&a.when.setting, &b.when.setting)?,
            priority: common(&a.when.priority, &b.when.priority)?,
            consent: a.when.consent.union(&b.when.consent).copied().collect(),
            sender: common(&a.when.sender, &b.when.sender)?,
        };
        Some(Self {
            when,
            validity,
            needs: both_needs(&a.when.need, &b.when.need),
        })
    }
}

/// Looks for a referral of a region that fits none of the rules. `pathways` are those that the area knows.
pub(super) fn uncovered(region: &Region, rules: &[&Rule], pathways: &BTreeSet<Pathway>) -> Answer {
    let near = |rule: &&Rule| common(&region.when.pathway, &rule.when.pathway).is_some();
    let rules: Vec<&Rule> = rules.iter().copied().filter(near).collect();
    let mut search = Search {
        region,
        rules: &rules,
        pathways,
        steps: 0,
    };
    let start = Point {
        facts: anybody(),
        on: Date::ZERO,
    };
    match search.open(&start, &rules, &AXES) {
        Some(point) => Answer::Open(Box::new(point)),
        None if search.steps > STEPS_MAX => Answer::Unproven,
        None => Answer::Covered,
    }
}

struct Search<'a> {
    region: &'a Region,
    rules: &'a [&'a Rule],
    pathways: &'a BTreeSet<Pathway>,
    steps: usize,
}

impl Search<'_> {
    /// Fixes one axis after another; `left` are the rules that fit what is fixed so far.
    fn open(&mut self, point: &Point, left: &[&Rule], open_axes: &[Predicate]) -> Option<Point> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return None;
        }
        let Some((axis, rest)) = open_axes.split_first() else {
            return left.is_empty().then(|| point.clone());
        };
        for candidate in self.candidates(*axis, point) {
            let fits = |rule: &&Rule| axis.holds(rule, &candidate.facts, candidate.on);
            let still: Vec<&Rule> = left.iter().copied().filter(fits).collect();
            if let Some(found) = self.open(&candidate, &still, rest) {
                return Some(found);
            }
        }
        None
    }

    fn candidates(&self, axis: Predicate, point: &Point) -> Vec<Point> {
        let when = &self.region.when;
        let with = |change: &dyn Fn(&mut Facts)| {
            let mut next = point.clone();
            change(&mut next.facts);
            next
        };
        match axis {
            Predicate::Pathway => {
                let named = |p: &&Pathway| when.pathway.is_empty() || when.pathway.contains(*p);
                self.pathways
                    .iter()
                    .filter(named)
                    .map(|p| with(&|f| f.pathway = p.clone()))
                    .collect()
            }
            Predicate::Age => self
                .ages()
                .into_iter()
                .map(|a| with(&|f| f.age = i16::from(a)))
                .collect(),
            Predicate::Need => self
                .needs()
                .into_iter()
                .map(|n| with(&|f| f.needs.clone_from(&n)))
                .collect(),
            Predicate::Priority => hardest(
                &when.priority,
                Priority::ALL,
                &self.mentioned(|w| &w.priority),
            )
            .into_iter()
            .map(|p| with(&|f| f.priority = p))
            .collect(),
            Predicate::Setting if when.setting.is_empty() => vec![with(&|f| f.setting = None)],
            Predicate::Setting => hardest(&when.setting, SettingKind::ALL, &BTreeSet::new())
                .into_iter()
                .map(|s| with(&|f| f.setting = Some(s)))
                .collect(),
            Predicate::Area if when.area.is_empty() => vec![with(&|f| f.area = None)],
            Predicate::Area => when
                .area
                .iter()
                .map(|a| with(&|f| f.area = Some(a.clone())))
                .collect(),
            Predicate::Sender if when.sender.is_empty() => {
                vec![with(&|f| f.sender = self.stranger())]
            }
            Predicate::Sender => when
                .sender
                .iter()
                .map(|s| with(&|f| f.sender = s.clone()))
                .collect(),
            Predicate::Consent => vec![with(&|f| f.consent.clone_from(&when.consent))],
            Predicate::Validity => self
                .days()
                .into_iter()
                .map(|on| Point {
                    on,
                    ..point.clone()
                })
                .collect(),
        }
    }

    /// Ages at which the region or a rule within it begins, or a rule has ended.
    fn ages(&self) -> BTreeSet<u8> {
        let when = &self.region.when;
        let (low, high) = (
            when.age_min.unwrap_or(AGE_MIN),
            when.age_max.unwrap_or(AGE_MAX),
        );
        let begins = self.rules.iter().filter_map(|r| r.when.age_min);
        let after = self
            .rules
            .iter()
            .filter_map(|r| r.when.age_max.map(|max| max.saturating_add(1)));
        begins
            .chain(after)
            .filter(|age| (low..=high).contains(age))
            .chain([low])
            .collect()
    }

    fn days(&self) -> BTreeSet<Date> {
        let low = self.region.validity.valid_from.unwrap_or(Date::MIN);
        let begins = self.rules.iter().filter_map(|r| r.validity.valid_from);
        let after = self
            .rules
            .iter()
            .filter_map(|r| r.validity.valid_to.and_then(|d| d.tomorrow().ok()));
        begins
            .chain(after)
            .filter(|day| *day >= low && self.region.validity.holds_on(*day))
            .chain([low])
            .collect()
    }

    fn needs(&self) -> Vec<BTreeSet<NeedType>> {
        if !self.region.needs.is_empty() {
            return self.region.needs.clone();
        }
        // A need that no rule names is as hard to cover as no need at all, and reads better in a report.
        let mentioned = self.mentioned(|w| &w.need);
        let other = [NeedType::Other]
            .into_iter()
            .chain(NeedType::ALL.iter().copied());
        vec![
            other
                .into_iter()
                .find(|n| !mentioned.contains(n))
                .into_iter()
                .collect(),
        ]
    }

    fn mentioned<T: Ord + Copy>(&self, of: impl Fn(&When) -> &BTreeSet<T>) -> BTreeSet<T> {
        self.rules
            .iter()
            .flat_map(|r| of(&r.when).iter().copied())
            .collect()
    }

    /// A sender that no rule names.
    fn stranger(&self) -> AgencyId {
        let mut number = 0u32;
        loop {
            let name = if number == 0 {
                ANYBODY.to_owned()
            } else {
                format!("{ANYBODY}-{number}")
            };
            match name.parse() {
                Ok(id) if !self.rules.iter().any(|r| r.when.sender.contains(&id)) => return id,
                _ => number += 1,
            }
        }
    }
}

/// The values to try of a closed list: the region's own, else one that no rule names, else all.
fn hardest<T: Ord + Copy>(region: &BTreeSet<T>, all: &[T], mentioned: &BTreeSet<T>) -> Vec<T> {
    if !region.is_empty() {
        return region.iter().copied().collect();
    }
    match all.iter().find(|value| !mentioned.contains(value)) {
        Some(other) => vec![*other],
        None => all.to_vec(),
    }
}

fn earlier<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// What two predicates have in common, where an empty one holds for everything; none when nothing.
fn common<T: Ord + Clone>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> Option<BTreeSet<T>> {
    if a.is_empty() || b.is_empty() {
        return Some(a.union(b).cloned().collect());
    }
    let both: BTreeSet<T> = a.intersection(b).cloned().collect();
    (!both.is_empty()).then_some(both)
}

/// A child may have several needs, so two predicates about needs always have something in common.
fn both_needs(a: &BTreeSet<NeedType>, b: &BTreeSet<NeedType>) -> Vec<BTreeSet<NeedType>> {
    match common(a, b) {
        Some(either) => either.into_iter().map(|n| BTreeSet::from([n])).collect(),
        None => a
            .iter()
            .flat_map(|x| b.iter().map(|y| BTreeSet::from([*x, *y])))
            .collect(),
    }
}

/// The sender of an example where the sender does not matter.
const ANYBODY: &str = "anybody";

fn anybody() -> Facts {
    let word = |text: &str| text.to_owned();
    Facts {
        pathway: word(ANYBODY).try_into().expect("is a code"),
        needs: BTreeSet::new(),
        age: 0,
        area: None,
        setting: None,
        priority: Priority::Routine,
        consent_status: ConsentStatus::Given,
        consent: BTreeSet::new(),
        lawful_basis: LawfulBasis::PublicTaskCare,
        sender: word(ANYBODY).try_into().expect("is a code"),
        requested_service: None,
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.facts;
        write!(f, "pathway {}, age {}", facts.pathway, facts.age)?;
        let needs: Vec<&str> = facts.needs.iter().map(|n| n.as_str()).collect();
        write!(
            f,
            ", need {}",
            if needs.is_empty() {
                "none".to_owned()
            } else {
                needs.join(" and ")
            }
        )?;
        write!(f, ", priority {}", facts.priority)?;
        write!(
            f,
            ", setting {}",
            facts.setting.map_or("unknown", SettingKind::as_str)
        )?;
        write!(
            f,
            ", area {}, sender {}",
            facts.area.as_deref().unwrap_or("elsewhere"),
            facts.sender
        )
    }
}
