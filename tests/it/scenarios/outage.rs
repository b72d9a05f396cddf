//! Scenarios 1 and 2: a receiver that is down for a long time, and one whose answer is lost.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that reaches beside its own JSON fails, as it should"
)]

use waymark_core::audit::EntryKind;
use waymark_proto::v1;
use waymark_proto::v1::{AttemptOutcome, DeliveryState, EvidenceGrade};
use waymark_tests::actors::{Hospital, Play};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, wait_until};

waymark_tests::both_engines! {
    a_referral_outlives_a_long_outage_and_arrives_once_and_in_order,
    a_failing_child_does_not_delay_another,
    a_lost_acknowledgement_makes_no_second_record,
    an_outage_longer_than_the_deadline_parks_and_alarms,
}

async fn a_referral_outlives_a_long_outage_and_arrives_once_and_in_order(
    engine: Engine,
) -> anyhow::Result<()> {
    let mut hospital = Hospital::closed()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let child = Child(1);
    let receipt = school
        .submit("adhd-1", &child.referral("adhd-assessment"))
        .await?;
    let first = admin.deliveries(&receipt.referral_id).await?.remove(0);

    // The outage: the port refuses, and the school sees that nothing has arrived.
    let tried = wait_until("several attempts were made", PATIENCE, || async {
        let (delivery, _) = admin.delivery(&first.delivery_id).await?;
        Ok((delivery.attempts >= 4).then_some(delivery))
    })
    .await?;
    assert_eq!(tried.evidence(), EvidenceGrade::None);
    let shown = school.leg(&receipt.referral_id).await?;
    assert_ne!(shown.delivery_state(), DeliveryState::Done);
    assert_eq!(
        shown.evidence(),
        EvidenceGrade::None,
        "the school is not told that anything arrived"
    );

    // An update meanwhile: it waits behind.
    let mut amended = child.referral("adhd-assessment");
    amended["narrative"] = "Now also falls asleep in class.".into();
    school
        .amend("adhd-1-more", &receipt.referral_id, &amended)
        .await?;

    // It ends, with two answers that put the message off, so that repeats can be compared.
    hospital.play(&[Play::Later, Play::Later]);
    hospital.up()?;
    let done = school
        .leg_shows(&receipt.referral_id, DeliveryState::Done)
        .await?;
    assert_eq!(done.evidence(), EvidenceGrade::ApplicationAck);
    wait_until("the update has arrived", PATIENCE, || async {
        Ok((hospital.applied().len() == 2).then_some(()))
    })
    .await?;

    let kinds: Vec<String> = hospital.applied().into_iter().map(|f| f.kind).collect();
    assert_eq!(
        kinds,
        ["REF^I12", "REF^I13"],
        "one referral, then its update"
    );
    let sent: Vec<_> = hospital
        .frames()
        .into_iter()
        .filter(|f| f.kind == "REF^I12")
        .collect();
    assert_eq!(sent.len(), 3, "put off twice, then taken");
    for frame in &sent {
        assert_eq!(
            frame.control_id, first.wire_id,
            "MSH-10 is the delivery's wire id on every attempt"
        );
        assert_eq!(
            Some(frame),
            sent.first(),
            "every attempt sends the same bytes"
        );
    }
    assert!(
        first.wire_id.len() <= 20
            && first
                .wire_id
                .bytes()
                .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
    );

    every_attempt_is_in_the_log(&gateway, &receipt, &first).await
}

async fn every_attempt_is_in_the_log(
    gateway: &Gateway,
    receipt: &v1::Receipt,
    first: &v1::Delivery,
) -> anyhow::Result<()> {
    let admin = gateway.client("admin-LA882").await?;
    let (delivery, attempts) = admin.delivery(&first.delivery_id).await?;
    assert!(delivery.attempts >= 7, "{} attempts", delivery.attempts);
    assert!(
        attempts
            .iter()
            .take(4)
            .all(|a| a.outcome() == AttemptOutcome::Retry && !a.reason_code.is_empty())
    );
    assert_eq!(
        attempts.last().map(v1::Attempt::outcome),
        Some(AttemptOutcome::Delivered)
    );
    let stream = gateway.stream(&receipt.stream_id).await?;
    for phase in ["opened", "closed"] {
        let entries: Vec<_> = stream
            .iter()
            .filter(|e| e.kind == EntryKind::Attempt && e.fact("phase") == Some(phase))
            .filter(|e| e.fact("delivery") == Some(&first.delivery_id))
            .collect();
        let numbers: Vec<Option<String>> = entries
            .iter()
            .map(|e| e.fact("attempt").map(str::to_owned))
            .collect();
        let all: Vec<Option<String>> = (1..=delivery.attempts)
            .map(|n| Some(n.to_string()))
            .collect();
        assert_eq!(numbers, all, "each attempt is {phase} once in the log");
        assert!(
            entries
                .iter()
                .all(|e| e.fact("wire_id") == Some(&first.wire_id))
        );
    }
    Ok(())
}

async fn a_failing_child_does_not_delay_another(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let (failing, well) = (Child(11), Child(12));
    hospital.failing(Some(&failing.family()));
    let stuck = school
        .submit("stuck", &failing.referral("adhd-assessment"))
        .await?;
    let stuck_delivery = admin.deliveries(&stuck.referral_id).await?.remove(0);
    wait_until("the first child's message has failed", PATIENCE, || async {
        let (delivery, _) = admin.delivery(&stuck_delivery.delivery_id).await?;
        Ok((delivery.attempts >= 2).then_some(()))
    })
    .await?;

    let other = school
        .submit("other", &well.referral("adhd-assessment"))
        .await?;
    school
        .leg_shows(&other.referral_id, DeliveryState::Done)
        .await?;
    let delivery = admin.deliveries(&other.referral_id).await?.remove(0);
    assert!(
        delivery.attempts <= 2,
        "the other child waited for {} attempts",
        delivery.attempts
    );
    assert_ne!(
        school.leg(&stuck.referral_id).await?.delivery_state(),
        DeliveryState::Done
    );

    hospital.failing(None);
    school
        .leg_shows(&stuck.referral_id, DeliveryState::Done)
        .await?;
    assert_eq!(hospital.applied().len(), 2);
    Ok(())
}

async fn a_lost_acknowledgement_makes_no_second_record(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    hospital.play(&[Play::ApplyAndDrop]);
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let receipt = school
        .submit("lost-ack", &Child(2).referral("adhd-assessment"))
        .await?;
    let leg = school
        .leg_shows(&receipt.referral_id, DeliveryState::Done)
        .await?;
    assert_eq!(
        leg.evidence(),
        EvidenceGrade::ApplicationAck,
        "205 for an id that was sent before means received"
    );

    let frames = hospital.frames();
    assert_eq!(frames.len(), 2, "sent, then sent again");
    assert_eq!(frames.first(), frames.last(), "with the same id and bytes");
    assert_eq!(hospital.applied().len(), 1, "one record at the provider");
    let delivery = admin.deliveries(&receipt.referral_id).await?.remove(0);
    let (_, attempts) = admin.delivery(&delivery.delivery_id).await?;
    let outcomes: Vec<_> = attempts.iter().map(v1::Attempt::outcome).collect();
    assert_eq!(
        outcomes,
        [AttemptOutcome::Unknown, AttemptOutcome::Delivered]
    );
    Ok(())
}

async fn an_outage_longer_than_the_deadline_parks_and_alarms(engine: Engine) -> anyhow::Result<()> {
    let mut hospital = Hospital::closed()?;
    let area = Area {
        mllp: hospital.port(),
        pushing: "retry = { first = \"20ms\", cap = \"50ms\" }\ndeadline = \"400ms\"\n".to_owned(),
        ..Area::default()
    };
    let gateway = Gateway::start(engine, &area).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let receipt = school
        .submit("too-long", &Child(3).referral("adhd-assessment"))
        .await?;
    let delivery = admin.deliveries(&receipt.referral_id).await?.remove(0);
    let parked = admin
        .delivery_is(&delivery.delivery_id, DeliveryState::Parked)
        .await?;
    let park = parked.park.expect("a parked delivery says why");
    assert_eq!(park.reason_code, "exhausted");
    assert_eq!(
        park.owner.map(|o| o.agency_id).as_deref(),
        Some("R1L"),
        "it has an owner"
    );
    let alarms = admin.alarms("parked").await?;
    assert!(
        alarms
            .iter()
            .any(|a| a.subject == delivery.delivery_id && a.owner.is_some()),
        "its owner is alarmed"
    );
    assert_eq!(
        school.leg(&receipt.referral_id).await?.delivery_state(),
        DeliveryState::Parked,
        "its sender is told"
    );

    // A person lets it go on once the receiver is back: the same id, the same bytes.
    hospital.up()?;
    let request = v1::ResendRequest {
        delivery_id: delivery.delivery_id.clone(),
        reason: "the hospital is back".to_owned(),
        expected_version: parked.version,
    };
    admin.admin().resend(request).await?;
    admin
        .delivery_is(&delivery.delivery_id, DeliveryState::Done)
        .await?;
    let arrived: Vec<String> = hospital
        .applied()
        .into_iter()
        .map(|f| f.control_id)
        .collect();
    assert_eq!(arrived, [delivery.wire_id]);
    assert!(
        admin.alarms("parked").await?.is_empty(),
        "the alarm is resolved"
    );
    Ok(())
}
