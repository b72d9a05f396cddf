//! The real process, and all that it says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child as Process, Command};
use tokio::task::JoinSet;
use waymark_tests::gateway::{Client, Gateway};

/// How long the process may take to be ready, and to end.
const PROCESS_TIMEOUT: Duration = Duration::from_mins(1);

/// The real binary, which `tests/run` builds first.
fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own
        .parent()
        .and_then(|p| p.parent())
        .context("tests run beneath the target folder")?
        .join("waymark");
    if !beside.exists() {
        bail!(
            "{} is not built: run `cargo build --bins`, or tests/run, which does",
            beside.display()
        );
    }
    Ok(beside)
}

/// A running process and all that it says.
pub(super) struct Running {
    process: Process,
    pub(super) addresses: Addresses,
    log: Arc<Mutex<String>>,
    reading: JoinSet<()>,
}

/// Where the process listens.
#[derive(Clone, Default)]
pub(super) struct Addresses {
    pub(super) grpc: Option<SocketAddr>,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) webhook: Option<SocketAddr>,
    pub(super) mllp: Option<SocketAddr>,
}

impl Addresses {
    fn read(&mut self, line: &str) {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            return;
        };
        let Some(fields) = value.get("fields") else {
            return;
        };
        let address = |name: &str| {
            fields
                .get(name)?
                .as_str()
                .and_then(|text| text.parse().ok())
        };
        if fields.get("listener").is_some_and(|name| name == "r1l") {
            self.mllp = address("address");
        } else if let Some(grpc) = address("grpc") {
            self.grpc = Some(grpc);
            self.metrics = address("metrics");
            self.webhook = address("webhook");
        }
    }
}

pub(super) async fn serve(gateway: &Gateway, collector: SocketAddr) -> anyhow::Result<Running> {
    let mut process = Command::new(binary()?)
        .arg("serve")
        .arg("--config")
        .arg(&gateway.deployment.config)
        .env("WAYMARK_TELEMETRY_LOG_FORMAT", "json")
        .env("WAYMARK_TELEMETRY_LOG_FILTER", "trace")
        .env("WAYMARK_TELEMETRY_SAMPLE_RATIO", "1.0")
        .env(
            "WAYMARK_TELEMETRY_OTLP_ENDPOINT",
            format!("http://{collector}"),
        )
        .env("WAYMARK_DELIVERY_LEASE", "2s")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(process.stderr.take().context("its log")?).lines();
    let log = Arc::new(Mutex::new(String::new()));
    let keep = |log: &Mutex<String>, line: &str| {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_str(line);
        log.push('\n');
    };
    let mut addresses = Addresses::default();
    let ready = async {
        while let Some(line) = lines.next_line().await? {
            keep(&log, &line);
            addresses.read(&line);
            if addresses.grpc.is_some() && addresses.mllp.is_some() {
                return Ok(());
            }
        }
        bail!(
            "the process ended before it was ready:\n{}",
            log.lock().unwrap_or_else(PoisonError::into_inner)
        )
    };
    tokio::time::timeout(PROCESS_TIMEOUT, ready)
        .await
        .context("ready in time")??;
    let mut reading = JoinSet::new();
    let kept = Arc::clone(&log);
    reading.spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            keep(&kept, &line);
        }
    });
    Ok(Running {
        process,
        addresses,
        log,
        reading,
    })
}

impl Running {
    pub(super) async fn client(&self, gateway: &Gateway, name: &str) -> anyhow::Result<Client> {
        let folder = gateway
            .deployment
            .clients
            .get(name)
            .with_context(|| format!("a client {name}"))?;
        let read = |file: &str| std::fs::read(folder.join(file));
        let address = self.addresses.grpc.context("a listener")?;
        Client::connect(
            address,
            &gateway.ca()?,
            &read("cert.pem")?,
            &read("key.pem")?,
        )
        .await
    }

    /// Ends it as an operator does, so that everything it still has to say is said.
    pub(super) async fn end(mut self) -> anyhow::Result<String> {
        let id = self.process.id().context("it runs")?.to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().await?;
        assert!(asked.success());
        let ending = tokio::time::timeout(PROCESS_TIMEOUT, self.process.wait())
            .await
            .context("an end in time")??;
        assert!(ending.success(), "it drained: {ending}");
        while self.reading.join_next().await.is_some() {}
        Ok(std::mem::take(
            &mut *self.log.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}
