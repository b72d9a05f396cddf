//! What is wrong between agencies, identities, services and endpoints.

use jiff::civil::Date;

use super::Finding;
use crate::directory::{
    AdapterKind, Agency, Directory, Endpoint, Identity, Place, Service, Validity,
};
use crate::id::AgencyId;

/// What the name of a MESH mailbox's identity begins with.
const MESH: &str = "mesh:";

pub(super) fn findings(directory: &Directory, today: Date) -> Vec<Finding> {
    let mut findings = Vec::new();
    triage(directory, today, &mut findings);
    for service in directory.services.values() {
        service_links(service, directory, today, &mut findings);
    }
    for agency in directory.agencies.values() {
        agency_links(agency, directory, today, &mut findings);
    }
    for endpoint in directory.endpoints.values() {
        endpoint_links(endpoint, directory, &mut findings);
    }
    shared_folders(directory, &mut findings);
    mesh_mailboxes(directory, today, &mut findings);
    expired(directory, today, &mut findings);
    successions(directory, &mut findings);
    findings
}

fn triage(directory: &Directory, today: Date, findings: &mut Vec<Finding>) {
    let id = &directory.area.triage;
    let Some(service) = directory.services.get(id) else {
        return;
    };
    let holds = service.validity.holds_on(today)
        && directory.endpoint(&service.endpoint, today).is_some()
        && directory
            .agencies
            .get(&service.agency)
            .is_some_and(|a| a.validity.holds_on(today));
    if !holds {
        findings.push(Finding::error(
            "triage-not-valid",
            directory.place("service", id.as_str()),
            format!("triage service {id}, its agency or its endpoint does not hold on {today}"),
            "what no rule takes would wait for nobody: name a triage service that holds",
        ));
    }
}

fn service_links(
    service: &Service,
    directory: &Directory,
    today: Date,
    findings: &mut Vec<Finding>,
) {
    let place = directory.place("service", service.id.as_str());
    if let Some(endpoint) = directory.endpoints.get(&service.endpoint) {
        if endpoint.agency != service.agency {
            findings.push(Finding::error(
                "endpoint-of-another-agency",
                place.clone(),
                format!(
                    "service {} is of {}, its endpoint {} is of {}",
                    service.id, service.agency, endpoint.id, endpoint.agency
                ),
                "name an endpoint of the same agency: the recipient is bound by both",
            ));
        }
        let target = format!("endpoint {}", endpoint.id);
        outlives(service, endpoint.validity, &target, today, &place, findings);
    }
    if let Some(agency) = directory.agencies.get(&service.agency) {
        let target = format!("agency {}", agency.id);
        outlives(service, agency.validity, &target, today, &place, findings);
    }
    if service.pathways.is_empty() && service.id != directory.area.triage {
        findings.push(Finding::warning(
            "no-pathways",
            place,
            format!("service {} takes no pathway", service.id),
            "add pathways, or remove it",
        ));
    }
}

/// Reports a service that holds on days on which what it needs does not: an error where that is so today.
fn outlives(
    service: &Service,
    needed: Validity,
    target: &str,
    today: Date,
    place: &Place,
    findings: &mut Vec<Finding>,
) {
    let own = service.validity;
    if own.holds_on(today) && !needed.holds_on(today) {
        findings.push(Finding::error(
            "not-valid",
            place.clone(),
            format!(
                "service {} holds on {today}, its {target} does not",
                service.id
            ),
            "correct the days of one of them",
        ));
        return;
    }
    let ended = |v: Validity| v.valid_to.unwrap_or(Date::MAX);
    if ended(own) >= today && ended(needed) >= today && ended(own) > ended(needed) {
        findings.push(Finding::warning(
            "ends-early",
            place.clone(),
            format!(
                "{target} ends on {}, before service {} does",
                ended(needed),
                service.id
            ),
            "end the service on the same day, or name what takes over",
        ));
    }
}

fn agency_links(agency: &Agency, directory: &Directory, today: Date, findings: &mut Vec<Finding>) {
    let place = directory.place("agency", agency.id.as_str());
    if let Some(endpoint) = agency
        .return_endpoint
        .as_ref()
        .and_then(|e| directory.endpoints.get(e))
    {
        if endpoint.agency != agency.id {
            findings.push(Finding::error(
                "endpoint-of-another-agency",
                place.clone(),
                format!(
                    "agency {} is told at endpoint {}, which is of {}",
                    agency.id, endpoint.id, endpoint.agency
                ),
                "name an endpoint of its own",
            ));
        }
        if agency.validity.holds_on(today) && !endpoint.validity.holds_on(today) {
            findings.push(Finding::error(
                "not-valid",
                place.clone(),
                format!(
                    "agency {} holds on {today}, its return endpoint {} does not",
                    agency.id, endpoint.id
                ),
                "correct the days of one of them",
            ));
        }
    }
    if agency.validity.holds_on(today) && !has_identity(&agency.id, directory, today) {
        findings.push(Finding::warning(
            "agency-without-identity",
            place,
            format!("nothing can speak for agency {} on {today}", agency.id),
            "add an [[identity]] for the channel that it uses",
        ));
    }
}

fn has_identity(agency: &AgencyId, directory: &Directory, today: Date) -> bool {
    directory
        .identities
        .values()
        .any(|i| (i.agency == *agency || i.acts_for.contains(agency)) && i.validity.holds_on(today))
}

fn endpoint_links(endpoint: &Endpoint, directory: &Directory, findings: &mut Vec<Finding>) {
    let place = directory.place("endpoint", endpoint.id.as_str());
    let used = directory
        .services
        .values()
        .any(|s| s.endpoint == endpoint.id)
        || directory
            .agencies
            .values()
            .any(|a| a.return_endpoint.as_ref() == Some(&endpoint.id))
        || directory
            .templates
            .iter()
            .any(|t| t.endpoint == endpoint.id);
    if !used {
        findings.push(Finding::warning(
            "unused-endpoint",
            place.clone(),
            format!("nothing is sent to endpoint {}", endpoint.id),
            "name it in a service or as a return_endpoint, or remove it",
        ));
    }
    if endpoint.adapter == AdapterKind::Mailbox && !endpoint.settings.is_empty() {
        findings.push(Finding::warning(
            "unused-settings",
            place,
            format!(
                "mailbox {} has settings, which a mailbox does not read",
                endpoint.id
            ),
            "remove them",
        ));
    }
}

/// The folder of a file endpoint on this machine. On a server each user may start in a folder of its own.
fn folder_of(endpoint: &Endpoint) -> Option<&str> {
    let is_here = endpoint.adapter == AdapterKind::File && !endpoint.settings.contains_key("host");
    let directory = endpoint.settings.get("directory").filter(|_| is_here)?;
    directory.as_str()
}

/// Two agencies must not see each other's files.
fn shared_folders(directory: &Directory, findings: &mut Vec<Finding>) {
    let within = |inner: &str, outer: &str| {
        let rest = inner.strip_prefix(outer);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    for one in directory.endpoints.values() {
        let Some(path) = folder_of(one) else {
            continue;
        };
        let others = directory.endpoints.values();
        let mut others = others.filter(|other| other.agency != one.agency);
        if let Some(other) = others.find(|o| folder_of(o).is_some_and(|outer| within(path, outer)))
        {
            findings.push(Finding::error(
                "shared-folder",
                directory.place("endpoint", one.id.as_str()),
                format!(
                    "endpoint {} of {} has its folder at or within that of endpoint {} of {}",
                    one.id, one.agency, other.id, other.agency
                ),
                "give each agency a folder of its own",
            ));
        }
    }
}

/// The name by which an identity binds the mailbox that a MESH endpoint sends to.
fn mailbox_of(endpoint: &Endpoint) -> Option<String> {
    let is_mesh = endpoint.adapter == AdapterKind::Mesh;
    let to = endpoint.settings.get("to").filter(|_| is_mesh)?.as_str()?;
    Some(format!("{MESH}{to}"))
}

/// What comes from a mailbox is taken in by the endpoint that sends to it, and nothing is sent to one of nobody's.
fn mesh_mailboxes(directory: &Directory, today: Date, findings: &mut Vec<Finding>) {
    for endpoint in directory.endpoints.values() {
        let name = mailbox_of(endpoint);
        if let Some(name) = name.filter(|name| !directory.identities.contains_key(name)) {
            findings.push(Finding::error(
                "mailbox-of-nobody",
                directory.place("endpoint", endpoint.id.as_str()),
                format!(
                    "endpoint {} sends to {name}, which is bound to nobody",
                    endpoint.id
                ),
                "add an [[identity]] of that name to the endpoint's agency",
            ));
        }
    }
    let held = |i: &&Identity| i.name.starts_with(MESH) && i.validity.holds_on(today);
    for identity in directory.identities.values().filter(held) {
        let taken = |endpoint: &Endpoint| {
            endpoint.validity.holds_on(today)
                && mailbox_of(endpoint).as_ref() == Some(&identity.name)
        };
        if !directory.endpoints.values().any(taken) {
            findings.push(Finding::warning(
                "mailbox-not-collected",
                directory.place("identity", &identity.name),
                format!("what {} sends is taken in by no endpoint", identity.name),
                "add a mesh endpoint whose `to` is that mailbox",
            ));
        }
    }
}

fn expired(directory: &Directory, today: Date, findings: &mut Vec<Finding>) {
    let mut note = |kind: &str, id: &str, validity: Validity| {
        if let Some(to) = validity.valid_to.filter(|to| *to < today) {
            findings.push(Finding::warning(
                "expired",
                directory.place(kind, id),
                format!("{kind} {id} ended on {to}"),
                "remove it once nothing refers to it",
            ));
        }
    };
    directory
        .agencies
        .values()
        .for_each(|a| note("agency", a.id.as_str(), a.validity));
    directory
        .identities
        .values()
        .for_each(|i| note("identity", &i.name, i.validity));
    directory
        .services
        .values()
        .for_each(|s| note("service", s.id.as_str(), s.validity));
    directory
        .endpoints
        .values()
        .for_each(|e| note("endpoint", e.id.as_str(), e.validity));
    directory
        .rules
        .iter()
        .for_each(|r| note("rule", r.id.as_str(), r.validity));
    directory
        .templates
        .iter()
        .for_each(|t| note("template", &format!("{}/{}", t.id, t.version), t.validity));
}

fn successions(directory: &Directory, findings: &mut Vec<Finding>) {
    for succession in &directory.successions {
        let last = directory.successor(&succession.from, Date::MAX);
        if last == succession.from || directory.successions.iter().any(|s| s.from == last) {
            findings.push(Finding::error(
                "succession-circle",
                directory.place("succession", succession.from.as_str()),
                format!(
                    "the successions of agency {} lead round in a circle",
                    succession.from
                ),
                "remove one of them",
            ));
        }
    }
}
