//! Reaching a peer over TLS, and the stages in which that is told to an operator.

use std::cmp::Ordering;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waymark_core::delivery::{Outcome, ParkReason, Why};
use waymark_core::port::{Probe, ProbeStage};

use crate::egress::EgressError;
use crate::limits::ALERT_WAIT;
use crate::settings::Address;
use crate::tls::{Failure, Profiles};

/// HTTP/2 as ALPN names it (RFC 9113, 3.2).
pub(crate) const HTTP2: &[u8] = b"h2";
/// What a client of HTTP/2 begins with: the preface, and SETTINGS that set nothing (RFC 9113, 3.4 and 6.5).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of SETTINGS, and its flag that acknowledges ours (RFC 9113, 6.5).
const HTTP2_SETTINGS: u8 = 4;
const HTTP2_ACK: u8 = 1;
/// The longest frame before anything else is agreed (RFC 9113, 4.2), and the most frames that are read.
const HTTP2_FRAME_BYTES_MAX: u32 = 16_384;
const HTTP2_FRAMES_MAX: usize = 16;

/// The stages of a probe, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Finding the address.
    Name,
    /// Connecting.
    Tcp,
    /// The TLS handshake, certificate chains of both sides and server name included.
    Tls,
    /// What else the peer's certificate must say.
    Identity,
    /// What speaks behind it.
    Application,
}

impl Stage {
    /// Every stage, in order.
    pub(crate) const ALL: [Self; 5] = [
        Self::Name,
        Self::Tcp,
        Self::Tls,
        Self::Identity,
        Self::Application,
    ];

    /// The stage's word in a probe.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Identity => "identity",
            Self::Application => "application",
        }
    }

    /// The stage with what came of it.
    pub(crate) fn told(self, passed: Option<bool>, detail: impl Into<String>) -> ProbeStage {
        ProbeStage {
            stage: self.word(),
            passed,
            detail: detail.into(),
        }
    }
}

/// Why a peer was not reached: no byte of a message was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error("no connection: {0}")]
    Tcp(io::ErrorKind),
    #[error("the peer is not the bound recipient: its certificate names somebody else")]
    WrongPeer,
    #[error("the peer's certificate is not trusted")]
    Untrusted,
    #[error("the peer did not take this gateway's certificate")]
    RefusedUs,
    #[error("the TLS handshake failed")]
    Handshake,
    #[error(
        "the peer closed the connection after the TLS handshake: it may refuse this gateway's certificate"
    )]
    Closed,
    #[error("the peer was not reached in time")]
    Timeout(Stage),
}

impl ConnectError {
    /// The stage that failed.
    pub(crate) fn stage(self) -> Stage {
        match self {
            Self::Egress(_) => Stage::Name,
            Self::Tcp(_) => Stage::Tcp,
            Self::Untrusted | Self::Handshake | Self::RefusedUs | Self::Closed => Stage::Tls,
            Self::WrongPeer => Stage::Identity,
            Self::Timeout(stage) => stage,
        }
    }

    /// How the attempt ended.
    pub(crate) fn outcome(self, adapter: &str) -> Outcome {
        let word = match self {
            Self::Egress(EgressError::NoAddress) => "name",
            Self::Egress(EgressError::Refused) => "egress",
            Self::Tcp(_) => "connect",
            Self::WrongPeer => "wrong_peer",
            Self::Untrusted => "untrusted",
            Self::RefusedUs => "refused_us",
            Self::Handshake => "tls",
            Self::Closed => "closed",
            Self::Timeout(_) => "connect_timeout",
        };
        let why = Why::new(format!("{adapter}.{word}"), self.to_string());
        match self {
            Self::WrongPeer => Outcome::Park {
                reason: ParkReason::WrongRecipient,
                why,
            },
            _ => Outcome::Retry { after: None, why },
        }
    }
}

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::WrongPeer => Self::WrongPeer,
            Failure::Untrusted => Self::Untrusted,
            Failure::RefusedUs => Self::RefusedUs,
            Failure::Handshake => Self::Handshake,
        }
    }
}

/// What TLS begins with under a profile of this process.
pub(crate) fn config(
    profiles: &Profiles,
    name: &str,
    peer_identity: Option<&str>,
    protocols: &[&[u8]],
) -> Result<ClientConfig, ConnectError> {
    let profile = profiles.get(name).ok_or(ConnectError::Handshake)?;
    let config = profile.client(peer_identity, protocols);
    config.map_err(|_| ConnectError::Handshake)
}

/// Connects to an address that the egress guard judged.
pub(crate) async fn tcp(address: &Address, until: Instant) -> Result<TcpStream, ConnectError> {
    let host = address.url.host_str().unwrap_or_default();
    let port = address.url.port_or_known_default().unwrap_or_default();
    let late = |stage| move |_| ConnectError::Timeout(stage);
    let found = timeout_at(until, address.reach.resolve(host, port));
    let mut last = ConnectError::Egress(EgressError::NoAddress);
    for socket in found.await.map_err(late(Stage::Name))?? {
        let connecting = timeout_at(until, TcpStream::connect(socket));
        match connecting.await.map_err(late(Stage::Tcp))? {
            Ok(stream) => {
                stream
                    .set_nodelay(true)
                    .map_err(|e| ConnectError::Tcp(e.kind()))?;
                return Ok(stream);
            }
            Err(error) => last = ConnectError::Tcp(error.kind()),
        }
    }
    Err(last)
}

/// Speaks TLS over a connection: who answers is the bound peer, or nothing is sent.
pub(crate) async fn tls(
    address: &Address,
    stream: TcpStream,
    config: Arc<ClientConfig>,
    until: Instant,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let name = match address.url.host() {
        Some(url::Host::Domain(name)) => {
            ServerName::try_from(name.to_owned()).map_err(|_| ConnectError::Handshake)?
        }
        Some(url::Host::Ipv4(ip)) => ServerName::IpAddress(std::net::IpAddr::V4(ip).into()),
        Some(url::Host::Ipv6(ip)) => ServerName::IpAddress(std::net::IpAddr::V6(ip).into()),
        None => return Err(ConnectError::Handshake),
    };
    match timeout_at(until, TlsConnector::from(config).connect(name, stream)).await {
        Err(_) => Err(ConnectError::Timeout(Stage::Tls)),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            Err(Failure::in_chain(&error).map_or(ConnectError::Handshake, ConnectError::from))
        }
    }
}

/// Waits whether the peer refuses our certificate, and writes nothing. With TLS 1.3 its alert follows our finished
/// handshake (RFC 8446, 4.4.2.4); silence means that it waits for us to speak.
pub(crate) async fn unrefused(
    stream: &mut (impl AsyncRead + Unpin),
    until: Instant,
) -> Result<(), ConnectError> {
    let until = until.min(Instant::now() + ALERT_WAIT);
    let mut nowhere = tokio::io::sink();
    match timeout_at(until, tokio::io::copy(stream, &mut nowhere)).await {
        Err(_) => Ok(()),
        Ok(Ok(_)) => Err(ConnectError::Closed),
        Ok(Err(error)) => Err(ended(&error)),
    }
}

/// Why a connection ended that had come through its handshake.
fn ended(error: &io::Error) -> ConnectError {
    Failure::in_chain(error).map_or(ConnectError::Closed, ConnectError::from)
}

/// Whether the peer acknowledges the SETTINGS that HTTP/2 begins with: it took our certificate before it read them.
pub(crate) async fn speaks_http2(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<bool, ConnectError> {
    // A peer that refused us may be gone already, and what it said last is still to be read: a library that gives up
    // when it cannot write would lose it.
    drop(stream.write_all(HTTP2_PREFACE).await);
    drop(stream.flush().await);
    for _ in 0..HTTP2_FRAMES_MAX {
        let mut head = [0; 9];
        let read = stream.read_exact(&mut head).await;
        read.map_err(|error| ended(&error))?;
        let [a, b, c, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        if length > HTTP2_FRAME_BYTES_MAX {
            return Ok(false);
        }
        if kind == HTTP2_SETTINGS && flags & HTTP2_ACK != 0 {
            return Ok(true);
        }
        let mut body = (&mut *stream).take(length.into());
        let passed_over = tokio::io::copy(&mut body, &mut tokio::io::sink()).await;
        passed_over.map_err(|error| ended(&error))?;
    }
    Ok(false)
}

/// Looks how far the peer can be reached, and that it takes our certificate; no request is written to it.
/// `Some(true)` for the application says that it speaks the protocol asked for, which is HTTP/2 or none.
pub(crate) async fn probe(
    address: &Address,
    config: Option<Arc<ClientConfig>>,
    until: Instant,
) -> Probe {
    let reached = async {
        let stream = tcp(address, until).await?;
        let Some(config) = config else {
            return Ok(None);
        };
        let asked = config.alpn_protocols.iter().any(|p| p == HTTP2);
        let mut stream = tls(address, stream, config, until).await?;
        if asked && stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
            let speaks = timeout_at(until, speaks_http2(&mut stream)).await;
            return speaks
                .unwrap_or(Err(ConnectError::Timeout(Stage::Application)))
                .map(Some);
        }
        unrefused(&mut stream, until).await?;
        Ok(asked.then_some(false))
    };
    match reached.await {
        Err(error) => failed(error.stage(), &error.to_string()),
        Ok(application) => {
            let plain = address.url.scheme() == "http";
            let detail = match application {
                Some(true) => "speaks the protocol",
                Some(false) => "does not speak the protocol",
                None => "not tried: a request would reach the agency's application",
            };
            let stages = Stage::ALL.into_iter().map(|stage| match stage {
                Stage::Application => stage.told(application, detail),
                Stage::Tls | Stage::Identity if plain => stage.told(None, "plain HTTP for tests"),
                _ => stage.told(Some(true), "passed"),
            });
            Probe {
                stages: stages.collect(),
            }
        }
    }
}

/// Whether a probe came as far as the application, which was not asked yet.
pub(crate) fn reached(probe: &Probe) -> bool {
    let passed = |at: Stage, wanted: Option<bool>| {
        let mut stages = probe.stages.iter();
        stages.any(|stage| stage.stage == at.word() && stage.passed == wanted)
    };
    passed(Stage::Tcp, Some(true))
        && !probe.stages.iter().any(|stage| stage.passed == Some(false))
        && passed(Stage::Application, None)
}

/// A probe with what the application answered: whether it takes us, and the words for the operator.
pub(crate) fn with_application(mut probe: Probe, answered: &Result<String, String>) -> Probe {
    for stage in &mut probe.stages {
        if stage.stage == Stage::Application.word() {
            stage.passed = Some(answered.is_ok());
            let (Ok(detail) | Err(detail)) = answered;
            stage.detail.clone_from(detail);
        }
    }
    probe
}

/// What a probe says that failed at a stage.
pub(crate) fn failed(at: Stage, why: &str) -> Probe {
    let stages = Stage::ALL.into_iter().map(|stage| match stage.cmp(&at) {
        Ordering::Less => stage.told(Some(true), "passed"),
        Ordering::Equal => stage.told(Some(false), why),
        Ordering::Greater => stage.told(None, "not tried"),
    });
    Probe {
        stages: stages.collect(),
    }
}

/// What a probe says when the endpoint's settings, or what they name, cannot be used: the first stage cannot begin.
pub(crate) fn unusable(why: &str) -> Probe {
    failed(Stage::Name, why)
}

#[cfg(test)]
mod tests;
