//! The consent of a message: what is said most narrowly is what stands. A rule that cannot be kept here refuses the
//! message, and what limits a consent in ways that have no field is said in words.

use waymark_core::personal::Personal;
use waymark_core::referral::{Consent, ConsentGiver, ConsentScope, ConsentStatus, LawfulBasis};

use super::super::name;
use super::inward::Reading;
use super::node::{Fault, Issue, Node};
use super::support::day;

/// What limits a provision beyond its purposes (FHIR R4, 6.2.4).
const LIMITS: [&str; 9] = [
    "period",
    "actor",
    "action",
    "securityLabel",
    "class",
    "code",
    "dataPeriod",
    "data",
    "provision",
];

/// The consent of the message, of several the most restrictive; without one, what the agreement with the sender says of
/// all its referrals.
pub(super) fn read(reading: &mut Reading<'_, '_>) -> Result<(Consent, LawfulBasis), Fault> {
    let nodes: Vec<Node<'_>> = reading.message.all("Consent").cloned().collect();
    let mut standing: Option<(Consent, LawfulBasis)> = None;
    for node in &nodes {
        let next = one(reading, node)?;
        standing = Some(match standing {
            None => next,
            Some(first) => {
                let (stands, other) = narrower(first, next);
                let scope: Vec<&str> = other.scope.iter().map(|scope| scope.as_str()).collect();
                let line = format!("Consent also sent: {} {}", other.status, scope.join(", "));
                reading.say(line.trim_end());
                stands
            }
        });
    }
    let assumed = reading.assumptions;
    Ok(standing.unwrap_or_else(|| {
        let consent = Consent {
            status: ConsentStatus::Given,
            given_by: None,
            role: ConsentGiver::Parent,
            scope: assumed.consent_scope.clone(),
            date: None,
            evidence: None,
        };
        (consent, assumed.lawful_basis)
    }))
}

/// How far a consent is from being given.
const fn distance(status: ConsentStatus) -> u8 {
    match status {
        ConsentStatus::Given => 0,
        ConsentStatus::NotSought => 1,
        ConsentStatus::Withheld => 2,
        ConsentStatus::Withdrawn => 3,
    }
}

/// Which of two stands: the one that is further from being given; of two that are given, what both cover. The other
/// comes beside it.
fn narrower(
    first: (Consent, LawfulBasis),
    next: (Consent, LawfulBasis),
) -> ((Consent, LawfulBasis), Consent) {
    let (stands, other) = if distance(next.0.status) > distance(first.0.status) {
        (next, first.0)
    } else {
        (first, next.0)
    };
    let (mut consent, basis) = stands;
    if other.status == consent.status {
        consent.scope.retain(|scope| other.scope.contains(scope));
    }
    ((consent, basis), other)
}

fn one(reading: &mut Reading<'_, '_>, node: &Node<'_>) -> Result<(Consent, LawfulBasis), Fault> {
    let exact = |extension: &str| {
        let found = node.extension(&name::extension(extension))?;
        found
            .map(|found| found.required_text("valueCode"))
            .transpose()
    };
    let own = exact("consent-status")?;
    let status = match (own, node.required_text("status")?) {
        (Some(code), _) => ConsentStatus::parse(code),
        (None, "active") => Some(ConsentStatus::Given),
        (None, "rejected") => Some(ConsentStatus::Withheld),
        (None, "inactive") => Some(ConsentStatus::Withdrawn),
        (None, "proposed" | "draft") => Some(ConsentStatus::NotSought),
        (None, _) => None,
    };
    let mut status =
        status.ok_or_else(|| node.fault_of("status", "is a state of consent", Issue::Value))?;
    let provision = node.object("provision")?;
    let denied = provision.as_ref().map(denies).transpose()? == Some(true);
    if denied && status == ConsentStatus::Given {
        status = ConsentStatus::Withheld;
    }
    let role = exact("consent-role")?
        .and_then(ConsentGiver::parse)
        .unwrap_or_default();
    let mut scope = scope(reading, provision.as_ref())?;
    if scope.is_none() && own.is_none() && status == ConsentStatus::Given {
        scope = Some(reading.assumptions.consent_scope.clone());
    }
    // The purposes of a consent that forbids are those that it forbids.
    scope = scope.filter(|_| !denied);
    let basis = node.concept("policyRule")?.code_of(name::VALUE);
    let basis = match basis {
        None => reading.assumptions.lawful_basis,
        Some(code) => LawfulBasis::parse(code)
            .ok_or_else(|| node.fault_of("policyRule", "is a lawful basis", Issue::Value))?,
    };
    let display = |node: Option<&Node<'_>>| -> Result<Option<Personal<String>>, Fault> {
        let text = node.map(|node| node.text("display")).transpose()?.flatten();
        Ok(text.map(Personal::from))
    };
    let consent = Consent {
        status,
        given_by: display(node.list("performer")?.first())?,
        role,
        scope: scope.unwrap_or_default(),
        date: day(node, "dateTime")?,
        evidence: display(node.object("sourceReference")?.as_ref())?,
    };
    Ok((consent, basis))
}

/// Whether a consent forbids as a whole (FHIR R4, 6.2.4, `provision.type`). One that permits with exceptions is refused:
/// they could not be kept by whom the referral is routed to.
fn denies(provision: &Node<'_>) -> Result<bool, Fault> {
    let denies = match provision.text("type")? {
        None | Some("permit") => false,
        Some("deny") => true,
        Some(_) => return Err(provision.fault_of("type", "is deny or permit", Issue::Value)),
    };
    for inner in provision.list("provision")? {
        if self::denies(&inner)? && !denies {
            let rule = "is not deny: a consent with exceptions cannot be kept here; send one that says what is permitted";
            return Err(inner.fault_of("type", rule, Issue::NotSupported));
        }
    }
    Ok(denies)
}

/// What a consent covers by our own codes; none where it says nothing of purposes. Purposes of other lists are said in
/// words, and cover of what the agreement assumes no more than the referral itself.
fn scope(
    reading: &mut Reading<'_, '_>,
    provision: Option<&Node<'_>>,
) -> Result<Option<Vec<ConsentScope>>, Fault> {
    let Some(provision) = provision else {
        return Ok(None);
    };
    let limits: Vec<&str> = LIMITS
        .into_iter()
        .filter(|limit| provision.value().get(limit).is_some())
        .collect();
    if !limits.is_empty() {
        let limits = limits.join(", ");
        reading.say(format!(
            "The consent is limited by {limits}: see the original."
        ));
    }
    let (mut scope, mut foreign) = (Vec::new(), Vec::new());
    for purpose in provision.list("purpose")? {
        let code = purpose.required_text("code")?;
        if purpose.text("system")? == Some(name::VALUE) {
            let known = ConsentScope::parse(code);
            scope.push(
                known.ok_or_else(|| {
                    purpose.fault_of("code", "is a scope of consent", Issue::Value)
                })?,
            );
        } else {
            foreign.push(purpose.text("display")?.unwrap_or(code));
        }
    }
    if foreign.is_empty() {
        return Ok((!scope.is_empty()).then_some(scope));
    }
    reading.say(format!("Purposes of the consent: {}", foreign.join(", ")));
    if scope.is_empty() {
        let assumed = reading.assumptions.consent_scope.iter();
        scope.extend(assumed.filter(|scope| **scope == ConsentScope::Referral));
    }
    Ok(Some(scope))
}
