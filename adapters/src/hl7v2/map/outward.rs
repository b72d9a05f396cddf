//! From the canonical referral to the messages we send: REF^I12, I13 and I14, in the receiver's dialect.

use serde_json::{Value, json};
use waymark_core::delivery::Kind;
use waymark_core::directory::WireCode;
use waymark_core::error::Violation;
use waymark_core::identifier::{NhsNumber, Uln, Upn};
use waymark_core::personal::Personal;
use waymark_core::port::{RenderError, Source, StopNotice, Withdrawal};
use waymark_core::referral::{
    Address, Child, Contact, Format, Referral, SafeToContact, SenderReference,
};

use super::super::build::{Header, ReferralSegments, SegmentWriter};
use super::super::config::Settings;
use super::super::escape;
use super::super::message::MESSAGE_BYTES_MAX;
use super::super::referral::ReferralEvent;
use super::super::separators::Separators;
use super::super::timestamp;
use super::code;
use super::documents;
use super::note::{self, NoteKind};

/// The kind of identifier of a service of ours in PRD-7.
pub const SERVICE_ID_KIND: &str = "WMSVC";
/// The longest text (ST) that receivers must take, in characters as encoded.
pub const TEXT_CHARS_MAX: usize = 199;
/// The longest namespace (IS), in characters.
pub const NAMESPACE_CHARS_MAX: usize = 20;
/// Address lines that PID-11 has a component for.
const ADDRESS_LINES: usize = 4;

/// Renders a referral message. The same source gives the same bytes.
///
/// # Errors
/// The message would be larger than a receiver takes, or the source has no content.
pub fn render(source: &Source, settings: &Settings) -> Result<String, RenderError> {
    let missing = || RenderError::CannotCarry(Violation::new("content", "is required"));
    let event = match source.kind {
        Kind::New => ReferralEvent::New,
        Kind::Amend => ReferralEvent::Modify,
        Kind::Cancel | Kind::Withdraw => ReferralEvent::Cancel,
        Kind::Status => return super::status::render(source, settings).and_then(within_bounds),
        Kind::Guidance => return Err(RenderError::not_to_agencies()),
    };
    let content = source.content.as_ref().ok_or_else(missing)?;
    let message = write(source, content, event, settings)?;
    if message.len() > MESSAGE_BYTES_MAX && !source.attachments.is_empty() {
        // What does not fit inline goes by reference; what is said of the child goes whole or not at all.
        let without = Source {
            attachments: Vec::new(),
            ..source.clone()
        };
        return within_bounds(write(&without, content, event, settings)?);
    }
    within_bounds(message)
}

fn write(
    source: &Source,
    content: &Referral,
    event: ReferralEvent,
    settings: &Settings,
) -> Result<String, RenderError> {
    let is_end = event == ReferralEvent::Cancel;
    let whole = |segments: Vec<SegmentWriter>| if is_end { Vec::new() } else { segments };
    let notes = if is_end {
        ending_notes(source, content)
    } else {
        referral_notes(source, content)
    };
    let documents = if is_end {
        &[]
    } else {
        content.documents.as_slice()
    };
    let segments = ReferralSegments {
        referral: rf1(source, content, settings),
        providers: providers(source, content),
        patient: pid(&content.child, settings.send_address && !is_end),
        next_of_kin: whole(next_of_kin(&content.contacts)),
        diagnoses: whole(diagnoses(content, settings)),
        allergies: whole(allergies(content)),
        documents: documents::segments(source, documents, settings)?,
        notes: note::numbered(notes, settings.dialect.version),
    };
    let mut message = segments.write(event, &header(source, settings));
    for extra in &settings.dialect.extra_segments {
        message.push_str(extra);
        message.push('\r');
    }
    Ok(message)
}

/// Cuts words to what a text field holds; the whole stands in a note.
pub(super) fn cut(words: &str) -> &str {
    escape::cut(words, Separators::STANDARD, TEXT_CHARS_MAX)
}

/// Leaves out an identifier that a field does not hold whole: half of one is another one.
pub(super) fn whole(identifier: &str) -> &str {
    if cut(identifier) == identifier {
        identifier
    } else {
        ""
    }
}

/// Leaves out a namespace that a field does not hold whole.
fn namespace(name: &str) -> &str {
    let fits = escape::cut(name, Separators::STANDARD, NAMESPACE_CHARS_MAX) == name;
    if fits { name } else { "" }
}

/// Refuses a message that is larger than receivers of ours take.
pub(super) fn within_bounds(message: String) -> Result<String, RenderError> {
    if message.len() > MESSAGE_BYTES_MAX {
        let why = "the message would be larger than 1 MiB: shorten texts or attach documents";
        return Err(RenderError::CannotCarry(Violation::new("referral", why)));
    }
    Ok(message)
}

pub(super) fn header(source: &Source, settings: &Settings) -> Header {
    Header {
        version: settings.dialect.version,
        sending: settings.sending.clone(),
        receiving: settings.receiving.clone(),
        at: jiff::Timestamp::from_millisecond(source.at.as_ms()).unwrap_or_default(),
        control_id: source.wire_id.as_str().to_owned(),
        processing: code::processing(source.environment),
        ack_mode: settings.dialect.ack_mode,
        charset: settings.dialect.charset,
    }
}

fn rf1(source: &Source, content: &Referral, settings: &Settings) -> SegmentWriter {
    let priority = code::priority_out(&settings.codes, content.priority);
    let day = timestamp::write_date(source.at.london_date());
    let reason = content
        .reason
        .text
        .as_ref()
        .map_or("", |text| text.expose());
    let segment = SegmentWriter::new("RF1")
        .set(1, &["P", "Pending", "HL70283"])
        .set(2, &[&priority.code, &priority.display, &priority.system])
        .set(
            6,
            &[source.reference.as_str(), &settings.reference_namespace],
        )
        .text(7, &day)
        .text(9, &day)
        .set(
            10,
            &match settings.codes.reason.get(&content.reason.code) {
                Some(wire) => [wire.code.as_str(), &wire.display, &wire.system],
                None => [cut(&content.reason.code), cut(reason), "WMREASON"],
            },
        );
    let sender = source
        .sender_reference
        .as_ref()
        .or(content.sender_reference.as_ref());
    let others = content
        .external_ids
        .iter()
        .map(|id| (id.value.as_str(), id.system.as_str()));
    sender
        .map(|SenderReference { value, namespace }| (value.as_str(), namespace.as_str()))
        .into_iter()
        .chain(others)
        .filter(|(value, _)| !whole(value).is_empty())
        .fold(segment, |segment, (value, system)| {
            match namespace(system) {
                // A system that is an address is a universal id.
                "" => segment.repeat(11, &[value, "", whole(system)]),
                name => segment.repeat(11, &[value, name]),
            }
        })
}

fn providers(source: &Source, content: &Referral) -> Vec<SegmentWriter> {
    let referrer = &content.referrer;
    let name = referrer.name.expose();
    let (given, family) = name.rsplit_once(' ').unwrap_or(("", name));
    let mut by = SegmentWriter::new("PRD")
        .set(1, &["RP", "Referring Provider", "HL70286"])
        .set(2, &[cut(family), cut(given)])
        .set(
            7,
            &[
                source.sender.as_str(),
                organisation_kind(source.sender.as_str()),
            ],
        );
    if let Some(phone) = &referrer.phone {
        by = by.set(5, &[whole(phone.expose()), "WPN", "PH"]);
    }
    vec![by, recipient(source)]
}

pub(super) fn recipient(source: &Source) -> SegmentWriter {
    let id = source.recipient.as_str();
    let to = SegmentWriter::new("PRD")
        .set(1, &["RT", "Referred to Provider", "HL70286"])
        .repeat(7, &[id, organisation_kind(id)]);
    match &source.service {
        Some(service) => to.repeat(7, &[service.as_str(), SERVICE_ID_KIND]),
        None => to,
    }
}

/// Tells a school's code (`EE` and its URN) from every other ODS code.
pub(super) fn organisation_kind(code: &str) -> &'static str {
    let urn = code.strip_prefix("EE").unwrap_or_default();
    let school = urn.len() == 6 && urn.bytes().all(|byte| byte.is_ascii_digit());
    if school { "EE" } else { "ODS" }
}

pub(super) fn pid(child: &Child, with_address: bool) -> SegmentWriter {
    let mut pid = SegmentWriter::new("PID").text(1, "1");
    let known = [
        (
            child.nhs_number.as_ref().map(NhsNumber::expose),
            "NHS",
            "NH",
        ),
        (child.upn.as_ref().map(Upn::expose), "DFE", "UPN"),
        (child.uln.as_ref().map(Uln::expose), "LRS", "ULN"),
    ];
    for (id, authority, kind) in known {
        if let Some(id) = id {
            pid = pid.repeat(3, &[id, "", "", authority, kind]);
        }
    }
    for local in &child.local_ids {
        // What does not fit travels in the child's note alone.
        let value = whole(local.value.expose());
        if !value.is_empty() {
            pid = pid.repeat(3, &[value, "", "", namespace(&local.system), "PI"]);
        }
    }
    let middle = child.name.middle.as_ref().map_or("", |name| name.expose());
    pid = pid
        .set(
            5,
            &[
                cut(child.name.family.expose()),
                cut(child.name.given.expose()),
                cut(middle),
            ],
        )
        .text(7, &timestamp::write_date(*child.date_of_birth.expose()))
        .text(8, code::sex_code(child.sex));
    if let Some(address) = child.address.as_ref().filter(|_| with_address) {
        pid = with_pid_11(pid, address);
    }
    match &child.language {
        Some(language) => pid.text(15, cut(language)),
        None => pid,
    }
}

fn with_pid_11(pid: SegmentWriter, address: &Address) -> SegmentWriter {
    let lines: Vec<&str> = address
        .lines
        .iter()
        .map(|line| line.expose().as_str())
        .collect();
    let (own, further) = lines.split_at(lines.len().min(ADDRESS_LINES - 1));
    let line = |nth: usize| own.get(nth).copied().unwrap_or("");
    let postcode = address
        .postcode
        .as_ref()
        .map_or("", |postcode| postcode.expose());
    pid.set(
        11,
        &[
            cut(line(0)),
            cut(line(1)),
            cut(line(2)),
            cut(&further.join(", ")),
            cut(postcode),
        ],
    )
}

fn next_of_kin(contacts: &[Contact]) -> Vec<SegmentWriter> {
    let segment = |(contact, nth): (&Contact, usize)| {
        let (relationship, words) = code::relationship_code(contact.role);
        let kin = SegmentWriter::new("NK1")
            .text(1, &nth.to_string())
            .set(
                2,
                &[
                    cut(contact.name.family.expose()),
                    cut(contact.name.given.expose()),
                ],
            )
            .set(3, &[relationship, words, "HL70063"]);
        // A number that must not be called is in no field that a system may call from.
        if contact.safe_to_contact == SafeToContact::No {
            return kin;
        }
        let phone = contact.phone.as_ref().map(|phone| whole(phone.expose()));
        let email = contact.email.as_ref().map(|email| whole(email.expose()));
        let kin = phone
            .into_iter()
            .fold(kin, |kin, it| kin.repeat(5, &[it, "PRN", "PH"]));
        email
            .into_iter()
            .fold(kin, |kin, it| kin.repeat(5, &["", "NET", "Internet", it]))
    };
    contacts.iter().zip(1..).map(segment).collect()
}

/// Needs that the receiver has a code for, in their rank; every need stands in a note besides.
fn diagnoses(content: &Referral, settings: &Settings) -> Vec<SegmentWriter> {
    let mapped = content
        .needs
        .iter()
        .filter_map(|need| settings.codes.need.get(&need.kind));
    let segment = |(wire, nth): (&WireCode, u32)| {
        SegmentWriter::new("DG1")
            .text(1, &nth.to_string())
            .set(3, &[&wire.code, &wire.display, &wire.system])
            // Table 0052: a working diagnosis, not a final one.
            .text(6, "W")
    };
    mapped.zip(1..).map(segment).collect()
}

fn allergies(content: &Referral) -> Vec<SegmentWriter> {
    let segment = |text: &str| {
        SegmentWriter::new("AL1")
            .text(1, "1")
            .set(3, &["", cut(text)])
    };
    let said = content
        .allergies
        .iter()
        .map(Personal::expose)
        .filter(|text| !text.trim().is_empty());
    said.map(|text| segment(text)).collect()
}

fn safeguarding_notes(content: &Referral) -> Vec<SegmentWriter> {
    let banner = |flag: &waymark_core::referral::Flag| {
        let words = flag
            .text
            .as_ref()
            .map_or(flag.code.as_str(), |text| text.expose());
        format!("SAFEGUARDING FLAG: {words}")
    };
    let write = |flag| note::write(NoteKind::Safeguarding, &banner(flag), flag);
    content.safeguarding.iter().map(write).collect()
}

fn ending_notes(source: &Source, content: &Referral) -> Vec<SegmentWriter> {
    let mut notes = safeguarding_notes(content);
    let reason = source
        .reason
        .as_ref()
        .map(|reason| reason.expose().as_str());
    let said = reason.unwrap_or("no reason given");
    let (word, banner) = match source.kind {
        Kind::Withdraw => (
            "withdrawn",
            format!("CONSENT WITHDRAWN, STOP AND DO NOT SHARE FURTHER: {said}"),
        ),
        Kind::New | Kind::Amend | Kind::Cancel | Kind::Status | Kind::Guidance => {
            ("cancelled", format!("REFERRAL CANCELLED: {said}"))
        }
    };
    // What is withdrawn, by whom and when, as its receiver's own gateway must know it; nothing named is everything.
    let withdrawal = match &source.stop {
        Some(StopNotice::Withdrawn(said)) => Some(Withdrawal {
            scopes: said.withdrawn(),
            ..said.clone()
        }),
        Some(StopNotice::Cancelled { .. }) | None => None,
    };
    notes.push(note::write(
        NoteKind::Ending,
        &banner,
        &json!({"kind": word, "reason": reason, "withdrawal": withdrawal}),
    ));
    notes
}

/// Every note of a referral, what is safety-critical first.
fn referral_notes(source: &Source, content: &Referral) -> Vec<SegmentWriter> {
    let mut notes = safeguarding_notes(content);
    for contact in &content.contacts {
        notes.push(note::write(
            NoteKind::Contact,
            &contact_banner(contact),
            contact,
        ));
    }
    if let Some(text) = &content.allergies {
        let banner = format!("ALLERGIES: {}", text.expose());
        notes.push(note::write(
            NoteKind::Allergies,
            &banner,
            &json!({"text": text}),
        ));
    }
    for flag in &content.reasonable_adjustments {
        let words = flag
            .text
            .as_ref()
            .map_or(flag.code.as_str(), |text| text.expose());
        let banner = format!("REASONABLE ADJUSTMENT: {words}");
        notes.push(note::write(NoteKind::Adjustment, &banner, flag));
    }
    notes.push(note::write(
        NoteKind::Consent,
        &consent_banner(content),
        &content.consent,
    ));
    notes.push(request_note(content));
    let referrer = format!("Referred by {}", content.referrer.role);
    notes.push(note::write(
        NoteKind::Referrer,
        &referrer,
        &content.referrer,
    ));
    notes.push(child_note(&content.child));
    if let Some(setting) = &content.setting {
        let name = setting.name.as_deref().unwrap_or(setting.kind.as_str());
        notes.push(note::write(
            NoteKind::Setting,
            &format!("Learns at {name}"),
            setting,
        ));
    }
    for need in &content.needs {
        let banner = format!("Need {}: {}", need.rank, need.kind);
        notes.push(note::write(NoteKind::Need, &banner, need));
    }
    for concern in &content.concerns {
        let banner = format!("Concern at {}: {}", concern.setting, concern.text.expose());
        notes.push(note::write(NoteKind::Concern, &banner, concern));
    }
    for cycle in &content.graduated_response {
        let banner = format!("Tried: {}", cycle.what.expose());
        notes.push(note::write(NoteKind::Cycle, &banner, cycle));
    }
    for document in &content.documents {
        let title = document
            .title
            .as_ref()
            .map_or("untitled", |title| title.expose());
        let enclosed = source
            .attachments
            .iter()
            .any(|it| it.document.id == document.id);
        let banner = if enclosed {
            format!("Document enclosed: {title}")
        } else {
            format!("Document held by the gateway, not enclosed: {title}")
        };
        notes.push(note::write(NoteKind::Document, &banner, document));
    }
    for id in &content.external_ids {
        notes.push(note::write(
            NoteKind::External,
            &format!("Also known as {}", id.value),
            id,
        ));
    }
    if let Some(text) = &content.narrative {
        notes.push(note::write(
            NoteKind::Narrative,
            text.expose(),
            &json!({"text": text}),
        ));
    }
    notes
}

fn contact_banner(contact: &Contact) -> String {
    let who = format!("{} ({})", contact.name.given.expose(), contact.role);
    let note = contact
        .safe_contact_note
        .as_ref()
        .map_or("", |note| note.expose());
    let safety = match contact.safe_to_contact {
        SafeToContact::No => format!("UNSAFE: DO NOT CONTACT {who}. {note}"),
        SafeToContact::WithCare => format!("CONTACT ONLY WITH CARE: {who}. {note}"),
        SafeToContact::Yes | SafeToContact::Unknown => format!("Contact: {who}. {note}"),
    };
    let format = match contact.format {
        Format::Standard => "",
        Format::EasyRead => " NEEDS EASY READ.",
        Format::LargePrint => " NEEDS LARGE PRINT.",
        Format::Braille => " NEEDS BRAILLE.",
        Format::Audio => " NEEDS AUDIO.",
    };
    format!("{}{format}", safety.trim_end())
}

fn consent_banner(content: &Referral) -> String {
    let scope: Vec<&str> = content
        .consent
        .scope
        .iter()
        .map(|scope| scope.as_str())
        .collect();
    let covers = if scope.is_empty() {
        "nothing stated".to_owned()
    } else {
        scope.join(", ")
    };
    format!("CONSENT {} covers: {covers}", content.consent.status)
}

fn request_note(content: &Referral) -> SegmentWriter {
    let banner = format!("Request: {}, {}", content.pathway, content.priority);
    let parts = json!({
        "pathway": content.pathway,
        "requested_service": content.requested_service,
        "priority": content.priority,
        "reason": content.reason,
        "priority_reason": content.priority_reason,
        "hearing_checked": content.hearing_checked,
        "vision_checked": content.vision_checked,
        "attendance_percent": content.attendance_percent,
        "lawful_basis": content.lawful_basis,
    });
    note::write(NoteKind::Request, &banner, &parts)
}

fn child_note(child: &Child) -> SegmentWriter {
    let interpreter = if child.interpreter_required {
        "INTERPRETER NEEDED"
    } else {
        "Child: further details"
    };
    let parts = json!({
        "nhs_verification": child.nhs_verification,
        "interpreter_required": child.interpreter_required,
        "local_ids": Value::from(
            child
                .local_ids
                .iter()
                .map(|id| json!({"system": id.system, "value": id.value}))
                .collect::<Vec<_>>(),
        ),
    });
    note::write(NoteKind::Child, interpreter, &parts)
}
