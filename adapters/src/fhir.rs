//! FHIR R4: the NHS Booking and Referral Standard (BaRS Core 1.4 patterns) and plain FHIR servers, both ways.
//!
//! No BaRS use case covers SEND, so messages name one of our own (`urn:waymark:codesystem:usecase`) and say so.
//!
//! Lost on the way: an empty text and an empty name part are left out; a document larger than is sent inline goes by
//! reference, and its receiver cannot fetch it by that alone; the receiver knows the referral by our reference, and the
//! sender's own goes along as one more identifier. At a plain server what supports the request is contained in it, so
//! that no search finds a flag by itself; when it ends there, request and task are put without all that.
//!
//! Carried: safeguarding and adjustments as flags, allergies, consent and its scope, unsafe contact and the format that
//! somebody reads as resources of their own, and all of them in words in the request's first note.
//!
//! Inward: what has no field goes into the narrative in words (`fhir/wire`), kinds of resource that nobody here reads by name;
//! what would change the meaning of what is read is refused. A withdrawal of consent that comes in is read as a cancel with
//! the words that say so: BaRS has no message for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use url::Url;
use waymark_core::delivery::{Outcome, ParkReason, Repeat, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::{Fault, Violation};
use waymark_core::port::{
    Adapter, AsksAfter, Collected, Deadline, Identification, Intake, Outbound, Probe, RenderError,
    Rendered, Sent, Source,
};
use waymark_core::time::Clock;

use crate::connect::{self, ConnectError};
use crate::context::{AdapterContext, EgressPolicy, Peers, Secrets};
use crate::https::{self, Asking, Clients, below, clocks};
use crate::limits::{BodyError, read_capped};
use crate::pool::Pool;
use crate::settings;
use crate::tls::Profiles;
use crate::webhook::wire::retry_after;
use config::{Mode, Settings, TokenSettings};
use header::Outgoing;
use wire::MEDIA_TYPE;

mod answer;
pub(crate) mod carried;
mod collect;
mod config;
#[cfg(test)]
mod corpus;
pub mod header;
pub(crate) mod inspect;
mod name;
mod probe;
pub mod send;
pub mod server;
mod standing;
#[cfg(test)]
mod tests;
mod token;
mod wire;

pub use name::DOS_SERVICE;
pub use wire::inward::Assumptions;
pub use wire::node::{Fault as DocumentFault, Issue};

/// What the codes of its outcomes begin with.
const ADAPTER: &str = "fhir";
/// The most bytes of an answer: a page of tasks, or a bundle that repeats what we sent.
const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Random bytes of an assertion's id.
const ASSERTION_ID_BYTES: usize = 16;

/// The FHIR adapter.
pub struct Fhir {
    profiles: Arc<Profiles>,
    secrets: Arc<dyn Secrets>,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
    environment: Environment,
    egress: EgressPolicy,
    clients: Clients,
    tokens: Pool<Token>,
}

/// A token in use.
#[derive(Clone)]
struct Token {
    bearer: HeaderValue,
    until: Instant,
}

impl fmt::Debug for Fhir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fhir")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

/// A request to the far side.
struct Ask<'a> {
    method: http::Method,
    url: Url,
    headers: HeaderMap,
    body: Option<&'a [u8]>,
    traceparent: Option<&'a str>,
}

/// An answer, read up to the limit.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// An endpoint, its settings and the time there is.
#[derive(Clone, Copy)]
struct Call<'a> {
    endpoint: &'a Endpoint,
    settings: &'a Settings,
    until: Instant,
}

impl Fhir {
    pub(crate) fn new(profiles: Arc<Profiles>, context: &AdapterContext) -> Self {
        Self {
            profiles,
            secrets: Arc::clone(&context.secrets),
            peers: Arc::clone(&context.peers),
            clock: Arc::clone(&context.clock),
            environment: context.environment,
            egress: context.egress,
            clients: Clients::default(),
            tokens: Pool::default(),
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

    /// Asks once; a token that is not taken is fetched anew, once.
    async fn ask(&self, call: Call<'_>, ask: &Ask<'_>) -> Result<Answer, Outcome> {
        let bearer = match &call.settings.token {
            None => None,
            Some(token) => Some(self.token(call, token).await?),
        };
        let answer = self.send(call, ask, bearer.as_ref()).await?;
        let Some(token) = &call.settings.token else {
            return Ok(answer);
        };
        if answer.status != StatusCode::UNAUTHORIZED
            && !answer::of_our_token(answer.status, &answer.body)
        {
            return Ok(answer);
        }
        self.tokens.drop(&call.endpoint.id);
        let fresh = self.token(call, token).await?;
        self.send(call, ask, Some(&fresh)).await
    }

    async fn send(
        &self,
        call: Call<'_>,
        ask: &Ask<'_>,
        bearer: Option<&HeaderValue>,
    ) -> Result<Answer, Outcome> {
        let (address, tls) = (&call.settings.address, || self.tls(call.settings));
        let client = self.clients.of(call.endpoint, address, tls);
        let client = client.map_err(|error| error.outcome(ADAPTER))?;
        let mut request = client
            .request(ask.method.clone(), ask.url.clone())
            .headers(ask.headers.clone());
        if let Some(bearer) = bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        if let Some(parent) = ask.traceparent {
            request = request.header("traceparent", parent);
        }
        if let Some(body) = ask.body {
            request = request.body(body.to_vec());
        }
        let asking = Asking {
            adapter: ADAPTER,
            endpoint: call.endpoint,
            until: call.until,
            bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = self.clients.ask(asking, request).await?;
        // A status without its body still says what it says, and an error without its outcome nothing.
        let body = match answer.body {
            Err(error @ BodyError::Late) => {
                let why = Why::new("fhir.timeout", error.to_string());
                return Err(Outcome::Unknown { why });
            }
            body => body.unwrap_or_default(),
        };
        Ok(Answer {
            status: answer.status,
            headers: answer.headers,
            body,
        })
    }

    /// The token in use, or a new one. Nothing of a message was written while there is none, and one that its server
    /// does not give now it may give later: whatever fails here is tried again.
    async fn token(&self, call: Call<'_>, token: &TokenSettings) -> Result<HeaderValue, Outcome> {
        let now = Instant::now();
        if let Some(kept) = self.tokens.find(call.endpoint, now)
            && kept.until > now
        {
            return Ok(kept.bearer);
        }
        let why = |code: &str, text: &str| Why::new(format!("fhir.token_{code}"), text);
        let later = |why| Outcome::Retry { after: None, why };
        let pem = token
            .key
            .resolve(&*self.secrets)
            .ok_or_else(|| later(why("secret", &format!("secret {} is missing", token.key))))?;
        let id = random().map_err(|_| later(why("random", "no randomness")))?;
        let id = uuid::Builder::from_random_bytes(id).into_uuid().to_string();
        let assertion = token::assertion(token, &pem, &id, self.clock.now())
            .map_err(|error| later(why("key", &format!("secret {} {error}", token.key))))?;
        let tls = self.tls(call.settings).map_err(|e| e.outcome("fhir"))?;
        // The token's server is another host: its certificate is judged by its name, not by the agency's identity.
        let client = match &call.settings.peer_identity {
            None => https::client(&token.address, tls),
            Some(_) => {
                let open = Settings {
                    peer_identity: None,
                    ..call.settings.clone()
                };
                self.tls(&open)
                    .and_then(|tls| https::client(&token.address, tls))
            }
        };
        let client = client.map_err(|error| error.outcome("fhir"))?;
        let request = client
            .post(token.address.url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(token::form(token, &assertion));
        let answered = timeout_at(call.until, async {
            let mut response = request.send().await.ok()?;
            let status = response.status();
            let after = retry_after(response.headers(), self.clock.now());
            let body = read_capped(&mut response, crate::limits::ANSWER_BYTES_MAX).await;
            let apart = clocks(response.headers(), self.clock.now());
            Some((status, (after, apart), body.unwrap_or_default()))
        });
        let Ok(Some((status, (after, apart), body))) = answered.await else {
            return Err(later(why("unreached", "the token endpoint did not answer")));
        };
        let mut text = format!("the token endpoint answered {}", status.as_u16());
        if let Some(word) = token::refusal(&body) {
            text = format!("{text} ({word})");
        }
        if let Some(apart) = apart {
            text = format!("{text}, and {apart}");
        }
        if !status.is_success() {
            let why = why("refused", &text);
            return Err(Outcome::Retry { after, why });
        }
        let read = token::read(&body).and_then(|(token, lasting)| {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
            bearer.set_sensitive(true);
            Some((bearer, lasting))
        });
        let Some((bearer, lasting)) = read else {
            return Err(later(why(
                "malformed",
                "the token endpoint's answer holds no bearer token",
            )));
        };
        let kept = Token {
            bearer: bearer.clone(),
            until: now + lasting,
        };
        self.tokens.keep(call.endpoint, kept, now);
        Ok(bearer)
    }

    async fn attempt(&self, message: &Outbound<'_>, call: Call<'_>) -> Outcome {
        let bytes = message.rendered.bytes.expose();
        let bundle: Value = serde_json::from_slice(bytes).unwrap_or_default();
        if let Err(outcome) = self.may_go(message, call, &bundle).await {
            return outcome;
        }
        match call.settings.mode {
            Mode::Bars => self.process(message, call, &bundle).await,
            Mode::Plain => self.transact(message, call).await,
        }
    }

    async fn process(&self, message: &Outbound<'_>, call: Call<'_>, bundle: &Value) -> Outcome {
        let outgoing = Outgoing::of(bundle, message.wire_id.as_str());
        let headers = outgoing
            .as_ref()
            .and_then(|outgoing| outgoing.headers(&call.settings.version));
        let (Some(outgoing), Some(mut headers)) = (outgoing, headers) else {
            return Outcome::Park {
                reason: ParkReason::Poison,
                why: Why::new("fhir.bundle", "the stored message cannot be read"),
            };
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        let ask = Ask {
            method: http::Method::POST,
            url: below(&call.settings.address.url, &["$process-message"]),
            headers,
            body: Some(message.rendered.bytes.expose()),
            traceparent: message.traceparent,
        };
        match self.ask(call, &ask).await {
            Err(outcome) => outcome,
            Ok(answer) => answer::of_message(
                answer.status,
                &answer.headers,
                answer.body,
                &outgoing,
                self.clock.now(),
            ),
        }
    }

    async fn transact(&self, message: &Outbound<'_>, call: Call<'_>) -> Outcome {
        let mut headers = reading();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        let ask = Ask {
            method: http::Method::POST,
            url: call.settings.address.url.clone(),
            headers,
            body: Some(message.rendered.bytes.expose()),
            traceparent: message.traceparent,
        };
        match self.ask(call, &ask).await {
            Err(outcome) => outcome,
            Ok(answer) => answer::of_transaction(
                answer.status,
                &answer.headers,
                answer.body,
                self.clock.now(),
            ),
        }
    }
}

/// What an id is made of that is used once.
fn random() -> Result<[u8; ASSERTION_ID_BYTES], aws_lc_rs::error::Unspecified> {
    let mut id = [0u8; ASSERTION_ID_BYTES];
    aws_lc_rs::rand::fill(&mut id)?;
    Ok(id)
}

/// The headers of a request that reads.
fn reading() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(MEDIA_TYPE));
    headers
}

/// Refused for good, because the far side has gone on without us.
fn gone_on(text: String) -> Outcome {
    Outcome::Reject {
        why: Why::new("fhir.not_active", text),
        fault: Fault::Rec,
    }
}

#[async_trait]
impl Adapter for Fhir {
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

    fn render(&self, source: &Source, endpoint: &Endpoint) -> Result<Rendered, RenderError> {
        let settings = Settings::read(endpoint, self.egress).map_err(settings::unusable)?;
        wire::render(source, &settings, &endpoint.codes, self.environment)
    }

    fn inline_bytes_max(&self, endpoint: &Endpoint) -> u64 {
        Settings::read(endpoint, self.egress).map_or(0, |settings| settings.inline_bytes_max)
    }

    async fn deliver(&self, message: &Outbound<'_>, deadline: Deadline) -> Outcome {
        let until = Instant::now() + deadline.within;
        match self.bound(message) {
            Err(outcome) => outcome,
            Ok(settings) => {
                let call = Call {
                    endpoint: message.endpoint,
                    settings: &settings,
                    until,
                };
                self.attempt(message, call).await
            }
        }
    }

    fn asks_after(&self) -> AsksAfter {
        AsksAfter::Cases
    }

    fn collect_every(&self, endpoint: &Endpoint) -> Option<Duration> {
        let settings = Settings::read(endpoint, self.egress).ok()?;
        (settings.mode == Mode::Plain).then(|| Duration::from_secs(settings.poll_seconds))
    }

    async fn collect(
        &self,
        endpoint: &Endpoint,
        sent: &[Sent],
        intake: &dyn Intake,
        deadline: Deadline,
    ) -> Collected {
        let until = Instant::now() + deadline.within;
        match Settings::read(endpoint, self.egress) {
            Err(_) => Collected::default(),
            Ok(settings) => {
                let call = Call {
                    endpoint,
                    settings: &settings,
                    until,
                };
                self.tasks(call, sent, intake).await
            }
        }
    }

    async fn probe(&self, endpoint: &Endpoint, deadline: Deadline) -> Probe {
        let Ok(settings) = Settings::read(endpoint, self.egress) else {
            return connect::unusable("the endpoint's settings are wrong: see directory check");
        };
        let until = Instant::now() + deadline.within;
        let probe = https::probe(&settings.address, self.tls(&settings), until).await;
        if !connect::reached(&probe) {
            return probe;
        }
        let call = Call {
            endpoint,
            settings: &settings,
            until,
        };
        connect::with_application(probe, &self.application(call).await)
    }
}
