//! FHIR's codes against the canonical lists.

use serde_json::{Value, json};
use waymark_core::leg::LegState;
use waymark_core::port::{CancelCode, StopNotice};
use waymark_core::referral::{ContactRole, Priority, Sex};

/// A relation as v3-RoleCode has it.
pub(super) fn relationship(role: ContactRole) -> Value {
    let code = match role {
        ContactRole::Mother => "MTH",
        ContactRole::Father => "FTH",
        ContactRole::Parent => "PRN",
        ContactRole::Carer => "GUARD",
        ContactRole::YoungPerson => "ONESELF",
        ContactRole::SocialWorker | ContactRole::Professional | ContactRole::Other => {
            return Value::Null;
        }
    };
    json!({ "system": "http://terminology.hl7.org/CodeSystem/v3-RoleCode", "code": code })
}

/// Reads a relation; every other one is recorded as other.
pub(super) fn role_of(code: &str) -> ContactRole {
    match code {
        "MTH" | "NMTH" => ContactRole::Mother,
        "FTH" | "NFTH" => ContactRole::Father,
        "PRN" | "NPRN" | "Parent" => ContactRole::Parent,
        "GUARD" | "PRNFOST" => ContactRole::Carer,
        "ONESELF" => ContactRole::YoungPerson,
        _ => ContactRole::Other,
    }
}

/// Reads a priority: never later than it was meant.
pub(super) fn priority_of(code: &str) -> Option<Priority> {
    match code {
        "routine" => Some(Priority::Routine),
        "urgent" | "asap" => Some(Priority::Urgent),
        "stat" => Some(Priority::Immediate),
        _ => None,
    }
}

/// Reads an administrative gender.
pub(super) fn sex_of(code: &str) -> Option<Sex> {
    match code {
        "female" => Some(Sex::Female),
        "male" => Some(Sex::Male),
        "other" => Some(Sex::Other),
        "unknown" => Some(Sex::Unknown),
        _ => None,
    }
}

/// Status of a request in BaRS, which knows three (BaRS Core 1.4); the exact state travels beside it.
pub(super) fn bars_status(state: LegState) -> &'static str {
    match state {
        LegState::Declined | LegState::Redirected | LegState::Cancelled => "revoked",
        LegState::EnteredInError => "entered-in-error",
        _ => "active",
    }
}

/// Status of a request that ends: a mistake is no decision (BaRS Core 1.4, cancel).
pub(super) const fn ended_request(stop: Option<&StopNotice>) -> &'static str {
    if is_mistake(stop) {
        "entered-in-error"
    } else {
        "revoked"
    }
}

/// Status of the task of such a request.
pub(super) const fn ended_task(stop: Option<&StopNotice>) -> &'static str {
    if is_mistake(stop) {
        "entered-in-error"
    } else {
        "cancelled"
    }
}

const fn is_mistake(stop: Option<&StopNotice>) -> bool {
    matches!(
        stop,
        Some(StopNotice::Cancelled {
            code: CancelCode::EnteredInError,
            ..
        })
    )
}

/// Status of the encounter beside it (BaRS application 6). Of a referral that nobody has taken up none is planned, and
/// without an encounter it would be read as accepted.
pub(super) fn encounter_status(state: LegState) -> &'static str {
    match state {
        LegState::Submitted => "unknown",
        LegState::InfoNeeded | LegState::Accepted | LegState::Waiting | LegState::Booked => {
            "planned"
        }
        LegState::InTriage => "triaged",
        LegState::InAssessment => "in-progress",
        LegState::OnHold | LegState::WasNotBrought | LegState::AppointmentCancelled => "onleave",
        LegState::Assessed | LegState::Guided | LegState::Closed => "finished",
        LegState::Declined | LegState::Redirected | LegState::Cancelled => "cancelled",
        LegState::EnteredInError => "entered-in-error",
    }
}

/// What the statuses of a request and of its encounter say together. BaRS has few; the earliest state is taken that
/// they can mean.
pub(super) fn bars_state(request: &str, encounter: Option<&str>) -> Option<LegState> {
    match (request, encounter) {
        ("revoked", _) => Some(LegState::Declined),
        ("entered-in-error", _) => Some(LegState::EnteredInError),
        ("on-hold", _) | ("active", Some("onleave")) => Some(LegState::OnHold),
        ("completed", _) | ("active", Some("finished")) => Some(LegState::Assessed),
        ("active", Some("triaged")) => Some(LegState::InTriage),
        ("active", Some("arrived" | "in-progress")) => Some(LegState::InAssessment),
        ("active", Some("cancelled")) => Some(LegState::AppointmentCancelled),
        ("active", None | Some("planned")) => Some(LegState::Accepted),
        _ => None,
    }
}

/// Status of a task (DOMAIN.md 2.1; ruling 24).
pub(super) fn task_status(state: LegState, did_not_arrive: bool) -> &'static str {
    match state {
        LegState::Submitted if did_not_arrive => "failed",
        LegState::Submitted => "requested",
        LegState::InTriage => "received",
        LegState::Accepted => "accepted",
        LegState::Waiting | LegState::Booked => "ready",
        LegState::Declined => "rejected",
        LegState::Redirected | LegState::Cancelled => "cancelled",
        LegState::InfoNeeded
        | LegState::WasNotBrought
        | LegState::AppointmentCancelled
        | LegState::OnHold => "on-hold",
        LegState::InAssessment | LegState::Assessed | LegState::Guided => "in-progress",
        LegState::Closed => "completed",
        LegState::EnteredInError => "entered-in-error",
    }
}

/// What a task's status says where no business status says it more exactly; none where it says nothing new.
pub(super) fn task_state(status: &str, has_output: bool) -> Option<LegState> {
    match status {
        "accepted" => Some(LegState::Accepted),
        "ready" => Some(LegState::Waiting),
        "rejected" => Some(LegState::Declined),
        "cancelled" => Some(LegState::Cancelled),
        "in-progress" if !has_output => Some(LegState::InAssessment),
        "on-hold" | "failed" => Some(LegState::OnHold),
        "completed" | "in-progress" => Some(LegState::Assessed),
        "entered-in-error" => Some(LegState::EnteredInError),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_never_read_as_later_than_it_was_meant() {
        for (code, priority) in [
            ("routine", Priority::Routine),
            ("urgent", Priority::Urgent),
            ("asap", Priority::Urgent),
            ("stat", Priority::Immediate),
        ] {
            assert_eq!(priority_of(code), Some(priority));
        }
        assert_eq!(priority_of("R"), None);
    }

    #[test]
    fn a_decline_of_a_task_is_rejected_and_of_a_bars_request_revoked() {
        assert_eq!(task_status(LegState::Declined, false), "rejected");
        assert_eq!(bars_status(LegState::Declined), "revoked");
        assert_eq!(bars_state("revoked", None), Some(LegState::Declined));
        assert_eq!(task_state("rejected", false), Some(LegState::Declined));
    }

    #[test]
    fn only_what_a_status_can_mean_is_read_from_it() {
        assert_eq!(task_state("requested", false), None);
        assert_eq!(task_state("received", false), None);
        assert_eq!(task_state("in-progress", true), Some(LegState::Assessed));
        assert_eq!(bars_state("draft", None), None);
        assert_eq!(
            bars_state("active", Some("arrived")),
            Some(LegState::InAssessment)
        );
    }
}
