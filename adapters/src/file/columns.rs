//! The columns of a referral as a CSV row: the paths of the canonical referral, things that repeat numbered from 1.
//!
//! Everything of a referral has a column, safety-critical content columns of its own; what repeats more often than
//! there are columns for cannot be carried.

/// How a column's cell is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// Text.
    Text,
    /// A whole number.
    Whole,
    /// `yes` or `no`.
    YesNo,
    /// `YYYY-MM-DD`.
    Day,
    /// Codes, with semicolons between.
    List,
    /// An identifier of so many digits.
    Digits(usize),
    /// A telephone number.
    Phone,
}

use Cell::{Day, Digits, List, Phone, Text, Whole, YesNo};

/// One column, or within a group one part of it.
pub(super) type Column = (&'static str, Cell);

/// Columns of things that are there once.
pub(super) const SINGLE: &[Column] = &[
    ("child.name.family", Text),
    ("child.name.given", Text),
    ("child.name.middle", Text),
    ("child.date_of_birth", Day),
    ("child.sex", Text),
    ("child.nhs_number", Digits(10)),
    ("child.nhs_verification", Text),
    ("child.upn", Text),
    ("child.uln", Digits(10)),
    ("child.address.postcode", Text),
    ("child.language", Text),
    ("child.interpreter_required", YesNo),
    ("referrer.name", Text),
    ("referrer.role", Text),
    ("referrer.phone", Phone),
    ("referrer.email", Text),
    ("setting.urn", Digits(6)),
    ("setting.name", Text),
    ("setting.kind", Text),
    ("setting.year_group", Whole),
    ("setting.sen_provision", Text),
    ("pathway", Text),
    ("requested_service", Text),
    ("priority", Text),
    ("priority_reason", Text),
    ("reason.code", Text),
    ("reason.text", Text),
    ("hearing_checked", Text),
    ("vision_checked", Text),
    ("attendance_percent", Whole),
    ("allergies", Text),
    ("consent.status", Text),
    ("consent.given_by", Text),
    ("consent.role", Text),
    ("consent.scope", List),
    ("consent.date", Day),
    ("consent.evidence", Text),
    ("lawful_basis", Text),
    ("sender_reference.value", Text),
    ("sender_reference.namespace", Text),
    ("narrative", Text),
];

/// Things that repeat: their path, how often at most, and the parts of each. The part `""` is the thing itself.
pub(super) const GROUPS: &[(&str, usize, &[Column])] = &[
    ("safeguarding", 6, FLAG),
    ("reasonable_adjustments", 12, FLAG),
    (
        "contacts",
        6,
        &[
            ("name.family", Text),
            ("name.given", Text),
            ("name.middle", Text),
            ("role", Text),
            ("parental_responsibility", YesNo),
            ("phone", Phone),
            ("email", Text),
            ("safe_to_contact", Text),
            ("safe_contact_note", Text),
            ("format", Text),
            ("channel", Text),
        ],
    ),
    ("child.address.lines", 8, &[("", Text)]),
    ("child.local_ids", 4, &[("system", Text), ("value", Text)]),
    ("needs", 14, &[("kind", Text), ("rank", Whole)]),
    (
        "concerns",
        6,
        &[
            ("setting", Text),
            ("text", Text),
            ("onset", Text),
            ("impact", Text),
        ],
    ),
    (
        "graduated_response",
        8,
        &[
            ("from", Day),
            ("to", Day),
            ("what", Text),
            ("outcome", Text),
        ],
    ),
    (
        "documents",
        10,
        &[
            ("id", Text),
            ("sha256", Text),
            ("media_type", Text),
            ("size_bytes", Whole),
            ("title", Text),
            ("kind", Text),
        ],
    ),
    ("external_ids", 6, &[("system", Text), ("value", Text)]),
];

const FLAG: &[Column] = &[("system", Text), ("code", Text), ("text", Text)];

/// Columns that a referral must fill, so that what is missing is named before anything else is judged.
pub(super) const REQUIRED: &[&str] = &[
    "child.name.family",
    "child.name.given",
    "child.date_of_birth",
    "referrer.name",
    "referrer.role",
    "pathway",
    "priority",
    "reason.code",
    "consent.status",
    "consent.role",
    "lawful_basis",
];

/// Columns that say what a row is; they stand before all others in what we write, and need not be in what we read.
pub(super) const MESSAGE: &[&str] = &[
    "message.id",
    "message.kind",
    "message.environment",
    "message.reference",
    "message.sender",
    "message.recipient",
    "message.service",
    "message.created",
];

/// Columns of a status that we write.
pub(super) const STATUS_OUT: &[&str] = &[
    "status.from",
    "status.service",
    "status.state",
    "status.code",
    "status.text",
    "status.due",
    "status.at",
];

/// Columns of an end that we write or read.
pub(super) const ENDING: &[Column] = &[
    ("sender_reference.value", Text),
    ("sender_reference.namespace", Text),
    ("reason", Text),
    ("code", Text),
];

/// Columns of a status that we read: the fields of a webhook's callback.
pub(super) const STATUS_IN: &[Column] = &[
    ("referral", Text),
    ("answers", Text),
    ("state", Text),
    ("source_version", Whole),
    ("receiver_reference", Text),
    ("reason_code", Text),
    ("text", Text),
    ("due", Day),
    ("at", Text),
    ("accepted_by", Text),
];

/// The name of a group's column.
pub(super) fn numbered(prefix: &str, number: usize, part: &str) -> String {
    if part.is_empty() {
        format!("{prefix}.{number}")
    } else {
        format!("{prefix}.{number}.{part}")
    }
}
