//! What is wrong with the rules: rules that never fire, rules that compete, referrals that no rule takes, and
//! tests that fail or are missing.

use std::collections::BTreeSet;

use jiff::civil::Date;

use super::Finding;
use super::cover::{Answer, Region, uncovered};
use crate::directory::{Directory, Place, RouteTest, Rule, Service};
use crate::id::{Pathway, RuleId, ServiceId};
use crate::routing::decide;

/// Overlaps that are reported one by one.
pub(super) const OVERLAPS_MAX: usize = 100;

pub(super) fn findings(directory: &Directory, today: Date) -> Vec<Finding> {
    let pathways: BTreeSet<Pathway> = directory
        .services
        .values()
        .flat_map(|s| s.pathways.iter().cloned())
        .collect();
    let mut findings = Vec::new();
    let unreachable = unreachable(directory, &pathways, &mut findings);
    overlaps(directory, &unreachable, &pathways, &mut findings);
    gaps(directory, today, &pathways, &mut findings);
    destinations(directory, &pathways, today, &mut findings);
    tests(directory, today, &mut findings);
    findings
}

/// Reports rules that earlier ones leave nothing, and returns them.
fn unreachable<'a>(
    directory: &'a Directory,
    pathways: &BTreeSet<Pathway>,
    findings: &mut Vec<Finding>,
) -> BTreeSet<&'a RuleId> {
    let mut dead = BTreeSet::new();
    let mut earlier: Vec<&Rule> = Vec::new();
    for rule in &directory.rules {
        let region = Region::of(rule);
        let covers = |by: &[&Rule]| matches!(uncovered(&region, by, pathways), Answer::Covered);
        if covers(&[]) {
            // Nothing fits it whatever stands before it: its pathways are reported by `destinations`.
            dead.insert(&rule.id);
        } else if covers(&earlier) {
            dead.insert(&rule.id);
            let by = if let Some(one) = earlier.iter().find(|e| covers(&[e])) {
                format!("{} ({}) takes everything that it would", one.id, one.place)
            } else {
                let meeting = earlier.iter().filter(|e| Region::both(e, rule).is_some());
                let named: Vec<String> =
                    meeting.map(|e| format!("{} ({})", e.id, e.place)).collect();
                format!(
                    "{} together take everything that it would",
                    named.join(", ")
                )
            };
            findings.push(Finding::error(
                "unreachable-rule",
                rule.place.clone(),
                format!("rule {} can never fire: {by}", rule.id),
                "move it up, narrow what stands before it, or remove it",
            ));
        }
        earlier.push(rule);
    }
    dead
}

/// Reports pairs of rules of which the order alone decides which one fires, for some referrals and not for others.
fn overlaps(
    directory: &Directory,
    unreachable: &BTreeSet<&RuleId>,
    pathways: &BTreeSet<Pathway>,
    findings: &mut Vec<Finding>,
) {
    let live: Vec<&Rule> = directory
        .rules
        .iter()
        .filter(|r| !unreachable.contains(&r.id))
        .collect();
    let mut found = 0usize;
    for (index, second) in live.iter().enumerate() {
        for (before, first) in live.iter().enumerate().take(index) {
            let Some(example) = overlap(
                first,
                second,
                live.get(..before).unwrap_or_default(),
                pathways,
            ) else {
                continue;
            };
            found += 1;
            if found <= OVERLAPS_MAX {
                findings.push(Finding::warning(
                    "overlapping-rules",
                    second.place.clone(),
                    format!(
                        "rules {} ({}) and {} ({}) both fit and send to different services, e.g. {example}; {} decides because it comes first",
                        first.id, first.place, second.id, second.place, first.id
                    ),
                    "make them exclude each other, or keep the order and add a test that shows it is meant",
                ));
            }
        }
    }
    if found > OVERLAPS_MAX {
        findings.push(Finding::warning(
            "overlapping-rules",
            Place::default(),
            format!("{} more pairs of rules overlap", found - OVERLAPS_MAX),
            "settle those listed first",
        ));
    }
}

/// A referral that both rules would take, where they differ and neither is a special case of the other.
fn overlap(
    first: &Rule,
    second: &Rule,
    before: &[&Rule],
    pathways: &BTreeSet<Pathway>,
) -> Option<String> {
    let region = Region::both(first, second)?;
    let to = |rule: &Rule| -> BTreeSet<ServiceId> { rule.to.iter().cloned().collect() };
    if to(first) == to(second) {
        return None;
    }
    let within = |inner: &Rule, outer: &Rule| {
        matches!(
            uncovered(&Region::of(inner), &[outer], pathways),
            Answer::Covered
        )
    };
    if within(first, second) || within(second, first) {
        return None;
    }
    match uncovered(&region, before, pathways) {
        Answer::Open(point) => Some(point.to_string()),
        Answer::Covered | Answer::Unproven => None,
    }
}

/// Reports pathways of which some referrals fit no rule today.
fn gaps(
    directory: &Directory,
    today: Date,
    pathways: &BTreeSet<Pathway>,
    findings: &mut Vec<Finding>,
) {
    let rules: Vec<&Rule> = directory
        .rules
        .iter()
        .filter(|r| r.validity.holds_on(today))
        .collect();
    for pathway in pathways {
        let takes = |s: &&Service| s.validity.holds_on(today) && s.pathways.contains(pathway);
        let Some(service) = directory.services.values().find(takes) else {
            continue;
        };
        let place = directory.place("service", service.id.as_str());
        let remedy = "add a rule for them, or leave them to triage knowingly";
        match uncovered(&Region::pathway(pathway, today), &rules, pathways) {
            Answer::Covered => {}
            Answer::Open(point) => findings.push(Finding::warning(
                "coverage-gap",
                place,
                format!("some referrals for pathway {pathway} fit no rule and go to triage, e.g. {point}"),
                remedy,
            )),
            Answer::Unproven => findings.push(Finding::warning(
                "coverage-unproven",
                place,
                format!("the rules for pathway {pathway} are too many to prove that every referral fits one"),
                "merge rules that differ in one value",
            )),
        }
    }
}

/// Reports rules whose services do not take what they send, and services that no rule sends to.
fn destinations(
    directory: &Directory,
    pathways: &BTreeSet<Pathway>,
    today: Date,
    findings: &mut Vec<Finding>,
) {
    let triage = &directory.area.triage;
    for rule in &directory.rules {
        for pathway in rule.when.pathway.difference(pathways) {
            findings.push(Finding::error(
                "pathway-not-offered",
                rule.place.clone(),
                format!(
                    "rule {} is for pathway {pathway}, which no service takes",
                    rule.id
                ),
                "correct the pathway or add it to a service",
            ));
        }
        for service in rule
            .to
            .iter()
            .filter(|to| *to != triage)
            .filter_map(|to| directory.services.get(to))
        {
            for pathway in rule
                .when
                .pathway
                .intersection(pathways)
                .filter(|p| !service.pathways.contains(*p))
            {
                findings.push(Finding::error(
                    "service-does-not-take",
                    rule.place.clone(),
                    format!(
                        "rule {} sends pathway {pathway} to {}, which does not take it",
                        rule.id, service.id
                    ),
                    "correct `to`, or add the pathway to the service",
                ));
            }
            if rule.validity.holds_on(today) && !service.validity.holds_on(today) {
                findings.push(Finding::warning(
                    "destination-not-valid",
                    rule.place.clone(),
                    format!("rule {} sends to {}, which does not hold on {today}", rule.id, service.id),
                    "until it does, these referrals go to triage: end the rule or correct the service's days",
                ));
            }
        }
    }
    for service in directory
        .services
        .values()
        .filter(|s| s.id != *triage && s.validity.holds_on(today))
    {
        for pathway in &service.pathways {
            let sends = |rule: &Rule| {
                rule.to.contains(&service.id)
                    && (rule.when.pathway.is_empty() || rule.when.pathway.contains(pathway))
                    && rule.validity.valid_to.is_none_or(|to| to >= today)
            };
            if !directory.rules.iter().any(sends) {
                findings.push(Finding::warning(
                    "pathway-not-routed",
                    directory.place("service", service.id.as_str()),
                    format!(
                        "service {} takes pathway {pathway}, but no rule sends it there",
                        service.id
                    ),
                    "add a rule, or take the pathway from the service",
                ));
            }
        }
    }
}

/// Runs the directory's own tests.
fn tests(directory: &Directory, today: Date, findings: &mut Vec<Finding>) {
    let mut fired = BTreeSet::new();
    for test in &directory.tests {
        match run(directory, test, today) {
            Ok(rule) => fired.extend(rule),
            Err(why) => findings.push(Finding::error(
                "failing-test",
                test.place.clone(),
                format!("test \"{}\" fails: {why}", test.name),
                "correct the rules or the test",
            )),
        }
    }
    if directory.tests.is_empty() && !directory.rules.is_empty() {
        findings.push(Finding::warning(
            "no-tests",
            directory.place("area", "").clone(),
            "the rules have no tests".to_owned(),
            "add [[test]] tables that state where typical referrals go",
        ));
        return;
    }
    for rule in directory.rules.iter().filter(|r| !fired.contains(&r.id)) {
        findings.push(Finding::warning(
            "untested-rule",
            rule.place.clone(),
            format!("no passing test shows rule {} at work", rule.id),
            "add a [[test]] in which it fires",
        ));
    }
}

/// Runs one test: the rule that fired, or how the outcome differs. Services that triage alone gets do not count.
fn run(directory: &Directory, test: &RouteTest, today: Date) -> Result<Option<RuleId>, String> {
    let decision = decide(directory, &test.given, test.on.unwrap_or(today))
        .map_err(|refused| format!("it is refused: {}", refused.violation()))?;
    let got: BTreeSet<ServiceId> = decision
        .destinations
        .iter()
        .filter(|d| d.rule.is_some())
        .map(|d| d.service.clone())
        .collect();
    if got == test.expect {
        return Ok(decision.rule);
    }
    let words = |services: &BTreeSet<ServiceId>| match services.len() {
        0 => "triage alone".to_owned(),
        _ => services
            .iter()
            .map(ServiceId::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    };
    let by = match (&decision.rule, decision.triage) {
        (Some(rule), None) => format!("rule {rule}"),
        (Some(rule), Some(reason)) => format!("rule {rule} and {}", reason.as_str()),
        (None, reason) => reason.map_or("no rule", |r| r.as_str()).to_owned(),
    };
    Err(format!(
        "expected {}, got {} by {by}",
        words(&test.expect),
        words(&got)
    ))
}
