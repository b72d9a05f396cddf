//! Push to an agency that implements `AgencyService`, over mutual TLS.
//!
//! Lost on the way: nothing of a referral; what the contract has no field for stands in `narrative` in words
//! ([`convert`]). Safeguarding flags, adjustments, allergies, consent scope and unsafe contacts have fields.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Uri};
use tracing::debug;
use waymark_core::delivery::{Outcome, Repeat, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::port::{
    Adapter, Deadline, Identification, Outbound, Probe, RenderError, Rendered, Source,
};
use waymark_proto::v1;
use waymark_proto::v1::agency_service_client::AgencyServiceClient;

use crate::connect::{self, ConnectError, Stage};
use crate::context::{AdapterContext, EgressPolicy, Peers};
use crate::limits::{ANSWER_BYTES_MAX, BODY_BYTES_MAX, CONNECT_TIMEOUT};
use crate::pool::Pool;
use crate::settings;
use crate::tls::{self, Failure, Profiles};
use config::Settings;
use receipt::Receipted;

mod config;
pub mod convert;
pub(crate) mod inspect;
pub mod receipt;
pub mod wire;

/// What the codes of its outcomes begin with.
const ADAPTER: &str = "grpc";
/// The protocol that the peer must speak.
const ALPN: &[&[u8]] = &[connect::HTTP2];
/// What a request's envelope may add to its body, in bytes.
const ENVELOPE_BYTES_MAX: usize = 4 * 1024;
/// The most bytes of an answer's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// How often an idle connection is asked whether it lives, and how long that may take.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The metadata key that says test or live (DESIGN.md ruling 22).
const ENVIRONMENT_KEY: &str = "waymark-environment";

/// The gRPC adapter.
pub struct Grpc {
    profiles: Arc<Profiles>,
    peers: Arc<dyn Peers>,
    environment: Environment,
    egress: EgressPolicy,
    channels: Pool<Channel>,
}

impl std::fmt::Debug for Grpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grpc")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

impl Grpc {
    pub(crate) fn new(profiles: Arc<Profiles>, context: &AdapterContext) -> Self {
        Self {
            profiles,
            peers: Arc::clone(&context.peers),
            environment: context.environment,
            egress: context.egress,
            channels: Pool::default(),
        }
    }

    /// The settings, and that they lead to the agency that the message was bound to.
    fn bound(&self, message: &Outbound<'_>) -> Result<Settings, Outcome> {
        let settings = Settings::read(message.endpoint, self.egress)
            .map_err(|faults| settings::parked(ADAPTER, &faults))?;
        let identity = settings.peer_identity.as_str();
        settings::bound(ADAPTER, message, Some((identity, &*self.peers)))?;
        Ok(settings)
    }

    /// A channel whose peer proved, on this connection, to be the one in the settings.
    async fn channel(
        &self,
        endpoint: &Endpoint,
        settings: &Settings,
        until: Instant,
    ) -> Result<Channel, ConnectError> {
        if let Some(channel) = self.channels.find(endpoint, Instant::now()) {
            return Ok(channel);
        }
        let config = self.tls(settings)?;
        let address = settings.address.clone();
        let until = until.min(Instant::now() + CONNECT_TIMEOUT);
        // The first connection is made here, so that its failure is known to have sent nothing. A later one is
        // made by the channel, through the same checks.
        let first = connect::tls(
            &address,
            connect::tcp(&address, until).await?,
            config.clone(),
            until,
        );
        let mut first = Some(first.await?);
        let connector = tower::service_fn(move |_: Uri| {
            let made = first.take();
            let (address, config) = (address.clone(), Arc::clone(&config));
            async move {
                if let Some(stream) = made {
                    return Ok(TokioIo::new(stream));
                }
                let until = Instant::now() + CONNECT_TIMEOUT;
                let stream = connect::tcp(&address, until).await?;
                connect::tls(&address, stream, config, until)
                    .await
                    .map(TokioIo::new)
            }
        });
        let authority = settings.address.url.authority();
        // The scheme is http because the connector hands over a stream that already speaks TLS; the request says https.
        let target = Channel::from_shared(format!("http://{authority}"))
            .and_then(|e| Ok(e.origin(format!("https://{authority}").parse()?)))
            .map_err(|_| ConnectError::Handshake)?
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .http2_max_header_list_size(HEADER_BYTES_MAX);
        let made = timeout_at(until, target.connect_with_connector(connector)).await;
        let channel = made
            .map_err(|_| ConnectError::Timeout(Stage::Application))?
            .map_err(|error| unreached(&error).unwrap_or(ConnectError::Handshake))?;
        self.channels
            .keep(endpoint, channel.clone(), Instant::now());
        Ok(channel)
    }

    fn tls(&self, settings: &Settings) -> Result<Arc<rustls::ClientConfig>, ConnectError> {
        let identity = Some(settings.peer_identity.as_str());
        connect::config(&self.profiles, &settings.tls_profile, identity, ALPN).map(Arc::new)
    }

    async fn attempt(
        &self,
        message: &Outbound<'_>,
        settings: &Settings,
        within: Duration,
    ) -> Outcome {
        let until = Instant::now() + within;
        let channel = match self.channel(message.endpoint, settings, until).await {
            Ok(channel) => channel,
            Err(error) => return error.outcome("grpc"),
        };
        let mut client = AgencyServiceClient::new(channel)
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(BODY_BYTES_MAX + ENVELOPE_BYTES_MAX);
        let left = until.saturating_duration_since(Instant::now());
        let request = self.request(message, left);
        match timeout_at(until, client.deliver(request)).await {
            Ok(Ok(response)) => {
                let of = Receipted {
                    delivery: message.delivery,
                    wire_id: message.wire_id,
                    body: message.rendered.bytes.expose(),
                };
                wire::answered(response.get_ref(), &of, &settings.receipt_keys)
            }
            Ok(Err(status)) => {
                debug!(endpoint.id = %message.endpoint.id, code = ?status.code(), "delivery not taken");
                match unreached(&status) {
                    // The channel's own connecting failed: the message was not written.
                    Some(error) => {
                        self.channels.drop(&message.endpoint.id);
                        error.outcome("grpc")
                    }
                    None => wire::failed(&status),
                }
            }
            Err(_) => {
                self.channels.drop(&message.endpoint.id);
                Outcome::Unknown {
                    why: Why::new("grpc.timeout", "no answer within the deadline"),
                }
            }
        }
    }

    fn request(
        &self,
        message: &Outbound<'_>,
        left: Duration,
    ) -> tonic::Request<v1::DeliverRequest> {
        let body = message.rendered.bytes.expose();
        let mut request = tonic::Request::new(v1::DeliverRequest {
            delivery_id: message.delivery.to_string(),
            wire_id: message.wire_id.as_str().to_owned(),
            body: body.to_vec(),
            body_sha256: digest(&SHA256, body).as_ref().to_vec(),
            attempt: message.attempt,
        });
        request.set_timeout(left);
        let metadata = request.metadata_mut();
        metadata.insert(
            ENVIRONMENT_KEY,
            MetadataValue::from_static(self.environment.as_str()),
        );
        if let Some(parent) = message
            .traceparent
            .and_then(|t| MetadataValue::try_from(t).ok())
        {
            metadata.insert("traceparent", parent);
        }
        request
    }
}

/// Whether a failure says that no connection was made, or that the peer refused ours and so read nothing.
fn unreached(error: &(dyn std::error::Error + 'static)) -> Option<ConnectError> {
    tls::find::<ConnectError>(error)
        .copied()
        .or_else(|| match Failure::in_chain(error)? {
            Failure::RefusedUs => Some(ConnectError::RefusedUs),
            Failure::WrongPeer | Failure::Untrusted | Failure::Handshake => None,
        })
}

#[async_trait]
impl Adapter for Grpc {
    fn repeat(&self, _endpoint: &Endpoint) -> Repeat {
        Repeat::DedupesById
    }

    fn identification(&self, _endpoint: &Endpoint) -> Identification {
        Identification::Certificate
    }

    fn validate(&self, endpoint: &Endpoint) -> Vec<Violation> {
        match Settings::read(endpoint, self.egress) {
            Err(faults) => faults,
            Ok(settings) => settings::profile_faults(&settings.tls_profile, &self.profiles),
        }
    }

    fn render(&self, source: &Source, endpoint: &Endpoint) -> Result<Rendered, RenderError> {
        wire::render(source, endpoint, self.environment)
    }

    async fn deliver(&self, message: &Outbound<'_>, deadline: Deadline) -> Outcome {
        match self.bound(message) {
            Ok(settings) => self.attempt(message, &settings, deadline.within).await,
            Err(outcome) => outcome,
        }
    }

    async fn probe(&self, endpoint: &Endpoint, deadline: Deadline) -> Probe {
        let Ok(settings) = Settings::read(endpoint, self.egress) else {
            return connect::unusable("the endpoint's settings are wrong: see directory check");
        };
        let Ok(config) = self.tls(&settings) else {
            return connect::unusable("the endpoint names no TLS profile of this process");
        };
        connect::probe(
            &settings.address,
            Some(config),
            Instant::now() + deadline.within,
        )
        .await
    }
}

#[cfg(test)]
mod tests;
