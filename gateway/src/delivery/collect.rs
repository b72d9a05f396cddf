//! Collecting: asks the far sides that bring no answers by themselves (a MESH inbox, a folder, a FHIR Task) for what
//! waits there, endpoint by endpoint, each at its own pace.
//!
//! Every instance collects; what two of them bring in twice is one message to the intake.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::delivery::Why;
use waymark_core::directory::Endpoint;
use waymark_core::id::{DeliveryId, EndpointId};
use waymark_core::port::{AsksAfter, Collected, Deadline, Intake, StoreError};
use waymark_core::time::Timestamp;

use super::AdapterFor;
use crate::service::{InForce, Service};
use crate::telemetry::{Metrics, chain};

/// How often the endpoints in force are looked through for what is due.
const TICK: Duration = Duration::from_secs(1);
/// Endpoints collected from at the same time.
const COLLECTING_MAX: usize = 16;
/// Deliveries of one page that an adapter is given to ask about.
const SENT_PAGE: u32 = 200;
/// What an adapter gets beyond its deadline before its round is given up.
const GRACE: Duration = Duration::from_secs(2);
/// Rounds in a row that stopped early before somebody is told.
const STOPPED_MAX: u32 = 3;

/// Collects from every endpoint whose adapter asks for it.
#[derive(Clone)]
pub struct Collector {
    service: Service,
    adapters: AdapterFor,
    intake: Arc<dyn Intake>,
    metrics: Metrics,
}

/// Where collecting from one endpoint stands.
#[derive(Clone, Debug, Default)]
struct Standing {
    due: Option<Timestamp>,
    /// The last delivery of the page that was asked about.
    asked: Option<DeliveryId>,
    /// Rounds in a row that stopped early.
    stopped: u32,
    /// Why the last of them did, and how many in a row did so for that.
    why: Option<(String, u32)>,
    /// Why, as somebody was told.
    told: Option<String>,
    collecting: bool,
}

impl Standing {
    /// Notes that a round stopped early; answers whether somebody is to be told. A nuisance that is known must not hide
    /// another: what stops several rounds in a row for another reason is told anew.
    fn stops(&mut self, code: &str) -> bool {
        self.stopped = self.stopped.saturating_add(1);
        let alike = match &self.why {
            Some((last, times)) if last == code => times.saturating_add(1),
            Some(_) | None => 1,
        };
        self.why = Some((code.to_owned(), alike));
        match &self.told {
            None => self.stopped >= STOPPED_MAX,
            Some(told) => told != code && alike >= STOPPED_MAX,
        }
    }

    /// Notes that a round was whole; answers whether somebody had been told otherwise.
    fn is_whole(&mut self) -> bool {
        self.stopped = 0;
        self.why = None;
        self.told.is_some()
    }
}

/// How one round ended.
struct Round {
    endpoint: EndpointId,
    every: Duration,
    asked: Option<DeliveryId>,
    /// Whether the next page of what is asked after is asked for at once: every open case is asked for in each pause.
    pages_on: bool,
    collected: Collected,
}

impl Collector {
    /// Makes a collector.
    pub fn new(
        service: Service,
        adapters: AdapterFor,
        intake: Arc<dyn Intake>,
        metrics: Metrics,
    ) -> Self {
        Self {
            service,
            adapters,
            intake,
            metrics,
        }
    }

    /// Runs until told to stop, then lets open rounds end.
    pub async fn run(self, stop: CancellationToken) {
        let mut standing: BTreeMap<EndpointId, Standing> = BTreeMap::new();
        let mut running: JoinSet<Round> = JoinSet::new();
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = running.join_next(), if !running.is_empty() => ended.ok(),
                () = tokio::time::sleep(TICK) => None,
            };
            if let Some(round) = ended {
                self.end(round, &mut standing).await;
            }
            self.start(&mut standing, &mut running);
            self.metrics.ran("collect", self.service.now());
        }
        while running.join_next().await.is_some() {}
    }

    /// Starts a round at every endpoint that is due, as far as there is room: those that have waited longest first, so that
    /// endpoints that take their whole time delay the others and never keep them out.
    fn start(&self, standing: &mut BTreeMap<EndpointId, Standing>, running: &mut JoinSet<Round>) {
        let now = self.service.now();
        let today = now.london_date();
        let in_force = self.service.in_force();
        standing.retain(|id, at| at.collecting || in_force.directory.endpoint(id, today).is_some());
        let mut due = Vec::new();
        for endpoint in in_force.directory.endpoints.values() {
            if !endpoint.validity.holds_on(today) {
                continue;
            }
            let Some(every) = (self.adapters)(endpoint.adapter).collect_every(endpoint) else {
                continue;
            };
            let at = standing.entry(endpoint.id.clone()).or_default();
            if !at.collecting && at.due.is_none_or(|due| due <= now) {
                due.push((at.due, endpoint.id.clone(), every));
            }
        }
        due.sort();
        for (_, id, every) in due {
            if running.len() >= COLLECTING_MAX {
                return;
            }
            let at = standing.entry(id.clone()).or_default();
            at.collecting = true;
            let (collector, asked) = (self.clone(), at.asked);
            let in_force = Arc::clone(&in_force);
            running.spawn(async move { collector.round(&in_force, id, every, asked).await });
        }
    }

    async fn round(
        &self,
        in_force: &InForce,
        id: EndpointId,
        every: Duration,
        asked: Option<DeliveryId>,
    ) -> Round {
        let (asked, collected) = match in_force.directory.endpoints.get(&id) {
            None => (None, Collected::default()),
            Some(endpoint) => match self.collect(endpoint, asked).await {
                Ok(done) => done,
                Err(error) => {
                    warn!(endpoint.id = %id, error = %chain(&error), "what was sent could not be read, trying again");
                    (asked, Collected::default())
                }
            },
        };
        let cases = |endpoint: &Endpoint| {
            (self.adapters)(endpoint.adapter).asks_after() == AsksAfter::Cases
        };
        let endpoint = in_force.directory.endpoints.get(&id);
        Round {
            pages_on: asked.is_some() && endpoint.is_some_and(cases),
            endpoint: id,
            every,
            asked,
            collected,
        }
    }

    async fn collect(
        &self,
        endpoint: &Endpoint,
        asked: Option<DeliveryId>,
    ) -> Result<(Option<DeliveryId>, Collected), StoreError> {
        let adapter = (self.adapters)(endpoint.adapter);
        let store = self.service.store();
        let page = store.sent(&endpoint.id, adapter.asks_after(), asked, SENT_PAGE);
        let page = page.await?;
        let within = endpoint.attempt_timeout;
        let collecting = adapter.collect(endpoint, &page.sent, &*self.intake, Deadline { within });
        let limited = tokio::time::timeout(within + GRACE, collecting);
        let stopped = |code: &str, text: &str| Collected {
            stopped: Some(Why::new(code, text)),
            ..Collected::default()
        };
        let collected = match std::panic::AssertUnwindSafe(limited).catch_unwind().await {
            Ok(Ok(collected)) => collected,
            Ok(Err(_elapsed)) => stopped("collect.timeout", "the round did not end in its time"),
            Err(_panic) => stopped("collect.panic", "the adapter failed on what it collected"),
        };
        Ok((page.next, collected))
    }

    /// Notes how a round ended; somebody is told when several in a row stopped early, and when one is whole again.
    async fn end(&self, round: Round, standing: &mut BTreeMap<EndpointId, Standing>) {
        let Some(at) = standing.get_mut(&round.endpoint) else {
            return;
        };
        let id = &round.endpoint;
        let now = self.service.now();
        let (taken, refused) = (round.collected.taken, round.collected.refused);
        if taken + refused > 0 {
            info!(endpoint.id = %id, taken, refused, "collected {taken} messages from {id}, refused {refused}");
        }
        at.collecting = false;
        at.asked = round.asked;
        at.due = Some(if round.collected.more || round.pages_on {
            now
        } else {
            now.plus(round.every)
        });
        let told = match &round.collected.stopped {
            None if at.is_whole() => self.resolve(id).await.map(|()| at.told = None),
            None => Ok(()),
            Some(why) => {
                at.due = Some(now.plus(round.every));
                warn!(endpoint.id = %id, why.code = %why.code, "collecting from {id} stopped: {}", why.text);
                if at.stops(&why.code) {
                    self.tell(id, why, at.told.is_some())
                        .await
                        .map(|()| at.told = Some(why.code.clone()))
                } else {
                    Ok(())
                }
            }
        };
        if let Err(error) = told {
            warn!(endpoint.id = %id, error = %chain(&error), "an alarm could not be stored");
        }
    }

    async fn resolve(&self, id: &EndpointId) -> Result<(), StoreError> {
        let (store, now) = (self.service.store(), self.service.now());
        store
            .resolve_alarm(AlarmKind::NotCollected, id.as_str(), now)
            .await
    }

    /// Raises an alarm; an open one keeps its words, so another one takes its place.
    async fn tell(&self, id: &EndpointId, why: &Why, again: bool) -> Result<(), StoreError> {
        if again {
            self.resolve(id).await?;
        }
        self.alarm(id, why).await
    }

    async fn alarm(&self, id: &EndpointId, why: &Why) -> Result<(), StoreError> {
        let in_force = self.service.in_force();
        let directory = &in_force.directory;
        let Some(triage) = directory.triage() else {
            return Ok(());
        };
        let alarm = NewAlarm {
            kind: AlarmKind::NotCollected,
            subject: id.to_string(),
            owner: triage.agency.clone(),
            role: triage.owner_role.clone(),
            text: format!("nothing can be collected from {id}: {}", why.text),
        };
        let store = self.service.store();
        store
            .raise_alarm(&alarm, self.service.now())
            .await
            .map(|_new| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In which of these rounds somebody is told.
    fn told(rounds: &[&str]) -> Vec<usize> {
        let mut at = Standing::default();
        let mut told = Vec::new();
        for (nth, code) in rounds.iter().enumerate() {
            if code.is_empty() {
                if at.is_whole() {
                    at.told = None;
                }
            } else if at.stops(code) {
                at.told = Some((*code).to_owned());
                told.push(nth);
            }
        }
        told
    }

    #[test]
    fn a_nuisance_that_stands_does_not_hide_what_stops_later_rounds() {
        let (left, denied) = ("mesh.left", "mesh.handshake");
        assert!(told(&[left, left, "", left, left]).is_empty());
        assert_eq!(told(&[left, denied, left, left]), [2]);
        let rounds = [left, left, left, left, denied, denied, denied, denied];
        assert_eq!(told(&rounds), [2, 6]);
        assert_eq!(told(&[left, left, left, denied, left, denied, left]), [2]);
        assert_eq!(told(&[left, left, left, "", left, left, left]), [2, 6]);
    }
}
