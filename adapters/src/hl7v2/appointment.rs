//! Reading an appointment message: SIU^S12 (booked), S13 and S14 (moved or changed), S15 (cancelled), S26 (the child was
//! not brought).

use super::brought::Brought;
use super::content::{Coded, EntityId, Envelope, Note, Repeated, filled_text, opaque_debug};
use super::fault::{ErrorCode, FieldFault};
use super::message::{Message, Segment};

/// Segments whose content is read into fields of [`SiuMessage`], besides those of [`Brought`], or says where and with
/// whom.
const READ_SEGMENTS: [&str; 7] = ["SCH", "TQ1", "RGS", "AIS", "AIG", "AIL", "AIP"];

/// What has become of an appointment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppointmentEvent {
    /// S12: booked.
    Booked,
    /// S13 and S14: moved or changed; it stands.
    Changed,
    /// S15: cancelled.
    Cancelled,
    /// S26: the child was not brought.
    NotBrought,
}

impl AppointmentEvent {
    /// The event of this code.
    pub fn from_code(code: &str) -> Option<Self> {
        match code {
            "S12" => Some(Self::Booked),
            "S13" | "S14" => Some(Self::Changed),
            "S15" => Some(Self::Cancelled),
            "S26" => Some(Self::NotBrought),
            _ => None,
        }
    }
}

/// An appointment message as it was sent, before it means anything here.
#[derive(Clone, PartialEq, Eq)]
pub struct SiuMessage {
    /// The header.
    pub envelope: Envelope,
    /// What has happened.
    pub event: AppointmentEvent,
    /// References that the placer gave, in the order in which ours is looked for: SCH-26, 1, 4 and 23.
    pub placer: Vec<EntityId>,
    /// References that the filler gave, in the order in which one is taken: SCH-27, 24 and 2.
    pub filler: Vec<EntityId>,
    /// SCH-6: why.
    pub reason: Option<Coded>,
    /// When it begins, as it stands: SCH-11.4, TQ1-7, AIS-4, AIL-6, AIP-6, the first that is filled.
    pub start: Option<String>,
    /// AIS-3: for what.
    pub service: Option<Coded>,
    /// Notes, wherever they stand.
    pub notes: Vec<Note>,
    /// What else it brings.
    pub brought: Brought,
}

opaque_debug!(SiuMessage);

impl SiuMessage {
    /// Reads an appointment out of a parsed message.
    ///
    /// # Errors
    /// The first rule broken, naming segment and field.
    pub fn read(message: &Message) -> Result<Self, FieldFault> {
        let envelope = Envelope::read(message)?;
        let rule = "is none of the events S12, S13, S14, S15 and S26";
        let unknown = || FieldFault::field("MSH", 9, rule, ErrorCode::UnsupportedEventCode);
        let event = AppointmentEvent::from_code(&envelope.event).ok_or_else(unknown)?;
        let sch = message
            .segment("SCH", 1)
            .ok_or_else(|| FieldFault::missing_segment("SCH"))?;
        if message.segment("SCH", 2).is_some() {
            let rule = "stands more than once";
            return Err(FieldFault::segment("SCH", rule, ErrorCode::SegmentSequence).at(2));
        }
        let ids = |fields: &[usize]| -> Vec<EntityId> {
            let all = fields.iter().map(|field| EntityId::all(sch, *field));
            all.flatten().collect()
        };
        let (placer, filler) = (ids(&[26, 1, 4, 23]), ids(&[27, 24, 2]));
        if placer.is_empty() && filler.is_empty() {
            return Err(FieldFault::missing_field("SCH", 26));
        }
        let service = message.segment("AIS", 1);
        Ok(Self {
            envelope,
            event,
            placer,
            filler,
            reason: Coded::first(sch, 6),
            start: start(message, sch),
            service: service.and_then(|ais| Coded::first(ais, 3)),
            notes: Note::read_all(message),
            brought: Brought::read(message, &READ_SEGMENTS),
        })
    }
}

fn start(message: &Message, sch: Segment<'_>) -> Option<String> {
    let part = |segment: &str, field| {
        let found = message.segment(segment, 1)?;
        filled_text(found, field, 1)
    };
    filled_text(sch, 11, 4)
        .or_else(|| part("TQ1", 7))
        .or_else(|| part("AIS", 4))
        .or_else(|| part("AIL", 6))
        .or_else(|| part("AIP", 6))
}
