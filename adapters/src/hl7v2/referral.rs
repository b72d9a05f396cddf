//! Reading a referral message: REF^I12 (new), I13 (changed), I14 (cancelled), I15 (where does it stand).
//!
//! Valid is what parses, has MSH, PID, at least one PRD, and RF1-6. Everything else is taken as it
//! comes; what this reader has no meaning for is kept.

use std::fmt;

use super::content::{
    Allergy, Coded, Envelope, Identifier, KeptSegment, Name, Note, Provider, Repeated, Rf1,
    contacts, filled, filled_text, opaque_debug,
};
use super::document::Document;
use super::fault::{ErrorCode, FieldFault};
use super::message::{Message, Repetition, Segment};
use super::observation::Observation;

/// Segments whose content is read into fields of [`RefMessage`].
const READ_SEGMENTS: [&str; 7] = ["MSH", "RF1", "PRD", "PID", "NK1", "AL1", "NTE"];

/// What a referral message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReferralEvent {
    /// I12: a new referral.
    New,
    /// I13: a change to one.
    Modify,
    /// I14: the end of one.
    Cancel,
    /// I15: where one stands.
    Enquire,
}

impl ReferralEvent {
    /// Returns the trigger event's code.
    pub fn code(self) -> &'static str {
        match self {
            Self::New => "I12",
            Self::Modify => "I13",
            Self::Cancel => "I14",
            Self::Enquire => "I15",
        }
    }

    fn read(envelope: &Envelope) -> Result<Self, FieldFault> {
        if envelope.message_code != "REF" {
            let rule = "is not a referral message";
            return Err(FieldFault::field(
                "MSH",
                9,
                rule,
                ErrorCode::UnsupportedMessageType,
            ));
        }
        match envelope.event.as_str() {
            "I12" => Ok(Self::New),
            "I13" => Ok(Self::Modify),
            "I14" => Ok(Self::Cancel),
            "I15" => Ok(Self::Enquire),
            _ => {
                let rule = "is none of the events I12 to I15";
                Err(FieldFault::field(
                    "MSH",
                    9,
                    rule,
                    ErrorCode::UnsupportedEventCode,
                ))
            }
        }
    }
}

/// A referral message as it was sent, before it means anything here.
#[derive(Clone, PartialEq, Eq)]
pub struct RefMessage {
    /// The header.
    pub envelope: Envelope,
    /// What is asked.
    pub event: ReferralEvent,
    /// The referral.
    pub rf1: Rf1,
    /// Who refers, who is referred to; at least one.
    pub providers: Vec<Provider>,
    /// The person the referral is about.
    pub patient: Patient,
    /// Parents and others.
    pub next_of_kin: Vec<Kin>,
    /// Every diagnosis.
    pub diagnoses: Vec<Diagnosis>,
    /// Allergies.
    pub allergies: Vec<Allergy>,
    /// The observations that are no documents.
    pub observations: Vec<Observation>,
    /// Documents among the observations.
    pub documents: Vec<Document>,
    /// Notes, wherever they stand.
    pub notes: Vec<Note>,
    /// Every other segment, Z-segments among them, as it came.
    pub kept: Vec<KeptSegment>,
}

impl fmt::Debug for RefMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefMessage")
            .field("event", &self.event)
            .field("version", &self.envelope.version)
            .field("providers", &self.providers.len())
            .field("kept", &self.kept.len())
            .finish_non_exhaustive()
    }
}

impl RefMessage {
    /// Reads a referral out of a parsed message.
    ///
    /// # Errors
    /// The first rule broken, naming segment and field.
    pub fn read(message: &Message) -> Result<Self, FieldFault> {
        let envelope = Envelope::read(message)?;
        let event = ReferralEvent::read(&envelope)?;
        let rf1 = Rf1::read(message)?;
        let providers = Provider::read_all(message)?;
        if providers.is_empty() {
            return Err(FieldFault::missing_segment("PRD"));
        }
        let patient = Patient::read(message)?;
        Ok(Self {
            envelope,
            event,
            rf1,
            providers,
            patient,
            next_of_kin: message
                .segments_named("NK1")
                .filter_map(Kin::read)
                .collect(),
            diagnoses: message
                .segments_named("DG1")
                .filter_map(Diagnosis::read)
                .collect(),
            allergies: Allergy::read_all(message)?,
            observations: Observation::read_all(message),
            documents: Document::read_all(message)?,
            notes: Note::read_all(message),
            kept: KeptSegment::all_but(message, &READ_SEGMENTS),
        })
    }

    /// Finds the first provider of a role of table 0286.
    pub fn provider(&self, role: &str) -> Option<&Provider> {
        self.providers
            .iter()
            .find(|provider| provider.has_role(role))
    }
}

/// The person a referral is about.
#[derive(Clone, PartialEq, Eq)]
pub struct Patient {
    /// PID-3.
    pub ids: Vec<Identifier>,
    /// PID-5, the first name.
    pub name: Option<Name>,
    /// PID-5 and PID-9, every further name.
    pub other_names: Vec<Name>,
    /// PID-7 as it stands.
    pub born: Option<String>,
    /// PID-8, table 0001.
    pub sex: Option<String>,
    /// PID-11, the first address.
    pub address: Option<Address>,
    /// PID-11, every further address.
    pub other_addresses: Vec<Address>,
    /// PID-13 and PID-14, every number and address.
    pub contacts: Vec<String>,
    /// PID-15.
    pub language: Option<Coded>,
}

impl Patient {
    fn read(message: &Message) -> Result<Self, FieldFault> {
        let pid = message
            .segment("PID", 1)
            .ok_or_else(|| FieldFault::missing_segment("PID"))?;
        if message.segment("PID", 2).is_some() {
            let rule = "stands more than once";
            return Err(FieldFault::segment("PID", rule, ErrorCode::SegmentSequence).at(2));
        }
        Ok(Self {
            ids: pid
                .field(3)
                .repetitions()
                .filter_map(Identifier::of_patient)
                .collect(),
            name: Name::first(pid, 5),
            other_names: Name::all(pid, 5)
                .into_iter()
                .skip(1)
                .chain(Name::all(pid, 9))
                .collect(),
            born: filled_text(pid, 7, 1),
            sex: filled_text(pid, 8, 1),
            address: Address::first(pid, 11),
            other_addresses: Address::all(pid, 11).into_iter().skip(1).collect(),
            contacts: [contacts(pid, 13), contacts(pid, 14)].concat(),
            language: Coded::first(pid, 15),
        })
    }
}

/// An address.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// Street.
    pub street: String,
    /// Second line.
    pub second_line: String,
    /// Town.
    pub town: String,
    /// County.
    pub county: String,
    /// Postcode.
    pub postcode: String,
}

impl Repeated for Address {
    fn read(repetition: Repetition<'_>) -> Option<Self> {
        let part = |n| filled(&repetition.text(n)).unwrap_or_default();
        let address = Self {
            street: part(1),
            second_line: part(2),
            town: part(3),
            county: part(4),
            postcode: part(5),
        };
        if address == Self::default() {
            None
        } else {
            Some(address)
        }
    }
}

/// One next-of-kin segment.
#[derive(Clone, PartialEq, Eq)]
pub struct Kin {
    /// NK1-2.
    pub name: Option<Name>,
    /// NK1-3, table 0063.
    pub relationship: Option<Coded>,
    /// NK1-4, every address.
    pub addresses: Vec<Address>,
    /// NK1-5, every number and address.
    pub contacts: Vec<String>,
    /// NK1-6, every number and address at work.
    pub work_contacts: Vec<String>,
    /// NK1-7, table 0131.
    pub role: Option<Coded>,
}

impl Kin {
    fn read(nk1: Segment<'_>) -> Option<Self> {
        let kin = Self {
            name: Name::first(nk1, 2),
            relationship: Coded::first(nk1, 3),
            addresses: Address::all(nk1, 4),
            contacts: contacts(nk1, 5),
            work_contacts: contacts(nk1, 6),
            role: Coded::first(nk1, 7),
        };
        // One who is merely numbered is nobody.
        let says_nothing = kin.name.is_none()
            && kin.relationship.is_none()
            && kin.role.is_none()
            && kin.addresses.is_empty()
            && kin.contacts.is_empty()
            && kin.work_contacts.is_empty();
        (!says_nothing).then_some(kin)
    }

    /// Whether it says whom to turn to, rather than something about somebody unnamed.
    pub fn is_somebody(&self) -> bool {
        self.name.is_some() || !self.contacts.is_empty()
    }
}

/// One diagnosis.
#[derive(Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// DG1-3.
    pub code: Coded,
    /// DG1-4, what the sender calls it.
    pub text: Option<String>,
}

impl Diagnosis {
    pub(super) fn read(dg1: Segment<'_>) -> Option<Self> {
        let (code, text) = (Coded::first(dg1, 3), filled_text(dg1, 4, 1));
        (code.is_some() || text.is_some()).then(|| Self {
            code: code.unwrap_or_default(),
            text,
        })
    }
}

opaque_debug!(Patient, Address, Kin, Diagnosis);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::hl7v2::content::AckCondition;
    use crate::hl7v2::message::LineEndings;

    const WIDE: &str = include_str!("fixtures/ref-i12-v28-wide.hl7");
    const AGAIN: &str = include_str!("fixtures/ref-i12-v28-again.hl7");
    const CANCEL: &str = include_str!("fixtures/ref-i14-v28-wide.hl7");
    const MODERN: &str = include_str!("fixtures/ref-i12-v25.hl7");
    const LATIN: &[u8] = include_bytes!("fixtures/ref-i13-v24-latin1.hl7");

    fn read(bytes: &[u8]) -> Result<RefMessage, FieldFault> {
        RefMessage::read(&Message::parse(bytes, LineEndings::Any)?)
    }

    fn without(text: &str, segment: &str) -> String {
        text.lines()
            .filter(|line| !line.starts_with(segment))
            .fold(String::new(), |all, line| all + line + "\n")
    }

    #[test]
    fn wide_message_of_a_later_version_is_read_and_everything_else_kept() {
        let message = read(WIDE.as_bytes()).unwrap();
        assert_eq!(message.event, ReferralEvent::New);
        assert_eq!(message.envelope.version, "2.8");
        assert_eq!(message.envelope.control_id, "NM00112");
        assert_eq!(message.envelope.sending_facility.name, "NorthSchool");
        assert_eq!(
            message.envelope.sending_facility.universal_id.as_deref(),
            Some("2.999.7.1.30")
        );
        assert_eq!(message.rf1.originating.id, "710042");
        assert_eq!(message.rf1.originating.namespace, "NORTH");
        assert_eq!(message.rf1.reasons[0].code, "O");
        assert_eq!(message.rf1.external[0].id, "31001");
        assert_eq!(message.providers.len(), 2);
        assert_eq!(message.provider("RT").unwrap().ids[0].value, "R1LCP");
        assert_eq!(
            message.provider("RP").unwrap().organisation.as_deref(),
            Some("NORTH SCHOOL")
        );
        assert_eq!(message.provider("RP").unwrap().contacts, ["01632960001"]);
        assert!(message.provider("CP").is_none());
        assert_eq!(message.patient.ids.len(), 2);
        assert_eq!(message.patient.ids[0].authority, "ADT1");
        assert_eq!(message.patient.contacts, ["01632960005"]);
        assert_eq!(
            message.patient.address.as_ref().unwrap().postcode,
            "ZZ1 1AB"
        );
        assert_eq!(message.next_of_kin[0].contacts, ["01632 960006"]);
        assert_eq!(message.allergies[0].substance.text, "Penicillin");
        let notes: Vec<_> = message
            .notes
            .iter()
            .map(|note| (&*note.after, note.lines[0].as_str()))
            .collect();
        assert_eq!(
            notes,
            [
                ("OBR", "Hearing test "),
                ("PRT", "No loss found & no follow-up"),
                ("PV2", "School note")
            ]
        );
        let kept: Vec<_> = message
            .kept
            .iter()
            .map(|segment| segment.name.as_str())
            .collect();
        assert_eq!(
            kept,
            [
                "SFT", "AUT", "GT1", "IN1", "IN2", "ACC", "DG1", "PR1", "AUT", "OBR", "OBX", "PRT",
                "PV1", "PV2"
            ]
        );
    }

    #[test]
    fn cancel_of_a_later_version_and_a_second_new_are_read() {
        let cancel = read(CANCEL.as_bytes()).unwrap();
        assert_eq!(cancel.event, ReferralEvent::Cancel);
        assert_eq!(cancel.rf1.originating.id, "710042");
        let again = read(AGAIN.as_bytes()).unwrap();
        assert_eq!(again.event, ReferralEvent::New);
        assert_eq!(again.envelope.control_id, "NM00012");
        assert_eq!(again.notes.len(), 5);
    }

    #[test]
    fn message_of_our_own_versions_is_read_with_repetitions_and_escapes() {
        let message = read(MODERN.as_bytes()).unwrap();
        assert_eq!(message.envelope.accept_ack, AckCondition::Always);
        assert!(message.envelope.wants_commit_ack(true));
        assert_eq!(message.rf1.dispositions.len(), 2);
        assert!(message.provider("PP").unwrap().has_role("RP"));
        assert_eq!(message.patient.name.as_ref().unwrap().family, "Tëst");
        assert_eq!(message.patient.ids[0].kind, "NH");
        assert_eq!(message.allergies[0].reactions, ["anaphylaxis", "hives"]);
        assert_eq!(
            message.notes[0].lines,
            ["first line\nsecond & third", "next repetition"]
        );
        assert_eq!(message.kept[0].raw, "ZSN|1|EHC|Y");
    }

    #[test]
    fn older_message_in_latin_1_is_read_and_explicit_nulls_are_empty() {
        let message = read(LATIN).unwrap();
        assert_eq!(message.event, ReferralEvent::Modify);
        assert_eq!(message.envelope.processing_id, "T");
        assert!(!message.envelope.wants_commit_ack(true));
        let name = message.patient.name.as_ref().unwrap();
        assert_eq!((name.given.as_str(), name.further.as_str()), ("Zoë", ""));
    }

    #[test]
    fn what_is_missing_is_named_by_segment_and_field() {
        let swap = |from: &str, to: &str| MODERN.replacen(from, to, 1);
        for (text, place, code) in [
            (without(MODERN, "PID"), "PID", 100),
            (without(MODERN, "PRD"), "PRD", 100),
            (without(MODERN, "RF1"), "RF1-6", 101),
            (without(MODERN, "MSH"), "MSH", 100),
            (swap("SM-2026-0007^", "^"), "RF1-6", 101),
            (swap("SM-2026-0007^SCHOOLMIS", ""), "RF1-6", 101),
            (swap("SM-2026-0007^", "\"\"^"), "RF1-6", 101),
            (swap("SM0000000001", ""), "MSH-10", 101),
            (swap("REF^I12^REF_I12", ""), "MSH-9", 101),
            (swap("REF^I12^REF_I12", "ADT^A01"), "MSH-9", 200),
            (swap("REF^I12^REF_I12", "REF^I16"), "MSH-9", 201),
            (
                swap("PRD|RT^Referred to Provider^HL70286", "PRD|"),
                "PRD[2]-1",
                101,
            ),
            (swap("|^Peanut|", "||"), "AL1-3", 101),
            (swap("SM-2026-0007", &"x".repeat(200)), "RF1-6", 102),
            (swap("SM0000000001", &"x".repeat(200)), "MSH-10", 102),
            (
                swap("|SCHOOLMIS|", &format!("|{}|", "x".repeat(200))),
                "MSH-3",
                102,
            ),
            (MODERN.to_owned() + "PID|2", "PID[2]", 100),
            (MODERN.to_owned() + "RF1|A|||||X", "RF1[2]", 100),
        ] {
            let fault = read(text.as_bytes()).unwrap_err();
            assert_eq!((&*fault.place(), fault.hl7_code.number()), (place, code));
        }
    }

    #[test]
    fn identifiers_at_their_longest_are_taken() {
        let longest = "x".repeat(crate::hl7v2::content::IDENTIFIER_CHARS_MAX);
        let text =
            MODERN
                .replacen("SM-2026-0007", &longest, 1)
                .replacen("SM0000000001", &longest, 1);
        let message = read(text.as_bytes()).unwrap();
        assert_eq!(message.rf1.originating.id, longest);
        assert_eq!(message.envelope.control_id, longest);
    }

    #[test]
    fn debug_shows_neither_names_nor_numbers() {
        let message = read(MODERN.as_bytes()).unwrap();
        let shown = format!(
            "{message:?} {:?} {:?} {:?}",
            message.patient, message.providers, message.notes
        );
        for secret in ["9434765919", "Child", "Okoro", "third", "SM-2026"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn public_corpus_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/hl7v2");
        let Ok(entries) = std::fs::read_dir(&folder) else {
            eprintln!("the shared corpus is absent: nothing of it was read");
            return;
        };
        let mut found = Vec::new();
        for entry in entries {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let message = read(&bytes).unwrap();
            assert_eq!(message.rf1.originating.id, "226839");
            assert_eq!(message.envelope.sending_app.name, "GHH");
            assert_eq!(message.patient.name.as_ref().unwrap().family, "EVERYMAN");
            assert!(message.kept.iter().any(|segment| segment.name == "SFT"));
            found.push((message.event.code(), message.envelope.control_id));
        }
        found.sort();
        let expected = [
            ("I12", "MSG00012"),
            ("I12", "MSG00112"),
            ("I14", "MSG00112"),
        ]
        .map(|(event, id)| (event, id.to_owned()));
        assert_eq!(found, expected);
    }
}
