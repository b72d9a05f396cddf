//! Acknowledgements: writing ours, reading everyone else's.
//!
//! Version 2.4 says what went wrong in ERR-1 and MSA-6, version 2.5 in ERR-2, 3 and 4; readers look at
//! all of them, since receivers mix the two.

use jiff::Timestamp;
use waymark_core::delivery::{Evidence, Why};

use super::build::{AckMode, Header, Party, Processing, SegmentWriter, Version, write};
use super::charset::Charset;
use super::content::{Designator, Envelope, filled_text};
use super::fault::{ErrorCode, FieldFault};
use super::message::{Message, Segment};

/// The error of table 0357 by which a receiver says that it has a message of this id already.
pub const DUPLICATE: u16 = 205;

/// An acknowledgement code of HL7 table 0008.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckCode {
    /// `AA`: the application accepts.
    ApplicationAccept,
    /// `AE`: the application found an error.
    ApplicationError,
    /// `AR`: the application rejects.
    ApplicationReject,
    /// `CA`: committed to safe storage.
    CommitAccept,
    /// `CE`: could not be committed.
    CommitError,
    /// `CR`: will not be committed.
    CommitReject,
}

impl AckCode {
    const ALL: [(Self, &'static str); 6] = [
        (Self::ApplicationAccept, "AA"),
        (Self::ApplicationError, "AE"),
        (Self::ApplicationReject, "AR"),
        (Self::CommitAccept, "CA"),
        (Self::CommitError, "CE"),
        (Self::CommitReject, "CR"),
    ];

    /// Returns the two letters on the wire.
    pub fn code(self) -> &'static str {
        match self {
            Self::ApplicationAccept => "AA",
            Self::ApplicationError => "AE",
            Self::ApplicationReject => "AR",
            Self::CommitAccept => "CA",
            Self::CommitError => "CE",
            Self::CommitReject => "CR",
        }
    }

    /// What it proves of the message that it answers; none where it refuses it.
    pub const fn evidence(self) -> Option<Evidence> {
        match self {
            Self::ApplicationAccept => Some(Evidence::ApplicationAck),
            Self::CommitAccept => Some(Evidence::TransportAck),
            Self::ApplicationError
            | Self::ApplicationReject
            | Self::CommitError
            | Self::CommitReject => None,
        }
    }

    /// Finds the code of these two letters.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|(_, letters)| *letters == code)
            .map(|(code, _)| code)
    }
}

/// An acknowledgement to write.
#[derive(Debug)]
pub struct Ack<'m> {
    /// The header of the message that is answered.
    pub answers: &'m Envelope,
    /// MSH-10 of the acknowledgement itself.
    pub control_id: &'m str,
    /// MSH-7.
    pub at: Timestamp,
    /// MSH-11: what this gateway is.
    pub processing: Processing,
    /// MSA-1.
    pub code: AckCode,
    /// What is wrong, if something is.
    pub fault: Option<&'m FieldFault>,
}

impl Ack<'_> {
    /// Writes `ACK^event^ACK` in the shape of the sender's version: 2.4 and older, or 2.5 and newer.
    pub fn write(&self) -> String {
        let version = reply_version(&self.answers.version);
        let header = Header {
            version,
            sending: party(
                &self.answers.receiving_app,
                &self.answers.receiving_facility,
            ),
            receiving: party(&self.answers.sending_app, &self.answers.sending_facility),
            at: self.at,
            control_id: self.control_id.to_owned(),
            processing: self.processing,
            ack_mode: AckMode::Original,
            charset: Charset::Utf8,
        };
        let msh = header.segment(&["ACK", &self.answers.event, "ACK"]);
        let mut msa = SegmentWriter::new("MSA")
            .text(1, self.code.code())
            .text(2, &self.answers.control_id);
        let Some(fault) = self.fault else {
            return write([&msh, &msa]);
        };
        let (number, text) = (fault.hl7_code.number().to_string(), fault.hl7_code.text());
        if version < Version::V25 {
            // MSA-3 is deprecated from 2.4 on, but it is what an operator at the far side sees.
            msa = msa
                .text(3, &clipped(&fault.to_string()))
                .set(6, &[&number, text, "HL70357"]);
        }
        write([&msh, &msa, &error_segment(fault, version, &number)])
    }
}

/// The longest text put into MSA-3 (ST 80) in characters.
const MSA_TEXT_CHARS_MAX: usize = 80;

fn clipped(text: &str) -> String {
    text.chars().take(MSA_TEXT_CHARS_MAX).collect()
}

fn error_segment(fault: &FieldFault, version: Version, number: &str) -> SegmentWriter {
    let field = fault
        .field
        .map(|field| field.to_string())
        .unwrap_or_default();
    let occurrence = fault.occurrence.to_string();
    // A place outside any segment ("message", "#3") has no name that the field may hold.
    let named = fault.segment.len() == 3 && !fault.segment.starts_with('#');
    let (segment, occurrence) = if named {
        (&*fault.segment, &*occurrence)
    } else {
        ("", "")
    };
    let err = SegmentWriter::new("ERR");
    match version {
        Version::V23 | Version::V231 | Version::V24 => {
            err.set_error_location(1, [segment, occurrence, &field], fault.hl7_code)
        }
        Version::V25 | Version::V251 => err
            .set(2, &[segment, occurrence, &field])
            .set(3, &[number, fault.hl7_code.text(), "HL70357"])
            .text(4, "E")
            .text(7, &fault.to_string()),
    }
}

pub(super) fn party(app: &Designator, facility: &Designator) -> Party {
    Party {
        app: app.name.clone(),
        facility: facility.name.clone(),
    }
}

/// Chooses the version of an answer: the sender's own where it is one that we write; else 2.4 for older ones, which
/// read ERR-1, and 2.5 for later ones, which read ERR-3.
pub(super) fn reply_version(sender: &str) -> Version {
    let old = ["2.1", "2.2", "2.3", "2.4"]
        .iter()
        .any(|old| sender.starts_with(old));
    let nearest = if old { Version::V24 } else { Version::V25 };
    Version::from_code(sender).unwrap_or(nearest)
}

/// What an acknowledgement, or an application answer with an MSA, says.
#[derive(Clone, PartialEq, Eq)]
pub struct AckReading {
    /// MSA-1.
    pub code: AckCode,
    /// MSA-2: the message it speaks of.
    pub control_id: String,
    /// MSA-3 as sent; it may quote content, so it is never logged.
    pub text: Option<String>,
    /// The code of table 0357: ERR-3, else ERR-1, else MSA-6.
    pub error_code: Option<u16>,
    /// MSH-3 of the acknowledgement: who says so.
    pub sending_app: String,
    /// MSH-4 of the acknowledgement.
    pub sending_facility: String,
}

impl std::fmt::Debug for AckReading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AckReading")
            .field("code", &self.code)
            .field("control_id", &self.control_id)
            .field("error_code", &self.error_code)
            .finish_non_exhaustive()
    }
}

impl AckReading {
    /// What an operator may see of it: never its own words. `way` begins the code.
    pub fn why(&self, way: &str) -> Why {
        let code = self.code.code();
        let low = code.to_lowercase();
        match self.error_code {
            Some(number) => Why::new(
                format!("{way}.{low}.{number}"),
                format!("the receiver answered {code} with error {number}"),
            ),
            None => Why::new(
                format!("{way}.{low}"),
                format!("the receiver answered {code} without an error code"),
            ),
        }
    }

    /// Reads the acknowledgement in a message of any type.
    ///
    /// # Errors
    /// MSA, MSA-1 or MSA-2 missing, or MSA-1 not of table 0008.
    pub fn read(message: &Message) -> Result<Self, FieldFault> {
        let msa = message
            .segment("MSA", 1)
            .ok_or_else(|| FieldFault::missing_segment("MSA"))?;
        let letters = filled_text(msa, 1, 1).ok_or_else(|| FieldFault::missing_field("MSA", 1))?;
        let code = AckCode::from_code(&letters).ok_or_else(|| {
            let rule = "is no acknowledgement code of table 0008";
            FieldFault::field("MSA", 1, rule, ErrorCode::TableValueNotFound)
        })?;
        let control_id =
            filled_text(msa, 2, 1).ok_or_else(|| FieldFault::missing_field("MSA", 2))?;
        let sender = |field| {
            message
                .segment("MSH", 1)
                .and_then(|msh| filled_text(msh, field, 1))
                .unwrap_or_default()
        };
        Ok(Self {
            code,
            control_id,
            text: filled_text(msa, 3, 1),
            error_code: error_code(message, msa),
            sending_app: sender(3),
            sending_facility: sender(4),
        })
    }
}

/// Finds the worst-placed of the three: later versions first.
fn error_code(message: &Message, msa: Segment<'_>) -> Option<u16> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let errors = || message.segments_named("ERR");
    let modern = errors().find_map(|err| number(&err.text(3, 1)));
    let old = || {
        errors().find_map(|err| {
            // ERR-1 (ELD): segment, sequence, field, code; the code is a CE of subcomponents.
            err.field(1)
                .repetitions()
                .find_map(|it| number(&it.text(4)))
        })
    };
    modern.or_else(old).or_else(|| number(&msa.text(6, 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hl7v2::message::LineEndings;

    fn message(text: &str) -> Message {
        Message::parse(text.as_bytes(), LineEndings::Cr).unwrap()
    }

    fn envelope(version: &str) -> Envelope {
        let text =
            format!("MSH|^~\\&|PAEDPAS|R1L|WAYMARK|WM01|2026||REF^I12^REF_I12|X1|P|{version}\r");
        Envelope::read(&message(&text)).unwrap()
    }

    fn written(version: &str, code: AckCode, fault: Option<&FieldFault>) -> String {
        let at = "2026-03-02T10:30:01Z".parse().unwrap();
        let answers = envelope(version);
        let processing = Processing::Production;
        Ack {
            answers: &answers,
            control_id: "A1",
            at,
            processing,
            code,
            fault,
        }
        .write()
    }

    #[test]
    fn accept_answers_with_sides_swapped_and_the_id_in_msa_2() {
        assert_eq!(
            written("2.5", AckCode::CommitAccept, None),
            "MSH|^~\\&|WAYMARK|WM01|PAEDPAS|R1L|20260302103001+0000||ACK^I12^ACK|A1|P|2.5\
             |||||GBR|UNICODE UTF-8\rMSA|CA|X1\r"
        );
    }

    #[test]
    fn error_is_written_in_the_shape_of_the_senders_version() {
        let fault = FieldFault::missing_field("RF1", 6);
        let new = written("2.5", AckCode::ApplicationError, Some(&fault));
        assert!(new.contains("\rMSA|AE|X1\r"), "{new}");
        assert!(
            new.ends_with(
                "\rERR||RF1^1^6|101^Required field missing^HL70357|E|||\
                 RF1-6 is required and missing (HL7 error 101)\r"
            ),
            "{new}"
        );
        let old = written("2.4", AckCode::ApplicationReject, Some(&fault));
        assert!(
            old.contains(
                "\rMSA|AR|X1|RF1-6 is required and missing (HL7 error 101)|||\
                 101^Required field missing^HL70357\r"
            ),
            "{old}"
        );
        assert!(
            old.ends_with("\rERR|RF1^1^6^101&Required field missing&HL70357\r"),
            "{old}"
        );
    }

    #[test]
    fn fault_outside_any_segment_names_none_on_the_wire() {
        let fault = FieldFault::segment("#3", "is bad", ErrorCode::SegmentSequence);
        let text = written("2.5", AckCode::ApplicationReject, Some(&fault));
        assert!(text.contains("\rERR|||100^"), "{text}");
    }

    #[test]
    fn what_is_written_is_read_back_for_every_code_and_version() {
        for version in ["2.3", "2.4", "2.5", "2.5.1", "2.8", ""] {
            for (code, _) in AckCode::ALL {
                for error in ErrorCode::ALL {
                    let fault = FieldFault::field("PID", 3, "is bad", error);
                    let reading = AckReading::read(&message(&written(version, code, Some(&fault))));
                    let reading = reading.unwrap();
                    assert_eq!(reading.code, code);
                    assert_eq!(reading.control_id, "X1");
                    assert_eq!(reading.error_code, Some(error.number()), "{version}");
                    assert_eq!(reading.sending_app, "WAYMARK");
                    assert_eq!(reading.sending_facility, "WM01");
                }
                let reading = AckReading::read(&message(&written(version, code, None))).unwrap();
                assert_eq!(reading.error_code, None);
            }
        }
    }

    #[test]
    fn error_code_is_found_wherever_a_receiver_puts_it() {
        for (segments, expected) in [
            ("MSA|AE|X1|Duplicate key|||205^Duplicate\r", Some(205)),
            ("MSA|AE|X1\rERR|PID^1^3^205&Dup&HL70357\r", Some(205)),
            ("MSA|AE|X1\rERR|PID^1^3^205\r", Some(205)),
            ("MSA|AE|X1\rERR||PID^1|207^Internal|E\r", Some(207)),
            ("MSA|AE|X1|||| \rERR|||206|E\r", Some(206)),
            ("MSA|AE|X1|205 duplicate\r", None),
            ("MSA|AE|X1\rERR|||E_LOCAL|E\r", None),
        ] {
            let text = format!("MSH|^~\\&|A|B|C|D|2026||ACK|9|P|2.5\r{segments}");
            assert_eq!(
                AckReading::read(&message(&text)).unwrap().error_code,
                expected,
                "{segments}"
            );
        }
    }

    #[test]
    fn answers_that_acknowledge_nothing_name_the_field() {
        for (segments, place) in [
            ("", "MSA"),
            ("MSA||X1\r", "MSA-1"),
            ("MSA|OK|X1\r", "MSA-1"),
            ("MSA|AA\r", "MSA-2"),
        ] {
            let text = format!("MSH|^~\\&|A|B|C|D|2026||ACK|9|P|2.5\r{segments}");
            assert_eq!(
                AckReading::read(&message(&text)).unwrap_err().place(),
                place
            );
        }
    }

    #[test]
    fn debug_of_a_reading_leaves_out_the_senders_words() {
        let text = "MSH|^~\\&|A|B|C|D|2026||ACK|9|P|2.5\rMSA|AE|X1|no bed for Ada\r";
        let reading = AckReading::read(&message(text)).unwrap();
        assert_eq!(reading.text.as_deref(), Some("no bed for Ada"));
        assert!(!format!("{reading:?}").contains("Ada"));
    }
}
