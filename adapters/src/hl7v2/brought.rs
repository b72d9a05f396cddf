//! What an answer brings besides what it is read for: clinical words, and segments that nobody here reads.

use super::content::{Allergy, KeptSegment, opaque_debug};
use super::document::Document;
use super::fault::{ErrorCode, FieldFault};
use super::message::Message;
use super::observation::Observation;
use super::referral::Diagnosis;

/// Segments that are read here, say again who the child is, or are of the envelope alone.
const KNOWN: [&str; 9] = [
    "MSH", "SFT", "PID", "PV1", "OBR", "OBX", "DG1", "AL1", "NTE",
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
    /// Every other segment, but for those that the answer itself is read from.
    pub kept: Vec<KeptSegment>,
}

opaque_debug!(Brought);

impl Brought {
    /// Reads what stands beside the segments that are read already.
    ///
    /// # Errors
    /// A document: a status has no place for one, and none is dropped. An allergy that does not say to what.
    pub(super) fn read(message: &Message, read: &[&str]) -> Result<Self, FieldFault> {
        for (obx, nth) in message.segments_named("OBX").zip(1..) {
            if &*obx.text(2, 1) == "ED" {
                let rule = "holds a document, and a status carries none: leave it out and pass it on by another way";
                return Err(FieldFault::field("OBX", 5, rule, ErrorCode::DataType).at(nth));
            }
        }
        let known: Vec<&str> = KNOWN.iter().chain(read).copied().collect();
        let diagnoses = message.segments_named("DG1");
        Ok(Self {
            diagnoses: diagnoses.filter_map(Diagnosis::read).collect(),
            allergies: Allergy::read_all(message)?,
            observations: Observation::read_all(message),
            documents: Document::read_all(message)?,
            kept: KeptSegment::all_but(message, &known),
        })
    }
}
