//! The use cases: a permit, the pure core, then one store call that carries its log entry.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use waymark_core::access::{Action, Permit, Principal, Relationship, permit};
use waymark_core::calendar::Calendar;
use waymark_core::directory::{Directory, Environment};
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::port::{ReferralKey, ReferralView, Store};
use waymark_core::time::{Clock, Timestamp};

use crate::clock::Random;

mod admin;
mod audit;
mod change;
mod conservation;
mod directory;
mod document;
mod draft;
mod error;
mod family;
mod intake;
mod keys;
mod mailbox;
mod operate;
mod probe;
mod read;
mod reopen;
mod status;
mod submit;
mod tell;
mod undelivered;

pub use audit::{LogEntryView, PROOF_WAIT_MAX, Proof, ReceiptKey};
pub use change::{Amend, Cancel, ChangeResult, LegEffect, LegOutcome, Withdraw};
pub use conservation::{ConservationReport, walk_conservation};
pub use directory::{Applied, ApplyDirectory, DIRECTORY_STREAM, load_release};
pub(crate) use document::sha256_hex;
pub use document::{DOCUMENT_BYTES_MAX, MEDIA_TYPES, Upload};
pub(crate) use draft::VERSION_FACT;
pub use draft::{Drafter, actor_of};
pub use error::ServiceError;
pub(crate) use family::uncertain;
pub use intake::IntakeService;
pub use mailbox::{Lent, MAILBOX_CREDIT_MAX, MailboxItem};
pub use operate::{DELIVERY_STATE, LANE_ACT_MAX, Redirect, RedirectTarget, ResendPreview};
pub use probe::{PROBE_PAUSE, PROBE_TIMEOUT, PROBES_MAX, Probed};
pub use read::{ListAsk, Listed, PAGE_MAX};
pub use reopen::CancelRefused;
pub use status::{StatusResult, StatusUpdate};
pub use submit::Submit;
pub use tell::{Telling, tell_sender};

/// The directory release in force, shared by every part of the process and replaced as a whole.
#[derive(Debug)]
pub struct InForce {
    /// Its number; 0 before the first release.
    pub number: u64,
    /// The directory.
    pub directory: Directory,
}

/// What is wrong with an endpoint's settings, as its adapter says without I/O.
pub type ValidateEndpoint =
    Arc<dyn Fn(&waymark_core::directory::Endpoint) -> Vec<Violation> + Send + Sync>;

/// What every use case needs.
pub struct Parts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The directory release in force.
    pub in_force: Arc<ArcSwap<InForce>>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Working days.
    pub calendar: Calendar,
    /// Test or live.
    pub environment: Environment,
    /// The log's public key, as a vkey line.
    pub log_vkey: String,
    /// Fires when the log grew.
    pub log_grown: tokio::sync::watch::Receiver<u64>,
    /// Fires when the sequencer should run before its tick.
    pub log_wanted: Arc<tokio::sync::Notify>,
    /// Checks an endpoint's settings with its adapter.
    pub validate_endpoint: ValidateEndpoint,
    /// Renders for a mailbox.
    pub mailbox: Arc<dyn waymark_core::port::Adapter>,
    /// The adapter of a kind, for trying an endpoint.
    pub adapter: AdapterOf,
}

/// The adapter of a kind.
pub type AdapterOf = Arc<
    dyn Fn(waymark_core::directory::AdapterKind) -> Arc<dyn waymark_core::port::Adapter>
        + Send
        + Sync,
>;

/// The use cases. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    parts: Arc<Parts>,
    probes: Arc<probe::Probes>,
}

/// How a caller names a referral.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// By id.
    Id(waymark_core::id::ReferralId),
    /// By the gateway's short reference.
    Reference(waymark_core::id::Reference),
    /// By the caller's own reference.
    SenderReference(waymark_core::referral::SenderReference),
}

/// How often a change is decided anew when the referral moved meanwhile.
const STALE_RETRIES_MAX: u32 = 8;

impl Service {
    /// Joins the parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            probes: Arc::default(),
        }
    }

    /// The store, for the delivery engine and for checks.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.parts.store
    }

    /// The directory release in force.
    pub fn in_force(&self) -> Arc<InForce> {
        self.parts.in_force.load_full()
    }

    /// Puts a newer release in force in this process.
    pub fn take_release(&self, release: InForce) {
        self.parts.in_force.store(Arc::new(release));
    }

    /// The present instant.
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// Test or live.
    pub fn environment(&self) -> Environment {
        self.parts.environment
    }

    fn drafter(&self) -> Drafter<'_> {
        Drafter::new(&*self.parts.random)
    }

    /// The principal that an authenticated channel proves; the directory is asked at each call, so a revoked
    /// identity ends with the next one.
    ///
    /// # Errors
    /// `Unauthenticated` when none of the names is a known identity today.
    pub fn principal(&self, names: &[String]) -> Result<Principal, ServiceError> {
        let in_force = self.in_force();
        let today = self.now().london_date();
        let found = names
            .iter()
            .find_map(|name| in_force.directory.identity(name, today));
        let Some(identity) = found else {
            return Err(ServiceError::new(ErrorKind::Unauthenticated, "UNKNOWN_IDENTITY").with_violation(
                "certificate",
                "its SAN URI is not an identity of the directory in force: ask the area's administrator to add it",
            ));
        };
        Ok(Principal {
            agency: identity.agency.clone(),
            identity: identity.name.clone(),
            actor: actor_of(&identity.name),
            roles: identity.roles.clone(),
            acts_for: identity.acts_for.clone(),
        })
    }

    /// How a caller stands to a referral for an act. Where consent no longer covers a receiver, what it was sent makes it
    /// one, but reads no content here any more; where nothing was, it is a stranger.
    fn relationship(
        &self,
        caller: &Principal,
        referral: &ReferralView,
        action: Action,
    ) -> Relationship {
        let directory = &self.in_force().directory;
        let today = self.now().london_date();
        let is = |agency| {
            caller.speaks_for(agency) || caller.speaks_for(&directory.successor(agency, today))
        };
        if is(&referral.sender) {
            Relationship::Sender
        } else if referral.legs.iter().any(|l| {
            is(&l.leg.agency)
                && (self.consent_covers(&referral.withdrawn, &l.leg.agency)
                    || (action != Action::ReadBody && referral.was_sent(l.leg.id)))
        }) {
            Relationship::Receiver
        } else {
            Relationship::None
        }
    }

    /// Whether a caller owns a leg's service, by its own name or by succession.
    pub(crate) fn owns(&self, caller: &Principal, agency: &waymark_core::id::AgencyId) -> bool {
        let directory = &self.in_force().directory;
        let today = self.now().london_date();
        caller.speaks_for(agency) || caller.speaks_for(&directory.successor(agency, today))
    }

    /// The agencies whose cases a caller's are: its own, and those that it took over.
    fn agencies_of(&self, caller: &Principal) -> Vec<waymark_core::id::AgencyId> {
        let today = self.now().london_date();
        let in_force = self.in_force();
        in_force.directory.predecessors(&caller.agency, today)
    }

    /// Finds a referral and decides on access to it in one step, so that a stranger learns nothing.
    async fn find(
        &self,
        caller: &Principal,
        key: &Key,
        action: Action,
    ) -> Result<(ReferralView, Permit), ServiceError> {
        let id = match key {
            Key::Id(id) => Some(*id),
            Key::Reference(r) => {
                self.parts
                    .store
                    .resolve(&ReferralKey::Reference(r.clone()))
                    .await?
            }
            Key::SenderReference(r) => {
                let mut found = None;
                for agency in self.agencies_of(caller) {
                    let key = ReferralKey::Sender(agency, r.clone());
                    found = found.or(self.parts.store.resolve(&key).await?);
                }
                found
            }
        };
        let view = match id {
            Some(id) => self.parts.store.referral(id).await?,
            None => None,
        };
        let Some(view) = view else {
            permit(caller, action, Relationship::None)?;
            return Err(ServiceError::new(ErrorKind::NotFound, "NO_SUCH_REFERRAL"));
        };
        let allowed = permit(caller, action, self.relationship(caller, &view, action))?;
        Ok((view, allowed))
    }

    /// Waits until the log grew, or the time is over.
    pub async fn log_grown(&self, within: Duration) {
        let mut grown = self.parts.log_grown.clone();
        grown.mark_unchanged();
        let _either: Result<_, tokio::time::error::Elapsed> =
            tokio::time::timeout(within, grown.changed()).await;
    }
}
