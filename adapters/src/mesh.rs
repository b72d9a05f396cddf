//! NHS MESH: a mailbox at a hub. Messages out through it, and in what lies in our own; the hub is asked what became of
//! what we sent.
//!
//! The hub keeps a message five days for its receiver and does not know one that comes twice: an attempt whose end is
//! not known is settled by asking for it under our own id before anything is sent again ([`Repeat::MustReconcile`]).
//! That the hub has a message is `sent` and no more; that the agency acknowledged it, `transport_ack`; what its
//! application answers under the workflow's `_ACK`, `application_ack`. How long the agency may leave a message
//! uncollected is the endpoint's `evidence_within`, a day unless set, and not MESH's five. Where the settings ask for it
//! we answer what comes in as well, under its workflow's `_ACK`.
//!
//! Lost on the way: with `payload = "canonical"` nothing; documents larger than travel inline go by reference. With
//! `hl7v2` what [`crate::hl7v2::map::LOSSES`] says, with `fhir` what [`crate::fhir`] says.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;
use waymark_core::delivery::{Outcome, Repeat, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::port::{
    Adapter, AsksAfter, Collected, Deadline, Identification, Intake, Outbound, Probe,
    Reconciliation, RenderError, Rendered, Sent, Source,
};
use waymark_core::time::Clock;

use crate::connect;
use crate::context::{AdapterContext, EgressPolicy, Peers, Secrets};
use crate::https::{self, Clients};
use crate::limits::ANSWER_BYTES_MAX;
use crate::pool::Pool;
use crate::settings;
use crate::tls::Profiles;
use call::{Ask, Call, why_of};
use config::Settings;
use inbox::Round;
use left::Left;

mod answer;
mod auth;
mod call;
mod config;
mod envelope;
mod inbox;
pub(crate) mod inspect;
mod left;
mod outbox;
pub mod send;
#[cfg(test)]
mod tests;
mod wire;

/// What the codes of its outcomes begin with.
const ADAPTER: &str = "mesh";
/// The name by which the directory binds a mailbox to its agency.
pub fn identity_of(mailbox: &str) -> String {
    format!("mesh:{mailbox}")
}

/// The MESH adapter.
pub struct Mesh {
    profiles: Arc<Profiles>,
    secrets: Arc<dyn Secrets>,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
    environment: Environment,
    egress: EgressPolicy,
    clients: Clients,
    /// Mailboxes that were validated while their connection lasts: more often than the day that MESH asks for.
    validated: Pool<()>,
    /// What could not be taken in.
    left: Left,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

impl Mesh {
    pub(crate) fn new(profiles: Arc<Profiles>, context: &AdapterContext) -> Self {
        Self {
            profiles,
            secrets: Arc::clone(&context.secrets),
            peers: Arc::clone(&context.peers),
            clock: Arc::clone(&context.clock),
            environment: context.environment,
            egress: context.egress,
            clients: Clients::default(),
            validated: Pool::default(),
            left: Left::default(),
        }
    }

    /// The settings, when they lead to the mailbox of the agency that the message was bound to.
    fn bound(&self, message: &Outbound<'_>) -> Result<Settings, Outcome> {
        let settings = Settings::read(message.endpoint, self.egress)
            .map_err(|faults| settings::parked(ADAPTER, &faults))?;
        settings::bound(ADAPTER, message, Some((&settings.peer(), &*self.peers)))?;
        Ok(settings)
    }

    /// Validates our mailbox (NHS MESH API, "Validate a mailbox"): at least once a day, or the hub takes it for dead.
    async fn handshake(&self, call: Call<'_>) -> Result<(), Why> {
        let ask = Ask {
            method: Method::POST,
            path: &[&call.settings.mailbox],
            query: &[],
            headers: send::handshake(),
            body: Vec::new(),
            answer_max: ANSWER_BYTES_MAX,
        };
        let answer = self.ask(call, ask).await.map_err(|o| why_of(&o))?;
        if answer.status == StatusCode::OK {
            self.validated.keep(call.endpoint, (), Instant::now());
            return Ok(());
        }
        let refused = answer::refused(
            answer.status,
            &answer.headers,
            &answer.body,
            self.clock.now(),
        );
        let said = why_of(&refused).text;
        let why = format!("our mailbox was not validated: {said}: see password, key and clock");
        Err(Why::new("mesh.handshake", why))
    }

    /// Compares the hub's endpoint lookup with our settings; the words for an operator.
    async fn lookup(&self, call: Call<'_>, ods: &str) -> Result<String, Why> {
        let (to, workflow) = (&call.settings.to, &call.settings.workflow);
        let ask = Ask {
            method: Method::GET,
            path: &["endpointlookup", ods, workflow],
            query: &[],
            headers: HeaderMap::new(),
            body: Vec::new(),
            answer_max: ANSWER_BYTES_MAX,
        };
        let answer = self.ask(call, ask).await.map_err(|o| why_of(&o))?;
        let body = envelope::unpacked(&answer.headers, answer.body, ANSWER_BYTES_MAX);
        let found: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
        let results = found.get("results").and_then(Value::as_array);
        let (StatusCode::OK, Some(results)) = (answer.status, results) else {
            let text = format!(
                "the endpoint lookup was answered {}",
                answer.status.as_u16()
            );
            return Err(Why::new("mesh.lookup", text));
        };
        let names = |result: &Value| {
            let named = result
                .get("mailbox_id")
                .or_else(|| result.get("address"))
                .and_then(Value::as_str);
            named.is_some_and(|named| named.eq_ignore_ascii_case(to))
        };
        let (named, count) = (results.iter().any(names), results.len());
        if named {
            return Ok(format!(
                "validated; the endpoint lookup names {to}, one of {count}"
            ));
        }
        let text = format!(
            "the endpoint lookup of {ods} for {workflow} has {count} mailboxes and {to} is none of them: ask the agency"
        );
        Err(Why::new("mesh.lookup", text))
    }

    async fn application(&self, call: Call<'_>) -> Result<String, Why> {
        self.handshake(call).await?;
        match &call.settings.ods {
            Some(ods) => self.lookup(call, ods).await,
            None => Ok("validated".to_owned()),
        }
    }
}

#[async_trait]
impl Adapter for Mesh {
    fn repeat(&self, _endpoint: &Endpoint) -> Repeat {
        Repeat::MustReconcile
    }

    fn identification(&self, _endpoint: &Endpoint) -> Identification {
        Identification::Mailbox
    }

    fn validate(&self, endpoint: &Endpoint) -> Vec<Violation> {
        match Settings::read(endpoint, self.egress) {
            Err(faults) => faults,
            Ok(settings) => settings::profile_faults(&settings.tls_profile, &self.profiles),
        }
    }

    fn render(&self, source: &Source, endpoint: &Endpoint) -> Result<Rendered, RenderError> {
        let settings = Settings::read(endpoint, self.egress).map_err(settings::unusable)?;
        wire::render(source, endpoint, &settings, self.environment)
    }

    fn inline_bytes_max(&self, endpoint: &Endpoint) -> u64 {
        Settings::read(endpoint, self.egress)
            .map_or(0, |settings| wire::inline_bytes_max(endpoint, &settings))
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
                self.send(call, message).await
            }
        }
    }

    async fn reconcile(&self, message: &Outbound<'_>, deadline: Deadline) -> Reconciliation {
        let until = Instant::now() + deadline.within;
        match self.bound(message) {
            // Nothing was found out: what may have been sent still may.
            Err(outcome) => Reconciliation::StillUnknown(why_of(&outcome)),
            Ok(settings) => {
                let call = Call {
                    endpoint: message.endpoint,
                    settings: &settings,
                    until,
                };
                self.settle(call, message).await
            }
        }
    }

    fn asks_after(&self) -> AsksAfter {
        AsksAfter::Evidence
    }

    fn collect_every(&self, endpoint: &Endpoint) -> Option<Duration> {
        let settings = Settings::read(endpoint, self.egress).ok()?;
        Some(settings.every)
    }

    async fn collect(
        &self,
        endpoint: &Endpoint,
        sent: &[Sent],
        intake: &dyn Intake,
        deadline: Deadline,
    ) -> Collected {
        let until = Instant::now() + deadline.within;
        let stopped = |why| Collected {
            stopped: Some(why),
            ..Collected::default()
        };
        let settings = match Settings::read(endpoint, self.egress) {
            Ok(settings) => settings,
            Err(faults) => return stopped(settings::why(ADAPTER, &faults)),
        };
        let call = Call {
            endpoint,
            settings: &settings,
            until,
        };
        if self.validated.find(endpoint, Instant::now()).is_none()
            && let Err(why) = self.handshake(call).await
        {
            return stopped(why);
        }
        let round = Round {
            mesh: self,
            call,
            intake,
            now: self.clock.now(),
            collected: Collected::default(),
            left: None,
            unclear: 0,
        };
        round.run(sent).await
    }

    async fn probe(&self, endpoint: &Endpoint, deadline: Deadline) -> Probe {
        let until = Instant::now() + deadline.within;
        let Ok(settings) = Settings::read(endpoint, self.egress) else {
            return connect::unusable("the endpoint's settings are wrong: see directory check");
        };
        let mut probe = https::probe(&settings.address, self.tls(&settings), until).await;
        let reached = probe.stages.iter().all(|stage| stage.passed != Some(false));
        let last = probe.stages.last_mut().filter(|_| reached);
        if let Some(application) = last {
            let call = Call {
                endpoint,
                settings: &settings,
                until,
            };
            let tried = self.application(call).await;
            application.passed = Some(tried.is_ok());
            application.detail = tried.unwrap_or_else(|why| why.text);
        }
        probe
    }
}
