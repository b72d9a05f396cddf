//! The settings of one gRPC endpoint, checked without I/O.

use serde::Deserialize;
use waymark_core::directory::Endpoint;
use waymark_core::error::Violation;

use super::receipt::ReceiptKey;
use crate::context::EgressPolicy;
use crate::settings::{self, Address};

/// The settings of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Where the agency listens.
    pub(super) address: Address,
    /// The SAN URI that its certificate must carry.
    pub(super) peer_identity: String,
    /// The TLS profile to speak with.
    pub(super) tls_profile: String,
    /// Keys that its receipts are signed with.
    pub(super) receipt_keys: Vec<ReceiptKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    url: String,
    peer_identity: String,
    #[serde(default = "settings::default_profile")]
    tls_profile: String,
    #[serde(default)]
    private_network: bool,
    #[serde(default)]
    receipt_keys: Vec<ReceiptKey>,
}

impl Settings {
    /// Reads the settings of an endpoint.
    pub(super) fn read(endpoint: &Endpoint, policy: EgressPolicy) -> Result<Self, Vec<Violation>> {
        let raw: Raw = settings::read(endpoint)?;
        let mut faults = Vec::new();
        let address = settings::address(&raw.url, false, raw.private_network, policy, &mut faults);
        if address
            .as_ref()
            .is_some_and(|a| a.url.path() != "/" || a.url.query().is_some())
        {
            faults.push(Violation::new(
                "settings.url",
                "is scheme, host and port alone",
            ));
        }
        settings::check_identity(&raw.peer_identity, &mut faults);
        match address {
            Some(address) if faults.is_empty() => Ok(Self {
                address,
                peer_identity: raw.peer_identity,
                tls_profile: raw.tls_profile,
                receipt_keys: raw.receipt_keys,
            }),
            _ => Err(faults),
        }
    }
}
