//! The therapy service: takes signed webhooks over HTTPS, and posts a signed status back for one child.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::debug;
use waymark_adapters::webhook::sign::{
    ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookSecret, check, seconds, signature,
};
use waymark_core::delivery::Kind;
use waymark_core::referral::Referral;
use waymark_core::time::Clock as _;

use super::ANSWERED_PATHWAY;
use super::ledger::{Arrival, Ledger, Taken};
use crate::clock::SystemClock;
use crate::lifecycle::{FailureEffect, Lifecycle};

/// The therapy service's code in the directory.
pub(super) const AGENCY: &str = "THER1";
/// Where it takes webhooks, within its address.
pub(super) const PATH: &str = "/waymark";
/// Its endpoint in the directory.
pub(super) const ENDPOINT: &str = "therapy-webhook";

/// The most bytes of a webhook.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long a handshake, or posting a status, may take.
const WITHIN: Duration = Duration::from_secs(10);
/// How often a status is posted before it counts as refused.
const POSTS_MAX: u32 = 8;
/// The pause before it is posted again, longer each time.
const POST_PAUSE: Duration = Duration::from_millis(100);
/// The person who accepts them.
const ACCEPTED_BY: &str = "Priya Raman, speech and language therapist";

/// What it shares with the gateway, and whom it trusts.
pub(super) struct Trust {
    /// Its own certificate and key.
    pub(super) server: Arc<ServerConfig>,
    /// Whom it takes the gateway to be.
    pub(super) client: Arc<ClientConfig>,
    /// What the gateway signs with.
    pub(super) signing: WebhookSecret,
    /// What it signs with itself.
    pub(super) callback: WebhookSecret,
}

/// An address that is taken, and not served yet.
pub(super) struct Reserved(TcpListener);

impl Reserved {
    /// Takes a free port.
    ///
    /// # Errors
    /// When there is none.
    pub(super) async fn take() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        Ok(Self(
            listener.context("take a port for the therapy service")?,
        ))
    }

    /// Where it is.
    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }
}

/// The running therapy service.
pub(super) struct Therapy {
    /// What it took.
    pub(super) ledger: Arc<Ledger>,
}

#[derive(Clone)]
struct Desk {
    ledger: Arc<Ledger>,
    lifecycle: Lifecycle,
    trust: Arc<Trust>,
    gateway: SocketAddr,
}

impl Therapy {
    /// Opens at a reserved address; `gateway` is where callbacks go.
    pub(super) fn open(
        reserved: Reserved,
        trust: Trust,
        gateway: SocketAddr,
        lifecycle: &Lifecycle,
    ) -> Self {
        let ledger = Arc::new(Ledger::new(AGENCY));
        let desk = Desk {
            ledger: Arc::clone(&ledger),
            lifecycle: lifecycle.clone(),
            trust: Arc::new(trust),
            gateway,
        };
        let listener = Tls {
            listener: reserved.0,
            acceptor: TlsAcceptor::from(Arc::clone(&desk.trust.server)),
        };
        let routes = Router::new().route(PATH, post(take)).with_state(desk);
        let stop = lifecycle.stopping();
        lifecycle.spawn(
            "demo therapy service",
            FailureEffect::EndProcess,
            async move {
                axum::serve(listener, routes)
                    .with_graceful_shutdown(stop.cancelled_owned())
                    .await
            },
        );
        Self { ledger }
    }
}

/// TLS connections of a listener, one handshake at a time: enough for one gateway.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
            match timeout(WITHIN, self.acceptor.accept(stream)).await {
                Ok(Ok(stream)) => return (stream, address),
                Ok(Err(why)) => debug!(error = %why, "a handshake with the therapy service failed"),
                Err(_) => debug!("a handshake with the therapy service took too long"),
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// What the therapy service reads of a webhook.
#[derive(Deserialize)]
struct Event {
    r#type: String,
    id: String,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    reference: String,
    service: Option<String>,
    referral: Option<Referral>,
}

async fn take(State(desk): State<Desk>, headers: HeaderMap, body: Body) -> Response {
    match desk.taken(&headers, body).await {
        Ok(wire_id) => {
            let answer = json!({ "id": wire_id, "receiver_reference": format!("THER1-{wire_id}") });
            (
                StatusCode::OK,
                [(header::CONTENT_TYPE, "application/json")],
                answer.to_string(),
            )
                .into_response()
        }
        Err(why) => {
            desk.ledger.fault(format!("a webhook was refused: {why:#}"));
            StatusCode::BAD_REQUEST.into_response()
        }
    }
}

impl Desk {
    async fn taken(&self, headers: &HeaderMap, body: Body) -> anyhow::Result<String> {
        let body = to_bytes(body, BODY_BYTES_MAX)
            .await
            .context("read a webhook")?;
        let id = check(
            headers,
            &body,
            std::slice::from_ref(&self.trust.signing),
            SystemClock.now(),
        )?;
        let event: Event = serde_json::from_slice(&body).context("read a webhook")?;
        ensure!(event.id == id, "webhook-id is not the event's id");
        let kind = match event.r#type.as_str() {
            "referral.new" => Kind::New,
            "referral.amended" => Kind::Amend,
            "referral.cancelled" => Kind::Cancel,
            "referral.consent_withdrawn" => Kind::Withdraw,
            "referral.status" => Kind::Status,
            _ => anyhow::bail!("an event of an unknown type"),
        };
        let arrival = Arrival {
            wire_id: event.id,
            kind,
            reference: event.data.reference,
            service: event.data.service.unwrap_or_default(),
            content: event.data.referral,
        };
        let answered = kind == Kind::New
            && arrival
                .content
                .as_ref()
                .is_some_and(|c| c.pathway.as_str() == ANSWERED_PATHWAY);
        let wire_id = arrival.wire_id.clone();
        if self.ledger.take(arrival.clone(), &body) == Taken::First && answered {
            self.answer_later(arrival);
        }
        Ok(wire_id)
    }

    fn answer_later(&self, arrival: Arrival) {
        let desk = self.clone();
        self.lifecycle
            .spawn("demo therapy callback", FailureEffect::Log, async move {
                if let Err(why) = desk.answer(&arrival).await {
                    desk.ledger.fault(format!(
                        "the status for {} was not taken: {why:#}",
                        arrival.wire_id
                    ));
                }
                Ok::<(), std::convert::Infallible>(())
            });
    }

    /// Posts the status until the gateway has taken it, under one webhook-id.
    async fn answer(&self, arrival: &Arrival) -> anyhow::Result<()> {
        let status = json!({
            "type": "referral.status", "environment": "test", "referral": arrival.reference,
            "answers": arrival.wire_id, "state": "accepted", "source_version": 1,
            "receiver_reference": format!("THER1-{}", arrival.wire_id), "accepted_by": ACCEPTED_BY,
        });
        let body = status.to_string();
        let mut last = anyhow::anyhow!("it was never posted");
        for attempt in 1..=POSTS_MAX {
            match timeout(WITHIN, self.post(&arrival.wire_id, &body)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(why)) => last = why,
                Err(_) => last = anyhow::anyhow!("no answer in time"),
            }
            tokio::time::sleep(POST_PAUSE.saturating_mul(attempt)).await;
        }
        Err(last)
    }

    async fn post(&self, wire_id: &str, body: &str) -> anyhow::Result<()> {
        let (id, now) = (format!("accepted-{wire_id}"), SystemClock.now());
        let signed = signature(
            std::slice::from_ref(&self.trust.callback),
            &id,
            now,
            body.as_bytes(),
        );
        let request = Request::post(format!("/callbacks/{ENDPOINT}"))
            .header(header::HOST, self.gateway.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, seconds(now))
            .header(SIGNATURE_HEADER, signed)
            .body(body.to_owned())?;
        let stream = TcpStream::connect(self.gateway)
            .await
            .context("connect to the gateway")?;
        let name = ServerName::from(self.gateway.ip());
        let stream = TlsConnector::from(Arc::clone(&self.trust.client))
            .connect(name, stream)
            .await;
        let stream = TokioIo::new(stream.context("TLS to the gateway")?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        self.lifecycle
            .spawn("demo therapy connection", FailureEffect::Log, connection);
        let response = sender
            .send_request(request)
            .await
            .context("post a status")?;
        ensure!(
            response.status().is_success(),
            "the gateway answered {}",
            response.status()
        );
        Ok(())
    }
}
