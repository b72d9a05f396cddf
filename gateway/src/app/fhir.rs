//! FHIR over mutual TLS: `$process-message`, `metadata`, `MessageDefinition`, `ServiceRequest/<id>` and what
//! subscriptions bring. Who calls is the agency that the certificate's URI is bound to (ruling 9).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use futures::StreamExt as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tracing::debug;
use waymark_adapters::fhir::Assumptions;
use waymark_adapters::fhir::server::{
    Answer, BODY_BYTES_MAX, Caller, Ready, Refusal, Server, ServerOptions,
};
use waymark_core::access::Principal;
use waymark_core::directory::CodeMap;
use waymark_core::error::ErrorKind;
use waymark_core::port::{Intake, IntakeAnswer, IntakeError};

use crate::config::FhirListener;
use crate::lifecycle::{FailureEffect, Lifecycle};
use crate::service::Service;
use crate::tls::{Peer, Protocol, ServerTls, TlsConnection, accept};

/// Longest time from a connection's first byte to the end of its headers.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of all headers of one request: three of them are base64 of up to 8 KiB.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Longest life of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(15);
/// Bytes of a body that are read past before an answer that does not need them.
const PASSED_OVER_BYTES_MAX: usize = 1024 * 1024;
/// The longest that is read past.
const PASSED_OVER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that the intake may take: then the sender is told to send it again (BaRS Core 1.4: all within 5 s).
const INTAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What every connection shares.
#[derive(Clone)]
struct Face {
    server: Arc<Server>,
    service: Service,
    intake: Arc<dyn Intake>,
}

/// What the handlers of one connection have.
#[derive(Clone)]
struct Connected {
    face: Face,
    peer: Arc<Peer>,
}

pub(super) async fn serve(
    lifecycle: &Lifecycle,
    listen: &FhirListener,
    tls: &ServerTls,
    service: &Service,
    intake: Arc<dyn Intake>,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(listen.address).await?;
    let bound = listener.local_addr()?;
    let options = ServerOptions {
        environment: service.environment(),
        targets: listen.targets.clone(),
        assumptions: Assumptions {
            pathway: listen.assume.pathway.clone(),
            pathways: listen.assume.pathways.clone(),
            lawful_basis: listen.assume.lawful_basis,
            consent_scope: listen.assume.consent_scope.clone(),
        },
    };
    let face = Face {
        server: Arc::new(Server::new(options)),
        service: service.clone(),
        intake,
    };
    let mut connections = accept(listener, tls.clone(), Protocol::Plain, lifecycle);
    let tasks = lifecycle.clone();
    lifecycle.spawn("fhir", FailureEffect::EndProcess, async move {
        while let Some(Ok(connection)) = connections.next().await {
            let face = face.clone();
            tasks.spawn("fhir connection", FailureEffect::Log, async move {
                let served = tokio::time::timeout(CONNECTION_TIMEOUT, served(connection, face));
                if let Ok(Err(why)) = served.await {
                    debug!(error = %why, "a FHIR connection ended early");
                }
                Ok::<(), Infallible>(())
            });
        }
        Ok::<(), Infallible>(())
    });
    Ok(bound)
}

async fn served(connection: TlsConnection, face: Face) -> Result<(), hyper::Error> {
    let peer = Arc::clone(connection.peer());
    let routes = routes(Connected { face, peer });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_buf_size(HEADERS_BYTES_MAX)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(routes))
        .await
}

fn routes(connected: Connected) -> Router {
    Router::new()
        .route("/$process-message", post(process))
        .route("/metadata", get(metadata))
        .route("/MessageDefinition", get(definitions))
        .route("/ServiceRequest/{id}", get(enquiry))
        .route("/Task-callback", post(callback))
        .route("/Task-callback/Task/{id}", put(callback))
        .method_not_allowed_fallback(no_method)
        .fallback(no_path)
        .with_state(connected)
}

/// An answer as HTTP has it.
fn sent(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// Reads past a body that nobody wants, so that its sender can finish and read the answer: a connection that closes
/// while it is written to loses what was answered.
async fn passed_over(body: Body) {
    let mut frames = body.into_data_stream();
    let reading = async {
        let mut read = 0;
        while let Some(Ok(piece)) = frames.next().await {
            read += piece.len();
            if read > PASSED_OVER_BYTES_MAX {
                break;
            }
        }
    };
    // Whoever writes slower than that is not waited for.
    let _in_time: Result<(), _> = tokio::time::timeout(PASSED_OVER_TIMEOUT, reading).await;
}

async fn no_path(headers: HeaderMap, body: Body) -> Response {
    passed_over(body).await;
    sent(Server::refuse(&headers, &Refusal::no_path()))
}

async fn no_method(headers: HeaderMap, body: Body) -> Response {
    passed_over(body).await;
    sent(Server::refuse(&headers, &Refusal::no_method()))
}

async fn metadata(State(connected): State<Connected>, headers: HeaderMap) -> Response {
    sent(connected.face.server.metadata(&headers))
}

async fn definitions(State(connected): State<Connected>, headers: HeaderMap) -> Response {
    sent(connected.face.server.definitions(&headers))
}

impl Connected {
    /// Who calls; the answer to a stranger otherwise.
    fn principal(&self, headers: &HeaderMap) -> Result<Principal, Box<Response>> {
        let service = &self.face.service;
        if self.peer.is_of_other_environment(service.environment()) {
            return Err(Box::new(sent(Server::refuse(headers, &Refusal::nobody()))));
        }
        let found = service.principal(&self.peer.san_uris);
        found.map_err(|_| Box::new(sent(Server::refuse(headers, &Refusal::nobody()))))
    }

    /// The code lists of who calls.
    fn codes(&self, principal: &Principal) -> CodeMap {
        let in_force = self.face.service.in_force();
        let known = in_force.directory.identities.get(&principal.identity);
        known.map(|known| known.codes.clone()).unwrap_or_default()
    }

    /// Hands what was read to the intake and answers only once it did: it is durable then.
    async fn taken(&self, read: Result<Ready, Box<Answer>>) -> Response {
        let ready = match read {
            Ok(ready) => ready,
            Err(answer) => return sent(*answer),
        };
        let ticket = ready.ticket.clone();
        let taken = tokio::time::timeout(INTAKE_TIMEOUT, self.take(ready)).await;
        let taken = taken.unwrap_or_else(|_elapsed| {
            Err(IntakeError {
                kind: ErrorKind::Unavailable,
                violations: Vec::new(),
                reason: "NOT_IN_TIME",
            })
        });
        sent(self.face.server.answered(&ticket, &taken))
    }

    /// Asks which referral is meant where a request has two names for it, and hands it in under the one that counts.
    async fn take(&self, ready: Ready) -> Result<IntakeAnswer, IntakeError> {
        let intake = &self.face.intake;
        let inbound = match ready.enquiries() {
            None => ready.inbound,
            Some([by_id, by_own]) => {
                let (by_id, by_own) = (intake.take(by_id).await, intake.take(by_own).await);
                ready.settled(by_id, by_own)?
            }
        };
        intake.take(inbound).await
    }
}

fn caller<'a>(principal: &'a Principal, codes: &'a CodeMap, headers: &HeaderMap) -> Caller<'a> {
    Caller {
        identity: &principal.identity,
        agency: Some(principal.agency.as_str()),
        acts_for: Some(&principal.acts_for),
        codes,
        traceparent: headers
            .get("traceparent")
            .and_then(|value| value.to_str().ok())
            .and_then(crate::telemetry::well_formed),
    }
}

async fn process(State(connected): State<Connected>, headers: HeaderMap, body: Body) -> Response {
    let principal = match connected.principal(&headers) {
        Ok(principal) => principal,
        Err(response) => {
            passed_over(body).await;
            return *response;
        }
    };
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return sent(Server::refuse(&headers, &Refusal::too_long()));
    };
    let (server, codes) = (&connected.face.server, connected.codes(&principal));
    let read = server.process(&headers, &body, caller(&principal, &codes, &headers));
    connected.taken(read).await
}

async fn enquiry(
    State(connected): State<Connected>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let principal = match connected.principal(&headers) {
        Ok(principal) => principal,
        Err(response) => return *response,
    };
    let (server, codes) = (&connected.face.server, connected.codes(&principal));
    let read = server.enquiry(&headers, &id, caller(&principal, &codes, &headers));
    connected.taken(read).await
}

async fn callback(State(connected): State<Connected>, headers: HeaderMap, body: Body) -> Response {
    let principal = match connected.principal(&headers) {
        Ok(principal) => principal,
        Err(response) => {
            passed_over(body).await;
            return *response;
        }
    };
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return sent(Server::refuse(&headers, &Refusal::too_long()));
    };
    let (server, codes) = (&connected.face.server, connected.codes(&principal));
    let read = server.callback(&headers, &body, caller(&principal, &codes, &headers));
    let response = connected.taken(read).await;
    // A subscription's server wants no more than that it arrived.
    if response.status() == StatusCode::CONFLICT {
        return StatusCode::OK.into_response();
    }
    response
}
