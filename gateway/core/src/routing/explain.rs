//! Why a referral goes where it goes: which rule fired, and why each other one did not.

use std::fmt;

use jiff::civil::Date;
use serde::Serialize;

use super::{
    AGE_MAX, AGE_MIN, Decision, Facts, Predicate, TriageReason, Unroutable, decide, misses,
};
use crate::directory::{Directory, Place, Rule, Validity};
use crate::id::RuleId;
use crate::referral::ConsentStatus;

/// What happened to every rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The day it is asked for.
    pub on: Date,
    /// What routing saw.
    pub facts: Facts,
    /// Where the referral goes, unless it is refused.
    pub decision: Option<Decision>,
    /// Why it is refused at intake.
    pub refused: Option<Unroutable>,
    /// Every rule, in the order in which they are tried.
    pub rules: Vec<RuleReport>,
}

/// What happened to one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// The rule.
    pub rule: RuleId,
    /// Where it stands.
    pub place: Place,
    /// What became of it.
    pub verdict: Verdict,
    /// Every predicate that did not hold.
    pub mismatches: Vec<Mismatch>,
}

/// What became of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It decided.
    Fired,
    /// It fits, and an earlier rule decided or the referral was refused.
    Passed,
    /// A predicate does not hold.
    NotMatched,
}

/// A predicate that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The predicate, as in the directory's files.
    pub predicate: &'static str,
    /// What the rule asks for.
    pub expected: String,
    /// What the referral has.
    pub actual: String,
}

/// Explains a decision: the decision itself, and what the same predicates say of every rule.
pub fn explain(directory: &Directory, facts: &Facts, today: Date) -> Explanation {
    let (decision, refused) = match decide(directory, facts, today) {
        Ok(decision) => (Some(decision), None),
        Err(refused) => (None, Some(refused)),
    };
    let fired = decision.as_ref().and_then(|d| d.rule.as_ref());
    let rules = directory
        .rules
        .iter()
        .map(|rule| {
            let mismatches: Vec<Mismatch> = misses(rule, facts, today)
                .map(|p| p.mismatch(rule, facts, today))
                .collect();
            let verdict = match (mismatches.is_empty(), fired == Some(&rule.id)) {
                (true, true) => Verdict::Fired,
                (true, false) => Verdict::Passed,
                (false, _) => Verdict::NotMatched,
            };
            RuleReport {
                rule: rule.id.clone(),
                place: rule.place.clone(),
                verdict,
                mismatches,
            }
        })
        .collect();
    Explanation {
        on: today,
        facts: facts.clone(),
        decision,
        refused,
        rules,
    }
}

impl Predicate {
    fn mismatch(self, rule: &Rule, facts: &Facts, today: Date) -> Mismatch {
        let when = &rule.when;
        let (predicate, expected, actual) = match self {
            Self::Validity => ("validity", days(rule.validity), today.to_string()),
            Self::Pathway => ("pathway", any_of(&when.pathway), facts.pathway.to_string()),
            Self::Need => ("need", any_of(&when.need), list(&facts.needs)),
            Self::Age => {
                let (min, max) = (
                    when.age_min.unwrap_or(AGE_MIN),
                    when.age_max.unwrap_or(AGE_MAX),
                );
                ("age", format!("{min} to {max}"), facts.age.to_string())
            }
            Self::Area => (
                "area",
                any_of(&when.area),
                facts.area.clone().unwrap_or_else(|| "unknown".to_owned()),
            ),
            Self::Setting => (
                "setting",
                any_of(&when.setting),
                facts
                    .setting
                    .map_or_else(|| "unknown".to_owned(), |s| s.to_string()),
            ),
            Self::Priority => (
                "priority",
                any_of(&when.priority),
                facts.priority.to_string(),
            ),
            Self::Consent => {
                let actual = match facts.consent_status {
                    ConsentStatus::Given => list(&facts.consent),
                    status => status.to_string(),
                };
                ("consent", format!("all of {}", list(&when.consent)), actual)
            }
            Self::Sender => ("sender", any_of(&when.sender), facts.sender.to_string()),
        };
        Mismatch {
            predicate,
            expected,
            actual,
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {}, the rule asks for {}",
            self.predicate, self.actual, self.expected
        )
    }
}

impl fmt::Display for RuleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): ", self.rule, self.place)?;
        match self.verdict {
            Verdict::Fired => f.write_str("fired"),
            Verdict::Passed => f.write_str("fits, but did not decide"),
            Verdict::NotMatched => {
                let why: Vec<String> = self.mismatches.iter().map(ToString::to_string).collect();
                f.write_str(&why.join("; "))
            }
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for d in &self.destinations {
            write!(f, "to {} of {} through {}", d.service, d.agency, d.endpoint)?;
            match &d.rule {
                Some(rule) => writeln!(f, ", by rule {rule}")?,
                None => writeln!(
                    f,
                    ", for {} to decide: {}",
                    d.owner.role,
                    words(self.triage)
                )?,
            }
        }
        for w in &self.withheld {
            writeln!(f, "not to {}: {}", w.service, words(Some(w.why)))?;
        }
        Ok(())
    }
}

impl fmt::Display for Explanation {
    /// The decision, then a line for every rule in order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "on {}", self.on)?;
        if let Some(decision) = &self.decision {
            write!(f, "{decision}")?;
        }
        if let Some(refused) = &self.refused {
            writeln!(f, "refused: {}", refused.violation())?;
        }
        if self.rules.is_empty() {
            return writeln!(f, "no rules");
        }
        writeln!(f, "rules, in the order in which they are tried:")?;
        for (report, number) in self.rules.iter().zip(1..) {
            writeln!(f, "  {number}. {report}")?;
        }
        Ok(())
    }
}

fn words(reason: Option<TriageReason>) -> &'static str {
    match reason {
        Some(TriageReason::NoRule) => "no rule fits",
        Some(TriageReason::AgeOutOfRange) => "the person is outside 0 to 25",
        Some(TriageReason::NoDestination) => {
            "a service, its agency or its endpoint does not hold on this day"
        }
        Some(TriageReason::ConsentNotCovering) => "consent does not cover sharing with this sector",
        None => "triage",
    }
}

fn days(validity: Validity) -> String {
    match (validity.valid_from, validity.valid_to) {
        (Some(from), Some(to)) => format!("{from} to {to}"),
        (Some(from), None) => format!("from {from}"),
        (None, Some(to)) => format!("until {to}"),
        (None, None) => "any day".to_owned(),
    }
}

fn any_of<T: fmt::Display>(items: &std::collections::BTreeSet<T>) -> String {
    if items.len() > 1 {
        format!("one of {}", list(items))
    } else {
        list(items)
    }
}

fn list<T: fmt::Display>(items: &std::collections::BTreeSet<T>) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
