//! A gateway of one test's own: a deployment as `waymark init` makes it, run in this process over real sockets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use waymark::app::{App, Duty};
use waymark::cli::{
    Authority, CertificateAsk, Deployment, InitOptions, Issued, Ports, init_deployment,
};
use waymark::config::{Config, Lasting};
use waymark::lifecycle::{Ending, Lifecycle};
use waymark::service::Service;
use waymark::telemetry::{Metrics, Telemetry};
use waymark_audit::export::TreeWriter;
use waymark_core::audit::LogEntry;
use waymark_core::directory::{Environment, SourceFile};
use waymark_core::id::StreamId;
use waymark_core::port::Store;
use waymark_core::time::Clock as _;
use waymark_tlog::note::VerifierKey;

use crate::engine::{Database, Engine};

mod area;
mod child;
mod client;
mod drive;
mod raw;

pub use area::Area;
pub use child::{Child, nhs_number, upn};
pub use client::{Client, Post, field_violations, reason_of, referral_key};
pub use drive::{Drive, Wrap};
pub use raw::RawCodec;

/// How long a fact may take to come true before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// The lease of deliveries: the shortest that there is.
const LEASE: Duration = Duration::from_secs(2);
/// How often due work is looked for.
const POLL: Duration = Duration::from_millis(20);
/// How often the sequencer runs.
const SEQUENCER: Duration = Duration::from_millis(20);
/// How long a stop may take.
const DRAIN: Duration = Duration::from_secs(10);
/// Entries of the log read at once.
const ENTRIES_PAGE: u32 = 500;

/// Looks until there is an answer, with a deadline; nothing else in the tests waits for time.
///
/// # Errors
/// Names what did not happen.
pub async fn wait_until<T, F>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let end = Instant::now() + deadline;
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {deadline:?}");
        }
    }
}

/// A gateway and everything that it began with.
pub struct Gateway {
    /// The deployment.
    pub deployment: Deployment,
    /// How the process runs.
    pub config: Config,
    /// The name of the log's key.
    pub vkey: String,
    duty: Duty,
    database: Arc<Database>,
    running: Option<Running>,
    folder: Arc<TempDir>,
}

struct Running {
    runtime: Runtime,
    app: App,
    lifecycle: Lifecycle,
    ending: JoinHandle<std::io::Result<Ending>>,
    metrics: Metrics,
    _telemetry: Telemetry,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("deployment", &self.deployment)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// Makes a deployment of an area and starts it, faces and delivery.
    ///
    /// # Errors
    /// When it cannot be made or started.
    pub async fn start(engine: Engine, area: &Area) -> anyhow::Result<Self> {
        Self::start_as(engine, area, Duty::Serve).await
    }

    /// As [`Gateway::start`], with another duty.
    ///
    /// # Errors
    /// When it cannot be made or started.
    pub async fn start_as(engine: Engine, area: &Area, duty: Duty) -> anyhow::Result<Self> {
        let mut gateway = Self::make(engine, area, duty).await?;
        gateway.restart().await?;
        Ok(gateway)
    }

    /// Makes a deployment without starting it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn make(engine: Engine, area: &Area, duty: Duty) -> anyhow::Result<Self> {
        // Where another test of this process was first, its choice is the same one.
        let _chosen: Result<(), _> =
            rustls::crypto::aws_lc_rs::default_provider().install_default();
        // The gateway's own words stand beside a failed test.
        let _set_up: Result<(), _> = tracing_subscriber::fmt()
            .with_env_filter(crate::engine::setting("WAYMARK_TEST_LOG", "warn"))
            .with_test_writer()
            .try_init();
        let database = Arc::new(Database::new(engine).await?);
        let folder = Arc::new(tempfile::tempdir()?);
        let options = InitOptions {
            environment: Environment::Test,
            ports: Ports::FREE,
            database: Some(database.url.clone()),
            directory: area.files(),
            names: Vec::new(),
        };
        let deployment = init_deployment(&folder.path().join("area"), &options)?;
        let mut config = Config::load(&deployment.config)?;
        config.delivery.lease = Lasting::new(LEASE);
        config.delivery.poll = Lasting::new(POLL);
        config.log.interval = Lasting::new(SEQUENCER);
        let vkey = deployment.log_vkey.clone();
        Ok(Self {
            deployment,
            config,
            vkey,
            duty,
            database,
            running: None,
            folder,
        })
    }

    /// Starts a second instance on the same database, as `PostgreSQL` allows.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn beside(&self) -> anyhow::Result<Self> {
        let mut second = Self {
            deployment: self.deployment.clone(),
            config: self.config.clone(),
            vkey: self.vkey.clone(),
            duty: self.duty,
            database: Arc::clone(&self.database),
            running: None,
            folder: Arc::clone(&self.folder),
        };
        second.restart().await?;
        Ok(second)
    }

    /// Starts it, stopping it before when it runs.
    ///
    /// # Errors
    /// When it does not start; a lock that the one before still holds is waited for.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if self.running.is_some() {
            self.stop().await?;
        }
        let end = Instant::now() + PATIENCE;
        let running = loop {
            match self.start_once().await {
                Ok(running) => break running,
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_still_locked) => tokio::time::sleep(LOOK).await,
            }
        };
        self.running = Some(running);
        Ok(())
    }

    async fn start_once(&self) -> anyhow::Result<Running> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("gateway")
            .enable_all()
            .build()?;
        let telemetry = Telemetry::metrics_only()?;
        let metrics = telemetry.metrics();
        let lifecycle = Lifecycle::new(DRAIN);
        let (config, duty, owned, given) = (
            self.config.clone(),
            self.duty,
            lifecycle.clone(),
            metrics.clone(),
        );
        let started = runtime
            .spawn(async move { App::start(&config, duty, &owned, given).await })
            .await;
        let app = match started.context("the start panicked").and_then(|app| app) {
            Ok(app) => app,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let watched = lifecycle.clone();
        let ending = runtime.spawn(async move { watched.run().await });
        Ok(Running {
            runtime,
            app,
            lifecycle,
            ending,
            metrics,
            _telemetry: telemetry,
        })
    }

    /// Asks it to stop and waits until it has drained.
    ///
    /// # Errors
    /// When it did not drain.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        running.lifecycle.stop();
        let ending = running
            .ending
            .await
            .context("the process's end panicked")??;
        drop(running.app);
        running.runtime.shutdown_background();
        if ending != Ending::Drained {
            bail!("it ended as {ending:?}");
        }
        Ok(())
    }

    /// Drops everything that is at work where it stands, as the end of the process would.
    pub fn crash(&mut self) {
        if let Some(Running { runtime, app, .. }) = self.running.take() {
            runtime.shutdown_background();
            drop(app);
        }
    }

    fn running(&self) -> anyhow::Result<&Running> {
        self.running.as_ref().context("the gateway is not running")
    }

    /// The running gateway.
    ///
    /// # Errors
    /// When it does not run.
    pub fn app(&self) -> anyhow::Result<&App> {
        Ok(&self.running()?.app)
    }

    /// Its use cases.
    ///
    /// # Errors
    /// When it does not run.
    pub fn service(&self) -> anyhow::Result<&Service> {
        Ok(&self.app()?.service)
    }

    /// Its store.
    ///
    /// # Errors
    /// When it does not run.
    pub fn store(&self) -> anyhow::Result<&dyn Store> {
        Ok(&**self.service()?.store())
    }

    /// The database's URL.
    pub fn database_url(&self) -> &str {
        &self.database.url
    }

    /// Its metrics in the Prometheus text format.
    ///
    /// # Errors
    /// When it does not run.
    pub fn prometheus(&self) -> anyhow::Result<String> {
        self.running()?.metrics.prometheus()
    }

    /// The ways of several identities to it, by their names.
    ///
    /// # Errors
    /// When one cannot connect.
    pub async fn clients<const N: usize>(&self, names: [&str; N]) -> anyhow::Result<[Client; N]> {
        let mut clients = Vec::with_capacity(N);
        for name in names {
            clients.push(self.client(name).await?);
        }
        clients
            .try_into()
            .map_err(|_| anyhow::anyhow!("a client for each name"))
    }

    /// A client by the name of its folder: `EE123456`, `admin-LA882`.
    ///
    /// # Errors
    /// When there is no such identity or the gateway does not answer.
    pub async fn client(&self, name: &str) -> anyhow::Result<Client> {
        let folder = self
            .deployment
            .clients
            .get(name)
            .with_context(|| format!("no client {name}"))?;
        let read = |file: &str| {
            std::fs::read(folder.join(file)).with_context(|| format!("read {file} of {name}"))
        };
        self.client_with(&read("cert.pem")?, &read("key.pem")?)
            .await
    }

    /// A client with a certificate of its own.
    ///
    /// # Errors
    /// When the gateway does not take the connection.
    pub async fn client_with(&self, cert: &[u8], key: &[u8]) -> anyhow::Result<Client> {
        let address = self.app()?.grpc.context("no gRPC listener")?;
        Client::connect(address, &self.ca()?, cert, key).await
    }

    /// The authority's certificate, PEM.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn ca(&self) -> anyhow::Result<Vec<u8>> {
        std::fs::read(&self.deployment.ca).context("read the authority's certificate")
    }

    /// A certificate of the deployment's authority, good for 127.0.0.1, that proves a URI.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn issue(&self, uri: &str) -> anyhow::Result<Issued> {
        let today = waymark::clock::SystemClock.now().london_date();
        let ask = CertificateAsk {
            common_name: "test".to_owned(),
            uris: vec![uri.to_owned()],
            names: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            days: 30,
        };
        Authority::load(&self.deployment.dir)?.issue(&ask, today)
    }

    /// Makes these files the next release of the directory, as the area's administrator.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn apply(&self, files: &[SourceFile]) -> anyhow::Result<u64> {
        let admin = self.client("admin-LA882").await?;
        admin.apply_directory(files, "a test's release").await
    }

    /// Gives the deployment a secret of a value.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_secret(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let path = self.deployment.dir.join("secrets").join(name);
        std::fs::write(&path, value).with_context(|| format!("write {}", path.display()))
    }

    /// The value of a secret that the directory names.
    ///
    /// # Errors
    /// When there is none.
    pub fn secret(&self, name: &str) -> anyhow::Result<String> {
        let path = self.deployment.dir.join("secrets").join(name);
        Ok(std::fs::read_to_string(&path)
            .with_context(|| format!("read {}", path.display()))?
            .trim()
            .to_owned())
    }

    /// Every entry of a stream that the log holds so far, once what was written before this call is in it.
    ///
    /// # Errors
    /// When an entry does not decode.
    pub async fn stream(&self, stream: &[u8]) -> anyhow::Result<Vec<LogEntry>> {
        let stream = StreamId::from_bytes(stream.try_into().context("a stream's id is 16 bytes")?);
        self.sequenced().await?;
        let mut found = Vec::new();
        for bytes in self.entries().await? {
            let entry = LogEntry::decode(&bytes)?;
            if entry.stream == stream {
                found.push(entry);
            }
        }
        Ok(found)
    }

    /// The bytes of every entry of the log.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn entries(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let store = self.store()?;
        let mut all = Vec::new();
        loop {
            let from = u64::try_from(all.len())?;
            let page = store.entries(from, ENTRIES_PAGE).await?;
            if page.is_empty() {
                return Ok(all);
            }
            for (index, bytes) in page {
                if index != u64::try_from(all.len())? {
                    bail!("entry {index} stands where {} must", all.len());
                }
                all.push(bytes);
            }
        }
    }

    /// Waits until nothing waits for the sequencer.
    ///
    /// # Errors
    /// When it does not come to an end.
    pub async fn sequenced(&self) -> anyhow::Result<()> {
        let (store, service) = (self.store()?, self.service()?);
        wait_until("the outbox is empty", PATIENCE, || async {
            let (rows, _age) = store.outbox(service.now()).await?;
            Ok((rows == 0).then_some(()))
        })
        .await
    }

    /// The log's public key.
    ///
    /// # Errors
    /// When the deployment's is not one.
    pub fn verifier(&self) -> anyhow::Result<VerifierKey> {
        Ok(VerifierKey::parse(&self.vkey)?)
    }

    /// Writes the log as the static tree that auditors get.
    ///
    /// # Errors
    /// When the log does not fit its own checkpoints.
    pub async fn export(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        self.sequenced().await?;
        let store = self.store()?;
        let mut checkpoints = Vec::new();
        let mut after = 0;
        loop {
            let page = store.checkpoints(after, ENTRIES_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.size;
            checkpoints.extend(page);
        }
        // After the checkpoints: what was signed is there, and more may have come.
        let entries = self.entries().await?;
        let tree = folder.join("tree");
        let mut writer = TreeWriter::create(&tree)?;
        writer.key(&self.verifier()?)?;
        let mut written = 0;
        for signed in checkpoints {
            while written < signed.size {
                let Some(entry) = entries.get(usize::try_from(written)?) else {
                    break;
                };
                writer.append(entry)?;
                written += 1;
            }
            writer.checkpoint(&signed.note)?;
        }
        writer.finish()?;
        Ok(tree)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.crash();
    }
}

/// Stamps tests over both engines; the name of the module decides the engine and the test group.
#[macro_export]
macro_rules! both_engines {
    ($($test:ident,)*) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() -> anyhow::Result<()> {
                    super::$test($crate::engine::Engine::Sqlite).await
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() -> anyhow::Result<()> {
                    super::$test($crate::engine::Engine::Postgres).await
                }
            )*
        }
    };
}
