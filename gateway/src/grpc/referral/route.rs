//! Where a referral goes, and why.

use std::sync::Arc;

use jiff::civil::Date;
use waymark_adapters::grpc::convert::date_from_proto;
use waymark_core::directory::Directory;
use waymark_core::error::ErrorKind;
use waymark_core::id::AgencyId;
use waymark_core::referral::Referral;
use waymark_core::routing::{Explanation, Facts, Verdict, explain as explain_facts};
use waymark_proto::v1;
use waymark_proto::v1::explain_route_request::Subject;

use super::super::face::{Caller, Face};
use super::super::status::field;
use super::super::write;
use super::{key, submit};
use crate::service::{InForce, Key, ServiceError, load_release};

/// The purpose under which the content of an accepted referral is read to explain it.
const PURPOSE: &str = "EXPLAIN_ROUTE";

/// Explains a route.
pub(super) async fn explain(
    face: &Face,
    caller: &Caller,
    ask: v1::ExplainRouteRequest,
) -> Result<v1::ExplainRouteResponse, ServiceError> {
    let today = face.service.now().london_date();
    // Whoever may read the directory may ask.
    let current = face.service.read_directory(&caller.principal)?;
    match ask.subject {
        Some(Subject::Referral(content)) => {
            let referral = submit::referral(caller, Some(content))?;
            let on = if ask.on_date.is_empty() {
                today
            } else {
                date_from_proto("on_date", &ask.on_date)
                    .map_err(|v| ServiceError::invalid(vec![v]))?
            };
            let release = release(face, caller, current, ask.directory_release).await?;
            answer(&release, &referral, &caller.principal.agency, on)
        }
        Some(Subject::Key(named)) => {
            if ask.directory_release != 0 || !ask.on_date.is_empty() {
                let why = "an accepted referral is explained from the release and day that routed it: leave it out";
                let name = if ask.directory_release == 0 {
                    "on_date"
                } else {
                    "directory_release"
                };
                return Err(field(name, why));
            }
            let view = face
                .service
                .referral(&caller.principal, &key("key", Some(named))?)
                .await?;
            let referral = face
                .service
                .content(&caller.principal, &Key::Id(view.id), PURPOSE)
                .await?;
            let release = if view.release == current.number {
                current
            } else {
                stored(face, view.release).await?
            };
            answer(
                &release,
                &referral,
                &view.sender,
                view.accepted.london_date(),
            )
        }
        None => Err(field(
            "subject",
            "is required: content, or the key of a referral",
        )),
    }
}

/// A release by number, for who may read releases; everybody may ask for the one in force.
async fn release(
    face: &Face,
    caller: &Caller,
    current: Arc<InForce>,
    number: u64,
) -> Result<Arc<InForce>, ServiceError> {
    if number == 0 || number == current.number {
        return Ok(current);
    }
    let release = face
        .service
        .release(&caller.principal, Some(number))
        .await?;
    Ok(Arc::new(InForce {
        number,
        directory: loaded(load_release(&release))?,
    }))
}

/// The release that routed a referral, for its parties.
async fn stored(face: &Face, number: u64) -> Result<Arc<InForce>, ServiceError> {
    let release = face.service.store().release_by_number(number).await?;
    let release =
        release.ok_or_else(|| ServiceError::new(ErrorKind::NotFound, "NO_SUCH_RELEASE"))?;
    Ok(Arc::new(InForce {
        number,
        directory: loaded(load_release(&release))?,
    }))
}

fn loaded<E>(directory: Result<Directory, E>) -> Result<Directory, ServiceError> {
    directory.map_err(|_| ServiceError::new(ErrorKind::Corrupt, "STORED_RELEASE"))
}

fn answer(
    release: &InForce,
    referral: &Referral,
    sender: &AgencyId,
    on: Date,
) -> Result<v1::ExplainRouteResponse, ServiceError> {
    let explanation = explain_facts(&release.directory, &Facts::of(referral, sender, on), on);
    if let Some(refused) = &explanation.refused {
        let violation = refused.violation();
        return Err(field(
            format!("referral.{}", violation.field),
            violation.why,
        ));
    }
    let triage = release.directory.triage();
    Ok(v1::ExplainRouteResponse {
        directory_release: release.number,
        destinations: destinations(&explanation),
        rules: explanation
            .rules
            .iter()
            .map(|report| rule(report, &explanation))
            .collect(),
        triage_owner: triage.map(|service| write::owner(&service.owner())),
    })
}

fn destinations(explanation: &Explanation) -> Vec<v1::RouteDestination> {
    let decided = explanation
        .decision
        .iter()
        .flat_map(|decision| &decision.destinations);
    let destinations = decided.map(|to| v1::RouteDestination {
        service_id: to.service.to_string(),
        agency_id: to.agency.to_string(),
        endpoint_id: to.endpoint.to_string(),
        rule_id: to
            .rule
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    });
    destinations.collect()
}

fn rule(report: &waymark_core::routing::RuleReport, explanation: &Explanation) -> v1::RuleVerdict {
    let fired = explanation
        .decision
        .as_ref()
        .and_then(|decision| decision.rule.as_ref());
    let skipped = match (report.verdict, fired) {
        (Verdict::Passed, Some(rule)) => format!("shadowed by {rule}"),
        (Verdict::Passed | Verdict::Fired | Verdict::NotMatched, _) => String::new(),
    };
    let predicates = report.mismatches.iter().map(|miss| v1::PredicateVerdict {
        name: miss.predicate.to_owned(),
        held: false,
        wanted: miss.expected.clone(),
        found: miss.actual.clone(),
    });
    v1::RuleVerdict {
        rule_id: report.rule.to_string(),
        fired: report.verdict == Verdict::Fired,
        predicates: predicates.collect(),
        skipped,
        location: report.place.to_string(),
    }
}
