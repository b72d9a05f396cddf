//! Reaching a peer over TLS, and the stages in which that is told to an operator.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waymark_core::delivery::{Outcome, ParkReason, Why};
use waymark_core::port::{Probe, ProbeStage};

use crate::egress::EgressError;
use crate::settings::Address;
use crate::tls::{Failure, Profiles};

/// The stages of a probe, in their order.
pub(crate) const STAGES: [&str; 5] = ["name", "tcp", "tls", "identity", "application"];

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
    #[error("the peer was not reached in time")]
    Timeout,
}

impl ConnectError {
    /// The stage that failed.
    fn stage(self) -> usize {
        match self {
            Self::Egress(_) => 0,
            Self::Tcp(_) | Self::Timeout => 1,
            Self::Untrusted | Self::Handshake | Self::RefusedUs => 2,
            Self::WrongPeer => 3,
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
            Self::Timeout => "connect_timeout",
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
    let reach = async {
        let mut last = ConnectError::Timeout;
        for socket in address.reach.resolve(host, port).await? {
            match TcpStream::connect(socket).await {
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
    };
    timeout_at(until, reach)
        .await
        .unwrap_or(Err(ConnectError::Timeout))
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
        Err(_) => Err(ConnectError::Timeout),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            Err(Failure::in_chain(&error).map_or(ConnectError::Handshake, ConnectError::from))
        }
    }
}

/// Looks how far the peer can be reached, and writes nothing to it beyond the handshake.
/// `Some(true)` for the application says that it speaks the protocol asked for.
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
        let wanted = config.alpn_protocols.first().cloned();
        let stream = tls(address, stream, config, until).await?;
        let spoken = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        Ok(wanted.map(|wanted| spoken == Some(wanted)))
    };
    match reached.await {
        Err(error) => told(error),
        Ok(application) => {
            let plain = address.url.scheme() == "http";
            let detail = match application {
                Some(true) => "speaks the protocol",
                Some(false) => "does not speak the protocol",
                None => "not tried: a request would reach the agency's application",
            };
            let stages = STAGES.iter().map(|stage| match *stage {
                "application" => ProbeStage {
                    stage,
                    passed: application,
                    detail: detail.to_owned(),
                },
                "tls" | "identity" if plain => ProbeStage {
                    stage,
                    passed: None,
                    detail: "plain HTTP for tests".to_owned(),
                },
                _ => ProbeStage {
                    stage,
                    passed: Some(true),
                    detail: "passed".to_owned(),
                },
            });
            Probe {
                stages: stages.collect(),
            }
        }
    }
}

/// Whether a probe came as far as the application, which was not asked yet.
pub(crate) fn reached(probe: &Probe) -> bool {
    let passed = |name: &str, wanted: Option<bool>| {
        let mut stages = probe.stages.iter();
        stages.any(|stage| stage.stage == name && stage.passed == wanted)
    };
    passed("tcp", Some(true))
        && !probe.stages.iter().any(|stage| stage.passed == Some(false))
        && passed("application", None)
}

/// A probe with what the application answered: whether it takes us, and the words for the operator.
pub(crate) fn with_application(mut probe: Probe, answered: &Result<String, String>) -> Probe {
    for stage in &mut probe.stages {
        if stage.stage == "application" {
            stage.passed = Some(answered.is_ok());
            let (Ok(detail) | Err(detail)) = answered;
            stage.detail.clone_from(detail);
        }
    }
    probe
}

/// What a probe says when settings or stages fail.
fn told(error: ConnectError) -> Probe {
    let failed = error.stage();
    let stages = STAGES.iter().enumerate().map(|(at, stage)| {
        let (passed, detail) = match at.cmp(&failed) {
            std::cmp::Ordering::Less => (Some(true), "passed".to_owned()),
            std::cmp::Ordering::Equal => (Some(false), error.to_string()),
            std::cmp::Ordering::Greater => (None, "not tried".to_owned()),
        };
        ProbeStage {
            stage,
            passed,
            detail,
        }
    });
    Probe {
        stages: stages.collect(),
    }
}

/// What a probe says when the endpoint's settings are wrong.
pub(crate) fn not_tried(detail: &str) -> Probe {
    let stages = STAGES.iter().map(|stage| ProbeStage {
        stage,
        passed: None,
        detail: detail.to_owned(),
    });
    Probe {
        stages: stages.collect(),
    }
}
