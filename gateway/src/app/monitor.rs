//! Metrics and health over plain HTTP, for a private interface.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::lifecycle::{FailureEffect, Lifecycle};
use crate::service::Service;
use crate::telemetry::Metrics;

#[derive(Clone)]
struct Monitor {
    service: Service,
    metrics: Metrics,
}

pub(super) async fn serve(
    lifecycle: &Lifecycle,
    address: SocketAddr,
    service: Service,
    metrics: Metrics,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen for metrics on {address}"))?;
    let bound = listener.local_addr()?;
    let routes = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Monitor { service, metrics });
    let stop = lifecycle.stopping();
    lifecycle.spawn("monitor", FailureEffect::EndProcess, async move {
        axum::serve(listener, routes)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
    });
    Ok(bound)
}

async fn metrics_text(State(monitor): State<Monitor>) -> impl IntoResponse {
    match monitor.metrics.prometheus() {
        Ok(text) => (
            StatusCode::OK,
            [("content-type", "text/plain; version=0.0.4")],
            text,
        ),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [("content-type", "text/plain")],
            "metrics failed\n".to_owned(),
        ),
    }
}

async fn ready(State(monitor): State<Monitor>) -> impl IntoResponse {
    if monitor.service.store().ping().await.is_err() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer\n",
        );
    }
    if monitor.service.in_force().number == 0 {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "no directory release: name a folder in directory.initial and start again\n",
        );
    }
    (StatusCode::OK, "ready\n")
}
