//! Webhooks that a third-party library verifies, and callbacks that it signs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use waymark_proto::v1;
use waymark_proto::v1::{AttemptOutcome, DeliveryState, EvidenceGrade, LegState};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway};
use waymark_tests::peer::{Peer, run, text};

use super::{Papers, changed, shown};

const RECEIVER: &str = "webhook_receiver.py";
/// What the directory's file says before rotation.
const OLD: &str = "signing_secrets = [\"secret:therapy-webhook\"]";
/// During rotation both sign.
const BOTH: &str = "signing_secrets = [\"secret:therapy-next\", \"secret:therapy-webhook\"]";
/// After it the new one signs alone.
const NEXT: &str = "signing_secrets = [\"secret:therapy-next\"]";

/// A therapy service at work: the gateway, its papers and the area it stands in.
pub(super) struct Service {
    pub(super) gateway: Gateway,
    papers: Papers,
}

impl Service {
    /// A service that takes whatever comes.
    pub(super) async fn serving() -> anyhow::Result<(Self, Peer)> {
        let service = Self::new().await?;
        let secret = service.gateway.secret("therapy-webhook")?;
        let peer = service.receiver(&secret, &[]).await?;
        service.signs_with(peer.port(), OLD).await?;
        Ok((service, peer))
    }

    async fn new() -> anyhow::Result<Self> {
        let gateway = Gateway::start(Engine::Sqlite, &Area::default()).await?;
        let papers = Papers::of(&gateway, "waymark:test:agency:THER1")?;
        Ok(Self { gateway, papers })
    }

    async fn receiver(&self, secret: &str, more: &[&str]) -> anyhow::Result<Peer> {
        let (cert, key) = (self.papers.path("cert"), self.papers.path("key"));
        let mut args = vec!["--secret", secret, "--tls", &cert, &key];
        args.extend(more);
        Peer::start(RECEIVER, &args).await
    }

    async fn signs_with(&self, port: u16, secrets: &str) -> anyhow::Result<()> {
        // The far side's hint counts up to the cap.
        let pushing = Area::default()
            .pushing
            .replace("cap = \"60ms\"", "cap = \"5s\"");
        let mut files = Area {
            webhook: port,
            pushing,
            ..Area::default()
        }
        .files();
        changed(&mut files, OLD, secrets);
        self.gateway.apply(&files).await?;
        Ok(())
    }

    /// Submits, and waits until the delivery comes into a state.
    async fn comes_to(
        &self,
        n: u32,
        state: DeliveryState,
    ) -> anyhow::Result<(v1::Receipt, v1::Delivery)> {
        let (school, admin) = (
            self.gateway.client("EE123456").await?,
            self.gateway.client("admin-LA882").await?,
        );
        let receipt = school
            .submit(&format!("hook-{n}"), &Child(n).referral("speech-language"))
            .await?;
        let queued = admin.deliveries(&receipt.referral_id).await?.remove(0);
        Ok((
            receipt,
            admin.delivery_is(&queued.delivery_id, state).await?,
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_library_verifies_every_attempt_and_a_lost_answer_comes_again_under_its_id()
-> anyhow::Result<()> {
    let service = Service::new().await?;
    let secret = service.gateway.secret("therapy-webhook")?;
    let peer = service
        .receiver(&secret, &["--script", "503:2,DROP"])
        .await?;
    service.signs_with(peer.port(), OLD).await?;
    let (_, delivery) = service
        .comes_to(230, DeliveryState::AwaitingEvidence)
        .await?;
    assert_eq!(
        delivery.evidence(),
        EvidenceGrade::TransportAck,
        "a bare 200 is no application's word"
    );
    let records = peer.records()?;
    let answers: Vec<&str> = records.iter().map(|r| text(r, "answer")).collect();
    assert_eq!(answers, ["503", "DROP", "200"]);
    for record in &records {
        assert_eq!(record["verified"], true, "{}", record["reason"]);
        assert_eq!(text(record, "webhook_id"), delivery.wire_id);
        assert_eq!(record["body_b64"], records[0]["body_b64"]);
    }
    let at = |place: usize| text(&records[place], "at").parse::<Timestamp>();
    let waited = at(1)?.as_millisecond() - at(0)?.as_millisecond();
    assert!(
        waited >= 2_000,
        "Retry-After: 2 was honoured, not {waited} ms"
    );
    let admin = service.gateway.client("admin-LA882").await?;
    let (_, attempts) = admin.delivery(&delivery.delivery_id).await?;
    let outcomes: Vec<AttemptOutcome> = attempts.iter().map(v1::Attempt::outcome).collect();
    assert_eq!(
        outcomes,
        [
            AttemptOutcome::Retry,
            AttemptOutcome::Unknown,
            AttemptOutcome::Delivered
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_rotation_holders_of_either_secret_verify_and_afterwards_only_the_new_one()
-> anyhow::Result<()> {
    let service = Service::new().await?;
    let old = service.gateway.secret("therapy-webhook")?;
    let next = format!("whsec_{}", STANDARD.encode([7; 32]));
    std::fs::write(
        service.gateway.deployment.dir.join("secrets/therapy-next"),
        &next,
    )?;
    let with_old = service.receiver(&old, &[]).await?;
    service.signs_with(with_old.port(), BOTH).await?;
    service
        .comes_to(231, DeliveryState::AwaitingEvidence)
        .await?;
    let with_next = service.receiver(&next, &[]).await?;
    service.signs_with(with_next.port(), BOTH).await?;
    service
        .comes_to(232, DeliveryState::AwaitingEvidence)
        .await?;
    for peer in [&with_old, &with_next] {
        let records = peer.records()?;
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["verified"], true, "{}", records[0]["reason"]);
        assert_eq!(
            text(&records[0]["headers"], "webhook-signature")
                .split(' ')
                .count(),
            2,
            "both sign"
        );
    }
    service.signs_with(with_next.port(), NEXT).await?;
    service
        .comes_to(233, DeliveryState::AwaitingEvidence)
        .await?;
    service.signs_with(with_old.port(), NEXT).await?;
    let (_, parked) = service.comes_to(234, DeliveryState::Parked).await?;
    assert_eq!(
        parked.park.map(|p| p.reason_code).as_deref(),
        Some("refused")
    );
    assert_eq!(with_old.records()?[1]["verified"], false);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_signed_by_a_foreign_library_is_taken_and_a_spoiled_one_is_not()
-> anyhow::Result<()> {
    let service = Service::new().await?;
    let peer = service
        .receiver(&service.gateway.secret("therapy-webhook")?, &[])
        .await?;
    service.signs_with(peer.port(), OLD).await?;
    let (receipt, delivery) = service
        .comes_to(235, DeliveryState::AwaitingEvidence)
        .await?;
    let file = service.papers.folder.path().join("callback.json");
    let body = serde_json::json!({
        "type": "referral.status", "environment": "test", "referral": receipt.reference,
        "answers": delivery.wire_id, "state": "accepted", "source_version": 1, "accepted_by": "Zoë Okoro",
    });
    std::fs::write(&file, body.to_string())?;
    let address = service
        .gateway
        .app()?
        .callback
        .expect("callbacks are taken");
    let url = format!("https://{address}/callbacks/therapy-webhook");
    let (file, secret, ca) = (
        shown(&file),
        service.gateway.secret("therapy-callback")?,
        service.papers.path("ca"),
    );
    let args = [
        url.as_str(),
        &file,
        "--secret",
        &secret,
        "--ca",
        &ca,
        "--id",
        "msg_1",
    ];
    let school = service.gateway.client("EE123456").await?;
    for what in ["body", "signature"] {
        let said = run("webhook_send.py", &[&args[..], &["--spoil", what]].concat()).await?;
        assert_eq!(said.json()?["status"], 401, "a spoiled {what}");
    }
    assert_eq!(
        school.leg(&receipt.referral_id).await?.state(),
        LegState::Submitted
    );
    let said = run("webhook_send.py", &args).await?;
    assert!(said.ok, "{}{}", said.out, said.errors);
    let leg = school.leg(&receipt.referral_id).await?;
    assert_eq!(
        (leg.state(), leg.evidence()),
        (LegState::Accepted, EvidenceGrade::HumanAcceptance)
    );
    assert_eq!(leg.delivery_state(), DeliveryState::Done);
    Ok(())
}
