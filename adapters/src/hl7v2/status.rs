//! Reading an answer to a referral: RRI^I12, I13 and I14.

use std::fmt;

use super::ack::AckCode;
use super::content::{Envelope, KeptSegment, Note, Provider, Rf1, filled_text};
use super::fault::{ErrorCode, FieldFault};
use super::message::Message;

/// Segments whose content is read into fields of [`RriMessage`].
const READ_SEGMENTS: [&str; 5] = ["MSH", "MSA", "RF1", "PRD", "NTE"];

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
    fn read(rf1: &Rf1) -> Result<Self, FieldFault> {
        let code = rf1.status.as_ref().map(|status| status.code.as_str());
        match code {
            Some("A") => Ok(Self::Accepted),
            Some("E") => Ok(Self::Expired),
            Some("P") => Ok(Self::Pending),
            Some("R") => Ok(Self::Rejected),
            Some("") | None => Err(FieldFault::missing_field("RF1", 1)),
            Some(_) => {
                let rule = "is none of A, E, P and R";
                Err(FieldFault::field(
                    "RF1",
                    1,
                    rule,
                    ErrorCode::TableValueNotFound,
                ))
            }
        }
    }
}

/// An answer as it was sent, before it means anything here.
#[derive(Clone, PartialEq, Eq)]
pub struct RriMessage {
    /// The header; its event is I12, I13 or I14.
    pub envelope: Envelope,
    /// MSA-1 and MSA-2, where the answer follows a message of ours.
    pub answers: Option<(AckCode, String)>,
    /// RF1-1.
    pub status: ReferralStatus,
    /// The referral: RF1-6 echoed, RF1-11 the answering side's own references.
    pub rf1: Rf1,
    /// Who answers.
    pub providers: Vec<Provider>,
    /// Notes, wherever they stand.
    pub notes: Vec<Note>,
    /// Every other segment as it came.
    pub kept: Vec<KeptSegment>,
}

impl fmt::Debug for RriMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RriMessage")
            .field("event", &self.envelope.event)
            .field("status", &self.status)
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
        if !matches!(envelope.event.as_str(), "I12" | "I13" | "I14") {
            let rule = "is none of the events I12, I13 and I14";
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
            answers: read_msa(message)?,
            status: ReferralStatus::read(&rf1)?,
            rf1,
            providers: Provider::read_all(message)?,
            notes: Note::read_all(message),
            kept: KeptSegment::all_but(message, &READ_SEGMENTS),
        })
    }
}

fn read_msa(message: &Message) -> Result<Option<(AckCode, String)>, FieldFault> {
    let Some(msa) = message.segment("MSA", 1) else {
        return Ok(None);
    };
    let code = filled_text(msa, 1, 1).ok_or_else(|| FieldFault::missing_field("MSA", 1))?;
    let code = AckCode::from_code(&code).ok_or_else(|| {
        let rule = "is no acknowledgement code of table 0008";
        FieldFault::field("MSA", 1, rule, ErrorCode::TableValueNotFound)
    })?;
    let answered = filled_text(msa, 2, 1).ok_or_else(|| FieldFault::missing_field("MSA", 2))?;
    Ok(Some((code, answered)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hl7v2::message::LineEndings;

    const ACCEPTED: &str = include_str!("fixtures/rri-i12-v25.hl7");

    fn read(text: &str) -> Result<RriMessage, FieldFault> {
        RriMessage::read(&Message::parse(text.as_bytes(), LineEndings::Any)?)
    }

    #[test]
    fn answer_is_read_with_both_references_and_its_note() {
        let answer = read(ACCEPTED).unwrap();
        assert_eq!(answer.status, ReferralStatus::Accepted);
        assert_eq!(
            answer.answers,
            Some((AckCode::ApplicationAccept, "WM0000000001".to_owned()))
        );
        assert_eq!(answer.rf1.originating.id, "WM-7QK2");
        assert_eq!(answer.rf1.external.len(), 2);
        assert_eq!(answer.rf1.external[0].id, "PAS-5521");
        assert_eq!(answer.notes[0].lines, ["Seen in clinic 4"]);
        assert_eq!(answer.kept[0].name, "PID");
    }

    #[test]
    fn every_status_of_table_0283_is_read_and_no_other() {
        let with =
            |code: &str| read(&ACCEPTED.replacen("RF1|A^Accepted", &format!("RF1|{code}"), 1));
        assert_eq!(with("E").unwrap().status, ReferralStatus::Expired);
        assert_eq!(with("P").unwrap().status, ReferralStatus::Pending);
        assert_eq!(with("R").unwrap().status, ReferralStatus::Rejected);
        assert_eq!(
            with("X").unwrap_err().hl7_code,
            ErrorCode::TableValueNotFound
        );
        assert_eq!(
            with("").unwrap_err().hl7_code,
            ErrorCode::RequiredFieldMissing
        );
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
            ("RRI^I12^RRI_I12", "RRI^I15", "MSH-9"),
            ("RRI^I12^RRI_I12", "ACK^I12", "MSH-9"),
        ] {
            assert_eq!(swap(from, to).unwrap_err().place(), place, "{from} -> {to}");
        }
    }
}
