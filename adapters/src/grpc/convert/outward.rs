//! A referral written as the contract's message.

use waymark_core::personal::Personal;
use waymark_core::referral::{
    Address, Child, Concern, Consent, ConsentStatus, Contact, Cycle, DocumentRef, Flag,
    LawfulBasis, Name, Referral, Referrer, Setting, SettingKind,
};
use waymark_proto::v1;

use super::{ADJUSTMENT_SYSTEM, CHILD_ID_SYSTEM, UNCODED, code, sender_reference_to_proto};

/// What stands in `narrative` before that which the contract has no field for.
const CARRIED: &str = "The referral also states:";

/// Writes a referral. What the contract has no field for is added to `narrative` in words.
pub fn referral_to_proto(referral: &Referral) -> v1::Referral {
    let mut carried = Vec::new();
    let (home_concern, setting_concern) = concerns(&referral.concerns, &mut carried);
    let external = referral.external_ids.iter().map(|id| v1::ExternalId {
        system: id.system.clone(),
        value: id.value.clone(),
    });
    let local = referral.child.local_ids.iter().map(|id| v1::ExternalId {
        system: format!("{CHILD_ID_SYSTEM}{}", id.system),
        value: id.value.expose().clone(),
    });
    let (system, code) = split_code(&referral.reason.code);
    let mut message = v1::Referral {
        child: Some(child(&referral.child)),
        contacts: referral.contacts.iter().map(contact).collect(),
        referrer: Some(referrer(&referral.referrer)),
        setting: referral.setting.as_ref().map(setting),
        needs: referral
            .needs
            .iter()
            .map(|n| v1::Need {
                r#type: code::need_to(n.kind).into(),
                rank: n.rank.into(),
            })
            .collect(),
        pathway: referral.pathway.as_str().to_owned(),
        requested_service_id: referral
            .requested_service
            .as_ref()
            .map(|s| s.as_str().to_owned())
            .unwrap_or_default(),
        priority: code::priority_to(referral.priority).into(),
        priority_reason: words(referral.priority_reason.as_ref()),
        reason: Some(v1::Reason {
            code,
            system,
            text: words(referral.reason.text.as_ref()),
        }),
        home_concern,
        setting_concern,
        support_cycles: referral.graduated_response.iter().map(cycle).collect(),
        hearing_checked: code::tested_to(referral.hearing_checked).into(),
        vision_checked: code::tested_to(referral.vision_checked).into(),
        attendance_percent: referral.attendance_percent.map(f64::from),
        safeguarding_flags: referral.safeguarding.iter().map(safeguarding).collect(),
        reasonable_adjustments: referral
            .reasonable_adjustments
            .iter()
            .map(adjustment)
            .collect(),
        allergies: words(referral.allergies.as_ref()),
        consent: consent(&referral.consent, &mut carried),
        lawful_basis: lawful_basis(referral.lawful_basis, &mut carried).into(),
        documents: referral.documents.iter().map(document).collect(),
        external_ids: external.chain(local).collect(),
        sender_reference: referral
            .sender_reference
            .as_ref()
            .map(sender_reference_to_proto)
            .unwrap_or_default(),
        narrative: words(referral.narrative.as_ref()),
    };
    if !carried.is_empty() {
        let gap = if message.narrative.is_empty() {
            ""
        } else {
            "\n\n"
        };
        message.narrative = format!(
            "{}{gap}{CARRIED}\n{}",
            message.narrative,
            carried.join("\n")
        );
    }
    message
}

fn words(text: Option<&Personal<String>>) -> String {
    text.map(|t| t.expose().clone()).unwrap_or_default()
}

/// `system|code`, as the canonical form holds a reason's code of another list.
fn split_code(code: &str) -> (String, String) {
    match code.rsplit_once('|') {
        Some((system, code)) => (system.to_owned(), code.to_owned()),
        None if code == UNCODED => (String::new(), String::new()),
        None => (String::new(), code.to_owned()),
    }
}

fn name(name: &Name) -> v1::PersonName {
    v1::PersonName {
        family: name.family.expose().clone(),
        given: name.given.expose().clone(),
        middle: words(name.middle.as_ref()),
        ..v1::PersonName::default()
    }
}

fn address(address: &Address) -> v1::Address {
    v1::Address {
        lines: address.lines.iter().map(|l| l.expose().clone()).collect(),
        postcode: words(address.postcode.as_ref()),
    }
}

fn child(child: &Child) -> v1::Child {
    let verified = match (child.nhs_number.is_some(), child.nhs_verification) {
        (false, _) => v1::NhsNumberVerification::Unspecified,
        (true, waymark_core::referral::NhsVerification::Verified) => {
            v1::NhsNumberVerification::PresentAndVerified
        }
        (true, waymark_core::referral::NhsVerification::Unverified) => {
            v1::NhsNumberVerification::PresentNotTraced
        }
    };
    v1::Child {
        name: Some(name(&child.name)),
        date_of_birth: child.date_of_birth.expose().to_string(),
        sex: code::sex_to(child.sex).into(),
        nhs_number: child
            .nhs_number
            .as_ref()
            .map(|n| n.expose().to_owned())
            .unwrap_or_default(),
        nhs_number_verification: verified.into(),
        upn: child
            .upn
            .as_ref()
            .map(|n| n.expose().to_owned())
            .unwrap_or_default(),
        uln: child
            .uln
            .as_ref()
            .map(|n| n.expose().to_owned())
            .unwrap_or_default(),
        address: child.address.as_ref().map(address),
        preferred_language: child.language.clone().unwrap_or_default(),
        interpreter_required: code::yes_to(child.interpreter_required).into(),
    }
}

fn contact(contact: &Contact) -> v1::Contact {
    let (role, said) = code::role_to(contact.role);
    let note = words(contact.safe_contact_note.as_ref());
    let contact_note = match (said, note.as_str()) {
        ("", _) => note,
        (said, "") => format!("Role: {said}."),
        (said, _) => format!("Role: {said}. {note}"),
    };
    v1::Contact {
        name: Some(name(&contact.name)),
        role: role.into(),
        parental_responsibility: code::yes_to(contact.parental_responsibility).into(),
        phone: words(contact.phone.as_ref()),
        email: words(contact.email.as_ref()),
        safe_to_contact: code::safety_to(contact.safe_to_contact).into(),
        contact_note,
        preferred_format: code::format_to(contact.format).into(),
        preferred_channel: code::channel_to(contact.channel).into(),
        ..v1::Contact::default()
    }
}

/// The last word of a name is the family name: the canonical form holds a referrer's name whole.
fn referrer(referrer: &Referrer) -> v1::Referrer {
    let whole = referrer.name.expose().trim();
    let (given, family) = whole.rsplit_once(' ').unwrap_or(("", whole));
    v1::Referrer {
        name: Some(v1::PersonName {
            family: family.to_owned(),
            given: given.trim().to_owned(),
            ..v1::PersonName::default()
        }),
        role: referrer.role.clone(),
        phone: words(referrer.phone.as_ref()),
        email: words(referrer.email.as_ref()),
        agency_id: String::new(),
    }
}

fn setting(setting: &Setting) -> v1::Setting {
    // `NONE` says that the child is on no roll, which a setting with a name contradicts.
    let named = setting.urn.is_some() || setting.name.is_some();
    let kind = match setting.kind {
        SettingKind::None if named => v1::SettingKind::Unspecified,
        kind => code::setting_to(kind),
    };
    let sen = match setting.sen_provision {
        waymark_core::referral::SenProvision::EhcPlan => v1::SenProvision::EhcPlan,
        waymark_core::referral::SenProvision::SenSupport => v1::SenProvision::SenSupport,
        // The canonical default: `NONE` would say that somebody decided that there is no need.
        waymark_core::referral::SenProvision::None => v1::SenProvision::Unspecified,
    };
    v1::Setting {
        urn: setting
            .urn
            .as_ref()
            .map(|u| u.expose().to_owned())
            .unwrap_or_default(),
        name: setting.name.clone().unwrap_or_default(),
        kind: kind.into(),
        year_group: match setting.year_group {
            None => String::new(),
            Some(-2) => "N1".to_owned(),
            Some(-1) => "N2".to_owned(),
            Some(0) => "R".to_owned(),
            Some(year) => year.to_string(),
        },
        sen_provision: sen.into(),
    }
}

/// The first concern at home and the first at school have fields; every other is carried in words.
fn concerns(
    all: &[Concern],
    carried: &mut Vec<String>,
) -> (Option<v1::Concern>, Option<v1::Concern>) {
    let (mut home, mut school) = (None, None);
    for concern in all {
        let message = v1::Concern {
            text: concern.text.expose().clone(),
            onset: words(concern.onset.as_ref()),
            impact: words(concern.impact.as_ref()),
        };
        match concern.setting.as_str() {
            "home" if home.is_none() => home = Some(message),
            "school" if school.is_none() => school = Some(message),
            place => {
                let mut parts = vec![message.text];
                if !message.onset.is_empty() {
                    parts.push(format!("since {}", message.onset));
                }
                if !message.impact.is_empty() {
                    parts.push(format!("impact: {}", message.impact));
                }
                carried.push(format!("concern ({place}): {}", parts.join("; ")));
            }
        }
    }
    (home, school)
}

fn cycle(cycle: &Cycle) -> v1::SupportCycle {
    v1::SupportCycle {
        from_date: cycle.from.map(|d| d.to_string()).unwrap_or_default(),
        to_date: cycle.to.map(|d| d.to_string()).unwrap_or_default(),
        what: cycle.what.expose().clone(),
        outcome: words(cycle.outcome.as_ref()),
    }
}

fn uncoded(code: &str) -> String {
    if code == UNCODED {
        String::new()
    } else {
        code.to_owned()
    }
}

fn safeguarding(flag: &Flag) -> v1::SafeguardingFlag {
    v1::SafeguardingFlag {
        system: flag.system.clone(),
        code: uncoded(&flag.code),
        text: words(flag.text.as_ref()),
    }
}

fn adjustment(flag: &Flag) -> v1::ReasonableAdjustment {
    let code = match flag.system.as_str() {
        "" | ADJUSTMENT_SYSTEM => uncoded(&flag.code),
        system => format!("{system}|{}", uncoded(&flag.code)),
    };
    v1::ReasonableAdjustment {
        code,
        text: words(flag.text.as_ref()),
    }
}

fn consent(consent: &Consent, carried: &mut Vec<String>) -> Option<v1::Consent> {
    let Some(status) = code::consent_to(consent.status) else {
        carried.push("consent: not sought".to_owned());
        if !consent.scope.is_empty() {
            let scope: Vec<&str> = consent.scope.iter().map(|s| s.as_str()).collect();
            carried.push(format!("consent scope: {}", scope.join(", ")));
        }
        let said = [
            ("given by", &consent.given_by),
            ("evidence", &consent.evidence),
        ];
        for (what, text) in said {
            if let Some(text) = text {
                carried.push(format!("consent {what}: {}", text.expose()));
            }
        }
        return None;
    };
    debug_assert!(
        consent.status != ConsentStatus::NotSought,
        "has no message of its own"
    );
    Some(v1::Consent {
        given_by: words(consent.given_by.as_ref()),
        role: code::giver_to(consent.role).into(),
        scopes: consent
            .scope
            .iter()
            .map(|s| code::scope_to(*s).into())
            .collect(),
        date: consent.date.map(|d| d.to_string()).unwrap_or_default(),
        evidence: words(consent.evidence.as_ref()),
        status: status.into(),
    })
}

fn lawful_basis(basis: LawfulBasis, carried: &mut Vec<String>) -> v1::LawfulBasis {
    match basis {
        LawfulBasis::PublicTaskCare => v1::LawfulBasis::PublicTask,
        LawfulBasis::Safeguarding => {
            carried.push(
                "lawful basis: safeguarding of children, UK GDPR articles 6(1)(e) and 9(2)(g)"
                    .to_owned(),
            );
            v1::LawfulBasis::PublicTask
        }
        LawfulBasis::LegalObligation => v1::LawfulBasis::LegalObligation,
        LawfulBasis::VitalInterests => v1::LawfulBasis::VitalInterests,
    }
}

fn document(document: &DocumentRef) -> v1::DocumentRef {
    let kind = code::document_kind_to(document.kind.as_deref());
    let title = match (&document.title, &document.kind) {
        (Some(title), _) => title.expose().clone(),
        (None, Some(named)) if kind == v1::DocumentKind::Other => named.clone(),
        (None, _) => String::new(),
    };
    v1::DocumentRef {
        document_id: document.id.to_string(),
        sha256: digest_bytes(&document.sha256),
        media_type: document.media_type.clone(),
        size_bytes: document.size_bytes,
        title,
        kind: kind.into(),
    }
}

/// The bytes of lower-case hexadecimal, which the canonical form has checked.
fn digest_bytes(hex: &str) -> Vec<u8> {
    let digit = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
            .unwrap_or(0)
    };
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => digit(*high) << 4 | digit(*low),
            _ => 0,
        })
        .collect()
}
