//! The mental health service: takes referrals by gRPC push, and reports over gRPC that it accepts each.

use std::sync::Arc;

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use prost::Message as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Channel, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use waymark_adapters::grpc::convert::{
    kind_from_proto, leg_state_to_proto, referral_from_proto, timestamp_to_proto,
};
use waymark_core::delivery::Kind;
use waymark_core::leg::LegState;
use waymark_core::time::Clock as _;
use waymark_proto::v1;
use waymark_proto::v1::agency_service_server::{AgencyService, AgencyServiceServer};
use waymark_proto::v1::referral_key::Key;
use waymark_proto::v1::referral_service_client::ReferralServiceClient;

use super::answer;
use super::ledger::{Arrival, Ledger, Taken};
use super::papers::Papers;
use crate::cli::https::Reserved;
use crate::clock::SystemClock;
use crate::lifecycle::{FailureEffect, Lifecycle};

/// The service's code in the directory.
pub(super) const AGENCY: &str = "CAM01";

struct Desk {
    ledger: Arc<Ledger>,
    lifecycle: Lifecycle,
    gateway: ReferralServiceClient<Channel>,
}

/// Opens at a reserved address; `gateway` is where statuses go. Answers its ledger.
///
/// # Errors
/// When its certificate cannot be used.
pub(super) fn open(
    reserved: Reserved,
    papers: &Papers,
    gateway: Channel,
    lifecycle: &Lifecycle,
) -> anyhow::Result<Arc<Ledger>> {
    let ledger = Arc::new(Ledger::new(AGENCY));
    let desk = Desk {
        ledger: Arc::clone(&ledger),
        lifecycle: lifecycle.clone(),
        gateway: ReferralServiceClient::new(gateway),
    };
    let own = Identity::from_pem(&papers.issued.cert_pem, &*papers.issued.key_pem);
    let tls = ServerTlsConfig::new()
        .identity(own)
        .client_ca_root(Certificate::from_pem(&papers.ca_pem));
    let mut server = Server::builder()
        .tls_config(tls)
        .context("use the mental health service's certificate")?;
    let server = server.add_service(AgencyServiceServer::new(desk));
    let (incoming, stop) = (
        TcpListenerStream::new(reserved.into_listener()),
        lifecycle.stopping(),
    );
    lifecycle.spawn(
        "demo mental health service",
        FailureEffect::EndProcess,
        server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()),
    );
    Ok(ledger)
}

#[tonic::async_trait]
impl AgencyService for Desk {
    async fn deliver(
        &self,
        request: Request<v1::DeliverRequest>,
    ) -> Result<Response<v1::DeliverResponse>, Status> {
        let call = request.into_inner();
        let reference = format!("{AGENCY}-{}", call.wire_id);
        if let Err(why) = self.take(&call) {
            self.ledger.fault(format!("a call was refused: {why:#}"));
            return Err(Status::invalid_argument("see the ledger"));
        }
        let receipt = v1::AgencyReceipt {
            received_at: Some(timestamp_to_proto(SystemClock.now())),
            receiver_reference: reference,
            ..v1::AgencyReceipt::default()
        };
        Ok(Response::new(v1::DeliverResponse {
            receipt: Some(receipt),
        }))
    }
}

impl Desk {
    fn take(&self, call: &v1::DeliverRequest) -> anyhow::Result<()> {
        anyhow::ensure!(
            digest(&SHA256, &call.body).as_ref() == call.body_sha256,
            "the digest is not the body's"
        );
        let dispatch = v1::Dispatch::decode(call.body.as_slice()).context("decode a dispatch")?;
        let kind = kind_from_proto("kind", dispatch.kind).map_err(|v| anyhow::anyhow!("{v}"))?;
        let content = dispatch.referral.map(referral_from_proto).transpose();
        let content = content
            .map_err(|violations| anyhow::anyhow!("{} fields are wrong", violations.len()))?;
        let arrival = Arrival {
            wire_id: call.wire_id.clone(),
            kind,
            reference: dispatch.reference,
            service: dispatch.service_id,
            content,
        };
        if self.ledger.take(arrival, &call.body) == Taken::First && kind == Kind::New {
            self.accept(&call.wire_id, dispatch.referral_id, dispatch.leg_id);
        }
        Ok(())
    }

    fn accept(&self, wire_id: &str, referral_id: String, leg_id: String) {
        let gateway = self.gateway.clone();
        let ask = v1::UpdateStatusRequest {
            key: Some(v1::ReferralKey {
                key: Some(Key::ReferralId(referral_id)),
            }),
            leg_id,
            change: Some(v1::StatusChange {
                state: leg_state_to_proto(LegState::Accepted).into(),
                receiver_reference: format!("{AGENCY}-{wire_id}"),
                source_version: 1,
                ..v1::StatusChange::default()
            }),
            want_proof: false,
        };
        let what = format!("the status for {wire_id}");
        answer::later(&self.lifecycle, &self.ledger, what, move || {
            let (mut gateway, ask) = (gateway.clone(), ask.clone());
            async move {
                gateway.update_status(ask).await?;
                Ok(())
            }
        });
    }
}
