//! What became of each file, for people and for scripts.

use std::fmt;

use serde::Serialize;
use waymark_adapters::hl7v2::ack::{AckCode, AckReading};
use waymark_adapters::hl7v2::fault::{ErrorCode, FieldFault};
use waymark_adapters::hl7v2::message::Message;
use waymark_core::error::Violation;
use waymark_proto::v1;

use super::super::failure::Refusal;
use super::super::receipts::Saved;

/// What a run of `send` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SendReport {
    /// Whether everything was taken, and every receipt asked for was written.
    pub ok: bool,
    /// Files accepted.
    pub accepted: usize,
    /// Files that had been accepted before.
    pub repeated: usize,
    /// Files refused.
    pub refused: usize,
    /// Files whose answer did not come.
    pub unanswered: usize,
    /// Each file in the order of its answer.
    pub items: Vec<Item>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The file.
    pub file: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// It was accepted.
    Accepted(Accepted),
    /// The same message had been accepted before.
    Repeated(Accepted),
    /// It was refused.
    Refused(Refused),
    /// The answer did not come: sending it again is safe.
    Unanswered {
        /// Why not.
        why: String,
    },
}

/// What the gateway says of an accepted message. Over MLLP it says no more than the acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// The referral's short reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The referral's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referral_id: Option<String>,
    /// The log event's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The entry's leaf hash, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaf_hash: Option<String>,
    /// The services that it went to.
    pub services: Vec<String>,
    /// The acknowledgement's code, over MLLP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledgement: Option<&'static str>,
    /// The receipt that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) receipt: Option<Saved>,
    /// Why no receipt was written, where one was asked for: the message is accepted all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt_fault: Option<String>,
}

impl Accepted {
    /// Reads a receipt.
    pub(super) fn of(receipt: &v1::Receipt) -> Self {
        Self {
            reference: Some(receipt.reference.clone()),
            referral_id: Some(receipt.referral_id.clone()),
            event_id: Some(receipt.event_id.clone()),
            leaf_hash: Some(hex::encode(&receipt.leaf_hash)),
            // A leg that waits for its triage owner has no service yet.
            services: receipt
                .legs
                .iter()
                .map(|leg| service(&leg.service_id))
                .collect(),
            acknowledgement: None,
            receipt: None,
            receipt_fault: None,
        }
    }

    /// Notes the receipt that was written, or why none was.
    #[must_use]
    pub(super) fn with_receipt(mut self, saved: anyhow::Result<Saved>) -> Self {
        match saved {
            Ok(saved) => self.receipt = Some(saved),
            Err(error) => self.receipt_fault = Some(format!("{error:#}")),
        }
        self
    }
}

fn service(id: &str) -> String {
    if id.is_empty() {
        "triage".to_owned()
    } else {
        id.to_owned()
    }
}

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// A stable reason.
    pub reason: String,
    /// The fixed sentence.
    pub message: String,
    /// The fields at fault, each with what is wrong and what to do.
    pub violations: Vec<Violation>,
}

impl Refused {
    /// Refused on this side, before anything was sent.
    pub(super) fn local(reason: &str, violations: Vec<Violation>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: "not sent".to_owned(),
            violations,
        }
    }

    /// Refused on this side for a fault in an HL7 v2 message.
    pub(super) fn of_fault(fault: &FieldFault) -> Self {
        let code = fault.hl7_code.number();
        let why = format!(
            "{} (HL7 error {code}): {}",
            fault.rule,
            remedy(&fault.place(), Some(code))
        );
        Self::local(
            &format!("HL7_{code}"),
            vec![Violation::new(fault.place(), why)],
        )
    }

    /// Refused by an acknowledgement: what it says, by segment and field, and what to do about it.
    pub(super) fn of_ack(ack: &Message, reading: &AckReading) -> Self {
        let code = reading.error_code;
        let (place, words) = place_and_words(ack, reading);
        let why = format!("{words}: {}", remedy(&place, code));
        Self {
            reason: code.map_or_else(
                || reading.code.code().to_owned(),
                |code| format!("HL7_{code}"),
            ),
            message: format!("acknowledged {}", reading.code.code()),
            violations: vec![Violation::new(place, why)],
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let reason = if refusal.reason.is_empty() {
            refusal.code
        } else {
            refusal.reason
        };
        Self {
            reason,
            message: refusal.message,
            violations: refusal.violations,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)?;
        for violation in &self.violations {
            write!(f, "\n            {violation}")?;
        }
        Ok(())
    }
}

/// Where an acknowledgement puts the fault, and its words: ERR-2 and ERR-7 of version 2.5, ERR-1 and MSA-3 before.
fn place_and_words(ack: &Message, reading: &AckReading) -> (String, String) {
    let err = ack.segment("ERR", 1);
    let part = |field: usize, component: usize| {
        err.map(|err| err.text(field, component).trim().to_owned())
            .filter(|text| !text.is_empty())
    };
    let located = |field: usize| {
        let segment = part(field, 1)?;
        let nth = part(field, 2)
            .filter(|nth| nth != "1")
            .map(|nth| format!("[{nth}]"))
            .unwrap_or_default();
        let number = part(field, 3)
            .map(|number| format!("-{number}"))
            .unwrap_or_default();
        Some(format!("{segment}{nth}{number}"))
    };
    let place = located(2)
        .or_else(|| located(1))
        .unwrap_or_else(|| "message".to_owned());
    let words = part(7, 1)
        .or_else(|| part(8, 1))
        .or_else(|| reading.text.clone());
    let table = reading
        .error_code
        .and_then(ErrorCode::from_number)
        .map(ErrorCode::text);
    let words = words
        .or_else(|| table.map(ToOwned::to_owned))
        .unwrap_or_else(|| "no reason is given".to_owned());
    // Our own listener begins with the place, which is shown already.
    let bare = words
        .strip_prefix(&place)
        .map(|rest| rest.trim_start().to_owned());
    (place, bare.unwrap_or(words))
}

/// What to do about an error of HL7 table 0357 at a place.
fn remedy(place: &str, code: Option<u16>) -> &'static str {
    match (code.and_then(ErrorCode::from_number), place) {
        (Some(ErrorCode::DuplicateKey), "RF1-6") => {
            "another referral was sent under it; amend (REF^I13) or cancel (REF^I14) that one, or give a new reference"
        }
        (Some(ErrorCode::DuplicateKey), _) => {
            "it came before with other content; a new message needs a new MSH-10, a repeat the same content"
        }
        (Some(ErrorCode::UnknownKey), _) => {
            "no referral of yours has it; send the referral first, or correct the reference"
        }
        (Some(ErrorCode::RequiredFieldMissing), _) => "fill it in",
        (Some(ErrorCode::SegmentSequence), _) => "add the segment, in its place",
        (Some(ErrorCode::UnsupportedProcessingId), _) => {
            "MSH-11 is T for a test deployment and P for a live one"
        }
        (
            Some(
                ErrorCode::UnsupportedMessageType
                | ErrorCode::UnsupportedEventCode
                | ErrorCode::UnsupportedVersion,
            ),
            _,
        ) => "send REF^I12, REF^I13, REF^I14 or RRI",
        (Some(ErrorCode::TableValueNotFound), "MSH-3" | "MSH-4") => {
            "MSH-3 and MSH-4 must be among hl7_senders of this channel's identity in the directory"
        }
        (Some(ErrorCode::ApplicationInternal | ErrorCode::RecordLocked), _) => {
            "send the same file again later"
        }
        (Some(ErrorCode::DataType | ErrorCode::TableValueNotFound), _) => "correct it",
        (Some(ErrorCode::Accepted) | None, _) => "see what the gateway says of it",
    }
}

/// Whether an acknowledgement says that the message was taken.
pub(super) fn is_accept(code: AckCode) -> bool {
    match code {
        AckCode::ApplicationAccept | AckCode::CommitAccept => true,
        AckCode::ApplicationError
        | AckCode::ApplicationReject
        | AckCode::CommitError
        | AckCode::CommitReject => false,
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        let accepted = |f: &mut fmt::Formatter<'_>, word: &str, a: &Accepted| {
            write!(f, "{word:<10}  {file}")?;
            if let Some(reference) = &a.reference {
                write!(f, "  {reference}")?;
            }
            if !a.services.is_empty() {
                write!(f, "  to {}", a.services.join(", "))?;
            }
            if let Some(code) = a.acknowledgement {
                write!(f, "  acknowledged {code}")?;
            }
            if let Some(saved) = &a.receipt {
                let verified = if saved.verified {
                    "proof verified"
                } else {
                    "proof"
                };
                write!(
                    f,
                    "  {verified}, entry {}, {}",
                    saved.index,
                    saved.proof.display()
                )?;
            }
            if let Some(why) = &a.receipt_fault {
                write!(f, "  NO RECEIPT: {why}")?;
            }
            Ok(())
        };
        match &self.outcome {
            Outcome::Accepted(a) => accepted(f, "accepted", a),
            Outcome::Repeated(a) => accepted(f, "repeated", a),
            Outcome::Refused(refused) => write!(f, "refused     {file}: {refused}"),
            Outcome::Unanswered { why } => {
                write!(f, "unanswered  {file}: {why}; sending it again is safe")
            }
        }
    }
}

impl SendReport {
    /// Counts.
    pub(super) fn of(items: Vec<Item>) -> Self {
        let count =
            |is: fn(&Outcome) -> bool| items.iter().filter(|item| is(&item.outcome)).count();
        let (refused, unanswered) = (
            count(|o| matches!(o, Outcome::Refused(_))),
            count(|o| matches!(o, Outcome::Unanswered { .. })),
        );
        let without_receipt = count(|o| match o {
            Outcome::Accepted(a) | Outcome::Repeated(a) => a.receipt_fault.is_some(),
            Outcome::Refused(_) | Outcome::Unanswered { .. } => false,
        });
        Self {
            ok: refused + unanswered + without_receipt == 0,
            accepted: count(|o| matches!(o, Outcome::Accepted(_))),
            repeated: count(|o| matches!(o, Outcome::Repeated(_))),
            refused,
            unanswered,
            items,
        }
    }

    /// The counts in one line.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} accepted, {} repeated, {} refused, {} unanswered",
            self.accepted, self.repeated, self.refused, self.unanswered
        )
    }
}

#[cfg(test)]
mod tests {
    use waymark_adapters::hl7v2::ack::Ack;
    use waymark_adapters::hl7v2::build::Processing;
    use waymark_adapters::hl7v2::content::Envelope;
    use waymark_adapters::hl7v2::message::LineEndings;

    use super::*;

    /// What our own listener answers to a message of a version that has this fault.
    fn refused(version: &str, fault: &FieldFault) -> Refused {
        let parse = |text: &str| Message::parse(text.as_bytes(), LineEndings::Cr).unwrap();
        let sent = format!("MSH|^~\\&|EPR|R1L|WAYMARK|X|2026||REF^I12|M1|T|{version}\r");
        let answers = Envelope::read(&parse(&sent)).unwrap();
        let ack = Ack {
            answers: &answers,
            control_id: "A1",
            at: "2026-03-02T10:30:01Z".parse().unwrap(),
            processing: Processing::Training,
            code: AckCode::ApplicationError,
            fault: Some(fault),
        };
        let ack = parse(&ack.write());
        Refused::of_ack(&ack, &AckReading::read(&ack).unwrap())
    }

    #[test]
    fn a_refused_message_names_segment_field_and_remedy_in_either_shape() {
        let taken = FieldFault::field(
            "RF1",
            6,
            "is in use (REFERENCE_IN_USE)",
            ErrorCode::DuplicateKey,
        );
        for version in ["2.4", "2.5", "2.8"] {
            let refused = refused(version, &taken);
            let violation = refused.violations.first().unwrap();
            assert_eq!(violation.field, "RF1-6", "{version}");
            assert!(
                violation.why.starts_with("is in use (REFERENCE_IN_USE)"),
                "{version}: {violation}"
            );
            assert!(
                violation.why.contains("amend (REF^I13)"),
                "{version}: {violation}"
            );
            assert_eq!(refused.reason, "HL7_205");
        }
        let second = FieldFault::missing_field("PRD", 2).at(2);
        assert_eq!(
            refused("2.5", &second).violations.first().unwrap().field,
            "PRD[2]-2"
        );
    }

    #[test]
    fn a_fault_outside_any_segment_is_of_the_message() {
        let fault = FieldFault::segment(
            "message",
            "could not be stored in time",
            ErrorCode::ApplicationInternal,
        );
        let refused = refused("2.5", &fault);
        assert_eq!(refused.violations.first().unwrap().field, "message");
        assert!(
            refused
                .to_string()
                .contains("send the same file again later"),
            "{refused}"
        );
    }

    #[test]
    fn a_report_is_ok_only_when_everything_was_taken() {
        let item = |outcome| Item {
            file: "f".to_owned(),
            outcome,
        };
        let taken = vec![
            item(Outcome::Accepted(Accepted::default())),
            item(Outcome::Repeated(Accepted::default())),
        ];
        let report = SendReport::of(taken.clone());
        assert!(report.ok);
        assert_eq!(
            report.summary(),
            "1 accepted, 1 repeated, 0 refused, 0 unanswered"
        );
        for missing in [
            Outcome::Refused(Refused::local("X", Vec::new())),
            Outcome::Unanswered {
                why: "lost".to_owned(),
            },
            Outcome::Accepted(
                Accepted::default().with_receipt(Err(anyhow::anyhow!("the proof does not hold"))),
            ),
        ] {
            let mut items = taken.clone();
            items.push(item(missing));
            assert!(!SendReport::of(items).ok);
        }
    }

    #[test]
    fn json_names_the_outcome_beside_the_file() {
        let item = Item {
            file: "r.json".to_owned(),
            outcome: Outcome::Unanswered {
                why: "lost".to_owned(),
            },
        };
        assert_eq!(
            serde_json::to_string(&item).unwrap(),
            r#"{"file":"r.json","outcome":"unanswered","why":"lost"}"#
        );
    }
}
