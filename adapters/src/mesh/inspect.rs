//! For [`crate::inspect`].

use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderValue};
use waymark_core::directory::{CodeMap, Endpoint};
use waymark_core::error::Violation;
use waymark_core::id::WireId;
use waymark_core::port::InboundBody;

use super::config::Settings;
use super::envelope::{Envelope, unpacked};
use super::{answer, wire};
use crate::context::EgressPolicy;
use crate::inspect::{now, statuses};

/// A mailbox that an agency sends to.
#[derive(Debug)]
pub(crate) struct Reader {
    endpoint: Endpoint,
    settings: Settings,
}

impl Reader {
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, Vec<Violation>> {
        let settings = Settings::read(&endpoint, EgressPolicy::AsFlagged)?;
        Ok(Self { endpoint, settings })
    }

    pub(crate) fn read(&self, bytes: &[u8]) -> Option<InboundBody> {
        let said = wire::read(bytes, &self.endpoint, &self.settings).ok()?;
        Some(said.body)
    }
}

/// As an acknowledgement, a packed chunk, the headers of a message, and the hub's answers.
pub(crate) fn answers(wire: &WireId, headers: &HeaderMap, bytes: &[u8]) {
    let codes = CodeMap::default();
    drop(wire::acknowledgement(bytes, Some(wire.as_str()), &codes));
    drop(wire::acknowledgement(bytes, None, &codes));
    let mut packed = headers.clone();
    packed.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    drop(unpacked(&packed, bytes.to_vec(), wire::MESSAGE_BYTES_MAX));
    let mut lines = bytes.split(|b| *b == b'\n');
    let mut written = HeaderMap::new();
    for name in [
        "mex-messagetype",
        "mex-from",
        "mex-workflowid",
        "mex-localid",
        "mex-statuscode",
        "mex-statustimestamp",
        "mex-total-chunks",
    ] {
        if let Some(value) = lines.next().and_then(|v| HeaderValue::from_bytes(v).ok()) {
            written.insert(name, value);
        }
    }
    drop(Envelope::read(&written));
    for status in statuses() {
        drop(answer::posted(status, headers, bytes.to_vec(), now()));
        drop(answer::tracked(status, bytes));
    }
}
