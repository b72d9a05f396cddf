//! Push by signed webhook (Standard Webhooks), and the signed status that comes back.
//!
//! Lost on the way: nothing; the body carries the canonical referral whole. Documents larger than travel inline go by
//! reference.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::{ACCEPT, CONTENT_TYPE};
use tokio::time::Instant;
use waymark_core::delivery::{Evidence, Outcome, Repeat, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::port::{
    Adapter, Deadline, Identification, Outbound, Probe, RenderError, Rendered, Source,
};
use waymark_core::time::Clock;

use crate::connect::{self, ConnectError};
use crate::context::{AdapterContext, EgressPolicy, Peers, Secrets};
use crate::https::{self, Asking, Clients};
use crate::limits::ANSWER_BYTES_MAX;
use crate::settings::{self, SecretName};
use crate::tls::Profiles;
use config::Settings;
use sign::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookSecret};
use wire::Callbacks;

mod callback;
mod config;
pub(crate) mod inline;
pub(crate) mod inspect;
pub mod sign;
pub mod wire;

pub(crate) use callback::read_status;
pub use callback::{CALLBACK_BYTES_MAX, Callback, CallbackError, verify_callback};

/// What the codes of its outcomes begin with.
const ADAPTER: &str = "webhook";

/// The webhook adapter.
pub struct Webhook {
    profiles: Arc<Profiles>,
    secrets: Arc<dyn Secrets>,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
    environment: Environment,
    egress: EgressPolicy,
    clients: Clients,
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

impl Webhook {
    pub(crate) fn new(profiles: Arc<Profiles>, context: &AdapterContext) -> Self {
        Self {
            profiles,
            secrets: Arc::clone(&context.secrets),
            peers: Arc::clone(&context.peers),
            clock: Arc::clone(&context.clock),
            environment: context.environment,
            egress: context.egress,
            clients: Clients::default(),
        }
    }

    /// The settings, and that they lead to the agency that the message was bound to.
    fn bound(&self, message: &Outbound<'_>) -> Result<Settings, Outcome> {
        let settings = Settings::read(message.endpoint, self.egress)
            .map_err(|faults| settings::parked(ADAPTER, &faults))?;
        let identity = settings.peer_identity.as_deref();
        settings::bound(ADAPTER, message, identity.map(|name| (name, &*self.peers)))?;
        Ok(settings)
    }

    fn tls(&self, settings: &Settings) -> Result<rustls::ClientConfig, ConnectError> {
        let identity = settings.peer_identity.as_deref();
        connect::config(&self.profiles, &settings.tls_profile, identity, &[])
    }

    async fn attempt(
        &self,
        message: &Outbound<'_>,
        settings: &Settings,
        until: Instant,
    ) -> Outcome {
        let (endpoint, tls) = (message.endpoint, || self.tls(settings));
        let client = match self.clients.of(endpoint, &settings.address, tls) {
            Ok(client) => client,
            Err(error) => return error.outcome(ADAPTER),
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
        let asking = Asking {
            adapter: ADAPTER,
            endpoint,
            until,
            bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = match self.clients.ask(asking, request).await {
            Ok(answer) => answer,
            Err(outcome) => return outcome,
        };
        if !answer.status.is_success() {
            return wire::refused(answer.status, &answer.headers, self.clock.now());
        }
        let callbacks = if settings.callback_secrets.is_empty() {
            Callbacks::None
        } else {
            Callbacks::Expected
        };
        // The status settles that it arrived; a body that breaks off or is too long proves no more than that.
        let body = answer.body.unwrap_or_default();
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
}

#[async_trait]
impl Adapter for Webhook {
    fn repeat(&self, _endpoint: &Endpoint) -> Repeat {
        Repeat::DedupesById
    }

    fn identification(&self, endpoint: &Endpoint) -> Identification {
        let settings = Settings::read(endpoint, EgressPolicy::AsFlagged);
        settings.map_or(Identification::Certificate, |s| {
            https::identification(&s.address)
        })
    }

    fn validate(&self, endpoint: &Endpoint) -> Vec<Violation> {
        match Settings::read(endpoint, self.egress) {
            Err(faults) => faults,
            Ok(settings) => settings::profile_faults(&settings.tls_profile, &self.profiles),
        }
    }

    fn render(&self, source: &Source, _endpoint: &Endpoint) -> Result<Rendered, RenderError> {
        let canonical = wire::render(source, self.environment)?;
        inline::with_documents(canonical, source)
    }

    fn inline_bytes_max(&self, endpoint: &Endpoint) -> u64 {
        Settings::read(endpoint, self.egress).map_or(0, |settings| settings.inline_bytes_max)
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
            return connect::unusable("the endpoint's settings are wrong: see directory check");
        };
        let until = Instant::now() + deadline.within;
        https::probe(&settings.address, self.tls(&settings), until).await
    }
}

#[cfg(test)]
mod tests;
