//! The people of a message: the child, those around the child, and who refers.

use jiff::civil::Date;
use waymark_core::identifier::{NhsNumber, Uln, Upn};
use waymark_core::personal::Personal;
use waymark_core::referral::{
    Address, Channel, Child, Contact, ContactRole, Format, LocalId, Name, NhsVerification,
    Referrer, SafeToContact, Sex,
};

use super::super::name;
use super::aside;
use super::code;
use super::inward::Reading;
use super::node::{Fault, Issue, Node};

/// The rule of a name.
const NAME_REQUIRED: &str = "is required: one whose use is not old";

/// The child: whom the request is about.
pub(super) fn child(reading: &mut Reading<'_, '_>) -> Result<Child, Fault> {
    let subject = reading.request.required("subject")?;
    let missing = || {
        subject.fault_of(
            "reference",
            "leads to the Patient of this message",
            Issue::Value,
        )
    };
    let found = reading
        .message
        .resolve(&subject)?
        .filter(|r| r.kind == "Patient");
    let patient = &found.ok_or_else(missing)?.node;
    let name = official(patient, "name")?
        .ok_or_else(|| patient.fault_of("name", NAME_REQUIRED, Issue::Required))?;
    let mut child = Child {
        name,
        date_of_birth: born(patient)?,
        sex: sex(patient)?,
        nhs_number: None,
        nhs_verification: NhsVerification::Unverified,
        upn: None,
        uln: None,
        local_ids: Vec::new(),
        address: home(patient)?,
        language: None,
        interpreter_required: false,
    };
    identifiers(patient, &mut child)?;
    for spoken in patient.list("communication")? {
        let concept = spoken.concept("language")?;
        child.language = concept
            .codings
            .iter()
            .find_map(|coding| coding.code)
            .map(ToOwned::to_owned);
        if spoken.truth("preferred")? == Some(true) {
            break;
        }
    }
    if let Some(interpreter) = patient.extension(name::INTERPRETER)? {
        child.interpreter_required = interpreter.truth("valueBoolean")? == Some(true);
    }
    aside::person(reading, patient, ("Child", true, false))?;
    aside::deceased(reading, patient)?;
    // A foreign patient names its contacts itself.
    for contact in patient.list("contact")? {
        let words = foreign_contact(&contact)?;
        reading.words.extend(words);
    }
    Ok(child)
}

fn identifiers(patient: &Node<'_>, child: &mut Child) -> Result<(), Fault> {
    for identifier in patient.list("identifier")? {
        let system = identifier.text("system")?;
        let Some(value) = identifier.text("value")? else {
            continue;
        };
        if aside::is_old(&identifier)? {
            continue;
        }
        let bad = |why: String| identifier.fault_of("value", why, Issue::Value);
        if name::is_system(system, name::NHS_NUMBER) {
            let number = NhsNumber::parse(value).map_err(|e| bad(e.to_string()))?;
            if child
                .nhs_number
                .as_ref()
                .is_some_and(|first| *first != number)
            {
                return Err(bad("is a second NHS number: a child has one".to_owned()));
            }
            if let Some(status) = identifier.extension(name::VERIFICATION_EXTENSION)? {
                let concept = status.concept("valueCodeableConcept")?;
                if concept.code_of(name::VERIFICATION) == Some("number-present-and-verified") {
                    child.nhs_verification = NhsVerification::Verified;
                }
            }
            child.nhs_number = Some(number);
        } else if system == Some(name::UPN) {
            child.upn = Some(Upn::parse(value).map_err(|e| bad(e.to_string()))?);
        } else if system == Some(name::ULN) {
            child.uln = Some(Uln::parse(value).map_err(|e| bad(e.to_string()))?);
        } else {
            child.local_ids.push(LocalId {
                system: name::namespace_of(system),
                value: value.into(),
            });
        }
    }
    Ok(())
}

fn born(patient: &Node<'_>) -> Result<Personal<Date>, Fault> {
    let written = patient.required_text("birthDate")?;
    let date = written.parse::<Date>();
    date.map(Personal::new)
        .map_err(|_| patient.fault_of("birthDate", "is a whole date, YYYY-MM-DD", Issue::Value))
}

fn sex(patient: &Node<'_>) -> Result<Sex, Fault> {
    match patient.text("gender")? {
        None => Ok(Sex::Unknown),
        Some(written) => code::sex_of(written).ok_or_else(|| {
            patient.fault_of("gender", "is male, female, other or unknown", Issue::Value)
        }),
    }
}

fn home(patient: &Node<'_>) -> Result<Option<Address>, Fault> {
    let all = patient.list("address")?;
    let chosen = aside::preferred(&all, "home")?;
    let Some(written) = chosen.and_then(|nth| all.get(nth)) else {
        return Ok(None);
    };
    let mut lines: Vec<&str> = written.texts("line")?;
    for part in ["city", "district", "state", "country"] {
        lines.extend(written.text(part)?);
    }
    if lines.is_empty() {
        lines.extend(written.text("text")?);
    }
    Ok(Some(Address {
        lines: lines.into_iter().map(Personal::from).collect(),
        postcode: written.text("postalCode")?.map(Personal::from),
    }))
}

/// The official name of an element that is a list of names, else the first that is in use.
fn official(node: &Node<'_>, element: &str) -> Result<Option<Name>, Fault> {
    let all = node.list(element)?;
    let chosen = aside::preferred(&all, "official")?;
    chosen.and_then(|nth| all.get(nth)).map(written).transpose()
}

fn written(node: &Node<'_>) -> Result<Name, Fault> {
    let mut given = node.texts("given")?.into_iter();
    let first = given.next().unwrap_or_default();
    let rest: Vec<&str> = given.collect();
    let family = node.text("family")?.or(node.text("text")?);
    let family = family.ok_or_else(|| node.fault_of("family", "is required", Issue::Required))?;
    Ok(Name {
        family: family.into(),
        given: first.into(),
        middle: (!rest.is_empty()).then(|| Personal::new(rest.join(" "))),
    })
}

/// A contact that a foreign patient has inline: its words, because FHIR says there neither whether contact is safe nor
/// whether the person has parental responsibility.
fn foreign_contact(contact: &Node<'_>) -> Result<Option<String>, Fault> {
    let mut parts = Vec::new();
    for relation in contact.list("relationship")? {
        parts.extend(
            super::node::Concept::read(&relation)?
                .words()
                .map(ToOwned::to_owned),
        );
    }
    if let Some(name) = contact.object("name")? {
        parts.extend(name_words(&name)?);
    }
    for point in contact.list("telecom")? {
        let old = if aside::is_old(&point)? { "old " } else { "" };
        parts.extend(point.text("value")?.map(|value| format!("{old}{value}")));
    }
    Ok((!parts.is_empty()).then(|| format!("Contact: {}", parts.join(", "))))
}

pub(super) fn name_words(name: &Node<'_>) -> Result<Option<String>, Fault> {
    if let Some(text) = name.text("text")? {
        return Ok(Some(text.to_owned()));
    }
    let mut parts = name.texts("given")?;
    parts.extend(name.text("family")?);
    Ok((!parts.is_empty()).then(|| parts.join(" ")))
}

/// A code of a closed list of ours, in an extension of ours; the default where there is none.
fn listed<T: Default>(
    node: &Node<'_>,
    extension: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, Fault> {
    let Some(found) = node.extension(&name::extension(extension))? else {
        return Ok(T::default());
    };
    let code = found.required_text("valueCode")?;
    parse(code).ok_or_else(|| found.fault_of("valueCode", "is a code of its list", Issue::Value))
}

/// The people around the child.
pub(super) fn contacts(reading: &mut Reading<'_, '_>) -> Result<Vec<Contact>, Fault> {
    let message = reading.message;
    let mut contacts = Vec::new();
    for person in message.all("RelatedPerson") {
        let read = contact(person)?;
        let who = [read.name.given.expose(), read.name.family.expose()];
        let who = format!("Contact {}", who.map(String::as_str).join(" ").trim());
        aside::person(reading, person, (&who, false, true))?;
        contacts.push(read);
    }
    Ok(contacts)
}

fn contact(person: &Node<'_>) -> Result<Contact, Fault> {
    let name = official(person, "name")?
        .ok_or_else(|| person.fault_of("name", NAME_REQUIRED, Issue::Required))?;
    let (phone, email) = telecom(person)?;
    let note = person.extension(&name::extension("safe-contact-note"))?;
    let responsible = person.extension(&name::extension("parental-responsibility"))?;
    Ok(Contact {
        name,
        role: role(person)?,
        parental_responsibility: match responsible {
            Some(node) => node.truth("valueBoolean")? == Some(true),
            None => false,
        },
        phone,
        email,
        safe_to_contact: listed(person, "safe-to-contact", SafeToContact::parse)?,
        safe_contact_note: match note {
            Some(node) => Some(node.required_text("valueString")?.into()),
            None => None,
        },
        format: listed(person, "format", Format::parse)?,
        channel: listed(person, "channel", Channel::parse)?,
    })
}

fn role(person: &Node<'_>) -> Result<ContactRole, Fault> {
    let mut nearest = ContactRole::Other;
    for relation in person.list("relationship")? {
        let concept = super::node::Concept::read(&relation)?;
        if let Some(exact) = concept.code_of(name::VALUE).and_then(ContactRole::parse) {
            return Ok(exact);
        }
        let codes = concept.codings.iter().filter_map(|coding| coding.code);
        let known = codes
            .map(code::role_of)
            .find(|role| *role != ContactRole::Other);
        nearest = known.unwrap_or(nearest);
    }
    Ok(nearest)
}

type Reached = (Option<Personal<String>>, Option<Personal<String>>);

/// The first telephone and the first email that are in use.
fn telecom(node: &Node<'_>) -> Result<Reached, Fault> {
    let (mut phone, mut email) = (None, None);
    for point in node.list("telecom")? {
        let value = point.text("value")?.map(Personal::from);
        match point.text("system")? {
            _ if aside::is_old(&point)? => {}
            Some("phone" | "sms") if phone.is_none() => phone = value,
            Some("email") if email.is_none() => email = value,
            _ => {}
        }
    }
    Ok((phone, email))
}

/// Who refers: what the request's requester leads to.
pub(super) fn referrer(reading: &mut Reading<'_, '_>) -> Result<Referrer, Fault> {
    let (message, request) = (reading.message, reading.request);
    let requester = request.required("requester")?;
    let missing = || {
        let rule =
            "leads to a Practitioner or PractitionerRole of this message: a named person refers";
        requester.fault_of("reference", rule, Issue::Value)
    };
    let found = message.resolve(&requester)?.ok_or_else(missing)?;
    let (practitioner, role) = match found.kind {
        "Practitioner" => {
            let own = message.all("PractitionerRole").find(|role| {
                let led = role.object("practitioner").ok().flatten();
                let led = led.and_then(|reference| message.resolve(&reference).ok().flatten());
                led.is_some_and(|resource| resource.node.path() == found.node.path())
            });
            (&found.node, own)
        }
        "PractitionerRole" => {
            let reference = found.node.required("practitioner")?;
            let led = message.resolve(&reference)?.ok_or_else(missing)?;
            (&led.node, Some(&found.node))
        }
        _ => return Err(missing()),
    };
    let names = practitioner.list("name")?;
    let name = match aside::preferred(&names, "official")?.and_then(|nth| names.get(nth)) {
        Some(name) => name_words(name)?,
        None => None,
    };
    let name = name.ok_or_else(|| practitioner.fault_of("name", NAME_REQUIRED, Issue::Required))?;
    let role = match role {
        Some(role) => role
            .list("code")?
            .first()
            .map(super::node::Concept::read)
            .transpose()?,
        None => None,
    };
    aside::person(reading, practitioner, ("Referrer", false, true))?;
    let (phone, email) = telecom(practitioner)?;
    Ok(Referrer {
        name: Personal::new(name),
        role: role
            .and_then(|concept| concept.words())
            .unwrap_or_default()
            .to_owned(),
        phone,
        email,
    })
}
