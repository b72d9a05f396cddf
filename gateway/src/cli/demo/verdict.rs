//! What must have arrived where, once and no more, and what is found instead.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde::Serialize;
use waymark_adapters::grpc::convert::{evidence_to_proto, kind_to_proto};
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::directory::Directory;
use waymark_core::id::ServiceId;
use waymark_core::leg::LegState;
use waymark_core::referral::{ConsentScope, Referral};
use waymark_proto::v1;

use super::ledger::{Arrival, Ledger};
use super::samples::Planned;
use super::{ANSWERED_PATHWAY, bars, families, hearing, hospital, portage, push, therapy};
use crate::cli::output::word;

/// The specialist team's code in the directory: it signs its receipts.
pub(super) const SPECIALIST: &str = "SPEC1";

/// One message that must arrive.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// What the demo calls the referral.
    pub(super) name: String,
    /// Whose service, or whose return endpoint, gets it.
    pub(super) agency: String,
    /// The gateway's reference of the referral.
    pub(super) reference: String,
    /// The service that it is for; of a status, the service that reports.
    pub(super) service: String,
    /// What it tells.
    pub(super) kind: Kind,
    /// The evidence that its delivery must end with.
    pub(super) evidence: Evidence,
    /// The content that it must carry.
    content: Option<Referral>,
}

/// A referral that the gateway took.
#[derive(Clone, Debug)]
pub(super) struct Submitted {
    /// What was sent.
    pub(super) planned: Planned,
    /// What the gateway promised.
    pub(super) receipt: v1::Receipt,
    /// Whether it was cancelled after an attempt.
    pub(super) is_cancelled: bool,
}

type Place = (String, String, String, Kind);

impl Expected {
    fn place(&self) -> Place {
        (
            self.agency.clone(),
            self.reference.clone(),
            self.service.clone(),
            self.kind,
        )
    }

    fn words(&self) -> String {
        format!(
            "{} {} of {} for {}",
            self.kind, self.service, self.name, self.agency
        )
    }
}

/// Everything that these referrals must bring about.
///
/// # Errors
/// When a service is not in the directory.
pub(super) fn expected(
    submitted: &[Submitted],
    directory: &Directory,
) -> anyhow::Result<Vec<Expected>> {
    let mut all = Vec::new();
    for Submitted {
        planned,
        receipt,
        is_cancelled,
    } in submitted
    {
        for service in planned.to {
            let id: ServiceId = service.parse()?;
            let agency = directory
                .services
                .get(&id)
                .with_context(|| format!("no service {service}"))?
                .agency
                .as_str();
            let answers = is_answered(agency, &planned.referral);
            let one = |agency: &str, kind, evidence, content| Expected {
                name: planned.name.clone(),
                agency: agency.to_owned(),
                reference: receipt.reference.clone(),
                service: (*service).to_owned(),
                kind,
                evidence,
                content,
            };
            all.push(one(
                agency,
                Kind::New,
                evidence_of(agency, answers),
                Some(planned.referral.clone()),
            ));
            if *is_cancelled {
                all.push(one(agency, Kind::Cancel, evidence_of(agency, false), None));
            }
            if answers {
                let told = planned.from;
                all.push(one(told, Kind::Status, Evidence::ApplicationAck, None));
            }
            if answers && is_told_to_family(directory, &planned.referral) {
                let service = directory.services.get(&id);
                all.push(Expected {
                    service: service.map(|s| s.name.clone()).unwrap_or_default(),
                    ..one(
                        families::AGENCY,
                        Kind::Guidance,
                        Evidence::TransportAck,
                        None,
                    )
                });
            }
        }
    }
    Ok(all)
}

/// Whether an agency of the demo answers a referral with a status.
fn is_answered(agency: &str, referral: &Referral) -> bool {
    let always = [push::AGENCY, bars::AGENCY, hearing::AGENCY, portage::AGENCY];
    always.contains(&agency)
        || ([hospital::AGENCY, therapy::AGENCY].contains(&agency)
            && referral.pathway.as_str() == ANSWERED_PATHWAY)
}

/// Whether a family is told that its child's referral was accepted.
fn is_told_to_family(directory: &Directory, referral: &Referral) -> bool {
    let mut templates = directory.templates.iter();
    referral
        .consent
        .scope
        .contains(&ConsentScope::FamilyMessages)
        && templates.any(|t| {
            t.states.contains(&LegState::Accepted) && t.pathways.contains(&referral.pathway)
        })
}

fn evidence_of(agency: &str, answered: bool) -> Evidence {
    match agency {
        // Its callback names the person who accepted; the hospital's RRI says no more than its AA did.
        therapy::AGENCY if answered => Evidence::HumanAcceptance,
        SPECIALIST => Evidence::SignedReceipt,
        _ => Evidence::ApplicationAck,
    }
}

/// Compares what must be with what each agency took in and with what the gateway says of its deliveries.
pub(super) fn faults(
    expected: &[Expected],
    ledgers: &[&Ledger],
    deliveries: &[v1::Delivery],
) -> Vec<String> {
    let mut faults: Vec<String> = ledgers.iter().flat_map(|ledger| ledger.faults()).collect();
    let mut arrived: BTreeMap<Place, Vec<Arrival>> = BTreeMap::new();
    for ledger in ledgers {
        for arrival in ledger.arrivals() {
            let agency = ledger.agency().to_owned();
            let place = (
                agency,
                arrival.reference.clone(),
                arrival.service.clone(),
                arrival.kind,
            );
            arrived.entry(place).or_default().push(arrival);
        }
    }
    let mut by_wire_id: BTreeMap<&str, &v1::Delivery> = BTreeMap::new();
    for delivery in deliveries {
        if by_wire_id.insert(&delivery.wire_id, delivery).is_some() {
            faults.push(format!(
                "two deliveries have the wire id {}",
                delivery.wire_id
            ));
        }
    }
    for one in expected {
        match arrived.remove(&one.place()).unwrap_or_default().as_slice() {
            [arrival] => match by_wire_id.remove(arrival.wire_id.as_str()) {
                Some(delivery) => faults.extend(delivery_faults(one, arrival, delivery)),
                None => faults.push(format!(
                    "{} arrived under an id that is no delivery's",
                    one.words()
                )),
            },
            others => faults.push(format!("{} arrived {} times", one.words(), others.len())),
        }
    }
    for (agency, reference, service, kind) in arrived.into_keys() {
        faults.push(format!(
            "{kind} {service} of {reference} arrived at {agency}, where it was not expected"
        ));
    }
    for delivery in by_wire_id.into_values() {
        faults.push(format!(
            "delivery {} to {} is {}",
            delivery.delivery_id,
            delivery.agency_id,
            state(delivery)
        ));
    }
    faults
}

fn delivery_faults(one: &Expected, arrival: &Arrival, delivery: &v1::Delivery) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |holds: bool, why: String| {
        if !holds {
            faults.push(format!("{}: {why}", one.words()));
        }
    };
    check(
        delivery.agency_id == one.agency,
        format!("its delivery is bound to {}", delivery.agency_id),
    );
    check(
        delivery.kind == i32::from(kind_to_proto(one.kind)),
        "its delivery is of another kind".to_owned(),
    );
    check(
        delivery.state() == v1::DeliveryState::Done,
        format!("its delivery is {}", state(delivery)),
    );
    check(
        delivery.evidence == i32::from(evidence_to_proto(one.evidence)),
        format!(
            "its evidence is {} and not {}",
            evidence(delivery),
            one.evidence
        ),
    );
    check(
        carries(one, arrival),
        "its content is not what the school sent".to_owned(),
    );
    faults
}

/// Whether the content arrived whole.
fn carries(one: &Expected, arrival: &Arrival) -> bool {
    match (&one.content, &arrival.content) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(sent), Some(came)) if [hospital::AGENCY, bars::AGENCY].contains(&&*one.agency) => {
            // RF1-6, as the placer's identifier of BaRS, has the gateway's reference, so the sender's own stands among
            // the others; PRD-7 has the service that it goes to, whether the sender asked for it by name or not.
            let reference = sent.sender_reference.as_ref().map(|r| r.value.as_str());
            let comparable = |referral: &Referral| {
                let mut referral = Referral {
                    sender_reference: None,
                    requested_service: None,
                    ..referral.clone()
                };
                referral
                    .external_ids
                    .retain(|id| Some(id.value.as_str()) != reference);
                serde_json::to_value(referral).ok()
            };
            comparable(sent) == comparable(came)
        }
        (Some(sent), Some(came)) => {
            serde_json::to_value(sent).ok() == serde_json::to_value(came).ok()
        }
    }
}

/// Messages that arrived at an agency before what they must follow.
pub(super) fn out_of_order(ledgers: &[&Ledger]) -> Vec<String> {
    let mut faults = Vec::new();
    for ledger in ledgers {
        let mut begun = BTreeSet::new();
        for arrival in ledger.arrivals() {
            let case = (arrival.reference.clone(), arrival.service.clone());
            match arrival.kind {
                Kind::New => {
                    begun.insert(case);
                }
                Kind::Amend | Kind::Cancel | Kind::Withdraw if !begun.contains(&case) => {
                    let text = format!(
                        "{}: {} overtook its referral {}",
                        ledger.agency(),
                        arrival.kind,
                        case.0
                    );
                    faults.push(text);
                }
                Kind::Amend | Kind::Cancel | Kind::Withdraw | Kind::Status | Kind::Guidance => {}
            }
        }
    }
    faults
}

/// A delivery's state as a word.
pub(super) fn state(delivery: &v1::Delivery) -> String {
    word(delivery.state().as_str_name(), "DELIVERY_STATE_")
}

/// A delivery's evidence as a word.
pub(super) fn evidence(delivery: &v1::Delivery) -> String {
    word(delivery.evidence().as_str_name(), "EVIDENCE_GRADE_")
}

/// What the demo found, as a script reads it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Summary {
    /// Whether every referral arrived exactly once and the log verified.
    pub(super) ok: bool,
    /// Referrals accepted.
    pub(super) referrals: usize,
    /// Deliveries by state.
    pub(super) deliveries: BTreeMap<String, usize>,
    /// Deliveries by evidence.
    pub(super) evidence: BTreeMap<String, usize>,
    /// Deliveries that arrived, by the adapter that they went by.
    pub(super) adapters: BTreeMap<String, usize>,
    /// The delivery log.
    pub(super) log: LogSummary,
    /// What is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) faults: Vec<String>,
}

/// The delivery log, as a script reads it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct LogSummary {
    /// Entries verified.
    pub(super) size: u64,
    /// Whether all of it verified.
    pub(super) verified: bool,
}

impl Summary {
    /// Counts deliveries by state, evidence and adapter.
    pub(super) fn count(&mut self, deliveries: &[v1::Delivery], directory: &Directory) {
        for delivery in deliveries {
            let endpoint = delivery.endpoint_id.parse().ok();
            let endpoint = endpoint.and_then(|id| directory.endpoints.get(&id));
            if let Some(endpoint) = endpoint.filter(|_| delivery.state() == v1::DeliveryState::Done)
            {
                let adapter = endpoint.adapter.as_str().to_owned();
                *self.adapters.entry(adapter).or_default() += 1;
            }
            *self.deliveries.entry(state(delivery)).or_default() += 1;
            *self.evidence.entry(evidence(delivery)).or_default() += 1;
        }
    }

    /// Decides.
    pub(super) fn decide(mut self) -> Self {
        self.ok = self.faults.is_empty() && self.log.verified && self.referrals > 0;
        self
    }
}

/// The summary in words.
pub(super) fn words(summary: &Summary) -> String {
    if summary.ok {
        let deliveries: usize = summary.deliveries.values().sum();
        return format!(
            "ok: {} referrals became {deliveries} deliveries, and each arrived exactly once: {}",
            summary.referrals,
            by_adapter(summary)
        );
    }
    format!("NOT ok:\n  {}", summary.faults.join("\n  "))
}

fn by_adapter(summary: &Summary) -> String {
    let counts = summary.adapters.iter();
    let counts: Vec<String> = counts
        .map(|(name, count)| format!("{count} by {name}"))
        .collect();
    counts.join(", ")
}

#[cfg(test)]
mod tests;
