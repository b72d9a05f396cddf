//! The settings of one Notify endpoint, checked without I/O.

use std::time::Duration;

use serde::Deserialize;
use waymark_core::delivery::Evidence;
use waymark_core::directory::Endpoint;
use waymark_core::error::Violation;

use crate::context::EgressPolicy;
use crate::egress::Reach;
use crate::settings::{self, Address, SECRETS_MAX, SecretName};

/// How often messages that were sent are asked after, unless settings say.
const POLL_SECONDS_DEFAULT: u64 = 60;
/// The shortest and the longest pause between two rounds of asking.
const POLL_SECONDS: std::ops::RangeInclusive<u64> = 1..=3_600;
/// How long news may take before a way counts as failed: Notify gives an email up 72 hours after it was sent.
const GIVE_UP_HOURS_DEFAULT: u64 = 96;
/// The shortest and the longest such time; Notify forgets a message after seven days.
const GIVE_UP_HOURS: std::ops::RangeInclusive<u64> = 1..=168;

/// The shortest wait after an attempt of unknown end before its message is asked after, milliseconds.
const RETRY_FIRST_MS_MIN: u64 = 30_000;

/// The settings of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The API's base, below which `v2/notifications` is.
    pub(super) address: Address,
    /// The TLS profile to speak with.
    pub(super) tls_profile: String,
    /// The secret that holds the API key.
    pub(super) api_key: SecretName,
    /// Secrets that callbacks bear; none when only polled.
    pub(super) callback_tokens: Vec<SecretName>,
    /// How often messages are asked after.
    pub(super) poll: Duration,
    /// How long news may take.
    pub(super) give_up: Duration,
    /// Whom an email names to reply to, as the provider calls it.
    pub(super) email_reply_to_id: Option<String>,
    /// Who a text message comes from, as the provider calls it.
    pub(super) sms_sender_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    url: String,
    #[serde(default = "settings::default_profile")]
    tls_profile: String,
    #[serde(default)]
    plain: bool,
    #[serde(default)]
    private_network: bool,
    api_key: SecretName,
    #[serde(default)]
    callback_tokens: Vec<SecretName>,
    poll_seconds: Option<u64>,
    give_up_hours: Option<u64>,
    email_reply_to_id: Option<String>,
    sms_sender_id: Option<String>,
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
        let mut need = |holds: bool, setting: &str, why: &str| {
            if !holds {
                faults.push(Violation::new(format!("settings.{setting}"), why));
            }
        };
        if let Some(address) = &address {
            let bare = address.url.query().is_none();
            need(bare, "url", "has a query: give the API's base alone");
        }
        let tokens = raw.callback_tokens.len();
        need(
            tokens <= SECRETS_MAX,
            "callback_tokens",
            "names at most two secrets, the second during rotation",
        );
        let poll = raw.poll_seconds.unwrap_or(POLL_SECONDS_DEFAULT);
        need(POLL_SECONDS.contains(&poll), "poll_seconds", "is 1 to 3600");
        let give_up = raw.give_up_hours.unwrap_or(GIVE_UP_HOURS_DEFAULT);
        need(
            GIVE_UP_HOURS.contains(&give_up),
            "give_up_hours",
            "is 1 to 168",
        );
        for (setting, id) in [
            ("email_reply_to_id", &raw.email_reply_to_id),
            ("sms_sender_id", &raw.sms_sender_id),
        ] {
            let good = id
                .as_ref()
                .is_none_or(|id| uuid::Uuid::try_parse(id).is_ok());
            need(good, setting, "is the provider's id of it, a UUID");
        }
        let public = address.as_ref().is_some_and(|a| a.reach == Reach::Public);
        if public && endpoint.retry.first_ms < RETRY_FIRST_MS_MIN {
            let why =
                "is at least 30s: the provider must show what it took before it is asked for it";
            faults.push(Violation::new("retry.first", why));
        }
        // Nothing better than the carrier's word ever comes, and less would end a message that may still bounce.
        if endpoint.releases_at != Evidence::TransportAck {
            let why = "is transport_ack for notify: say releases_at = \"transport_ack\"";
            faults.push(Violation::new("releases_at", why));
        }
        match address {
            Some(address) if faults.is_empty() => Ok(Self {
                address,
                tls_profile: raw.tls_profile,
                api_key: raw.api_key,
                callback_tokens: raw.callback_tokens,
                poll: Duration::from_secs(poll),
                give_up: Duration::from_hours(give_up),
                email_reply_to_id: raw.email_reply_to_id,
                sms_sender_id: raw.sms_sender_id,
            }),
            _ => Err(faults),
        }
    }
}
