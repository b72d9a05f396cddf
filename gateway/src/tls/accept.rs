//! The accept loop: bounded handshakes, each with a deadline, so that slow or hostile peers cost little.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{Peer, Protocol, ServerTls};
use crate::lifecycle::{FailureEffect, Lifecycle};

/// Handshakes at the same time on one listener.
pub const HANDSHAKES_MAX: usize = 64;
/// The longest that a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections open at the same time on one listener.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Connections past their handshake that wait to be served.
pub const WAITING_MAX: usize = 64;
/// The pause after the system refuses a connection, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections past their handshake, as tonic takes them.
#[derive(Debug)]
pub struct Connections {
    receiver: mpsc::Receiver<TlsConnection>,
}

impl Stream for Connections {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context).map(|next| next.map(Ok))
    }
}

/// One connection, with who is at its other end.
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: Arc<Peer>,
    address: SocketAddr,
    _open: OwnedSemaphorePermit,
}

impl TlsConnection {
    /// Who is at the other end.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Where from.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Connected for TlsConnection {
    /// In the extensions of every request of the connection.
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Accepts connections of a listener until the process stops; the stream then ends.
pub fn accept(
    listener: TcpListener,
    tls: ServerTls,
    protocol: Protocol,
    lifecycle: &Lifecycle,
) -> Connections {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let tasks = lifecycle.clone();
    lifecycle.spawn("tls listener", FailureEffect::EndProcess, async move {
        let stopping = tasks.stopping();
        let open = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let next = tokio::select! {
                () = stopping.cancelled() => return Ok::<_, tokio::sync::AcquireError>(()),
                next = next_connection(&listener, &open, &handshakes) => next?,
            };
            let Some(pending) = next else { continue };
            let (tls, sender) = (tls.clone(), sender.clone());
            let work = async move {
                if let Some(connection) = pending.shake(&tls, protocol).await {
                    // Nobody takes connections any more: the process is stopping.
                    drop(sender.send(connection).await);
                }
                Ok::<_, std::convert::Infallible>(())
            };
            tasks.spawn("tls handshake", FailureEffect::Log, work);
        }
    });
    Connections { receiver }
}

struct Pending {
    stream: TcpStream,
    address: SocketAddr,
    open: OwnedSemaphorePermit,
    shaking: OwnedSemaphorePermit,
}

async fn next_connection(
    listener: &TcpListener,
    open: &Arc<Semaphore>,
    handshakes: &Arc<Semaphore>,
) -> Result<Option<Pending>, tokio::sync::AcquireError> {
    let open = Arc::clone(open).acquire_owned().await?;
    let shaking = Arc::clone(handshakes).acquire_owned().await?;
    match listener.accept().await {
        Ok((stream, address)) => Ok(Some(Pending {
            stream,
            address,
            open,
            shaking,
        })),
        Err(why) => {
            warn!(error = %why, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            Ok(None)
        }
    }
}

impl Pending {
    async fn shake(self, tls: &ServerTls, protocol: Protocol) -> Option<TlsConnection> {
        let Self {
            stream,
            address,
            open,
            shaking,
        } = self;
        if let Err(why) = stream.set_nodelay(true) {
            debug!(error = %why, "a connection ended before its handshake");
            return None;
        }
        let acceptor = TlsAcceptor::from(tls.config(protocol));
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(why)) if why.kind() == io::ErrorKind::UnexpectedEof => {
                debug!(client.address = %address, "a connection ended within its handshake");
                return None;
            }
            Ok(Err(why)) => {
                warn!(client.address = %address, error = %why, "TLS handshake refused");
                return None;
            }
            Err(_) => {
                warn!(client.address = %address, "TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}");
                return None;
            }
        };
        drop(shaking);
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())?;
        match Peer::parse(certificate) {
            Ok(peer) => Some(TlsConnection {
                peer: Arc::new(peer),
                stream,
                address,
                _open: open,
            }),
            Err(why) => {
                warn!(client.address = %address, error = %why, "a client certificate does not parse");
                None
            }
        }
    }
}
