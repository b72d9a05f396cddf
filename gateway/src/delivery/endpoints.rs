//! What is known of each endpoint while the process runs: its breaker and how many attempts are open.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use waymark_core::delivery::{Breaker, RetryPolicy};
use waymark_core::id::EndpointId;
use waymark_core::port::WorkClass;
use waymark_core::time::Timestamp;

#[derive(Debug, Default)]
struct State {
    breaker: Breaker,
    fresh: u32,
    retry: u32,
}

/// Breakers and open attempts. Holds nothing of messages.
#[derive(Debug, Default)]
pub(super) struct Endpoints(Mutex<BTreeMap<EndpointId, State>>);

/// What an ended attempt says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// The far side answered, whatever it said.
    Yes,
    /// It did not.
    No,
}

/// A change of a breaker that somebody must be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// It opened.
    Opened,
    /// It closed.
    Closed,
    /// It stayed as it was.
    Same,
}

impl Endpoints {
    /// How many more attempts of a class may be made now. Fresh work keeps at least half of the capacity to itself.
    pub(super) fn free(
        &self,
        id: &EndpointId,
        class: WorkClass,
        concurrency: u32,
        now: Timestamp,
    ) -> u32 {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = map.get(id) else {
            return share(class, concurrency);
        };
        if !state.breaker.allows(now) {
            return 0;
        }
        let open = match class {
            WorkClass::Fresh => state.fresh,
            WorkClass::Retry => state.retry,
        };
        let allowed = share(class, concurrency).min(state.breaker.probes());
        if state.breaker.is_open() {
            return allowed.saturating_sub(state.fresh + state.retry);
        }
        allowed.saturating_sub(open)
    }

    /// Notes an attempt.
    pub(super) fn begin(&self, id: &EndpointId, class: WorkClass) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = map.entry(id.clone()).or_default();
        match class {
            WorkClass::Fresh => state.fresh += 1,
            WorkClass::Retry => state.retry += 1,
        }
    }

    /// Notes an attempt's end; `None` when it said nothing of the endpoint.
    pub(super) fn end(
        &self,
        id: &EndpointId,
        class: WorkClass,
        answered: Option<Answered>,
        policy: &RetryPolicy,
        now: Timestamp,
        jitter: u16,
    ) -> Turned {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = map.entry(id.clone()).or_default();
        match class {
            WorkClass::Fresh => state.fresh = state.fresh.saturating_sub(1),
            WorkClass::Retry => state.retry = state.retry.saturating_sub(1),
        }
        let was_open = state.breaker.is_open();
        match answered {
            Some(Answered::Yes) => state.breaker.succeeded(),
            Some(Answered::No) => state.breaker.failed(policy, now, jitter),
            None => {}
        }
        match (was_open, state.breaker.is_open()) {
            (false, true) => Turned::Opened,
            (true, false) => Turned::Closed,
            _ => Turned::Same,
        }
    }

    /// Endpoints whose breaker is open, for metrics.
    pub(super) fn open(&self) -> u64 {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.values()
            .filter(|s| s.breaker.is_open())
            .count()
            .try_into()
            .unwrap_or(u64::MAX)
    }
}

/// A class's share of an endpoint's concurrency: retried work gets half, at least one.
const fn share(class: WorkClass, concurrency: u32) -> u32 {
    match class {
        WorkClass::Fresh => concurrency,
        WorkClass::Retry => {
            let half = concurrency / 2;
            if half == 0 { 1 } else { half }
        }
    }
}

#[cfg(test)]
mod tests {
    use waymark_core::delivery::BREAKER_FAILURES;

    use super::*;

    #[test]
    fn a_dead_endpoint_is_held_then_probed_once() {
        let endpoints = Endpoints::default();
        let id: EndpointId = "dead".parse().unwrap();
        let policy = RetryPolicy::default();
        let mut turned = Turned::Same;
        for _ in 0..BREAKER_FAILURES {
            endpoints.begin(&id, WorkClass::Fresh);
            turned = endpoints.end(
                &id,
                WorkClass::Fresh,
                Some(Answered::No),
                &policy,
                Timestamp::from_ms(0),
                0,
            );
        }
        assert_eq!(turned, Turned::Opened);
        assert_eq!(
            endpoints.free(&id, WorkClass::Fresh, 4, Timestamp::from_ms(0)),
            0
        );
        let later = Timestamp::from_ms(60_000);
        assert_eq!(endpoints.free(&id, WorkClass::Retry, 4, later), 1);
        endpoints.begin(&id, WorkClass::Retry);
        assert_eq!(endpoints.free(&id, WorkClass::Fresh, 4, later), 0);
        assert_eq!(
            endpoints.end(
                &id,
                WorkClass::Retry,
                Some(Answered::Yes),
                &policy,
                later,
                0
            ),
            Turned::Closed
        );
        assert_eq!(endpoints.free(&id, WorkClass::Fresh, 4, later), 4);
    }

    #[test]
    fn retried_work_never_takes_all_capacity() {
        assert_eq!(share(WorkClass::Retry, 4), 2);
        assert_eq!(share(WorkClass::Retry, 1), 1);
        assert_eq!(share(WorkClass::Fresh, 4), 4);
    }
}
