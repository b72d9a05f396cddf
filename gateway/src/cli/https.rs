//! HTTPS for commands: one request on a connection of its own, its answer read up to a limit; and, for the demo's
//! agencies, a listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use http_body_util::Full;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::debug;

use super::client::host_and_port;
use crate::lifecycle::{FailureEffect, Lifecycle};

/// How long a caller's handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Asks `HOST:PORT` once. Whoever calls says how long it may take.
///
/// # Errors
/// When there is no connection, or no answer of at most `bytes_max` bytes.
pub(super) async fn ask(
    tls: Arc<ClientConfig>,
    address: &str,
    mut request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> anyhow::Result<Response<Bytes>> {
    let (host, port) = host_and_port(address)?;
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .with_context(|| format!("connect to {address}"))?;
    let name = ServerName::try_from(host).with_context(|| format!("connect to {address}"))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    let stream = stream.with_context(|| format!("TLS with {address}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    request
        .headers_mut()
        .insert(HOST, HeaderValue::from_str(address)?);
    let asking = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = to_bytes(Body::new(body), bytes_max).await?;
        anyhow::Ok(Response::from_parts(parts, body))
    };
    tokio::pin!(asking);
    tokio::select! {
        // An answer that came is read, although its connection ends with it.
        biased;
        answer = &mut asking => answer,
        ended = connection => {
            ended?;
            asking.await
        }
    }
}

/// An address that is taken, and not served yet.
pub(super) struct Reserved(TcpListener);

impl Reserved {
    /// Takes a free port of this machine.
    ///
    /// # Errors
    /// When there is none.
    pub(super) async fn take() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        Ok(Self(listener.context("take a port")?))
    }

    /// Where it is.
    ///
    /// # Errors
    /// When the system does not say.
    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    /// The port itself, for what serves by other means.
    pub(super) fn into_listener(self) -> TcpListener {
        self.0
    }

    /// Serves until the process stops.
    pub(super) fn serve(
        self,
        name: &'static str,
        tls: Arc<ServerConfig>,
        routes: Router,
        lifecycle: &Lifecycle,
    ) {
        let listener = Tls {
            listener: self.0,
            acceptor: TlsAcceptor::from(tls),
        };
        let stop = lifecycle.stopping();
        lifecycle.spawn(name, FailureEffect::EndProcess, async move {
            axum::serve(listener, routes)
                .with_graceful_shutdown(stop.cancelled_owned())
                .await
        });
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
            match timeout(HANDSHAKE_WITHIN, self.acceptor.accept(stream)).await {
                Ok(Ok(stream)) => return (stream, address),
                Ok(Err(why)) => debug!(error = %why, "a handshake failed"),
                Err(_) => debug!("a handshake took too long"),
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
