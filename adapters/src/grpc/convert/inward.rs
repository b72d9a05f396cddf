//! A referral read from the contract's message.

use std::fmt::Write as _;

use waymark_core::error::Violation;
use waymark_core::id::{DocumentId, IdError, Pathway, ServiceId};
use waymark_core::identifier::Urn;
use waymark_core::personal::Personal;
use waymark_core::referral::{
    Concern, Consent, ConsentGiver, ConsentStatus, Cycle, DocumentRef, ExternalId, Flag,
    LawfulBasis, LocalId, Need, Priority, Reason, Referral, SenProvision, Setting, SettingKind,
    Tested,
};
use waymark_proto::v1;

use super::reading::{Reading, UnknownCode};
use super::{ADJUSTMENT_SYSTEM, CHILD_ID_SYSTEM, UNCODED, code, sender_reference_from_proto};

mod limit;
mod people;

use people::{child, contact, referrer};

/// What stands in `narrative` before that which the canonical form has no field for.
const CARRIED: &str = "The sender also states:";

/// Reads a referral as a sender gives it. `referrer.agency_id` is not read: the channel says who sends, and the
/// face compares the two. The rules that hold between fields are the domain's own ([`Referral::violations`]).
///
/// # Errors
/// Every violation found, each with its path in the message.
pub fn referral_from_proto(message: v1::Referral) -> Result<Referral, Vec<Violation>> {
    let mut r = Reading::default();
    let sizes = [
        ("contacts", message.contacts.len(), limit::CONTACTS),
        ("needs", message.needs.len(), limit::NEEDS),
        (
            "support_cycles",
            message.support_cycles.len(),
            limit::CYCLES,
        ),
        (
            "safeguarding_flags",
            message.safeguarding_flags.len(),
            limit::SAFEGUARDING,
        ),
        (
            "reasonable_adjustments",
            message.reasonable_adjustments.len(),
            limit::ADJUSTMENTS,
        ),
        ("documents", message.documents.len(), limit::DOCUMENTS),
        (
            "external_ids",
            message.external_ids.len(),
            limit::EXTERNAL_IDS,
        ),
    ];
    for (field, count, max) in sizes {
        r.count(field, count, max);
    }
    let read = body(&mut r, message);
    match read {
        Some(referral) if r.violations.is_empty() => Ok(referral),
        _ => Err(r.violations),
    }
}

fn body(r: &mut Reading, m: v1::Referral) -> Option<Referral> {
    let (external_ids, local_ids) = identifiers(r, m.external_ids);
    let child = match m.child {
        Some(message) => child(r, message, local_ids),
        None => missing(r, "child"),
    };
    let contacts = each(m.contacts, |i, c| contact(r, i, c));
    let referrer = match m.referrer {
        Some(message) => referrer(r, message),
        None => missing(r, "referrer"),
    };
    let setting = m.setting.and_then(|s| setting(r, &s));
    let needs = each(m.needs, |i, n| need(r, i, n));
    let pathway = m.pathway.parse();
    let pathway: Option<Pathway> = r.keep(pathway.map_err(|e| bad("pathway", &e)));
    let requested_service = requested_service(r, &m.requested_service_id);
    let priority = r.required("priority", m.priority, code::priority_from);
    let priority_reason = r.optional("priority_reason", &m.priority_reason, limit::TEXT);
    if priority_reason.is_none() && priority.is_some_and(|p| p != Priority::Routine) {
        r.wrong(
            "priority_reason",
            "is required for a priority above ROUTINE",
        );
    }
    let reason = match m.reason {
        Some(message) => reason(r, &message),
        None => missing(r, "reason"),
    };
    let concerns = [
        ("home_concern", "home", m.home_concern),
        ("setting_concern", "school", m.setting_concern),
    ]
    .into_iter()
    .filter_map(|(field, place, c)| concern(r, field, place, &c?))
    .collect();
    let graduated_response = each(m.support_cycles, |i, c| Some(cycle(r, i, &c)));
    let hearing_checked = tested(r, "hearing_checked", m.hearing_checked);
    let vision_checked = tested(r, "vision_checked", m.vision_checked);
    let attendance_percent = m.attendance_percent.and_then(|p| percent(r, p));
    let safeguarding = each(m.safeguarding_flags, |i, f| safeguarding(r, i, &f));
    let reasonable_adjustments = each(m.reasonable_adjustments, |i, f| adjustment(r, i, &f));
    let allergies = r.optional("allergies", &m.allergies, limit::TEXT);
    let consent = consent(r, m.consent);
    let lawful_basis = lawful_basis(r, m.lawful_basis, consent.as_ref(), &safeguarding);
    let documents = each(m.documents, |i, d| document(r, i, &d));
    let reference = r.text("sender_reference", &m.sender_reference, limit::REFERENCE);
    let narrative = r.text("narrative", &m.narrative, limit::NARRATIVE);
    let narrative = with_carried(narrative, &r.carried);
    Some(Referral {
        child: child?,
        contacts,
        referrer: referrer?,
        setting,
        needs,
        pathway: pathway?,
        requested_service,
        priority: priority?,
        priority_reason,
        reason: reason?,
        concerns,
        graduated_response,
        hearing_checked,
        vision_checked,
        attendance_percent,
        safeguarding,
        reasonable_adjustments,
        allergies,
        consent: consent?,
        lawful_basis: lawful_basis?,
        documents,
        external_ids,
        sender_reference: sender_reference_from_proto(&reference),
        narrative,
    })
}

/// Reads every item of a list that can be read; of the others the violations are noted.
fn each<M, T>(items: Vec<M>, mut read: impl FnMut(usize, M) -> Option<T>) -> Vec<T> {
    items
        .into_iter()
        .enumerate()
        .filter_map(|(i, item)| read(i, item))
        .collect()
}

fn bad(field: &str, error: &IdError) -> Violation {
    Violation::new(field, error.to_string())
}

fn requested_service(r: &mut Reading, id: &str) -> Option<ServiceId> {
    if id.is_empty() {
        return None;
    }
    r.keep(id.parse().map_err(|e| bad("requested_service_id", &e)))
}

fn missing<T>(r: &mut Reading, field: &str) -> Option<T> {
    r.wrong(field, "is required");
    None
}

fn with_carried(mut narrative: String, carried: &[String]) -> Option<Personal<String>> {
    if !carried.is_empty() {
        let gap = if narrative.is_empty() { "" } else { "\n\n" };
        narrative = format!("{narrative}{gap}{CARRIED}\n{}", carried.join("\n"));
    }
    (!narrative.is_empty()).then(|| Personal::new(narrative))
}

fn identifiers(r: &mut Reading, all: Vec<v1::ExternalId>) -> (Vec<ExternalId>, Vec<LocalId>) {
    let (mut external, mut local) = (Vec::new(), Vec::new());
    for (i, id) in all.into_iter().enumerate() {
        let system = r.text(
            &format!("external_ids[{i}].system"),
            &id.system,
            limit::SYSTEM,
        );
        let value = r.text(&format!("external_ids[{i}].value"), &id.value, limit::NAME);
        if system.is_empty() || value.is_empty() {
            r.wrong(&format!("external_ids[{i}]"), "needs a system and a value");
        }
        match system.strip_prefix(CHILD_ID_SYSTEM) {
            Some(system) => local.push(LocalId {
                system: system.to_owned(),
                value: value.into(),
            }),
            None => external.push(ExternalId { system, value }),
        }
    }
    (external, local)
}

fn tested(r: &mut Reading, field: &str, number: i32) -> Tested {
    let tested = r.code(field, number, code::answer_from);
    if tested == Some(Tested::Unknown) {
        r.carry(field, "asked, not known");
    }
    tested.unwrap_or(Tested::Unknown)
}

/// A setting of which nothing is stated is none.
fn setting(r: &mut Reading, m: &v1::Setting) -> Option<Setting> {
    if *m == v1::Setting::default() {
        return None;
    }
    let urn = r.identifier("setting.urn", &m.urn, Urn::parse);
    let name = r.text("setting.name", &m.name, limit::SHORT);
    let kind = r
        .code("setting.kind", m.kind, code::setting_from)
        .unwrap_or(SettingKind::None);
    let year_group = match m.year_group.trim() {
        "" => None,
        "N1" => Some(-2),
        "N2" => Some(-1),
        "R" => Some(0),
        number => {
            let year = number.parse::<i8>().ok().filter(|y| (1..=14).contains(y));
            if year.is_none() {
                r.wrong("setting.year_group", "is N1, N2, R or 1 to 14");
            }
            year
        }
    };
    let sen = r.code(
        "setting.sen_provision",
        m.sen_provision,
        |n| match v1::SenProvision::try_from(n) {
            Ok(v1::SenProvision::Unspecified) => Ok(None),
            Ok(v1::SenProvision::EhcPlan) => Ok(Some(SenProvision::EhcPlan)),
            Ok(v1::SenProvision::SenSupport) => Ok(Some(SenProvision::SenSupport)),
            Ok(v1::SenProvision::None) => Ok(Some(SenProvision::None)),
            Err(_) => Err(UnknownCode),
        },
    );
    if sen == Some(SenProvision::None) {
        r.carry("setting.sen_provision", "N, no special educational need");
    }
    Some(Setting {
        urn,
        name: (!name.is_empty()).then_some(name),
        kind,
        year_group,
        sen_provision: sen.unwrap_or(SenProvision::None),
    })
}

fn need(r: &mut Reading, i: usize, m: v1::Need) -> Option<Need> {
    let kind = r.required(&format!("needs[{i}].type"), m.r#type, code::need_from);
    let rank = u8::try_from(m.rank)
        .ok()
        .filter(|rank| (1..=13).contains(rank));
    if rank.is_none() {
        r.wrong(&format!("needs[{i}].rank"), "is from 1 to 13");
    }
    Some(Need {
        kind: kind?,
        rank: rank?,
    })
}

/// A code of a named system is kept as `system|code`.
fn reason(r: &mut Reading, m: &v1::Reason) -> Option<Reason> {
    let code = r.text("reason.code", &m.code, limit::CODE);
    let system = r.text("reason.system", &m.system, limit::SYSTEM);
    let text = r.optional("reason.text", &m.text, limit::LONG);
    if code.is_empty() && text.is_none() {
        return missing(r, "reason.text");
    }
    let code = match (system.as_str(), code.as_str()) {
        (_, "") => UNCODED.to_owned(),
        ("", code) => code.to_owned(),
        (system, code) => format!("{system}|{code}"),
    };
    Some(Reason { code, text })
}

fn concern(r: &mut Reading, field: &str, place: &str, m: &v1::Concern) -> Option<Concern> {
    let text = r.text(&format!("{field}.text"), &m.text, limit::LONG);
    let onset = r.optional(&format!("{field}.onset"), &m.onset, limit::SHORT);
    let impact = r.optional(&format!("{field}.impact"), &m.impact, limit::LONG);
    let stated = !text.is_empty() || onset.is_some() || impact.is_some();
    stated.then(|| Concern {
        setting: place.to_owned(),
        text: text.into(),
        onset,
        impact,
    })
}

fn cycle(r: &mut Reading, i: usize, m: &v1::SupportCycle) -> Cycle {
    let at = |field: &str| format!("support_cycles[{i}].{field}");
    Cycle {
        from: r.date(&at("from_date"), &m.from_date),
        to: r.date(&at("to_date"), &m.to_date),
        what: r.text(&at("what"), &m.what, limit::TEXT).into(),
        outcome: r.optional(&at("outcome"), &m.outcome, limit::TEXT),
    }
}

/// Whole percent, rounded: the canonical form holds no fractions.
fn percent(r: &mut Reading, percent: f64) -> Option<u8> {
    let whole = (0..=100u8).find(|whole| (f64::from(*whole) - percent).abs() <= 0.5);
    if whole.is_none() || !(0.0..=100.0).contains(&percent) {
        r.wrong("attendance_percent", "is from 0 to 100");
    }
    whole
}

fn safeguarding(r: &mut Reading, i: usize, m: &v1::SafeguardingFlag) -> Option<Flag> {
    let at = |field: &str| format!("safeguarding_flags[{i}].{field}");
    let system = r.text(&at("system"), &m.system, limit::SYSTEM);
    let code = r.text(&at("code"), &m.code, limit::CODE);
    let text = r.optional(&at("text"), &m.text, limit::TEXT);
    flag(r, &format!("safeguarding_flags[{i}]"), system, code, text)
}

/// The contract names no system: a code of another list is written `system|code`.
fn adjustment(r: &mut Reading, i: usize, m: &v1::ReasonableAdjustment) -> Option<Flag> {
    let at = |field: &str| format!("reasonable_adjustments[{i}].{field}");
    let code = r.text(&at("code"), &m.code, limit::ADJUSTMENT_CODE + limit::SYSTEM);
    let text = r.optional(&at("text"), &m.text, limit::TEXT);
    let (system, code) = match code.rsplit_once('|') {
        Some((system, code)) => (system.to_owned(), code.to_owned()),
        None => (ADJUSTMENT_SYSTEM.to_owned(), code),
    };
    if code.chars().count() > limit::ADJUSTMENT_CODE {
        r.wrong(
            &at("code"),
            format!("at most {} characters: shorten it", limit::ADJUSTMENT_CODE),
        );
    }
    flag(
        r,
        &format!("reasonable_adjustments[{i}]"),
        system,
        code,
        text,
    )
}

fn flag(
    r: &mut Reading,
    field: &str,
    system: String,
    code: String,
    text: Option<Personal<String>>,
) -> Option<Flag> {
    if code.is_empty() && text.is_none() {
        r.wrong(field, "needs a code or a text");
        return None;
    }
    let code = if code.is_empty() {
        UNCODED.to_owned()
    } else {
        code
    };
    Some(Flag { system, code, text })
}

/// No consent on the wire is consent that was not sought.
fn consent(r: &mut Reading, message: Option<v1::Consent>) -> Option<Consent> {
    let Some(m) = message else {
        return Some(Consent {
            status: ConsentStatus::NotSought,
            given_by: None,
            role: ConsentGiver::Other,
            scope: Vec::new(),
            date: None,
            evidence: None,
        });
    };
    let status = r.required("consent.status", m.status, code::consent_from);
    let role = r.required("consent.role", m.role, code::giver_from);
    let mut scope = Vec::new();
    for (i, number) in m.scopes.iter().enumerate() {
        let field = format!("consent.scopes[{i}]");
        match r.required(&field, *number, code::scope_from) {
            Some(one) if scope.contains(&one) => r.wrong(&field, "is given twice"),
            Some(one) => scope.push(one),
            None => {}
        }
    }
    let given_by = r.optional("consent.given_by", &m.given_by, limit::SHORT);
    let date = r.date("consent.date", &m.date);
    let evidence = r.optional("consent.evidence", &m.evidence, limit::NOTE);
    Some(Consent {
        status: status?,
        given_by,
        role: role?,
        scope,
        date,
        evidence,
    })
}

/// The contract names the article 6 basis alone. A public task without consent, for a child who carries a
/// safeguarding flag, stands on the safeguarding condition of article 9; any other on that of care.
fn lawful_basis(
    r: &mut Reading,
    number: i32,
    consent: Option<&Consent>,
    flags: &[Flag],
) -> Option<LawfulBasis> {
    let given = consent.is_some_and(|c| c.status == ConsentStatus::Given);
    match v1::LawfulBasis::try_from(number) {
        Ok(v1::LawfulBasis::PublicTask) if !given && !flags.is_empty() => {
            Some(LawfulBasis::Safeguarding)
        }
        Ok(v1::LawfulBasis::PublicTask) => Some(LawfulBasis::PublicTaskCare),
        Ok(v1::LawfulBasis::LegalObligation) => Some(LawfulBasis::LegalObligation),
        Ok(v1::LawfulBasis::VitalInterests) => Some(LawfulBasis::VitalInterests),
        Ok(v1::LawfulBasis::Unspecified) => missing(r, "lawful_basis"),
        Ok(v1::LawfulBasis::Consent | v1::LawfulBasis::LegitimateInterests) => {
            r.wrong(
                "lawful_basis",
                "is not one that sharing a child's referral may stand on here: use PUBLIC_TASK, \
                 LEGAL_OBLIGATION or VITAL_INTERESTS, and give the consent in `consent`",
            );
            None
        }
        Err(_) => {
            r.wrong(
                "lawful_basis",
                format!("{number} is not a value this release knows"),
            );
            None
        }
    }
}

fn document(r: &mut Reading, i: usize, m: &v1::DocumentRef) -> Option<DocumentRef> {
    let at = |field: &str| format!("documents[{i}].{field}");
    let id = m.document_id.parse::<DocumentId>();
    let id = r.keep(id.map_err(|e| bad(&at("document_id"), &e)));
    if m.sha256.len() != 32 {
        r.wrong(&at("sha256"), "is 32 bytes");
    }
    if !(1..=limit::DOCUMENT_BYTES).contains(&m.size_bytes) {
        r.wrong(
            &at("size_bytes"),
            format!("is from 1 to {}", limit::DOCUMENT_BYTES),
        );
    }
    let media_type = r.text(&at("media_type"), &m.media_type, limit::MEDIA_TYPE);
    let title = r.optional(&at("title"), &m.title, limit::SHORT);
    let kind = r.code(&at("kind"), m.kind, code::document_kind_from);
    let sha256 = m.sha256.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes all that is written to it");
        hex
    });
    Some(DocumentRef {
        id: id?,
        sha256,
        media_type,
        size_bytes: m.size_bytes,
        title,
        kind: kind.map(ToOwned::to_owned),
    })
}
