//! Which messages of an inbox could not be taken in, so that each is not fetched again in every round. It is forgotten
//! when the process ends, and with it that a sender was told; both are harmless.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use waymark_core::delivery::Why;
use waymark_core::id::EndpointId;
use waymark_core::time::Timestamp;

/// How long a message that could not be taken in is let lie, the first time; twice as long each further time.
pub(super) const PAUSE_FIRST: Duration = Duration::from_mins(10);
/// The longest of these pauses: what an operator corrects takes effect within it.
pub(super) const PAUSE_MAX: Duration = Duration::from_hours(2);
/// Messages that are remembered; what is more is fetched in every round.
const LEFT_MAX: usize = 10_000;

/// One message that could not be taken in.
#[derive(Clone)]
struct Lying {
    why: Why,
    pause: Duration,
    until: Timestamp,
    /// Whether its sender was told.
    answered: bool,
}

/// What lies in the inboxes.
#[derive(Default)]
pub(super) struct Left(Mutex<BTreeMap<(EndpointId, String), Lying>>);

impl Left {
    fn all(&self) -> MutexGuard<'_, BTreeMap<(EndpointId, String), Lying>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a message is let lie now; `None` when it is to be fetched.
    pub(super) fn lies(&self, endpoint: &EndpointId, id: &str, now: Timestamp) -> Option<Why> {
        let all = self.all();
        let found = all.get(&(endpoint.clone(), id.to_owned()))?;
        (now < found.until).then(|| found.why.clone())
    }

    /// Remembers that a message could not be taken in; answers whether its sender is still to be told.
    pub(super) fn leave(&self, endpoint: &EndpointId, id: &str, why: &Why, now: Timestamp) -> bool {
        let mut all = self.all();
        let key = (endpoint.clone(), id.to_owned());
        let earlier = all.get(&key);
        let pause = earlier.map_or(PAUSE_FIRST, |earlier| {
            earlier.pause.saturating_mul(2).min(PAUSE_MAX)
        });
        let answered = earlier.is_some_and(|earlier| earlier.answered);
        if earlier.is_some() || all.len() < LEFT_MAX {
            let lying = Lying {
                why: why.clone(),
                pause,
                until: now.plus(pause),
                answered,
            };
            all.insert(key, lying);
        }
        !answered
    }

    /// Remembers that the sender of a message was told.
    pub(super) fn answered(&self, endpoint: &EndpointId, id: &str) {
        if let Some(lying) = self.all().get_mut(&(endpoint.clone(), id.to_owned())) {
            lying.answered = true;
        }
    }

    /// Forgets what no longer lies in the inbox of an endpoint.
    pub(super) fn keep(&self, endpoint: &EndpointId, listed: &BTreeSet<String>) {
        let mut all = self.all();
        all.retain(|(of, id), _| of != endpoint || listed.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_what_is_gone_is_forgotten() {
        let (left, endpoint) = (Left::default(), "comm1-mesh".parse().unwrap());
        let why = Why::new("mesh.left", "it cannot be read");
        let mut now = Timestamp::from_ms(0);
        let mut pauses = Vec::new();
        for nth in 0..6 {
            assert_eq!(left.leave(&endpoint, "1", &why, now), nth < 2);
            if nth == 1 {
                left.answered(&endpoint, "1");
            }
            let from = now;
            while left.lies(&endpoint, "1", now).is_some() {
                now = now.plus(Duration::from_mins(10));
            }
            pauses.push(now.since(from).as_secs() / 60);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 120, 120]);
        left.leave(&endpoint, "1", &why, now);
        let other = "other-mesh".parse().unwrap();
        assert_eq!(left.lies(&other, "1", now), None);
        left.keep(&other, &BTreeSet::new());
        assert_eq!(left.lies(&endpoint, "1", now), Some(why.clone()));
        left.keep(&endpoint, &BTreeSet::new());
        assert_eq!(left.lies(&endpoint, "1", now), None);
    }

    #[test]
    fn no_more_than_the_limit_is_remembered() {
        let (left, endpoint) = (Left::default(), "comm1-mesh".parse().unwrap());
        let (why, now) = (Why::new("mesh.left", ""), Timestamp::from_ms(0));
        for n in 0..=LEFT_MAX {
            left.leave(&endpoint, &n.to_string(), &why, now);
        }
        assert_eq!(left.all().len(), LEFT_MAX);
        assert_eq!(left.lies(&endpoint, &LEFT_MAX.to_string(), now), None);
    }
}
