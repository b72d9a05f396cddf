//! Scenarios 3 and 4: a MESH hub whose answer is lost, and an agency that does not collect; and both ways through it.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that reaches beside its own JSON fails, as it should"
)]

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Value, json};
use waymark::app::Duty;
use waymark::clock::SystemClock;
use waymark_proto::v1;
use waymark_proto::v1::{AttemptOutcome, DeliveryState, EvidenceGrade};
use waymark_tests::actors::mesh::{
    Fault, Held, Hub, OURS, PASSWORD, SHARED_KEY, Stage, THEIRS, WORKFLOW,
};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, PATIENCE, wait_until};

waymark_tests::both_engines! {
    a_lost_answer_is_settled_by_tracking_and_no_second_message_is_made,
    a_message_that_the_hub_does_not_have_is_sent_again_and_is_there_once,
    two_messages_of_one_id_ask_a_person,
    what_is_not_collected_alarms_on_our_own_clock_and_a_report_parks_it_within_one_poll,
    what_is_collected_and_acknowledged_is_known_in_two_steps,
    a_refusal_after_the_message_was_done_is_on_record_once,
    a_referral_by_mesh_is_accepted_and_its_sender_is_told_by_mesh,
}

/// Repeats that leave time to look.
const SLOW: &str = "retry = { first = \"2s\", cap = \"2s\" }\nattempt_timeout = \"5s\"";
const FAST: &str = "retry = { first = \"20ms\", cap = \"60ms\" }\nattempt_timeout = \"5s\"";

struct Ground {
    hub: Hub,
    gateway: Gateway,
    school: Client,
    admin: Client,
}

impl Ground {
    async fn new(engine: Engine, limits: &str) -> anyhow::Result<Self> {
        let hub = Hub::open(Arc::new(SystemClock)).await?;
        let url = format!("http://127.0.0.1:{}", hub.port());
        let settings = format!("plain = true\nworkflow = \"{WORKFLOW}\"");
        let area = Area::mesh(&url, limits, &settings);
        let mut gateway = Gateway::make(engine, &area, Duty::Serve).await?;
        gateway.keep_secret("mesh-password", PASSWORD)?;
        gateway.keep_secret("mesh-key", SHARED_KEY)?;
        gateway.restart().await?;
        let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
        Ok(Self {
            hub,
            gateway,
            school,
            admin,
        })
    }

    async fn submit(&self, n: u32) -> anyhow::Result<(v1::Receipt, v1::Delivery)> {
        let referral = Child(n).referral("autism-assessment");
        let receipt = self.school.submit(&format!("mesh-{n}"), &referral).await?;
        let queued = self.admin.deliveries(&receipt.referral_id).await?.remove(0);
        Ok((receipt, queued))
    }

    /// The message of a delivery, once the hub has it.
    async fn held(&self, wire_id: &str) -> anyhow::Result<Held> {
        wait_until("the hub has the message", PATIENCE, || async {
            let mut held = self.hub.held().into_iter();
            Ok(held.find(|h| h.headers.get("mex-localid").is_some_and(|id| id == wire_id)))
        })
        .await
    }

    async fn outcomes(&self, id: &str) -> anyhow::Result<Vec<AttemptOutcome>> {
        let (_, attempts) = self.admin.delivery(id).await?;
        Ok(attempts.iter().map(v1::Attempt::outcome).collect())
    }

    fn posts(&self) -> usize {
        let post = format!("POST /messageexchange/{OURS}/outbox");
        self.hub.requests().iter().filter(|r| **r == post).count()
    }
}

async fn a_lost_answer_is_settled_by_tracking_and_no_second_message_is_made(
    engine: Engine,
) -> anyhow::Result<()> {
    let ground = Ground::new(engine, FAST).await?;
    ground.hub.play(&[Fault::DropTaken]);
    let (_, queued) = ground.submit(301).await?;
    let id = queued.delivery_id;
    let delivery = ground
        .admin
        .delivery_is(&id, DeliveryState::AwaitingEvidence)
        .await?;
    assert_eq!(delivery.evidence(), EvidenceGrade::Sent);
    assert_eq!(
        ground.outcomes(&id).await?,
        [AttemptOutcome::Unknown, AttemptOutcome::Delivered]
    );
    assert_eq!(ground.posts(), 1, "tracked, not posted again");
    assert_eq!(ground.hub.inbox(THEIRS).len(), 1);
    assert_eq!(ground.hub.refused(), Vec::<String>::new());
    Ok(())
}

async fn a_message_that_the_hub_does_not_have_is_sent_again_and_is_there_once(
    engine: Engine,
) -> anyhow::Result<()> {
    let ground = Ground::new(engine, FAST).await?;
    ground.hub.play(&[Fault::DropUntaken, Fault::Unavailable]);
    let (_, queued) = ground.submit(302).await?;
    let id = queued.delivery_id;
    ground
        .admin
        .delivery_is(&id, DeliveryState::AwaitingEvidence)
        .await?;
    let outcomes = ground.outcomes(&id).await?;
    let (last, before) = outcomes.split_last().context("attempts")?;
    assert_eq!(*last, AttemptOutcome::Delivered);
    assert_eq!(before, [AttemptOutcome::Unknown; 2]);
    assert_eq!(ground.hub.inbox(THEIRS).len(), 1);
    Ok(())
}

async fn two_messages_of_one_id_ask_a_person(engine: Engine) -> anyhow::Result<()> {
    let ground = Ground::new(engine, SLOW).await?;
    ground.hub.play(&[Fault::DropTaken]);
    let (receipt, queued) = ground.submit(303).await?;
    let held = ground.held(&queued.wire_id).await?;
    // Another program of the same mailbox sent it a second time.
    let bytes = held.chunks.first().cloned().flatten().unwrap_or_default();
    let headers = [("mex-localid", queued.wire_id.as_str())];
    ground.hub.put(OURS, THEIRS, WORKFLOW, &headers, &[&bytes]);
    let parked = ground
        .admin
        .delivery_is(&queued.delivery_id, DeliveryState::Parked)
        .await?;
    assert_eq!(ground.posts(), 1);
    let alarms = ground.admin.alarms("parked").await?;
    assert!(alarms.iter().any(|a| a.subject == parked.delivery_id));
    let leg = ground.school.leg(&receipt.referral_id).await?;
    assert_eq!(leg.evidence(), EvidenceGrade::Sent);
    Ok(())
}

async fn what_is_not_collected_alarms_on_our_own_clock_and_a_report_parks_it_within_one_poll(
    engine: Engine,
) -> anyhow::Result<()> {
    let limits = format!("{FAST}\nevidence_within = \"1s\"");
    let ground = Ground::new(engine, &limits).await?;
    let (receipt, queued) = ground.submit(304).await?;
    let id = queued.delivery_id;
    ground
        .admin
        .delivery_is(&id, DeliveryState::AwaitingEvidence)
        .await?;
    // Long before MESH would say anything.
    wait_until("its owner is alarmed", PATIENCE, || async {
        let alarms = ground.admin.alarms("evidence_overdue").await?;
        Ok(alarms.iter().any(|a| a.subject == id).then_some(()))
    })
    .await?;
    let held = ground.held(&queued.wire_id).await?;
    ground.hub.expire(&held.id);
    ground.admin.delivery_is(&id, DeliveryState::Parked).await?;
    let alarms = ground.admin.alarms("parked").await?;
    let alarm = alarms
        .iter()
        .find(|a| a.subject == id)
        .context("an alarm")?;
    let owner = alarm.owner.clone().unwrap_or_default();
    assert_eq!(
        (&*owner.agency_id, &*owner.role),
        ("COMM1", "Referral office")
    );
    assert!(
        alarm.message.contains("did not collect"),
        "{}",
        alarm.message
    );
    wait_until("the report is acknowledged", PATIENCE, || async {
        Ok(ground.hub.inbox(OURS).is_empty().then_some(()))
    })
    .await?;
    let leg = ground.school.leg(&receipt.referral_id).await?;
    assert_eq!(leg.evidence(), EvidenceGrade::Sent, "nobody says received");
    assert_eq!(leg.delivery_state(), DeliveryState::Parked);

    // The hub has made up its mind about that id: what is sent again has one of its own, and arrives.
    let (parked, _) = ground.admin.delivery(&id).await?;
    let resend = v1::ResendRequest {
        delivery_id: id.clone(),
        reason: "they say that they will look".to_owned(),
        expected_version: parked.version,
    };
    let again = ground.admin.admin().resend(resend).await?.into_inner();
    let again = again.delivery.context("a delivery")?;
    assert_ne!(again.wire_id, queued.wire_id);
    let held = ground.held(&again.wire_id).await?;
    ground.hub.collect(&held.id);
    let done = ground
        .admin
        .delivery_is(&again.delivery_id, DeliveryState::Done);
    assert_eq!(done.await?.evidence(), EvidenceGrade::TransportAck);
    let alarms = ground.admin.alarms("parked").await?;
    assert!(alarms.iter().all(|a| a.subject != id), "nobody need act");
    assert!(ground.admin.conservation().await?.balanced);
    Ok(())
}

async fn what_is_collected_and_acknowledged_is_known_in_two_steps(
    engine: Engine,
) -> anyhow::Result<()> {
    let ground = Ground::new(engine, FAST).await?;
    let (receipt, queued) = ground.submit(305).await?;
    let held = ground.held(&queued.wire_id).await?;
    ground.hub.collect(&held.id);
    let done = ground
        .admin
        .delivery_is(&queued.delivery_id, DeliveryState::Done)
        .await?;
    assert_eq!(done.evidence(), EvidenceGrade::TransportAck);
    let ack = format!("{WORKFLOW}_ACK");
    let headers = [("mex-localid", queued.wire_id.as_str())];
    let body = br#"{"receiver_reference": "COMM1/88"}"#;
    ground.hub.put(THEIRS, OURS, &ack, &headers, &[body]);
    wait_until("the application's word is known", PATIENCE, || async {
        let leg = ground.school.leg(&receipt.referral_id).await?;
        Ok((leg.evidence() == EvidenceGrade::ApplicationAck).then_some(()))
    })
    .await?;
    // What the service answers in full moves the leg.
    let status = json!({"type": "referral.status", "environment": "test", "referral": receipt.reference,
        "answers": queued.wire_id, "state": "accepted", "source_version": 1});
    let body = status.to_string();
    ground
        .hub
        .put(THEIRS, OURS, WORKFLOW, &[], &[body.as_bytes()]);
    wait_until("the leg is accepted", PATIENCE, || async {
        let leg = ground.school.leg(&receipt.referral_id).await?;
        Ok((leg.state() == v1::LegState::Accepted).then_some(()))
    })
    .await?;
    Ok(())
}

async fn a_refusal_after_the_message_was_done_is_on_record_once(
    engine: Engine,
) -> anyhow::Result<()> {
    let ground = Ground::new(engine, FAST).await?;
    let (receipt, queued) = ground.submit(307).await?;
    let held = ground.held(&queued.wire_id).await?;
    ground.hub.collect(&held.id);
    let id = &queued.delivery_id;
    ground.admin.delivery_is(id, DeliveryState::Done).await?;
    let ack = format!("{WORKFLOW}_ACK");
    let headers = [("mex-localid", queued.wire_id.as_str())];
    for _ in 0..2 {
        let body = br#"{"code": "NOT_OURS"}"#;
        let refusal = ground.hub.put(THEIRS, OURS, &ack, &headers, &[body]);
        wait_until("the refusal is acknowledged", PATIENCE, || async {
            let mut held = ground.hub.held().into_iter();
            let taken = held.find(|h| h.id == refusal && h.stage == Stage::Acknowledged);
            Ok(taken.map(|_| ()))
        })
        .await?;
    }
    let alarms = ground.admin.alarms("parked").await?;
    let alarm = alarms.iter().find(|a| a.subject == *id);
    let alarm = alarm.context("its owner is alarmed")?;
    assert!(alarm.message.contains("NOT_OURS"), "{}", alarm.message);
    assert!(alarm.message.contains("resend"), "{}", alarm.message);
    let (refused, _) = ground.admin.delivery(id).await?;
    let resend = v1::ResendRequest {
        delivery_id: id.clone(),
        reason: "it is theirs after all".to_owned(),
        expected_version: refused.version,
    };
    ground.admin.admin().resend(resend).await?;
    let alarms = ground.admin.alarms("parked").await?;
    assert!(alarms.iter().all(|a| a.subject != *id), "it was dealt with");
    let store = ground.gateway.store()?;
    let timeline = store.timeline(receipt.referral_id.parse()?, 100).await?;
    let refused = timeline.iter().filter(|e| e.event.code == "mesh.refused");
    assert_eq!(refused.count(), 1);
    Ok(())
}

async fn a_referral_by_mesh_is_accepted_and_its_sender_is_told_by_mesh(
    engine: Engine,
) -> anyhow::Result<()> {
    let ground = Ground::new(engine, FAST).await?;
    let referral = waymark_adapters::contract::sample::referral();
    let mut referral = serde_json::to_value(referral)?;
    referral["documents"] = json!([]);
    referral["pathway"] = json!("specialist-teaching");
    referral["child"]["upn"] = json!(Child(306).upn());
    referral["child"]["nhs_number"] = json!(Child(306).nhs());
    referral["consent"]["scope"] = json!(["referral", "share_health", "share_education"]);
    let event =
        json!({"type": "referral.new", "environment": "test", "data": {"referral": referral}});
    let id = ground
        .hub
        .put(THEIRS, OURS, WORKFLOW, &[], &[event.to_string().as_bytes()]);
    wait_until("it is acknowledged", PATIENCE, || async {
        let mut held = ground.hub.held().into_iter();
        let taken = held.find(|h| h.id == id && h.stage == Stage::Acknowledged);
        Ok(taken.map(|_| ()))
    })
    .await?;
    let team = ground.gateway.client("SPEC1").await?;
    let posts = wait_until("the team has it", PATIENCE, || async {
        let posts = team.fetch().await?;
        Ok((!posts.is_empty()).then_some(posts))
    })
    .await?;
    let post = posts.first().context("a post")?;
    team.acknowledge(post).await?;
    let referral_id = &post.dispatch.referral_id;
    team.status(referral_id, 1, v1::LegState::Accepted).await?;
    let told = wait_until("the sender is told", PATIENCE, || async {
        let mut held = ground.hub.held().into_iter();
        Ok(held.find(|h| h.to == THEIRS))
    })
    .await?;
    let bytes = told.chunks.first().cloned().flatten().unwrap_or_default();
    let told: Value = serde_json::from_slice(&bytes)?;
    assert_eq!(told["type"], "referral.status");
    assert_eq!(told["data"]["status"]["state"], "accepted");
    Ok(())
}
