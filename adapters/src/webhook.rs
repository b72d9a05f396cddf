//! Push by signed webhook (Standard Webhooks), and the signed status that comes back.
//!
//! Lost on the way: nothing; the body carries the canonical referral whole.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::{ACCEPT, CONTENT_TYPE};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use waymark_core::delivery::{Evidence, Outcome, ParkReason, Repeat, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::port::{
    Adapter, Deadline, Identification, Outbound, Probe, RenderError, Rendered, Source,
};
use waymark_core::time::Clock;

use crate::connect::{self, ConnectError};
use crate::context::{AdapterContext, EgressPolicy, Peers, Secrets};
use crate::egress::{EgressError, Reach};
use crate::limits::{
    ANSWER_BYTES_MAX, ANSWER_HEADERS_MAX, BodyError, CONNECT_TIMEOUT, read_capped,
};
use crate::pool::Pool;
use crate::settings::{self, SecretName};
use crate::tls::{self, Failure, Profiles};
use config::Settings;
use sign::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookSecret};
use wire::Callbacks;

mod callback;
mod config;
pub mod sign;
pub mod wire;

pub(crate) use callback::read_status;
pub use callback::{CALLBACK_BYTES_MAX, Callback, CallbackError, verify_callback};

/// The most idle connections kept to one endpoint.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// What we call ourselves.
const USER_AGENT: &str = concat!("waymark/", env!("CARGO_PKG_VERSION"));

/// The webhook adapter.
pub struct Webhook {
    profiles: Arc<Profiles>,
    secrets: Arc<dyn Secrets>,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
    environment: Environment,
    egress: EgressPolicy,
    clients: Pool<reqwest::Client>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

/// Why an endpoint's callbacks cannot be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackSecretsError {
    /// The endpoint takes no callbacks.
    #[error("endpoint {0} takes no callbacks: it names no callback_secrets")]
    NotTaken(String),
    /// A secret is missing or no webhook secret.
    #[error("secret {0} is missing or not a webhook secret")]
    Secret(String),
}

/// The secrets that an endpoint's status callbacks are signed with.
///
/// # Errors
/// [`CallbackSecretsError`] when the endpoint takes none, or a secret does not resolve.
pub fn callback_secrets(
    endpoint: &Endpoint,
    secrets: &dyn Secrets,
) -> Result<Vec<WebhookSecret>, CallbackSecretsError> {
    // Whether the address may be reached does not matter to what comes in from it.
    let names = Settings::read(endpoint, EgressPolicy::AsFlagged).map(|s| s.callback_secrets);
    match names {
        Ok(names) if !names.is_empty() => {
            resolve(&names, secrets).map_err(CallbackSecretsError::Secret)
        }
        _ => Err(CallbackSecretsError::NotTaken(endpoint.id.to_string())),
    }
}

/// The secrets of these names, or the name of the first that is missing or malformed.
fn resolve(names: &[SecretName], secrets: &dyn Secrets) -> Result<Vec<WebhookSecret>, String> {
    let one = |name: &SecretName| {
        let found = name
            .resolve(secrets)
            .and_then(|text| WebhookSecret::parse(&text).ok());
        found.ok_or_else(|| name.to_string())
    };
    names.iter().map(one).collect()
}

/// Resolves names through the egress guard, so that the addresses judged are those connected to.
pub(crate) struct Guarded(pub(crate) Reach);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = reach.resolve(name.as_str(), 0).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

impl Webhook {
    pub(crate) fn new(profiles: Arc<Profiles>, context: &AdapterContext) -> Self {
        Self {
            profiles,
            secrets: Arc::clone(&context.secrets),
            peers: Arc::clone(&context.peers),
            clock: Arc::clone(&context.clock),
            environment: context.environment,
            egress: context.egress,
            clients: Pool::default(),
        }
    }

    /// The settings, and that they lead to the agency that the message was bound to.
    fn bound(&self, message: &Outbound<'_>) -> Result<Settings, Outcome> {
        let settings = Settings::read(message.endpoint, self.egress).map_err(|faults| {
            let text = faults.first().map(ToString::to_string).unwrap_or_default();
            let why = Why::new("webhook.settings", text);
            Outcome::Park {
                reason: ParkReason::NoEndpoint,
                why,
            }
        })?;
        let same =
            |identity: &String| self.peers.agency_of(identity).as_ref() == Some(message.recipient);
        let bound = message.endpoint.agency == *message.recipient;
        if bound && settings.peer_identity.as_ref().is_none_or(same) {
            return Ok(settings);
        }
        let text = "the endpoint's identity is not, or no longer, that of the bound recipient";
        let why = Why::new("webhook.wrong_recipient", text);
        Err(Outcome::Park {
            reason: ParkReason::WrongRecipient,
            why,
        })
    }

    fn tls(&self, settings: &Settings) -> Result<rustls::ClientConfig, ConnectError> {
        let profile = self
            .profiles
            .get(&settings.tls_profile)
            .ok_or(ConnectError::Handshake)?;
        let config = profile.client(settings.peer_identity.as_deref(), &[]);
        config.map_err(|_| ConnectError::Handshake)
    }

    fn client(
        &self,
        endpoint: &Endpoint,
        settings: &Settings,
    ) -> Result<reqwest::Client, ConnectError> {
        if let Some(client) = self.clients.find(endpoint, Instant::now()) {
            return Ok(client);
        }
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls(settings)?)
            .dns_resolver(Guarded(settings.address.reach))
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .http1_max_headers(ANSWER_HEADERS_MAX)
            .https_only(settings.address.reach != Reach::Loopback)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|_| ConnectError::Handshake)?;
        self.clients.keep(endpoint, client.clone(), Instant::now());
        Ok(client)
    }

    async fn attempt(
        &self,
        message: &Outbound<'_>,
        settings: &Settings,
        until: Instant,
    ) -> Outcome {
        let client = match self.client(message.endpoint, settings) {
            Ok(client) => client,
            Err(error) => return error.outcome("webhook"),
        };
        let secrets = match resolve(&settings.signing_secrets, &*self.secrets) {
            Ok(secrets) => secrets,
            Err(name) => {
                let text = format!("secret {name} is missing or not a webhook secret");
                return Outcome::Retry {
                    after: None,
                    why: Why::new("webhook.secret", text),
                };
            }
        };
        let request = self.request(&client, message, settings, &secrets);
        let mut response = match timeout_at(until, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return self.unanswered(message, &error),
            Err(_) => {
                let why = Why::new("webhook.timeout", "no answer within the deadline");
                return Outcome::Unknown { why };
            }
        };
        let status = response.status();
        debug!(endpoint.id = %message.endpoint.id, status = status.as_u16(), "webhook answered");
        if !status.is_success() {
            return wire::refused(status, response.headers(), self.clock.now());
        }
        let callbacks = if settings.callback_secrets.is_empty() {
            Callbacks::None
        } else {
            Callbacks::Expected
        };
        // The status settles that it arrived; a body that breaks off or is too long proves no more than that.
        let body = timeout_at(until, read_capped(&mut response, ANSWER_BYTES_MAX)).await;
        let body = body.unwrap_or(Err(BodyError::BrokeOff)).unwrap_or_default();
        let outcome = wire::taken(message.wire_id.as_str(), body, callbacks);
        debug_assert!(
            !matches!(&outcome, Outcome::Delivered { grade, .. } if *grade > Evidence::ApplicationAck),
            "a 2xx is never a person's word"
        );
        outcome
    }

    fn request(
        &self,
        client: &reqwest::Client,
        message: &Outbound<'_>,
        settings: &Settings,
        secrets: &[WebhookSecret],
    ) -> reqwest::RequestBuilder {
        let body = message.rendered.bytes.expose();
        let id = message.wire_id.as_str();
        let now = self.clock.now();
        let mut request = client
            .post(settings.address.url.clone())
            .header(CONTENT_TYPE, &message.rendered.media_type)
            .header(ACCEPT, wire::MEDIA_TYPE)
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, sign::seconds(now))
            .header(SIGNATURE_HEADER, sign::signature(secrets, id, now, body))
            .body(body.to_vec());
        if let Some(parent) = message.traceparent {
            request = request.header("traceparent", parent);
        }
        request
    }

    /// How an attempt without an answer ended. The library's words are not kept: they name the URL.
    fn unanswered(&self, message: &Outbound<'_>, error: &reqwest::Error) -> Outcome {
        self.clients.drop(&message.endpoint.id);
        unreached(error).map_or_else(
            || {
                let why = Why::new(
                    "webhook.broken",
                    "the connection broke before an answer came",
                );
                Outcome::Unknown { why }
            },
            |error| error.outcome("webhook"),
        )
    }
}

/// Whether a failure says that nothing was written, or that the peer refused our certificate and so read nothing.
pub(crate) fn unreached(error: &reqwest::Error) -> Option<ConnectError> {
    let tls = Failure::in_chain(error);
    if tls == Some(Failure::RefusedUs) {
        return Some(ConnectError::RefusedUs);
    }
    if !error.is_connect() {
        return None;
    }
    let egress = tls::find::<EgressError>(error)
        .copied()
        .map(ConnectError::Egress);
    let kind = tls::find::<std::io::Error>(error).map(std::io::Error::kind);
    Some(egress.or(tls.map(ConnectError::from)).unwrap_or_else(|| {
        if error.is_timeout() {
            ConnectError::Timeout
        } else {
            ConnectError::Tcp(kind.unwrap_or(std::io::ErrorKind::Other))
        }
    }))
}

#[async_trait]
impl Adapter for Webhook {
    fn repeat(&self) -> Repeat {
        Repeat::DedupesById
    }

    fn identification(&self, endpoint: &Endpoint) -> Identification {
        let plain = Settings::read(endpoint, EgressPolicy::AsFlagged)
            .is_ok_and(|settings| settings.address.reach == Reach::Loopback);
        if plain {
            Identification::Network
        } else {
            Identification::Certificate
        }
    }

    fn validate(&self, endpoint: &Endpoint) -> Vec<Violation> {
        match Settings::read(endpoint, self.egress) {
            Err(faults) => faults,
            Ok(settings) => settings::profile_faults(&settings.tls_profile, &self.profiles),
        }
    }

    fn render(&self, source: &Source, _endpoint: &Endpoint) -> Result<Rendered, RenderError> {
        wire::render(source, self.environment)
    }

    async fn deliver(&self, message: &Outbound<'_>, deadline: Deadline) -> Outcome {
        let until = Instant::now() + deadline.within;
        match self.bound(message) {
            Ok(settings) => self.attempt(message, &settings, until).await,
            Err(outcome) => outcome,
        }
    }

    async fn probe(&self, endpoint: &Endpoint, deadline: Deadline) -> Probe {
        let Ok(settings) = Settings::read(endpoint, self.egress) else {
            return connect::not_tried("the endpoint's settings are wrong: see directory check");
        };
        let until = Instant::now() + deadline.within;
        let config = if settings.address.reach == Reach::Loopback {
            None
        } else {
            let Ok(config) = self.tls(&settings) else {
                return connect::not_tried("the endpoint names no TLS profile of this process");
            };
            Some(Arc::new(config))
        };
        connect::probe(&settings.address, config, until).await
    }
}

#[cfg(test)]
mod tests;
