//! Trying whether an endpoint's far side can be reached: the "test connection" that partners ask for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::audit::EntryKind;
use waymark_core::error::ErrorKind;
use waymark_core::id::EndpointId;
use waymark_core::port::{Deadline, Probe};
use waymark_core::time::Timestamp;

use super::{DIRECTORY_STREAM, Service, ServiceError};

/// The longest that one probe may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// The least time between two probes of one endpoint.
pub const PROBE_PAUSE: Duration = Duration::from_secs(5);
/// Probes, all endpoints together, that may begin within [`PROBE_PAUSE`].
pub const PROBES_MAX: usize = 8;
/// What an adapter gets beyond its deadline before its probe is given up.
const GRACE: Duration = Duration::from_secs(2);

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The release that the endpoint's settings are of.
    pub release: u64,
    /// The stages.
    pub probe: Probe,
    /// How long it took.
    pub took: Duration,
}

/// When each endpoint was probed last, as far as it still counts.
#[derive(Debug, Default)]
pub(super) struct Probes(Mutex<BTreeMap<EndpointId, Timestamp>>);

impl Probes {
    /// Lets a probe begin, or says why not yet.
    fn begin(&self, id: &EndpointId, now: Timestamp) -> Result<(), ServiceError> {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.retain(|_, at| now.since(*at) < PROBE_PAUSE);
        if begun.contains_key(id) || begun.len() >= PROBES_MAX {
            return Err(ServiceError::new(ErrorKind::Exhausted, "PROBED_JUST_NOW"));
        }
        begun.insert(id.clone(), now);
        Ok(())
    }
}

impl Service {
    /// Tries an endpoint in stages, without sending a message. That it was tried is in the log before it is.
    ///
    /// # Errors
    /// `Denied` for anybody but administrators, `NotFound` for an endpoint that does not hold today, `Exhausted` when
    /// it was tried a moment ago.
    pub async fn probe(&self, caller: &Principal, id: &EndpointId) -> Result<Probed, ServiceError> {
        let permit = permit(caller, Action::ActOnDeliveries, Relationship::None)?;
        let now = self.now();
        let in_force = self.in_force();
        let endpoint = in_force.directory.endpoint(id, now.london_date());
        let endpoint =
            endpoint.ok_or_else(|| ServiceError::new(ErrorKind::NotFound, "NO_SUCH_ENDPOINT"))?;
        self.probes.begin(id, now)?;
        let entry = self
            .drafter()
            .entry(
                EntryKind::AdminAction,
                DIRECTORY_STREAM,
                permit.principal(),
                now,
            )
            .code("action", "probe")
            .code("endpoint", id.as_str());
        self.parts.store.append(entry).await?;
        let adapter = (self.parts.adapter)(endpoint.adapter);
        let within = endpoint.attempt_timeout.min(PROBE_TIMEOUT);
        let probing = adapter.probe(endpoint, Deadline { within });
        let probe = tokio::time::timeout(within + GRACE, probing).await;
        let late = |_| ServiceError::new(ErrorKind::Unavailable, "PROBE_TIMEOUT");
        Ok(Probed {
            release: in_force.number,
            probe: probe.map_err(late)?,
            took: self.now().since(now),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_probed_once_in_a_while_and_few_at_a_time() {
        let probes = Probes::default();
        let at = |ms| Timestamp::from_ms(ms);
        let id = |n: usize| format!("e{n}").parse::<EndpointId>().unwrap();
        assert!(probes.begin(&id(0), at(0)).is_ok());
        let again = probes.begin(&id(0), at(4_999)).unwrap_err();
        assert_eq!(
            (again.kind, again.reason),
            (ErrorKind::Exhausted, "PROBED_JUST_NOW")
        );
        for n in 1..PROBES_MAX {
            assert!(probes.begin(&id(n), at(4_999)).is_ok(), "{n}");
        }
        assert!(
            probes.begin(&id(99), at(4_999)).is_err(),
            "all of them are taken"
        );
        assert!(probes.begin(&id(0), at(5_000)).is_ok());
    }
}
