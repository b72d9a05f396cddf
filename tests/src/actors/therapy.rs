//! A therapy service behind HTTPS: takes signed webhooks, and posts signed statuses back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use waymark::cli::Issued;
use waymark_adapters::webhook::sign::{
    ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookSecret, check, seconds, signature,
};
use waymark_core::time::Clock as _;

/// Bytes of the longest webhook.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// One webhook as it came.
#[derive(Clone, Debug)]
pub struct Hook {
    /// `webhook-id`.
    pub id: String,
    /// `traceparent`, if one came along.
    pub traceparent: Option<String>,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What they say.
    pub body: Value,
}

#[derive(Default)]
struct Seen {
    hooks: Vec<Hook>,
    unsigned: usize,
    next: VecDeque<StatusCode>,
}

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Seen>>,
    secret: Arc<WebhookSecret>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A therapy service.
pub struct Therapy {
    address: SocketAddr,
    waiting: Option<TcpListener>,
    shared: Option<Shared>,
    serving: JoinSet<()>,
}

impl std::fmt::Debug for Therapy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Therapy")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if let Ok((stream, peer)) = self.listener.accept().await
                && let Ok(stream) = self.acceptor.accept(stream).await
            {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl Therapy {
    /// Takes a port; calls wait until it serves.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn bind() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok(Self {
            address,
            waiting: Some(listener),
            shared: None,
            serving: JoinSet::new(),
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Begins to answer, under a certificate, trusting what the secret has signed.
    ///
    /// # Errors
    /// When certificate or secret cannot be used.
    pub fn serve(&mut self, issued: &Issued, secret: &str) -> anyhow::Result<()> {
        let listener = self.waiting.take().context("it serves already")?;
        let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let secret = WebhookSecret::parse(secret.as_bytes())
            .map_err(|_| anyhow::anyhow!("not a webhook secret"))?;
        let shared = Shared {
            seen: Arc::default(),
            secret: Arc::new(secret),
        };
        let routes = Router::new()
            .route("/waymark", post(take))
            .with_state(shared.clone());
        let tls = Tls {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        };
        self.shared = Some(shared);
        self.serving.spawn(async move {
            // It ends with the test.
            let _ended: std::io::Result<()> = axum::serve(tls, routes).await;
        });
        Ok(())
    }

    /// The statuses that it answers next, one each; then it takes what comes.
    pub fn play(&self, next: &[StatusCode]) {
        if let Some(shared) = &self.shared {
            shared.seen().next.extend(next);
        }
    }

    /// Every webhook that came with a good signature.
    pub fn hooks(&self) -> Vec<Hook> {
        self.shared
            .as_ref()
            .map(|shared| shared.seen().hooks.clone())
            .unwrap_or_default()
    }

    /// How many came without one.
    pub fn unsigned(&self) -> usize {
        self.shared
            .as_ref()
            .map_or(0, |shared| shared.seen().unsigned)
    }
}

async fn take(Extract(shared): Extract<Shared>, headers: HeaderMap, body: Body) -> Response {
    let Ok(bytes) = to_bytes(body, BODY_BYTES_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let now = waymark::clock::SystemClock.now();
    let mut seen = shared.seen();
    let Ok(id) =
        check(&headers, &bytes, std::slice::from_ref(&*shared.secret), now).map(str::to_owned)
    else {
        seen.unsigned += 1;
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let traceparent = headers
        .get("traceparent")
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    seen.hooks.push(Hook {
        id: id.clone(),
        traceparent,
        bytes: bytes.to_vec(),
        body,
    });
    match seen.next.pop_front() {
        Some(status) if !status.is_success() => status.into_response(),
        _ => serde_json::json!({ "id": id, "receiver_reference": format!("TH-{id}") })
            .to_string()
            .into_response(),
    }
}

/// Posts a status to the gateway's callback address, signed; answers the HTTP status.
///
/// # Errors
/// When the gateway does not answer.
pub async fn callback(
    address: SocketAddr,
    ca: &[u8],
    endpoint: &str,
    secret: &str,
    id: &str,
    body: &Value,
) -> anyhow::Result<u16> {
    let secret = WebhookSecret::parse(secret.as_bytes())
        .map_err(|_| anyhow::anyhow!("not a webhook secret"))?;
    let now = waymark::clock::SystemClock.now();
    let bytes = serde_json::to_vec(body)?;
    let client = reqwest::Client::builder()
        .tls_backend_rustls()
        .tls_certs_only([reqwest::Certificate::from_pem(ca)?])
        .no_proxy()
        .build()?;
    let response = client
        .post(format!("https://{address}/callbacks/{endpoint}"))
        .header(ID_HEADER, id)
        .header(TIMESTAMP_HEADER, seconds(now))
        .header(SIGNATURE_HEADER, signature(&[secret], id, now, &bytes))
        .header("content-type", "application/json")
        .body(bytes)
        .send()
        .await?;
    Ok(response.status().as_u16())
}
