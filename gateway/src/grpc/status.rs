//! The one map from refusals to gRPC statuses, with the details of `google.rpc`.

use std::collections::HashMap;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tracing::{debug, error, info, warn};
use waymark_core::error::{ErrorKind, Violation};
use waymark_proto::v1;

use crate::service::ServiceError;
use crate::telemetry::chain;

/// The domain of reasons in `ErrorInfo`.
pub(super) const DOMAIN: &str = "waymark";
/// Bytes of field violations in one status: it travels in a header, which peers cap.
pub(super) const VIOLATION_BYTES_MAX: usize = 3 * 1024;

/// A cursor that the gateway cannot go on from.
pub(super) const CURSOR_OUT_OF_RANGE: &str = "CURSOR_OUT_OF_RANGE";
/// Content that is not what its digest or size says.
pub(super) const CONTENT_DIFFERS: &str = "CONTENT_DIFFERS";
/// The thing changed since the caller read it.
pub(super) const CHANGED_MEANWHILE: &str = "CHANGED_MEANWHILE";
/// The process stops.
pub(super) const STOPPING: &str = "STOPPING";
/// Another release of the directory came first.
pub(super) const RELEASE_MOVED: &str = "RELEASE_MOVED";

/// Reasons that say more than their kind does.
const CODES: &[(&str, Code)] = &[
    (CHANGED_MEANWHILE, Code::Aborted),
    (RELEASE_MOVED, Code::Aborted),
    ("LEASE_LOST", Code::Aborted),
    (CURSOR_OUT_OF_RANGE, Code::OutOfRange),
    (CONTENT_DIFFERS, Code::DataLoss),
];

/// Makes a refusal's status and logs it, once, under the incident that the caller is told.
pub(super) fn refusal(refused: &ServiceError) -> Status {
    let incident = incident();
    let (kind, reason) = (refused.kind, refused.reason);
    let cause = refused
        .cause
        .as_deref()
        .map(|cause| chain(cause))
        .unwrap_or_default();
    match kind {
        ErrorKind::Corrupt | ErrorKind::Internal => {
            error!(incident.id = %incident, error.reason = reason, error = %cause, "a call failed: {reason}");
        }
        ErrorKind::Unavailable if reason == STOPPING => {
            debug!(incident.id = %incident, error.reason = reason, "a stream ended: the process stops");
        }
        ErrorKind::Unavailable | ErrorKind::Exhausted => {
            warn!(incident.id = %incident, error.reason = reason, error = %cause, "a call was put off: {reason}");
        }
        ErrorKind::Unauthenticated | ErrorKind::Denied => {
            info!(incident.id = %incident, error.reason = reason, "a call was refused: {reason}");
        }
        ErrorKind::Invalid
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Precondition => {
            debug!(incident.id = %incident, error.reason = reason, "a call was refused: {reason}");
        }
    }
    with_details(refused, incident)
}

/// The refusal of one item of a stream: the same status, as a message.
pub(super) fn item(refused: &ServiceError) -> v1::Status {
    let status = refusal(refused);
    // The fields and numbers of waymark.v1.Status are those of google.rpc.Status.
    v1::Status::decode(status.details()).unwrap_or_else(|_| v1::Status {
        code: i32::from(status.code()),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// One wrong field.
pub(super) fn field(field: impl Into<String>, why: impl Into<String>) -> ServiceError {
    ServiceError::field(field, why)
}

/// Wrong fields, as conversions name them.
pub(super) fn fields(violations: Vec<Violation>) -> ServiceError {
    ServiceError::invalid(violations)
}

fn with_details(refused: &ServiceError, incident: String) -> Status {
    let metadata = HashMap::from([
        ("fault".to_owned(), refused.fault.to_string()),
        ("incident".to_owned(), incident),
    ]);
    let mut details = ErrorDetails::new();
    details.set_error_info(refused.reason, DOMAIN, metadata);
    let mut room = VIOLATION_BYTES_MAX;
    for (violation, shown) in refused.violations.iter().zip(0usize..) {
        let name = contract_path(&violation.field);
        let needed = name.len() + violation.why.len();
        if needed > room {
            let left = refused.violations.len() - shown;
            details.add_bad_request_violation("", format!("and {left} more"));
            break;
        }
        room -= needed;
        details.add_bad_request_violation(name, violation.why.as_str());
    }
    if let Some(after) = refused.retry_after {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(code(refused), refused.kind.sentence(), details)
}

fn code(refused: &ServiceError) -> Code {
    if let Some((_, code)) = CODES.iter().find(|(reason, _)| *reason == refused.reason)
        && refused.kind != ErrorKind::Unavailable
    {
        return *code;
    }
    match refused.kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Conflict => Code::AlreadyExists,
        // The version that a change was decided on is a version that moved on.
        ErrorKind::Precondition
            if refused
                .violations
                .iter()
                .any(|v| v.field == "expected_version") =>
        {
            Code::Aborted
        }
        ErrorKind::Precondition => Code::FailedPrecondition,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The contract's names where the domain's differ, by segment of a path below `referral`.
const RENAMED: &[(&str, &str)] = &[
    ("requested_service", "requested_service_id"),
    ("graduated_response", "support_cycles"),
    ("safeguarding", "safeguarding_flags"),
    ("nhs_verification", "nhs_number_verification"),
    ("language", "preferred_language"),
    ("safe_contact_note", "contact_note"),
    ("format", "preferred_format"),
    ("channel", "preferred_channel"),
    ("scope", "scopes"),
];

/// A path of the domain in the contract's names.
fn contract_path(path: &str) -> String {
    if !path.starts_with("referral.") {
        return path.to_owned();
    }
    let segments = path.split('.').map(|segment| {
        let (name, index) = segment
            .split_once('[')
            .map_or((segment, None), |(name, index)| (name, Some(index)));
        let name = RENAMED
            .iter()
            .find(|(ours, _)| *ours == name)
            .map_or(name, |(_, theirs)| theirs);
        index.map_or_else(|| name.to_owned(), |index| format!("{name}[{index}"))
    });
    segments.collect::<Vec<_>>().join(".")
}

/// An id that a caller can quote and that stands beside the log line; it means nothing else.
fn incident() -> String {
    let mut bytes = [0; 8];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => hex::encode(bytes),
        Err(_) => "unnumbered".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn details(refused: &ServiceError) -> (Status, ErrorDetails) {
        let status = refusal(refused);
        let details = status.get_error_details();
        (status, details)
    }

    #[test]
    fn every_kind_has_its_code() {
        let codes = [
            (ErrorKind::Invalid, Code::InvalidArgument),
            (ErrorKind::Unauthenticated, Code::Unauthenticated),
            (ErrorKind::Denied, Code::PermissionDenied),
            (ErrorKind::NotFound, Code::NotFound),
            (ErrorKind::Conflict, Code::AlreadyExists),
            (ErrorKind::Precondition, Code::FailedPrecondition),
            (ErrorKind::Exhausted, Code::ResourceExhausted),
            (ErrorKind::Unavailable, Code::Unavailable),
            (ErrorKind::Corrupt, Code::DataLoss),
            (ErrorKind::Internal, Code::Internal),
        ];
        for (kind, code) in codes {
            let status = refusal(&ServiceError::new(kind, "ANY"));
            assert_eq!((status.code(), status.message()), (code, kind.sentence()));
        }
    }

    #[test]
    fn a_refusal_says_why_whose_fault_and_under_which_incident() {
        let refused = ServiceError::new(ErrorKind::Conflict, "REFERENCE_IN_USE")
            .with_violation("referral.sender_reference", "use a new reference");
        let (_, details) = details(&refused);
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("REFERENCE_IN_USE", "waymark")
        );
        assert_eq!(info.metadata["fault"], "SEND");
        assert_eq!(info.metadata["incident"].len(), 16);
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, "referral.sender_reference");
        assert_eq!(violation.description, "use a new reference");
        assert!(details.retry_info().is_none());
    }

    #[test]
    fn what_may_be_repeated_says_when() {
        let refused = ServiceError::new(ErrorKind::Unavailable, "STORE_UNAVAILABLE");
        let (_, details) = details(&refused);
        assert_eq!(
            details.retry_info().unwrap().retry_delay,
            Some(Duration::from_secs(1))
        );
        assert_eq!(details.error_info().unwrap().metadata["fault"], "PROXY");
    }

    #[test]
    fn a_thing_that_moved_on_is_aborted() {
        for reason in [CHANGED_MEANWHILE, RELEASE_MOVED, "LEASE_LOST"] {
            assert_eq!(
                refusal(&ServiceError::new(ErrorKind::Precondition, reason)).code(),
                Code::Aborted
            );
        }
        let amended = ServiceError::new(ErrorKind::Precondition, "CANNOT_AMEND");
        assert_eq!(refusal(&amended).code(), Code::FailedPrecondition);
        let moved = amended.with_violation("expected_version", "the referral is at version 4");
        assert_eq!(refusal(&moved).code(), Code::Aborted);
    }

    #[test]
    fn the_cause_is_never_told() {
        let cause = std::io::Error::other("row of Ada Quillfeather");
        let refused = ServiceError {
            cause: Some(Box::new(cause)),
            ..ServiceError::new(ErrorKind::Internal, "INTERNAL")
        };
        let status = refusal(&refused);
        let told = format!("{status:?}") + &String::from_utf8_lossy(status.details());
        assert!(!told.contains("Quillfeather"), "{told}");
    }

    #[test]
    fn violations_beyond_the_limit_are_counted() {
        let why = "x".repeat(VIOLATION_BYTES_MAX / 2 - 1);
        let three = vec![
            Violation::new("a", &why),
            Violation::new("b", &why),
            Violation::new("c", &why),
        ];
        let (_, details) = details(&ServiceError::invalid(three));
        let shown = details.bad_request().unwrap().field_violations.clone();
        assert_eq!(shown.len(), 3);
        assert_eq!(shown[2].description, "and 1 more");
    }

    #[test]
    fn fields_are_named_as_the_contract_names_them() {
        assert_eq!(
            contract_path("referral.safeguarding[2].code"),
            "referral.safeguarding_flags[2].code"
        );
        assert_eq!(
            contract_path("referral.contacts[0].safe_contact_note"),
            "referral.contacts[0].contact_note"
        );
        assert_eq!(
            contract_path("referral.child.name.family"),
            "referral.child.name.family"
        );
        assert_eq!(contract_path("purpose"), "purpose");
    }

    #[test]
    fn an_item_of_a_stream_is_refused_with_the_same_details() {
        let item = item(&ServiceError::field("request_id", "is required"));
        assert_eq!(item.code, i32::from(Code::InvalidArgument));
        assert_eq!(item.message, ErrorKind::Invalid.sentence());
        let kinds: Vec<&str> = item
            .details
            .iter()
            .map(|any| any.type_url.as_str())
            .collect();
        assert!(
            kinds.contains(&"type.googleapis.com/google.rpc.BadRequest"),
            "{kinds:?}"
        );
        assert!(
            kinds.contains(&"type.googleapis.com/google.rpc.ErrorInfo"),
            "{kinds:?}"
        );
    }
}
