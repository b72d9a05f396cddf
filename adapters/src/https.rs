//! What all adapters that speak HTTP share: a client for each endpoint that reaches its peer and nobody else, one
//! question and its bounded answer. What an answer means is each protocol's own.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use url::Url;
use waymark_core::delivery::{Outcome, Why};
use waymark_core::directory::Endpoint;
use waymark_core::port::{Identification, Probe};
use waymark_core::time::Timestamp;

use crate::connect::{self, ConnectError, Stage};
use crate::egress::{EgressError, Reach};
use crate::limits::{ANSWER_HEADERS_MAX, BodyError, CONNECT_TIMEOUT, read_capped};
use crate::pool::Pool;
use crate::settings::Address;
use crate::tls::{self, Failure};

/// The most idle connections kept to one endpoint.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// What we call ourselves.
const USER_AGENT: &str = concat!("waymark/", env!("CARGO_PKG_VERSION"));

/// Resolves names through the egress guard, so that the addresses judged are those connected to.
struct Guarded(Reach);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = reach.resolve(name.as_str(), 0).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A client that reaches one address by these papers, and nobody else.
pub(crate) fn client(
    address: &Address,
    tls: ClientConfig,
) -> Result<reqwest::Client, ConnectError> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(Guarded(address.reach))
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .http1_only()
        .http1_max_headers(ANSWER_HEADERS_MAX)
        .https_only(address.reach != Reach::Loopback)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .user_agent(USER_AGENT)
        .build()
        .map_err(|_| ConnectError::Handshake)
}

/// A URL below a base, whatever the base ends in.
pub(crate) fn below(base: &Url, parts: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(parts);
    }
    url
}

/// The difference of clocks from which tokens are refused (GOV.UK Notify; NHS England's servers allow little more).
const CLOCKS_APART_SECONDS: u64 = 30;

/// That an answer's clock (RFC 9110, 6.6.1) and ours are too far apart for a token; none where they are not.
pub(crate) fn clocks(headers: &HeaderMap, now: Timestamp) -> Option<String> {
    let written = headers.get(http::header::DATE)?.to_str().ok()?;
    let there = jiff::fmt::rfc2822::parse(written).ok()?.timestamp();
    let apart = (there.as_millisecond() - now.as_ms()).unsigned_abs() / 1_000;
    let words = "its clock and ours are";
    (apart >= CLOCKS_APART_SECONDS)
        .then(|| format!("{words} {apart} s apart: tokens are refused from 30 s on"))
}

/// What an address proves of its peer: nothing but the machine where no TLS is spoken, in tests.
pub(crate) fn identification(address: &Address) -> Identification {
    if address.reach == Reach::Loopback {
        Identification::Network
    } else {
        Identification::Certificate
    }
}

/// Probes an address in stages up to its certificate; the last stage is left to the caller.
pub(crate) async fn probe(
    address: &Address,
    tls: Result<ClientConfig, ConnectError>,
    until: Instant,
) -> Probe {
    let config = match tls {
        _ if address.reach == Reach::Loopback => None,
        Ok(config) => Some(Arc::new(config)),
        Err(_) => {
            return connect::unusable("the endpoint names no TLS profile of this process");
        }
    };
    connect::probe(address, config, until).await
}

/// Who asks whom, and how long and how much it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    /// The adapter, as the codes of its outcomes begin.
    pub(crate) adapter: &'static str,
    /// The endpoint.
    pub(crate) endpoint: &'a Endpoint,
    /// When it must have ended.
    pub(crate) until: Instant,
    /// The most bytes of its answer.
    pub(crate) bytes_max: usize,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body, or why it was not read whole.
    pub(crate) body: Result<Vec<u8>, BodyError>,
}

impl Answer {
    /// Its body; nothing where it was not read whole and the status says what there is to say.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.body.as_deref().unwrap_or_default()
    }
}

/// The clients of one adapter, by endpoint and settings.
#[derive(Default)]
pub(crate) struct Clients(Pool<reqwest::Client>);

impl Clients {
    /// The client of an endpoint.
    pub(crate) fn of(
        &self,
        endpoint: &Endpoint,
        address: &Address,
        tls: impl FnOnce() -> Result<ClientConfig, ConnectError>,
    ) -> Result<reqwest::Client, ConnectError> {
        if let Some(client) = self.0.find(endpoint, Instant::now()) {
            return Ok(client);
        }
        let client = client(address, tls()?)?;
        self.0.keep(endpoint, client.clone(), Instant::now());
        Ok(client)
    }

    /// Asks once. An error says whether anything was written: `Retry` and `Park` say that nothing was. The library's own
    /// words are not kept: they name the URL.
    pub(crate) async fn ask(
        &self,
        asking: Asking<'_>,
        request: reqwest::RequestBuilder,
    ) -> Result<Answer, Outcome> {
        let Asking {
            adapter,
            endpoint,
            until,
            bytes_max,
        } = asking;
        let unknown = |code: &str, text: &str| Outcome::Unknown {
            why: Why::new(format!("{adapter}.{code}"), text),
        };
        let mut response = match timeout_at(until, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                self.0.drop(&endpoint.id);
                let broken = || unknown("broken", "the connection broke before an answer came");
                return Err(unreached(&error).map_or_else(broken, |error| error.outcome(adapter)));
            }
            Err(_) => return Err(unknown("timeout", "no answer within the deadline")),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        debug!(endpoint.id = %endpoint.id, status = status.as_u16(), "{adapter}: the far side answered");
        let body = timeout_at(until, read_capped(&mut response, bytes_max)).await;
        Ok(Answer {
            status,
            headers,
            body: body.unwrap_or(Err(BodyError::Late)),
        })
    }
}

/// Whether a failure says that nothing was written, or that the peer refused our certificate and so read nothing.
fn unreached(error: &reqwest::Error) -> Option<ConnectError> {
    let tls = Failure::in_chain(error);
    if tls == Some(Failure::RefusedUs) {
        return Some(ConnectError::RefusedUs);
    }
    if !error.is_connect() {
        return None;
    }
    let egress = tls::find::<EgressError>(error)
        .copied()
        .map(ConnectError::Egress);
    let kind = tls::find::<std::io::Error>(error).map(std::io::Error::kind);
    Some(egress.or(tls.map(ConnectError::from)).unwrap_or_else(|| {
        if error.is_timeout() {
            // At which stage is not told; what became of the attempt does not depend on it.
            ConnectError::Timeout(Stage::Tcp)
        } else {
            ConnectError::Tcp(kind.unwrap_or(std::io::ErrorKind::Other))
        }
    }))
}
