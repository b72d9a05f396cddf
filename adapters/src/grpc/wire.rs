//! The bytes of a delivery as an agency gets them, and what its answer means: pure.

use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use waymark_core::delivery::{Evidence, Kind, Outcome, ParkReason, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::{Fault, Violation};
use waymark_core::id::ServiceId;
use waymark_core::personal::Payload;
use waymark_core::port::{RenderError, Rendered, Source, StopNotice};
use waymark_core::time::Timestamp;
use waymark_proto::v1;

use super::convert;
use super::receipt::{self, ReceiptKey, Receipted};
use crate::limits::{BODY_BYTES_MAX, RETRY_AFTER_MAX};

/// The media type of what is rendered.
pub const MEDIA_TYPE: &str = "application/x-protobuf; messageType=waymark.v1.Dispatch";

/// Renders an encoded `waymark.v1.Dispatch`.
///
/// # Errors
/// [`RenderError`] when the message has no content, is for the other environment or is too long.
pub(crate) fn render(
    source: &Source,
    endpoint: &Endpoint,
    environment: Environment,
) -> Result<Rendered, RenderError> {
    let cannot = |field: &str, why: String| RenderError::CannotCarry(Violation::new(field, why));
    if source.environment != environment {
        let why = format!(
            "this deployment sends {} messages alone",
            environment.as_str()
        );
        return Err(cannot("environment", why));
    }
    let bytes = dispatch(source, endpoint).map_err(|what| cannot(what, "is missing".to_owned()))?;
    let bytes = bytes.encode_to_vec();
    if bytes.len() > BODY_BYTES_MAX {
        return Err(cannot(
            "body",
            format!("is longer than {BODY_BYTES_MAX} bytes"),
        ));
    }
    Ok(Rendered {
        media_type: MEDIA_TYPE.to_owned(),
        bytes: Payload::new(bytes),
    })
}

/// The message of a delivery, or the part of it that is missing.
fn dispatch(source: &Source, endpoint: &Endpoint) -> Result<v1::Dispatch, &'static str> {
    let mut dispatch = v1::Dispatch {
        kind: convert::kind_to_proto(source.kind).into(),
        referral_id: source.referral.to_string(),
        reference: source.reference.as_str().to_owned(),
        leg_id: source.leg.map(|id| id.to_string()).unwrap_or_default(),
        version: source.version,
        service_id: service_text(source.service.as_ref()),
        sender_agency_id: source.sender.as_str().to_owned(),
        accepted_at: Some(convert::timestamp_to_proto(accepted_at(source))),
        evidence_wanted: convert::evidence_to_proto(endpoint.releases_at).into(),
        ..v1::Dispatch::default()
    };
    match source.kind {
        Kind::New | Kind::Amend => {
            let content = source.content.as_ref().ok_or("content")?;
            let mut referral = convert::referral_to_proto(content);
            if let Some(referrer) = &mut referral.referrer {
                source.sender.as_str().clone_into(&mut referrer.agency_id);
            }
            dispatch.referral = Some(referral);
        }
        Kind::Cancel => {
            let Some(StopNotice::Cancelled { code, text }) = &source.stop else {
                return Err("cancellation");
            };
            dispatch.cancellation = Some(convert::cancellation_to_proto(*code, text.as_ref()));
        }
        Kind::Withdraw => {
            let Some(StopNotice::Withdrawn(withdrawal)) = &source.stop else {
                return Err("withdrawal");
            };
            dispatch.withdrawal = Some(convert::withdrawal_to_proto(withdrawal));
        }
        Kind::Guidance => return Err("guidance"),
        Kind::Status => {
            let notice = source.status.as_ref().ok_or("status")?;
            notice
                .from
                .as_str()
                .clone_into(&mut dispatch.sender_agency_id);
            dispatch.service_id = service_text(notice.service.as_ref());
            dispatch.status = Some(convert::notice_to_proto(notice));
        }
    }
    Ok(dispatch)
}

fn service_text(service: Option<&ServiceId>) -> String {
    service.map(|s| s.as_str().to_owned()).unwrap_or_default()
}

/// When the gateway accepted the message: the instant within the delivery's UUIDv7, which is made at accept.
fn accepted_at(source: &Source) -> Timestamp {
    let made = source
        .delivery
        .as_uuid()
        .get_timestamp()
        .map(|t| t.to_unix());
    let ms = made.and_then(|(seconds, nanos)| {
        let ms = seconds
            .checked_mul(1_000)?
            .checked_add(u64::from(nanos) / 1_000_000)?;
        i64::try_from(ms).ok()
    });
    ms.map_or(source.at, Timestamp::from_ms)
}

/// What an answer of OK means.
pub(super) fn answered(
    response: &v1::DeliverResponse,
    of: &Receipted<'_>,
    keys: &[ReceiptKey],
) -> Outcome {
    let Some(receipt) = &response.receipt else {
        return Outcome::Delivered {
            grade: Evidence::Sent,
            awaiting: None,
            receiver_reference: None,
            receipt: None,
        };
    };
    let grade = receipt::grade(of, receipt, keys);
    let named = grade >= Evidence::ApplicationAck;
    Outcome::Delivered {
        grade,
        awaiting: None,
        receiver_reference: named.then(|| receipt.receiver_reference.clone()),
        receipt: Some(Payload::new(receipt.encode_to_vec())),
    }
}

/// What a refusal or failure means once bytes may have been sent (DOMAIN.md 2.6). The far side's words are not
/// kept: they may repeat content.
pub(super) fn failed(status: &Status) -> Outcome {
    let details = Details::of(status);
    let code = status.code();
    let mut text = format!("the agency answered {code:?}");
    if let Some(reason) = &details.reason {
        text = format!("{text} ({reason})");
    }
    let why = Why::new(format!("grpc.{}", word(code)), text);
    let reject = |fault| Outcome::Reject {
        why: why.clone(),
        fault: details.fault.unwrap_or(fault),
    };
    match code {
        Code::AlreadyExists => Outcome::Duplicate { why },
        Code::ResourceExhausted | Code::Aborted => Outcome::Retry {
            after: details.after,
            why,
        },
        // Only the agency's own software adds RetryInfo: it answered, and took nothing. Without, the connection may have
        // broken after it took the message.
        Code::Unavailable if details.after.is_some() => Outcome::Retry {
            after: details.after,
            why,
        },
        Code::InvalidArgument => reject(Fault::Send),
        Code::FailedPrecondition => reject(Fault::Rec),
        Code::PermissionDenied => reject(Fault::Proxy),
        Code::Unauthenticated | Code::Unimplemented | Code::NotFound => Outcome::Park {
            reason: ParkReason::Refused,
            why,
        },
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::DataLoss
        // Also our own side's word for an answer that is longer than we read.
        | Code::OutOfRange
        | Code::Ok => Outcome::Unknown { why },
    }
}

fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub(super) retry_delay: Option<pbjson_types::Duration>,
}

/// `google.rpc.ErrorInfo`, without its metadata.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ErrorInfo {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
}

/// What the rich details of a status add.
#[derive(Default)]
struct Details {
    after: Option<Duration>,
    reason: Option<String>,
    fault: Option<Fault>,
}

impl Details {
    /// The most details that are looked at.
    const MAX: usize = 16;
    /// The longest reason that is kept.
    const REASON_MAX: usize = 63;

    fn of(status: &Status) -> Self {
        let mut found = Self::default();
        // `v1::Status` has the fields and numbers of `google.rpc.Status`.
        let Ok(rich) = v1::Status::decode(status.details()) else {
            return found;
        };
        for detail in rich.details.iter().take(Self::MAX) {
            if detail.type_url.ends_with("/google.rpc.RetryInfo") {
                let delay = RetryInfo::decode(detail.value.as_ref()).ok();
                found.after = delay.and_then(|d| positive(&d.retry_delay?));
            }
            if detail.type_url.ends_with("/google.rpc.ErrorInfo") {
                let reason = ErrorInfo::decode(detail.value.as_ref()).map(|i| i.reason);
                found.reason = reason.ok().filter(|r| Self::is_reason(r));
            }
        }
        found.fault = found.reason.as_deref().and_then(|reason| {
            let prefix = reason.split('_').next()?;
            [Fault::Send, Fault::Rec, Fault::Proxy]
                .into_iter()
                .find(|f| f.to_string() == prefix)
        });
        found
    }

    /// Letters and underscores alone, so that no number of a child passes for a reason.
    fn is_reason(text: &str) -> bool {
        (1..=Self::REASON_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
    }
}

fn positive(delay: &pbjson_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(delay.seconds).ok()?;
    let nanos = u32::try_from(delay.nanos).ok()?;
    Some(Duration::new(
        seconds.min(RETRY_AFTER_MAX.as_secs()),
        nanos.min(999_999_999),
    ))
    .map(|d| d.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::contract::sample;

    fn with_details(code: Code, details: &[(&str, Vec<u8>)]) -> Status {
        let details = details
            .iter()
            .map(|(name, value)| pbjson_types::Any {
                type_url: format!("type.googleapis.com/google.rpc.{name}"),
                value: value.clone().into(),
            })
            .collect();
        let rich = v1::Status {
            code: code.into(),
            message: String::new(),
            details,
        };
        Status::with_details(code, "Quillfeather 9434765870", rich.encode_to_vec().into())
    }

    fn decoded(kind: Kind) -> v1::Dispatch {
        let rendered = render(
            &sample::source(kind),
            &sample::endpoint(),
            Environment::Test,
        )
        .unwrap();
        v1::Dispatch::decode(rendered.bytes.expose()).unwrap()
    }

    #[test]
    fn each_kind_carries_its_own_part_and_no_other() {
        for kind in [Kind::New, Kind::Amend] {
            let new = decoded(kind);
            assert!(new.referral.is_some() && new.cancellation.is_none() && new.status.is_none());
            assert_eq!(
                new.referral.unwrap().referrer.unwrap().agency_id,
                "EE123456"
            );
        }
        let cancel = decoded(Kind::Cancel);
        assert_eq!(
            cancel.cancellation.unwrap().text,
            "the Quillfeather family asked"
        );
        assert!(cancel.referral.is_none());
        let withdrawal = decoded(Kind::Withdraw).withdrawal.unwrap();
        assert_eq!(withdrawal.date, "2026-03-02");
        let status = decoded(Kind::Status);
        assert_eq!(status.status.unwrap().reason_code, "RRNA");
        assert_eq!(status.sender_agency_id, "EE123456");
    }

    #[test]
    fn the_instant_of_acceptance_is_that_of_the_delivery() {
        let mut source = sample::source(Kind::New);
        source.delivery = "019cb4a1-7c00-7000-8000-000000000001".parse().unwrap();
        assert_eq!(accepted_at(&source).as_ms(), 0x019c_b4a1_7c00);
    }

    #[test]
    fn content_that_is_missing_or_of_the_other_environment_is_not_sent() {
        let mut source = sample::source(Kind::New);
        let refused = |s: &Source, environment| {
            render(s, &sample::endpoint(), environment)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&source, Environment::Live).contains("environment"));
        source.content = None;
        assert!(refused(&source, Environment::Test).contains("content"));
        let mut status = sample::source(Kind::Status);
        status.status = None;
        assert!(refused(&status, Environment::Test).contains("status"));
    }

    #[test]
    fn a_body_is_sent_at_its_limit_and_refused_above_it() {
        let mut source = sample::source(Kind::New);
        let sized = |source: &mut Source, n: usize| {
            source.content.as_mut().unwrap().narrative = Some("x".repeat(n).into());
            render(source, &sample::endpoint(), Environment::Test)
        };
        // Every length from here on takes the same number of bytes to write down.
        let overhead = sized(&mut source, BODY_BYTES_MAX - 5_000)
            .unwrap()
            .bytes
            .expose()
            .len()
            - (BODY_BYTES_MAX - 5_000);
        assert!(sized(&mut source, BODY_BYTES_MAX - overhead).is_ok());
        assert!(sized(&mut source, BODY_BYTES_MAX - overhead + 1).is_err());
    }

    #[test]
    fn every_code_has_the_meaning_that_the_contract_gives_it() {
        let outcome = |code| failed(&Status::new(code, "")).word();
        for (code, word) in [
            (Code::AlreadyExists, "duplicate"),
            (Code::ResourceExhausted, "retry"),
            (Code::Aborted, "retry"),
            (Code::InvalidArgument, "reject"),
            (Code::OutOfRange, "unknown"),
            (Code::FailedPrecondition, "reject"),
            (Code::PermissionDenied, "reject"),
            (Code::Unauthenticated, "park"),
            (Code::Unimplemented, "park"),
            (Code::NotFound, "park"),
            (Code::Unavailable, "unknown"),
            (Code::DeadlineExceeded, "unknown"),
            (Code::Cancelled, "unknown"),
            (Code::Unknown, "unknown"),
            (Code::Internal, "unknown"),
            (Code::DataLoss, "unknown"),
        ] {
            assert_eq!(outcome(code), word, "{code:?}");
        }
    }

    #[test]
    fn a_hint_is_honoured_and_never_longer_than_its_limit() {
        let hint = |seconds, nanos| {
            let delay = RetryInfo {
                retry_delay: Some(pbjson_types::Duration { seconds, nanos }),
            };
            let status = with_details(Code::Aborted, &[("RetryInfo", delay.encode_to_vec())]);
            match failed(&status) {
                Outcome::Retry { after, .. } => after,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(hint(30, 500_000_000), Some(Duration::from_millis(30_500)));
        assert_eq!(hint(i64::MAX, 0), Some(RETRY_AFTER_MAX));
        assert_eq!(hint(-1, 0), None);
    }

    #[test]
    fn unavailable_is_later_where_the_agency_says_when_and_else_of_unknown_end() {
        let delay = RetryInfo {
            retry_delay: Some(pbjson_types::Duration {
                seconds: 2,
                nanos: 0,
            }),
        };
        let said = with_details(Code::Unavailable, &[("RetryInfo", delay.encode_to_vec())]);
        let Outcome::Retry { after, .. } = failed(&said) else {
            panic!("{said:?}")
        };
        assert_eq!(after, Some(Duration::from_secs(2)));
        let silent = with_details(Code::Unavailable, &[]);
        assert!(matches!(failed(&silent), Outcome::Unknown { .. }));
    }

    #[test]
    fn a_reason_settles_whose_fault_it_is_and_no_other_word_is_kept() {
        let refused = |reason: &str| {
            let info = ErrorInfo {
                reason: reason.to_owned(),
            };
            failed(&with_details(
                Code::InvalidArgument,
                &[("ErrorInfo", info.encode_to_vec())],
            ))
        };
        let Outcome::Reject { why, fault } = refused("REC_CLOSED") else {
            panic!()
        };
        assert_eq!(fault, Fault::Rec);
        assert_eq!(why.text, "the agency answered InvalidArgument (REC_CLOSED)");
        let Outcome::Reject { why, fault } = refused("NHS_9434765870") else {
            panic!()
        };
        assert_eq!(fault, Fault::Send);
        assert_eq!(why.text, "the agency answered InvalidArgument");
    }
}
