//! One request to the hub, with a header of its own, and its answer.

use std::sync::Arc;

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use waymark_core::delivery::{Outcome, Why};
use waymark_core::directory::Endpoint;

use super::Mesh;
use super::auth::Credentials;
use super::config::Settings;
use crate::connect::ConnectError;
use crate::egress::Reach;
use crate::fhir::{Fhir, below};
use crate::limits::{BodyError, read_capped};
use crate::settings::SecretName;
use crate::webhook::unreached;

/// The version of the API that is asked for.
const VERSION: &str = "application/vnd.mesh.v2+json";
/// What stands before every path.
const BASE: &str = "messageexchange";
/// Random bytes of a nonce.
const NONCE_BYTES: usize = 16;
/// A nonce is used once, so its count is always the first.
const NONCE_COUNT: u32 = 0;

/// An endpoint, its settings and the time there is.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) settings: &'a Settings,
    pub(super) until: Instant,
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Below `/messageexchange`.
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// The most bytes of its answer.
    pub(super) answer_max: usize,
}

/// An answer, read up to the limit.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Empty where it was longer.
    pub(super) body: Vec<u8>,
    /// Whether it was longer than asked for.
    pub(super) too_long: bool,
}

impl Mesh {
    /// Asks once. An error says whether anything was written: `Retry` and `Park` say that nothing was.
    pub(super) async fn ask(&self, call: Call<'_>, ask: Ask<'_>) -> Result<Answer, Outcome> {
        let authorization = self.authorization(call.settings)?;
        let client = self.client(call).map_err(|error| error.outcome("mesh"))?;
        let base: Vec<&str> = [&[BASE], ask.path].concat();
        let mut url = below(&call.settings.address.url, &base);
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(ask.query);
        }
        let mut request = client
            .request(ask.method, url)
            .headers(ask.headers)
            .header(AUTHORIZATION, authorization)
            .header(ACCEPT, VERSION)
            .header(ACCEPT_ENCODING, "gzip");
        if !ask.body.is_empty() {
            request = request.body(ask.body);
        }
        let unanswered = || Outcome::Unknown {
            why: Why::new("mesh.timeout", "no answer within the deadline"),
        };
        let mut response = match timeout_at(call.until, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.unanswered(call.endpoint, &error)),
            Err(_) => return Err(unanswered()),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        debug!(endpoint.id = %call.endpoint.id, status = status.as_u16(), "MESH answered");
        let body = timeout_at(call.until, read_capped(&mut response, ask.answer_max)).await;
        let (body, too_long) = match body.map_err(|_| unanswered())? {
            Ok(body) => (body, false),
            Err(BodyError::TooLong(_)) => (Vec::new(), true),
            Err(error @ BodyError::BrokeOff) => {
                let why = Why::new("mesh.answer", error.to_string());
                return Err(Outcome::Unknown { why });
            }
        };
        Ok(Answer {
            status,
            headers,
            body,
            too_long,
        })
    }

    fn authorization(&self, settings: &Settings) -> Result<HeaderValue, Outcome> {
        let later = |code: &str, text: String| Outcome::Retry {
            after: None,
            why: Why::new(code, text),
        };
        let secret = |name: &SecretName| {
            name.resolve(&*self.secrets)
                .ok_or_else(|| later("mesh.secret", format!("secret {name} is missing")))
        };
        let (password, shared_key) = (secret(&settings.password)?, secret(&settings.shared_key)?);
        let mut nonce = [0u8; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|_| later("mesh.random", "no randomness".to_owned()))?;
        let nonce = uuid::Builder::from_random_bytes(nonce).into_uuid();
        let credentials = Credentials {
            mailbox: &settings.mailbox,
            password: password.trim_ascii(),
            shared_key: shared_key.trim_ascii(),
        };
        credentials
            .header(&nonce.to_string(), NONCE_COUNT, self.clock.now())
            .ok_or_else(|| later("mesh.clock", "the time cannot be written".to_owned()))
    }

    /// What TLS with the hub begins with; none over the loopback of a test.
    pub(super) fn tls(
        &self,
        settings: &Settings,
    ) -> Result<Option<Arc<rustls::ClientConfig>>, ConnectError> {
        if settings.address.reach == Reach::Loopback {
            return Ok(None);
        }
        Ok(Some(Arc::new(self.papers(settings)?)))
    }

    fn papers(&self, settings: &Settings) -> Result<rustls::ClientConfig, ConnectError> {
        let profile = self.profiles.get(&settings.tls_profile);
        let config = profile.ok_or(ConnectError::Handshake)?.client(None, &[]);
        config.map_err(|_| ConnectError::Handshake)
    }

    fn client(&self, call: Call<'_>) -> Result<reqwest::Client, ConnectError> {
        if let Some(client) = self.clients.find(call.endpoint, Instant::now()) {
            return Ok(client);
        }
        let client = Fhir::client_of(&call.settings.address, self.papers(call.settings)?)?;
        self.clients
            .keep(call.endpoint, client.clone(), Instant::now());
        Ok(client)
    }

    /// How a request without an answer ended. The library's words are not kept: they name the URL.
    fn unanswered(&self, endpoint: &Endpoint, error: &reqwest::Error) -> Outcome {
        self.clients.drop(&endpoint.id);
        unreached(error).map_or_else(
            || Outcome::Unknown {
                why: Why::new("mesh.broken", "the connection broke before an answer came"),
            },
            |error| error.outcome("mesh"),
        )
    }
}

/// Why a request that only asks came to nothing.
pub(super) fn why_of(outcome: &Outcome) -> Why {
    let unnamed = || Why::new("mesh.unanswered", "the hub did not answer");
    outcome.why().cloned().unwrap_or_else(unnamed)
}
