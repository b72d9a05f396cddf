//! Which acknowledgements a message gets, and what they say of a refusal.

use waymark_core::error::{ErrorKind, Violation};
use waymark_core::port::IntakeError;

use super::super::ack::AckCode;
use super::super::content::{AckCondition, Envelope};
use super::super::fault::{ErrorCode, FieldFault};

/// The reason of an intake that finds a referral's reference in use by another referral.
const REFERENCE_IN_USE: &str = "REFERENCE_IN_USE";

/// Whether a refusal is of the content or of the message as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Degree {
    /// AE or CE: the content, or a passing fault.
    Error,
    /// AR or CR: this gateway will never take such a message from this sender.
    Reject,
}

/// Why a message is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hl7v2) struct Refusal {
    /// What is wrong.
    pub(in crate::hl7v2) fault: FieldFault,
    /// How much of it.
    pub(super) degree: Degree,
}

impl Refusal {
    /// Refuses the message as such.
    pub(super) fn rejected(fault: FieldFault) -> Self {
        Self {
            fault,
            degree: Degree::Reject,
        }
    }

    /// Refuses by what the fault is: types, events, processing ids and versions reject, content errs.
    pub(super) fn of(fault: FieldFault) -> Self {
        let degree = match fault.hl7_code {
            ErrorCode::UnsupportedMessageType
            | ErrorCode::UnsupportedEventCode
            | ErrorCode::UnsupportedProcessingId
            | ErrorCode::UnsupportedVersion => Degree::Reject,
            ErrorCode::Accepted
            | ErrorCode::SegmentSequence
            | ErrorCode::RequiredFieldMissing
            | ErrorCode::DataType
            | ErrorCode::TableValueNotFound
            | ErrorCode::UnknownKey
            | ErrorCode::DuplicateKey
            | ErrorCode::RecordLocked
            | ErrorCode::ApplicationInternal => Degree::Error,
        };
        Self { fault, degree }
    }
}

/// Says the intake's refusal in the terms of the message: segment, field and code. An appointment names its referral
/// in SCH-26, an acknowledgement its message in MSA-2, everything else in RF1-6.
pub(in crate::hl7v2) fn refusal(error: &IntakeError, message_code: &str) -> Refusal {
    let (segment, field) = match message_code {
        "SIU" => ("SCH", 26),
        "ACK" => ("MSA", 2),
        _ => ("RF1", 6),
    };
    let at = |segment, field, rule: String, code| FieldFault::field(segment, field, rule, code);
    let said = || format!("{} ({})", error.kind.sentence(), error.reason);
    match error.kind {
        ErrorKind::Invalid => Refusal::of(invalid(error.violations.first(), said())),
        ErrorKind::Unauthenticated | ErrorKind::Denied => {
            Refusal::rejected(at("MSH", 3, said(), ErrorCode::TableValueNotFound))
        }
        ErrorKind::NotFound => Refusal::of(at(segment, field, said(), ErrorCode::UnknownKey)),
        ErrorKind::Conflict if error.reason == REFERENCE_IN_USE => {
            Refusal::of(at("RF1", 6, said(), ErrorCode::DuplicateKey))
        }
        ErrorKind::Conflict => Refusal::of(at("MSH", 10, said(), ErrorCode::DuplicateKey)),
        ErrorKind::Precondition => {
            Refusal::of(at(segment, field, said(), ErrorCode::TableValueNotFound))
        }
        ErrorKind::Exhausted
        | ErrorKind::Unavailable
        | ErrorKind::Corrupt
        | ErrorKind::Internal => Refusal::of(FieldFault::segment(
            "message",
            said(),
            ErrorCode::ApplicationInternal,
        )),
    }
}

/// Says whether the same call may succeed later.
pub(in crate::hl7v2) fn is_passing(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Exhausted
        | ErrorKind::Unavailable
        | ErrorKind::Internal
        | ErrorKind::Corrupt => true,
        ErrorKind::Invalid
        | ErrorKind::Unauthenticated
        | ErrorKind::Denied
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Precondition => false,
    }
}

/// The refusal of a message that the intake did not decide on in time: it is safe to send again.
pub(in crate::hl7v2) fn not_in_time() -> Refusal {
    let rule = "could not be stored in time, send it again";
    Refusal::of(FieldFault::segment(
        "message",
        rule,
        ErrorCode::ApplicationInternal,
    ))
}

fn invalid(violation: Option<&Violation>, otherwise: String) -> FieldFault {
    let Some(violation) = violation else {
        return FieldFault::segment("message", otherwise, ErrorCode::DataType);
    };
    let (segment, field) = place(&violation.field);
    let missing = violation.why.contains("required");
    let code = if missing {
        ErrorCode::RequiredFieldMissing
    } else {
        ErrorCode::DataType
    };
    FieldFault::field(segment, field, violation.why.clone(), code)
}

/// Where a path of the canonical referral stands in a message.
fn place(path: &str) -> (&'static str, usize) {
    let path = path.strip_prefix("referral.").unwrap_or(path);
    let head = path.split(['.', '[']).next().unwrap_or_default();
    match (head, path) {
        (_, "child.name" | "child.name.family" | "child.name.given" | "child.name.middle") => {
            ("PID", 5)
        }
        (_, "child.date_of_birth") => ("PID", 7),
        (_, "child.sex") => ("PID", 8),
        (_, path) if path.starts_with("child.address") => ("PID", 11),
        (_, "child.language") => ("PID", 15),
        ("child", _) => ("PID", 3),
        ("contacts", _) => ("NK1", 2),
        ("referrer", _) => ("PRD", 2),
        ("requested_service", _) => ("PRD", 7),
        ("priority", _) => ("RF1", 2),
        ("sender_reference", _) => ("RF1", 6),
        ("reason" | "pathway", _) => ("RF1", 10),
        ("external_ids", _) => ("RF1", 11),
        ("allergies", _) => ("AL1", 3),
        ("answers", _) => ("MSA", 2),
        ("documents", _) => ("OBX", 5),
        _ => ("NTE", 3),
    }
}

/// Chooses the acknowledgements by MSH-15 and MSH-16 (original mode when both are blank).
pub(super) fn replies(envelope: &Envelope, taken: &Result<(), Refusal>) -> Vec<AckCode> {
    let (commit, application) = match taken {
        Ok(()) => (AckCode::CommitAccept, AckCode::ApplicationAccept),
        Err(Refusal {
            degree: Degree::Error,
            ..
        }) => (AckCode::CommitError, AckCode::ApplicationError),
        Err(Refusal {
            degree: Degree::Reject,
            ..
        }) => (AckCode::CommitReject, AckCode::ApplicationReject),
    };
    let asked = |condition| match condition {
        AckCondition::Always => true,
        AckCondition::OnSuccess => taken.is_ok(),
        AckCondition::OnError => taken.is_err(),
        AckCondition::Never | AckCondition::Unstated => false,
    };
    let is_original = envelope.accept_ack == AckCondition::Unstated
        && envelope.application_ack == AckCondition::Unstated;
    // An acknowledgement is not answered but for its commit, and that only where it asks for one.
    let is_ack = envelope.message_code == "ACK";
    if is_original {
        return if is_ack {
            Vec::new()
        } else {
            vec![application]
        };
    }
    let wants_commit = asked(envelope.accept_ack);
    let mut codes = Vec::new();
    if wants_commit {
        codes.push(commit);
    }
    // What was never committed is not processed: its commit acknowledgement has said all.
    if !is_ack && asked(envelope.application_ack) && (taken.is_ok() || !wants_commit) {
        codes.push(application);
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hl7v2::message::{LineEndings, Message};

    fn envelope(accept: &str, application: &str) -> Envelope {
        let text = format!("MSH|^~\\&|A|B|C|D|2026||REF^I12|X1|P|2.5|||{accept}|{application}\r");
        Envelope::read(&Message::parse(text.as_bytes(), LineEndings::Cr).unwrap()).unwrap()
    }

    fn codes(accept: &str, application: &str, taken: &Result<(), Refusal>) -> Vec<&'static str> {
        replies(&envelope(accept, application), taken)
            .into_iter()
            .map(AckCode::code)
            .collect()
    }

    #[test]
    fn acknowledgements_follow_what_the_header_asks_for() {
        let good = Ok(());
        let error = Err(Refusal::of(FieldFault::missing_field("RF1", 6)));
        let reject = Err(Refusal::rejected(FieldFault::missing_field("MSH", 9)));
        assert_eq!(codes("", "", &good), ["AA"]);
        assert_eq!(codes("", "", &error), ["AE"]);
        assert_eq!(codes("", "", &reject), ["AR"]);
        assert_eq!(codes("AL", "AL", &good), ["CA", "AA"]);
        assert_eq!(codes("AL", "AL", &error), ["CE"]);
        assert_eq!(codes("AL", "AL", &reject), ["CR"]);
        assert_eq!(codes("AL", "NE", &good), ["CA"]);
        assert_eq!(codes("NE", "AL", &good), ["AA"]);
        assert_eq!(codes("NE", "AL", &error), ["AE"]);
        assert_eq!(codes("SU", "AL", &error), ["AE"]);
        assert_eq!(codes("ER", "AL", &good), ["AA"]);
        assert_eq!(codes("ER", "ER", &error), ["CE"]);
        assert_eq!(codes("NE", "NE", &good), Vec::<&str>::new());
        assert_eq!(codes("NE", "ER", &good), Vec::<&str>::new());
    }

    fn error(kind: ErrorKind, reason: &'static str) -> IntakeError {
        IntakeError {
            kind,
            violations: Vec::new(),
            reason,
        }
    }

    #[test]
    fn each_kind_of_refusal_has_its_place_and_code() {
        for (kind, reason, place, code, degree) in [
            (ErrorKind::Denied, "X", "MSH-3", 103, Degree::Reject),
            (
                ErrorKind::Unauthenticated,
                "X",
                "MSH-3",
                103,
                Degree::Reject,
            ),
            (ErrorKind::NotFound, "X", "RF1-6", 204, Degree::Error),
            (
                ErrorKind::Conflict,
                "REFERENCE_IN_USE",
                "RF1-6",
                205,
                Degree::Error,
            ),
            (
                ErrorKind::Conflict,
                "KEY_REUSED",
                "MSH-10",
                205,
                Degree::Error,
            ),
            (ErrorKind::Precondition, "X", "RF1-6", 103, Degree::Error),
            (ErrorKind::Unavailable, "X", "message", 207, Degree::Error),
            (ErrorKind::Invalid, "X", "message", 102, Degree::Error),
        ] {
            let refusal = refusal(&error(kind, reason), "REF");
            let found = (
                refusal.fault.place(),
                refusal.fault.hl7_code.number(),
                refusal.degree,
            );
            assert_eq!(found, (place.to_owned(), code, degree), "{kind:?}");
        }
        let unknown = refusal(&error(ErrorKind::NotFound, "X"), "SIU");
        assert_eq!(unknown.fault.place(), "SCH-26");
        assert_eq!(not_in_time().fault.hl7_code.number(), 207);
    }

    #[test]
    fn violations_of_the_domain_name_segment_and_field() {
        for (path, expected) in [
            ("child.name.family", "PID-5"),
            ("referral.child.date_of_birth", "PID-7"),
            ("child", "PID-3"),
            ("child.uln", "PID-3"),
            ("child.address.lines", "PID-11"),
            ("contacts[2].name.family", "NK1-2"),
            ("referrer.name", "PRD-2"),
            ("sender_reference.value", "RF1-6"),
            ("reason.code", "RF1-10"),
            ("documents[0].sha256", "OBX-5"),
            ("answers", "MSA-2"),
            ("concerns[0].text", "NTE-3"),
        ] {
            let mut error = error(ErrorKind::Invalid, "INVALID");
            error.violations.push(Violation::new(path, "is required"));
            let refusal = refusal(&error, "REF");
            assert_eq!(refusal.fault.place(), expected, "{path}");
            assert_eq!(refusal.fault.hl7_code, ErrorCode::RequiredFieldMissing);
        }
    }
}
