//! Codes of HL7 tables against the canonical lists. Where a table is coarser, the exact code travels in
//! a note beside it.

use waymark_core::directory::{CodeMap, Environment, WireCode};
use waymark_core::referral::{ContactRole, Priority, Sex};

use super::super::build::Processing;

/// Table 0280: how soon.
pub fn priority_code(priority: Priority) -> (&'static str, &'static str) {
    match priority {
        Priority::Routine => ("R", "Routine"),
        Priority::Soon | Priority::Urgent => ("A", "ASAP"),
        Priority::Immediate => ("S", "STAT"),
    }
}

/// Reads table 0280; as soon as possible is read as urgent, the sooner of the two it may mean.
pub fn priority(code: &str) -> Option<Priority> {
    match code {
        "R" => Some(Priority::Routine),
        "A" => Some(Priority::Urgent),
        "S" => Some(Priority::Immediate),
        _ => None,
    }
}

/// RF1-2 of a priority: by the receiver's own code where its map has one.
pub(in crate::hl7v2) fn priority_out(codes: &CodeMap, value: Priority) -> WireCode {
    codes.priority.get(&value).cloned().unwrap_or_else(|| {
        let (code, display) = priority_code(value);
        WireCode {
            code: code.to_owned(),
            system: "HL70280".to_owned(),
            display: display.to_owned(),
        }
    })
}

/// Reads RF1-2: the sender's own code first, then table 0280.
pub(in crate::hl7v2) fn priority_in(codes: &CodeMap, system: &str, code: &str) -> Option<Priority> {
    codes.priority_of(system, code).or_else(|| priority(code))
}

/// Table 0001: administrative sex.
pub fn sex_code(sex: Sex) -> &'static str {
    match sex {
        Sex::Female => "F",
        Sex::Male => "M",
        Sex::Other => "O",
        Sex::Unknown => "U",
    }
}

/// Reads table 0001; ambiguous is recorded as other, what is not applicable or blank as unknown.
pub fn sex(code: &str) -> Option<Sex> {
    match code {
        "F" => Some(Sex::Female),
        "M" => Some(Sex::Male),
        "O" | "A" => Some(Sex::Other),
        "U" | "N" | "" => Some(Sex::Unknown),
        _ => None,
    }
}

/// Table 0063: relationship.
pub fn relationship_code(role: ContactRole) -> (&'static str, &'static str) {
    match role {
        ContactRole::Mother => ("MTH", "Mother"),
        ContactRole::Father => ("FTH", "Father"),
        ContactRole::Parent => ("PAR", "Parent"),
        ContactRole::Carer => ("CGV", "Care giver"),
        ContactRole::YoungPerson => ("SEL", "Self"),
        ContactRole::SocialWorker | ContactRole::Professional | ContactRole::Other => {
            ("OTH", "Other")
        }
    }
}

/// Reads table 0063; every other relationship is recorded as other.
pub fn relationship(code: &str) -> ContactRole {
    match code {
        "MTH" => ContactRole::Mother,
        "FTH" => ContactRole::Father,
        "PAR" => ContactRole::Parent,
        "CGV" | "GRD" | "FCH" => ContactRole::Carer,
        "SEL" => ContactRole::YoungPerson,
        _ => ContactRole::Other,
    }
}

/// Table 0103: what kind of traffic an environment sends.
pub fn processing(environment: Environment) -> Processing {
    match environment {
        Environment::Live => Processing::Production,
        Environment::Test => Processing::Training,
    }
}

/// Reads table 0103; debugging traffic is test traffic.
pub fn environment(processing_id: &str) -> Option<Environment> {
    match processing_id {
        "P" => Some(Environment::Live),
        "T" | "D" => Some(Environment::Test),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_priority_is_read_back_no_later_than_it_was() {
        for written in Priority::ALL {
            let read = priority(priority_code(*written).0).unwrap();
            assert!(read >= *written, "{written} became {read}");
        }
        assert_eq!(priority("X"), None);
    }

    #[test]
    fn sex_and_family_relationships_are_read_back() {
        for written in Sex::ALL {
            assert_eq!(sex(sex_code(*written)), Some(*written));
        }
        for written in [
            ContactRole::Mother,
            ContactRole::Father,
            ContactRole::Parent,
            ContactRole::Carer,
            ContactRole::YoungPerson,
        ] {
            assert_eq!(relationship(relationship_code(written).0), written);
        }
        assert_eq!(sex("X"), None);
    }

    #[test]
    fn test_and_live_are_told_apart() {
        for written in [Environment::Test, Environment::Live] {
            assert_eq!(environment(processing(written).code()), Some(written));
        }
        assert_eq!(environment("D"), Some(Environment::Test));
        assert_eq!(environment(""), None);
    }
}
