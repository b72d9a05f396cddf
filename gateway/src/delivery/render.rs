//! From what is stored of a delivery to what an adapter renders.

use waymark_core::delivery::{Kind, Outcome, ParkReason, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::port::{
    Adapter, Attachment, DeliveryContent, Leased, RenderError, Rendered, Source, StatusNotice,
    StopNotice, Store, StoreError,
};
use waymark_core::referral::Referral;
use waymark_core::time::Timestamp;

use crate::service::sha256_hex;

/// What a delivery says, decoded.
///
/// # Errors
/// The park outcome for content that is gone or does not decode.
pub fn source_of(
    leased: &Leased,
    content: &DeliveryContent,
    environment: Environment,
    at: Timestamp,
) -> Result<Source, Outcome> {
    let broken = |what: &str| Outcome::Park {
        reason: ParkReason::Poison,
        why: Why::new(
            "content",
            format!("the {what} of this delivery cannot be read: see the log"),
        ),
    };
    let referral = match &content.content {
        Some(bytes) => {
            Some(Referral::from_canonical(bytes.expose()).map_err(|_| broken("content"))?)
        }
        None => None,
    };
    let sender_reference = referral.as_ref().and_then(|r| r.sender_reference.clone());
    // Of the content, a status tells no more than how its sender knows the referral.
    let is_status = leased.kind == Kind::Status;
    let referral = referral.filter(|_| !is_status);
    let (status, stop) = match (&content.note, leased.kind) {
        (None, _) | (_, Kind::Guidance) => (None, None),
        (Some(bytes), Kind::Status) => {
            let notice: StatusNotice =
                serde_json::from_slice(bytes.expose()).map_err(|_| broken("status"))?;
            (Some(notice), None)
        }
        (Some(bytes), _) => {
            let stop: StopNotice =
                serde_json::from_slice(bytes.expose()).map_err(|_| broken("reason"))?;
            (None, Some(stop))
        }
    };
    let conversation = content.conversation.as_ref();
    let conversation = conversation.and_then(|ids| serde_json::from_slice(ids.expose()).ok());
    if referral.is_none() && status.is_none() && leased.kind != Kind::Guidance {
        return Err(broken("content"));
    }
    Ok(Source {
        delivery: leased.token.delivery,
        wire_id: leased.wire_id.clone(),
        referral: leased.referral,
        reference: leased.reference.clone(),
        leg: leased.leg,
        version: leased.version,
        kind: leased.kind,
        sender: leased.sender.clone(),
        recipient: leased.recipient.clone(),
        service: leased.service.clone(),
        sender_reference,
        receiver_reference: None,
        content: referral,
        status,
        family: None,
        reason: stop.as_ref().and_then(StopNotice::words),
        stop,
        attachments: Vec::new(),
        conversation,
        at,
        environment,
    })
}

/// Opens the documents of a referral that is to be rendered, in its order, as long as all together stay within `most` bytes; the
/// rest go by reference. Each must be what its digest says. Only a referral and its amendment carry documents: whoever is
/// told of an end, or that consent was withdrawn, is sent none.
///
/// # Errors
/// The store's own; the inner error is the park outcome for a document that is gone or not as described.
pub(super) async fn attachments(
    store: &dyn Store,
    leased: &Leased,
    source: &Source,
    most: u64,
) -> Result<Result<Vec<Attachment>, Outcome>, StoreError> {
    let shares = matches!(source.kind, Kind::New | Kind::Amend);
    let content = source.content.iter().filter(|_| shares);
    let documents = content.flat_map(|content| &content.documents);
    let mut opened = Vec::new();
    let mut left = most;
    for document in documents {
        let Some(rest) = left.checked_sub(document.size_bytes) else {
            continue;
        };
        let bytes = store.attachment(leased, document.id).await?;
        let bytes = bytes.filter(|bytes| sha256_hex(bytes.expose()) == document.sha256);
        let Some(bytes) = bytes else {
            let text = format!("document {} is gone or not as its digest says", document.id);
            return Ok(Err(Outcome::Park {
                reason: ParkReason::CannotCarry,
                why: Why::new("render.document", text),
            }));
        };
        left = rest;
        opened.push(Attachment {
            document: document.clone(),
            bytes,
        });
    }
    Ok(Ok(opened))
}

/// Renders; an adapter that panics on a message makes it poison and takes nothing else with it.
///
/// # Errors
/// As [`render`].
pub(super) fn render_caught(
    adapter: &dyn Adapter,
    source: &Source,
    endpoint: &Endpoint,
) -> Result<Rendered, Outcome> {
    let rendering = std::panic::AssertUnwindSafe(|| render(adapter, source, endpoint));
    std::panic::catch_unwind(rendering).unwrap_or_else(|_| {
        Err(Outcome::Park {
            reason: ParkReason::Poison,
            why: Why::new(
                "render.panic",
                "the adapter failed while rendering this message",
            ),
        })
    })
}

/// Renders once: pure.
///
/// # Errors
/// The park outcome for what the endpoint cannot carry.
pub fn render(
    adapter: &dyn Adapter,
    source: &Source,
    endpoint: &Endpoint,
) -> Result<Rendered, Outcome> {
    adapter
        .render(source, endpoint)
        .map_err(|error| match error {
            RenderError::CannotCarry(violation) => Outcome::Park {
                reason: ParkReason::CannotCarry,
                why: Why::new("render.cannot_carry", violation.to_string()),
            },
            RenderError::Settings(violation) => Outcome::Park {
                reason: ParkReason::NoEndpoint,
                why: Why::new("render.settings", violation.to_string()),
            },
        })
}
