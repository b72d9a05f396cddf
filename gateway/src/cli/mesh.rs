//! A MESH mailbox as its owner uses it: each request with a header of its own, over mutual TLS.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use axum::body::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Url;
use uuid::Builder;
use waymark_adapters::mesh::send::{
    self, BYTES_MAX, Fetched, HubSaid, Letter, Mailbox, Standing, fetched, listed, posted, tracked,
};
use waymark_core::time::Clock as _;

use super::failure::Failure;
use super::https;
use crate::clock::{SystemClock, SystemRandomness, random_16};

/// The longest that one request may take, connecting included.
const WITHIN: Duration = Duration::from_secs(30);
/// The version of the API that is asked for.
const VERSION: HeaderValue = HeaderValue::from_static("application/vnd.mesh.v2+json");

/// A mailbox, and the hub that it is at.
pub(super) struct MeshClient {
    address: String,
    prefix: String,
    tls: Arc<ClientConfig>,
    mailbox: Mailbox,
}

impl MeshClient {
    /// Takes a mailbox at a hub.
    ///
    /// # Errors
    /// When the URL is none of a hub.
    pub(super) fn new(url: &str, tls: Arc<ClientConfig>, mailbox: Mailbox) -> anyhow::Result<Self> {
        let parsed = Url::parse(url).ok();
        let hub = parsed.filter(|url| url.scheme() == "https" && url.query().is_none());
        let (Some(hub), true) = (&hub, mailbox_is_plain(&mailbox.id)) else {
            return Err(Failure::usage(format!(
                "{url} is no URL of a hub: give https://HOST[:PORT], and a mailbox id of capital letters and digits"
            )));
        };
        let (host, port) = (hub.host_str(), hub.port_or_known_default());
        let (host, port) = host.zip(port).context("a hub has a host and a port")?;
        Ok(Self {
            address: format!("{host}:{port}"),
            prefix: hub.path().trim_end_matches('/').to_owned(),
            tls,
            mailbox,
        })
    }

    async fn ask(
        &self,
        method: Method,
        below: &[&str],
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> anyhow::Result<Response<Bytes>> {
        let nonce = Builder::from_random_bytes(random_16(&SystemRandomness::new())).into_uuid();
        let authorization = self.mailbox.authorization(nonce, SystemClock.now());
        let path: Vec<&str> = [&[&*self.mailbox.id], below].concat();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{}", self.prefix, send::path(&path)))
            .body(Full::new(Bytes::from(body)))?;
        let own = request.headers_mut();
        own.extend(headers);
        own.insert(ACCEPT, VERSION);
        own.insert(
            AUTHORIZATION,
            authorization.context("write the NHSMESH header")?,
        );
        let asking = https::ask(Arc::clone(&self.tls), &self.address, request, BYTES_MAX);
        let answered = timeout(WITHIN, asking).await;
        answered.with_context(|| format!("{} did not answer in time", self.address))?
    }

    /// Shows the hub that somebody reads this mailbox.
    ///
    /// # Errors
    /// When the hub does not take the mailbox's papers.
    pub(super) async fn handshake(&self) -> anyhow::Result<()> {
        let answer = self.ask(Method::POST, &[], send::handshake(), Vec::new());
        match answer.await?.status() {
            StatusCode::OK => Ok(()),
            status => bail!(
                "the hub answered {} to the handshake of {}: see password, shared key, certificate and this machine's clock",
                status.as_u16(),
                self.mailbox.id
            ),
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When no answer came: ask for it by its id before it is sent again.
    pub(super) async fn send(&self, letter: &Letter<'_>) -> anyhow::Result<HubSaid> {
        let headers = letter
            .headers()
            .context("a header of it cannot be written")?;
        let asking = self.ask(Method::POST, &["outbox"], headers, letter.bytes.to_vec());
        let answer = asking.await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.into_body().to_vec();
        Ok(posted(status, &headers, body, SystemClock.now()))
    }

    /// Where a message of ours stands.
    ///
    /// # Errors
    /// When the hub does not say.
    pub(super) async fn track(&self, local_id: &str) -> anyhow::Result<Standing> {
        let below = ["outbox", "tracking", local_id];
        let asking = self.ask(Method::GET, &below, HeaderMap::new(), Vec::new());
        let answer = asking.await?;
        tracked(answer.status(), answer.body())
            .with_context(|| format!("the hub answered {} to tracking", answer.status().as_u16()))
    }

    /// Ids of what lies in the inbox.
    ///
    /// # Errors
    /// When the hub does not say.
    pub(super) async fn inbox(&self) -> anyhow::Result<Vec<String>> {
        let asking = self.ask(Method::GET, &["inbox"], HeaderMap::new(), Vec::new());
        let answer = asking.await?;
        listed(answer.body()).context("the hub's list of the inbox cannot be read")
    }

    /// Fetches a message, which stays in the inbox.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn fetch(&self, id: &str) -> anyhow::Result<Fetched> {
        let below = ["inbox", id];
        let asking = self.ask(Method::GET, &below, HeaderMap::new(), Vec::new());
        let answer = asking.await?;
        let status = answer.status();
        ensure!(status == StatusCode::OK, "the hub answered {status}");
        let headers = answer.headers().clone();
        let read = fetched(&headers, answer.into_body().to_vec());
        read.map_err(|fault| anyhow::anyhow!("{fault}"))
    }

    /// Says that a message is stored: it is gone from the inbox.
    ///
    /// # Errors
    /// When the hub does not take it.
    pub(super) async fn acknowledge(&self, id: &str) -> anyhow::Result<()> {
        let below = ["inbox", id, "status", "acknowledged"];
        let asking = self.ask(Method::PUT, &below, HeaderMap::new(), Vec::new());
        let status = asking.await?.status();
        // Gone: an acknowledgement before this one was taken, and its answer lost.
        ensure!(
            status == StatusCode::OK || status == StatusCode::GONE,
            "the hub answered {status} to an acknowledgement"
        );
        Ok(())
    }
}

/// Whether a text is a mailbox's id, which stands in paths.
pub(super) fn mailbox_is_plain(id: &str) -> bool {
    !id.is_empty()
        && id
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}
