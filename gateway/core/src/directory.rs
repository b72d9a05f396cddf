//! Who is in the area: agencies, identities, services, endpoints and routing rules, each with the days it holds.
//!
//! The directory is a folder of TOML files. [`Directory::load`] parses and resolves it; `check`, `diff` and the
//! tests inside it are pure, so that the command line, the release and a running gateway agree.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::access::Role;
use crate::delivery::{Evidence, RetryPolicy};
use crate::family::Template;
use crate::id::{AgencyId, CodeMapId, EndpointId, Pathway, RuleId, ServiceId};
use crate::leg::Owner;
use crate::referral::{ConsentScope, NeedType, Priority, SettingKind};

mod check;
mod codes;
mod diff;
mod load;
#[cfg(test)]
pub(crate) mod sample;

pub use check::{Finding, Severity, check};
pub use codes::{CodeList, CodeMap, CodeTest, Expected, WireCode};
pub use diff::{Change, ChangeKind, diff};
pub use load::{
    ENTRIES_MAX, FILE_BYTES_MAX, FILES_MAX, RULES_MAX, SECRET_NAME_LENGTH_MAX, SourceFile, bundle,
    secret_names, unbundle,
};

/// Agencies that one agency answers for, itself among them, at most.
pub const PREDECESSORS_MAX: usize = 16;

/// A directory that loaded without errors.
#[derive(Clone, Debug, PartialEq)]
pub struct Directory {
    /// The area.
    pub area: Area,
    /// Agencies by id.
    pub agencies: BTreeMap<AgencyId, Agency>,
    /// Identities by the name that an authenticated channel proves (SAN URI, mailbox, listener, folder).
    pub identities: BTreeMap<String, Identity>,
    /// Services by id.
    pub services: BTreeMap<ServiceId, Service>,
    /// Endpoints by id.
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Rules in the order in which they are tried.
    pub rules: Vec<Rule>,
    /// Tests of the rules.
    pub tests: Vec<RouteTest>,
    /// Successions of agencies.
    pub successions: Vec<Succession>,
    /// Code maps by id.
    pub code_maps: BTreeMap<CodeMapId, CodeMap>,
    /// Tests of the code maps.
    pub code_tests: Vec<CodeTest>,
    /// What families are told, in the order of files and lines.
    pub templates: Vec<Template>,
    /// Where things stand, for reports, by kind and id, e.g. `agency R1L`.
    pub places: BTreeMap<String, Place>,
}

/// Whether a deployment handles real children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Test data alone (MSH-11 `T`).
    Test,
    /// Real children (MSH-11 `P`).
    Live,
}

impl Environment {
    /// The environment as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Live => "live",
        }
    }
}

/// The area that a deployment serves, and who decides what no rule decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Short id, part of the log's origin.
    pub id: String,
    /// Name.
    pub name: String,
    /// Test or live.
    pub environment: Environment,
    /// The service that takes what no rule takes; its agency and role own it.
    pub triage: ServiceId,
}

/// The days something holds; absent ends are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// First day.
    #[serde(default)]
    pub valid_from: Option<Date>,
    /// Last day.
    #[serde(default)]
    pub valid_to: Option<Date>,
}

impl Validity {
    /// Whether a day is among them.
    pub fn holds_on(&self, day: Date) -> bool {
        self.valid_from.is_none_or(|from| day >= from) && self.valid_to.is_none_or(|to| day <= to)
    }
}

/// An agency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agency {
    /// Its ODS code or local id.
    pub id: AgencyId,
    /// Its name.
    pub name: String,
    /// Its sector: decides which consent scope sharing with it needs.
    pub sector: Sector,
    /// Where it is told what happens to referrals that it sent.
    pub return_endpoint: Option<EndpointId>,
    /// When it holds.
    pub validity: Validity,
}

/// Sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sector {
    /// Schools, colleges, local authority education teams.
    Education,
    /// NHS and other health providers.
    Health,
    /// Children's social care.
    SocialCare,
    /// Charities and others.
    Voluntary,
}

impl Sector {
    /// The consent scope that sharing with this sector needs.
    pub const fn consent_scope(self) -> ConsentScope {
        match self {
            Self::Education => ConsentScope::ShareEducation,
            Self::Health => ConsentScope::ShareHealth,
            Self::SocialCare => ConsentScope::ShareSocialCare,
            Self::Voluntary => ConsentScope::Referral,
        }
    }
}

/// Whether sharing with a sector still stands once scopes of consent were withdrawn. Of an agency whose sector is not
/// known nothing shows that it does.
pub fn consent_stands(withdrawn: &BTreeSet<ConsentScope>, sector: Option<Sector>) -> bool {
    if withdrawn.contains(&ConsentScope::Referral) {
        return false;
    }
    match sector {
        Some(sector) => !withdrawn.contains(&sector.consent_scope()),
        None => withdrawn
            .iter()
            .all(|scope| *scope == ConsentScope::FamilyMessages),
    }
}

/// What an authenticated channel proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SAN URI of a certificate, or `mllp:<listener>`, `webhook:<endpoint>`, `file:<endpoint>`, `mesh:<mailbox>`.
    pub name: String,
    /// The agency it speaks for.
    pub agency: AgencyId,
    /// What it may be used for.
    pub roles: BTreeSet<Role>,
    /// Agencies that an intermediary may act for.
    pub acts_for: BTreeSet<AgencyId>,
    /// HL7 v2 sending applications and facilities (MSH-3.1, MSH-4.1) that must agree, as `APP|FACILITY`.
    pub hl7_senders: BTreeSet<String>,
    /// How its code lists say what the canonical lists say; empty when it names no map.
    pub codes: CodeMap,
    /// When it holds.
    pub validity: Validity,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub agency: AgencyId,
    /// Pathways that it takes.
    pub pathways: BTreeSet<Pathway>,
    /// Where its messages go.
    pub endpoint: EndpointId,
    /// The role that owns its open legs.
    pub owner_role: String,
    /// When it holds.
    pub validity: Validity,
}

impl Service {
    /// Who owns its open legs.
    pub fn owner(&self) -> Owner {
        Owner {
            agency: self.agency.clone(),
            role: self.owner_role.clone(),
        }
    }
}

/// The adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// AgencyService.Deliver over mTLS.
    Grpc,
    /// Held for `MailboxService`.
    Mailbox,
    /// Standard Webhooks.
    Webhook,
    /// HL7 v2 over MLLP.
    Hl7v2,
    /// FHIR R4: the Booking and Referral Standard, or plain.
    Fhir,
    /// Files in a folder or over SFTP.
    File,
    /// GOV.UK Notify, or another provider of its API: email, SMS and letters to families.
    Notify,
    /// Mailboxes of NHS MESH.
    Mesh,
}

impl AdapterKind {
    /// The kind as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Mailbox => "mailbox",
            Self::Webhook => "webhook",
            Self::Hl7v2 => "hl7v2",
            Self::Fhir => "fhir",
            Self::File => "file",
            Self::Notify => "notify",
            Self::Mesh => "mesh",
        }
    }
}

/// A place where messages go.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Whose it is.
    pub agency: AgencyId,
    /// The adapter that speaks its protocol.
    pub adapter: AdapterKind,
    /// The adapter's own settings; secrets by name only.
    pub settings: toml::Table,
    /// The grade of evidence that ends a delivery and releases its lane.
    pub releases_at: Evidence,
    /// How long a delivery is tried before a person is asked.
    pub deadline: Duration,
    /// How long better evidence may take before its absence alarms.
    pub evidence_within: Duration,
    /// Longest one attempt.
    pub attempt_timeout: Duration,
    /// Attempts at the same time.
    pub concurrency: u32,
    /// When to try again.
    pub retry: RetryPolicy,
    /// How its far side's code lists say what the canonical lists say; empty when it names no map.
    pub codes: CodeMap,
    /// When it holds.
    pub validity: Validity,
}

/// A routing rule: every predicate given must hold; rules are tried in order and the first that fits decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its id.
    pub id: RuleId,
    /// Its predicates.
    pub when: When,
    /// The services, all of which get the referral.
    pub to: Vec<ServiceId>,
    /// When it holds.
    pub validity: Validity,
    /// Where it stands, for reports.
    pub place: Place,
}

/// The predicates of a rule; an empty one holds for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// Pathways.
    pub pathway: BTreeSet<Pathway>,
    /// Needs, any of which among the referral's needs.
    pub need: BTreeSet<NeedType>,
    /// Youngest age in whole years.
    pub age_min: Option<u8>,
    /// Oldest age in whole years.
    pub age_max: Option<u8>,
    /// Outward postcodes.
    pub area: BTreeSet<String>,
    /// Settings.
    pub setting: BTreeSet<SettingKind>,
    /// Priorities.
    pub priority: BTreeSet<Priority>,
    /// Consent scopes, all of which must have been given.
    pub consent: BTreeSet<ConsentScope>,
    /// Senders.
    pub sender: BTreeSet<AgencyId>,
}

/// File and line.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// File, relative to the folder.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A test of the rules, kept with them.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteTest {
    /// What it states.
    pub name: String,
    /// What routing would see.
    pub given: crate::routing::Facts,
    /// The day it is asked on.
    pub on: Option<Date>,
    /// Services expected; empty means triage.
    pub expect: BTreeSet<ServiceId>,
    /// Where it stands.
    pub place: Place,
}

/// One agency that took over another (ruling 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// The agency that ended.
    pub from: AgencyId,
    /// The agency that took over.
    pub to: AgencyId,
    /// First day of the new one.
    pub on: Date,
}

impl Directory {
    /// The service that takes what no rule takes, and that is told of what belongs to nobody else.
    pub fn triage(&self) -> Option<&Service> {
        self.services.get(&self.area.triage)
    }

    /// A directory of nobody: what a deployment has before its first release. No channel proves an identity of it.
    ///
    /// # Errors
    /// Never: the name of the service that takes what no rule takes is fixed.
    pub fn empty(environment: Environment) -> Result<Self, crate::id::IdError> {
        Ok(Self {
            area: Area {
                id: "none".to_owned(),
                name: String::new(),
                environment,
                triage: "none".parse()?,
            },
            agencies: BTreeMap::new(),
            identities: BTreeMap::new(),
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            rules: Vec::new(),
            tests: Vec::new(),
            successions: Vec::new(),
            code_maps: BTreeMap::new(),
            code_tests: Vec::new(),
            templates: Vec::new(),
            places: BTreeMap::new(),
        })
    }

    /// The agency that answers for `agency` on a day, following successions; itself when there is none.
    pub fn successor(&self, agency: &AgencyId, day: Date) -> AgencyId {
        let mut now = agency.clone();
        for _ in 0..self.successions.len() {
            match self
                .successions
                .iter()
                .find(|s| s.from == now && s.on <= day)
            {
                Some(s) => now = s.to.clone(),
                None => break,
            }
        }
        now
    }

    /// The agencies that `agency` answers for on a day: itself, and those that it took over. A directory has few
    /// successions; at most [`PREDECESSORS_MAX`] agencies are answered.
    pub fn predecessors(&self, agency: &AgencyId, day: Date) -> Vec<AgencyId> {
        let mut answered = vec![agency.clone()];
        let former = self.successions.iter().map(|s| &s.from);
        for from in former {
            if answered.len() < PREDECESSORS_MAX
                && !answered.contains(from)
                && self.successor(from, day) == *agency
            {
                answered.push(from.clone());
            }
        }
        answered
    }

    /// The sector of an agency, or of the one that answers for it on a day.
    pub fn sector_of(&self, agency: &AgencyId, day: Date) -> Option<Sector> {
        let own = self.agencies.get(agency);
        own.or_else(|| self.agencies.get(&self.successor(agency, day)))
            .map(|agency| agency.sector)
    }

    /// Where a thing stands, by its kind and id.
    pub fn place(&self, kind: &str, id: &str) -> Place {
        self.places
            .get(&format!("{kind} {id}"))
            .cloned()
            .unwrap_or_default()
    }

    /// The identity that a channel proves, if it holds on a day.
    pub fn identity(&self, name: &str, day: Date) -> Option<&Identity> {
        self.identities.get(name).filter(|i| {
            i.validity.holds_on(day)
                && self
                    .agencies
                    .get(&i.agency)
                    .is_some_and(|a| a.validity.holds_on(day))
        })
    }

    /// An endpoint, if it holds on a day.
    pub fn endpoint(&self, id: &EndpointId, day: Date) -> Option<&Endpoint> {
        self.endpoints.get(id).filter(|e| e.validity.holds_on(day))
    }

    /// A service, if it holds on a day.
    pub fn service(&self, id: &ServiceId, day: Date) -> Option<&Service> {
        self.services.get(id).filter(|s| s.validity.holds_on(day))
    }
}
