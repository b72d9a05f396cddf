//! Answers to referrals: reading RRI into a status, and telling a sender by RRI what became of its
//! referral.
//!
//! RF1-1 is read by the receiver's own codes where its map has them. Table 0283 has four values for seventeen
//! states: what comes from a system of ours carries the exact state in a note; from others the nearest state is
//! taken, and never a later one.

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use waymark_core::delivery::{Evidence, ParkReason, Why};
use waymark_core::directory::{CodeMap, WireCode};
use waymark_core::error::Violation;
use waymark_core::leg::LegState;
use waymark_core::personal::Personal;
use waymark_core::port::{
    InboundBody, InboundStatus, IntakeAnswer, RenderError, Source, StatusNotice, Undelivered,
};
use waymark_core::referral::SenderReference;
use waymark_core::time::Timestamp;

use super::super::ack::{self, AckCode, AckReading, DUPLICATE};
use super::super::brought::Brought;
use super::super::build::{AckMode, Header, Processing, SegmentWriter, Version, write};
use super::super::charset::Charset;
use super::super::config::{REFERENCE_NAMESPACE, Settings};
use super::super::content::{Envelope, Note};
use super::super::dialect::StatusAs;
use super::super::fault::{ErrorCode, FieldFault};
use super::super::message::Message;
use super::super::status::{ReferralStatus, RriMessage, Told};
use super::super::timestamp;
use super::note::{self, NoteKind};
use super::{leftover, outward};
use crate::limits::REFERENCE_CHARS_MAX;
use crate::receipt;

/// The reason code of a status that follows a cancel which the service did not accept.
pub const CANCEL_REFUSED: &str = "cancel_refused";
/// The reason code of a status of a referral whose authority has run out.
pub const EXPIRED: &str = "expired";

/// The kind of identifier of a referral of ours in PID-3, where a status must not repeat who the child is.
const REFERRAL_ID_KIND: &str = "VN";

/// Reads an answer that comes by itself: the refusal of the message that it answers, else the status.
///
/// # Errors
/// Of a refusal MSA alone, else as [`RriMessage::read`] and [`read`].
pub fn later(message: &Message, codes: &CodeMap) -> Result<InboundBody, FieldFault> {
    if message.segment("MSA", 1).is_some() {
        let reading = AckReading::read(message)?;
        if reading.code.evidence().is_none() {
            // What else a refusal holds is what we sent, or nothing.
            return Ok(acknowledged(&reading));
        }
    }
    read(&RriMessage::read(message)?, codes).map(InboundBody::Status)
}

/// What an acknowledgement that comes by itself says of the delivery that it answers.
pub fn acknowledged(reading: &AckReading) -> InboundBody {
    let answers = reading.control_id.clone();
    let grade = match (reading.code.evidence(), reading.error_code) {
        (Some(grade), _) => grade,
        // It had the message before: what became of that one is said by its own answer.
        (None, Some(DUPLICATE)) => Evidence::None,
        (None, _) => {
            let Why { code, text } = reading.why("hl7");
            return InboundBody::Undelivered(Undelivered {
                answers,
                reason: ParkReason::Refused,
                why: Why::new(code, format!("{text}: ask it why")),
            });
        }
    };
    InboundBody::Status(receipt::evidence(answers, grade))
}

/// Reads the status that an answer tells of which comes by itself: whoever sends it hears what is wrong with it.
///
/// # Errors
/// As [`read_answer`], and a document.
pub fn read(message: &RriMessage, codes: &CodeMap) -> Result<InboundStatus, FieldFault> {
    message.brought.holds_no_document()?;
    read_answer(message, codes)
}

/// Reads the status that came with the answer to a message of ours, and may never come again: that documents came with
/// it, which no status can carry, stands in its words.
///
/// # Errors
/// A note of ours that does not hold what it must; a code that no list has.
pub fn read_answer(message: &RriMessage, codes: &CodeMap) -> Result<InboundStatus, FieldFault> {
    let told = told_state(&message.notes)?;
    let (state, code) = match told {
        Some(told) => told,
        None => nearest_state(message, codes)?,
    };
    let reason = message
        .rf1
        .reasons
        .first()
        .map(|reason| reason.code.clone());
    let zone = TimeZone::get("Europe/London").unwrap_or(TimeZone::UTC);
    Ok(InboundStatus {
        referral: message.rf1.originating.id.clone(),
        answers: message.answers.as_ref().map(|it| it.control_id.clone()),
        receiver_reference: receiver_reference(message),
        state,
        source_version: None,
        reason_code: code.or(reason.filter(|code| !code.is_empty())),
        text: words(own_words(&message.notes), &message.notes, &message.brought),
        due: told_due(&message.notes),
        at: timestamp::instant(&message.envelope.timestamp, &zone)
            .map(|at| Timestamp::from_ms(at.as_millisecond())),
        grade: message
            .answers
            .as_ref()
            .and_then(|it| it.code.evidence())
            .unwrap_or(Evidence::None),
    })
}

/// The receiver's own reference of the referral, where it is no longer than one that is kept.
pub fn receiver_reference(message: &RriMessage) -> Option<String> {
    let first = message.rf1.external.first().map(|id| &id.id);
    first
        .filter(|id| id.chars().count() <= REFERENCE_CHARS_MAX)
        .cloned()
}

/// Says whether an answer to a cancel is that the service will not cancel: a note of ours or the receiver's own code
/// says so exactly; of table 0283, R (rejected) does.
///
/// # Errors
/// A note of ours that does not hold what it must; RF1-1 missing, or of no list.
pub fn refuses_cancel(message: &RriMessage, codes: &CodeMap) -> Result<bool, FieldFault> {
    let goes_on = |state| !may_cancel(state) && state != LegState::Declined;
    if let Some((state, _)) = told_state(&message.notes)? {
        return Ok(goes_on(state));
    }
    Ok(match message.status(codes)? {
        Told::Mapped(state) => goes_on(state),
        Told::Table(status) => status == ReferralStatus::Rejected,
    })
}

/// Whether a service that says this of a referral may still be asked to cancel it: it is pending or accepted, and
/// neither booked, begun nor ended. One that is cancelled already may be told again.
const fn may_cancel(state: LegState) -> bool {
    match state {
        LegState::Submitted
        | LegState::InTriage
        | LegState::InfoNeeded
        | LegState::Accepted
        | LegState::Waiting
        | LegState::WasNotBrought
        | LegState::AppointmentCancelled
        | LegState::OnHold
        | LegState::Cancelled
        | LegState::EnteredInError => true,
        LegState::Booked
        | LegState::InAssessment
        | LegState::Assessed
        | LegState::Guided
        | LegState::Declined
        | LegState::Redirected
        | LegState::Closed => false,
    }
}

/// Whether the answer to a status request lets a cancel go: a note of ours or the receiver's own code says so exactly;
/// of table 0283, P (pending) and A (accepted) do, R (rejected) and E (expired) do not.
///
/// # Errors
/// A note of ours that does not hold what it must; RF1-1 missing, or of no list.
pub fn lets_cancel(message: &RriMessage, codes: &CodeMap) -> Result<bool, FieldFault> {
    if let Some((state, _)) = told_state(&message.notes)? {
        return Ok(may_cancel(state));
    }
    Ok(match message.status(codes)? {
        Told::Mapped(state) => may_cancel(state),
        Told::Table(ReferralStatus::Pending | ReferralStatus::Accepted) => true,
        Told::Table(ReferralStatus::Rejected | ReferralStatus::Expired) => false,
    })
}

/// The state in a note of ours, where there is one.
pub(super) fn told_state(notes: &[Note]) -> Result<Option<(LegState, Option<String>)>, FieldFault> {
    let bad = || {
        let rule = "does not hold the state that its kind of note has";
        FieldFault::field("NTE", 3, rule, ErrorCode::DataType)
    };
    for read in notes.iter().filter_map(note::read) {
        let read = read.map_err(|_| bad())?;
        if read.kind == NoteKind::State {
            let text = |part: &str| read.parts.get(part).and_then(Value::as_str);
            let state = text("state").and_then(LegState::parse).ok_or_else(bad)?;
            return Ok(Some((state, text("code").map(str::to_owned))));
        }
    }
    Ok(None)
}

/// The day in a note of ours.
pub(super) fn told_due(notes: &[Note]) -> Option<jiff::civil::Date> {
    let own = notes.iter().filter_map(note::read).filter_map(Result::ok);
    let mut own = own.filter(|read| read.kind == NoteKind::State);
    own.find_map(|read| read.parts.get("due")?.as_str()?.parse().ok())
}

/// What a status says: its own words, the notes that are not ours, and what else came with it.
pub(super) fn words(
    own: Option<String>,
    notes: &[Note],
    brought: &Brought,
) -> Option<Personal<String>> {
    let lines: Vec<String> = own
        .into_iter()
        .chain(note::free_lines(notes))
        .chain(leftover::of_answer(brought))
        .collect();
    (!lines.is_empty()).then(|| Personal::new(lines.join("\n")))
}

pub(super) fn own_words(notes: &[Note]) -> Option<String> {
    let own = notes.iter().filter_map(note::read).filter_map(Result::ok);
    let mut own = own.filter(|read| read.kind == NoteKind::State);
    own.find_map(|read| {
        read.parts
            .get("text")
            .and_then(Value::as_str)
            .map(str::to_owned)
    })
}

/// The state that RF1-1 alone says (DOMAIN 2.1), with a reason code where the state says too little.
fn nearest_state(
    message: &RriMessage,
    codes: &CodeMap,
) -> Result<(LegState, Option<String>), FieldFault> {
    let because = |code: &str| Some(code.to_owned());
    let is_cancel = message.envelope.event == "I14";
    let status = match message.status(codes)? {
        Told::Mapped(state) => return Ok((state, None)),
        Told::Table(status) => status,
    };
    Ok(match status {
        ReferralStatus::Accepted if is_cancel => (LegState::Cancelled, None),
        // The service keeps the referral: the earliest state a service can report moves nothing back.
        ReferralStatus::Rejected if is_cancel => (LegState::InTriage, because(CANCEL_REFUSED)),
        ReferralStatus::Pending if is_cancel => (LegState::InTriage, None),
        ReferralStatus::Accepted => (LegState::Accepted, None),
        ReferralStatus::Rejected => (LegState::Declined, None),
        ReferralStatus::Expired => (LegState::OnHold, because(EXPIRED)),
        ReferralStatus::Pending if message.notes.is_empty() => (LegState::InTriage, None),
        ReferralStatus::Pending => (LegState::InfoNeeded, None),
    })
}

/// RF1-1 of a state: by the far side's own code where its map has one.
fn status_out(codes: &CodeMap, state: LegState) -> WireCode {
    codes.status.get(&state).cloned().unwrap_or_else(|| {
        let (code, display) = status_code(state);
        WireCode {
            code: code.to_owned(),
            system: "HL70283".to_owned(),
            display: display.to_owned(),
        }
    })
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

/// Renders a status for the agency that sent the referral, as an unsolicited RRI^I12, or SIU where its dialect says so.
///
/// RF1-6 echoes the sender's own reference; ours stands in RF1-11. The child is not named again.
///
/// # Errors
/// The source has no status.
pub fn render(source: &Source, settings: &Settings) -> Result<String, RenderError> {
    let missing = || RenderError::CannotCarry(Violation::new("status", "is required"));
    let notice = source.status.as_ref().ok_or_else(missing)?;
    // An answer is never answered in turn with an answer of its own.
    let header = Header {
        ack_mode: AckMode::Original,
        ..outward::header(source, settings)
    };
    if settings.dialect.status_as == StatusAs::Siu
        && let Some(siu) = super::appointment::render(source, notice, &header, settings)
    {
        return Ok(siu);
    }
    let own = [
        source.reference.as_str(),
        settings.reference_namespace.as_str(),
    ];
    let echoed = match &source.sender_reference {
        Some(reference) => [reference.value.as_str(), reference.namespace.as_str()],
        None => own,
    };
    let segments = [
        header.segment(&["RRI", "I12", "RRI_I12"]),
        rf1(&settings.codes, notice.state, echoed, own)
            .text(9, &timestamp::write_date(notice.at.london_date())),
        by(notice),
        patient(own),
        state_note(notice, settings.dialect.version),
    ];
    Ok(write(&segments))
}

/// The answer to a status request: where a referral of the asker's stands.
#[derive(Debug)]
pub struct Answering<'a> {
    /// The header of the question.
    pub asked: &'a Envelope,
    /// RF1-6 of the question: echoed.
    pub reference: &'a SenderReference,
    /// What the gateway found.
    pub found: &'a IntakeAnswer,
    /// MSH-10 of the answer.
    pub control_id: &'a str,
    /// MSH-7.
    pub at: jiff::Timestamp,
    /// MSH-11.
    pub processing: Processing,
    /// The asker's own codes.
    pub codes: &'a CodeMap,
}

impl Answering<'_> {
    /// Writes RRI^I15 with `MSA|AA`. A referral of which no leg has begun is pending.
    pub fn write(&self) -> String {
        let version = ack::reply_version(&self.asked.version);
        let header = Header {
            version,
            sending: ack::party(&self.asked.receiving_app, &self.asked.receiving_facility),
            receiving: ack::party(&self.asked.sending_app, &self.asked.sending_facility),
            at: self.at,
            control_id: self.control_id.to_owned(),
            processing: self.processing,
            ack_mode: AckMode::Original,
            charset: Charset::Utf8,
        };
        let state = self.found.state.unwrap_or(LegState::Submitted);
        let echoed = [
            self.reference.value.as_str(),
            self.reference.namespace.as_str(),
        ];
        let own = [self.found.reference.as_str(), REFERENCE_NAMESPACE];
        let banner = format!("Referral is {state}.");
        let note = note::write(NoteKind::State, &banner, &json!({"state": state}));
        let mut segments = vec![
            header.segment(&["RRI", "I15", "RRI_I12"]),
            SegmentWriter::new("MSA")
                .text(1, AckCode::ApplicationAccept.code())
                .text(2, &self.asked.control_id),
            rf1(self.codes, state, echoed, own),
            SegmentWriter::new("PRD").set(1, &["RT", "Referred to Provider", "HL70286"]),
            patient(own),
        ];
        segments.extend(note::numbered([note], version));
        write(&segments)
    }
}

fn rf1(codes: &CodeMap, state: LegState, echoed: [&str; 2], own: [&str; 2]) -> SegmentWriter {
    let status = status_out(codes, state);
    SegmentWriter::new("RF1")
        .set(1, &[&status.code, &status.display, &status.system])
        .set(6, &echoed)
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

/// A PID that names the referral and not the child.
pub(super) fn patient(reference: [&str; 2]) -> SegmentWriter {
    let [value, namespace] = reference;
    SegmentWriter::new("PID")
        .text(1, "1")
        .set(3, &[value, "", "", namespace, REFERRAL_ID_KIND])
        // Table 0200, U: a name that is not given.
        .set(5, &["", "", "", "", "", "", "U"])
}

pub(super) fn state_note(notice: &StatusNotice, version: Version) -> SegmentWriter {
    let words = notice.text.as_ref().map_or("", |text| text.expose());
    let banner = format!("Referral is {}. {words}", notice.state);
    let parts = json!({
        "state": notice.state,
        "code": notice.code,
        "text": notice.text,
        "due": notice.due,
    });
    let note = note::write(NoteKind::State, banner.trim_end(), &parts);
    note::numbered([note], version)
        .pop()
        .unwrap_or_else(|| SegmentWriter::new("NTE"))
}
