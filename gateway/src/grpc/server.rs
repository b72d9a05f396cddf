//! The gRPC server: its services, and the limits of its connections.

use std::time::Duration;

use tonic::transport::Server;
use tracing::warn;
use waymark_proto::v1::FILE_DESCRIPTOR_SET;
use waymark_proto::v1::admin_service_server::AdminServiceServer;
use waymark_proto::v1::audit_service_server::AuditServiceServer;
use waymark_proto::v1::directory_service_server::DirectoryServiceServer;
use waymark_proto::v1::mailbox_service_server::MailboxServiceServer;
use waymark_proto::v1::referral_service_server::ReferralServiceServer;

use super::admin::Admin;
use super::admission::AdmissionLayer;
use super::audit::Audits;
use super::directory::Directories;
use super::face::Face;
use super::mailbox::Mailboxes;
use super::referral::Referrals;
use crate::config::Limits;
use crate::lifecycle::{FailureEffect, Lifecycle};
use crate::service::Service;
use crate::telemetry::Metrics;
use crate::tls::Connections;

/// Bytes of the largest message, in or out.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Calls at the same time on one connection.
const CONNECTION_CALLS_MAX: u32 = 1_024;
/// Bytes under way on one stream before the receiver must make room: one document's chunk and then some.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes under way on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// How often a quiet connection is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long it has to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How old a connection grows: a revoked certificate is looked at again with the next one.
const CONNECTION_AGE_MAX: Duration = Duration::from_hours(1);
/// How long calls on an old connection have to end.
const CONNECTION_AGE_GRACE: Duration = Duration::from_mins(5);
/// How long open calls have to end when the process stops. Streams of ours end at once; those of the health service
/// end with their connection.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Serves the contract on connections until the process stops.
///
/// # Errors
/// When the contract's own description does not decode.
pub fn serve(
    lifecycle: &Lifecycle,
    connections: Connections,
    service: Service,
    metrics: Metrics,
    limits: &Limits,
) -> Result<(), tonic_reflection::server::Error> {
    let stopping = lifecycle.stopping();
    let face = Face::new(service, metrics, stopping.clone(), limits);
    let description = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (reflection, reflection_alpha) =
        (description().build_v1()?, description().build_v1alpha()?);
    let (health, health_service) = tonic_health::server::health_reporter();
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
    }
    let server = Server::builder()
        .timeout(limits.request_timeout.get())
        .max_concurrent_streams(CONNECTION_CALLS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_connection_age(CONNECTION_AGE_MAX)
        .max_connection_age_grace(CONNECTION_AGE_GRACE)
        .layer(AdmissionLayer::new(face.clone()))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(limited!(
            ReferralServiceServer,
            Referrals::new(face.clone())
        ))
        .add_service(limited!(MailboxServiceServer, Mailboxes::new(face.clone())))
        .add_service(limited!(
            DirectoryServiceServer,
            Directories::new(face.clone())
        ))
        .add_service(limited!(AuditServiceServer, Audits::new(face.clone())))
        .add_service(limited!(AdminServiceServer, Admin::new(face)));
    lifecycle.spawn("grpc server", FailureEffect::EndProcess, async move {
        health
            .set_serving::<ReferralServiceServer<Referrals>>()
            .await;
        health
            .set_serving::<MailboxServiceServer<Mailboxes>>()
            .await;
        health
            .set_serving::<DirectoryServiceServer<Directories>>()
            .await;
        health.set_serving::<AuditServiceServer<Audits>>().await;
        health.set_serving::<AdminServiceServer<Admin>>().await;
        let serving =
            server.serve_with_incoming_shutdown(connections, stopping.clone().cancelled_owned());
        tokio::select! {
            ended = serving => ended,
            () = async { stopping.cancelled().await; tokio::time::sleep(STOP_GRACE).await } => {
                warn!("gRPC connections that did not end are closed");
                Ok(())
            }
        }
    });
    Ok(())
}
