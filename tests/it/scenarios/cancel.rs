//! Scenario 6 and 27: a cancel never overtakes its referral, never turns into a silent fact, and stops what was not sent.

use waymark_core::port::EventKind;
use waymark_proto::v1;
use waymark_proto::v1::{CancelEffect, DeliveryState, LegState, MessageKind};
use waymark_tests::actors::Hospital;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, PATIENCE, referral_key, wait_until};

waymark_tests::both_engines! {
    a_cancel_that_races_a_booking_leaves_both_on_the_timeline,
    a_cancel_waits_behind_a_referral_that_is_still_being_tried,
    a_cancel_after_assessment_began_is_a_request,
    a_cancel_before_any_attempt_sends_nothing,
    a_cancel_behind_a_refused_referral_is_not_needed,
    a_cancel_that_its_receiver_refuses_gives_the_leg_back,
    an_amend_whose_answer_was_lost_is_answered_again_though_the_referral_moved_on,
    withdrawn_consent_stops_what_was_not_sent_and_follows_what_was,
}

fn withdrawal(request_id: &str, referral: &str) -> v1::WithdrawConsentRequest {
    v1::WithdrawConsentRequest {
        request_id: request_id.to_owned(),
        key: Some(referral_key(referral)),
        withdrawal: Some(v1::ConsentWithdrawal {
            scopes: Vec::new(),
            withdrawn_by: "Marisol".to_owned(),
            role: v1::ConsentGiverRole::ParentWithPr.into(),
            date: "2026-02-01".to_owned(),
            evidence: "by telephone".to_owned(),
        }),
        want_proof: false,
    }
}

async fn taken(gateway: &Gateway, school: &Client, child: Child) -> anyhow::Result<v1::Receipt> {
    let receipt = school
        .submit(
            &format!("case-{}", child.0),
            &child.referral("adhd-assessment"),
        )
        .await?;
    school
        .leg_shows(&receipt.referral_id, DeliveryState::Done)
        .await?;
    assert!(
        gateway
            .store()?
            .referral(receipt.referral_id.parse()?)
            .await?
            .is_some()
    );
    Ok(receipt)
}

async fn a_cancel_that_races_a_booking_leaves_both_on_the_timeline(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, provider] = gateway.clients(["EE123456", "R1L"]).await?;
    for n in 60..66 {
        let receipt = taken(&gateway, &school, Child(n)).await?;
        let id = receipt.referral_id.as_str();
        let key = format!("cancel-{n}");
        let (cancelled, booked) = tokio::join!(
            school.cancel(&key, id),
            provider.status(id, 1, LegState::Booked)
        );
        let effect = cancelled?.legs.first().map(v1::LegEffect::effect);
        assert_eq!(
            effect,
            Some(CancelEffect::Queued),
            "the receiver knows the referral, so it is told"
        );
        booked?;
        assert_eq!(
            school.leg(id).await?.state(),
            LegState::Cancelled,
            "booked is not yet assessed"
        );
        let timeline = gateway.store()?.timeline(id.parse()?, 100).await?;
        let facts: Vec<EventKind> = timeline.iter().map(|e| e.event.kind).collect();
        for kind in [EventKind::Cancelled, EventKind::Status] {
            assert_eq!(
                facts.iter().filter(|k| **k == kind).count(),
                1,
                "{kind:?} stands once in {facts:?}"
            );
        }
        wait_until("the receiver is told", PATIENCE, || async {
            Ok((hospital.applied_of(&receipt.reference).len() == 2).then_some(()))
        })
        .await?;
        let kinds: Vec<String> = hospital
            .applied_of(&receipt.reference)
            .into_iter()
            .map(|f| f.kind)
            .collect();
        assert_eq!(kinds, ["REF^I12", "REF^I14"]);
    }
    Ok(())
}

async fn a_cancel_waits_behind_a_referral_that_is_still_being_tried(
    engine: Engine,
) -> anyhow::Result<()> {
    let mut hospital = Hospital::closed()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let receipt = school
        .submit("tried", &Child(61).referral("adhd-assessment"))
        .await?;
    let id = &receipt.referral_id;
    let first = admin.deliveries(id).await?.remove(0);
    wait_until("an attempt was made", PATIENCE, || async {
        let (delivery, _) = admin.delivery(&first.delivery_id).await?;
        Ok((delivery.attempts >= 1).then_some(()))
    })
    .await?;
    let cancelled = school.cancel("tried-no-more", id).await?;
    assert_eq!(
        cancelled.legs.first().map(v1::LegEffect::effect),
        Some(CancelEffect::Queued)
    );
    let kinds: Vec<MessageKind> = admin
        .deliveries(id)
        .await?
        .iter()
        .map(v1::Delivery::kind)
        .collect();
    assert_eq!(kinds, [MessageKind::New, MessageKind::Cancel]);
    hospital.up()?;
    wait_until("both have arrived", PATIENCE, || async {
        Ok((hospital.applied().len() == 2).then_some(()))
    })
    .await?;
    let kinds: Vec<String> = hospital.frames().into_iter().map(|f| f.kind).collect();
    assert_eq!(
        kinds,
        ["REF^I12", "REF^I14"],
        "the cancel never overtakes its referral"
    );
    // The same cancel again is the same cancel.
    school.cancel("tried-no-more", id).await?;
    assert_eq!(admin.deliveries(id).await?.len(), 2);
    Ok(())
}

async fn a_cancel_after_assessment_began_is_a_request(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, provider] = gateway.clients(["EE123456", "R1L"]).await?;
    let receipt = taken(&gateway, &school, Child(67)).await?;
    let id = &receipt.referral_id;
    provider.status(id, 1, LegState::InAssessment).await?;
    let cancelled = school.cancel("too-late", id).await?;
    assert_eq!(
        cancelled.legs.first().map(v1::LegEffect::effect),
        Some(CancelEffect::Requested)
    );
    assert_eq!(
        school.leg(id).await?.state(),
        LegState::InAssessment,
        "the receiver decides"
    );
    wait_until("the receiver is asked", PATIENCE, || async {
        Ok((hospital.applied().len() == 2).then_some(()))
    })
    .await?;
    provider.status(id, 2, LegState::Assessed).await?;
    assert_eq!(school.leg(id).await?.state(), LegState::Assessed);
    Ok(())
}

async fn a_cancel_before_any_attempt_sends_nothing(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, team] = gateway.clients(["EE123456", "SPEC1"]).await?;
    let admin = gateway.client("admin-LA882").await?;
    let receipt = school
        .submit("unsent", &Child(68).referral("specialist-teaching"))
        .await?;
    let id = &receipt.referral_id;
    let cancelled = school.cancel("unsent-no-more", id).await?;
    assert_eq!(
        cancelled.legs.first().map(v1::LegEffect::effect),
        Some(CancelEffect::NeverSent)
    );
    let leg = school.leg(id).await?;
    assert_eq!(
        (leg.state(), leg.delivery_state()),
        (LegState::Cancelled, DeliveryState::Cancelled)
    );
    assert!(team.fetch().await?.is_empty(), "nothing is sent");
    assert_eq!(admin.deliveries(id).await?.len(), 1, "not even a cancel");
    assert!(
        admin.conservation().await?.balanced,
        "and it is still accounted for"
    );
    Ok(())
}

async fn a_cancel_behind_a_refused_referral_is_not_needed(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, team] = gateway.clients(["EE123456", "SPEC1"]).await?;
    let admin = gateway.client("admin-LA882").await?;
    let receipt = school
        .submit("refused", &Child(69).referral("specialist-teaching"))
        .await?;
    let post = team.fetch_one(&receipt.referral_id).await?;
    school
        .cancel("refused-no-more", &receipt.referral_id)
        .await?;
    let reject = v1::RejectRequest {
        delivery_id: post.lent.delivery_id.clone(),
        lease_token: post.lent.lease_token.clone(),
        reason_code: "not-ours".to_owned(),
        reason: "not our area".to_owned(),
        fault: v1::Fault::Sender.into(),
    };
    team.mailbox().reject(reject).await?;
    let states: Vec<_> = admin
        .deliveries(&receipt.referral_id)
        .await?
        .iter()
        .map(v1::Delivery::state)
        .collect();
    assert_eq!(
        states,
        [DeliveryState::Rejected, DeliveryState::Cancelled],
        "nobody is told to stop what they refused"
    );
    assert!(team.fetch().await?.is_empty());
    Ok(())
}

async fn a_cancel_that_its_receiver_refuses_gives_the_leg_back(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let (school, team) = (
        gateway.client("EE123456").await?,
        gateway.client("SPEC1").await?,
    );
    let receipt = school
        .submit("kept", &Child(75).referral("specialist-teaching"))
        .await?;
    let id = receipt.referral_id.as_str();
    let post = team.fetch_one(id).await?;
    team.acknowledge(&post).await?;
    team.status(id, 1, LegState::Accepted).await?;
    school.cancel("kept-no-more", id).await?;
    assert_eq!(school.leg(id).await?.state(), LegState::Cancelled);
    // The team books before it reads the cancel, and then will not have it.
    team.status(id, 2, LegState::Booked).await?;
    assert_eq!(school.leg(id).await?.state(), LegState::Cancelled);
    let cancel = team.fetch_one(id).await?;
    assert_eq!(cancel.dispatch.kind(), MessageKind::Cancel);
    let reject = v1::RejectRequest {
        delivery_id: cancel.lent.delivery_id.clone(),
        lease_token: cancel.lent.lease_token.clone(),
        reason_code: "booked".to_owned(),
        reason: "the family comes on Monday".to_owned(),
        fault: v1::Fault::Sender.into(),
    };
    team.mailbox().reject(reject).await?;
    let leg = school.leg(id).await?;
    assert_eq!(leg.state(), LegState::Booked, "as its service sees it");
    assert!(
        !leg.next_action_due.is_empty(),
        "and somebody must act again"
    );
    let timeline = gateway.store()?.timeline(id.parse()?, 100).await?;
    let codes: Vec<&str> = timeline.iter().map(|e| e.event.code.as_str()).collect();
    assert_eq!(
        codes
            .iter()
            .filter(|code| **code == "cancel_refused")
            .count(),
        1,
        "{codes:?}"
    );
    assert!(
        timeline
            .iter()
            .any(|e| e.event.kind == EventKind::Cancelled)
    );
    // The case goes on.
    team.status(id, 3, LegState::InAssessment).await?;
    assert_eq!(school.leg(id).await?.state(), LegState::InAssessment);
    Ok(())
}

async fn an_amend_whose_answer_was_lost_is_answered_again_though_the_referral_moved_on(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let school = gateway.client("EE123456").await?;
    let content = Child(76).referral("specialist-teaching");
    let receipt = school.submit("before", &content).await?;
    let id = receipt.referral_id.as_str();
    let first = school.amend("after", id, &content).await?;
    school.cancel("over", id).await?;
    let again = school.amend("after", id, &content).await?;
    assert_eq!((again.event_id, again.duplicate), (first.event_id, true));
    let other = school.amend("never-sent", id, &content).await;
    assert!(other.is_err(), "what was never applied is refused");
    let mut changed = content;
    let fields = changed.as_object_mut().expect("a referral is an object");
    fields.insert("narrative".to_owned(), "sooner".into());
    assert!(
        school.amend("after", id, &changed).await.is_err(),
        "nor what says something else"
    );
    Ok(())
}

async fn withdrawn_consent_stops_what_was_not_sent_and_follows_what_was(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let [team, care] = gateway.clients(["SPEC1", "SC882"]).await?;
    // Three receivers: the hospital has it, the team has it on loan, social care has not fetched its post.
    let receipt = school
        .submit("three", &Child(27).referral("ehc-advice"))
        .await?;
    let id = &receipt.referral_id;
    wait_until("the hospital has it", PATIENCE, || async {
        Ok((hospital.applied().len() == 1).then_some(()))
    })
    .await?;
    let lent = team.fetch_one(id).await?;
    let request = withdrawal("stop", id);
    let answer = school
        .referrals()
        .withdraw_consent(request.clone())
        .await?
        .into_inner();
    let mut effects: Vec<CancelEffect> = answer.legs.iter().map(v1::LegEffect::effect).collect();
    effects.sort_unstable();
    assert_eq!(
        effects,
        [
            CancelEffect::NeverSent,
            CancelEffect::Queued,
            CancelEffect::Queued
        ]
    );

    wait_until("the hospital is told", PATIENCE, || async {
        Ok((hospital.applied().len() == 2).then_some(()))
    })
    .await?;
    let told = hospital.applied().pop().expect("the notice");
    assert_eq!(told.kind, "REF^I14");
    assert!(
        told.text
            .contains("CONSENT WITHDRAWN, STOP AND DO NOT SHARE FURTHER"),
        "{}",
        told.text
    );
    assert!(care.fetch().await?.is_empty(), "what was not sent never is");
    team.acknowledge(&lent).await?;
    let notice = team.fetch_one(id).await?;
    assert_eq!(notice.dispatch.kind(), MessageKind::Withdrawal);
    team.acknowledge(&notice).await?;

    // The history is kept, and nothing more goes out under consent that is gone.
    let timeline = gateway.store()?.timeline(id.parse()?, 100).await?;
    assert!(
        timeline
            .iter()
            .any(|e| e.event.kind == EventKind::ConsentWithdrawn)
    );
    let refused = school
        .amend("more", id, &Child(27).referral("ehc-advice"))
        .await;
    assert!(refused.is_err(), "an amendment would share again");
    assert!(
        school
            .referrals()
            .withdraw_consent(request)
            .await?
            .into_inner()
            .receipt
            .is_some_and(|r| r.duplicate)
    );
    assert!(admin.conservation().await?.balanced);
    Ok(())
}
