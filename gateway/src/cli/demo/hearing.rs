//! The hearing service: fetches its MESH mailbox, acknowledges what it has stored, says by `_ACK` that its application
//! has it and by a status that it accepts; and refers a child itself. The hub is a program of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::ClientConfig;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use waymark_adapters::mesh::send::{
    HubSaid, Letter, Mailbox, Standing, ack_workflow, canonical, local_id_of,
};
use waymark_adapters::stand_in::mesh::{OURS, PASSWORD, SHARED_KEY, THEIRS, WORKFLOW};
use waymark_core::delivery::Kind;
use waymark_core::directory::Environment;
use zeroize::Zeroizing;

use super::answer;
use super::event;
use super::ledger::{Ledger, Taken};
use crate::cli::mesh::MeshClient;
use crate::lifecycle::{FailureEffect, Lifecycle};

/// The service's code in the directory.
pub(super) const AGENCY: &str = "AUD01";

/// The pause between two looks into the mailbox.
const LOOK: Duration = Duration::from_millis(200);

/// The running service.
pub(super) struct Hearing {
    /// What it took.
    pub(super) ledger: Arc<Ledger>,
    mailbox: Arc<MeshClient>,
}

struct Desk {
    ledger: Arc<Ledger>,
    lifecycle: Lifecycle,
    mailbox: Arc<MeshClient>,
}

impl Hearing {
    /// Begins to fetch its mailbox at a hub.
    ///
    /// # Errors
    /// When the hub's address is none.
    pub(super) fn open(
        hub: &str,
        tls: Arc<ClientConfig>,
        lifecycle: &Lifecycle,
    ) -> anyhow::Result<Self> {
        let own = Mailbox {
            id: THEIRS.to_owned(),
            password: Zeroizing::new(PASSWORD.as_bytes().to_vec()),
            shared_key: Zeroizing::new(SHARED_KEY.as_bytes().to_vec()),
        };
        let mailbox = Arc::new(MeshClient::new(hub, tls, own)?);
        let ledger = Arc::new(Ledger::new(AGENCY));
        let desk = Desk {
            ledger: Arc::clone(&ledger),
            lifecycle: lifecycle.clone(),
            mailbox: Arc::clone(&mailbox),
        };
        let stop = lifecycle.stopping();
        lifecycle.spawn(
            "demo hearing service",
            FailureEffect::EndProcess,
            desk.run(stop),
        );
        Ok(Self { ledger, mailbox })
    }

    /// Refers a child: the hub takes the message, and what the gateway makes of it is seen later.
    ///
    /// # Errors
    /// When the hub does not take it.
    pub(super) async fn refer(&self, referral: &[u8]) -> anyhow::Result<()> {
        let message = canonical(referral, Environment::Test);
        let message = message.map_err(|fault| anyhow::anyhow!("{fault}"))?;
        give(&self.mailbox, WORKFLOW, &local_id_of(&message), &message).await
    }
}

/// Gives a message to the hub, unless the hub has it already.
async fn give(
    mailbox: &MeshClient,
    workflow: &str,
    local_id: &str,
    bytes: &[u8],
) -> anyhow::Result<()> {
    let letter = Letter {
        from: THEIRS,
        to: OURS,
        workflow,
        local_id,
        file_name: &format!("{local_id}.json"),
        subject: "Hearing service",
        media_type: "application/json",
        bytes,
    };
    match mailbox.send(&letter).await? {
        HubSaid::Taken(_) => Ok(()),
        HubSaid::NotKnown(_) if mailbox.track(local_id).await? != Standing::Absent => Ok(()),
        HubSaid::NotKnown(why) | HubSaid::Refused { why, .. } => {
            bail!("the hub did not take it: {why}")
        }
    }
}

impl Desk {
    async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                looked = self.look() => {
                    if let Err(why) = looked {
                        tracing::debug!(error = %why, "the hearing service could not look into its mailbox");
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        Ok(())
    }

    async fn look(&self) -> anyhow::Result<()> {
        for id in self.mailbox.inbox().await? {
            let message = self.mailbox.fetch(&id).await.context("fetch a message")?;
            if message.is_report || message.from != OURS {
                self.ledger
                    .fault("a message came that is not the gateway's");
            } else if let Err(why) = self.take(&message.bytes, message.local_id.as_deref()) {
                self.ledger
                    .fault(format!("a message could not be read: {why:#}"));
            }
            self.mailbox.acknowledge(&id).await?;
        }
        Ok(())
    }

    fn take(&self, bytes: &[u8], local_id: Option<&str>) -> anyhow::Result<()> {
        let arrival = event::read(bytes)?;
        let (wire_id, kind) = (arrival.wire_id.clone(), arrival.kind);
        anyhow::ensure!(
            local_id == Some(&*wire_id),
            "Mex-LocalID is not the message's id"
        );
        let reference = arrival.reference.clone();
        if self.ledger.take(arrival, bytes) == Taken::Again {
            return Ok(());
        }
        let own = format!("{AGENCY}-{wire_id}");
        let ack = json!({ "id": wire_id, "receiver_reference": own });
        self.say(ack_workflow(WORKFLOW), wire_id.clone(), ack.to_string());
        if kind == Kind::New {
            let status = json!({
                "type": "referral.status", "environment": "test", "referral": reference,
                "answers": wire_id, "state": "accepted", "source_version": 1, "receiver_reference": own,
            });
            let status = status.to_string();
            self.say(WORKFLOW.to_owned(), local_id_of(status.as_bytes()), status);
        }
        Ok(())
    }

    fn say(&self, workflow: String, local_id: String, body: String) {
        let mailbox = Arc::clone(&self.mailbox);
        let what = format!("{workflow} {local_id}");
        answer::later(&self.lifecycle, &self.ledger, what, move || {
            let mailbox = Arc::clone(&mailbox);
            let (workflow, local_id, body) = (workflow.clone(), local_id.clone(), body.clone());
            async move { give(&mailbox, &workflow, &local_id, body.as_bytes()).await }
        });
    }
}
