//! What an answer brings besides what it is read for: clinical words, and segments that nobody here reads.

use super::content::{Allergy, Coded, KeptSegment, Repeated, opaque_debug};
use super::document::Document;
use super::fault::{ErrorCode, FieldFault};
use super::message::Message;
use super::observation::Observation;
use super::referral::Diagnosis;

/// Segments that are read here, or are of the envelope alone.
const KNOWN: [&str; 7] = ["MSH", "SFT", "OBR", "OBX", "DG1", "AL1", "NTE"];
/// Segments that say who the child is, with whom it lives, who pays, and where it was seen: nobody is told that with a
/// status.
const PEOPLE: [&str; 9] = [
    "PID", "PD1", "NK1", "PV1", "PV2", "GT1", "IN1", "IN2", "IN3",
];

/// What an answer brings, as it was sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Brought {
    /// Every diagnosis.
    pub diagnoses: Vec<Diagnosis>,
    /// Every allergy.
    pub allergies: Vec<Allergy>,
    /// The observations that are no documents.
    pub observations: Vec<Observation>,
    /// Documents that it points to.
    pub documents: Vec<Document>,
    /// Documents that it holds, of which a status can carry none.
    pub enclosed: Vec<Enclosed>,
    /// Every other segment, but for those that the answer itself is read from.
    pub kept: Vec<KeptSegment>,
}

/// A document that an answer holds: it is told of, and not taken.
#[derive(Clone, PartialEq, Eq)]
pub struct Enclosed {
    /// OBX-3: kind and title.
    pub name: Option<Coded>,
    /// Which OBX it is, from 1.
    pub nth: usize,
}

opaque_debug!(Brought, Enclosed);

impl Brought {
    /// Reads what stands beside the segments that are read already.
    pub(super) fn read(message: &Message, read: &[&str]) -> Self {
        let enclosed = message.segments_named("OBX").zip(1..);
        let enclosed = enclosed.filter(|(obx, _)| &*obx.text(2, 1) == "ED");
        let known: Vec<&str> = KNOWN.iter().chain(&PEOPLE).chain(read).copied().collect();
        let diagnoses = message.segments_named("DG1");
        Self {
            diagnoses: diagnoses.filter_map(Diagnosis::read).collect(),
            allergies: Allergy::read_stated(message),
            observations: Observation::read_all(message),
            documents: Document::read_pointers(message),
            enclosed: enclosed
                .map(|(obx, nth)| Enclosed {
                    name: Coded::first(obx, 3),
                    nth,
                })
                .collect(),
            kept: KeptSegment::all_but(message, &known),
        }
    }

    /// Refuses a document, where whoever sends it hears that and can send the rest again.
    ///
    /// # Errors
    /// The first document.
    pub(super) fn holds_no_document(&self) -> Result<(), FieldFault> {
        self.enclosed.first().map_or(Ok(()), |first| {
            let rule = "holds a document, and a status carries none: leave it out and pass it on by another way";
            Err(FieldFault::field("OBX", 5, rule, ErrorCode::DataType).at(first.nth))
        })
    }
}
