//! For [`crate::inspect`].

use http::HeaderMap;
use waymark_core::directory::Endpoint;
use waymark_core::id::WireId;
use waymark_core::port::InboundBody;

use super::{callback, wire};
use crate::inspect::{now, statuses};

/// Reads a delivery receipt whose token was right.
pub(crate) fn read(endpoint: &Endpoint, bytes: &[u8]) -> Option<InboundBody> {
    let seen = serde_json::from_slice(bytes).ok()?;
    callback::read(&endpoint.id, &seen).map(|inbound| inbound.body)
}

/// As the provider's answers.
pub(crate) fn answers(wire: &WireId, headers: &HeaderMap, bytes: &[u8]) {
    drop(wire::taken(bytes));
    drop(wire::furthest(bytes, wire));
    for status in statuses() {
        drop(wire::refused(status, headers, bytes, now()));
    }
}
