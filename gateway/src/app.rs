//! The composition root: the only place that names concrete stores, adapters, clocks and sources of randomness.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use waymark_adapters::{
    AdapterContext, Adapters, DEFAULT_PROFILE, EgressPolicy, Peers, Secrets, TlsProfile,
};
use waymark_core::access::{Principal, Role};
use waymark_core::calendar::Calendar;
use waymark_core::directory::{AdapterKind, Directory, Environment, SourceFile};
use waymark_core::error::ErrorKind;
use waymark_core::id::AgencyId;
use waymark_core::port::{Inbound, Intake, IntakeAnswer, IntakeError, Store};
use waymark_core::time::Clock;
use waymark_store::{Keyring, Mode, OpenOptions, Schema};
use zeroize::Zeroizing;

use crate::clock::{Random, SystemClock, SystemRandomness};
use crate::config::{Config, load_log_key};
use crate::delivery::{AdapterFor, Collector, DeliveryOptions, Driver, SYSTEM_IDENTITY};
use crate::lifecycle::{FailureEffect, Lifecycle};
use crate::service::{
    ApplyDirectory, InForce, IntakeService, Parts, Service, actor_of, load_release,
};
use crate::telemetry::Metrics;
use crate::tls::{Protocol, ServerTls, TlsFiles, accept};

mod background;
mod callback;
mod fhir;
mod mllp;
mod monitor;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Faces and delivery.
    Serve,
    /// Faces alone; workers deliver.
    Faces,
    /// Delivery alone.
    Worker,
}

/// A running gateway.
pub struct App {
    /// The use cases.
    pub service: Service,
    /// Where gRPC listens.
    pub grpc: Option<SocketAddr>,
    /// Where each MLLP listener listens, by name.
    pub mllp: BTreeMap<String, SocketAddr>,
    /// Where webhook callbacks are taken.
    pub callback: Option<SocketAddr>,
    /// Where FHIR is served.
    pub fhir: Option<SocketAddr>,
    /// Where metrics and health are served.
    pub monitor: Option<SocketAddr>,
    /// The log's public key.
    pub log_vkey: String,
}

/// Bytes of a mebibyte.
const MIB: u64 = 1024 * 1024;

/// Opens the database that a configuration names.
///
/// # Errors
/// When the keyring cannot be read or the database not be opened.
pub async fn open_store(
    config: &Config,
    mode: Mode,
    schema: Schema,
) -> anyhow::Result<Arc<dyn Store>> {
    let path = &config.keys.keyring;
    let keyring =
        Keyring::load(path).with_context(|| format!("read the keyring {}", path.display()))?;
    let options = OpenOptions {
        url: config.database_url()?.expose().to_owned(),
        keyring,
        environment: config.gateway.environment,
        mode,
        schema,
        now: SystemClock.now(),
        free_disk_min: config.database.free_disk_min_mib * MIB,
    };
    waymark_store::open(options)
        .await
        .context("open the database")
}

/// Reads the TOML files of a directory folder, in the order of their names.
///
/// # Errors
/// When the folder or a file cannot be read.
pub fn read_folder(folder: &Path) -> anyhow::Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("read the folder {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("read {}", path.display()))?;
            let name = path
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            files.push(SourceFile { path: name, text });
        }
    }
    if files.is_empty() {
        bail!("{} holds no .toml files", folder.display());
    }
    files.sort();
    Ok(files)
}

/// Secrets of the configuration, as the adapters ask for them.
struct ConfigSecrets(crate::config::Secrets);

impl Secrets for ConfigSecrets {
    fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        match self.0.find(name) {
            Ok(secret) => Some(Zeroizing::new(secret.expose().as_bytes().to_vec())),
            Err(error) => {
                tracing::error!(secret.name = name, %error, "a secret that the directory names cannot be used");
                None
            }
        }
    }
}

/// Whose an identity is, in the release of the moment.
struct DirectoryPeers {
    in_force: Arc<ArcSwap<InForce>>,
    clock: Arc<dyn Clock>,
}

impl Peers for DirectoryPeers {
    fn agency_of(&self, identity: &str) -> Option<AgencyId> {
        let today = self.clock.now().london_date();
        self.in_force
            .load()
            .directory
            .identity(identity, today)
            .map(|i| i.agency.clone())
    }
}

/// The door for what adapters receive; it opens once the use cases stand, which themselves need the adapters.
#[derive(Default)]
struct LateIntake(OnceLock<IntakeService>);

#[async_trait]
impl Intake for LateIntake {
    async fn take(&self, message: Inbound) -> Result<IntakeAnswer, IntakeError> {
        match self.0.get() {
            Some(intake) => intake.take(message).await,
            None => Err(IntakeError {
                kind: ErrorKind::Unavailable,
                violations: Vec::new(),
                reason: "STARTING",
            }),
        }
    }
}

impl App {
    /// Starts a gateway: everything is opened and bound before anything is answered, and all tasks belong to
    /// `lifecycle`.
    ///
    /// # Errors
    /// The first thing that could not be opened, in words.
    pub async fn start(
        config: &Config,
        duty: Duty,
        lifecycle: &Lifecycle,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let random: Arc<dyn Random> = Arc::new(SystemRandomness::new());
        let environment = config.gateway.environment;
        let schema = if config.database.migrate {
            Schema::Migrate
        } else {
            Schema::Expect
        };
        let store = open_store(config, Mode::Write, schema).await?;
        let log_key = load_log_key(&config.keys.log)?;
        let log_vkey = log_key.vkey();
        let files = TlsFiles {
            cert: config.tls.cert.clone(),
            key: config.tls.key.clone(),
            client_ca: config.tls.client_ca.clone(),
            crl: config.tls.crl.clone(),
        };
        let secrets: Arc<dyn Secrets> = Arc::new(ConfigSecrets(config.secrets()));
        let tls = ServerTls::load(files, environment).context("load the TLS material")?;
        let in_force = Arc::new(ArcSwap::from_pointee(in_force(&*store, environment).await?));
        let intake = Arc::new(LateIntake::default());
        let adapters = Arc::new(adapters(
            config,
            &secrets,
            &in_force,
            Some(&intake),
            &clock,
        )?);
        // The use cases get adapters without the door back to them, so that all of it is let go of at the end.
        let checking = Arc::new(self::adapters(config, &secrets, &in_force, None, &clock)?);
        let trying = Arc::clone(&checking);
        let (grown, log_grown) = watch::channel(0);
        let log_wanted = Arc::new(Notify::new());
        let service = Service::new(Parts {
            store,
            in_force,
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
            calendar: Calendar::england_and_wales(),
            environment,
            log_vkey: log_vkey.clone(),
            log_grown,
            log_wanted: Arc::clone(&log_wanted),
            mailbox: checking.adapter(AdapterKind::Mailbox),
            validate_endpoint: Arc::new(move |endpoint| checking.validate(endpoint)),
            adapter: Arc::new(move |kind| trying.adapter(kind)),
        });
        if intake.0.set(IntakeService::new(service.clone())).is_err() {
            bail!("the intake was opened twice");
        }
        if let Some(folder) = config
            .directory
            .initial
            .as_deref()
            .filter(|_| service.in_force().number == 0)
        {
            first_release(&service, folder).await?;
        }
        service
            .take_key_epoch()
            .await
            .context("note the keyring's epoch")?;
        background::start(
            lifecycle, config, &service, log_key, grown, log_wanted, &tls, &metrics,
        );
        if duty != Duty::Faces {
            let door: Arc<dyn Intake> = Arc::<LateIntake>::clone(&intake);
            start_delivery(
                lifecycle, config, &service, &adapters, door, &random, &metrics,
            );
        }
        let mut app = Self {
            service,
            grpc: None,
            mllp: BTreeMap::new(),
            callback: None,
            fhir: None,
            monitor: None,
            log_vkey,
        };
        if duty != Duty::Worker {
            app.listen(config, &tls, &secrets, &intake, &clock, &metrics, lifecycle)
                .await?;
        }
        if let Some(address) = config.listen.metrics {
            app.monitor =
                Some(monitor::serve(lifecycle, address, app.service.clone(), metrics).await?);
        }
        Ok(app)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "called once, by the composition root"
    )]
    async fn listen(
        &mut self,
        config: &Config,
        tls: &ServerTls,
        secrets: &Arc<dyn Secrets>,
        intake: &Arc<LateIntake>,
        clock: &Arc<dyn Clock>,
        metrics: &Metrics,
        lifecycle: &Lifecycle,
    ) -> anyhow::Result<()> {
        for listen in &config.listen.mllp {
            let intake: Arc<dyn Intake> = Arc::<LateIntake>::clone(intake);
            let address = mllp::serve(
                lifecycle,
                listen,
                tls,
                &self.service,
                intake,
                Arc::clone(clock),
            )
            .await
            .with_context(|| format!("listen for MLLP on {}", listen.address))?;
            self.mllp.insert(listen.name.clone(), address);
        }
        if let Some(address) = config.listen.webhook {
            let intake: Arc<dyn Intake> = Arc::<LateIntake>::clone(intake);
            let bound = callback::serve(
                lifecycle,
                address,
                tls.clone(),
                self.service.clone(),
                Arc::clone(secrets),
                intake,
            )
            .await
            .with_context(|| format!("listen for callbacks on {address}"))?;
            self.callback = Some(bound);
        }
        if let Some(listen) = &config.listen.fhir {
            let intake: Arc<dyn Intake> = Arc::<LateIntake>::clone(intake);
            let bound = fhir::serve(lifecycle, listen, tls, &self.service, intake).await;
            let bound = bound.with_context(|| format!("listen for FHIR on {}", listen.address))?;
            self.fhir = Some(bound);
        }
        let address = config.listen.grpc;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen for gRPC on {address}"))?;
        self.grpc = Some(listener.local_addr()?);
        let connections = accept(listener, tls.clone(), Protocol::Http2, lifecycle);
        crate::grpc::serve(
            lifecycle,
            connections,
            self.service.clone(),
            metrics.clone(),
            &config.limits,
        )?;
        Ok(())
    }
}

fn adapters(
    config: &Config,
    secrets: &Arc<dyn Secrets>,
    in_force: &Arc<ArcSwap<InForce>>,
    intake: Option<&Arc<LateIntake>>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Adapters> {
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let profile = TlsProfile {
        roots_pem: read(&config.outbound.roots)?,
        chain_pem: read(&config.outbound.cert)?,
        key_pem: Zeroizing::new(read(&config.outbound.key)?),
    };
    let context = AdapterContext {
        profiles: BTreeMap::from([(DEFAULT_PROFILE.to_owned(), profile)]),
        secrets: Arc::clone(secrets),
        peers: Arc::new(DirectoryPeers {
            in_force: Arc::clone(in_force),
            clock: Arc::clone(clock),
        }),
        environment: config.gateway.environment,
        egress: EgressPolicy::AsFlagged,
        clock: Arc::clone(clock),
        intake: intake.map(|intake| Arc::<LateIntake>::clone(intake) as Arc<dyn Intake>),
        files_root: config.files.root.clone(),
    };
    Adapters::new(&context).context("set up the adapters")
}

fn start_delivery(
    lifecycle: &Lifecycle,
    config: &Config,
    service: &Service,
    adapters: &Arc<Adapters>,
    intake: Arc<dyn Intake>,
    random: &Arc<dyn Random>,
    metrics: &Metrics,
) {
    let options = DeliveryOptions {
        capacity: config.delivery.capacity,
        lease: config.delivery.lease.get(),
        poll: config.delivery.poll.get(),
    };
    let adapters = Arc::clone(adapters);
    let of: AdapterFor = Arc::new(move |kind| adapters.adapter(kind));
    let collector = Collector::new(service.clone(), Arc::clone(&of), intake, metrics.clone());
    let collecting = lifecycle.stopping();
    lifecycle.spawn("collect", FailureEffect::EndProcess, async move {
        collector.run(collecting).await;
        Ok::<(), std::convert::Infallible>(())
    });
    let driver = Driver::new(
        service.clone(),
        of,
        Arc::clone(random),
        metrics.clone(),
        options,
    );
    let stop = lifecycle.stopping();
    let beating = driver.clone().heartbeat(stop.clone());
    lifecycle.spawn("delivery", FailureEffect::EndProcess, async move {
        driver.run(stop).await;
        Ok::<(), std::convert::Infallible>(())
    });
    lifecycle.spawn("leases", FailureEffect::EndProcess, async move {
        beating.await;
        Ok::<(), std::convert::Infallible>(())
    });
}

/// The newest release, or nobody's directory before the first.
async fn in_force(store: &dyn Store, environment: Environment) -> anyhow::Result<InForce> {
    let Some(release) = store
        .latest_release()
        .await
        .context("read the directory in force")?
    else {
        return Ok(InForce {
            number: 0,
            directory: Directory::empty(environment)?,
        });
    };
    match load_release(&release) {
        Ok(directory) => Ok(InForce {
            number: release.number,
            directory,
        }),
        Err(findings) => bail!(
            "directory release {} does not load: {} findings",
            release.number,
            findings.len()
        ),
    }
}

/// Makes the configured folder release 1, in the gateway's own name.
async fn first_release(service: &Service, folder: &Path) -> anyhow::Result<()> {
    let files = read_folder(folder)?;
    let triage = Directory::load(&files)
        .ok()
        .and_then(|d| d.triage().map(|s| s.agency.clone()));
    let agency = match triage {
        Some(agency) => agency,
        None => "none".parse()?,
    };
    let system = Principal {
        agency,
        identity: SYSTEM_IDENTITY.to_owned(),
        actor: actor_of(SYSTEM_IDENTITY),
        roles: [Role::Admin].into(),
        acts_for: std::collections::BTreeSet::new(),
    };
    let ask = ApplyDirectory {
        files,
        expected: None,
        note: "initial directory".to_owned(),
        dry_run: false,
    };
    if let Err(error) = service.apply_directory(&system, ask).await {
        let faults: Vec<String> = error.violations.iter().map(ToString::to_string).collect();
        bail!(
            "the initial directory {} is refused:\n  {}",
            folder.display(),
            faults.join("\n  ")
        );
    }
    Ok(())
}
