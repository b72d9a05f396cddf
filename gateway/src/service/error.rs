//! What a use case answers when it refuses: a closed kind, a stable reason, whose fault, and the fields.

use std::time::Duration;

use waymark_core::access::Refusal;
use waymark_core::calendar::BeyondHorizon;
use waymark_core::error::{ErrorKind, Fault, Violation};
use waymark_core::port::{ConflictKey, LOW_DISK, StoreError};

/// How long a caller should wait before it repeats a call that met a passing fault.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A refusal.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.kind.sentence())]
pub struct ServiceError {
    /// The kind.
    pub kind: ErrorKind,
    /// A stable reason, upper case.
    pub reason: &'static str,
    /// Whose fault.
    pub fault: Fault,
    /// The fields that are wrong.
    pub violations: Vec<Violation>,
    /// When the same call may be repeated.
    pub retry_after: Option<Duration>,
    /// The cause, for the log alone.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ServiceError {
    /// Makes a refusal.
    pub fn new(kind: ErrorKind, reason: &'static str) -> Self {
        let fault = match kind {
            ErrorKind::Unavailable
            | ErrorKind::Corrupt
            | ErrorKind::Internal
            | ErrorKind::Exhausted => Fault::Proxy,
            _ => Fault::Send,
        };
        let retry_after =
            matches!(kind, ErrorKind::Unavailable | ErrorKind::Exhausted).then_some(RETRY_AFTER);
        Self {
            kind,
            reason,
            fault,
            violations: Vec::new(),
            retry_after,
            cause: None,
        }
    }

    /// Names a field.
    #[must_use]
    pub fn with_violation(mut self, field: impl Into<String>, why: impl Into<String>) -> Self {
        self.violations.push(Violation::new(field, why));
        self
    }

    /// An invalid request with these faults.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        Self {
            violations,
            ..Self::new(ErrorKind::Invalid, "INVALID_FIELD")
        }
    }

    /// An invalid request with one fault.
    pub fn field(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::invalid(vec![Violation::new(field, why)])
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        let kind = error.kind();
        let refusal = match &error {
            StoreError::Conflict { key: ConflictKey::Message, .. } => {
                Self::new(kind, "MESSAGE_KEY_REUSED").with_violation(
                    "request_id",
                    "came before with other content: use a new one for a new message, or send the same content",
                )
            }
            StoreError::Conflict { key: ConflictKey::Reference, .. } => {
                Self::new(kind, "REFERENCE_IN_USE").with_violation(
                    "referral.sender_reference",
                    "another referral was sent under it: amend or cancel that one, or use a new reference",
                )
            }
            StoreError::Document(id) => Self::new(kind, "DOCUMENT_NOT_HELD").with_violation(
                "referral.documents",
                format!("{id} is not held as described: upload it first and copy its id and digest"),
            ),
            StoreError::Stale => Self::new(kind, "CHANGED_MEANWHILE"),
            StoreError::LeaseLost => Self::new(kind, "LEASE_LOST"),
            StoreError::NotFound(_) => Self::new(kind, "NOT_FOUND"),
            StoreError::Exhausted { limit: LOW_DISK } => Self::new(kind, "LOW_DISK"),
            StoreError::Exhausted { .. } => Self::new(kind, "OVERLOADED"),
            StoreError::Unavailable(_) => Self::new(kind, "STORE_UNAVAILABLE"),
            StoreError::Corrupt { .. } => Self::new(kind, "STORED_DATA_CORRUPT"),
            StoreError::Internal(_) => Self::new(kind, "INTERNAL"),
        };
        Self {
            cause: Some(Box::new(error)),
            ..refusal
        }
    }
}

impl From<Refusal> for ServiceError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied => Self::new(ErrorKind::Denied, "NOT_PERMITTED"),
            Refusal::NotFound => Self::new(ErrorKind::NotFound, "NO_SUCH_REFERRAL"),
        }
    }
}

impl From<BeyondHorizon> for ServiceError {
    fn from(error: BeyondHorizon) -> Self {
        Self {
            cause: Some(Box::new(error)),
            ..Self::new(ErrorKind::Internal, "CALENDAR_HORIZON")
        }
    }
}
