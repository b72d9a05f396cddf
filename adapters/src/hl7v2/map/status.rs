//! Answers to referrals: reading RRI into a status, and telling a sender by RRI what became of its
//! referral.
//!
//! RF1-1 has four values for seventeen states. What comes from a system of ours carries the exact state
//! in a note; from others the nearest state is taken, and never a later one.

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use waymark_core::delivery::Evidence;
use waymark_core::error::Violation;
use waymark_core::leg::LegState;
use waymark_core::personal::Personal;
use waymark_core::port::{InboundStatus, RenderError, Source, StatusNotice};
use waymark_core::time::Timestamp;

use super::super::ack::AckCode;
use super::super::build::{AckMode, Header, SegmentWriter, write};
use super::super::config::Settings;
use super::super::fault::{ErrorCode, FieldFault};
use super::super::status::{ReferralStatus, RriMessage};
use super::super::timestamp;
use super::note::{self, NoteKind};
use super::outward;

/// The reason code of a status that follows a cancel which the service did not accept.
pub const CANCEL_REFUSED: &str = "cancel_refused";
/// The reason code of a status of a referral whose authority has run out.
pub const EXPIRED: &str = "expired";

/// The kind of identifier of a referral of ours in PID-3, where a status must not repeat who the child is.
const REFERRAL_ID_KIND: &str = "VN";

/// Reads the status that an answer tells of.
///
/// # Errors
/// A note of ours that does not hold what it must.
pub fn read(message: &RriMessage) -> Result<InboundStatus, FieldFault> {
    let told = told_state(message)?;
    let (state, code) = told.unwrap_or_else(|| nearest_state(message));
    let lines = message
        .notes
        .iter()
        .filter(|each| note::read(each).is_none());
    let lines: Vec<&str> = lines
        .flat_map(|each| &each.lines)
        .map(|line| line.trim())
        .collect();
    let words = if lines.is_empty() {
        own_words(message)
    } else {
        Some(lines.join("\n"))
    };
    let reason = message
        .rf1
        .reasons
        .first()
        .map(|reason| reason.code.clone());
    let zone = TimeZone::get("Europe/London").unwrap_or(TimeZone::UTC);
    Ok(InboundStatus {
        referral: message.rf1.originating.id.clone(),
        answers: message.answers.as_ref().map(|(_, id)| id.clone()),
        receiver_reference: message.rf1.external.first().map(|id| id.id.clone()),
        state,
        source_version: None,
        reason_code: code.or(reason.filter(|code| !code.is_empty())),
        text: words.map(Personal::new),
        due: None,
        at: timestamp::instant(&message.envelope.timestamp, &zone)
            .map(|at| Timestamp::from_ms(at.as_millisecond())),
        grade: match message.answers {
            Some((AckCode::ApplicationAccept, _)) => Evidence::ApplicationAck,
            Some((AckCode::CommitAccept, _)) => Evidence::TransportAck,
            _ => Evidence::None,
        },
    })
}

/// Says whether an answer to a cancel is that the service will not cancel.
pub fn refuses_cancel(message: &RriMessage) -> bool {
    message.envelope.event == "I14" && message.status == ReferralStatus::Rejected
}

/// The state in a note of ours, where there is one.
fn told_state(message: &RriMessage) -> Result<Option<(LegState, Option<String>)>, FieldFault> {
    let bad = || {
        let rule = "does not hold the state that its kind of note has";
        FieldFault::field("NTE", 3, rule, ErrorCode::DataType)
    };
    for read in message.notes.iter().filter_map(note::read) {
        let read = read.map_err(|_| bad())?;
        if read.kind == NoteKind::State {
            let text = |part: &str| read.parts.get(part).and_then(Value::as_str);
            let state = text("state").and_then(LegState::parse).ok_or_else(bad)?;
            return Ok(Some((state, text("code").map(str::to_owned))));
        }
    }
    Ok(None)
}

fn own_words(message: &RriMessage) -> Option<String> {
    let own = message
        .notes
        .iter()
        .filter_map(note::read)
        .filter_map(Result::ok);
    let mut own = own.filter(|read| read.kind == NoteKind::State);
    own.find_map(|read| {
        read.parts
            .get("text")
            .and_then(Value::as_str)
            .map(str::to_owned)
    })
}

/// The state that RF1-1 alone says (DOMAIN 2.1), with a reason code where the state says too little.
fn nearest_state(message: &RriMessage) -> (LegState, Option<String>) {
    let because = |code: &str| Some(code.to_owned());
    let is_cancel = message.envelope.event == "I14";
    match message.status {
        ReferralStatus::Accepted if is_cancel => (LegState::Cancelled, None),
        // The service keeps the referral: the earliest state a service can report moves nothing back.
        ReferralStatus::Rejected if is_cancel => (LegState::InTriage, because(CANCEL_REFUSED)),
        ReferralStatus::Pending if is_cancel => (LegState::InTriage, None),
        ReferralStatus::Accepted => (LegState::Accepted, None),
        ReferralStatus::Rejected => (LegState::Declined, None),
        ReferralStatus::Expired => (LegState::OnHold, because(EXPIRED)),
        ReferralStatus::Pending if message.notes.is_empty() => (LegState::InTriage, None),
        ReferralStatus::Pending => (LegState::InfoNeeded, None),
    }
}

/// The value of table 0283 that is nearest to a state.
fn status_code(state: LegState) -> (&'static str, &'static str) {
    match state {
        LegState::Submitted | LegState::InTriage | LegState::InfoNeeded | LegState::OnHold => {
            ("P", "Pending")
        }
        LegState::Accepted
        | LegState::Waiting
        | LegState::Booked
        | LegState::WasNotBrought
        | LegState::AppointmentCancelled
        | LegState::InAssessment
        | LegState::Assessed
        | LegState::Guided
        | LegState::Closed => ("A", "Accepted"),
        LegState::Declined | LegState::Redirected => ("R", "Rejected"),
        LegState::Cancelled | LegState::EnteredInError => ("E", "Expired"),
    }
}

/// Renders a status for the agency that sent the referral, as an unsolicited RRI^I12.
///
/// RF1-6 echoes the sender's own reference; ours stands in RF1-11. The child is not named again.
///
/// # Errors
/// The source has no status, or the message would be too large.
pub fn render(source: &Source, settings: &Settings) -> Result<String, RenderError> {
    let missing = || RenderError::CannotCarry(Violation::new("status", "is required"));
    let notice = source.status.as_ref().ok_or_else(missing)?;
    // An answer is never answered in turn with an answer of its own.
    let header = Header {
        ack_mode: AckMode::Original,
        ..outward::header(source, settings)
    };
    let segments = [
        header.segment(&["RRI", "I12", "RRI_I12"]),
        rf1(source, notice, settings),
        by(notice),
        patient(source, settings),
        state_note(notice),
    ];
    outward::within_bounds(write(&segments))
}

fn rf1(source: &Source, notice: &StatusNotice, settings: &Settings) -> SegmentWriter {
    let (code, words) = status_code(notice.state);
    let own = [
        source.reference.as_str(),
        settings.reference_namespace.as_str(),
    ];
    let echoed = match &source.sender_reference {
        Some(reference) => [reference.value.as_str(), reference.namespace.as_str()],
        None => own,
    };
    SegmentWriter::new("RF1")
        .set(1, &[code, words, "HL70283"])
        .set(6, &echoed)
        .text(9, &timestamp::write_date(notice.at.london_date()))
        .set(11, &own)
}

fn by(notice: &StatusNotice) -> SegmentWriter {
    let id = notice.from.as_str();
    let provider = SegmentWriter::new("PRD")
        .set(1, &["RT", "Referred to Provider", "HL70286"])
        .repeat(7, &[id, outward::organisation_kind(id)]);
    match &notice.service {
        Some(service) => provider.repeat(7, &[service.as_str(), outward::SERVICE_ID_KIND]),
        None => provider,
    }
}

fn patient(source: &Source, settings: &Settings) -> SegmentWriter {
    let namespace = settings.reference_namespace.as_str();
    SegmentWriter::new("PID")
        .text(1, "1")
        .set(
            3,
            &[
                source.reference.as_str(),
                "",
                "",
                namespace,
                REFERRAL_ID_KIND,
            ],
        )
        // Table 0200, U: a name that is not given.
        .set(5, &["", "", "", "", "", "", "U"])
}

fn state_note(notice: &StatusNotice) -> SegmentWriter {
    let words = notice.text.as_ref().map_or("", |text| text.expose());
    let banner = format!("Referral is {}. {words}", notice.state);
    let parts = json!({"state": notice.state, "code": notice.code, "text": notice.text});
    note::write(NoteKind::State, banner.trim_end(), &parts).text(1, "1")
}
