//! From referral messages to the canonical referral.
//!
//! Segments are read first; notes of our own form ([`super::note`]) then put back what segments have no
//! field for. What a foreign message cannot say comes from the agreement with its sender
//! ([`Assumptions`]). What a field of a segment says and the referral has no field for goes into its narrative in words
//! (`map/leftover.rs`). Who is too old or too young is not judged here: routing sends them to triage.

use serde_json::{Map, Value, json};
use waymark_core::directory::CodeMap;
use waymark_core::identifier::{NhsNumber, Uln, Upn};
use waymark_core::personal::Personal;
use waymark_core::port::{CancelCode, InboundBody, Withdrawal};
use waymark_core::referral::{
    Address, Channel, Child, Consent, ConsentGiver, ConsentStatus, Contact, ExternalId, Format,
    LocalId, Name, Need, NhsVerification, Priority, Reason, Referral, Referrer, SafeToContact,
    SenderReference, Tested, limits::NEEDS_MAX,
};

use super::super::config::Assumptions;
use super::super::content;
use super::super::fault::{ErrorCode, FieldFault};
use super::super::message::Message;
use super::super::referral::{Kin, Patient, RefMessage, ReferralEvent};
use super::super::timestamp;
use super::documents;
use super::leftover;
use super::note::{self, NoteKind, ReadNote};
use super::outward::SERVICE_ID_KIND;
use super::{added, code};

/// The reason code of a referral that states none.
pub const REASON_UNSTATED: &str = "unstated";
/// The system of an identifier whose giver is not stated.
pub const SYSTEM_UNSTATED: &str = "unstated";

/// Reads what a referral message asks the gateway to do.
///
/// # Errors
/// The field whose content has no place in a referral.
pub fn read(
    message: &RefMessage,
    assumptions: &Assumptions,
    codes: &CodeMap,
) -> Result<InboundBody, FieldFault> {
    let reference = sender_reference(message);
    let notes = own_notes(message)?;
    match message.event {
        ReferralEvent::New => {
            let referral = referral(message, &notes, assumptions, codes)?;
            Ok(InboundBody::Submit(Box::new(referral)))
        }
        ReferralEvent::Modify => {
            let referral = referral(message, &notes, assumptions, codes)?;
            Ok(InboundBody::Amend(reference, Box::new(referral)))
        }
        ReferralEvent::Cancel => Ok(match withdrawal(&notes)? {
            Some(withdrawal) => InboundBody::Withdraw(reference, withdrawal),
            None => InboundBody::Cancel(
                reference,
                CancelCode::CancelledBySender,
                ending(message, &notes),
            ),
        }),
        ReferralEvent::Enquire => Ok(InboundBody::Enquiry(reference)),
    }
}

fn sender_reference(message: &RefMessage) -> SenderReference {
    let originating = &message.rf1.originating;
    SenderReference {
        value: originating.id.clone(),
        namespace: originating.namespace.clone(),
    }
}

fn own_notes(message: &RefMessage) -> Result<Vec<ReadNote>, FieldFault> {
    let read = |(nth, each): (usize, &content::Note)| {
        let bad = |_| bad_note().at(nth + 1);
        note::read(each).map(|read| read.map_err(bad))
    };
    message.notes.iter().enumerate().filter_map(read).collect()
}

fn bad_note() -> FieldFault {
    let rule = "does not hold the parts that its kind of note has";
    FieldFault::field("NTE", 3, rule, ErrorCode::DataType)
}

/// The withdrawal of consent that a note of ours tells of. It never becomes a plain cancel: who withdraws consent may
/// leave parts of it standing, and forbids more than a cancel does.
fn withdrawal(notes: &[ReadNote]) -> Result<Option<Withdrawal>, FieldFault> {
    let Some(ending) = withdrawing(notes) else {
        return Ok(None);
    };
    let said = ending.parts.get("withdrawal").cloned();
    let said = said.and_then(|said| serde_json::from_value(said).ok());
    said.map(Some).ok_or_else(|| {
        let rule = "withdraws consent and does not say what of it, who and when";
        FieldFault::field("NTE", 3, rule, ErrorCode::RequiredFieldMissing)
    })
}

/// The note that says that consent is withdrawn.
fn withdrawing(notes: &[ReadNote]) -> Option<&ReadNote> {
    let ending = notes.iter().find(|note| note.kind == NoteKind::Ending)?;
    (ending.parts.get("kind") == Some(&json!("withdrawn"))).then_some(ending)
}

/// Whether a message that ends a referral withdraws consent, as far as its notes can be read.
pub fn withdraws(message: &Message) -> bool {
    let notes = content::Note::read_all(message);
    let own = notes.iter().filter_map(note::read).filter_map(Result::ok);
    withdrawing(&own.collect::<Vec<_>>()).is_some()
}

/// Why it is cancelled: our own note, else the words of RF1-10, else what other notes say.
fn ending(message: &RefMessage, notes: &[ReadNote]) -> Option<Personal<String>> {
    if let Some(own) = notes.iter().find(|note| note.kind == NoteKind::Ending) {
        return own
            .parts
            .get("reason")
            .and_then(Value::as_str)
            .map(Personal::from);
    }
    let coded = message.rf1.reasons.first();
    let said = coded.map(|it| {
        if it.text.is_empty() {
            it.code.clone()
        } else {
            it.text.clone()
        }
    });
    said.map(Personal::new).or_else(|| free_text(message))
}

/// Joins the notes that are not ours.
fn free_text(message: &RefMessage) -> Option<Personal<String>> {
    let lines = note::free_lines(&message.notes);
    let lines: Vec<String> = lines
        .chain(documents::pointed_to(&message.documents))
        .collect();
    if lines.is_empty() {
        None
    } else {
        Some(Personal::new(lines.join("\n")))
    }
}

fn referral(
    message: &RefMessage,
    notes: &[ReadNote],
    assumptions: &Assumptions,
    codes: &CodeMap,
) -> Result<Referral, FieldFault> {
    let mut referral = native(message, assumptions, codes)?;
    if !notes.is_empty() {
        let Ok(Value::Object(mut whole)) = serde_json::to_value(&referral) else {
            return Err(bad_note());
        };
        overlay(&mut whole, notes).ok_or_else(bad_note)?;
        referral = serde_json::from_value(Value::Object(whole)).map_err(|_| bad_note())?;
        let is_noted = |kind| notes.iter().any(|note| note.kind == kind);
        if is_noted(NoteKind::Contact) {
            let added = added::people(message, notes).filter(|kin| kin.is_somebody());
            referral.contacts.extend(added.map(contact));
        }
        if is_noted(NoteKind::Allergies) {
            let own = referral.allergies.take().map(|own| own.expose().clone());
            let lines: Vec<String> = own
                .into_iter()
                .chain(added::allergies(message, notes))
                .collect();
            referral.allergies = Some(Personal::new(lines.join("\n")));
        }
    }
    let own = referral.narrative.take().map(|own| own.expose().clone());
    let lines: Vec<String> = own
        .into_iter()
        .chain(free_text(message).map(|text| text.expose().clone()))
        .chain(leftover::lines(message, notes, codes))
        .collect();
    referral.narrative = (!lines.is_empty()).then(|| Personal::new(lines.join("\n")));
    Ok(referral)
}

/// What a note of request may say.
const REQUEST_PARTS: [&str; 9] = [
    "pathway",
    "requested_service",
    "priority",
    "priority_reason",
    "reason",
    "hearing_checked",
    "vision_checked",
    "attendance_percent",
    "lawful_basis",
];
/// What a note of the child may say: never what PID says.
const CHILD_PARTS: [&str; 3] = ["nhs_verification", "interpreter_required", "local_ids"];

/// Puts what notes hold into the referral: a list is theirs as a whole. None for a part out of place.
fn overlay(whole: &mut Map<String, Value>, notes: &[ReadNote]) -> Option<()> {
    let mut lists: Map<String, Value> = Map::new();
    for note in notes {
        let parts = note.parts.clone();
        match target(note.kind) {
            Target::None => {}
            Target::Root => merge(whole, parts, &REQUEST_PARTS)?,
            Target::Child => {
                merge(
                    whole.get_mut("child")?.as_object_mut()?,
                    parts,
                    &CHILD_PARTS,
                )?;
            }
            Target::Text(field) => {
                whole.insert(field.to_owned(), parts.get("text")?.clone());
            }
            Target::Object(field) => {
                whole.insert(field.to_owned(), Value::Object(parts));
            }
            Target::List(field) => {
                let list = lists.entry(field).or_insert_with(|| json!([]));
                list.as_array_mut()?.push(Value::Object(parts));
            }
        }
    }
    whole.extend(lists);
    Some(())
}

fn merge(into: &mut Map<String, Value>, parts: Map<String, Value>, allowed: &[&str]) -> Option<()> {
    for (name, value) in parts {
        if !allowed.contains(&name.as_str()) {
            return None;
        }
        into.insert(name, value);
    }
    Some(())
}

/// Where in a referral a note belongs.
enum Target {
    Root,
    Child,
    Text(&'static str),
    Object(&'static str),
    List(&'static str),
    None,
}

fn target(kind: NoteKind) -> Target {
    match kind {
        NoteKind::Safeguarding => Target::List("safeguarding"),
        NoteKind::Contact => Target::List("contacts"),
        NoteKind::Allergies => Target::Text("allergies"),
        NoteKind::Adjustment => Target::List("reasonable_adjustments"),
        NoteKind::Consent => Target::Object("consent"),
        NoteKind::Request => Target::Root,
        NoteKind::Referrer => Target::Object("referrer"),
        NoteKind::Child => Target::Child,
        NoteKind::Setting => Target::Object("setting"),
        NoteKind::Need => Target::List("needs"),
        NoteKind::Concern => Target::List("concerns"),
        NoteKind::Cycle => Target::List("graduated_response"),
        NoteKind::External => Target::List("external_ids"),
        NoteKind::Narrative => Target::Text("narrative"),
        // Documents are announced alone: their content is at the gateway that sent them.
        NoteKind::Document | NoteKind::Ending | NoteKind::State => Target::None,
    }
}

/// Reads the segments, without notes of ours.
fn native(
    message: &RefMessage,
    assumptions: &Assumptions,
    codes: &CodeMap,
) -> Result<Referral, FieldFault> {
    let reason = message.rf1.reasons.first();
    let coded = reason.filter(|it| !it.code.is_empty());
    let mapped = coded.and_then(|it| codes.reason_of(&it.system, &it.code));
    let code = mapped.or(coded.map(|it| it.code.as_str()));
    let text = reason
        .map(|it| it.text.clone())
        .filter(|text| !text.is_empty());
    // The agreement may name the area's own code or the sender's.
    let pathway = code
        .into_iter()
        .chain(coded.map(|it| it.code.as_str()))
        .find_map(|code| assumptions.pathways.get(code));
    Ok(Referral {
        child: child(&message.patient)?,
        contacts: message
            .next_of_kin
            .iter()
            .filter(|kin| kin.is_somebody())
            .map(contact)
            .collect(),
        referrer: referrer(message)?,
        setting: None,
        needs: needs(message, codes),
        pathway: pathway.unwrap_or(&assumptions.pathway).clone(),
        requested_service: requested_service(message),
        priority: priority(message, codes)?,
        priority_reason: None,
        reason: Reason {
            code: code.unwrap_or(REASON_UNSTATED).to_owned(),
            text: text.map(Personal::new),
        },
        concerns: Vec::new(),
        graduated_response: Vec::new(),
        hearing_checked: Tested::Unknown,
        vision_checked: Tested::Unknown,
        attendance_percent: None,
        safeguarding: Vec::new(),
        reasonable_adjustments: Vec::new(),
        allergies: allergies(message),
        consent: Consent {
            status: ConsentStatus::Given,
            given_by: None,
            role: ConsentGiver::Other,
            scope: assumptions.consent_scope.clone(),
            date: None,
            evidence: Some("held by the sending agency under its agreement".into()),
        },
        lawful_basis: assumptions.lawful_basis,
        documents: Vec::new(),
        external_ids: message.rf1.external.iter().map(external_id).collect(),
        sender_reference: Some(sender_reference(message)),
        narrative: None,
    })
}

fn priority(message: &RefMessage, codes: &CodeMap) -> Result<Priority, FieldFault> {
    let coded = message.rf1.priority.as_ref();
    let Some(coded) = coded.filter(|it| !it.code.is_empty()) else {
        return Ok(Priority::Routine);
    };
    let rule = "is none of R, A and S, and of no list agreed with the sender";
    code::priority_in(codes, &coded.system, &coded.code)
        .ok_or_else(|| FieldFault::field("RF1", 2, rule, ErrorCode::TableValueNotFound))
}

/// The needs among the diagnoses that the sender's code map knows, ranked as they stand. Other diagnoses go into the
/// narrative.
fn needs(message: &RefMessage, codes: &CodeMap) -> Vec<Need> {
    let known = message.diagnoses.iter();
    let known = known.filter_map(|it| codes.need_of(&it.code.system, &it.code.code));
    let mut needs: Vec<Need> = Vec::new();
    for kind in known.take(NEEDS_MAX) {
        if needs.iter().all(|need| need.kind != kind) {
            let rank = u8::try_from(needs.len() + 1).unwrap_or(u8::MAX);
            needs.push(Need { kind, rank });
        }
    }
    needs
}

fn requested_service(message: &RefMessage) -> Option<waymark_core::id::ServiceId> {
    let ids = &message.provider("RT")?.ids;
    ids.iter()
        .find(|id| id.kind == SERVICE_ID_KIND)?
        .value
        .parse()
        .ok()
}

fn external_id(id: &content::EntityId) -> ExternalId {
    ExternalId {
        system: or_unstated(&id.namespace),
        value: id.id.clone(),
    }
}

fn or_unstated(system: &str) -> String {
    if system.is_empty() {
        SYSTEM_UNSTATED.to_owned()
    } else {
        system.to_owned()
    }
}

fn allergies(message: &RefMessage) -> Option<Personal<String>> {
    let lines: Vec<String> = message.allergies.iter().map(leftover::allergy).collect();
    if lines.is_empty() {
        None
    } else {
        Some(Personal::new(lines.join("\n")))
    }
}

fn referrer(message: &RefMessage) -> Result<Referrer, FieldFault> {
    let by = referring(message).ok_or_else(|| FieldFault::missing_segment("PRD"))?;
    let name = by
        .name
        .as_ref()
        .map(spoken_name)
        .or_else(|| by.organisation.clone());
    let role = by.roles.first().map(|it| {
        if it.text.is_empty() {
            &it.code
        } else {
            &it.text
        }
    });
    Ok(Referrer {
        name: Personal::new(name.ok_or_else(|| FieldFault::missing_field("PRD", 2))?),
        role: role.cloned().unwrap_or_default(),
        phone: leftover::phone(&by.contacts).map(Personal::from),
        email: leftover::email(&by.contacts).map(Personal::from),
    })
}

/// The provider who refers.
pub(super) fn referring(message: &RefMessage) -> Option<&content::Provider> {
    message.provider("RP").or_else(|| message.providers.first())
}

pub(super) fn spoken_name(name: &content::Name) -> String {
    let parts = [&name.given, &name.family];
    parts
        .into_iter()
        .filter(|it| !it.is_empty())
        .cloned()
        .collect::<Vec<_>>()
        .join(" ")
}

fn person_name(name: Option<&content::Name>) -> Name {
    let name = name.cloned().unwrap_or_default();
    Name {
        family: Personal::new(name.family),
        given: Personal::new(name.given),
        middle: Some(name.further)
            .filter(|it| !it.is_empty())
            .map(Personal::new),
    }
}

fn contact(kin: &Kin) -> Contact {
    let relationship = kin.relationship.as_ref().map_or("", |it| it.code.as_str());
    Contact {
        name: person_name(kin.name.as_ref()),
        role: code::relationship(relationship),
        parental_responsibility: false,
        phone: leftover::phone(&kin.contacts).map(Personal::from),
        email: leftover::email(&kin.contacts).map(Personal::from),
        safe_to_contact: SafeToContact::Unknown,
        safe_contact_note: None,
        format: Format::Standard,
        channel: Channel::Unspecified,
    }
}

fn child(patient: &Patient) -> Result<Child, FieldFault> {
    let name = patient
        .name
        .as_ref()
        .ok_or_else(|| FieldFault::missing_field("PID", 5))?;
    let born = patient
        .born
        .as_ref()
        .ok_or_else(|| FieldFault::missing_field("PID", 7))?;
    let bad = |field, rule| FieldFault::field("PID", field, rule, ErrorCode::DataType);
    let born = timestamp::date(born).ok_or_else(|| bad(7, "is not a day of the calendar"))?;
    let sex = patient.sex.as_deref().unwrap_or_default();
    let mut child = Child {
        name: person_name(Some(name)),
        date_of_birth: Personal::new(born),
        sex: code::sex(sex).ok_or_else(|| {
            FieldFault::field(
                "PID",
                8,
                "is not of table 0001",
                ErrorCode::TableValueNotFound,
            )
        })?,
        nhs_number: None,
        nhs_verification: NhsVerification::Unverified,
        upn: None,
        uln: None,
        local_ids: Vec::new(),
        address: patient.address.as_ref().map(address),
        language: patient
            .language
            .as_ref()
            .map(|it| it.code.to_ascii_lowercase()),
        interpreter_required: false,
    };
    for id in &patient.ids {
        let value = id.value.as_str();
        // One identifier of a kind: a second one would make it a guess which is meant.
        if id.kind == "NH" || id.authority == "NHS" {
            let number = NhsNumber::parse(value);
            let number = number.map_err(|_| bad(3, "holds an NHS number that fails its check"))?;
            once(&mut child.nhs_number, number)?;
        } else if id.kind == "UPN" {
            let number = Upn::parse(value);
            let number = number.map_err(|_| bad(3, "holds a UPN that fails its check"))?;
            once(&mut child.upn, number)?;
        } else if id.kind == "ULN" {
            let number = Uln::parse(value);
            let number = number.map_err(|_| bad(3, "holds a ULN that fails its check"))?;
            once(&mut child.uln, number)?;
        } else {
            let system = or_unstated(&id.authority);
            child.local_ids.push(LocalId {
                system,
                value: Personal::from(value),
            });
        }
    }
    Ok(child)
}

fn once<T: PartialEq>(slot: &mut Option<T>, value: T) -> Result<(), FieldFault> {
    if slot.as_ref().is_some_and(|before| *before != value) {
        let rule = "holds two different identifiers of one kind";
        return Err(FieldFault::field("PID", 3, rule, ErrorCode::DataType));
    }
    *slot = Some(value);
    Ok(())
}

fn address(address: &super::super::referral::Address) -> Address {
    let lines = [
        &address.street,
        &address.second_line,
        &address.town,
        &address.county,
    ];
    let lines = lines.into_iter().filter(|line| !line.is_empty());
    Address {
        lines: lines.cloned().map(Personal::new).collect(),
        postcode: Some(&address.postcode)
            .filter(|it| !it.is_empty())
            .cloned()
            .map(Personal::new),
    }
}
