//! The load: calls over raw HTTP/2 and mutual TLS, because a full gRPC client would take half of the machine.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use waymark_store::bare::BareStore;

/// Connections of one client.
const CONNECTIONS: usize = 4;
/// Where submits go; the echo and the bare handler answer anywhere.
const PATH: &str = "https://localhost/waymark.v1.ReferralService/SubmitReferral";

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) per_s: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// A client with its connections open.
pub(super) struct Client {
    connections: Vec<SendRequest<Bytes>>,
    _driving: JoinSet<Result<(), h2::Error>>,
}

impl Client {
    pub(super) async fn connect(
        address: SocketAddr,
        ca: &Path,
        identity: &Path,
    ) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(ca).context("read the authority")? {
            roots.add(root?)?;
        }
        let chain = CertificateDer::pem_file_iter(identity.join("cert.pem"))?
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(identity.join("key.pem"))
            .context("read the client's key")?;
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let mut connections = Vec::new();
        let mut driving = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let tcp = TcpStream::connect(address)
                .await
                .with_context(|| format!("connect to {address}"))?;
            tcp.set_nodelay(true)?;
            let tls = connector
                .connect(ServerName::try_from("localhost")?, tcp)
                .await?;
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(1 << 20)
                .initial_connection_window_size(1 << 22)
                .handshake::<_, Bytes>(tls)
                .await?;
            driving.spawn(connection);
            connections.push(sender);
        }
        Ok(Self {
            connections,
            _driving: driving,
        })
    }

    /// Keeps `in_flight` calls at work for a time, or until `most` were made; every refusal is an error.
    pub(super) async fn measure(
        &self,
        in_flight: usize,
        each: Duration,
        most: usize,
        request: fn() -> anyhow::Result<Bytes>,
    ) -> anyhow::Result<Measured> {
        let begun = Instant::now();
        let left = Arc::new(AtomicUsize::new(most));
        let mut workers = JoinSet::new();
        for (n, connection) in (0..in_flight).zip(self.connections.iter().cycle()) {
            let _ = n;
            let (connection, left) = (connection.clone(), Arc::clone(&left));
            workers.spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < each && take_one(&left) {
                    let body = request()?;
                    let at = Instant::now();
                    call(connection.clone(), body).await?;
                    took.push(at.elapsed());
                }
                anyhow::Ok(took)
            });
        }
        summary(workers, begun).await
    }
}

fn take_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        .is_ok()
}

async fn summary(
    mut workers: JoinSet<anyhow::Result<Vec<Duration>>>,
    begun: Instant,
) -> anyhow::Result<Measured> {
    let mut took = Vec::new();
    while let Some(worker) = workers.join_next().await {
        took.extend(worker.context("a load worker ended early")??);
    }
    let elapsed = begun.elapsed();
    took.sort_unstable();
    let count = took.len();
    let at = |per_mille: usize| {
        took.get(count * per_mille / 1_000)
            .or(took.last())
            .map_or(0.0, |d| d.as_secs_f64() * 1e3)
    };
    let calls = u32::try_from(count).context("fewer than four billion calls")?;
    Ok(Measured {
        per_s: f64::from(calls) / elapsed.as_secs_f64(),
        p50_ms: at(500),
        p99_ms: at(990),
    })
}

/// One unary call; anything but grpc-status 0 is an error.
async fn call(connection: SendRequest<Bytes>, body: Bytes) -> anyhow::Result<()> {
    let request = http::Request::post(PATH)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (answer, mut sending) = connection.ready().await?.send_request(request, false)?;
    sending.send_data(body, true)?;
    let answer = answer.await?;
    let early = answer.headers().get("grpc-status").cloned();
    let mut body = answer.into_body();
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    let trailers = body.trailers().await?;
    let status = trailers
        .as_ref()
        .and_then(|t| t.get("grpc-status"))
        .cloned()
        .or(early);
    match status {
        Some(status) if status == "0" => Ok(()),
        status => {
            let words = trailers
                .as_ref()
                .and_then(|t| t.get("grpc-message"))
                .and_then(|m| m.to_str().ok());
            bail!(
                "a call was refused: grpc-status {status:?} {}",
                words.unwrap_or("")
            )
        }
    }
}

/// Grouped commits of prepared rows without a network.
pub(super) async fn commits(
    store: &Arc<dyn BareStore>,
    in_flight: usize,
    each: Duration,
    most: usize,
) -> anyhow::Result<Measured> {
    let begun = Instant::now();
    let left = Arc::new(AtomicUsize::new(most));
    let mut workers = JoinSet::new();
    for _ in 0..in_flight {
        let (store, left) = (Arc::clone(store), Arc::clone(&left));
        workers.spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < each && take_one(&left) {
                let at = Instant::now();
                if !store.commit_next().await? {
                    break;
                }
                took.push(at.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    summary(workers, begun).await
}
