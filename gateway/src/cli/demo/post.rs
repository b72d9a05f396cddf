//! An agency that fetches its own post: receives from its mailbox, keeps it, and acknowledges it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use waymark_adapters::grpc::convert::{kind_from_proto, referral_from_proto, timestamp_to_proto};
use waymark_adapters::grpc::receipt::{Receipted, signed_bytes};
use waymark_core::time::Clock as _;
use waymark_proto::v1;
use waymark_proto::v1::mailbox_service_client::MailboxServiceClient;

use super::ledger::{Arrival, Ledger};
use crate::clock::SystemClock;
use crate::lifecycle::{FailureEffect, Lifecycle};

/// Name of the key that receipts are signed with.
pub(super) const KEY_ID: &str = "demo";

/// Messages lent at a time.
const CREDIT: u32 = 20;
/// How long each is lent, in seconds.
const LEASE_SECONDS: u32 = 30;
/// The pause before the gateway is asked again when a stream has ended.
const PAUSE: Duration = Duration::from_millis(250);

/// A key that an agency signs its receipts with.
pub(super) struct ReceiptKey(Ed25519KeyPair);

impl ReceiptKey {
    /// Draws a key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn generate() -> anyhow::Result<Self> {
        let drawn =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).context("draw a receipt key")?;
        Ok(Self(
            Ed25519KeyPair::from_pkcs8(drawn.as_ref()).context("draw a receipt key")?,
        ))
    }

    /// The public key, as the directory has it.
    pub(super) fn public(&self) -> String {
        STANDARD.encode(self.0.public_key().as_ref())
    }
}

/// Starts to fetch an agency's post.
pub(super) fn open(
    agency: &'static str,
    channel: Channel,
    key: Option<ReceiptKey>,
    lifecycle: &Lifecycle,
) -> Arc<Ledger> {
    let ledger = Arc::new(Ledger::new(agency));
    let clerk = Clerk {
        ledger: Arc::clone(&ledger),
        client: MailboxServiceClient::new(channel),
        key,
    };
    let stop = lifecycle.stopping();
    lifecycle.spawn(
        format!("demo post of {agency}"),
        FailureEffect::EndProcess,
        clerk.run(stop),
    );
    ledger
}

struct Clerk {
    ledger: Arc<Ledger>,
    client: MailboxServiceClient<Channel>,
    key: Option<ReceiptKey>,
}

impl Clerk {
    /// Receives until it is told to stop; a stream that ends is opened again.
    async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                ended = self.receive() => {
                    if let Err(why) = ended {
                        tracing::debug!(agency = self.ledger.agency(), error = %why, "the mailbox's stream ended");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        Ok(())
    }

    async fn receive(&mut self) -> anyhow::Result<()> {
        let ask = v1::ReceiveRequest {
            service_ids: Vec::new(),
            credit: CREDIT,
            lease_seconds: LEASE_SECONDS,
            drain: false,
        };
        let mut post = self.client.receive(ask).await?.into_inner();
        while let Some(item) = post.message().await? {
            if let Err(why) = self.take(&item) {
                self.ledger
                    .fault(format!("post could not be read: {why:#}"));
                continue;
            }
            let receipt = self.receipt(&item)?;
            let ask = v1::AcknowledgeRequest {
                delivery_id: item.delivery_id,
                lease_token: item.lease_token,
                receipt: Some(receipt),
            };
            self.client.acknowledge(ask).await?;
        }
        Ok(())
    }

    fn take(&self, item: &v1::ReceiveResponse) -> anyhow::Result<()> {
        ensure!(
            digest(&SHA256, &item.body).as_ref() == item.body_sha256,
            "the digest is not the body's"
        );
        let dispatch = v1::Dispatch::decode(item.body.as_slice()).context("decode a dispatch")?;
        let kind = kind_from_proto("kind", dispatch.kind).map_err(|v| anyhow::anyhow!("{v}"))?;
        let content = dispatch.referral.map(referral_from_proto).transpose();
        let content = content
            .map_err(|violations| anyhow::anyhow!("{} fields are wrong", violations.len()))?;
        let arrival = Arrival {
            wire_id: item.wire_id.clone(),
            kind,
            reference: dispatch.reference,
            service: dispatch.service_id,
            content,
        };
        self.ledger.take(arrival, &item.body);
        Ok(())
    }

    fn receipt(&self, item: &v1::ReceiveResponse) -> anyhow::Result<v1::AgencyReceipt> {
        let mut receipt = v1::AgencyReceipt {
            received_at: Some(timestamp_to_proto(SystemClock.now())),
            receiver_reference: format!("{}-{}", self.ledger.agency(), item.wire_id),
            signature: Vec::new(),
            key_id: String::new(),
        };
        if let Some(key) = &self.key {
            let wire_id = item.wire_id.parse().context("a wire id")?;
            let of = Receipted {
                delivery: item.delivery_id.parse().context("a delivery id")?,
                wire_id: &wire_id,
                body: &item.body,
            };
            let signed = signed_bytes(&of, &receipt).context("write down what is signed")?;
            receipt.signature = key.0.sign(&signed).as_ref().to_vec();
            KEY_ID.clone_into(&mut receipt.key_id);
        }
        Ok(receipt)
    }
}
