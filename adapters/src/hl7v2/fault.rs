//! What is wrong with a message, said by segment and field, never by content.

use std::borrow::Cow;
use std::fmt;

/// An error code of HL7 table 0357.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// 0: accepted.
    Accepted,
    /// 100: a segment is missing or out of place.
    SegmentSequence,
    /// 101: a required field is missing.
    RequiredFieldMissing,
    /// 102: a field holds what its data type does not allow.
    DataType,
    /// 103: a coded value is not in its table.
    TableValueNotFound,
    /// 200: the message type is not supported.
    UnsupportedMessageType,
    /// 201: the event code is not supported.
    UnsupportedEventCode,
    /// 202: the processing id is not supported.
    UnsupportedProcessingId,
    /// 203: the version is not supported.
    UnsupportedVersion,
    /// 204: the key is not known.
    UnknownKey,
    /// 205: the key is already known.
    DuplicateKey,
    /// 206: the record is locked.
    RecordLocked,
    /// 207: the application failed inside.
    ApplicationInternal,
}

impl ErrorCode {
    /// Every code of the table.
    pub const ALL: [Self; 13] = [
        Self::Accepted,
        Self::SegmentSequence,
        Self::RequiredFieldMissing,
        Self::DataType,
        Self::TableValueNotFound,
        Self::UnsupportedMessageType,
        Self::UnsupportedEventCode,
        Self::UnsupportedProcessingId,
        Self::UnsupportedVersion,
        Self::UnknownKey,
        Self::DuplicateKey,
        Self::RecordLocked,
        Self::ApplicationInternal,
    ];

    /// Returns the number that stands on the wire.
    pub fn number(self) -> u16 {
        match self {
            Self::Accepted => 0,
            Self::SegmentSequence => 100,
            Self::RequiredFieldMissing => 101,
            Self::DataType => 102,
            Self::TableValueNotFound => 103,
            Self::UnsupportedMessageType => 200,
            Self::UnsupportedEventCode => 201,
            Self::UnsupportedProcessingId => 202,
            Self::UnsupportedVersion => 203,
            Self::UnknownKey => 204,
            Self::DuplicateKey => 205,
            Self::RecordLocked => 206,
            Self::ApplicationInternal => 207,
        }
    }

    /// Returns the table's own wording.
    pub fn text(self) -> &'static str {
        match self {
            Self::Accepted => "Message accepted",
            Self::SegmentSequence => "Segment sequence error",
            Self::RequiredFieldMissing => "Required field missing",
            Self::DataType => "Data type error",
            Self::TableValueNotFound => "Table value not found",
            Self::UnsupportedMessageType => "Unsupported message type",
            Self::UnsupportedEventCode => "Unsupported event code",
            Self::UnsupportedProcessingId => "Unsupported processing id",
            Self::UnsupportedVersion => "Unsupported version id",
            Self::UnknownKey => "Unknown key identifier",
            Self::DuplicateKey => "Duplicate key identifier",
            Self::RecordLocked => "Application record locked",
            Self::ApplicationInternal => "Application internal error",
        }
    }

    /// Finds the code with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }
}

/// One fault in a message: where it is and which rule it breaks. It never carries content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFault {
    /// The segment's three letters, or `#n` for the n-th segment when it has no readable name.
    pub segment: String,
    /// Which of the segments of that name, counted from one.
    pub occurrence: usize,
    /// The field's number, or none when the whole segment is at fault.
    pub field: Option<usize>,
    /// The rule that is broken, in words.
    pub rule: Cow<'static, str>,
    /// The code of table 0357.
    pub hl7_code: ErrorCode,
}

impl FieldFault {
    /// Makes a fault of one field in the first segment of its name.
    pub fn field(
        segment: &str,
        field: usize,
        rule: impl Into<Cow<'static, str>>,
        hl7_code: ErrorCode,
    ) -> Self {
        Self {
            field: Some(field),
            ..Self::segment(segment, rule, hl7_code)
        }
    }

    /// Makes the fault of a field that must be there and is not.
    pub fn missing_field(segment: &str, field: usize) -> Self {
        Self::field(
            segment,
            field,
            "is required and missing",
            ErrorCode::RequiredFieldMissing,
        )
    }

    /// Makes the fault of a segment as a whole.
    pub fn segment(segment: &str, rule: impl Into<Cow<'static, str>>, hl7_code: ErrorCode) -> Self {
        Self {
            segment: segment.to_owned(),
            occurrence: 1,
            field: None,
            rule: rule.into(),
            hl7_code,
        }
    }

    /// Makes the fault of a segment that must be there and is not.
    pub fn missing_segment(segment: &str) -> Self {
        Self::segment(
            segment,
            "is required and missing",
            ErrorCode::SegmentSequence,
        )
    }

    /// Says which of the segments of that name is at fault.
    #[must_use]
    pub fn at(mut self, occurrence: usize) -> Self {
        self.occurrence = occurrence;
        self
    }

    /// Returns where the fault is, as `RF1-6` or `NTE[2]-3`.
    pub fn place(&self) -> String {
        let nth = if self.occurrence > 1 {
            format!("[{}]", self.occurrence)
        } else {
            String::new()
        };
        let field = self
            .field
            .map(|field| format!("-{field}"))
            .unwrap_or_default();
        format!("{}{nth}{field}", self.segment)
    }
}

impl fmt::Display for FieldFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} (HL7 error {})",
            self.place(),
            self.rule,
            self.hl7_code.number()
        )
    }
}

impl std::error::Error for FieldFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_names_segment_occurrence_and_field() {
        assert_eq!(
            FieldFault::missing_field("RF1", 6).to_string(),
            "RF1-6 is required and missing (HL7 error 101)"
        );
        assert_eq!(
            FieldFault::field("NTE", 3, "is bad", ErrorCode::DataType)
                .at(2)
                .place(),
            "NTE[2]-3"
        );
        assert_eq!(
            FieldFault::missing_segment("PID").to_string(),
            "PID is required and missing (HL7 error 100)"
        );
    }

    #[test]
    fn every_code_of_table_0357_is_found_by_its_number() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(code));
        }
        assert_eq!(ErrorCode::from_number(104), None);
    }
}
