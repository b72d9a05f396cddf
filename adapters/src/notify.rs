//! Messages to families through GOV.UK Notify, or another provider of its API: email, text message and letter.
//!
//! Lost on the way: everything but what the template names of the closed list in `waymark_core::family::Field`, which is
//! meant: a family is told what happens next, and no diagnosis, name of the child or other content travels. Nothing
//! between agencies is carried at all.
//!
//! The provider takes the same message twice, so an attempt of unknown end is asked after, by its reference, first.

use std::sync::Arc;

use async_trait::async_trait;
use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use tokio::time::Instant;
use waymark_core::delivery::{Outcome, ParkReason, Repeat, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::family::Way;
use waymark_core::id::WireId;
use waymark_core::port::{
    Adapter, AsksAfter, Collected, Deadline, Identification, Intake, Outbound, Probe,
    Reconciliation, RenderError, Rendered, Sent, Source,
};
use waymark_core::time::Clock;

use crate::connect::{self, ConnectError};
use crate::context::{AdapterContext, EgressPolicy, Secrets};
use crate::https::{self, Answer, Asking, Clients, below};
use crate::limits::ANSWER_BYTES_MAX;
use crate::settings;
use crate::tls::Profiles;
use config::Settings;
use token::ApiKey;
use wire::Seen;

mod callback;
mod collect;
mod config;
pub(crate) mod inspect;
mod token;
mod wire;

pub use callback::{ReceiptError, receipt};

/// What the codes of its outcomes begin with.
const ADAPTER: &str = "notify";
/// The media type that is sent and asked for.
const JSON: &str = "application/json";

/// The Notify adapter.
pub struct Notify {
    profiles: Arc<Profiles>,
    secrets: Arc<dyn Secrets>,
    clock: Arc<dyn Clock>,
    environment: Environment,
    egress: EgressPolicy,
    clients: Clients,
}

impl std::fmt::Debug for Notify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notify")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

/// Whom to ask, and as whom.
struct Call<'a> {
    endpoint: &'a Endpoint,
    settings: &'a Settings,
    client: reqwest::Client,
    key: ApiKey,
}

/// What was asked after.
enum Found {
    Seen(Seen),
    Nothing,
}

impl Notify {
    pub(crate) fn new(profiles: Arc<Profiles>, context: &AdapterContext) -> Self {
        Self {
            profiles,
            secrets: Arc::clone(&context.secrets),
            clock: Arc::clone(&context.clock),
            environment: context.environment,
            egress: context.egress,
            clients: Clients::default(),
        }
    }

    fn settings(&self, endpoint: &Endpoint) -> Result<Settings, Outcome> {
        Settings::read(endpoint, self.egress).map_err(|faults| settings::parked(ADAPTER, &faults))
    }

    fn tls(&self, settings: &Settings) -> Result<rustls::ClientConfig, ConnectError> {
        connect::config(&self.profiles, &settings.tls_profile, None, &[])
    }

    fn call<'a>(
        &self,
        endpoint: &'a Endpoint,
        settings: &'a Settings,
    ) -> Result<Call<'a>, Outcome> {
        let client = self
            .clients
            .of(endpoint, &settings.address, || self.tls(settings));
        let client = client.map_err(|error| error.outcome(ADAPTER))?;
        let name = &settings.api_key;
        let key = name.resolve(&*self.secrets);
        let key = key.and_then(|text| ApiKey::parse(&text)).ok_or_else(|| {
            let text = format!("secret {name} is missing or no API key");
            Outcome::Retry {
                after: None,
                why: Why::new("notify.secret", text),
            }
        })?;
        Ok(Call {
            endpoint,
            settings,
            client,
            key,
        })
    }

    /// Makes one request and reads its answer.
    async fn ask(
        &self,
        call: &Call<'_>,
        request: reqwest::RequestBuilder,
        until: Instant,
    ) -> Result<Answer, Outcome> {
        let bearer = format!("Bearer {}", call.key.token(self.clock.now()));
        let request = request.header(AUTHORIZATION, bearer).header(ACCEPT, JSON);
        let asking = Asking {
            adapter: ADAPTER,
            endpoint: call.endpoint,
            until,
            bytes_max: ANSWER_BYTES_MAX,
        };
        self.clients.ask(asking, request).await
    }

    async fn attempt(&self, message: &Outbound<'_>, until: Instant) -> Outcome {
        let sending = async {
            let settings = self.settings(message.endpoint)?;
            let way = Way::of_media_type(&message.rendered.media_type).ok_or_else(|| {
                let text = "what was rendered says no way by which it goes";
                Outcome::Park {
                    reason: ParkReason::Poison,
                    why: Why::new("notify.way", text),
                }
            })?;
            let call = self.call(message.endpoint, &settings)?;
            let url = below(&settings.address.url, &wire::path(way));
            let mut request = call.client.post(url).header(CONTENT_TYPE, JSON);
            if let Some(parent) = message.traceparent {
                request = request.header("traceparent", parent);
            }
            let request = request.body(message.rendered.bytes.expose().to_vec());
            self.ask(&call, request, until).await
        };
        match sending.await {
            Err(outcome) => outcome,
            Ok(answer) if answer.status == StatusCode::CREATED => wire::taken(answer.bytes()),
            Ok(answer) => {
                let now = self.clock.now();
                wire::refused(answer.status, &answer.headers, answer.bytes(), now)
            }
        }
    }

    /// Whether the provider takes our key now: its templates are read, which nobody notices.
    async fn application(
        &self,
        endpoint: &Endpoint,
        settings: &Settings,
        until: Instant,
    ) -> Result<String, String> {
        let words = |outcome: &Outcome| unanswered(outcome).text;
        let call = self.call(endpoint, settings);
        let call = call.map_err(|outcome| words(&outcome))?;
        let url = below(&settings.address.url, &["v2", "templates"]);
        let answer = self.ask(&call, call.client.get(url), until).await;
        let answer = answer.map_err(|outcome| words(&outcome))?;
        if let Some(apart) = https::clocks(&answer.headers, self.clock.now()) {
            return Err(apart);
        }
        match answer.status {
            StatusCode::OK => Ok("the provider takes the API key".to_owned()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(wire::refused_key(answer.bytes()).to_owned())
            }
            status => Err(format!("a question was answered {}", status.as_u16())),
        }
    }

    async fn by_id(&self, call: &Call<'_>, id: &str, until: Instant) -> Result<Found, Why> {
        let url = below(&call.settings.address.url, &["v2", "notifications", id]);
        let answer = self.ask(call, call.client.get(url), until).await;
        let answer = answer.map_err(|outcome| unanswered(&outcome))?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(answer.bytes())
                .map(Found::Seen)
                .map_err(|_| unreadable()),
            StatusCode::NOT_FOUND => Ok(Found::Nothing),
            status => Err(refused_asking(status)),
        }
    }

    async fn by_reference(
        &self,
        call: &Call<'_>,
        wire_id: &WireId,
        until: Instant,
    ) -> Result<Found, Why> {
        let mut url = below(&call.settings.address.url, &["v2", "notifications"]);
        url.query_pairs_mut()
            .append_pair("reference", wire_id.as_str());
        let answer = self.ask(call, call.client.get(url), until).await;
        let answer = answer.map_err(|outcome| unanswered(&outcome))?;
        if answer.status != StatusCode::OK {
            return Err(refused_asking(answer.status));
        }
        let found = wire::furthest(answer.bytes(), wire_id).map_err(|_| unreadable())?;
        Ok(found.map_or(Found::Nothing, Found::Seen))
    }
}

fn unanswered(outcome: &Outcome) -> Why {
    let why = outcome.why().cloned();
    why.unwrap_or_else(|| Why::new("notify.collect", "the question was not answered"))
}

fn unreadable() -> Why {
    Why::new("notify.collect", "the answer is not the API's JSON")
}

fn refused_asking(status: StatusCode) -> Why {
    let text = format!(
        "a question after a message was answered {}",
        status.as_u16()
    );
    Why::new("notify.collect", text)
}

#[async_trait]
impl Adapter for Notify {
    fn repeat(&self, _endpoint: &Endpoint) -> Repeat {
        Repeat::MustReconcile
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
        let settings = Settings::read(endpoint, EgressPolicy::AsFlagged);
        let settings = settings.map_err(settings::unusable)?;
        wire::render(source, self.environment, &settings)
    }

    async fn deliver(&self, message: &Outbound<'_>, deadline: Deadline) -> Outcome {
        let until = Instant::now() + deadline.within;
        match settings::bound(ADAPTER, message, None) {
            Ok(()) => self.attempt(message, until).await,
            Err(outcome) => outcome,
        }
    }

    fn asks_after(&self) -> AsksAfter {
        AsksAfter::Evidence
    }

    fn collect_every(&self, endpoint: &Endpoint) -> Option<std::time::Duration> {
        let settings = Settings::read(endpoint, self.egress).ok()?;
        Some(settings.poll)
    }

    async fn collect(
        &self,
        endpoint: &Endpoint,
        sent: &[Sent],
        intake: &dyn Intake,
        deadline: Deadline,
    ) -> Collected {
        let until = Instant::now() + deadline.within;
        let settings = match self.settings(endpoint) {
            Ok(settings) => settings,
            Err(outcome) => return stopped(&outcome),
        };
        match self.call(endpoint, &settings) {
            Ok(call) => self.ask_after(&call, sent, intake, until).await,
            Err(outcome) => stopped(&outcome),
        }
    }

    async fn reconcile(&self, message: &Outbound<'_>, deadline: Deadline) -> Reconciliation {
        let until = Instant::now() + deadline.within;
        let asking = async {
            let settings = self
                .settings(message.endpoint)
                .map_err(|outcome| unanswered(&outcome))?;
            let call = self
                .call(message.endpoint, &settings)
                .map_err(|outcome| unanswered(&outcome))?;
            self.by_reference(&call, message.wire_id, until).await
        };
        match asking.await {
            Ok(Found::Seen(seen)) => Reconciliation::Settled(seen.outcome()),
            Ok(Found::Nothing) => Reconciliation::NotReceived,
            Err(why) => Reconciliation::StillUnknown(why),
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
        connect::with_application(probe, &self.application(endpoint, &settings, until).await)
    }
}

fn stopped(outcome: &Outcome) -> Collected {
    Collected {
        stopped: Some(unanswered(outcome)),
        ..Collected::default()
    }
}
