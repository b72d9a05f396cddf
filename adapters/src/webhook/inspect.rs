//! For [`crate::inspect`].

use http::HeaderMap;
use waymark_core::id::WireId;

use super::sign::WebhookSecret;
use super::verify_callback;
use super::wire;
use crate::inspect::{now, statuses};

/// As answers, as a secret, and as a callback whose headers are its first lines.
pub(crate) fn answers(id: &WireId, headers: &HeaderMap, bytes: &[u8]) {
    let mut lines = bytes.splitn(4, |b| *b == b'\n');
    let mut written = HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        if let Some(value) = lines.next().and_then(|v| v.try_into().ok()) {
            written.insert::<&str>(name, value);
        }
    }
    let secrets: Vec<_> = WebhookSecret::parse(bytes).into_iter().collect();
    drop(verify_callback(
        &written,
        lines.next().unwrap_or_default(),
        &secrets,
        now(),
    ));
    drop(wire::taken(
        id.as_str(),
        bytes.to_vec(),
        wire::Callbacks::None,
    ));
    for status in statuses() {
        drop(wire::refused(status, headers, now()));
    }
}
