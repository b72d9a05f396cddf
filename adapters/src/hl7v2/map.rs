//! Between the canonical referral and HL7 v2, both ways, without I/O.
//!
//! What the grammar has a field for goes into that field. Everything else goes into notes of a fixed
//! form ([`note`]), safety-critical content first, each with a banner that a person reads and parts that
//! a machine restores: so nothing critical is dropped, and a receiver that ignores notes still prints it.

mod added;
pub mod appointment;
pub mod code;
pub mod documents;
pub mod inward;
mod leftover;
pub mod note;
pub mod outward;
pub mod status;

use waymark_core::directory::CodeMap;
use waymark_core::port::InboundBody;

use super::ack::AckReading;
use super::appointment::SiuMessage;
use super::content::Envelope;
use super::fault::FieldFault;
use super::message::Message;

/// Reads an answer that comes by itself, however it comes; none where the message is no answer.
pub fn answer(
    message: &Message,
    envelope: &Envelope,
    codes: &CodeMap,
) -> Option<Result<InboundBody, FieldFault>> {
    Some(match envelope.message_code.as_str() {
        "ACK" => AckReading::read(message).map(|reading| status::acknowledged(&reading)),
        "RRI" => status::later(message, codes),
        "SIU" => SiuMessage::read(message)
            .and_then(|read| appointment::read(&read))
            .map(InboundBody::Status),
        _ => return None,
    })
}

/// One thing that a referral loses on its way through HL7 v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// The path in the canonical referral.
    pub field: &'static str,
    /// What becomes of it.
    pub what: &'static str,
}

/// Everything that a referral loses here; nothing on it is safety-critical (invariant 12).
pub const LOSSES: [Loss; 8] = [
    Loss {
        field: "documents",
        what: "inline up to inline_bytes_max; the rest announced by title, kind, size and digest",
    },
    Loss {
        field: "child.name, child.address",
        what: "parts of more than 199 characters are cut, as text fields of HL7 hold no more",
    },
    Loss {
        field: "child.address",
        what: "lines after the fourth are joined to it; left out where the endpoint says so",
    },
    Loss {
        field: "sender_reference",
        what: "travels in RF1-11 where it fits; RF1-6 holds the gateway's own reference",
    },
    Loss {
        field: "*",
        what: "carriage returns become line feeds, other control characters go",
    },
    Loss {
        field: "*",
        what: "in 8859/1 and ASCII typographic marks become plain ones; other letters are refused",
    },
    Loss {
        field: "status",
        what: "as SIU a booking has its day and no time; what needs more goes as RRI",
    },
    Loss {
        field: "cancel and withdrawal",
        what: "carry identity, reason and safeguarding flags, not the whole referral again",
    },
];

/// Everything that a referral loses on its way in from a foreign system, and an answer. The referral as it came is kept,
/// sealed.
pub const LOSSES_INWARD: [Loss; 6] = [
    Loss {
        field: "PID-13, PID-14, PID-5 and PID-11 repeated, PID-9, NK1-4 to 7, PRD of other roles, RF1-10 repeated",
        what: "in words in narrative, as are DG1 without a need of the code map and every OBX that is no document",
    },
    Loss {
        field: "PID, RF1, PRD and NK1: their other fields",
        what: "kept with the original alone, e.g. ethnicity, disposition, dates of effect",
    },
    Loss {
        field: "segments of any other name, and PV1",
        what: "named in narrative (PV1 is not), kept with the original alone",
    },
    Loss {
        field: "OBR, and of OBX all but name, value, units and flags",
        what: "kept with the original alone",
    },
    Loss {
        field: "cancel",
        what: "RF1-10 or else the notes are read; the rest is kept with the original alone",
    },
    Loss {
        field: "RRI and SIU",
        what: "PID, PD1, PV1, PV2, NK1, GT1, IN1 to IN3, OBR, SFT, RF1-10 in words, PRD, AIG, AIL and AIP go; NTE, DG1, \
               AL1, OBX and Z-segments are in the status's words; the rest is named there, as is a document of an answer",
    },
];

#[cfg(test)]
mod dialect_tests;
#[cfg(test)]
mod ending_tests;
#[cfg(test)]
mod later_tests;
#[cfg(test)]
pub(super) mod tests;
