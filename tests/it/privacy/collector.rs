//! An OTLP collector that keeps what it is sent.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use waymark_tests::gateway::RawCodec;

/// What was sent, message by message.
pub(super) type Kept = Arc<Mutex<Vec<Vec<u8>>>>;

/// An OTLP collector that keeps what is sent to one of its services.
#[derive(Clone)]
pub(super) struct Collector<const METRICS: bool>(pub(super) Kept);

impl<const METRICS: bool> NamedService for Collector<METRICS> {
    const NAME: &'static str = if METRICS {
        "opentelemetry.proto.collector.metrics.v1.MetricsService"
    } else {
        "opentelemetry.proto.collector.trace.v1.TraceService"
    };
}

struct Keep(Kept);

impl tonic::server::UnaryService<Vec<u8>> for Keep {
    type Response = Vec<u8>;
    type Future = std::future::Ready<Result<Response<Vec<u8>>, Status>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.into_inner());
        std::future::ready(Ok(Response::new(Vec::new())))
    }
}

impl<const METRICS: bool> tonic::codegen::Service<http::Request<tonic::body::Body>>
    for Collector<METRICS>
{
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let kept = Keep(Arc::clone(&self.0));
        Box::pin(async move {
            Ok(tonic::server::Grpc::new(RawCodec)
                .unary(kept, request)
                .await)
        })
    }
}
