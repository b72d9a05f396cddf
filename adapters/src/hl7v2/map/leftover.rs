//! What the fields of a foreign message say and a referral has no field for, as labelled lines of its narrative: nothing
//! that a person wrote is dropped unseen (invariant 12). Segments that nobody here reads are named.
//!
//! What notes of our own form hold is not said again. What an answer brings becomes words of its status the same way.

use waymark_core::directory::CodeMap;
use waymark_core::referral::ContactRole;

use super::super::brought::Brought;
use super::super::content::{Allergy, Coded, KeptSegment, Provider};
use super::super::observation::Observation;
use super::super::referral::{Address, Diagnosis, Kin, RefMessage};
use super::note::{NoteKind, ReadNote};
use super::outward::SERVICE_ID_KIND;
use super::{added, code, documents, inward};

/// Segments whose content is read, or is of the envelope alone.
const READ: [&str; 5] = ["SFT", "OBR", "OBX", "DG1", "PV1"];

/// The first telephone number among numbers and addresses.
pub(super) fn phone(contacts: &[String]) -> Option<&str> {
    contacts
        .iter()
        .map(String::as_str)
        .find(|it| !it.contains('@'))
}

/// The first electronic address among them.
pub(super) fn email(contacts: &[String]) -> Option<&str> {
    contacts
        .iter()
        .map(String::as_str)
        .find(|it| it.contains('@'))
}

/// The lines, in the order of the message.
pub(super) fn lines(message: &RefMessage, notes: &[ReadNote], codes: &CodeMap) -> Vec<String> {
    let own = |kind| notes.iter().any(|note| note.kind == kind);
    let mut lines = Vec::new();
    if !own(NoteKind::Request) {
        let further = message.rf1.reasons.iter().skip(1);
        lines.extend(further.filter_map(|it| labelled("Further reason", &[coded(it)])));
    }
    if !own(NoteKind::Referrer) {
        lines.extend(
            message
                .providers
                .iter()
                .filter_map(|it| provider(it, message)),
        );
    }
    child(message, &mut lines);
    lines.extend(added::people(message, notes).filter_map(kin));
    if !own(NoteKind::Need) {
        let diagnoses = message.diagnoses.iter();
        lines.extend(diagnoses.filter_map(|it| diagnosis(it, codes)));
    }
    lines.extend(message.observations.iter().filter_map(observation));
    if notes.is_empty() {
        lines.extend(kept(message));
    }
    lines
}

/// What an answer brings besides its status, in words. Of what nobody here reads the Z-segments stand as they came, which
/// were agreed with somebody; the others are named, as nobody knows whom they speak of.
pub(super) fn of_answer(brought: &Brought) -> Vec<String> {
    // No code map: a status has no needs that a diagnosis could become.
    let codes = CodeMap::default();
    let diagnoses = brought.diagnoses.iter();
    let allergies = brought.allergies.iter().map(allergy);
    let mut lines: Vec<String> = diagnoses.filter_map(|it| diagnosis(it, &codes)).collect();
    lines.extend(allergies.filter_map(|it| labelled("Allergy", &[it])));
    lines.extend(brought.observations.iter().filter_map(observation));
    lines.extend(documents::pointed_to(&brought.documents));
    lines.extend(documents::not_taken(&brought.enclosed));
    let (local, other): (Vec<_>, Vec<_>) = brought.kept.iter().partition(|it| it.is_local());
    lines.extend(local.iter().map(|it| format!("Also sent: {}", it.raw)));
    lines.extend(named(other).map(|names| format!("Also sent, and not read: {names}.")));
    lines
}

/// One allergy: to what, how severe, and what comes of it.
pub(super) fn allergy(allergy: &Allergy) -> String {
    let substance = &allergy.substance;
    let severity = allergy.severity.as_ref();
    let severity = severity.map(|it| format!("{} {}", it.text, it.code));
    let mut parts = vec![coded(substance), severity.unwrap_or_default()];
    parts.extend(allergy.reactions.iter().cloned());
    joined(&parts)
}

/// A label and what of some parts is not blank; none where all are.
fn labelled(label: &str, parts: &[String]) -> Option<String> {
    let said = joined(parts);
    (!said.is_empty()).then(|| format!("{label}: {said}"))
}

fn joined(parts: &[String]) -> String {
    let said = parts.iter().map(|part| part.trim());
    let said: Vec<&str> = said.filter(|part| !part.is_empty()).collect();
    said.join(", ")
}

fn coded(coded: &Coded) -> String {
    format!("{} {}", coded.code, coded.text)
}

fn words(coded: Option<&Coded>) -> String {
    let words = coded.map(|it| {
        if it.text.is_empty() {
            &it.code
        } else {
            &it.text
        }
    });
    words.cloned().unwrap_or_default()
}

fn written(address: &Address) -> String {
    joined(&[
        address.street.clone(),
        address.second_line.clone(),
        address.town.clone(),
        address.county.clone(),
        address.postcode.clone(),
    ])
}

/// What is said of a provider besides what the referrer's own fields and the id of the service hold.
fn provider(provider: &Provider, message: &RefMessage) -> Option<String> {
    let name = provider.name.as_ref().map(inward::spoken_name);
    let organisation = provider.organisation.clone().unwrap_or_default();
    if inward::referring(message) == Some(provider) {
        let organisation = name.map_or_else(String::new, |_| organisation);
        let mut further = further(&provider.contacts);
        further.extend(provider.roles.iter().skip(1).map(|it| words(Some(it))));
        further.insert(0, organisation);
        return labelled("Of the referrer also", &further);
    }
    let ids = provider.ids.iter().filter(|id| id.kind != SERVICE_ID_KIND);
    let mut parts = vec![name.unwrap_or_default(), organisation];
    parts.extend(provider.contacts.iter().cloned());
    if parts.iter().all(String::is_empty) && provider.has_role("RT") {
        // Whom it is for by id alone: routing decides that.
        return None;
    }
    parts.extend(ids.map(|id| id.value.clone()));
    let roles: Vec<String> = provider.roles.iter().map(|it| words(Some(it))).collect();
    labelled(&joined(&roles), &parts)
}

/// The numbers and addresses beyond the first of each.
fn further(contacts: &[String]) -> Vec<String> {
    let (phone, email) = (phone(contacts), email(contacts));
    let mut used = [phone, email];
    let mut is_further = |it: &&String| {
        let slot = used.iter_mut().find(|slot| **slot == Some(it.as_str()));
        slot.is_none_or(|slot| slot.take().is_none())
    };
    contacts
        .iter()
        .filter(|it| is_further(it))
        .cloned()
        .collect()
}

fn child(message: &RefMessage, lines: &mut Vec<String>) {
    let patient = &message.patient;
    let names = patient.other_names.iter().map(inward::spoken_name);
    lines.extend(names.filter_map(|name| labelled("Child also known as", &[name])));
    let addresses = patient.other_addresses.iter().map(written);
    lines.extend(addresses.filter_map(|it| labelled("Child's further address", &[it])));
    lines.extend(labelled("Child's telephone", &patient.contacts));
}

fn kin(kin: &Kin) -> Option<String> {
    let relationship = kin.relationship.as_ref();
    let unknown = relationship
        .filter(|it| code::relationship(&it.code) == ContactRole::Other)
        .map(|it| words(Some(it)));
    let mut parts = vec![unknown.unwrap_or_default(), words(kin.role.as_ref())];
    parts.extend(kin.addresses.iter().map(written));
    parts.extend(further(&kin.contacts));
    parts.extend(kin.work_contacts.iter().map(|it| format!("at work {it}")));
    let name = kin.name.as_ref().map(inward::spoken_name);
    let name = name.filter(|name| !name.is_empty());
    labelled(
        &format!("Of {}", name.as_deref().unwrap_or("a contact")),
        &parts,
    )
}

/// A diagnosis, where no code map makes a need of it or the sender put it in words.
fn diagnosis(diagnosis: &Diagnosis, codes: &CodeMap) -> Option<String> {
    let code = &diagnosis.code;
    let text = diagnosis.text.clone().unwrap_or_default();
    if codes.need_of(&code.system, &code.code).is_some() && text.is_empty() {
        return None;
    }
    labelled("Diagnosis", &[coded(code), text])
}

fn observation(observation: &Observation) -> Option<String> {
    let name = words(observation.name.as_ref());
    let label = if name.is_empty() {
        "Observation"
    } else {
        &name
    };
    let mut value = observation.values.join(", ");
    if let Some(units) = &observation.units {
        value = format!("{value} {units}");
    }
    if !observation.flags.is_empty() {
        value = format!("{value} (flagged {})", observation.flags.join(", "));
    }
    labelled(label, &[value])
}

/// The names of segments that nobody here reads.
fn kept(message: &RefMessage) -> Option<String> {
    let segments = message.kept.iter();
    let unread = segments.filter(|it| !READ.contains(&it.name.as_str()));
    named(unread).map(|names| format!("Also sent, and kept with the original: {names}."))
}

/// The names of segments, each once.
fn named<'m>(segments: impl IntoIterator<Item = &'m KeptSegment>) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for segment in segments {
        if !names.contains(&&*segment.name) {
            names.push(&segment.name);
        }
    }
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waymark_core::port::InboundBody;
    use waymark_core::referral::Referral;

    use super::super::tests::{referral, source};
    use super::super::{inward, outward};
    use crate::hl7v2::config::tests::{PLAIN, endpoint};
    use crate::hl7v2::config::{Assumptions, Settings};
    use crate::hl7v2::message::{LineEndings, Message};
    use crate::hl7v2::referral::RefMessage;

    const FOREIGN: &str = include_str!("../fixtures/ref-i12-v24-foreign.hl7");
    const FOREIGN_WORDS: &str = include_str!("../fixtures/ref-i12-v24-foreign.narrative.txt");
    const WIDE: &str = include_str!("../fixtures/ref-i12-v28-wide.hl7");
    const WIDE_WORDS: &str = include_str!("../fixtures/ref-i12-v28-wide.narrative.txt");

    fn read(wire: &str, codes: &waymark_core::directory::CodeMap) -> Referral {
        let message = Message::parse(wire.as_bytes(), LineEndings::Any).unwrap();
        let message = RefMessage::read(&message).unwrap();
        let assumptions = Assumptions::of("unsorted".parse().unwrap());
        match inward::read(&message, &assumptions, codes) {
            Ok(InboundBody::Submit(referral)) => *referral,
            other => panic!("{other:?}"),
        }
    }

    fn narrative(wire: &str) -> String {
        let narrative = read(wire, &waymark_core::directory::CodeMap::default()).narrative;
        narrative.map_or_else(String::new, |text| text.expose().clone())
    }

    #[test]
    fn whatever_a_foreign_message_says_beside_our_fields_stands_in_the_narrative() {
        assert_eq!(narrative(FOREIGN), FOREIGN_WORDS.trim_end());
        assert_eq!(narrative(WIDE), WIDE_WORDS.trim_end());
        let referral = read(FOREIGN, &waymark_core::directory::CodeMap::default());
        let referrer = referral.referrer;
        assert_eq!(referrer.email.unwrap().expose(), "ada@north.example");
        assert_eq!(referrer.phone.unwrap().expose(), "01632960001");
        let [mary] = &referral.contacts[..] else {
            panic!("one contact is somebody")
        };
        assert_eq!(mary.phone.as_ref().unwrap().expose(), "01632960021");
        let email = mary.email.as_ref().unwrap();
        assert_eq!(email.expose(), "mary@family.example");
    }

    #[test]
    fn a_diagnosis_that_is_a_need_is_not_said_again() {
        let mut codes = waymark_core::directory::CodeMap::default();
        let adhd = waymark_core::directory::WireCode {
            code: "F90.0".to_owned(),
            system: "I10".to_owned(),
            display: String::new(),
        };
        codes
            .need
            .insert(waymark_core::referral::NeedType::Autism, adhd);
        let bare = FOREIGN.replace("|Query ADHD, not yet confirmed", "");
        let found = read(&bare, &codes);
        assert_eq!(found.needs.len(), 1);
        assert!(!found.narrative.unwrap().expose().contains("Diagnosis"));
        let said = read(FOREIGN, &codes).narrative.unwrap();
        assert!(said.expose().contains("Query ADHD, not yet confirmed"));
    }

    #[test]
    fn what_is_added_to_a_message_of_ours_is_not_lost_behind_its_own_narrative() {
        let settings = Settings::read(&endpoint(PLAIN)).unwrap();
        let wire = outward::render(
            &source(waymark_core::delivery::Kind::New, Some(referral())),
            &settings,
        );
        let wire =
            wire.unwrap() + "NTE|9|L|added by hand\rOBX|1|TX|RISK^Risk||do not visit alone\r";
        let own = referral().narrative.unwrap();
        assert_eq!(
            narrative(&wire),
            format!("{}\nadded by hand\nRisk: do not visit alone", own.expose())
        );
        let added = wire
            + "NK1|7|Gale^Nan|GRP^Grandparent^HL70063|1 Hill Road|01632960044||EC\rAL1|2||^Penicillin|SV|rash\r";
        let read = read(&added, &waymark_core::directory::CodeMap::default());
        let (mut contacts, allergies) = (referral().contacts, referral().allergies.unwrap());
        let nan = read.contacts.last().unwrap().clone();
        assert_eq!(nan.name.given.expose(), "Nan");
        assert_eq!(nan.phone.as_ref().unwrap().expose(), "01632960044");
        contacts.push(nan);
        assert_eq!(read.contacts, contacts, "each once");
        assert_eq!(
            read.allergies.unwrap().expose(),
            &format!("{}\nPenicillin, SV, rash", allergies.expose())
        );
        let narrative = read.narrative.unwrap().expose().clone();
        assert!(
            narrative.contains("Of Nan Gale: Grandparent, EC, 1 Hill Road"),
            "{narrative}"
        );
    }

    #[test]
    fn the_allergy_and_the_people_of_a_note_are_not_said_twice_however_long_they_are() {
        let settings = Settings::read(&endpoint(PLAIN)).unwrap();
        let mut content = referral();
        content.allergies = Some("Nuts | of any kind\n and milk. ".repeat(30).into());
        content.contacts[0].name.family = "Featherstone ".repeat(30).into();
        let source = source(waymark_core::delivery::Kind::New, Some(content.clone()));
        let wire = outward::render(&source, &settings).unwrap();
        assert!(wire.contains("\rAL1|1|"), "{wire}");
        let read = read(&wire, &waymark_core::directory::CodeMap::default());
        assert_eq!(read.allergies, content.allergies);
        assert_eq!(read.contacts.len(), content.contacts.len());
    }

    proptest! {
        #[test]
        fn no_words_of_an_observation_are_dropped(words in "[a-zA-Z0-9 ,.;:()'-]{0,40}[a-z]", kind in "TX|FT|ST|CE|DT|XX") {
            let wire = FOREIGN.replace("Known to social care: do not visit alone.", &words);
            let wire = wire.replace("|TX|", &format!("|{kind}|"));
            prop_assert!(narrative(&wire).contains(words.trim()), "{wire}");
        }
    }
}
