//! Work that no rule decides, work for several at once, and the recipient or nobody.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that reaches beside its own JSON fails, as it should"
)]

use waymark_proto::v1;
use waymark_proto::v1::{DeliveryState, EvidenceGrade};
use waymark_tests::actors::{Hospital, MentalHealth};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, field_violations, wait_until};

waymark_tests::both_engines! {
    unrouted_work_waits_for_its_owner_under_an_alarm,
    an_advice_request_reaches_health_education_and_care_at_once,
    without_consent_for_a_sector_a_person_decides,
    an_unknown_pathway_is_refused_with_those_that_are_known,
    a_peer_with_another_agency_s_certificate_gets_nothing,
    a_redirect_reaches_the_other_service_and_keeps_the_first_start,
}

async fn unrouted_work_waits_for_its_owner_under_an_alarm(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, council] = gateway.clients(["EE123456", "LA882"]).await?;
    let admin = gateway.client("admin-LA882").await?;
    let mut young_adult = Child(40).referral("adhd-assessment");
    young_adult["child"]["dateOfBirth"] = "2004-01-02".into();
    let receipt = school.submit("unrouted", &young_adult).await?;
    let leg = school.leg(&receipt.referral_id).await?;
    assert_eq!(leg.service_id, "", "no service was chosen");
    let owner = leg.owner.expect("an open leg has an owner");
    assert_eq!(
        (owner.agency_id.as_str(), owner.role.as_str()),
        ("LA882", "SEND triage coordinator")
    );
    assert!(
        !leg.next_action_due.is_empty(),
        "and a day by which something must happen"
    );
    let alarms = admin.alarms("unrouted").await?;
    let alarm = alarms
        .iter()
        .find(|a| a.subject == leg.leg_id)
        .expect("its owner is alarmed");
    assert_eq!(
        alarm.owner.as_ref().map(|o| o.agency_id.as_str()),
        Some("LA882")
    );
    assert!(alarm.resolved_at.is_none());

    // It is in the owner's post, and the alarm ends when a person takes it up.
    let post = council.fetch_one(&receipt.referral_id).await?;
    council.acknowledge(&post).await?;
    council
        .status(&receipt.referral_id, 1, v1::LegState::InTriage)
        .await?;
    assert!(admin.alarms("unrouted").await?.is_empty());
    assert!(admin.conservation().await?.balanced);
    Ok(())
}

async fn an_advice_request_reaches_health_education_and_care_at_once(
    engine: Engine,
) -> anyhow::Result<()> {
    let mut hospital = Hospital::closed()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let council = gateway.client("LA882").await?;
    let [team, care] = gateway.clients(["SPEC1", "SC882"]).await?;
    let receipt = council
        .submit("advice", &Child(41).referral("ehc-advice"))
        .await?;
    let services: Vec<&str> = receipt.legs.iter().map(|l| l.service_id.as_str()).collect();
    assert_eq!(
        services,
        ["paediatrics", "specialist-teaching", "social-care"]
    );
    assert!(receipt.legs.iter().all(|l| l.rule_id == "ehc-advice"));

    // One is down; the others have it all the same.
    for client in [&team, &care] {
        let post = client.fetch_one(&receipt.referral_id).await?;
        let answer = client.acknowledge(&post).await?;
        assert_eq!(answer.evidence(), EvidenceGrade::ApplicationAck);
    }
    team.status(&receipt.referral_id, 1, v1::LegState::Accepted)
        .await?;
    let legs = council.referral(&receipt.referral_id).await?.legs;
    let of = |service: &str| {
        legs.iter()
            .find(|l| l.service_id == service)
            .expect("the leg")
    };
    assert_eq!(of("specialist-teaching").state(), v1::LegState::Accepted);
    assert_eq!(
        of("social-care").state(),
        v1::LegState::Submitted,
        "each leg is its own"
    );
    assert_ne!(of("paediatrics").delivery_state(), DeliveryState::Done);
    hospital.up()?;
    wait_until("the hospital has it too", PATIENCE, || async {
        let legs = council.referral(&receipt.referral_id).await?.legs;
        Ok(legs
            .iter()
            .all(|l| l.delivery_state() == DeliveryState::Done)
            .then_some(()))
    })
    .await?;
    assert_eq!(hospital.applied().len(), 1);
    Ok(())
}

async fn without_consent_for_a_sector_a_person_decides(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, council] = gateway.clients(["EE123456", "LA882"]).await?;
    let mut narrow = Child(42).referral("adhd-assessment");
    narrow["consent"]["scopes"] =
        serde_json::json!(["CONSENT_SCOPE_REFERRAL", "CONSENT_SCOPE_SHARE_EDUCATION"]);
    let receipt = school.submit("narrow", &narrow).await?;
    council.fetch_one(&receipt.referral_id).await?;
    assert_eq!(school.leg(&receipt.referral_id).await?.agency_id, "LA882");
    assert!(hospital.frames().is_empty(), "health is told nothing");
    Ok(())
}

async fn an_unknown_pathway_is_refused_with_those_that_are_known(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let school = gateway.client("EE123456").await?;
    let refused = school
        .try_submit("unknown", &Child(43).referral("dentistry"))
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(
        field_violations(&refused)
            .iter()
            .any(|f| f.ends_with("pathway")),
        "{:?}",
        field_violations(&refused)
    );
    Ok(())
}

async fn a_peer_with_another_agency_s_certificate_gets_nothing(
    engine: Engine,
) -> anyhow::Result<()> {
    let mut camhs = MentalHealth::bind().await?;
    let gateway = Gateway::start(
        engine,
        &Area {
            grpc: camhs.port(),
            ..Area::default()
        },
    )
    .await?;
    // The address answers with a certificate of the same authority, for another agency.
    camhs.serve(&gateway.issue("waymark:test:agency:THER1")?, &gateway.ca()?)?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let receipt = school
        .submit("interlock", &Child(44).referral("mental-health"))
        .await?;
    let delivery = admin.deliveries(&receipt.referral_id).await?.remove(0);
    let parked = admin
        .delivery_is(&delivery.delivery_id, DeliveryState::Parked)
        .await?;
    assert_eq!(
        parked.park.as_ref().map(|p| p.reason_code.as_str()),
        Some("wrong_recipient")
    );
    assert_eq!(parked.evidence(), EvidenceGrade::None);
    assert!(camhs.calls().is_empty(), "nothing was written");
    let alarms = admin.alarms("wrong_recipient").await?;
    assert!(
        alarms.iter().any(|a| a.subject == "cam01-grpc"),
        "an alarm stands"
    );
    Ok(())
}

async fn a_redirect_reaches_the_other_service_and_keeps_the_first_start(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let team = gateway.client("SPEC1").await?;
    let receipt = school
        .submit("sent-on", &Child(45).referral("adhd-assessment"))
        .await?;
    let first = admin.deliveries(&receipt.referral_id).await?.remove(0);
    // Nobody listens there; a person takes it out of its lane and sends it on.
    let waiting = wait_until("it waits", PATIENCE, || async {
        let (delivery, _) = admin.delivery(&first.delivery_id).await?;
        let waits = matches!(
            delivery.state(),
            DeliveryState::RetryWait | DeliveryState::Held
        );
        if !waits {
            return Ok(None);
        }
        let request = v1::RedirectRequest {
            delivery_id: first.delivery_id.clone(),
            reason: "paediatrics is closed".to_owned(),
            expected_version: delivery.version,
            target: Some(v1::redirect_request::Target::ServiceId(
                "specialist-teaching".to_owned(),
            )),
        };
        // Another attempt may have begun meanwhile: look again.
        Ok(admin.admin().redirect(request).await.ok())
    })
    .await?;
    let fresh = waiting.into_inner().delivery.expect("the new delivery");
    assert_eq!(fresh.replaces_delivery_id, first.delivery_id);
    assert_ne!(fresh.wire_id, first.wire_id);
    let (old, _) = admin.delivery(&first.delivery_id).await?;
    assert_eq!(old.state(), DeliveryState::Superseded);
    assert_eq!(old.replaced_by_delivery_id, fresh.delivery_id);
    let post = team.fetch_one(&receipt.referral_id).await?;
    assert_eq!(post.lent.wire_id, fresh.wire_id);
    let view =
        waymark_core::port::ReferralStore::referral(gateway.store()?, receipt.referral_id.parse()?)
            .await?;
    let legs = view.expect("the referral").legs;
    let starts: std::collections::BTreeSet<_> = legs.iter().map(|l| l.leg.clock_started).collect();
    assert_eq!(
        (legs.len(), starts.len()),
        (2, 1),
        "a wait keeps its original start through a redirect"
    );
    Ok(())
}
