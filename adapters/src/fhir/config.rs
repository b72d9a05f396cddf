//! The settings of a FHIR endpoint.

use serde::Deserialize;
use waymark_core::directory::Endpoint;
use waymark_core::error::Violation;

use super::name;
use crate::context::EgressPolicy;
use crate::settings::{self, Address, SecretName};

/// The most characters of a setting that goes into a header or an identifier.
const TEXT_CHARS_MAX: usize = 200;
/// Bytes of documents in one message unless the settings say otherwise.
const INLINE_BYTES: u64 = 256 * 1024;
/// The most that they may say: what base64 makes of it must fit a message.
const INLINE_BYTES_MAX: u64 = 512 * 1024;
/// Seconds between two looks at the tasks of a server that is not BaRS.
const POLL_SECONDS: u64 = 60;
/// The fewest and most of them.
const POLL_RANGE: std::ops::RangeInclusive<u64> = 1..=86_400;

/// Which FHIR the far side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// The Booking and Referral Standard: `$process-message`.
    Bars,
    /// Any FHIR R4 server: a transaction of `ServiceRequest` and Task.
    Plain,
}

/// How we prove to the far side who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Auth {
    Mtls,
    Oauth2,
}

/// An identifier, as BaRS addresses services.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    /// Its system.
    #[serde(default = "dos_service")]
    pub(super) system: String,
    /// Its value.
    pub(super) value: String,
}

fn dos_service() -> String {
    name::DOS_SERVICE.to_owned()
}

impl Target {
    /// As `MessageHeader` endpoints are written: `system|value`.
    pub(super) fn endpoint(&self) -> String {
        format!("{}|{}", self.system, self.value)
    }
}

/// What is needed for a token: client credentials with a signed JWT (RFC 7523, NHS application-restricted access).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenSettings {
    pub(super) address: Address,
    pub(super) client_id: String,
    pub(super) key: SecretName,
    pub(super) key_id: String,
    pub(super) scope: Option<String>,
}

/// Checked settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) address: Address,
    pub(super) mode: Mode,
    pub(super) token: Option<TokenSettings>,
    pub(super) peer_identity: Option<String>,
    pub(super) tls_profile: String,
    pub(super) target: Option<Target>,
    pub(super) source: Option<Target>,
    pub(super) use_case: String,
    pub(super) version: String,
    pub(super) inline_bytes_max: u64,
    pub(super) poll_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToken {
    url: String,
    client_id: String,
    key: SecretName,
    key_id: String,
    scope: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    url: String,
    mode: Mode,
    auth: Auth,
    token: Option<RawToken>,
    peer_identity: Option<String>,
    #[serde(default = "settings::default_profile")]
    tls_profile: String,
    #[serde(default)]
    plain: bool,
    #[serde(default)]
    private_network: bool,
    target: Option<Target>,
    source: Option<Target>,
    #[serde(default = "use_case")]
    use_case: String,
    #[serde(default = "version")]
    version: String,
    #[serde(default = "inline_bytes")]
    inline_bytes: u64,
    #[serde(default = "poll_seconds")]
    poll_seconds: u64,
}

fn use_case() -> String {
    name::USE_CASE_CODE.to_owned()
}

fn version() -> String {
    "1.4.0".to_owned()
}

const fn inline_bytes() -> u64 {
    INLINE_BYTES
}

const fn poll_seconds() -> u64 {
    POLL_SECONDS
}

impl Settings {
    /// Reads the settings of an endpoint.
    pub(super) fn read(endpoint: &Endpoint, policy: EgressPolicy) -> Result<Self, Vec<Violation>> {
        let raw: Raw = settings::read(endpoint)?;
        let mut faults = Vec::new();
        check(&raw, &mut faults);
        let address = settings::address(
            &raw.url,
            raw.plain,
            raw.private_network,
            policy,
            &mut faults,
        );
        let token = raw.token.as_ref().and_then(|token| {
            let mut own = Vec::new();
            let address =
                settings::address(&token.url, raw.plain, raw.private_network, policy, &mut own);
            faults.extend(own.into_iter().map(|fault| {
                let field = fault.field.replacen("settings.", "settings.token.", 1);
                Violation::new(field, fault.why)
            }));
            Some(TokenSettings {
                address: address?,
                client_id: token.client_id.clone(),
                key: token.key.clone(),
                key_id: token.key_id.clone(),
                scope: token.scope.clone(),
            })
        });
        match address {
            Some(address) if faults.is_empty() => Ok(Self {
                address,
                mode: raw.mode,
                token,
                peer_identity: raw.peer_identity,
                tls_profile: raw.tls_profile,
                target: raw.target,
                source: raw.source,
                use_case: raw.use_case,
                version: raw.version,
                inline_bytes_max: raw.inline_bytes,
                poll_seconds: raw.poll_seconds,
            }),
            _ => Err(faults),
        }
    }
}

fn check(raw: &Raw, faults: &mut Vec<Violation>) {
    let mut need = |ok: bool, key: &str, why: &str| {
        if !ok {
            faults.push(Violation::new(format!("settings.{key}"), why));
        }
    };
    let oauth = raw.auth == Auth::Oauth2;
    need(
        raw.token.is_some() == oauth,
        "token",
        "stands with auth = \"oauth2\", and only with it",
    );
    let bars = raw.mode == Mode::Bars;
    need(
        raw.target.is_some() || !bars,
        "target",
        "is required: the service that the far side knows its own messages by",
    );
    need(
        raw.source.is_some() || !bars,
        "source",
        "is required: the service that the far side answers to",
    );
    let identified = raw.peer_identity.is_some();
    need(
        !(identified && raw.plain),
        "peer_identity",
        "proves nothing over plain HTTP: leave it out",
    );
    let written = [
        ("target", raw.target.as_ref().map(Target::endpoint)),
        ("source", raw.source.as_ref().map(Target::endpoint)),
        ("use_case", Some(raw.use_case.clone())),
        ("version", Some(raw.version.clone())),
    ];
    for (key, text) in written {
        let good = text.is_none_or(|text| {
            (1..=TEXT_CHARS_MAX).contains(&text.chars().count())
                && text.bytes().all(|b| b.is_ascii_graphic())
        });
        need(good, key, "is 1 to 200 printable ASCII characters");
    }
    need(
        raw.inline_bytes <= INLINE_BYTES_MAX,
        "inline_bytes",
        "is at most 524288",
    );
    need(
        POLL_RANGE.contains(&raw.poll_seconds),
        "poll_seconds",
        "is 1 to 86400",
    );
    if let Some(identity) = &raw.peer_identity {
        settings::check_identity(identity, faults);
    }
}
