//! One request to the hub, with a header of its own, and its answer.

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::Instant;
use waymark_core::delivery::{Outcome, Why};
use waymark_core::directory::Endpoint;

use super::auth::Credentials;
use super::config::Settings;
use super::{ADAPTER, Mesh};
use crate::connect::{self, ConnectError};
use crate::https::{Asking, below};
use crate::limits::BodyError;
use crate::settings::SecretName;

/// The version of the API that is asked for.
const VERSION: &str = "application/vnd.mesh.v2+json";
/// What stands before every path.
pub(super) const BASE: &str = "messageexchange";
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
        let (address, tls) = (&call.settings.address, || self.tls(call.settings));
        let client = self.clients.of(call.endpoint, address, tls);
        let client = client.map_err(|error| error.outcome(ADAPTER))?;
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
        let asking = Asking {
            adapter: ADAPTER,
            endpoint: call.endpoint,
            until: call.until,
            bytes_max: ask.answer_max,
        };
        let answer = self.clients.ask(asking, request).await?;
        let (body, too_long) = match answer.body {
            Ok(body) => (body, false),
            Err(BodyError::TooLong(_)) => (Vec::new(), true),
            Err(error @ (BodyError::BrokeOff | BodyError::Late)) => {
                let why = Why::new("mesh.answer", error.to_string());
                return Err(Outcome::Unknown { why });
            }
        };
        Ok(Answer {
            status: answer.status,
            headers: answer.headers,
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

    /// What TLS with the hub begins with.
    pub(super) fn tls(&self, settings: &Settings) -> Result<rustls::ClientConfig, ConnectError> {
        connect::config(&self.profiles, &settings.tls_profile, None, &[])
    }
}

/// Why a request that only asks came to nothing.
pub(super) fn why_of(outcome: &Outcome) -> Why {
    let unnamed = || Why::new("mesh.unanswered", "the hub did not answer");
    outcome.why().cloned().unwrap_or_else(unnamed)
}
