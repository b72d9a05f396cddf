//! Appointments: reading SIU into a status, and telling a sender by SIU what became of its child's appointment.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use waymark_core::delivery::Evidence;
use waymark_core::id::Reference;
use waymark_core::leg::LegState;
use waymark_core::port::{InboundStatus, Source, StatusNotice};
use waymark_core::time::Timestamp;

use super::super::appointment::{AppointmentEvent, SiuMessage};
use super::super::build::{Header, SegmentWriter, Version, write};
use super::super::config::Settings;
use super::super::fault::FieldFault;
use super::super::timestamp;
use super::outward::{SERVICE_ID_KIND, cut};
use super::status::{own_words, patient, state_note, told_due, told_state, words};

/// Reads the status that an appointment message tells of.
///
/// # Errors
/// A note of ours that does not hold what it must; a document.
pub fn read(message: &SiuMessage) -> Result<InboundStatus, FieldFault> {
    message.brought.holds_no_document()?;
    let zone = TimeZone::get("Europe/London").unwrap_or(TimeZone::UTC);
    let told = told_state(&message.notes)?;
    let state = match message.event {
        AppointmentEvent::Booked | AppointmentEvent::Changed => LegState::Booked,
        AppointmentEvent::Cancelled => LegState::AppointmentCancelled,
        AppointmentEvent::NotBrought => LegState::WasNotBrought,
    };
    let ours = message
        .placer
        .iter()
        .find(|id| id.id.parse::<Reference>().is_ok());
    let theirs = message.filler.first().map(|id| id.id.clone());
    let (day, day_words) = when(message, &zone);
    let own = match told {
        Some(_) => own_words(&message.notes),
        None => Some(sentence(message, &day_words)),
    };
    // The day of one that is cancelled or missed is no day on which anything happens next.
    let due = day.filter(|_| state == LegState::Booked);
    let code = told.as_ref().and_then(|(_, code)| code.clone());
    let reason = message.reason.as_ref().map(|it| it.code.clone());
    Ok(InboundStatus {
        referral: ours.map(|id| id.id.clone()).unwrap_or_default(),
        answers: None,
        receiver_reference: theirs.filter(|_| ours.is_none()),
        state,
        source_version: None,
        reason_code: code.or(reason.filter(|code| !code.is_empty())),
        text: words(own, &message.notes, &message.brought),
        due: told_due(&message.notes).or(due),
        at: timestamp::instant(&message.envelope.timestamp, &zone)
            .map(|at| Timestamp::from_ms(at.as_millisecond())),
        grade: Evidence::None,
    })
}

/// The day of the appointment as people here live it, and its words.
fn when(message: &SiuMessage, zone: &TimeZone) -> (Option<Date>, String) {
    let Some(start) = &message.start else {
        return (None, String::new());
    };
    let is_day_alone = start.len() == 8;
    let local = timestamp::instant(start, zone).map(|at| zone.to_datetime(at));
    match local {
        Some(local) if !is_day_alone => (
            Some(local.date()),
            local.strftime(" on %-d %B %Y at %H:%M").to_string(),
        ),
        _ => match timestamp::date(start) {
            Some(day) => (Some(day), day.strftime(" on %-d %B %Y").to_string()),
            None => (None, String::new()),
        },
    }
}

/// What happened in words.
fn sentence(message: &SiuMessage, when: &str) -> String {
    let mut text = match message.event {
        AppointmentEvent::Booked => format!("Appointment{when}"),
        AppointmentEvent::Changed => format!("Appointment changed: now{when}"),
        AppointmentEvent::Cancelled => format!("Appointment{when} cancelled"),
        AppointmentEvent::NotBrought => format!("Was not brought to the appointment{when}"),
    };
    if let Some(service) = message.service.as_ref().filter(|it| !it.text.is_empty()) {
        text.push_str(": ");
        text.push_str(&service.text);
    }
    text
}

/// What goes on the wire of one kind of news: event, SCH-6 (table 0276) and SCH-25 (table 0278).
struct News {
    event: &'static str,
    reason: [&'static str; 3],
    status: [&'static str; 3],
}

fn news(notice: &StatusNotice) -> Option<News> {
    Some(match notice.state {
        // A booking without its day would book nothing.
        LegState::Booked if notice.due.is_some() => News {
            event: "S12",
            reason: ["NORMAL", "Normal appointment", "HL70276"],
            status: ["Booked", "Booked", "HL70278"],
        },
        LegState::AppointmentCancelled => News {
            event: "S15",
            reason: ["CANCELLED", "Appointment cancelled", "WMREASON"],
            status: ["Cancelled", "Cancelled", "HL70278"],
        },
        LegState::WasNotBrought => News {
            event: "S26",
            reason: ["NOT_BROUGHT", "The child was not brought", "WMREASON"],
            status: ["Noshow", "Was not brought", "HL70278"],
        },
        _ => return None,
    })
}

/// Renders a status as SIU, where it is one of an appointment: none for every other.
///
/// SCH-1 and 26 echo the sender's own reference; ours stands in SCH-2 and 27. The child is not named again.
pub(super) fn render(
    source: &Source,
    notice: &StatusNotice,
    header: &Header,
    settings: &Settings,
) -> Option<String> {
    let news = news(notice)?;
    let own = [
        source.reference.as_str(),
        settings.reference_namespace.as_str(),
    ];
    let placed = match &source.sender_reference {
        Some(reference) => [reference.value.as_str(), reference.namespace.as_str()],
        None => own,
    };
    let version = settings.dialect.version;
    let day = notice.due.map(timestamp::write_date).unwrap_or_default();
    let from = notice.from.as_str();
    let mut sch = SegmentWriter::new("SCH")
        .set(1, &placed)
        .set(2, &own)
        .set(6, &news.reason)
        // Up to 2.4 SCH-11 is required: once, on a day where there is one.
        .set(11, &["1", "", "", &day])
        .text(16, from)
        .text(20, from)
        .set(25, &news.status);
    // Order numbers came with 2.4, TQ1 with 2.5.
    if version >= Version::V24 {
        sch = sch.set(26, &placed).set(27, &own);
    }
    let mut segments = vec![header.segment(&["SIU", news.event, "SIU_S12"]), sch];
    if version >= Version::V25 && !day.is_empty() {
        segments.push(SegmentWriter::new("TQ1").text(1, "1").text(7, &day));
    }
    let service = notice
        .service
        .as_ref()
        .map_or(from, |service| service.as_str());
    segments.extend([
        state_note(notice, version),
        patient(own),
        SegmentWriter::new("RGS").text(1, "1"),
        SegmentWriter::new("AIS")
            .text(1, "1")
            .set(3, &[cut(service), "", SERVICE_ID_KIND])
            .text(4, &day),
    ]);
    Some(write(&segments))
}
