//! The lease loop: asks for due heads endpoint by endpoint, keeps leases alive, and makes attempts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, warn};
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::delivery::{
    Evidence, Kind, Next, Outcome, ParkReason, Repeat, Standing, Why, next,
};
use waymark_core::directory::{AdapterKind, Endpoint};
use waymark_core::id::{DeliveryId, EndpointId, WorkerId};
use waymark_core::port::{
    Adapter, AttemptView, Deadline, DeliveryContent, DeliveryQuery, LeaseAsk, LeaseToken, Leased,
    Outbound, Reconciliation, Rendered, StoreError, WorkClass,
};

use super::close::{Closing, close_of};
use super::endpoints::{Answered, Endpoints, Turned};
use super::open::{Bytes, changed_hands, open_of};
use super::render::{attachments, render_caught, source_of};
use super::{AdapterFor, SYSTEM_IDENTITY};
use crate::clock::{Random, jitter};
use crate::service::{Drafter, InForce, Service, actor_of, uncertain};
use crate::telemetry::{Metrics, attempt_span, chain};

/// How the engine runs.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryOptions {
    /// Attempts at the same time, of fresh and of retried work each.
    pub capacity: u32,
    /// How long a lease lasts; an instance that dies holds its work no longer than that.
    pub lease: Duration,
    /// How often due work is looked for when nothing wakes the engine.
    pub poll: Duration,
}

impl Default for DeliveryOptions {
    fn default() -> Self {
        Self {
            capacity: 64,
            lease: Duration::from_secs(20),
            poll: Duration::from_millis(250),
        }
    }
}

/// Endpoints served in one round; the next round takes the rest.
const ENDPOINTS_PER_ROUND_MAX: usize = 1_000;
/// Earlier deliveries of a referral that are looked through for what the receiver calls it.
const EARLIER_MAX: u32 = 200;
/// Shortest time between two rounds: what becomes due meanwhile is leased together, for one commit.
const ROUND_SPACING: Duration = Duration::from_millis(10);
/// What an adapter gets beyond its deadline before its attempt is given up.
const GRACE: Duration = Duration::from_secs(2);

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Driver {
    inner: Arc<Inner>,
}

struct Inner {
    service: Service,
    adapters: AdapterFor,
    random: Arc<dyn Random>,
    metrics: Metrics,
    options: DeliveryOptions,
    worker: WorkerId,
    endpoints: Endpoints,
    fresh: Arc<Semaphore>,
    retry: Arc<Semaphore>,
    held: Mutex<BTreeMap<DeliveryId, LeaseToken>>,
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, BTreeMap<DeliveryId, LeaseToken>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver {
    /// Makes an engine.
    pub fn new(
        service: Service,
        adapters: AdapterFor,
        random: Arc<dyn Random>,
        metrics: Metrics,
        options: DeliveryOptions,
    ) -> Self {
        let worker = WorkerId::from_bytes(crate::clock::random_16(&*random));
        let capacity = usize::try_from(options.capacity)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Self {
            inner: Arc::new(Inner {
                service,
                adapters,
                random,
                metrics,
                options,
                worker,
                endpoints: Endpoints::default(),
                fresh: Arc::new(Semaphore::new(capacity)),
                retry: Arc::new(Semaphore::new(capacity)),
                held: Mutex::new(BTreeMap::new()),
            }),
        }
    }

    /// Runs until told to stop, then lets open attempts end.
    pub async fn run(self, stop: CancellationToken) {
        let mut running: JoinSet<()> = JoinSet::new();
        while !stop.is_cancelled() {
            let mut started = 0;
            for class in [WorkClass::Fresh, WorkClass::Retry] {
                match self.round(class, &mut running).await {
                    Ok(n) => started += n,
                    Err(error) => {
                        warn!(error = %chain(&error), "due work could not be leased, trying again");
                    }
                }
            }
            while running.try_join_next().is_some() {}
            self.inner
                .metrics
                .breakers_open(self.inner.endpoints.open());
            if started == 0 {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.inner.service.store().work_added() => {}
                    Some(_ended) = running.join_next(), if !running.is_empty() => {}
                    () = tokio::time::sleep(self.inner.options.poll) => {}
                }
            }
            tokio::time::sleep(ROUND_SPACING).await;
        }
        while running.join_next().await.is_some() {}
    }

    /// Keeps the leases of open attempts alive; an instance that dies stops doing so.
    pub async fn heartbeat(self, stop: CancellationToken) {
        let inner = &self.inner;
        loop {
            tokio::select! {
                () = stop.cancelled() => if inner.held().is_empty() { return },
                () = tokio::time::sleep(inner.options.lease / 3) => {}
            }
            let held: Vec<LeaseToken> = inner.held().values().cloned().collect();
            if !held.is_empty() {
                let until = inner.service.now().plus(inner.options.lease);
                if let Err(error) = inner.service.store().renew(&held, until).await {
                    warn!(error = %chain(&error), "leases could not be renewed, trying again");
                }
            }
            if stop.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Leases and starts what there is capacity for; answers how many attempts were started.
    async fn round(
        &self,
        class: WorkClass,
        running: &mut JoinSet<()>,
    ) -> Result<usize, StoreError> {
        let inner = &self.inner;
        let store = inner.service.store();
        let now = inner.service.now();
        let capacity = self.semaphore(class);
        let mut started = 0;
        for id in store
            .due_endpoints(class, now)
            .await?
            .into_iter()
            .take(ENDPOINTS_PER_ROUND_MAX)
        {
            let in_force = inner.service.in_force();
            let endpoint = in_force.directory.endpoints.get(&id);
            if endpoint.is_some_and(|e| e.adapter == AdapterKind::Mailbox) {
                continue;
            }
            let concurrency = endpoint.map_or(1, |e| e.concurrency);
            let free = inner.endpoints.free(&id, class, concurrency, now);
            let limit = free.min(u32::try_from(capacity.available_permits()).unwrap_or(u32::MAX));
            if limit == 0 {
                continue;
            }
            let until = now.plus(inner.options.lease);
            let ask = LeaseAsk {
                worker: inner.worker,
                endpoint: id.clone(),
                class,
                services: Vec::new(),
                limit,
                now,
                until,
            };
            for leased in store.lease(&ask).await? {
                let Ok(permit) = Arc::clone(&capacity).try_acquire_owned() else {
                    store.release(&leased.token, now).await?;
                    continue;
                };
                inner.endpoints.begin(&id, class);
                inner
                    .held()
                    .insert(leased.token.delivery, leased.token.clone());
                let (driver, in_force) = (self.clone(), Arc::clone(&in_force));
                let span = attempt_span(&leased);
                running.spawn(
                    async move {
                        driver.one(leased, class, &in_force).await;
                        drop(permit);
                    }
                    .instrument(span),
                );
                started += 1;
            }
        }
        Ok(started)
    }

    fn semaphore(&self, class: WorkClass) -> Arc<Semaphore> {
        match class {
            WorkClass::Fresh => Arc::clone(&self.inner.fresh),
            WorkClass::Retry => Arc::clone(&self.inner.retry),
        }
    }

    /// One attempt, whatever becomes of it; a panic in an adapter is an attempt of unknown end.
    async fn one(&self, leased: Leased, class: WorkClass, in_force: &InForce) {
        let inner = &self.inner;
        let endpoint = in_force
            .directory
            .endpoint(&leased.endpoint, inner.service.now().london_date());
        let policy = endpoint.map_or_else(Default::default, |e| e.retry);
        let result = self.attempt(&leased, endpoint, in_force).await;
        inner.held().remove(&leased.token.delivery);
        let answered = match &result {
            Ok(outcome) => {
                inner.metrics.attempt(&leased.endpoint, outcome.word());
                answered(outcome)
            }
            Err(StoreError::LeaseLost) => {
                info!(delivery.id = %leased.token.delivery, "another worker took delivery {} over", leased.token.delivery);
                None
            }
            Err(error) => {
                warn!(delivery.id = %leased.token.delivery, error = %chain(error), "an attempt could not be recorded; its lease will end");
                None
            }
        };
        let turned = inner.endpoints.end(
            &leased.endpoint,
            class,
            answered,
            &policy,
            inner.service.now(),
            jitter(&*inner.random),
        );
        self.tell_of_breaker(turned, &leased.endpoint, endpoint, in_force)
            .await;
    }

    async fn attempt(
        &self,
        leased: &Leased,
        endpoint: Option<&Endpoint>,
        in_force: &InForce,
    ) -> Result<Outcome, StoreError> {
        let Some(endpoint) = endpoint else {
            let why = Why::new(
                "directory.no_endpoint",
                "the endpoint bound at accept is not in the directory in force",
            );
            let outcome = Outcome::Park {
                reason: ParkReason::NoEndpoint,
                why,
            };
            return self.close(leased, 0, outcome, None, in_force).await;
        };
        if let Some(outcome) = not_to_be_attempted(leased, endpoint) {
            return self
                .close(leased, 0, outcome, Some(endpoint), in_force)
                .await;
        }
        let adapter = (self.inner.adapters)(endpoint.adapter);
        let store = self.inner.service.store();
        let content = store.content(leased).await?;
        let (rendered, bytes) = match self
            .rendered(leased, &content, (endpoint, &*adapter))
            .await?
        {
            Ok(rendered) => rendered,
            Err(outcome) => {
                return self
                    .close(leased, 0, outcome, Some(endpoint), in_force)
                    .await;
            }
        };
        let number = leased.attempts + 1;
        let may_have_arrived = self.may_have_arrived(leased).await?;
        self.open(leased, (&rendered, bytes)).await?;
        let outbound = Outbound {
            delivery: leased.token.delivery,
            wire_id: &leased.wire_id,
            kind: leased.kind,
            recipient: &leased.recipient,
            rendered: &rendered,
            endpoint,
            attempt: number,
            may_have_arrived,
            traceparent: leased.traceparent.as_deref(),
        };
        let outcome = match send(&*adapter, &outbound, leased).await {
            Ended::Known(outcome) => outcome,
            // The attempt stays open: its lease will end, and the next worker counts it as one that never did.
            Ended::Panicked(outcome) => return Ok(outcome),
        };
        self.close(leased, number, outcome, Some(endpoint), in_force)
            .await
    }

    /// The bytes of this attempt: those of the first, or rendered now. What a family is told is decided at each attempt,
    /// and bytes that would not be the same any more are not sent.
    async fn rendered(
        &self,
        leased: &Leased,
        content: &DeliveryContent,
        (endpoint, adapter): (&Endpoint, &dyn Adapter),
    ) -> Result<Result<(Rendered, Bytes), Outcome>, StoreError> {
        let stored = content.rendered.clone();
        let guidance = leased.kind == Kind::Guidance;
        let (stored, guidance) = match (stored, guidance) {
            (Some(stored), false) => return Ok(Ok((stored, Bytes::Stored))),
            other => other,
        };
        let service = &self.inner.service;
        let now = service.now();
        let mut source = match source_of(leased, content, service.environment(), now) {
            Ok(source) => source,
            Err(outcome) => return Ok(Err(outcome)),
        };
        if guidance {
            match service.family_message(leased, content).await? {
                Ok(message) => source.family = Some(message),
                Err(_) if stored.is_some() => return Ok(Err(outdated())),
                Err(outcome) => return Ok(Err(outcome)),
            }
        }
        source.receiver_reference = self.receiver_reference(leased).await?;
        let most = adapter.inline_bytes_max(endpoint);
        let store = service.store();
        match attachments(&**store, leased, &source, most).await? {
            Ok(opened) => source.attachments = opened,
            Err(outcome) => return Ok(Err(outcome)),
        }
        let rendered = render_caught(adapter, &source, endpoint);
        Ok(match (rendered, stored) {
            (Ok(fresh), Some(stored)) if fresh == stored => Ok((stored, Bytes::Stored)),
            (_, Some(_)) => Err(outdated()),
            (rendered, None) => rendered.map(|rendered| (rendered, Bytes::Fresh)),
        })
    }

    /// What the receiver called the referral when it answered an earlier delivery of the same leg.
    async fn receiver_reference(&self, leased: &Leased) -> Result<Option<String>, StoreError> {
        if leased.leg.is_none() || leased.kind == Kind::New {
            return Ok(None);
        }
        let query = DeliveryQuery {
            referral: Some(leased.referral),
            limit: EARLIER_MAX,
            ..DeliveryQuery::default()
        };
        let page = self.inner.service.store().deliveries(&query).await?;
        let mut earlier = page
            .into_iter()
            .rev()
            .filter(|view| view.delivery.leg == leased.leg);
        Ok(earlier.find_map(|view| view.receiver_reference))
    }

    /// Whether an earlier attempt may have arrived.
    async fn may_have_arrived(&self, leased: &Leased) -> Result<bool, StoreError> {
        if leased.attempts == 0 {
            return Ok(false);
        }
        let view = self.inner.service.store().delivery(leased.token.delivery);
        let earlier = view.await?.map(|view| view.attempts).unwrap_or_default();
        Ok(earlier.iter().any(AttemptView::may_have_arrived))
    }

    async fn open(&self, leased: &Leased, rendered: (&Rendered, Bytes)) -> Result<(), StoreError> {
        let inner = &self.inner;
        let draft = Drafter::new(&*inner.random);
        let gateway = (actor_of(SYSTEM_IDENTITY), &leased.recipient);
        let open = open_of(&draft, leased, rendered, gateway, inner.service.now());
        inner.service.store().open_attempt(open).await
    }

    async fn close(
        &self,
        leased: &Leased,
        number: u32,
        outcome: Outcome,
        endpoint: Option<&Endpoint>,
        in_force: &InForce,
    ) -> Result<Outcome, StoreError> {
        let inner = &self.inner;
        let now = inner.service.now();
        let standing = Standing {
            attempts: number,
            failures: leased.failures,
            soft_rejects: leased.soft_rejects,
            evidence: leased.evidence,
            earlier_attempt: number > 1,
            deadline: leased.deadline,
            releases_at: endpoint.map_or(Evidence::ApplicationAck, |e| e.releases_at),
            repeat: endpoint.map_or(Repeat::MustReconcile, |e| {
                (inner.adapters)(e.adapter).repeat(e)
            }),
        };
        let policy = endpoint.map_or_else(Default::default, |e| e.retry);
        let next: Next = next(&standing, &outcome, &policy, now, jitter(&*inner.random));
        let actor = Closing::system(leased);
        let refused = inner.service.cancel_refused(leased, next.state).await?;
        let told_next = inner.service.told_next(leased, &next).await?;
        let closing = Closing {
            leased,
            number,
            outcome: outcome.clone(),
            next,
            refused,
            told_next,
            endpoint,
            directory: &in_force.directory,
            at: now,
            actor,
        };
        let draft = Drafter::new(&*inner.random);
        inner
            .service
            .store()
            .close_attempt(close_of(&draft, closing))
            .await?;
        Ok(outcome)
    }

    async fn tell_of_breaker(
        &self,
        turned: Turned,
        id: &EndpointId,
        endpoint: Option<&Endpoint>,
        in_force: &InForce,
    ) {
        let store = self.inner.service.store();
        let now = self.inner.service.now();
        let told = match (turned, endpoint) {
            (Turned::Opened, Some(endpoint)) => {
                warn!(endpoint.id = %id, "endpoint {id} does not answer; its lanes are held and it is probed");
                let triage = in_force.directory.triage();
                let alarm = NewAlarm {
                    kind: AlarmKind::EndpointDown,
                    subject: id.to_string(),
                    owner: endpoint.agency.clone(),
                    role: triage.map_or_else(|| "triage".to_owned(), |s| s.owner_role.clone()),
                    text: format!(
                        "endpoint {id} does not answer: work for it waits and it is probed"
                    ),
                };
                store.raise_alarm(&alarm, now).await.map(|_new| ())
            }
            (Turned::Closed, _) => {
                info!(endpoint.id = %id, "endpoint {id} answers again");
                store
                    .resolve_alarm(AlarmKind::EndpointDown, id.as_str(), now)
                    .await
            }
            _ => Ok(()),
        };
        if let Err(error) = told {
            warn!(endpoint.id = %id, error = %chain(&error), "an alarm could not be stored");
        }
    }
}

/// How an attempt ends whose bytes say to a family what they would not be told now.
fn outdated() -> Outcome {
    let text = "the family's details or the words changed since it was written";
    Outcome::Park {
        reason: ParkReason::Outdated,
        why: Why::new("family.outdated", text),
    }
}

/// How a call of an adapter ended.
enum Ended {
    Known(Outcome),
    Panicked(Outcome),
}

/// One call of an adapter within the attempt's time; where a repeat is not safe, the far side is asked first.
async fn send(adapter: &dyn Adapter, outbound: &Outbound<'_>, leased: &Leased) -> Ended {
    let within = outbound.endpoint.attempt_timeout;
    let deadline = Deadline { within };
    let sending = async {
        if uncertain(leased) && adapter.repeat(outbound.endpoint) == Repeat::MustReconcile {
            match adapter.reconcile(outbound, deadline).await {
                Reconciliation::Settled(outcome) => return outcome,
                Reconciliation::StillUnknown(why) => return Outcome::Unknown { why },
                Reconciliation::NotReceived => {}
            }
        }
        adapter.deliver(outbound, deadline).await
    };
    let limited = tokio::time::timeout(within + GRACE, sending);
    match std::panic::AssertUnwindSafe(limited).catch_unwind().await {
        Ok(Ok(outcome)) => Ended::Known(outcome),
        Ok(Err(_elapsed)) => Ended::Known(Outcome::Unknown {
            why: Why::new("attempt.timeout", "the attempt did not end within its time"),
        }),
        Err(_panic) => {
            warn!(delivery.id = %leased.token.delivery, endpoint.id = %leased.endpoint, "an adapter panicked; the attempt's end is unknown");
            Ended::Panicked(Outcome::Unknown {
                why: Why::new("attempt.panic", "the adapter failed on this message"),
            })
        }
    }
}

/// Why a delivery must not be attempted at all, if it must not.
fn not_to_be_attempted(leased: &Leased, endpoint: &Endpoint) -> Option<Outcome> {
    if let Some(outcome) = changed_hands(leased, endpoint) {
        return Some(outcome);
    }
    if leased.unfinished >= endpoint.retry.panics_max {
        let text = format!(
            "{} attempts in a row never ended: the message may break the adapter",
            leased.unfinished
        );
        return Some(Outcome::Park {
            reason: ParkReason::Poison,
            why: Why::new("attempt.poison", text),
        });
    }
    None
}

/// What an outcome says of the endpoint's health.
const fn answered(outcome: &Outcome) -> Option<Answered> {
    match outcome {
        Outcome::Delivered { .. }
        | Outcome::Unread { .. }
        | Outcome::Duplicate { .. }
        | Outcome::Reject { .. }
        | Outcome::SoftReject { .. } => Some(Answered::Yes),
        Outcome::Unknown { .. } | Outcome::Retry { .. } => Some(Answered::No),
        Outcome::Park { .. } | Outcome::ParkWritten { .. } | Outcome::Withheld { .. } => None,
    }
}
