//! Accepting referrals, one by one or as a stream.

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::Streaming;
use waymark_adapters::grpc::convert::referral_from_proto;
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::referral::Referral;
use waymark_proto::v1;
use waymark_proto::v1::submit_referrals_response::Result as Became;

use super::super::face::{Caller, Face};
use super::super::receipt;
use super::super::status::{self, field};
use super::Answers;
use crate::service::{ServiceError, Submit};

/// Characters in the client's name for an item.
const ITEM_ID_MAX: usize = 64;

/// Reads a referral's content.
pub(super) fn referral(
    caller: &Caller,
    content: Option<v1::Referral>,
) -> Result<Referral, ServiceError> {
    let content = content.ok_or_else(|| field("referral", "is required"))?;
    let stated = content
        .referrer
        .as_ref()
        .map(|r| r.agency_id.clone())
        .unwrap_or_default();
    if !stated.is_empty() && stated != caller.principal.agency.as_str() {
        let why = "is not the agency that the certificate proves: leave it empty";
        return Err(field("referral.referrer.agency_id", why));
    }
    referral_from_proto(content).map_err(|violations| {
        let below = |v: Violation| Violation::new(format!("referral.{}", v.field), v.why);
        status::fields(violations.into_iter().map(below).collect())
    })
}

/// Accepts one referral.
pub(super) async fn one(
    face: &Face,
    caller: &Caller,
    ask: v1::SubmitReferralRequest,
) -> Result<v1::Receipt, ServiceError> {
    let begun = Instant::now();
    let accepted = accept(face, caller, ask).await;
    face.metrics.accept(outcome(&accepted), begun.elapsed());
    accepted
}

async fn accept(
    face: &Face,
    caller: &Caller,
    ask: v1::SubmitReferralRequest,
) -> Result<v1::Receipt, ServiceError> {
    let referral = referral(caller, ask.referral)?;
    // Only a proof shows the content back.
    let content = if ask.want_proof {
        referral.to_canonical().ok()
    } else {
        None
    };
    let submit = Submit {
        request_id: ask.request_id,
        referral,
        traceparent: caller.traceparent.clone(),
    };
    let accepted = face.service.submit(&caller.principal, submit).await?;
    receipt::of_accept(face, accepted, content.as_deref(), ask.want_proof.into()).await
}

fn outcome(accepted: &Result<v1::Receipt, ServiceError>) -> &'static str {
    match accepted {
        Ok(receipt) if receipt.duplicate => "repeated",
        Ok(_) => "accepted",
        Err(refused) => match refused.kind {
            ErrorKind::Invalid => "invalid",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Unauthenticated | ErrorKind::Denied => "denied",
            ErrorKind::Exhausted => "exhausted",
            ErrorKind::NotFound | ErrorKind::Precondition => "refused",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Corrupt | ErrorKind::Internal => "failed",
        },
    }
}

/// Accepts a stream of referrals: a bounded number at a time, an answer per item in the order of completion. What is
/// not yet taken from the connection waits there, so a sender that is faster than the store is slowed, not refused.
pub(super) fn many(
    face: Face,
    caller: Caller,
    asks: Streaming<v1::SubmitReferralsRequest>,
    room: OwnedSemaphorePermit,
) -> Answers<v1::SubmitReferralsResponse> {
    let at_once = face.stream_in_flight();
    let stopping = face.stopping.clone();
    // A stream that has seen its last item still answers what it took.
    let asks = asks.take_until(stopping.cancelled_owned());
    let answers = asks.map_ok(move |ask| {
        let (face, caller) = (face.clone(), caller.clone());
        async move { Ok(item(&face, &caller, ask).await) }
    });
    let answers = answers.try_buffer_unordered(at_once);
    Box::pin(answers.inspect(move |_| {
        let _held: &OwnedSemaphorePermit = &room;
    }))
}

async fn item(
    face: &Face,
    caller: &Caller,
    ask: v1::SubmitReferralsRequest,
) -> v1::SubmitReferralsResponse {
    let item_id = ask.item_id.clone();
    let accepted = async {
        if !(1..=ITEM_ID_MAX).contains(&item_id.chars().count()) {
            return Err(field(
                "item_id",
                format!("is 1 to {ITEM_ID_MAX} characters"),
            ));
        }
        face.pace(&caller.principal.agency).await;
        // A stream may outlive what its caller may do: the directory is asked for each item.
        let caller = Caller {
            principal: face.principal(&caller.peer)?,
            ..caller.clone()
        };
        let ask = v1::SubmitReferralRequest {
            request_id: ask.request_id,
            referral: ask.referral,
            want_proof: ask.want_proof,
        };
        one(face, &caller, ask).await
    };
    let became = match accepted.await {
        Ok(receipt) => Became::Receipt(receipt),
        Err(refused) => Became::Error(status::item(&refused)),
    };
    let item_id: String = item_id.chars().take(ITEM_ID_MAX).collect();
    v1::SubmitReferralsResponse {
        item_id,
        result: Some(became),
    }
}
