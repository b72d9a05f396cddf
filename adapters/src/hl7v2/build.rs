//! Writing messages: escaped values, the standard's separators, segments in the order of the grammar.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::charset::Charset;
use super::escape;
use super::fault::ErrorCode;
use super::referral::ReferralEvent;
use super::separators::Separators;
use super::timestamp;

/// A version that we write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 2.3.
    V23,
    /// 2.3.1.
    V231,
    /// 2.4.
    V24,
    /// 2.5.
    V25,
    /// 2.5.1.
    V251,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 5] = [Self::V23, Self::V231, Self::V24, Self::V25, Self::V251];

    /// Returns what stands in MSH-12.
    pub fn code(self) -> &'static str {
        match self {
            Self::V23 => "2.3",
            Self::V231 => "2.3.1",
            Self::V24 => "2.4",
            Self::V25 => "2.5",
            Self::V251 => "2.5.1",
        }
    }

    /// Finds the version of this code.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.code() == code)
    }
}

/// Whether a message is of a live area or of a test one: MSH-11, table 0103.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Processing {
    /// `P`.
    Production,
    /// `T`.
    Training,
}

impl Processing {
    /// Returns what stands in MSH-11.
    pub fn code(self) -> &'static str {
        match self {
            Self::Production => "P",
            Self::Training => "T",
        }
    }
}

/// Which acknowledgements the header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckMode {
    /// MSH-15 and MSH-16 blank: one application acknowledgement.
    Original,
    /// Both `AL`: a commit acknowledgement, then an application one.
    Enhanced,
}

/// One side of a conversation: MSH-3 and 4, or MSH-5 and 6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// The application.
    pub app: String,
    /// The facility.
    pub facility: String,
}

/// What a message header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// MSH-12.
    pub version: Version,
    /// MSH-3 and 4.
    pub sending: Party,
    /// MSH-5 and 6.
    pub receiving: Party,
    /// MSH-7.
    pub at: Timestamp,
    /// MSH-10.
    pub control_id: String,
    /// MSH-11.
    pub processing: Processing,
    /// MSH-15 and 16.
    pub ack_mode: AckMode,
    /// MSH-18.
    pub charset: Charset,
}

impl Header {
    /// Writes the header of a message of this type (the components of MSH-9). Version 2.3 has no third one: the
    /// message structure came with 2.3.1.
    pub fn segment(&self, message_type: &[&str]) -> SegmentWriter {
        let parts = match self.version {
            Version::V23 => 2,
            Version::V231 | Version::V24 | Version::V25 | Version::V251 => message_type.len(),
        };
        let message_type = message_type.get(..parts).unwrap_or(message_type);
        let acks = match self.ack_mode {
            AckMode::Original => "",
            AckMode::Enhanced => "AL",
        };
        SegmentWriter::new("MSH")
            .text(3, &self.sending.app)
            .text(4, &self.sending.facility)
            .text(5, &self.receiving.app)
            .text(6, &self.receiving.facility)
            .text(7, &timestamp::write_instant(self.at))
            .set(9, message_type)
            .text(10, &self.control_id)
            .text(11, self.processing.code())
            .text(12, self.version.code())
            .text(15, acks)
            .text(16, acks)
            .text(17, "GBR")
            .text(18, self.charset.name())
    }
}

/// One segment in the making. Values are escaped as they come in.
#[derive(Clone)]
pub struct SegmentWriter {
    name: &'static str,
    fields: BTreeMap<usize, String>,
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentWriter")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl SegmentWriter {
    /// Begins a segment.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            fields: BTreeMap::new(),
        }
    }

    /// Puts components into a field, in place of what was there.
    #[must_use]
    pub fn set(mut self, field: usize, components: &[&str]) -> Self {
        self.fields.insert(field, repetition(components));
        self
    }

    /// Puts one value into a field, in place of what was there.
    #[must_use]
    pub fn text(self, field: usize, value: &str) -> Self {
        self.set(field, &[value])
    }

    /// Adds a repetition to a field.
    #[must_use]
    pub fn repeat(mut self, field: usize, components: &[&str]) -> Self {
        let written = repetition(components);
        self.fields
            .entry(field)
            .and_modify(|value| {
                value.push(Separators::STANDARD.repetition);
                value.push_str(&written);
            })
            .or_insert(written);
        self
    }

    /// Takes a field out, as it is written; empty where it was not set.
    pub(super) fn take(mut self, field: usize) -> (Self, String) {
        let written = self.fields.remove(&field).unwrap_or_default();
        (self, written)
    }

    /// Puts an error's location (ELD) into a field: three components, then number and words of the
    /// code as the subcomponents of the fourth.
    #[must_use]
    pub(super) fn set_error_location(
        mut self,
        field: usize,
        location: [&str; 3],
        code: ErrorCode,
    ) -> Self {
        let separators = Separators::STANDARD;
        let mut written = repetition(&[location.as_slice(), &["."]].concat());
        written.pop();
        written.push_str(&code.number().to_string());
        for part in [code.text(), "HL70357"] {
            written.push(separators.subcomponent);
            escape::encode(part, separators, &mut written);
        }
        self.fields.insert(field, written);
        self
    }

    fn write(&self, wire: &mut String) {
        let separators = Separators::STANDARD;
        wire.push_str(self.name);
        let mut next = 1;
        if self.name == "MSH" {
            wire.push(separators.field);
            wire.extend([
                separators.component,
                separators.repetition,
                separators.escape,
                separators.subcomponent,
            ]);
            next = 3;
        }
        for (number, value) in self.fields.iter().filter(|(_, value)| !value.is_empty()) {
            while next <= *number {
                wire.push(separators.field);
                next += 1;
            }
            wire.push_str(value);
        }
        wire.push('\r');
    }
}

fn repetition(components: &[&str]) -> String {
    let separators = Separators::STANDARD;
    let last = components.iter().rposition(|value| !value.is_empty());
    let mut written = String::new();
    for (nth, value) in components
        .iter()
        .take(last.map_or(0, |last| last + 1))
        .enumerate()
    {
        if nth > 0 {
            written.push(separators.component);
        }
        escape::encode(value, separators, &mut written);
    }
    written
}

/// Writes segments one after the other.
pub fn write<'s>(segments: impl IntoIterator<Item = &'s SegmentWriter>) -> String {
    let mut wire = String::new();
    for segment in segments {
        segment.write(&mut wire);
    }
    wire
}

/// The segments of a referral message, each in its place of the `REF_I12` grammar.
#[derive(Debug, Clone)]
pub struct ReferralSegments {
    /// RF1.
    pub referral: SegmentWriter,
    /// PRD, at least one; the grammar refuses a message without.
    pub providers: Vec<SegmentWriter>,
    /// PID.
    pub patient: SegmentWriter,
    /// NK1.
    pub next_of_kin: Vec<SegmentWriter>,
    /// DG1.
    pub diagnoses: Vec<SegmentWriter>,
    /// AL1.
    pub allergies: Vec<SegmentWriter>,
    /// OBR and its OBX, then PV1, so that what follows belongs to the message and not to the last OBX; or nothing.
    pub documents: Vec<SegmentWriter>,
    /// NTE.
    pub notes: Vec<SegmentWriter>,
}

impl ReferralSegments {
    /// Writes the message: MSH RF1 {PRD} PID {NK1} {DG1} {AL1} [OBR {OBX} PV1] {NTE}, the same in every version.
    pub fn write(&self, event: ReferralEvent, header: &Header) -> String {
        debug_assert!(!self.providers.is_empty(), "REF_I12 needs a provider");
        let msh = header.segment(&["REF", event.code(), "REF_I12"]);
        let segments = [&msh, &self.referral]
            .into_iter()
            .chain(&self.providers)
            .chain([&self.patient])
            .chain(&self.next_of_kin)
            .chain(&self.diagnoses)
            .chain(&self.allergies)
            .chain(&self.documents)
            .chain(&self.notes);
        write(segments)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hl7v2::message::{LineEndings, Message};
    use crate::hl7v2::referral::RefMessage;

    fn header() -> Header {
        Header {
            version: Version::V25,
            sending: Party {
                app: "WAYMARK".into(),
                facility: "WM01".into(),
            },
            receiving: Party {
                app: "PAEDPAS".into(),
                facility: "R1L".into(),
            },
            at: "2026-03-02T10:30:00Z".parse().unwrap(),
            control_id: "WM0000000001".into(),
            processing: Processing::Training,
            ack_mode: AckMode::Enhanced,
            charset: Charset::Utf8,
        }
    }

    #[test]
    fn header_is_written_field_by_field() {
        let msh = header().segment(&["REF", "I12", "REF_I12"]);
        assert_eq!(
            write([&msh]),
            "MSH|^~\\&|WAYMARK|WM01|PAEDPAS|R1L|20260302103000+0000||REF^I12^REF_I12|\
             WM0000000001|T|2.5|||AL|AL|GBR|UNICODE UTF-8\r"
        );
        let original = Header {
            ack_mode: AckMode::Original,
            version: Version::V24,
            ..header()
        };
        assert!(write([&original.segment(&["REF", "I12"])]).contains("|T|2.4|||||GBR|"));
        let oldest = Header {
            version: Version::V23,
            charset: Charset::Latin1,
            ..header()
        };
        let written = write([&oldest.segment(&["REF", "I12", "REF_I12"])]);
        assert!(
            written.contains("|REF^I12|WM0000000001|T|2.3|||AL|AL|GBR|8859/1"),
            "{written}"
        );
    }

    #[test]
    fn segments_stand_in_the_order_of_the_grammar_and_are_read_back() {
        let note = SegmentWriter::new("NTE")
            .text(1, "1")
            .text(3, "two\nlines | PID|1");
        let segments = ReferralSegments {
            referral: SegmentWriter::new("RF1").set(6, &["WM-1", "WAYMARK"]),
            providers: vec![SegmentWriter::new("PRD").set(1, &["RP", "Referring Provider"])],
            patient: SegmentWriter::new("PID")
                .repeat(3, &["1", "", "", "NHS", "NH"])
                .repeat(3, &["2"]),
            next_of_kin: vec![SegmentWriter::new("NK1").set(2, &["Test", "Parent"])],
            diagnoses: Vec::new(),
            documents: Vec::new(),
            allergies: vec![
                SegmentWriter::new("AL1")
                    .text(1, "1")
                    .set(3, &["", "peanut"]),
            ],
            notes: vec![note],
        };
        let wire = segments.write(ReferralEvent::Cancel, &header());
        let message = Message::parse(wire.as_bytes(), LineEndings::Cr).unwrap();
        let names: Vec<_> = message.segments().map(|segment| segment.name()).collect();
        assert_eq!(names, ["MSH", "RF1", "PRD", "PID", "NK1", "AL1", "NTE"]);
        let read = RefMessage::read(&message).unwrap();
        assert_eq!(read.event, ReferralEvent::Cancel);
        assert_eq!(read.patient.ids.len(), 2);
        assert_eq!(read.notes[0].lines, ["two\nlines | PID|1"]);
    }

    proptest! {
        #[test]
        fn any_value_written_is_read_back_in_its_place(
            fields in prop::collection::btree_map(
                1_usize..20,
                prop::collection::vec(
                    prop::collection::vec("([^\\p{Cc}]|\n|\t){1,8}", 1..4),
                    1..4,
                ),
                1..6,
            ),
        ) {
            let mut segment = SegmentWriter::new("ZWM");
            for (number, repetitions) in &fields {
                for components in repetitions {
                    let components: Vec<&str> = components.iter().map(String::as_str).collect();
                    segment = segment.repeat(*number, &components);
                }
            }
            let wire = write([&header().segment(&["REF", "I12"]), &segment]);
            let message = Message::parse(wire.as_bytes(), LineEndings::Cr).unwrap();
            let read = message.segment("ZWM", 1).unwrap();
            for number in 1..20 {
                let found: Vec<_> = read.field(number).repetitions().collect();
                let written = fields.get(&number).cloned().unwrap_or_default();
                prop_assert_eq!(found.len(), written.len());
                for (repetition, components) in found.iter().zip(&written) {
                    for (nth, value) in components.iter().enumerate() {
                        prop_assert_eq!(&*repetition.text(nth + 1), value.as_str());
                    }
                }
            }
        }
    }
}
