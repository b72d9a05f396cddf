//! What went wrong, in words for whoever typed the command, and the exit code that says so to a script.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use prost::Message as _;
use serde::Serialize;
use tonic::Code;
use tonic_types::StatusExt as _;
use waymark_core::error::Violation;
use waymark_proto::v1;
use waymark_store::OpenError;

use super::output;
use crate::config::ConfigError;

/// Refused, or a check failed.
pub(super) const REFUSED: u8 = 1;
/// The command line or a configuration file is wrong.
pub(super) const USAGE: u8 = 2;
/// The gateway or the database cannot be reached.
pub(super) const UNREACHABLE: u8 = 3;

/// A failure that has an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or a file that it names is wrong.
    #[error("{0}")]
    Usage(String),
    /// Something at the other end does not answer.
    #[error("cannot reach {what}")]
    Unreachable {
        /// What it is.
        what: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Failure {
    /// A mistake on the command line.
    pub(super) fn usage(text: impl Into<String>) -> anyhow::Error {
        Self::Usage(text.into()).into()
    }

    /// A far side that does not answer.
    pub(super) fn unreachable(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> anyhow::Error {
        Self::Unreachable {
            what: what.into(),
            source: source.into(),
        }
        .into()
    }
}

/// A refusal by the gateway, as far as its answer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The gRPC code's name, e.g. `InvalidArgument`.
    pub code: String,
    /// The stable reason; empty when the answer gives none.
    pub reason: String,
    /// Whose fault: SEND, REC or PROXY; empty when the answer does not say.
    pub fault: String,
    /// The fixed sentence.
    pub message: String,
    /// The fields that are wrong, each with its remedy.
    pub violations: Vec<Violation>,
    /// When the same call may be repeated.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// Whether the same call is safe and useful to repeat.
    #[serde(skip)]
    pub passing: bool,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        Ok(())
    }
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let fields = details
            .bad_request()
            .map(|b| b.field_violations.as_slice())
            .unwrap_or_default();
        let fault = info
            .and_then(|i| i.metadata.get("fault"))
            .cloned()
            .unwrap_or_default();
        Self {
            code: format!("{:?}", status.code()),
            reason: info.map(|i| i.reason.clone()).unwrap_or_default(),
            fault,
            message: status.message().to_owned(),
            violations: fields
                .iter()
                .map(|v| Violation::new(&v.field, &v.description))
                .collect(),
            retry_after: details.retry_info().and_then(|r| r.retry_delay),
            passing: matches!(
                status.code(),
                Code::Unavailable
                    | Code::ResourceExhausted
                    | Code::Aborted
                    | Code::DeadlineExceeded
            ),
        }
    }
}

impl From<v1::Status> for Refusal {
    fn from(status: v1::Status) -> Self {
        // The message has the fields and numbers of google.rpc.Status: its bytes are what `grpc-status-details-bin` holds.
        let bytes = status.encode_to_vec();
        let code = Code::from_i32(status.code);
        tonic::Status::with_details(code, status.message, bytes.into()).into()
    }
}

/// Says what went wrong and answers the exit code. A closed pipe is no failure: whoever read it has seen enough.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    let Some(code) = exit_code(error) else {
        return ExitCode::SUCCESS;
    };
    output::note(&format!("waymark: {error:#}"));
    ExitCode::from(code)
}

fn exit_code(error: &anyhow::Error) -> Option<u8> {
    for cause in error.chain() {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            if io.kind() == std::io::ErrorKind::BrokenPipe {
                return None;
            }
        } else if let Some(failure) = cause.downcast_ref::<Failure>() {
            return Some(match failure {
                Failure::Usage(_) => USAGE,
                Failure::Unreachable { .. } => UNREACHABLE,
            });
        } else if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            let lost = refusal.passing && refusal.reason.is_empty();
            return Some(if lost { UNREACHABLE } else { REFUSED });
        } else if cause.is::<ConfigError>() {
            return Some(USAGE);
        } else if let Some(open) = cause.downcast_ref::<OpenError>() {
            let away = matches!(
                open,
                OpenError::Connect(_) | OpenError::NoDatabase { .. } | OpenError::WriterHeld { .. }
            );
            return Some(if away { UNREACHABLE } else { REFUSED });
        }
    }
    Some(REFUSED)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use tonic_types::ErrorDetails;

    use super::*;

    fn refused() -> tonic::Status {
        let mut details = ErrorDetails::new();
        details
            .set_error_info(
                "INVALID_FIELD",
                "waymark",
                [("fault".to_owned(), "SEND".to_owned())],
            )
            .add_bad_request_violation(
                "referral.child.nhs_number",
                "its check digit is wrong: copy it again",
            )
            .set_retry_info(Some(Duration::from_secs(2)));
        tonic::Status::with_error_details(
            Code::InvalidArgument,
            "the request is not valid",
            details,
        )
    }

    #[test]
    fn a_refusal_names_reason_fault_field_and_remedy() {
        let refusal = Refusal::from(refused());
        assert_eq!(
            refusal.to_string(),
            "the request is not valid (INVALID_FIELD)\n  referral.child.nhs_number: its check digit is wrong: copy it again"
        );
        assert_eq!(
            (refusal.fault.as_str(), refusal.code.as_str()),
            ("SEND", "InvalidArgument")
        );
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(2)));
        assert!(!refusal.passing);
    }

    #[test]
    fn the_error_of_a_stream_item_reads_like_that_of_a_call() {
        let status = refused();
        let item = v1::Status::decode(status.details()).unwrap();
        assert_eq!(Refusal::from(item), Refusal::from(status));
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        let usage = Failure::usage("no such client");
        assert_eq!(exit_code(&usage), Some(USAGE));
        let away = Failure::unreachable("the gateway", "refused").context("send");
        assert_eq!(exit_code(&away), Some(UNREACHABLE));
        let refusal = anyhow::Error::new(Refusal::from(refused())).context("apply");
        assert_eq!(exit_code(&refusal), Some(REFUSED));
        let lost = anyhow::Error::new(Refusal::from(tonic::Status::unavailable("transport")));
        assert_eq!(exit_code(&lost), Some(UNREACHABLE));
        assert_eq!(exit_code(&anyhow::anyhow!("anything")), Some(REFUSED));
        let config = Err::<(), _>(ConfigError::Invalid(Vec::new()))
            .context("read waymark.toml")
            .unwrap_err();
        assert_eq!(exit_code(&config), Some(USAGE));
        let pipe = anyhow::Error::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(exit_code(&pipe), None);
    }
}
