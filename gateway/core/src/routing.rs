//! Where a referral goes: a pure function of the directory and of what routing may see.
//!
//! Rules are tried in order; the first whose every predicate holds decides, and all its services get the referral.
//! What no rule decides, and what a rule's service may not be given, goes to the area's triage service as well, so
//! that a person decides and nothing is lost (rulings 8 and 11). A service asked for by name must exist, but it
//! does not steer: rules decide.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::directory::{Directory, Rule, Service};
use crate::error::Violation;
use crate::id::{AgencyId, EndpointId, Pathway, RuleId, ServiceId};
use crate::leg::Owner;
use crate::referral::{
    ConsentScope, ConsentStatus, LawfulBasis, NeedType, Priority, Referral, SettingKind,
};

mod explain;

pub use explain::{Explanation, Mismatch, RuleReport, Verdict, explain};

/// The youngest age that rules decide for, in whole years.
pub const AGE_MIN: u8 = 0;
/// The oldest age that rules decide for, in whole years.
pub const AGE_MAX: u8 = 25;
/// Known words that a refusal lists.
pub const LISTED_MAX: usize = 50;

/// What routing may see of a referral: no names, no numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// What is asked for.
    pub pathway: Pathway,
    /// Needs.
    #[serde(default)]
    pub needs: BTreeSet<NeedType>,
    /// Age in whole years.
    pub age: i16,
    /// Outward postcode.
    #[serde(default)]
    pub area: Option<String>,
    /// Kind of setting.
    #[serde(default)]
    pub setting: Option<SettingKind>,
    /// How soon.
    #[serde(default)]
    pub priority: Priority,
    /// Whether consent stands.
    #[serde(default)]
    pub consent_status: ConsentStatus,
    /// What consent covers.
    #[serde(default)]
    pub consent: BTreeSet<ConsentScope>,
    /// The lawful basis for sharing.
    #[serde(default)]
    pub lawful_basis: LawfulBasis,
    /// Who sends.
    pub sender: AgencyId,
    /// The service asked for by name.
    #[serde(default)]
    pub requested_service: Option<ServiceId>,
}

impl Facts {
    /// Takes from a referral what routing may see, on a day.
    pub fn of(referral: &Referral, sender: &AgencyId, today: Date) -> Self {
        Self {
            pathway: referral.pathway.clone(),
            needs: referral.needs.iter().map(|n| n.kind).collect(),
            age: referral.age_on(today),
            area: referral.area(),
            setting: referral.setting.as_ref().map(|s| s.kind),
            priority: referral.priority,
            consent_status: referral.consent.status,
            consent: referral.consent.scope.iter().copied().collect(),
            lawful_basis: referral.lawful_basis,
            sender: sender.clone(),
            requested_service: referral.requested_service.clone(),
        }
    }

    /// Whether consent stands and covers a scope.
    pub fn consents_to(&self, scope: ConsentScope) -> bool {
        self.consent_status == ConsentStatus::Given && self.consent.contains(&scope)
    }

    /// Whether the referral may be shared with a sector whose scope this is: consent covers the scope, or the
    /// lawful basis does not rest on consent. Consent to the referral alone does not cover other sectors.
    pub fn may_share(&self, scope: ConsentScope) -> bool {
        match self.lawful_basis {
            LawfulBasis::Safeguarding
            | LawfulBasis::LegalObligation
            | LawfulBasis::VitalInterests => true,
            LawfulBasis::PublicTaskCare => self.consents_to(scope),
        }
    }

    fn age_in_range(&self) -> bool {
        (i16::from(AGE_MIN)..=i16::from(AGE_MAX)).contains(&self.age)
    }
}

/// One place where a referral goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// The service.
    pub service: ServiceId,
    /// The agency whose service it is.
    pub agency: AgencyId,
    /// Where its messages go.
    pub endpoint: EndpointId,
    /// Who owns the leg while it is open.
    pub owner: Owner,
    /// The rule that sends it there; none where triage takes it.
    pub rule: Option<RuleId>,
}

/// Why a person must decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TriageReason {
    /// No rule fits.
    NoRule,
    /// The person is younger or older than rules decide for.
    AgeOutOfRange,
    /// A service of the rule, its agency or its endpoint does not hold on the day.
    NoDestination,
    /// Consent does not cover sharing with the sector of a service of the rule.
    ConsentNotCovering,
}

impl TriageReason {
    /// The reason as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRule => "no_rule",
            Self::AgeOutOfRange => "age_out_of_range",
            Self::NoDestination => "no_destination",
            Self::ConsentNotCovering => "consent_not_covering",
        }
    }
}

/// A service that the rule names and that is not sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Withheld {
    /// The service.
    pub service: ServiceId,
    /// Why.
    pub why: TriageReason,
}

/// Where a referral goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Every service that gets it, each once; triage last. Never empty for a directory that loaded.
    pub destinations: Vec<Destination>,
    /// The rule that fired.
    pub rule: Option<RuleId>,
    /// Why triage has it, alone or beside the rule's services: the first of the reasons.
    pub triage: Option<TriageReason>,
    /// Services of the rule that are not sent to, each with its reason.
    pub withheld: Vec<Withheld>,
}

/// A referral that names what the area does not have: refused at intake (ruling 11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "refused")]
pub enum Unroutable {
    /// No service of the directory takes the pathway.
    #[error("no service of this area takes the pathway")]
    UnknownPathway {
        /// The first [`LISTED_MAX`] that are taken.
        known: Vec<Pathway>,
    },
    /// The service asked for is not in the directory.
    #[error("the requested service is not in this area's directory")]
    UnknownService {
        /// The first [`LISTED_MAX`] that are.
        known: Vec<ServiceId>,
    },
}

impl Unroutable {
    /// The field at fault, why, and what would do.
    pub fn violation(&self) -> Violation {
        let list = |known: Vec<&str>| {
            if known.is_empty() {
                "(none yet)".to_owned()
            } else {
                known.join(", ")
            }
        };
        match self {
            Self::UnknownPathway { known } => Violation::new(
                "pathway",
                format!(
                    "is not taken by any service of this area: use one of {}",
                    list(known.iter().map(Pathway::as_str).collect())
                ),
            ),
            Self::UnknownService { known } => Violation::new(
                "requested_service",
                format!(
                    "is not a service of this area: leave it out or use one of {}",
                    list(known.iter().map(ServiceId::as_str).collect())
                ),
            ),
        }
    }
}

/// Decides where a referral goes on a day.
///
/// # Errors
/// [`Unroutable`] where the referral names a pathway or service that the directory does not have.
pub fn decide(directory: &Directory, facts: &Facts, today: Date) -> Result<Decision, Unroutable> {
    refuse_unknown(directory, facts)?;
    let fired = directory
        .rules
        .iter()
        .find(|rule| misses(rule, facts, today).next().is_none());
    let mut decision = Decision {
        destinations: Vec::new(),
        rule: fired.map(|r| r.id.clone()),
        triage: None,
        withheld: Vec::new(),
    };
    match fired {
        Some(rule) => follow(rule, directory, facts, today, &mut decision),
        None if facts.age_in_range() => decision.triage = Some(TriageReason::NoRule),
        None => decision.triage = Some(TriageReason::AgeOutOfRange),
    }
    decision.triage = decision.triage.or(decision.withheld.first().map(|w| w.why));
    let triage = &directory.area.triage;
    if decision.triage.is_some() && !decision.destinations.iter().any(|d| d.service == *triage) {
        // Whether or not triage holds today: it is better to be late at its door than nowhere.
        decision
            .destinations
            .extend(directory.services.get(triage).map(|s| destination(s, None)));
    }
    Ok(decision)
}

/// The predicates of a rule, the days that it holds among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Predicate {
    /// The day is one on which the rule holds.
    Validity,
    /// The pathway is one of the rule's.
    Pathway,
    /// One of the needs is one of the rule's.
    Need,
    /// The age is within the rule's, and within what rules decide for.
    Age,
    /// The area is one of the rule's.
    Area,
    /// The setting is one of the rule's.
    Setting,
    /// The priority is one of the rule's.
    Priority,
    /// Consent covers every scope of the rule.
    Consent,
    /// The sender is one of the rule's.
    Sender,
}

impl Predicate {
    /// Every predicate.
    pub(crate) const ALL: [Self; 9] = [
        Self::Validity,
        Self::Pathway,
        Self::Need,
        Self::Age,
        Self::Area,
        Self::Setting,
        Self::Priority,
        Self::Consent,
        Self::Sender,
    ];

    /// Whether it holds: the one place that gives predicates their meaning.
    pub(crate) fn holds(self, rule: &Rule, facts: &Facts, today: Date) -> bool {
        let when = &rule.when;
        match self {
            Self::Validity => rule.validity.holds_on(today),
            Self::Pathway => when.pathway.is_empty() || when.pathway.contains(&facts.pathway),
            Self::Need => when.need.is_empty() || !when.need.is_disjoint(&facts.needs),
            Self::Age => {
                facts.age_in_range()
                    && when.age_min.is_none_or(|min| facts.age >= i16::from(min))
                    && when.age_max.is_none_or(|max| facts.age <= i16::from(max))
            }
            Self::Area => {
                when.area.is_empty()
                    || facts
                        .area
                        .as_ref()
                        .is_some_and(|a| when.area.contains(&a.to_ascii_uppercase()))
            }
            Self::Setting => {
                when.setting.is_empty() || facts.setting.is_some_and(|s| when.setting.contains(&s))
            }
            Self::Priority => when.priority.is_empty() || when.priority.contains(&facts.priority),
            Self::Consent => when.consent.iter().all(|scope| facts.consents_to(*scope)),
            Self::Sender => when.sender.is_empty() || when.sender.contains(&facts.sender),
        }
    }
}

/// The predicates of a rule that do not hold; none means that it fits.
fn misses(rule: &Rule, facts: &Facts, today: Date) -> impl Iterator<Item = Predicate> {
    Predicate::ALL
        .into_iter()
        .filter(move |p| !p.holds(rule, facts, today))
}

fn follow(rule: &Rule, directory: &Directory, facts: &Facts, today: Date, decision: &mut Decision) {
    for id in &rule.to {
        match reachable(directory, id, today) {
            Some((service, scope)) if facts.may_share(scope) => {
                decision
                    .destinations
                    .push(destination(service, Some(&rule.id)));
            }
            Some(_) => decision.withheld.push(Withheld {
                service: id.clone(),
                why: TriageReason::ConsentNotCovering,
            }),
            None => decision.withheld.push(Withheld {
                service: id.clone(),
                why: TriageReason::NoDestination,
            }),
        }
    }
}

/// A service that holds on a day together with its agency and endpoint, and the scope that sharing with it needs.
fn reachable<'a>(
    directory: &'a Directory,
    id: &ServiceId,
    today: Date,
) -> Option<(&'a Service, ConsentScope)> {
    let service = directory.service(id, today)?;
    directory.endpoint(&service.endpoint, today)?;
    let agency = directory
        .agencies
        .get(&service.agency)
        .filter(|a| a.validity.holds_on(today))?;
    Some((service, agency.sector.consent_scope()))
}

fn destination(service: &Service, rule: Option<&RuleId>) -> Destination {
    Destination {
        service: service.id.clone(),
        agency: service.agency.clone(),
        endpoint: service.endpoint.clone(),
        owner: service.owner(),
        rule: rule.cloned(),
    }
}

fn refuse_unknown(directory: &Directory, facts: &Facts) -> Result<(), Unroutable> {
    if !directory
        .services
        .values()
        .any(|s| s.pathways.contains(&facts.pathway))
    {
        let known: BTreeSet<&Pathway> = directory
            .services
            .values()
            .flat_map(|s| &s.pathways)
            .collect();
        let known = known.into_iter().take(LISTED_MAX).cloned().collect();
        return Err(Unroutable::UnknownPathway { known });
    }
    match &facts.requested_service {
        Some(id) if !directory.services.contains_key(id) => {
            let known = directory
                .services
                .keys()
                .take(LISTED_MAX)
                .cloned()
                .collect();
            Err(Unroutable::UnknownService { known })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
