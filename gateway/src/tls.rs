//! TLS of the listeners: who may connect, what their certificate proves, and certificates replaced while running.
//!
//! tonic's own TLS can neither reload certificates nor check revocation, and would parse the client's certificate on
//! every request (STACK.md, pitfalls 3 and 4). Here it is parsed once per connection, as [`Peer`].

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use waymark_core::directory::Environment;
use waymark_core::time::Timestamp;

mod accept;
mod files;
mod peer;
mod verify;

pub use accept::{
    CONNECTIONS_MAX, Connections, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, TlsConnection, WAITING_MAX,
    accept,
};
pub use files::{FILE_BYTES_MAX, FileError};
pub use peer::{Peer, PeerError, SAN_SCHEME, SAN_URIS_MAX, environment_of};

/// How often the files are looked at for a change.
pub const RELOAD_POLL: Duration = Duration::from_secs(5);
/// The protocol that gRPC connections agree on.
pub const ALPN_HTTP2: &[u8] = b"h2";

/// Where the material of a TLS listener is read from; all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, then its intermediates.
    pub cert: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
    /// The authorities that sign client certificates.
    pub client_ca: PathBuf,
    /// Their revocation lists. Once given, every authority in a client's chain needs one: an unknown status refuses.
    pub crl: Option<PathBuf>,
}

/// What is wrong with a listener's TLS material.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate and the key do not make a server.
    #[error("the certificate and key of the server cannot be used together")]
    Server(#[source] rustls::Error),
    /// The authorities or revocation lists cannot be used.
    #[error("the client authorities or revocation lists cannot be used")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// The server's own certificate cannot be read.
    #[error("the server's own certificate cannot be read")]
    Certificate(#[source] PeerError),
    /// The server's certificate says that it belongs to the other environment.
    #[error("the server's certificate is of the other environment")]
    OtherEnvironment,
}

/// One protocol offered beneath TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, agreed by ALPN.
    Http2,
    /// Anything else, such as MLLP: no ALPN.
    Plain,
    /// HTTPS for callers who are known by what they sign, and show no certificate.
    Signed,
}

/// The TLS of listeners, replaced as a whole when its files change. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls(Arc<Inner>);

struct Inner {
    files: TlsFiles,
    environment: Environment,
    state: ArcSwap<State>,
    stale: AtomicBool,
}

struct State {
    http2: Arc<ServerConfig>,
    plain: Arc<ServerConfig>,
    signed: Arc<ServerConfig>,
    not_after: Timestamp,
    seen: files::Fingerprint,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("files", &self.0.files)
            .finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads the files and checks that they make a server.
    ///
    /// # Errors
    /// [`TlsError`] names the file at fault.
    pub fn load(files: TlsFiles, environment: Environment) -> Result<Self, TlsError> {
        let state = ArcSwap::from_pointee(State::read(&files, environment)?);
        Ok(Self(Arc::new(Inner {
            files,
            environment,
            state,
            stale: AtomicBool::new(false),
        })))
    }

    /// The TLS configuration of the moment; ask again for each connection.
    pub fn config(&self, protocol: Protocol) -> Arc<ServerConfig> {
        let state = self.0.state.load();
        match protocol {
            Protocol::Http2 => Arc::clone(&state.http2),
            Protocol::Plain => Arc::clone(&state.plain),
            Protocol::Signed => Arc::clone(&state.signed),
        }
    }

    /// When the server's certificate ends.
    pub fn not_after(&self) -> Timestamp {
        self.0.state.load().not_after
    }

    /// Whole days until the server's certificate ends, negative once it has: the value of a gauge.
    pub fn days_left(&self, now: Timestamp) -> i64 {
        days_between(now, self.not_after())
    }

    /// Whether the files changed into something that cannot be used, so that older material is still in force.
    pub fn is_stale(&self) -> bool {
        self.0.stale.load(Ordering::Relaxed)
    }

    /// Reads the files again if they changed since they were last read; what was in force stays when they are wrong.
    /// Answers whether new material is in force.
    ///
    /// # Errors
    /// [`TlsError`] names the file at fault.
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        if files::Fingerprint::of(&self.0.files) == self.0.state.load().seen {
            self.0.stale.store(false, Ordering::Relaxed);
            return Ok(false);
        }
        match State::read(&self.0.files, self.0.environment) {
            Ok(state) => {
                self.0.state.store(Arc::new(state));
                self.0.stale.store(false, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) => {
                self.0.stale.store(true, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Follows the files until the process stops: every [`RELOAD_POLL`], and at each reload asked for.
    pub async fn follow(self, mut reloads: watch::Receiver<u64>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(RELOAD_POLL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
                Ok(()) = reloads.changed() => {}
            }
            let this = self.clone();
            let was_stale = self.is_stale();
            match tokio::task::spawn_blocking(move || this.reload_if_changed()).await {
                Ok(Ok(true)) => {
                    info!(tls.not_after = %self.not_after(), "new certificates are in force");
                }
                Ok(Ok(false)) => {}
                Ok(Err(why)) if was_stale => {
                    tracing::debug!(error = %why, "certificates still cannot be reloaded");
                }
                Ok(Err(why)) => {
                    error!(error = %crate::telemetry::chain(&why), "changed certificates cannot be used, the earlier ones stay");
                }
                Err(_) => return,
            }
        }
    }
}

impl State {
    fn read(files: &TlsFiles, environment: Environment) -> Result<Self, TlsError> {
        // The fingerprint is taken first: a change while reading is then seen by the next look.
        let seen = files::Fingerprint::of(files);
        let chain = files::certificates(&files.cert)?;
        let own = chain.first().ok_or_else(|| FileError::Empty {
            path: files.cert.clone(),
        })?;
        let own = Peer::parse(own).map_err(TlsError::Certificate)?;
        if own.is_of_other_environment(environment) {
            return Err(TlsError::OtherEnvironment);
        }
        let verifier = verify::client_verifier(files, environment)?;
        let config = |protocol: Protocol| -> Result<Arc<ServerConfig>, TlsError> {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
                .map_err(TlsError::Server)?;
            let builder = match protocol {
                Protocol::Signed => builder.with_no_client_auth(),
                Protocol::Http2 | Protocol::Plain => {
                    builder.with_client_cert_verifier(verifier.clone())
                }
            };
            let mut config = builder
                .with_single_cert(chain.clone(), files::private_key(&files.key)?)
                .map_err(TlsError::Server)?;
            if protocol == Protocol::Http2 {
                config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
            }
            Ok(Arc::new(config))
        };
        Ok(Self {
            http2: config(Protocol::Http2)?,
            plain: config(Protocol::Plain)?,
            signed: config(Protocol::Signed)?,
            not_after: own.not_after,
            seen,
        })
    }
}

/// Whole days from one instant to another, rounded down.
pub(crate) fn days_between(from: Timestamp, to: Timestamp) -> i64 {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    to.as_ms().saturating_sub(from.as_ms()).div_euclid(DAY_MS)
}

#[cfg(test)]
mod tests;
