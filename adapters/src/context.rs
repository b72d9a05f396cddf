//! What the process gives its adapters: who it is, whom it trusts, its secrets and its clock.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use waymark_core::directory::Environment;
use waymark_core::id::AgencyId;
use waymark_core::port::Intake;
use waymark_core::time::Clock;
use zeroize::Zeroizing;

/// Resolves the names of secrets, which are all that a directory holds (DESIGN.md ruling 21).
pub trait Secrets: Send + Sync {
    /// The secret of that name; `None` when there is none.
    fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>>;
}

/// Says whose an identity is in the directory release of this moment, so that a revoked one is noticed
/// before each write.
pub trait Peers: Send + Sync {
    /// The agency that a SAN URI stands for today; `None` when nobody's or revoked.
    fn agency_of(&self, identity: &str) -> Option<AgencyId>;
}

/// Whether endpoints may leave the public internet when their settings say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressPolicy {
    /// `private_network` and `plain` are refused, whatever the settings say.
    PublicOnly,
    /// An endpoint reaches what its settings flag, and nothing else.
    #[default]
    AsFlagged,
}

/// One way to speak TLS: whom to trust, and what to present.
#[derive(Clone)]
pub struct TlsProfile {
    /// Roots to trust, PEM; no others are.
    pub roots_pem: Vec<u8>,
    /// Our certificate chain, PEM, leaf first; empty presents none.
    pub chain_pem: Vec<u8>,
    /// The chain's private key, PEM.
    pub key_pem: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for TlsProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsProfile").finish_non_exhaustive()
    }
}

/// The profile of endpoints that name none.
pub const DEFAULT_PROFILE: &str = "default";

/// What the adapters are built from.
#[derive(Clone)]
pub struct AdapterContext {
    /// TLS profiles by name; [`DEFAULT_PROFILE`] serves endpoints that name none.
    pub profiles: BTreeMap<String, TlsProfile>,
    /// Secrets by name.
    pub secrets: Arc<dyn Secrets>,
    /// Whose identities are.
    pub peers: Arc<dyn Peers>,
    /// Test or live: traffic of the other kind is refused (DESIGN.md ruling 22).
    pub environment: Environment,
    /// How far out endpoints may reach.
    pub egress: EgressPolicy,
    /// The clock of signatures and of `Retry-After` dates.
    pub clock: Arc<dyn Clock>,
    /// The door for statuses that come back as the answer to a delivery.
    pub intake: Option<Arc<dyn Intake>>,
    /// The folder below which every `file` endpoint's own folder on this machine lies; `None` allows none.
    pub files_root: Option<PathBuf>,
}

impl fmt::Debug for AdapterContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdapterContext")
            .field("environment", &self.environment)
            .field("egress", &self.egress)
            .finish_non_exhaustive()
    }
}
