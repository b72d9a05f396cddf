//! What every gRPC service shares: the use cases, who calls, and what bounds the callers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use waymark_core::access::Principal;
use waymark_core::error::ErrorKind;
use waymark_core::id::AgencyId;

use super::mailbox::Loans;
use super::status;
use crate::config::Limits;
use crate::service::{Service, ServiceError};
use crate::telemetry::Metrics;
use crate::tls::Peer;

/// Documents on their way in or out at the same time, each held whole in memory.
pub const TRANSFERS_MAX: usize = 16;

/// What every gRPC service needs; cheap to clone.
#[derive(Clone)]
pub(super) struct Face {
    /// The use cases.
    pub(super) service: Service,
    /// The instruments.
    pub(super) metrics: Metrics,
    /// Cancelled when the process stops: streams end.
    pub(super) stopping: CancellationToken,
    /// What is lent by mailbox streams.
    pub(super) loans: Arc<Loans>,
    bounds: Arc<Bounds>,
}

struct Bounds {
    in_flight: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    agencies: DefaultKeyedRateLimiter<AgencyId>,
    clock: DefaultClock,
    stream_in_flight: usize,
}

/// Who calls, as the admission found out.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Who, by the directory.
    pub(super) principal: Principal,
    /// What the connection proves.
    pub(super) peer: Arc<Peer>,
    /// W3C trace context to store and send on.
    pub(super) traceparent: Option<String>,
}

impl Face {
    pub(super) fn new(
        service: Service,
        metrics: Metrics,
        stopping: CancellationToken,
        limits: &Limits,
    ) -> Self {
        let room = |count: u32| {
            Arc::new(Semaphore::new(
                usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS),
            ))
        };
        let some = |count: u32| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(some(limits.agency_per_second))
            .allow_burst(some(limits.agency_burst));
        let bounds = Bounds {
            in_flight: room(limits.in_flight),
            streams: room(limits.streams),
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            agencies: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            stream_in_flight: usize::try_from(limits.stream_in_flight).unwrap_or(1).max(1),
        };
        Self {
            service,
            metrics,
            stopping,
            loans: Arc::default(),
            bounds: Arc::new(bounds),
        }
    }

    /// The principal behind a connection, today: the directory is asked at each call (ruling 21).
    pub(super) fn principal(&self, peer: &Peer) -> Result<Principal, ServiceError> {
        if peer.not_after < self.service.now() {
            return Err(
                ServiceError::new(ErrorKind::Unauthenticated, "CERTIFICATE_ENDED").with_violation(
                    "certificate",
                    "ended while the connection was open: connect with a new one",
                ),
            );
        }
        self.service.principal(&peer.san_uris)
    }

    /// Room for one call, or a refusal.
    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        let room = Arc::clone(&self.bounds.in_flight).try_acquire_owned();
        room.map_err(|_| ServiceError::new(ErrorKind::Exhausted, "TOO_MANY_CALLS"))
    }

    /// Counts one call against an agency's rate.
    pub(super) fn count(&self, agency: &AgencyId) -> Result<(), ServiceError> {
        self.bounds.agencies.check_key(agency).map_err(|until| {
            let wait = until.wait_time_from(self.bounds.clock.now());
            ServiceError {
                // Whole milliseconds, never none: a client that repeats at once would be refused again.
                retry_after: Some(Duration::from_millis(1) + wait),
                ..ServiceError::new(ErrorKind::Exhausted, "AGENCY_RATE")
            }
        })
    }

    /// Waits until an agency's rate allows one more item of a stream.
    pub(super) async fn pace(&self, agency: &AgencyId) {
        self.bounds.agencies.until_key_ready(agency).await;
    }

    /// Room for one long-lived stream, held by it.
    pub(super) fn open_stream(&self) -> Result<OwnedSemaphorePermit, Status> {
        let room = Arc::clone(&self.bounds.streams).try_acquire_owned();
        room.map_err(|_| {
            status::refusal(&ServiceError::new(ErrorKind::Exhausted, "TOO_MANY_STREAMS"))
        })
    }

    /// Room for one document in memory, held while it is there.
    pub(super) fn open_transfer(&self) -> Result<OwnedSemaphorePermit, Status> {
        let room = Arc::clone(&self.bounds.transfers).try_acquire_owned();
        room.map_err(|_| {
            status::refusal(&ServiceError::new(
                ErrorKind::Exhausted,
                "TOO_MANY_TRANSFERS",
            ))
        })
    }

    /// Items of one stream at work at the same time.
    pub(super) fn stream_in_flight(&self) -> usize {
        self.bounds.stream_in_flight
    }

    /// What a stream answers when the process stops: open it again elsewhere.
    pub(super) fn gone() -> Status {
        status::refusal(&ServiceError::new(ErrorKind::Unavailable, status::STOPPING))
    }
}

/// Who makes a call.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Arc<Caller>>();
    caller.map(|caller| caller.as_ref().clone()).ok_or_else(|| {
        status::refusal(&ServiceError::new(
            ErrorKind::Unauthenticated,
            "NO_IDENTITY",
        ))
    })
}
