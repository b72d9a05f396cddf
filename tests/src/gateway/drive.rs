//! Delivery with adapters of a test's own in place of a running gateway's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waymark::clock::{SystemClock, SystemRandomness};
use waymark::delivery::{AdapterFor, DeliveryOptions, Driver};
use waymark::service::Service;
use waymark_adapters::{
    AdapterContext, Adapters, DEFAULT_PROFILE, EgressPolicy, Peers, Secrets, TlsProfile,
};
use waymark_core::directory::{AdapterKind, Environment};
use waymark_core::id::AgencyId;
use waymark_core::port::Adapter;
use waymark_core::time::Clock as _;
use zeroize::Zeroizing;

use super::Gateway;

/// Puts an adapter of the test's own before the real one of a kind.
pub type Wrap = Arc<dyn Fn(AdapterKind, Arc<dyn Adapter>) -> Arc<dyn Adapter> + Send + Sync>;

/// A delivery engine at work on a gateway's store; dropped, it ends.
#[derive(Debug)]
pub struct Drive {
    stop: CancellationToken,
    running: JoinSet<()>,
}

struct Files(std::path::PathBuf);

impl Secrets for Files {
    fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        let text = std::fs::read_to_string(self.0.join(name)).ok()?;
        Some(Zeroizing::new(text.trim().as_bytes().to_vec()))
    }
}

struct InForcePeers(Service);

impl Peers for InForcePeers {
    fn agency_of(&self, identity: &str) -> Option<AgencyId> {
        let today = SystemClock.now().london_date();
        self.0
            .in_force()
            .directory
            .identity(identity, today)
            .map(|i| i.agency.clone())
    }
}

impl Drive {
    /// Starts an engine on a gateway that runs faces alone.
    ///
    /// # Errors
    /// When the adapters cannot be set up.
    pub fn start(gateway: &Gateway, lease: Duration, wrap: Wrap) -> anyhow::Result<Self> {
        let outbound = &gateway.config.outbound;
        let profile = TlsProfile {
            roots_pem: std::fs::read(&outbound.roots)?,
            chain_pem: std::fs::read(&outbound.cert)?,
            key_pem: Zeroizing::new(std::fs::read(&outbound.key)?),
        };
        let service = gateway.service()?.clone();
        let adapters = Adapters::new(&AdapterContext {
            profiles: BTreeMap::from([(DEFAULT_PROFILE.to_owned(), profile)]),
            secrets: Arc::new(Files(gateway.config.secrets.dir.clone())),
            peers: Arc::new(InForcePeers(service.clone())),
            environment: Environment::Test,
            egress: EgressPolicy::AsFlagged,
            clock: Arc::new(SystemClock),
            intake: None,
            files_root: None,
        })?;
        let of: AdapterFor = Arc::new(move |kind| wrap(kind, adapters.adapter(kind)));
        let options = DeliveryOptions {
            capacity: 16,
            lease,
            poll: super::POLL,
        };
        let driver = Driver::new(
            service,
            of,
            Arc::new(SystemRandomness::new()),
            gateway.running()?.metrics.clone(),
            options,
        );
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(driver.clone().heartbeat(stop.clone()));
        running.spawn(driver.run(stop.clone()));
        Ok(Self { stop, running })
    }

    /// Lets open attempts end, and ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
    }
}
