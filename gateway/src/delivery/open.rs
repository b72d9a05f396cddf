//! From a leased delivery to the one store call that opens an attempt of it, if its endpoint is still its recipient's.

use waymark_core::audit::{CommitmentTag, EntryKind};
use waymark_core::delivery::{Outcome, ParkReason, Why};
use waymark_core::directory::Endpoint;
use waymark_core::id::AgencyId;
use waymark_core::port::{Leased, OpenAttempt, Rendered};
use waymark_core::time::Timestamp;

use crate::service::Drafter;

/// Whether an attempt's bytes are stored with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// They are rendered now: the first attempt.
    Fresh,
    /// They are those of the first attempt.
    Stored,
}

/// Why a delivery is not for an endpoint any more: it goes to the agency bound at accept, and to nobody else.
pub fn changed_hands(leased: &Leased, endpoint: &Endpoint) -> Option<Outcome> {
    if endpoint.agency == leased.recipient {
        return None;
    }
    let text = "the endpoint belongs to another agency now: redirect this delivery";
    Some(Outcome::Park {
        reason: ParkReason::WrongRecipient,
        why: Why::new("directory.moved", text),
    })
}

/// Drafts the store call that opens the next attempt, which commits to the bytes that it sends.
pub fn open_of(
    draft: &Drafter<'_>,
    leased: &Leased,
    (rendered, bytes): (&Rendered, Bytes),
    (actor, org): ([u8; 16], &AgencyId),
    at: Timestamp,
) -> OpenAttempt {
    let number = leased.attempts + 1;
    let mut entry = draft
        .entry_by(EntryKind::Attempt, leased.stream, actor, org, at)
        .code("delivery", leased.token.delivery.to_string())
        .code("wire_id", leased.wire_id.as_str())
        .code("attempt", number.to_string())
        .code("phase", "opened")
        .code("endpoint", leased.endpoint.as_str())
        .code("kind", leased.kind.as_str());
    let opening = draft.commit(&mut entry, CommitmentTag::Rendered, rendered.bytes.expose());
    OpenAttempt {
        token: leased.token.clone(),
        number,
        at,
        rendered: (bytes == Bytes::Fresh).then(|| (draft.body_id(at), rendered.clone())),
        entry,
        openings: vec![opening],
    }
}
