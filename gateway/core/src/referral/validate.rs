//! The rules that a referral must meet, each with its field and remedy.

use jiff::civil::Date;

use super::{ConsentStatus, LawfulBasis, Referral};
use crate::error::Violation;

/// Limits on a referral, each with a name.
pub mod limits {
    /// Contacts around one child.
    pub const CONTACTS_MAX: usize = 20;
    /// Needs.
    pub const NEEDS_MAX: usize = 14;
    /// Concerns.
    pub const CONCERNS_MAX: usize = 20;
    /// Assess-plan-do-review cycles.
    pub const CYCLES_MAX: usize = 50;
    /// Safeguarding flags or reasonable adjustments.
    pub const FLAGS_MAX: usize = 50;
    /// Documents.
    pub const DOCUMENTS_MAX: usize = 50;
    /// External and local ids.
    pub const IDS_MAX: usize = 20;
    /// Characters in a name, role, code or other short text.
    pub const SHORT_TEXT_MAX: usize = 200;
    /// Characters in a long text.
    pub const LONG_TEXT_MAX: usize = 20_000;
    /// Address lines.
    pub const ADDRESS_LINES_MAX: usize = 8;
    /// Bytes in the canonical body, all fields together.
    pub const BODY_BYTES_MAX: usize = 256 * 1024;
    /// The earliest year of birth taken.
    pub const BIRTH_YEAR_MIN: i16 = 1900;
}

struct Rules(Vec<Violation>);

impl Rules {
    fn need(&mut self, ok: bool, field: &str, why: &str) {
        if !ok {
            self.0.push(Violation::new(field, why));
        }
    }

    fn text(&mut self, text: &str, max: usize, field: &str) {
        if text.chars().count() > max {
            self.0.push(Violation::new(
                field,
                format!("at most {max} characters: shorten it or attach a document"),
            ));
        }
        if text
            .chars()
            .any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
        {
            self.0.push(Violation::new(
                field,
                "control characters are not allowed: remove them",
            ));
        }
    }

    fn count(&mut self, count: usize, max: usize, field: &str) {
        if count > max {
            self.0
                .push(Violation::new(field, format!("at most {max} items")));
        }
    }
}

pub(super) fn violations(r: &Referral, today: Date) -> Vec<Violation> {
    let mut rules = Rules(Vec::new());
    child(r, today, &mut rules);
    people(r, &mut rules);
    request(r, &mut rules);
    consent(r, today, &mut rules);
    documents(r, &mut rules);
    texts(r, &mut rules);
    rules.0
}

fn child(r: &Referral, today: Date, rules: &mut Rules) {
    let c = &r.child;
    rules.need(
        !c.name.family.expose().trim().is_empty(),
        "child.name.family",
        "is required",
    );
    let dob = *c.date_of_birth.expose();
    rules.need(
        dob <= today,
        "child.date_of_birth",
        "is in the future: correct the date",
    );
    rules.need(
        dob.year() >= limits::BIRTH_YEAR_MIN,
        "child.date_of_birth",
        "is before 1900: correct the year",
    );
    rules.need(
        c.nhs_number.is_some() || c.upn.is_some() || !c.local_ids.is_empty(),
        "child",
        "needs an NHS number, a UPN or a local identifier, so that answers find the right child",
    );
    rules.need(
        r.age_on(today) >= 14 || c.uln.is_none(),
        "child.uln",
        "is given from age 14: check the date of birth or leave it out",
    );
    rules.count(c.local_ids.len(), limits::IDS_MAX, "child.local_ids");
    if let Some(address) = &c.address {
        rules.count(
            address.lines.len(),
            limits::ADDRESS_LINES_MAX,
            "child.address.lines",
        );
    }
}

fn people(r: &Referral, rules: &mut Rules) {
    rules.need(
        !r.referrer.name.expose().trim().is_empty(),
        "referrer.name",
        "a named person is required",
    );
    rules.count(r.contacts.len(), limits::CONTACTS_MAX, "contacts");
    if let Some(setting) = &r.setting {
        rules.need(
            setting.year_group.is_none_or(|y| (-2..=14).contains(&y)),
            "setting.year_group",
            "is from -2 (nursery) to 14",
        );
    }
}

fn request(r: &Referral, rules: &mut Rules) {
    rules.count(r.needs.len(), limits::NEEDS_MAX, "needs");
    let mut ranks: Vec<u8> = r.needs.iter().map(|n| n.rank).collect();
    ranks.sort_unstable();
    let in_order = ranks
        .iter()
        .zip(1u8..)
        .all(|(rank, expected)| *rank == expected);
    rules.need(
        in_order,
        "needs",
        "ranks must be 1, 2, 3 and so on, each once",
    );
    rules.need(
        !r.reason.code.trim().is_empty(),
        "reason.code",
        "is required",
    );
    rules.need(
        r.attendance_percent.is_none_or(|p| p <= 100),
        "attendance_percent",
        "is from 0 to 100",
    );
    rules.count(r.concerns.len(), limits::CONCERNS_MAX, "concerns");
    rules.count(
        r.graduated_response.len(),
        limits::CYCLES_MAX,
        "graduated_response",
    );
    rules.count(r.safeguarding.len(), limits::FLAGS_MAX, "safeguarding");
    rules.count(
        r.reasonable_adjustments.len(),
        limits::FLAGS_MAX,
        "reasonable_adjustments",
    );
    rules.count(r.external_ids.len(), limits::IDS_MAX, "external_ids");
    for (i, flag) in r.safeguarding.iter().enumerate() {
        rules.need(
            !flag.code.trim().is_empty(),
            &format!("safeguarding[{i}].code"),
            "is required",
        );
    }
    for (i, flag) in r.reasonable_adjustments.iter().enumerate() {
        rules.need(
            !flag.code.trim().is_empty(),
            &format!("reasonable_adjustments[{i}].code"),
            "is required",
        );
    }
    if let Some(reference) = &r.sender_reference {
        rules.need(
            !reference.value.trim().is_empty(),
            "sender_reference.value",
            "is required when given",
        );
    }
    for (i, c) in r.graduated_response.iter().enumerate() {
        let ordered = !matches!((c.from, c.to), (Some(from), Some(to)) if from > to);
        rules.need(
            ordered,
            &format!("graduated_response[{i}]"),
            "ends before it begins",
        );
    }
}

fn consent(r: &Referral, today: Date, rules: &mut Rules) {
    let without_consent_allowed = matches!(
        r.lawful_basis,
        LawfulBasis::Safeguarding | LawfulBasis::LegalObligation | LawfulBasis::VitalInterests
    );
    rules.need(
        r.consent.status == ConsentStatus::Given || without_consent_allowed,
        "consent.status",
        "a referral without consent needs lawful_basis safeguarding, legal_obligation or vital_interests",
    );
    rules.need(
        r.consent.date.is_none_or(|d| d <= today),
        "consent.date",
        "is in the future: correct the date",
    );
}

fn documents(r: &Referral, rules: &mut Rules) {
    rules.count(r.documents.len(), limits::DOCUMENTS_MAX, "documents");
    for (i, d) in r.documents.iter().enumerate() {
        let hex = d.sha256.len() == 64
            && d.sha256
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        rules.need(
            hex,
            &format!("documents[{i}].sha256"),
            "is 64 lower-case hexadecimal digits",
        );
    }
}

fn texts(r: &Referral, rules: &mut Rules) {
    use limits::{LONG_TEXT_MAX as LONG, SHORT_TEXT_MAX as SHORT};
    rules.text(r.child.name.family.expose(), SHORT, "child.name.family");
    rules.text(r.child.name.given.expose(), SHORT, "child.name.given");
    rules.text(r.referrer.name.expose(), SHORT, "referrer.name");
    rules.text(&r.referrer.role, SHORT, "referrer.role");
    rules.text(&r.reason.code, SHORT, "reason.code");
    if let Some(t) = &r.reason.text {
        rules.text(t.expose(), LONG, "reason.text");
    }
    if let Some(t) = &r.narrative {
        rules.text(t.expose(), LONG, "narrative");
    }
    if let Some(t) = &r.allergies {
        rules.text(t.expose(), LONG, "allergies");
    }
    if let Some(t) = &r.priority_reason {
        rules.text(t.expose(), LONG, "priority_reason");
    }
    for (i, c) in r.concerns.iter().enumerate() {
        rules.text(c.text.expose(), LONG, &format!("concerns[{i}].text"));
    }
    for (i, c) in r.contacts.iter().enumerate() {
        rules.text(
            c.name.family.expose(),
            SHORT,
            &format!("contacts[{i}].name.family"),
        );
        if let Some(t) = &c.safe_contact_note {
            rules.text(
                t.expose(),
                LONG,
                &format!("contacts[{i}].safe_contact_note"),
            );
        }
    }
    if let Some(s) = &r.sender_reference {
        rules.text(&s.value, SHORT, "sender_reference.value");
        rules.text(&s.namespace, SHORT, "sender_reference.namespace");
    }
}
