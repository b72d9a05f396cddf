//! The parts of REF and RRI messages as plain values, read from segments without judging them.
//!
//! These structs hold clinical text, so none of them prints it: `Debug` shows counts alone.

use super::fault::{ErrorCode, FieldFault};
use super::message::{Message, Repetition, Segment};

/// Implements a `Debug` that shows nothing but the type's name.
macro_rules! opaque_debug {
    ($($name:ident),+) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )+};
}

/// Turns an empty value, and HL7's explicit null `""`, into none.
pub(super) fn filled(value: &str) -> Option<String> {
    let value = value.trim();
    if value.is_empty() || value == "\"\"" {
        None
    } else {
        Some(value.to_owned())
    }
}

/// Reads one value of a segment's field, where it is filled.
pub(super) fn filled_text(segment: Segment<'_>, field: usize, component: usize) -> Option<String> {
    filled(&segment.text(field, component))
}

/// What one repetition of a field holds.
pub(super) trait Repeated: Sized {
    /// Reads it; none where it is blank.
    fn read(repetition: Repetition<'_>) -> Option<Self>;

    /// What the first repetition of a field holds.
    fn first(segment: Segment<'_>, field: usize) -> Option<Self> {
        Self::read(segment.field(field).first())
    }

    /// What every repetition of a field holds, without blank ones.
    fn all(segment: Segment<'_>, field: usize) -> Vec<Self> {
        let repetitions = segment.field(field).repetitions();
        repetitions.filter_map(Self::read).collect()
    }
}

/// A coded value: code, text and the table it is from.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Coded {
    /// The code.
    pub code: String,
    /// The words for it.
    pub text: String,
    /// The name of the table.
    pub system: String,
}

impl Repeated for Coded {
    fn read(repetition: Repetition<'_>) -> Option<Self> {
        let part = |n| filled(&repetition.text(n)).unwrap_or_default();
        let coded = Self {
            code: part(1),
            text: part(2),
            system: part(3),
        };
        if coded == Self::default() {
            None
        } else {
            Some(coded)
        }
    }
}

/// An entity identifier (EI): a reference and who gave it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EntityId {
    /// The reference itself.
    pub id: String,
    /// The namespace of the giver.
    pub namespace: String,
    /// The giver's universal id, where there is one.
    pub universal_id: String,
}

impl Repeated for EntityId {
    fn read(repetition: Repetition<'_>) -> Option<Self> {
        let part = |n| filled(&repetition.text(n)).unwrap_or_default();
        let id = part(1);
        (!id.is_empty()).then(|| Self {
            id,
            namespace: part(2),
            universal_id: part(3),
        })
    }
}

/// A hierarchic designator (HD): a name and perhaps a universal id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Designator {
    /// The local name, the first component.
    pub name: String,
    /// The universal id, an OID for example.
    pub universal_id: Option<String>,
}

impl Designator {
    fn read(segment: Segment<'_>, field: usize) -> Self {
        Self {
            name: filled_text(segment, field, 1).unwrap_or_default(),
            universal_id: filled_text(segment, field, 2),
        }
    }
}

/// When an acknowledgement is asked for: MSH-15 and MSH-16, table 0155.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AckCondition {
    /// Blank: the original mode decides.
    #[default]
    Unstated,
    /// `AL`: always.
    Always,
    /// `NE`: never.
    Never,
    /// `ER`: on error or reject.
    OnError,
    /// `SU`: on success.
    OnSuccess,
}

impl AckCondition {
    fn read(segment: Segment<'_>, field: usize) -> Self {
        match filled_text(segment, field, 1).as_deref() {
            Some("AL") => Self::Always,
            Some("NE") => Self::Never,
            Some("ER") => Self::OnError,
            Some("SU") => Self::OnSuccess,
            _ => Self::Unstated,
        }
    }
}

/// The longest name, id or reference that is taken, in characters.
pub const IDENTIFIER_CHARS_MAX: usize = 199;

/// Refuses a name, id or reference that is too long to be one.
fn bounded(value: &str, segment: &str, field: usize) -> Result<(), FieldFault> {
    if value.chars().count() <= IDENTIFIER_CHARS_MAX {
        return Ok(());
    }
    Err(FieldFault::field(
        segment,
        field,
        "has more than 199 characters",
        ErrorCode::DataType,
    ))
}

/// The message header: who speaks to whom, about what, under which id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// MSH-10, never empty.
    pub control_id: String,
    /// MSH-9.1, `REF` for example.
    pub message_code: String,
    /// MSH-9.2, `I12` for example; empty when it is not there.
    pub event: String,
    /// MSH-3.
    pub sending_app: Designator,
    /// MSH-4.
    pub sending_facility: Designator,
    /// MSH-5.
    pub receiving_app: Designator,
    /// MSH-6.
    pub receiving_facility: Designator,
    /// MSH-7 as it stands.
    pub timestamp: String,
    /// MSH-11.1: `P`, `T` or `D`.
    pub processing_id: String,
    /// MSH-12.1.
    pub version: String,
    /// MSH-15: when a commit acknowledgement is asked for.
    pub accept_ack: AckCondition,
    /// MSH-16: when an application acknowledgement is asked for.
    pub application_ack: AckCondition,
}

impl Envelope {
    /// Reads the header without asking what kind of message it is.
    ///
    /// # Errors
    /// MSH-9 or MSH-10 missing: such a message can be neither sorted nor answered. A name too long.
    pub fn read(message: &Message) -> Result<Self, FieldFault> {
        let msh = message
            .segment("MSH", 1)
            .ok_or_else(|| FieldFault::missing_segment("MSH"))?;
        let required = |field| {
            filled_text(msh, field, 1).ok_or_else(|| FieldFault::missing_field("MSH", field))
        };
        let envelope = Self {
            control_id: required(10)?,
            message_code: required(9)?,
            event: filled_text(msh, 9, 2).unwrap_or_default(),
            sending_app: Designator::read(msh, 3),
            sending_facility: Designator::read(msh, 4),
            receiving_app: Designator::read(msh, 5),
            receiving_facility: Designator::read(msh, 6),
            timestamp: filled_text(msh, 7, 1).unwrap_or_default(),
            processing_id: filled_text(msh, 11, 1).unwrap_or_default(),
            version: filled_text(msh, 12, 1).unwrap_or_default(),
            accept_ack: AckCondition::read(msh, 15),
            application_ack: AckCondition::read(msh, 16),
        };
        bounded(&envelope.sending_app.name, "MSH", 3)?;
        bounded(&envelope.sending_facility.name, "MSH", 4)?;
        bounded(&envelope.message_code, "MSH", 9)?;
        bounded(&envelope.event, "MSH", 9)?;
        bounded(&envelope.control_id, "MSH", 10)?;
        Ok(envelope)
    }

    /// Says whether the sender asks for a commit acknowledgement of its own, of a message that was taken or of one
    /// that was not.
    pub fn wants_commit_ack(&self, taken: bool) -> bool {
        match self.accept_ack {
            AckCondition::Always => true,
            AckCondition::OnSuccess => taken,
            AckCondition::OnError => !taken,
            AckCondition::Unstated | AckCondition::Never => false,
        }
    }
}

/// The referral information segment.
#[derive(Clone, PartialEq, Eq)]
pub struct Rf1 {
    /// RF1-1, table 0283: accepted, expired, pending or rejected.
    pub status: Option<Coded>,
    /// RF1-2, table 0280.
    pub priority: Option<Coded>,
    /// RF1-3, table 0281.
    pub kind: Option<Coded>,
    /// RF1-4, table 0282.
    pub dispositions: Vec<Coded>,
    /// RF1-5, table 0284.
    pub category: Option<Coded>,
    /// RF1-6, the originator's reference; its id is never empty.
    pub originating: EntityId,
    /// RF1-7 as it stands.
    pub effective: Option<String>,
    /// RF1-10, table 0336 and local ones.
    pub reasons: Vec<Coded>,
    /// RF1-11, references that others gave.
    pub external: Vec<EntityId>,
}

impl Rf1 {
    /// Reads the segment.
    ///
    /// # Errors
    /// RF1-6 missing, without its first component, or too long.
    pub fn read(message: &Message) -> Result<Self, FieldFault> {
        let missing = || FieldFault::missing_field("RF1", 6);
        let rf1 = message.segment("RF1", 1).ok_or_else(missing)?;
        if message.segment("RF1", 2).is_some() {
            let rule = "stands more than once";
            return Err(FieldFault::segment("RF1", rule, ErrorCode::SegmentSequence).at(2));
        }
        let originating = EntityId::read(rf1.field(6).first()).ok_or_else(missing)?;
        bounded(&originating.id, "RF1", 6)?;
        bounded(&originating.namespace, "RF1", 6)?;
        Ok(Self {
            status: Coded::first(rf1, 1),
            priority: Coded::first(rf1, 2),
            kind: Coded::first(rf1, 3),
            dispositions: Coded::all(rf1, 4),
            category: Coded::first(rf1, 5),
            originating,
            effective: filled_text(rf1, 7, 1),
            reasons: Coded::all(rf1, 10),
            external: EntityId::all(rf1, 11),
        })
    }
}

/// An identifier with its giver and its kind, from PID-3 or PRD-7.
#[derive(Clone, PartialEq, Eq)]
pub struct Identifier {
    /// The identifier itself.
    pub value: String,
    /// Who assigned it; `NHS` for example.
    pub authority: String,
    /// What kind it is: `NH` an NHS number, `UPN`, `ODS`.
    pub kind: String,
}

impl Identifier {
    /// Reads a PID-3 repetition (CX).
    pub(super) fn of_patient(repetition: Repetition<'_>) -> Option<Self> {
        Self::read(repetition, 4, 5)
    }

    /// Reads a PRD-7 repetition (PLN): id, type.
    fn of_provider(repetition: Repetition<'_>) -> Option<Self> {
        Self::read(repetition, 3, 2)
    }

    fn read(repetition: Repetition<'_>, authority: usize, kind: usize) -> Option<Self> {
        let value = filled(&repetition.text(1))?;
        let part = |n| filled(&repetition.text(n)).unwrap_or_default();
        Some(Self {
            value,
            authority: part(authority),
            kind: part(kind),
        })
    }
}

/// A person's name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Name {
    /// Family name.
    pub family: String,
    /// Given name.
    pub given: String,
    /// Second and further given names.
    pub further: String,
    /// Form of address.
    pub prefix: String,
}

impl Repeated for Name {
    fn read(repetition: Repetition<'_>) -> Option<Self> {
        let part = |n| filled(&repetition.text(n)).unwrap_or_default();
        let name = Self {
            family: part(1),
            given: part(2),
            further: part(3),
            prefix: part(5),
        };
        if name == Self::default() {
            None
        } else {
            Some(name)
        }
    }
}

/// One provider segment: who refers, who is referred to, who else is in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Provider {
    /// PRD-1, table 0286: `RP` refers, `RT` is referred to; never empty.
    pub roles: Vec<Coded>,
    /// PRD-2.
    pub name: Option<Name>,
    /// PRD-10.1 or the facility of PRD-4.
    pub organisation: Option<String>,
    /// PRD-7.
    pub ids: Vec<Identifier>,
    /// PRD-5, every number and address.
    pub contacts: Vec<String>,
}

impl Provider {
    /// Says whether the provider has this role of table 0286.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|it| it.code == role)
    }

    /// Reads every provider of the message.
    ///
    /// # Errors
    /// A provider without a role.
    pub fn read_all(message: &Message) -> Result<Vec<Self>, FieldFault> {
        let read = |(nth, prd): (usize, Segment<'_>)| {
            let roles = Coded::all(prd, 1);
            if roles.is_empty() {
                return Err(FieldFault::missing_field("PRD", 1).at(nth + 1));
            }
            Ok(Self {
                roles,
                name: Name::first(prd, 2),
                organisation: filled_text(prd, 10, 1).or_else(|| filled_text(prd, 4, 4)),
                ids: prd
                    .field(7)
                    .repetitions()
                    .filter_map(Identifier::of_provider)
                    .collect(),
                contacts: contacts(prd, 5),
            })
        };
        message
            .segments_named("PRD")
            .enumerate()
            .map(read)
            .collect()
    }
}

/// Reads every telephone number and address of a field (XTN), wherever its version puts them.
pub(super) fn contacts(segment: Segment<'_>, field: usize) -> Vec<String> {
    let read = |repetition: Repetition<'_>| {
        let part = |n| filled(&repetition.text(n));
        let joined = part(7).map(|local| format!("{}{local}", part(6).unwrap_or_default()));
        let number = part(1).or_else(|| part(12)).or(joined);
        number.into_iter().chain(part(4)).collect::<Vec<_>>()
    };
    segment.field(field).repetitions().flat_map(read).collect()
}

/// One note: its lines, and the segment it stands behind.
#[derive(Clone, PartialEq, Eq)]
pub struct Note {
    /// The name of the segment the note belongs to.
    pub after: String,
    /// NTE-2, the source of the comment.
    pub source: String,
    /// NTE-3, a line for each repetition that is not blank, spaces kept.
    pub lines: Vec<String>,
    /// NTE-4, the kind of comment, table 0364.
    pub kind: Option<Coded>,
}

impl Note {
    /// Reads every note of the message.
    pub fn read_all(message: &Message) -> Vec<Self> {
        let mut after = "MSH";
        let mut notes = Vec::new();
        for segment in message.segments() {
            if segment.name() == "NTE" {
                let lines = segment.field(3).repetitions();
                notes.push(Self {
                    after: after.to_owned(),
                    source: filled_text(segment, 2, 1).unwrap_or_default(),
                    lines: lines
                        .map(|line| line.whole().into_owned())
                        .filter(|line| filled(line).is_some())
                        .collect(),
                    kind: Coded::first(segment, 4),
                });
            } else {
                after = segment.name();
            }
        }
        notes
    }
}

/// One allergy.
#[derive(Clone, PartialEq, Eq)]
pub struct Allergy {
    /// AL1-2, table 0127.
    pub kind: Option<Coded>,
    /// AL1-3, the substance.
    pub substance: Coded,
    /// AL1-4, table 0128.
    pub severity: Option<Coded>,
    /// AL1-5, each reaction.
    pub reactions: Vec<String>,
}

impl Allergy {
    /// Reads every allergy of the message.
    ///
    /// # Errors
    /// An allergy that does not say to what: it must not be dropped.
    pub fn read_all(message: &Message) -> Result<Vec<Self>, FieldFault> {
        let read = |(al1, nth): (Segment<'_>, usize)| {
            let substance = Coded::first(al1, 3);
            let substance = substance.ok_or_else(|| FieldFault::missing_field("AL1", 3).at(nth))?;
            Ok(Self::read(al1, substance))
        };
        message.segments_named("AL1").zip(1..).map(read).collect()
    }

    /// Reads every allergy that says to what, how severe it is or what comes of it: others are places that nobody filled.
    pub(super) fn read_stated(message: &Message) -> Vec<Self> {
        let read = |al1| Self::read(al1, Coded::first(al1, 3).unwrap_or_default());
        let says = |it: &Self| {
            it.substance != Coded::default() || it.severity.is_some() || !it.reactions.is_empty()
        };
        let all = message.segments_named("AL1").map(read);
        all.filter(says).collect()
    }

    fn read(al1: Segment<'_>, substance: Coded) -> Self {
        Self {
            kind: Coded::first(al1, 2),
            substance,
            severity: Coded::first(al1, 4),
            reactions: al1
                .field(5)
                .repetitions()
                .filter_map(|it| filled(&it.whole()))
                .collect(),
        }
    }
}

/// A segment that has no meaning here and is kept as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptSegment {
    /// The segment's name.
    pub name: String,
    /// The whole segment.
    pub raw: String,
}

impl KeptSegment {
    /// Whether its meaning is agreed between two systems: HL7 leaves names that begin with Z to them.
    pub(super) fn is_local(&self) -> bool {
        self.name.starts_with('Z')
    }

    /// Takes every segment whose name is not in the list.
    pub(super) fn all_but(message: &Message, known: &[&str]) -> Vec<Self> {
        message
            .segments()
            .filter(|segment| !known.contains(&segment.name()))
            .map(|it| Self {
                name: it.name().to_owned(),
                raw: it.raw().to_owned(),
            })
            .collect()
    }
}

opaque_debug!(
    Coded,
    EntityId,
    Rf1,
    Identifier,
    Name,
    Provider,
    Note,
    Allergy,
    KeptSegment
);
pub(super) use opaque_debug;
