//! The people of a referral: the child, those around the child, and who refers.

use waymark_core::identifier::{NhsNumber, Uln, Upn};
use waymark_core::personal::Personal;
use waymark_core::referral::{
    Address, Channel, Child, Contact, ContactRole, Format, LocalId, Name, NhsVerification,
    Referrer, SafeToContact, Sex, Tested,
};
use waymark_proto::v1;

use super::{limit, missing};
use crate::grpc::convert::code;
use crate::grpc::convert::reading::{Code, Reading, UnknownCode};

fn name(r: &mut Reading, field: &str, message: Option<v1::PersonName>) -> Option<Name> {
    let Some(m) = message else {
        return missing(r, field);
    };
    let family = r.text(&format!("{field}.family"), &m.family, limit::NAME);
    if family.is_empty() {
        r.wrong(&format!("{field}.family"), "is required");
    }
    let given = r.text(&format!("{field}.given"), &m.given, limit::NAME);
    let middle = r.optional(&format!("{field}.middle"), &m.middle, limit::NAME);
    for (part, text) in [("prefix", &m.prefix), ("suffix", &m.suffix)] {
        let path = format!("{field}.{part}");
        let text = r.text(&path, text, limit::TITLE);
        r.carry(&path, &text);
    }
    Some(Name {
        family: family.into(),
        given: given.into(),
        middle,
    })
}

fn address(r: &mut Reading, field: &str, m: &v1::Address) -> Option<Address> {
    r.count(&format!("{field}.lines"), m.lines.len(), limit::LINES);
    let lines: Vec<Personal<String>> = m
        .lines
        .iter()
        .enumerate()
        .filter_map(|(i, line)| r.optional(&format!("{field}.lines[{i}]"), line, limit::NAME))
        .collect();
    let compact: String = m
        .postcode
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect::<String>()
        .to_ascii_uppercase();
    let postcode = match compact.len() {
        0 => None,
        5..=7 if compact.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            let (outward, inward) = compact.split_at(compact.len() - 3);
            Some(Personal::new(format!("{outward} {inward}")))
        }
        _ => {
            r.wrong(
                &format!("{field}.postcode"),
                "is not a postcode such as SS1 1AA",
            );
            None
        }
    };
    (!lines.is_empty() || postcode.is_some()).then_some(Address { lines, postcode })
}

pub(super) fn child(r: &mut Reading, m: v1::Child, local_ids: Vec<LocalId>) -> Option<Child> {
    let name = name(r, "child.name", m.name);
    let born = r.date("child.date_of_birth", &m.date_of_birth);
    if m.date_of_birth.is_empty() {
        r.wrong("child.date_of_birth", "is required");
    }
    let sex = r
        .code("child.sex", m.sex, code::sex_from)
        .unwrap_or(Sex::Unknown);
    let nhs_number = r.identifier("child.nhs_number", &m.nhs_number, NhsNumber::parse);
    let verified = r.code(
        "child.nhs_number_verification",
        m.nhs_number_verification,
        verification,
    );
    let upn = r.identifier("child.upn", &m.upn, Upn::parse);
    let uln = r.identifier("child.uln", &m.uln, Uln::parse);
    let address = m.address.and_then(|a| address(r, "child.address", &a));
    let language = r.text(
        "child.preferred_language",
        &m.preferred_language,
        limit::LANGUAGE,
    );
    let interpreter = yes(r, "child.interpreter_required", m.interpreter_required);
    let (nhs_verification, said) = verified.unwrap_or((NhsVerification::Unverified, ""));
    r.carry("child.nhs_number_verification", said);
    Some(Child {
        name: name?,
        date_of_birth: born?.into(),
        sex,
        nhs_number,
        nhs_verification,
        upn,
        uln,
        local_ids,
        address,
        language: (!language.is_empty()).then_some(language),
        interpreter_required: interpreter,
    })
}

/// Verified or not, and what it says beyond that (UKCore-NHSNumberVerificationStatus).
fn verification(number: i32) -> Code<(NhsVerification, &'static str)> {
    use v1::NhsNumberVerification as V;
    let unverified = |said| Ok(Some((NhsVerification::Unverified, said)));
    match V::try_from(number) {
        Ok(V::Unspecified) => Ok(None),
        Ok(V::PresentAndVerified) => Ok(Some((NhsVerification::Verified, ""))),
        Ok(V::PresentNotTraced) => unverified(""),
        Ok(V::TraceRequired) => unverified("trace required"),
        Ok(V::TraceNoSingleMatch) => unverified("trace found nobody, or several people"),
        Ok(V::TraceConflict) => unverified("the number and the details disagree"),
        Ok(V::TraceInProgress) => unverified("trace in progress"),
        Ok(V::NotPresentTraceNotRequired) => unverified("no number, and none is needed"),
        Ok(V::TracePostponed) => unverified("trace postponed"),
        Err(_) => Err(UnknownCode),
    }
}

/// Whether the answer is yes. A stated no, or that it is not known, is kept in words.
fn yes(r: &mut Reading, field: &str, number: i32) -> bool {
    match r.code(field, number, code::answer_from) {
        Some(Tested::Yes) => true,
        Some(Tested::No) => {
            r.carry(field, "no");
            false
        }
        Some(Tested::Unknown) => {
            r.carry(field, "asked, not known");
            false
        }
        None => false,
    }
}

pub(super) fn contact(r: &mut Reading, i: usize, m: v1::Contact) -> Option<Contact> {
    let at = |field: &str| format!("contacts[{i}].{field}");
    let name = name(r, &at("name"), m.name);
    let role = r.required(&at("role"), m.role, code::role_from);
    let parental_responsibility = yes(r, &at("parental_responsibility"), m.parental_responsibility);
    let phone = r.optional(&at("phone"), &m.phone, limit::PHONE);
    let email = r.optional(&at("email"), &m.email, limit::EMAIL);
    let safe = r.code(&at("safe_to_contact"), m.safe_to_contact, code::safety_from);
    let note = r.optional(&at("contact_note"), &m.contact_note, limit::NOTE);
    if safe == Some(SafeToContact::WithCare) && note.is_none() {
        r.wrong(
            &at("contact_note"),
            "is required when contact is RESTRICTED: say how it is safe",
        );
    }
    let format = r.code(
        &at("preferred_format"),
        m.preferred_format,
        code::format_from,
    );
    let channel = r.code(
        &at("preferred_channel"),
        m.preferred_channel,
        code::channel_from,
    );
    let language = r.text(
        &at("preferred_language"),
        &m.preferred_language,
        limit::LANGUAGE,
    );
    r.carry(&at("preferred_language"), &language);
    if yes(r, &at("interpreter_required"), m.interpreter_required) {
        r.carry(&at("interpreter_required"), "yes");
    }
    if let Some(other) = m.address.and_then(|a| address(r, &at("address"), &a)) {
        let lines = other
            .lines
            .iter()
            .chain(&other.postcode)
            .map(|l| l.expose().as_str());
        r.carry(&at("address"), &lines.collect::<Vec<_>>().join(", "));
    }
    let (role, said) = role.unwrap_or((ContactRole::Other, ""));
    r.carry(&at("role"), said);
    let (channel, said) = channel.unwrap_or((Channel::Unspecified, ""));
    r.carry(&at("preferred_channel"), said);
    Some(Contact {
        name: name?,
        role,
        parental_responsibility,
        phone,
        email,
        safe_to_contact: safe.unwrap_or(SafeToContact::Unknown),
        safe_contact_note: note,
        format: format.unwrap_or(Format::Standard),
        channel,
    })
}

pub(super) fn referrer(r: &mut Reading, m: v1::Referrer) -> Option<Referrer> {
    let Some(n) = m.name else {
        return missing(r, "referrer.name");
    };
    let parts = [
        ("prefix", &n.prefix, limit::TITLE),
        ("given", &n.given, limit::NAME),
        ("middle", &n.middle, limit::NAME),
        ("family", &n.family, limit::NAME),
        ("suffix", &n.suffix, limit::TITLE),
    ];
    let whole: Vec<String> = parts
        .into_iter()
        .map(|(part, text, max)| r.text(&format!("referrer.name.{part}"), text, max))
        .filter(|text| !text.is_empty())
        .collect();
    if n.family.trim().is_empty() {
        r.wrong("referrer.name.family", "is required");
    }
    Some(Referrer {
        name: whole.join(" ").into(),
        role: r.text("referrer.role", &m.role, limit::NAME),
        phone: r.optional("referrer.phone", &m.phone, limit::PHONE),
        email: r.optional("referrer.email", &m.email, limit::EMAIL),
    })
}
