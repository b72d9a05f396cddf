//! NHS MESH: NHS England's own sandbox between the gateway and an agency that uses NHS England's own client.

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use waymark::app::Duty;
use waymark_proto::v1;
use waymark_proto::v1::{AttemptOutcome, DeliveryState, EvidenceGrade, ProbeResult};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, PATIENCE, wait_until};
use waymark_tests::peer::{Peer, bytes, run, text};

use super::{Bodies, Papers, shown};

const HUB: &str = "mesh_hub.py";
const AGENCY: &str = "mesh_agency.py";
const WORKFLOW: &str = "TEST_WORKFLOW";
const LIMITS: &str = "retry = { first = \"50ms\", cap = \"200ms\" }\nattempt_timeout = \"10s\"";

/// The gateway and the sandbox, over mutual TLS unless a fault is played.
pub(super) struct Ground {
    hub: Peer,
    pub(super) gateway: Gateway,
    papers: Papers,
    url: String,
    school: Client,
    admin: Client,
}

impl Ground {
    pub(super) async fn new(secured: bool, settings: &str, args: &[&str]) -> anyhow::Result<Self> {
        let area = Area::default();
        let mut gateway = Gateway::make(Engine::Sqlite, &area, Duty::Serve).await?;
        let papers = Papers::of(&gateway, "waymark:test:mesh:hub")?;
        let (cert, key, ca) = (papers.path("cert"), papers.path("key"), papers.path("ca"));
        let mut all = args.to_vec();
        if secured {
            all.extend(["--tls", &cert, &key, &ca]);
        }
        let hub = Peer::start(HUB, &all).await?;
        let scheme = if secured { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}", hub.port());
        let way = if secured { "private_network" } else { "plain" };
        let settings = format!("{way} = true\nworkflow = \"{WORKFLOW}\"\n{settings}");
        gateway.keep_secret("mesh-password", "password")?;
        gateway.keep_secret("mesh-key", "TestKey")?;
        gateway.restart().await?;
        gateway
            .apply(&Area::mesh(&url, LIMITS, &settings).files())
            .await?;
        let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
        Ok(Self {
            hub,
            gateway,
            papers,
            url,
            school,
            admin,
        })
    }

    /// The agency does something with its own client.
    async fn agency(&self, args: &[&str]) -> anyhow::Result<Value> {
        let (cert, key, ca) = (
            self.papers.path("cert"),
            self.papers.path("key"),
            self.papers.path("ca"),
        );
        let mut all = vec![&*self.url];
        all.extend(args);
        if self.url.starts_with("https") {
            all.extend(["--tls", &cert, &key, &ca]);
        }
        let said = run(AGENCY, &all).await?;
        anyhow::ensure!(said.ok, "{}", said.errors);
        said.json()
    }

    /// Everything that lies in the agency's inbox, acknowledged.
    async fn received(&self) -> anyhow::Result<Vec<Value>> {
        let said = self.agency(&["receive"]).await?;
        Ok(said["messages"].as_array().cloned().unwrap_or_default())
    }

    async fn submit(&self, n: u32) -> anyhow::Result<(v1::Receipt, v1::Delivery)> {
        let referral = Child(n).referral("autism-assessment");
        let receipt = self.school.submit(&format!("mesh-{n}"), &referral).await?;
        let queued = self.admin.deliveries(&receipt.referral_id).await?.remove(0);
        let id = &queued.delivery_id;
        let sent = self
            .admin
            .delivery_is(id, DeliveryState::AwaitingEvidence)
            .await?;
        Ok((receipt, sent))
    }

    fn posts(&self) -> anyhow::Result<usize> {
        let records = self.hub.records()?;
        let posts = records.iter().filter(|record| {
            text(record, "method") == "POST" && text(record, "path").ends_with("/outbox")
        });
        Ok(posts.count())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_referral_goes_over_mutual_tls_and_is_known_to_be_collected() -> anyhow::Result<()> {
    let ground = Ground::new(true, "ods = \"X26\"", &[]).await?;
    let ask = v1::ProbeEndpointRequest {
        endpoint_id: "comm1-mesh".to_owned(),
    };
    let probe = ground.admin.admin().probe_endpoint(ask).await?.into_inner();
    assert!(probe.reachable, "{probe:?}");
    let application = probe.stages.last().context("stages")?;
    assert_eq!(application.result(), ProbeResult::Passed, "{probe:?}");

    let (_, sent) = ground.submit(311).await?;
    assert_eq!(sent.evidence(), EvidenceGrade::Sent);
    let messages = ground.received().await?;
    let [message] = messages.as_slice() else {
        anyhow::bail!("{} messages", messages.len());
    };
    for (field, value) in [
        ("from", "X26ABC1"),
        ("to", "X26ABC2"),
        ("workflowid", WORKFLOW),
        ("localid", &sent.wire_id),
        ("filename", &format!("{}.json", sent.wire_id)),
        ("content-type", "application/json"),
    ] {
        assert_eq!(text(message, field), value, "{field}");
    }
    let stored = Bodies::new()
        .of(ground.gateway.store()?, &sent.wire_id)
        .await?;
    assert_eq!(bytes(message, "body_b64")?, stored);
    let done = ground
        .admin
        .delivery_is(&sent.delivery_id, DeliveryState::Done)
        .await?;
    assert_eq!(done.evidence(), EvidenceGrade::TransportAck);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_referral_goes_in_packed_chunks_that_the_client_puts_together() -> anyhow::Result<()>
{
    let ground = Ground::new(true, "chunk_bytes = 1024", &[]).await?;
    let (_, sent) = ground.submit(312).await?;
    let stored = Bodies::new()
        .of(ground.gateway.store()?, &sent.wire_id)
        .await?;
    let records = ground.hub.records()?;
    let chunk = records.iter().find(|r| text(r, "path").ends_with("/2"));
    assert_eq!(chunk.context("a second chunk")?["status"], 202);
    let messages = ground.received().await?;
    assert_eq!(messages.len(), 1);
    assert_eq!(bytes(&messages[0], "body_b64")?, stored);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_makes_no_second_message() -> anyhow::Result<()> {
    let ground = Ground::new(false, "", &["--lose", "1"]).await?;
    let (_, sent) = ground.submit(313).await?;
    let (_, attempts) = ground.admin.delivery(&sent.delivery_id).await?;
    let outcomes: Vec<AttemptOutcome> = attempts.iter().map(v1::Attempt::outcome).collect();
    assert_eq!(
        outcomes,
        [AttemptOutcome::Unknown, AttemptOutcome::Delivered]
    );
    assert_eq!(ground.posts()?, 1);
    assert_eq!(ground.received().await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_of_the_hub_parks_the_delivery() -> anyhow::Result<()> {
    let ground = Ground::new(true, "", &[]).await?;
    let (_, sent) = ground.submit(314).await?;
    let wire = &sent.wire_id;
    let report = [
        "report",
        "--code",
        "14",
        "--workflow",
        WORKFLOW,
        "--local-id",
        wire,
    ];
    let said = ground.agency(&report).await?;
    assert_eq!(said["status"], 200);
    ground
        .admin
        .delivery_is(&sent.delivery_id, DeliveryState::Parked)
        .await?;
    let alarms = ground.admin.alarms("parked").await?;
    assert!(alarms.iter().any(|a| a.subject == sent.delivery_id));
    Ok(())
}

/// Sends as the agency and waits until the gateway has acknowledged it.
async fn sends(ground: &Ground, body: &Value, workflow: &str, id: &str) -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let path = folder.path().join("body");
    std::fs::write(&path, body.to_string())?;
    let path = shown(&path);
    let send = [
        "send",
        "--workflow",
        workflow,
        "--local-id",
        id,
        "--file",
        &path,
        "--chunk-bytes",
        "1000",
    ];
    let said = ground.agency(&send).await?;
    let message = text(&said, "message_id").to_owned();
    wait_until("the gateway has acknowledged it", PATIENCE, || async {
        let said = ground.agency(&["track", "--message", &message]).await?;
        let status = text(&said, "status").to_ascii_lowercase();
        Ok((status == "acknowledged").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_s_chunks_acknowledgements_and_statuses_are_taken_in() -> anyhow::Result<()> {
    let ground = Ground::new(true, "", &[]).await?;
    let (receipt, sent) = ground.submit(315).await?;
    let ack = json!({"id": sent.wire_id, "receiver_reference": "COMM1/77", "accepted_by": "Dr Ada Okoro"});
    sends(&ground, &ack, "TEST_WORKFLOW_ACK", &sent.wire_id).await?;
    let leg = ground.school.leg(&receipt.referral_id).await?;
    assert_eq!(leg.evidence(), EvidenceGrade::HumanAcceptance);
    // Longer than one chunk.
    let words = "We shall see Tam in the autumn. ".repeat(60);
    let status = json!({"type": "referral.status", "environment": "test", "referral": receipt.reference,
        "answers": sent.wire_id, "state": "accepted", "source_version": 1, "text": words});
    sends(&ground, &status, WORKFLOW, "COMM1-1").await?;
    let leg = ground.school.leg(&receipt.referral_id).await?;
    assert_eq!(leg.state(), v1::LegState::Accepted);
    Ok(())
}
