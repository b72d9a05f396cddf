//! Turns tables as written into a directory whose references all lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use toml::Spanned;

use super::raw::{Raw, RawAgency, RawArea, RawIdentity, RawService, RawSuccession};
use super::value::{Day, OneOrMany};
use super::{At, Declared};
use crate::access::Role;
use crate::directory::check::Finding;
use crate::directory::{
    Agency, Area, CodeMap, Directory, Identity, Place, Service, Succession, Validity,
};
use crate::id::{AgencyId, CodeMapId, ServiceId};

/// The maps that loaded.
type CodeMaps = BTreeMap<CodeMapId, CodeMap>;

mod codes;
mod endpoint;
mod rule;
mod template;

pub(super) fn resolve(
    raw: Raw<'_>,
    declared: &Declared,
    findings: Vec<Finding>,
) -> Result<Directory, Vec<Finding>> {
    let mut r = Resolver {
        declared,
        findings,
        places: BTreeMap::new(),
    };
    let area = r.area(raw.areas);
    let code_maps = r.code_maps(raw.code_maps);
    let agencies = raw
        .agencies
        .into_iter()
        .filter_map(|at| r.agency(at))
        .collect();
    let identities = raw
        .identities
        .into_iter()
        .filter_map(|at| r.identity(at, &code_maps))
        .collect();
    let services: BTreeMap<_, _> = raw
        .services
        .into_iter()
        .filter_map(|at| r.service(at))
        .collect();
    let endpoints = raw
        .endpoints
        .into_iter()
        .filter_map(|at| r.endpoint(at, &code_maps))
        .collect();
    let rules = r.rules(raw.rules);
    // A test that names no sender comes from the agency that owns triage.
    let asker = area
        .as_ref()
        .and_then(|a| services.get(&a.triage))
        .map(|s: &Service| s.agency.clone());
    let tests = raw
        .tests
        .into_iter()
        .filter_map(|at| r.test(at, asker.as_ref()))
        .collect();
    let successions = raw
        .successions
        .into_iter()
        .filter_map(|at| r.succession(at))
        .collect();
    let code_tests = raw
        .code_tests
        .into_iter()
        .filter_map(|at| r.code_test(at))
        .collect();
    let templates = raw
        .templates
        .into_iter()
        .filter_map(|at| r.template(at))
        .collect();
    let Resolver {
        mut findings,
        places,
        ..
    } = r;
    findings.sort_by(|a, b| a.place.cmp(&b.place));
    match area {
        Some(area) if findings.is_empty() => Ok(Directory {
            area,
            agencies,
            identities,
            services,
            endpoints,
            rules,
            tests,
            successions,
            code_maps,
            code_tests,
            templates,
            places,
        }),
        _ => Err(findings),
    }
}

struct Resolver<'d> {
    declared: &'d Declared,
    findings: Vec<Finding>,
    places: BTreeMap<String, Place>,
}

impl Resolver<'_> {
    fn fault(&mut self, code: &'static str, place: Place, message: String, remedy: &str) {
        self.findings
            .push(Finding::error(code, place, message, remedy));
    }

    /// Notes where a thing stands; false when it stands elsewhere already.
    fn declare(&mut self, kind: &str, id: &str, place: Place) -> bool {
        if let Some(first) = self.places.get(&format!("{kind} {id}")) {
            let message = format!("{kind} {id} is declared a second time, first at {first}");
            self.fault("duplicate", place, message, "remove or rename one of them");
            return false;
        }
        self.places.insert(format!("{kind} {id}"), place);
        true
    }

    fn refer<T: Display>(
        &mut self,
        kind: &'static str,
        field: &str,
        target: &Spanned<T>,
        place: Place,
    ) {
        let id = target.get_ref().to_string();
        if !self.declared.contains(&(kind, id.clone())) {
            let message = format!("{field} names {kind} {id}, which is not in the directory");
            self.fault(
                "unresolved",
                place,
                message,
                &format!("declare it in a [[{kind}]] table or name another"),
            );
        }
    }

    fn validity(&mut self, from: Option<Day>, to: Option<Day>, place: Place) -> Validity {
        let validity = Validity {
            valid_from: from.map(|d| d.0),
            valid_to: to.map(|d| d.0),
        };
        if matches!((validity.valid_from, validity.valid_to), (Some(from), Some(to)) if from > to) {
            self.fault(
                "never-valid",
                place,
                "valid_from is after valid_to, so it never holds".to_owned(),
                "correct one of the days",
            );
        }
        validity
    }

    fn area(&mut self, areas: Vec<At<'_, RawArea>>) -> Option<Area> {
        let mut areas = areas.into_iter();
        let Some(at) = areas.next() else {
            if !self.declared.iter().any(|(kind, _)| *kind == "area") {
                self.fault(
                    "no-area",
                    Place::default(),
                    "no file has an [area] table".to_owned(),
                    "add [area] with id, name, environment and triage",
                );
            }
            return None;
        };
        self.places.insert("area".to_owned(), at.place());
        for second in areas {
            let message = format!("a second [area], first at {}", at.place());
            self.fault("duplicate", second.place(), message, "remove one of them");
        }
        self.refer(
            "service",
            "triage",
            &at.value.triage,
            at.place_of(&at.value.triage),
        );
        let id = at.value.id.get_ref();
        let ok = (1..=32).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !ok {
            self.fault(
                "invalid-id",
                at.place_of(&at.value.id),
                "the area's id becomes part of a log's name".to_owned(),
                "use 1 to 32 lower-case letters, digits or hyphens",
            );
        }
        let RawArea {
            id,
            name,
            environment,
            triage,
        } = at.value;
        Some(Area {
            id: id.into_inner(),
            name,
            environment,
            triage: triage.into_inner(),
        })
    }

    fn agency(&mut self, at: At<'_, RawAgency>) -> Option<(AgencyId, Agency)> {
        let place = at.place();
        if let Some(endpoint) = &at.value.return_endpoint {
            self.refer(
                "endpoint",
                "return_endpoint",
                endpoint,
                at.place_of(endpoint),
            );
        }
        let RawAgency {
            id,
            name,
            sector,
            return_endpoint,
            valid_from,
            valid_to,
        } = at.value;
        let id = id.into_inner();
        let validity = self.validity(valid_from, valid_to, place.clone());
        self.declare("agency", id.as_str(), place).then(|| {
            let return_endpoint = return_endpoint.map(Spanned::into_inner);
            (
                id.clone(),
                Agency {
                    id,
                    name,
                    sector,
                    return_endpoint,
                    validity,
                },
            )
        })
    }

    fn identity(&mut self, at: At<'_, RawIdentity>, maps: &CodeMaps) -> Option<(String, Identity)> {
        let place = at.place();
        let codes = self.code_map(&at, at.value.code_map.as_ref(), maps);
        self.refer(
            "agency",
            "agency",
            &at.value.agency,
            at.place_of(&at.value.agency),
        );
        for agency in &at.value.acts_for.0 {
            self.refer("agency", "acts_for", agency, at.place_of(agency));
        }
        for sender in &at.value.hl7_senders.0 {
            if sender.get_ref().split('|').count() != 2 {
                self.fault(
                    "invalid-hl7-sender",
                    at.place_of(sender),
                    "hl7_senders holds an entry that is not an application and a facility"
                        .to_owned(),
                    "write MSH-3.1 and MSH-4.1 as \"APP|FACILITY\"",
                );
            }
        }
        if at.value.name.get_ref().trim().is_empty() {
            self.fault(
                "invalid-id",
                place.clone(),
                "an identity without a name".to_owned(),
                "name the channel",
            );
        }
        let RawIdentity {
            name,
            agency,
            roles,
            acts_for,
            hl7_senders,
            valid_from,
            valid_to,
            ..
        } = at.value;
        let name = name.into_inner();
        let validity = self.validity(valid_from, valid_to, place.clone());
        self.declare("identity", &name, place).then(|| {
            let identity = Identity {
                name: name.clone(),
                agency: agency.into_inner(),
                roles: roles.map_or_else(|| BTreeSet::from([Role::Agency]), OneOrMany::into_values),
                acts_for: acts_for.into_values(),
                hl7_senders: hl7_senders.into_values(),
                codes,
                validity,
            };
            (name, identity)
        })
    }

    fn service(&mut self, at: At<'_, RawService>) -> Option<(ServiceId, Service)> {
        let place = at.place();
        self.refer(
            "agency",
            "agency",
            &at.value.agency,
            at.place_of(&at.value.agency),
        );
        self.refer(
            "endpoint",
            "endpoint",
            &at.value.endpoint,
            at.place_of(&at.value.endpoint),
        );
        if at.value.owner_role.get_ref().trim().is_empty() {
            self.fault(
                "no-owner",
                at.place_of(&at.value.owner_role),
                "owner_role is empty, so nobody would own its open work".to_owned(),
                "name the role that answers for it, e.g. \"Intake coordinator\"",
            );
        }
        let RawService {
            id,
            name,
            agency,
            pathways,
            endpoint,
            owner_role,
            valid_from,
            valid_to,
        } = at.value;
        let id = id.into_inner();
        let validity = self.validity(valid_from, valid_to, place.clone());
        self.declare("service", id.as_str(), place).then(|| {
            let service = Service {
                id: id.clone(),
                name,
                agency: agency.into_inner(),
                pathways: pathways.into_values(),
                endpoint: endpoint.into_inner(),
                owner_role: owner_role.into_inner(),
                validity,
            };
            (id, service)
        })
    }

    fn succession(&mut self, at: At<'_, RawSuccession>) -> Option<Succession> {
        let place = at.place();
        self.refer(
            "agency",
            "from",
            &at.value.from,
            at.place_of(&at.value.from),
        );
        self.refer("agency", "to", &at.value.to, at.place_of(&at.value.to));
        let RawSuccession { from, to, on } = at.value;
        let (from, to) = (from.into_inner(), to.into_inner());
        if from == to {
            let message = format!("agency {from} would succeed itself");
            self.fault(
                "succession",
                place,
                message,
                "name the agency that took over",
            );
            return None;
        }
        self.declare("succession", from.as_str(), place)
            .then_some(Succession { from, to, on: on.0 })
    }
}
