//! Reading an answer to a referral: RRI^I12 to I15.

use std::fmt;

use waymark_core::directory::CodeMap;
use waymark_core::leg::LegState;

use super::ack::AckReading;
use super::brought::Brought;
use super::content::{Envelope, Note, Provider, Rf1};
use super::fault::{ErrorCode, FieldFault};
use super::message::Message;

/// Segments whose content is read into fields of [`RriMessage`], besides those of [`Brought`].
const READ_SEGMENTS: [&str; 3] = ["MSA", "RF1", "PRD"];

/// What RF1-1 says has become of a referral, table 0283.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReferralStatus {
    /// `A`.
    Accepted,
    /// `E`.
    Expired,
    /// `P`.
    Pending,
    /// `R`.
    Rejected,
}

impl ReferralStatus {
    /// Reads a code of table 0283.
    pub fn from_code(code: &str) -> Option<Self> {
        match code {
            "A" => Some(Self::Accepted),
            "E" => Some(Self::Expired),
            "P" => Some(Self::Pending),
            "R" => Some(Self::Rejected),
            _ => None,
        }
    }
}

/// What RF1-1 tells, by whichever list it is coded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A code of table 0283.
    Table(ReferralStatus),
    /// A code of the receiver's own list, as its code map reads it.
    Mapped(LegState),
}

/// An answer as it was sent, before it means anything here.
#[derive(Clone, PartialEq, Eq)]
pub struct RriMessage {
    /// The header; its event is one of I12 to I15.
    pub envelope: Envelope,
    /// What it acknowledges, where the answer follows a message of ours.
    pub answers: Option<AckReading>,
    /// The referral: RF1-6 echoed, RF1-11 the answering side's own references.
    pub rf1: Rf1,
    /// Who answers.
    pub providers: Vec<Provider>,
    /// Notes, wherever they stand.
    pub notes: Vec<Note>,
    /// What else it brings.
    pub brought: Brought,
}

impl fmt::Debug for RriMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RriMessage")
            .field("event", &self.envelope.event)
            .finish_non_exhaustive()
    }
}

impl RriMessage {
    /// Reads an answer out of a parsed message.
    ///
    /// # Errors
    /// The first rule broken, naming segment and field.
    pub fn read(message: &Message) -> Result<Self, FieldFault> {
        let envelope = Envelope::read(message)?;
        if envelope.message_code != "RRI" {
            let rule = "is not an answer to a referral";
            return Err(FieldFault::field(
                "MSH",
                9,
                rule,
                ErrorCode::UnsupportedMessageType,
            ));
        }
        if !matches!(envelope.event.as_str(), "I12" | "I13" | "I14" | "I15") {
            let rule = "is none of the events I12 to I15";
            return Err(FieldFault::field(
                "MSH",
                9,
                rule,
                ErrorCode::UnsupportedEventCode,
            ));
        }
        let rf1 = Rf1::read(message)?;
        Ok(Self {
            envelope,
            answers: match message.segment("MSA", 1) {
                Some(_) => Some(AckReading::read(message)?),
                None => None,
            },
            rf1,
            providers: Provider::read_all(message)?,
            notes: Note::read_all(message),
            brought: Brought::read(message, &READ_SEGMENTS),
        })
    }

    /// Reads RF1-1: the receiver's own code first, then table 0283.
    ///
    /// # Errors
    /// RF1-1 missing, or of neither list.
    pub fn status(&self, codes: &CodeMap) -> Result<Told, FieldFault> {
        let coded = self.rf1.status.as_ref().filter(|it| !it.code.is_empty());
        let coded = coded.ok_or_else(|| FieldFault::missing_field("RF1", 1))?;
        if let Some(state) = codes.status_of(&coded.system, &coded.code) {
            return Ok(Told::Mapped(state));
        }
        let rule = "is none of A, E, P and R, and of no list agreed with the receiver";
        ReferralStatus::from_code(&coded.code)
            .map(Told::Table)
            .ok_or_else(|| FieldFault::field("RF1", 1, rule, ErrorCode::TableValueNotFound))
    }
}

#[cfg(test)]
mod tests {
    use waymark_core::directory::WireCode;

    use super::*;
    use crate::hl7v2::ack::AckCode;
    use crate::hl7v2::message::LineEndings;

    const ACCEPTED: &str = include_str!("fixtures/rri-i12-v25.hl7");

    fn read(text: &str) -> Result<RriMessage, FieldFault> {
        RriMessage::read(&Message::parse(text.as_bytes(), LineEndings::Any)?)
    }

    fn told(text: &str, codes: &CodeMap) -> Result<Told, FieldFault> {
        read(text)?.status(codes)
    }

    #[test]
    fn answer_is_read_with_both_references_and_its_note() {
        let answer = read(ACCEPTED).unwrap();
        let status = answer.status(&CodeMap::default()).unwrap();
        assert_eq!(status, Told::Table(ReferralStatus::Accepted));
        let acknowledged = answer.answers.as_ref().unwrap();
        assert_eq!(acknowledged.code, AckCode::ApplicationAccept);
        assert_eq!(acknowledged.control_id, "WM0000000001");
        assert_eq!(answer.rf1.originating.id, "WM-7QK2");
        assert_eq!(answer.rf1.external.len(), 2);
        assert_eq!(answer.rf1.external[0].id, "PAS-5521");
        assert_eq!(answer.notes[0].lines, ["Seen in clinic 4"]);
    }

    #[test]
    fn every_status_of_table_0283_is_read_and_no_other() {
        let with = |code: &str| {
            let text = ACCEPTED.replacen("RF1|A^Accepted", &format!("RF1|{code}"), 1);
            told(&text, &CodeMap::default())
        };
        assert_eq!(with("E"), Ok(Told::Table(ReferralStatus::Expired)));
        assert_eq!(with("P"), Ok(Told::Table(ReferralStatus::Pending)));
        assert_eq!(with("R"), Ok(Told::Table(ReferralStatus::Rejected)));
        for (code, fault) in [
            ("X", ErrorCode::TableValueNotFound),
            ("", ErrorCode::RequiredFieldMissing),
        ] {
            assert_eq!(with(code).unwrap_err().hl7_code, fault);
        }
    }

    #[test]
    fn a_receivers_own_code_is_read_before_the_table() {
        let mut codes = CodeMap::default();
        let wire = WireCode {
            code: "A".to_owned(),
            system: "LOCAL".to_owned(),
            display: String::new(),
        };
        codes.status.insert(LegState::Waiting, wire);
        assert_eq!(
            told(ACCEPTED, &codes),
            Ok(Told::Table(ReferralStatus::Accepted)),
            "of another list"
        );
        let local = ACCEPTED.replacen("RF1|A^Accepted^HL70283", "RF1|A^Listed^LOCAL", 1);
        assert_eq!(told(&local, &codes), Ok(Told::Mapped(LegState::Waiting)));
    }

    #[test]
    fn answer_may_come_without_msa_and_refusals_name_their_field() {
        let swap = |from: &str, to: &str| read(&ACCEPTED.replacen(from, to, 1));
        assert_eq!(swap("MSA|AA|WM0000000001\n", "").unwrap().answers, None);
        for (from, to, place) in [
            ("MSA|AA", "MSA|", "MSA-1"),
            ("MSA|AA", "MSA|ZZ", "MSA-1"),
            ("|WM0000000001", "|", "MSA-2"),
            ("WM-7QK2^", "^", "RF1-6"),
            ("RRI^I12^RRI_I12", "RRI^I16", "MSH-9"),
            ("RRI^I12^RRI_I12", "ACK^I12", "MSH-9"),
        ] {
            assert_eq!(swap(from, to).unwrap_err().place(), place, "{from} -> {to}");
        }
    }
}
