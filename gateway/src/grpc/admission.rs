//! What every call passes first: its span, who makes it, and whether there is room for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field};

use super::face::{Caller, Face};
use super::status;
use crate::service::ServiceError;
use crate::telemetry::{continue_trace, traceparent_of, well_formed};
use crate::tls::Peer;

/// The standard services, which say nothing of any referral: any certificate of the area may ask them.
const STANDARD: &str = "/grpc.";

/// Lets calls in.
#[derive(Clone)]
pub(super) struct AdmissionLayer {
    face: Face,
}

impl AdmissionLayer {
    pub(super) fn new(face: Face) -> Self {
        Self { face }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission {
            face: self.face.clone(),
            inner,
        }
    }
}

/// Lets calls in to what it wraps.
#[derive(Clone)]
pub(super) struct Admission<S> {
    face: Face,
    inner: S,
}

type Answering<R> = Pin<Box<dyn Future<Output = Result<R, Infallible>> + Send>>;

impl<S, Q, B> Service<http::Request<Q>> for Admission<S>
where
    S: Service<http::Request<Q>, Response = http::Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Default + Send + 'static,
{
    type Response = http::Response<B>;
    type Error = Infallible;
    type Future = Answering<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Q>) -> Self::Future {
        let (service, method) = names(request.uri().path());
        let span = tracing::info_span!(
            "grpc",
            rpc.service = service,
            rpc.method = method,
            agency.id = field::Empty,
            rpc.grpc.status_code = field::Empty,
        );
        // Only `traceparent`, and only well-formed: tracestate and baggage are dropped (ruling 23).
        let given = request
            .headers()
            .get("traceparent")
            .and_then(|value| value.to_str().ok())
            .and_then(well_formed);
        if let Some(parent) = &given {
            continue_trace(&span, parent);
        }
        let admitted = span.in_scope(|| self.admit(&mut request, &span, given));
        let room = match admitted {
            Ok(room) => room,
            Err(refused) => {
                let refused = span.in_scope(|| status::refusal(&refused));
                span.record("rpc.grpc.status_code", i32::from(refused.code()));
                return Box::pin(std::future::ready(Ok(refused.into_http())));
            }
        };
        let answer = self.inner.call(request);
        let seen = span.clone();
        let answering = async move {
            let answer = answer.await;
            drop(room);
            if let Ok(answer) = &answer {
                // A call refused before its first message has its status here; another's is in the trailers.
                let code = answer
                    .headers()
                    .get("grpc-status")
                    .and_then(|code| code.to_str().ok());
                seen.record("rpc.grpc.status_code", code.unwrap_or("0"));
            }
            answer
        };
        Box::pin(answering.instrument(span))
    }
}

impl<S> Admission<S> {
    fn admit<Q>(
        &self,
        request: &mut http::Request<Q>,
        span: &Span,
        given: Option<String>,
    ) -> Result<tokio::sync::OwnedSemaphorePermit, ServiceError> {
        let room = self.face.enter()?;
        if request.uri().path().starts_with(STANDARD) {
            return Ok(room);
        }
        let peer = request
            .extensions()
            .get::<Arc<Peer>>()
            .cloned()
            .ok_or_else(|| {
                ServiceError::new(
                    waymark_core::error::ErrorKind::Unauthenticated,
                    "NO_IDENTITY",
                )
            })?;
        let principal = self.face.principal(&peer)?;
        span.record("agency.id", principal.agency.as_str());
        self.face.count(&principal.agency)?;
        let traceparent = traceparent_of(span).or(given);
        request.extensions_mut().insert(Arc::new(Caller {
            principal,
            peer,
            traceparent,
        }));
        Ok(room)
    }
}

/// Service and method of a path; anything of another form has neither, so that a label never holds what a caller chose.
fn names(path: &str) -> (&str, &str) {
    let known = |service: &str| service.starts_with("waymark.v1.") || service.starts_with("grpc.");
    match path.strip_prefix('/').and_then(|rest| rest.split_once('/')) {
        Some((service, method))
            if known(service)
                && path.len() <= 100
                && method.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            (service, method)
        }
        _ => ("", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_another_form_has_no_name() {
        let path = "/waymark.v1.ReferralService/SubmitReferral";
        assert_eq!(
            names(path),
            ("waymark.v1.ReferralService", "SubmitReferral")
        );
        for path in [
            "",
            "/",
            "/x/y",
            "/waymark.v1.ReferralService/Submit Ada",
            "waymark.v1.A/B",
        ] {
            assert_eq!(names(path), ("", ""), "{path}");
        }
    }
}
