//! The therapy service: takes signed webhooks over HTTPS, and posts a signed status back for one child.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use http_body_util::Full;
use rustls::{ClientConfig, ServerConfig};
use serde_json::json;
use waymark_adapters::webhook::sign::{
    ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookSecret, check, seconds, signature,
};
use waymark_core::delivery::Kind;
use waymark_core::time::Clock as _;

use super::ANSWERED_PATHWAY;
use super::answer;
use super::event;
use super::ledger::{Arrival, Ledger, Taken};
use crate::cli::https::{self, Reserved};
use crate::clock::SystemClock;
use crate::lifecycle::Lifecycle;

/// The therapy service's code in the directory.
pub(super) const AGENCY: &str = "THER1";
/// Where it takes webhooks, within its address.
pub(super) const PATH: &str = "/waymark";
/// Its endpoint in the directory.
pub(super) const ENDPOINT: &str = "therapy-webhook";

/// The most bytes of a webhook.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The most bytes of an answer to a status.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
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
        let server = Arc::clone(&desk.trust.server);
        let routes = Router::new().route(PATH, post(take)).with_state(desk);
        reserved.serve("demo therapy service", server, routes, lifecycle);
        Self { ledger }
    }
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
        let arrival = event::read(&body)?;
        ensure!(arrival.wire_id == id, "webhook-id is not the event's id");
        let kind = arrival.kind;
        let answered = kind == Kind::New
            && arrival
                .content
                .as_ref()
                .is_some_and(|c| c.pathway.as_str() == ANSWERED_PATHWAY);
        let wire_id = arrival.wire_id.clone();
        if self.ledger.take(arrival.clone(), &body) == Taken::First && answered {
            self.answer_later(&arrival);
        }
        Ok(wire_id)
    }

    /// Posts that one was accepted, under one webhook-id.
    fn answer_later(&self, arrival: &Arrival) {
        let status = json!({
            "type": "referral.status", "environment": "test", "referral": arrival.reference,
            "answers": arrival.wire_id, "state": "accepted", "source_version": 1,
            "receiver_reference": format!("THER1-{}", arrival.wire_id), "accepted_by": ACCEPTED_BY,
        });
        let said = Arc::new((self.clone(), arrival.wire_id.clone(), status.to_string()));
        let what = format!("the status for {}", arrival.wire_id);
        answer::later(&self.lifecycle, &self.ledger, what, move || {
            let said = Arc::clone(&said);
            async move { said.0.post(&said.1, &said.2).await }
        });
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
            .header(header::CONTENT_TYPE, "application/json")
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, seconds(now))
            .header(SIGNATURE_HEADER, signed)
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        let (tls, address) = (Arc::clone(&self.trust.client), self.gateway.to_string());
        let response = https::ask(tls, &address, request, ANSWER_BYTES_MAX).await;
        let response = response.context("post a status")?;
        ensure!(
            response.status().is_success(),
            "the gateway answered {}",
            response.status()
        );
        Ok(())
    }
}
