//! The two servers that set the limits: an echo, and one grouped commit, over the gateway's own TLS listener.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use waymark_store::bare::BareStore;

use crate::config::Config;
use crate::lifecycle::{FailureEffect, Lifecycle};
use crate::tls::{Protocol, ServerTls, TlsFiles, accept};

/// Bytes of a request, at most.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What a server does with a call.
#[derive(Clone)]
pub(super) enum Handler {
    /// Sends it back.
    Echo,
    /// Commits the next prepared row group, then sends it back.
    Commit(Arc<dyn BareStore>),
}

/// Serves until the process stops; answers where.
pub(super) async fn serve(
    lifecycle: &Lifecycle,
    config: &Config,
    handler: Handler,
) -> anyhow::Result<SocketAddr> {
    let files = TlsFiles {
        cert: config.tls.cert.clone(),
        key: config.tls.key.clone(),
        client_ca: config.tls.client_ca.clone(),
        crl: None,
    };
    let tls = ServerTls::load(files, config.gateway.environment)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let bound = listener.local_addr()?;
    let mut connections = accept(listener, tls, Protocol::Http2, lifecycle);
    let tasks = lifecycle.clone();
    lifecycle.spawn("limit", FailureEffect::Log, async move {
        while let Some(Ok(connection)) = connections.next().await {
            let handler = handler.clone();
            let stop = tasks.stopping();
            tasks.spawn("limit connection", FailureEffect::Log, async move {
                let service = service_fn(move |request| answer(handler.clone(), request));
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(1 << 20)
                    .initial_connection_window_size(1 << 22)
                    .serve_connection(TokioIo::new(connection), service);
                tokio::select! {
                    result = serving => result,
                    () = stop.cancelled() => Ok(()),
                }
            });
        }
        Ok::<(), Infallible>(())
    });
    Ok(bound)
}

type Answer = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn answer(handler: Handler, request: Request<Incoming>) -> Result<Answer, Infallible> {
    #[expect(clippy::disallowed_methods, reason = "the body is limited")]
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX)
        .collect()
        .await;
    let body = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let done = match handler {
        Handler::Echo => true,
        Handler::Commit(store) => store.commit_next().await.unwrap_or(false),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert(
        "grpc-status",
        HeaderValue::from_static(if done { "0" } else { "13" }),
    );
    let body = Full::new(body)
        .with_trailers(async move { Some(Ok(trailers)) })
        .boxed();
    let mut answer = Response::new(body);
    answer
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(answer)
}
