//! HTTPS for callbacks: signed statuses of webhook receivers, and delivery receipts of Notify, which bear a token:
//! `POST /callbacks/<endpoint>`.
//!
//! Callers show no certificate; the secret of the endpoint that they post to proves who they are (ruling 9).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};
use waymark_adapters::Secrets;
use waymark_adapters::notify::{ReceiptError, receipt};
use waymark_adapters::webhook::{
    CALLBACK_BYTES_MAX, CallbackError, callback_secrets, verify_callback,
};
use waymark_core::directory::{AdapterKind, Endpoint};
use waymark_core::error::ErrorKind;
use waymark_core::id::EndpointId;
use waymark_core::port::{Inbound, Intake, IntakeAnswer, IntakeError};

use crate::lifecycle::{FailureEffect, Lifecycle};
use crate::service::Service;
use crate::tls::{HANDSHAKE_TIMEOUT, Protocol, ServerTls};

/// Connections at a time.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Longest time from a connection's first byte to the end of its headers.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection: callbacks are short.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Clone)]
struct Callbacks {
    service: Service,
    secrets: Arc<dyn Secrets>,
    intake: Arc<dyn Intake>,
}

pub(super) async fn serve(
    lifecycle: &Lifecycle,
    address: SocketAddr,
    tls: ServerTls,
    service: Service,
    secrets: Arc<dyn Secrets>,
    intake: Arc<dyn Intake>,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let routes = Router::new()
        .route("/callbacks/{endpoint}", post(take))
        .with_state(Callbacks {
            service,
            secrets,
            intake,
        });
    let tasks = lifecycle.clone();
    lifecycle.spawn("callbacks", FailureEffect::EndProcess, async move {
        let stop = tasks.stopping();
        let open = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let permit = Arc::clone(&open).acquire_owned().await?;
            let accepted = tokio::select! {
                () = stop.cancelled() => return Ok::<(), tokio::sync::AcquireError>(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _peer)) => {
                    let (tls, routes) = (tls.clone(), routes.clone());
                    tasks.spawn("callback", FailureEffect::Log, async move {
                        let served = tokio::time::timeout(
                            CONNECTION_TIMEOUT,
                            connection(stream, &tls, routes),
                        )
                        .await;
                        if let Ok(Err(why)) = served {
                            debug!(error = %why, "a callback's connection ended early");
                        }
                        drop(permit);
                        Ok::<(), std::convert::Infallible>(())
                    });
                }
                Err(why) => {
                    warn!(error = %why, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(bound)
}

async fn connection(stream: TcpStream, tls: &ServerTls, routes: Router) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(tls.config(Protocol::Signed));
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let service = TowerToHyperService::new(routes);
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

fn refuse(status: StatusCode, why: &str) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain")];
    (status, kind, format!("{why}\n")).into_response()
}

/// An unknown endpoint and a wrong secret look the same from outside.
fn unknown() -> Response {
    refuse(
        StatusCode::UNAUTHORIZED,
        "the signature or token is not that of this endpoint",
    )
}

async fn take(
    State(callbacks): State<Callbacks>,
    Path(endpoint): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Ok(body) = to_bytes(body, CALLBACK_BYTES_MAX).await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
    };
    let service = &callbacks.service;
    let in_force = service.in_force();
    let Ok(id) = endpoint.parse::<EndpointId>() else {
        return unknown();
    };
    let today = service.now().london_date();
    let Some(found) = in_force.directory.endpoint(&id, today) else {
        return unknown();
    };
    let message = match found.adapter {
        AdapterKind::Webhook => callbacks.signed(found, &headers, &body).map(Some),
        AdapterKind::Notify => callbacks.borne(found, &headers, &body),
        _ => Err(unknown()),
    };
    match message {
        Ok(Some(message)) => answered(callbacks.intake.take(message).await),
        // It is heard, and says nothing that is to be kept.
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => refused,
    }
}

impl Callbacks {
    /// A status that a webhook receiver signed.
    #[expect(
        clippy::result_large_err,
        reason = "the error is the answer, made once and sent"
    )]
    fn signed(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Inbound, Response> {
        let id = &endpoint.id;
        let secrets = callback_secrets(endpoint, &*self.secrets).map_err(|why| {
            warn!(endpoint.id = %id, error = %why, "a callback came that cannot be checked");
            unknown()
        })?;
        let callback = match verify_callback(headers, body, &secrets, self.service.now()) {
            Ok(callback) => callback,
            Err(CallbackError::Signature(why)) => {
                info!(endpoint.id = %id, error = %why, "a callback was refused");
                return Err(unknown());
            }
            Err(why) => return Err(refuse(StatusCode::BAD_REQUEST, &why.to_string())),
        };
        let traceparent = headers
            .get("traceparent")
            .and_then(|v| v.to_str().ok())
            .and_then(crate::telemetry::well_formed);
        Ok(callback.into_inbound(id, body.to_vec(), traceparent))
    }

    /// A delivery receipt that bears the endpoint's token.
    #[expect(
        clippy::result_large_err,
        reason = "the error is the answer, made once and sent"
    )]
    fn borne(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Option<Inbound>, Response> {
        receipt(endpoint, &*self.secrets, headers, body).map_err(|why| {
            info!(endpoint.id = %endpoint.id, error = %why, "a delivery receipt was refused");
            match why {
                ReceiptError::Shape => refuse(StatusCode::BAD_REQUEST, &why.to_string()),
                ReceiptError::NotTaken | ReceiptError::Token => unknown(),
            }
        })
    }
}

fn answered(taken: Result<IntakeAnswer, IntakeError>) -> Response {
    let error = match taken {
        Ok(answer) => {
            let text = serde_json::json!({ "referral": answer.reference.as_str(), "repeated": answer.repeated });
            let kind = [(header::CONTENT_TYPE, "application/json")];
            return (StatusCode::OK, kind, text.to_string()).into_response();
        }
        Err(error) => error,
    };
    let status = match error.kind {
        ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Unauthenticated | ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict | ErrorKind::Precondition => StatusCode::CONFLICT,
        ErrorKind::Exhausted | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut words = vec![error.kind.sentence().to_owned()];
    words.extend(error.violations.iter().map(ToString::to_string));
    refuse(status, &words.join("\n"))
}
