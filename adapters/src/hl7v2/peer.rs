//! Reaching an endpoint over TCP or TLS, and what the peer's certificate proves.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use waymark_core::delivery::Why;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::config::{Settings, Transport};
use crate::connect::Stage;
use crate::egress::Reach;

/// A stream of bytes, whatever carries it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// The scheme of URIs that name an identity of this gateway's own authority.
const IDENTITY_SCHEME: &str = "waymark:";

/// Why a peer could not be reached: nothing was sent to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreachable {
    /// The stage that failed.
    pub(super) stage: Stage,
    /// What was seen.
    pub(super) why: Why,
}

impl Unreachable {
    fn new(stage: Stage, text: impl Into<String>) -> Self {
        Self {
            stage,
            why: Why::new(format!("mllp.{}", stage.word()), text),
        }
    }

    fn io(stage: Stage, error: &io::Error) -> Self {
        // The kind alone: an operating system's or TLS library's words may quote certificates.
        Self::new(stage, format!("{} failed: {}", stage.word(), error.kind()))
    }
}

/// Waits for a stage no longer than until an instant.
async fn in_time<T>(
    stage: Stage,
    until: Instant,
    reaching: impl Future<Output = T>,
) -> Result<T, Unreachable> {
    let why = Why::new("mllp.connect", "no connection in time");
    let reached = timeout_at(until, reaching).await;
    reached.map_err(|_| Unreachable { stage, why })
}

/// Connects to an endpoint and checks that the peer is who the settings say.
pub(super) async fn connect(
    settings: &Settings,
    profiles: &BTreeMap<String, Arc<ClientConfig>>,
    until: Instant,
) -> Result<Box<dyn Stream>, Unreachable> {
    let stream = connect_tcp(settings, until).await?;
    match &settings.transport {
        Transport::Plain { .. } => Ok(Box::new(stream)),
        Transport::Tls {
            profile,
            server_name,
            peer_uri,
        } => {
            let config = profiles
                .get(profile)
                .ok_or_else(|| Unreachable::new(Stage::Tls, "no TLS profile of that name"))?;
            let name = ServerName::try_from(server_name.clone())
                .map_err(|_| Unreachable::new(Stage::Tls, "server_name is no name or address"))?;
            let shaking = TlsConnector::from(Arc::clone(config)).connect(name, stream);
            let stream = in_time(Stage::Tls, until, shaking)
                .await?
                .map_err(|error| Unreachable::io(Stage::Tls, &error))?;
            let uris = san_uris(stream.get_ref().1.peer_certificates());
            if let Some(expected) = peer_uri
                && !uris.contains(expected)
            {
                let text = "the certificate does not carry the endpoint's peer_uri";
                return Err(Unreachable::new(Stage::Identity, text));
            }
            Ok(Box::new(stream))
        }
    }
}

async fn connect_tcp(settings: &Settings, until: Instant) -> Result<TcpStream, Unreachable> {
    // MLLP lives on private networks; where clouds keep credentials, and what no host has, is never connected to.
    let resolving = Reach::Private.resolve(&settings.host, settings.port);
    let addresses = in_time(Stage::Name, until, resolving)
        .await?
        .map_err(|error| Unreachable::new(Stage::Name, error.to_string()))?;
    let mut last = Unreachable::new(Stage::Name, "the name has no address");
    for address in addresses {
        let connecting = async {
            match &settings.transport {
                Transport::Tls { .. } => TcpStream::connect(address).await,
                Transport::Plain { interface } => connect_from(*interface, address).await,
            }
        };
        match in_time(Stage::Tcp, until, connecting).await? {
            Ok(stream) => {
                // One small frame, then an answer: waiting to fill a packet would only delay it.
                stream
                    .set_nodelay(true)
                    .map_err(|error| Unreachable::io(Stage::Tcp, &error))?;
                return Ok(stream);
            }
            Err(error) => last = Unreachable::io(Stage::Tcp, &error),
        }
    }
    Err(last)
}

/// Connects by one private interface and no other.
async fn connect_from(interface: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    if interface.is_ipv4() != address.is_ipv4() {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.bind(SocketAddr::new(interface, 0))?;
    socket.connect(address).await
}

/// Chooses the URI that a peer speaks as: one of our own scheme, else the first.
pub(super) fn identity(uris: Vec<String>) -> Option<String> {
    let own = uris
        .iter()
        .position(|uri| uri.starts_with(IDENTITY_SCHEME))
        .unwrap_or(0);
    uris.into_iter().nth(own)
}

/// Reads the SAN URIs of the peer's own certificate, in their order.
pub(super) fn san_uris(chain: Option<&[CertificateDer<'_>]>) -> Vec<String> {
    let Some(own) = chain.and_then(<[_]>::first) else {
        return Vec::new();
    };
    let Ok((_, certificate)) = X509Certificate::from_der(own) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(uri).collect()
}
