//! The tables of a directory as they are written.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;
use toml::de::ValueDeserializer;

use super::value::{Day, Lasting, OneOrMany, Outward};
use super::{At, Source};
use crate::access::Role;
use crate::delivery::Evidence;
use crate::directory::{AdapterKind, CodeList, Environment, Sector, WireCode};
use crate::family::{Field, Way};
use crate::id::{AgencyId, CodeMapId, EndpointId, Pathway, RuleId, ServiceId, TemplateId};
use crate::leg::LegState;
use crate::referral::{
    ConsentScope, ConsentStatus, Format, LawfulBasis, NeedType, Priority, SettingKind,
};

/// The names of the tables.
pub(super) const KINDS: [&str; 11] = [
    "area",
    "agency",
    "identity",
    "service",
    "endpoint",
    "rule",
    "test",
    "succession",
    "code_map",
    "code_test",
    "template",
];

/// The field that names a table of this kind.
pub(super) fn id_field(kind: &str) -> &'static str {
    match kind {
        "identity" | "test" | "code_test" => "name",
        "succession" => "from",
        _ => "id",
    }
}

/// Every table that parsed, in the order of files and lines.
#[derive(Default)]
pub(super) struct Raw<'a> {
    pub(super) areas: Vec<At<'a, RawArea>>,
    pub(super) agencies: Vec<At<'a, RawAgency>>,
    pub(super) identities: Vec<At<'a, RawIdentity>>,
    pub(super) services: Vec<At<'a, RawService>>,
    pub(super) endpoints: Vec<At<'a, RawEndpoint>>,
    pub(super) rules: Vec<At<'a, RawRule>>,
    pub(super) tests: Vec<At<'a, RawTest>>,
    pub(super) successions: Vec<At<'a, RawSuccession>>,
    pub(super) code_maps: Vec<At<'a, RawCodeMap>>,
    pub(super) code_tests: Vec<At<'a, RawCodeTest>>,
    pub(super) templates: Vec<At<'a, RawTemplate>>,
}

impl<'a> Raw<'a> {
    pub(super) fn push(
        &mut self,
        kind: &str,
        item: ValueDeserializer<'a>,
        source: &'a Source<'a>,
        offset: usize,
    ) -> Result<(), toml::de::Error> {
        match kind {
            "area" => self.areas.push(read(item, source, offset)?),
            "agency" => self.agencies.push(read(item, source, offset)?),
            "identity" => self.identities.push(read(item, source, offset)?),
            "service" => self.services.push(read(item, source, offset)?),
            "endpoint" => self.endpoints.push(read(item, source, offset)?),
            "rule" => self.rules.push(read(item, source, offset)?),
            "test" => self.tests.push(read(item, source, offset)?),
            "code_map" => self.code_maps.push(read(item, source, offset)?),
            "code_test" => self.code_tests.push(read(item, source, offset)?),
            "template" => self.templates.push(read(item, source, offset)?),
            _ => self.successions.push(read(item, source, offset)?),
        }
        Ok(())
    }
}

fn read<'a, T: Deserialize<'a>>(
    item: ValueDeserializer<'a>,
    source: &'a Source<'a>,
    offset: usize,
) -> Result<At<'a, T>, toml::de::Error> {
    Ok(At {
        source,
        offset,
        value: T::deserialize(item)?,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArea {
    pub(super) id: Spanned<String>,
    pub(super) name: String,
    pub(super) environment: Environment,
    pub(super) triage: Spanned<ServiceId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgency {
    pub(super) id: Spanned<AgencyId>,
    pub(super) name: String,
    pub(super) sector: Sector,
    pub(super) return_endpoint: Option<Spanned<EndpointId>>,
    pub(super) valid_from: Option<Day>,
    pub(super) valid_to: Option<Day>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIdentity {
    pub(super) name: Spanned<String>,
    pub(super) agency: Spanned<AgencyId>,
    pub(super) roles: Option<OneOrMany<Role>>,
    #[serde(default)]
    pub(super) acts_for: OneOrMany<AgencyId>,
    #[serde(default)]
    pub(super) hl7_senders: OneOrMany<String>,
    pub(super) code_map: Option<Spanned<CodeMapId>>,
    pub(super) valid_from: Option<Day>,
    pub(super) valid_to: Option<Day>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawService {
    pub(super) id: Spanned<ServiceId>,
    pub(super) name: String,
    pub(super) agency: Spanned<AgencyId>,
    #[serde(alias = "pathway")]
    pub(super) pathways: OneOrMany<Pathway>,
    pub(super) endpoint: Spanned<EndpointId>,
    pub(super) owner_role: Spanned<String>,
    pub(super) valid_from: Option<Day>,
    pub(super) valid_to: Option<Day>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEndpoint {
    pub(super) id: Spanned<EndpointId>,
    pub(super) agency: Spanned<AgencyId>,
    pub(super) adapter: AdapterKind,
    #[serde(default)]
    pub(super) settings: Option<Spanned<toml::Table>>,
    pub(super) releases_at: Option<Spanned<Evidence>>,
    pub(super) deadline: Option<Spanned<Lasting>>,
    pub(super) evidence_within: Option<Spanned<Lasting>>,
    pub(super) attempt_timeout: Option<Spanned<Lasting>>,
    pub(super) concurrency: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) retry: RawRetry,
    pub(super) code_map: Option<Spanned<CodeMapId>>,
    pub(super) valid_from: Option<Day>,
    pub(super) valid_to: Option<Day>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRetry {
    pub(super) first: Option<Lasting>,
    pub(super) cap: Option<Lasting>,
    pub(super) soft_rejects_max: Option<u32>,
    pub(super) panics_max: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) id: Spanned<RuleId>,
    pub(super) order: Option<i64>,
    #[serde(default)]
    pub(super) pathway: OneOrMany<Pathway>,
    #[serde(default)]
    pub(super) need: OneOrMany<NeedType>,
    #[serde(default)]
    pub(super) age: RawAge,
    pub(super) age_min: Option<u8>,
    pub(super) age_max: Option<u8>,
    #[serde(default)]
    pub(super) area: OneOrMany<Outward>,
    #[serde(default)]
    pub(super) setting: OneOrMany<SettingKind>,
    #[serde(default)]
    pub(super) priority: OneOrMany<Priority>,
    #[serde(default)]
    pub(super) consent: OneOrMany<ConsentScope>,
    #[serde(default)]
    pub(super) sender: OneOrMany<AgencyId>,
    pub(super) to: OneOrMany<ServiceId>,
    pub(super) valid_from: Option<Day>,
    pub(super) valid_to: Option<Day>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAge {
    pub(super) min: Option<u8>,
    pub(super) max: Option<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTest {
    pub(super) name: String,
    pub(super) given: RawFacts,
    pub(super) on: Option<Day>,
    pub(super) expect: OneOrMany<ServiceId>,
}

/// What a test gives: pathway and age, and whatever else matters to it. Left out, a referral is routine, consent
/// covers everything, and the sender is the agency that owns triage.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFacts {
    pub(super) pathway: Pathway,
    pub(super) age: i16,
    #[serde(default, alias = "need")]
    pub(super) needs: OneOrMany<NeedType>,
    pub(super) area: Option<Outward>,
    pub(super) setting: Option<SettingKind>,
    #[serde(default)]
    pub(super) priority: Priority,
    #[serde(default)]
    pub(super) consent_status: ConsentStatus,
    #[serde(default = "every_scope")]
    pub(super) consent: BTreeSet<ConsentScope>,
    #[serde(default)]
    pub(super) lawful_basis: LawfulBasis,
    pub(super) sender: Option<AgencyId>,
    pub(super) requested_service: Option<ServiceId>,
}

fn every_scope() -> BTreeSet<ConsentScope> {
    ConsentScope::ALL.iter().copied().collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSuccession {
    pub(super) from: Spanned<AgencyId>,
    pub(super) to: Spanned<AgencyId>,
    pub(super) on: Day,
}

/// One list of a map: where each canonical code and each code of the far side stands.
pub(super) type RawCodes = BTreeMap<Spanned<String>, Spanned<WireCode>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCodeMap {
    pub(super) id: Spanned<CodeMapId>,
    #[serde(default)]
    pub(super) priority: RawCodes,
    #[serde(default)]
    pub(super) reason: RawCodes,
    #[serde(default)]
    pub(super) need: RawCodes,
    #[serde(default)]
    pub(super) status: RawCodes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCodeTest {
    pub(super) name: String,
    pub(super) code_map: Spanned<CodeMapId>,
    pub(super) list: CodeList,
    pub(super) given: Spanned<RawCode>,
    pub(super) expect: Spanned<RawCode>,
}

/// A canonical code, written as text, or a far side's, written as a table.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum RawCode {
    Canonical(String),
    Wire(WireCode),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTemplate {
    pub(super) id: Spanned<TemplateId>,
    pub(super) version: Spanned<u32>,
    pub(super) endpoint: Spanned<EndpointId>,
    pub(super) remote: Spanned<String>,
    pub(super) way: Way,
    #[serde(alias = "state")]
    pub(super) states: OneOrMany<LegState>,
    #[serde(default, alias = "pathway")]
    pub(super) pathways: OneOrMany<Pathway>,
    pub(super) language: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) format: Format,
    #[serde(default)]
    pub(super) fields: OneOrMany<Field>,
    pub(super) valid_from: Option<Day>,
    pub(super) valid_to: Option<Day>,
}
