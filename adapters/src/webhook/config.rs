//! The settings of one webhook endpoint, checked without I/O.

use serde::Deserialize;
use waymark_core::directory::Endpoint;
use waymark_core::error::Violation;

use crate::context::EgressPolicy;
use crate::settings::{self, Address, SECRETS_MAX, SecretName};

/// Bytes of documents in one message unless the settings say otherwise: with base64 and the referral it stays below
/// the 1 MiB that a web server takes by default.
const INLINE_BYTES: u64 = 256 * 1024;
/// The most that the settings may say.
const INLINE_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// The settings of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Where the agency takes its messages.
    pub(super) address: Address,
    /// The SAN URI that its certificate must carry besides its name.
    pub(super) peer_identity: Option<String>,
    /// The TLS profile to speak with.
    pub(super) tls_profile: String,
    /// Secrets that messages are signed with, the newest first.
    pub(super) signing_secrets: Vec<SecretName>,
    /// Secrets that status callbacks are signed with; none when the agency sends none.
    pub(super) callback_secrets: Vec<SecretName>,
    /// Bytes of documents that travel within one message.
    pub(super) inline_bytes_max: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    url: String,
    peer_identity: Option<String>,
    #[serde(default = "settings::default_profile")]
    tls_profile: String,
    #[serde(default)]
    plain: bool,
    #[serde(default)]
    private_network: bool,
    signing_secrets: Vec<SecretName>,
    #[serde(default)]
    callback_secrets: Vec<SecretName>,
    #[serde(default = "inline_bytes")]
    inline_bytes: u64,
}

const fn inline_bytes() -> u64 {
    INLINE_BYTES
}

impl Settings {
    /// Reads the settings of an endpoint.
    pub(super) fn read(endpoint: &Endpoint, policy: EgressPolicy) -> Result<Self, Vec<Violation>> {
        let raw: Raw = settings::read(endpoint)?;
        let mut faults = Vec::new();
        let address = settings::address(
            &raw.url,
            raw.plain,
            raw.private_network,
            policy,
            &mut faults,
        );
        if let Some(identity) = &raw.peer_identity {
            settings::check_identity(identity, &mut faults);
            if raw.plain {
                let why = "proves nothing over plain HTTP: leave it out";
                faults.push(Violation::new("settings.peer_identity", why));
            }
        }
        if !(1..=SECRETS_MAX).contains(&raw.signing_secrets.len()) {
            let why = "names one secret, or two during rotation";
            faults.push(Violation::new("settings.signing_secrets", why));
        }
        if raw.callback_secrets.len() > SECRETS_MAX {
            let why = "names at most two secrets";
            faults.push(Violation::new("settings.callback_secrets", why));
        }
        if raw.inline_bytes > INLINE_BYTES_MAX {
            let why = format!("is at most {INLINE_BYTES_MAX}");
            faults.push(Violation::new("settings.inline_bytes", why));
        }
        match address {
            Some(address) if faults.is_empty() => Ok(Self {
                address,
                peer_identity: raw.peer_identity,
                tls_profile: raw.tls_profile,
                signing_secrets: raw.signing_secrets,
                callback_secrets: raw.callback_secrets,
                inline_bytes_max: raw.inline_bytes,
            }),
            _ => Err(faults),
        }
    }
}
