//! A mental health service behind gRPC: implements `AgencyService` over mutual TLS.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};
use waymark::cli::Issued;
use waymark_adapters::grpc::convert::timestamp_to_proto;
use waymark_core::time::Clock as _;
use waymark_proto::v1;
use waymark_proto::v1::agency_service_server::{AgencyService, AgencyServiceServer};

#[derive(Default)]
struct Seen {
    calls: Vec<v1::DeliverRequest>,
    next: VecDeque<Code>,
}

#[derive(Clone, Default)]
struct Desk(Arc<Mutex<Seen>>);

impl Desk {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mental health service.
pub struct MentalHealth {
    address: SocketAddr,
    waiting: Option<TcpListener>,
    desk: Desk,
    serving: JoinSet<()>,
}

impl std::fmt::Debug for MentalHealth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MentalHealth")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl AgencyService for Desk {
    async fn deliver(
        &self,
        request: Request<v1::DeliverRequest>,
    ) -> Result<Response<v1::DeliverResponse>, Status> {
        let call = request.into_inner();
        let mut seen = self.seen();
        let reference = format!("CAM-{}", call.wire_id);
        seen.calls.push(call);
        if let Some(code) = seen.next.pop_front() {
            return Err(Status::new(code, "as the test asked"));
        }
        let receipt = v1::AgencyReceipt {
            received_at: Some(timestamp_to_proto(waymark::clock::SystemClock.now())),
            receiver_reference: reference,
            ..v1::AgencyReceipt::default()
        };
        Ok(Response::new(v1::DeliverResponse {
            receipt: Some(receipt),
        }))
    }
}

impl MentalHealth {
    /// Takes a port; calls wait until it serves.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn bind() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok(Self {
            address,
            waiting: Some(listener),
            desk: Desk::default(),
            serving: JoinSet::new(),
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Begins to answer, under a certificate, callers whom an authority has signed for.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn serve(&mut self, issued: &Issued, ca: &[u8]) -> anyhow::Result<()> {
        let listener = self.waiting.take().context("it serves already")?;
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(
                issued.cert_pem.as_bytes(),
                issued.key_pem.as_bytes(),
            ))
            .client_ca_root(Certificate::from_pem(ca));
        let server = Server::builder()
            .tls_config(tls)?
            .add_service(AgencyServiceServer::new(self.desk.clone()));
        self.serving.spawn(async move {
            // It ends with the test.
            let _ended: Result<(), tonic::transport::Error> = server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await;
        });
        Ok(())
    }

    /// The codes that it refuses the next calls with, one each; then it takes what comes.
    pub fn play(&self, next: &[Code]) {
        self.desk.seen().next.extend(next);
    }

    /// Every call that came.
    pub fn calls(&self) -> Vec<v1::DeliverRequest> {
        self.desk.seen().calls.clone()
    }

    /// What the calls said.
    ///
    /// # Errors
    /// When a body is no `Dispatch`.
    pub fn dispatches(&self) -> anyhow::Result<Vec<v1::Dispatch>> {
        self.calls()
            .into_iter()
            .map(|call| Ok(v1::Dispatch::decode(call.body.as_slice())?))
            .collect()
    }
}
