//! What the targets of adapters share.

use std::sync::LazyLock;

use waymark_adapters::inspect::Inspector;
use waymark_core::directory::AdapterKind;
use waymark_core::port::InboundBody;

static INSPECTOR: LazyLock<Inspector> = LazyLock::new(|| Inspector::new().expect("it uses no TLS"));

/// Whatever comes is read or refused, in each way in which the adapter reads; a referral that is taken and valid can be
/// sent on, and what is sent on is read.
///
/// # Panics
/// When it is not.
pub fn adapter(kind: AdapterKind, data: &[u8]) {
    INSPECTOR.read_otherwise(kind, data);
    for body in INSPECTOR.read(kind, data).unwrap_or_default() {
        if let InboundBody::Submit(referral) | InboundBody::Amend(_, referral) = body
            && let Err(written) = INSPECTOR.again(kind, &referral)
        {
            panic!("not read again: {}", String::from_utf8_lossy(&written));
        }
    }
}
