//! Scenario 21 and its kin: statuses that come late, twice or backwards are kept, flagged and harmless.

use waymark_core::leg::{LegState as State, Reception};
use waymark_core::port::EventKind;
use waymark_proto::v1;
use waymark_proto::v1::{DeliveryState, EvidenceGrade, LegState, UpdateEffect};
use waymark_tests::actors::{Hospital, Therapy, callback, rri, send};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{
    Area, Child, Gateway, PATIENCE, field_violations, referral_key, wait_until,
};

waymark_tests::both_engines! {
    an_acceptance_after_the_assessment_is_kept_and_moves_nothing,
    a_repeated_status_has_no_effect,
    a_signed_callback_raises_evidence_and_moves_the_leg,
    a_caller_s_trace_reaches_the_far_side,
    a_service_names_the_role_that_acts_next,
    an_amendment_answers_the_legs_that_it_names,
}

async fn an_acceptance_after_the_assessment_is_kept_and_moves_nothing(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, provider] = gateway.clients(["EE123456", "R1L"]).await?;
    let receipt = school
        .submit("late", &Child(21).referral("adhd-assessment"))
        .await?;
    let id = &receipt.referral_id;
    school.leg_shows(id, DeliveryState::Done).await?;
    for (version, state) in [
        (1, LegState::Booked),
        (2, LegState::InAssessment),
        (3, LegState::Assessed),
    ] {
        let answer = provider.status(id, version, state).await?;
        assert_eq!(answer.effect(), UpdateEffect::Applied, "{state:?}");
    }
    let refused = provider.status(id, u64::MAX, LegState::Booked).await;
    let refused = refused.expect_err("no such version");
    assert_eq!(field_violations(&refused), ["source_version"]);
    let mut unborn = Child(21).referral("adhd-assessment");
    let born = unborn.pointer_mut("/child/dateOfBirth");
    *born.expect("a day of birth") = "2999-01-01".into();
    let refused = school.amend("unborn", id, &unborn).await;
    let refused: tonic::Status = refused.expect_err("a day to come").downcast()?;
    assert_eq!(field_violations(&refused), ["referral.child.date_of_birth"]);

    // The hospital's own system sends its acceptance late, by MLLP.
    let listener = *gateway
        .app()?
        .mllp
        .get("r1l")
        .expect("the listener of mllp:r1l");
    let answer = send(listener, &rri("LATE1", &receipt.reference, "A")).await?;
    assert!(answer.contains("MSA|AA|LATE1"), "it is taken: {answer}");
    assert_eq!(
        school.leg(id).await?.state(),
        LegState::Assessed,
        "the state stays"
    );

    let timeline = gateway.store()?.timeline(id.parse()?, 100).await?;
    let told: Vec<_> = timeline
        .iter()
        .filter(|e| e.event.kind == EventKind::Status)
        .map(|e| (e.event.state, e.event.reception))
        .collect();
    let applied = |state| (Some(state), Some(Reception::Applied));
    assert_eq!(
        told,
        [
            applied(State::Booked),
            applied(State::InAssessment),
            applied(State::Assessed),
            (Some(State::Accepted), Some(Reception::OutOfOrder)),
        ],
        "both are kept, the late one flagged"
    );

    // The same message again is the same message.
    let again = send(listener, &rri("LATE1", &receipt.reference, "A")).await?;
    assert!(again.contains("MSA|AA|LATE1"), "{again}");
    assert_eq!(
        gateway.store()?.timeline(id.parse()?, 100).await?.len(),
        timeline.len()
    );
    Ok(())
}

async fn a_repeated_status_has_no_effect(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, team] = gateway.clients(["EE123456", "SPEC1"]).await?;
    let receipt = school
        .submit("twice", &Child(22).referral("specialist-teaching"))
        .await?;
    let id = &receipt.referral_id;
    assert_eq!(
        team.status(id, 7, LegState::Accepted).await?.effect(),
        UpdateEffect::Applied
    );
    let version = school.referral(id).await?.version;
    assert_eq!(
        team.status(id, 7, LegState::Accepted).await?.effect(),
        UpdateEffect::Repeated
    );
    assert_eq!(
        team.status(id, 7, LegState::Declined).await?.effect(),
        UpdateEffect::Repeated,
        "a version counts once"
    );
    assert_eq!(school.referral(id).await?.version, version);
    // Ended is ended: a later word is kept and moves nothing.
    assert_eq!(
        team.status(id, 8, LegState::Declined).await?.effect(),
        UpdateEffect::Applied
    );
    assert_eq!(
        team.status(id, 9, LegState::Booked).await?.effect(),
        UpdateEffect::OutOfOrder
    );
    assert_eq!(school.leg(id).await?.state(), LegState::Declined);
    Ok(())
}

async fn a_signed_callback_raises_evidence_and_moves_the_leg(engine: Engine) -> anyhow::Result<()> {
    let mut therapy = Therapy::bind().await?;
    let gateway = Gateway::start(
        engine,
        &Area {
            webhook: therapy.port(),
            ..Area::default()
        },
    )
    .await?;
    therapy.serve(
        &gateway.issue("waymark:test:agency:THER1")?,
        &gateway.secret("therapy-webhook")?,
    )?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let receipt = school
        .submit("called-back", &Child(23).referral("speech-language"))
        .await?;
    let id = &receipt.referral_id;
    let leg = school.leg_shows(id, DeliveryState::Done).await?;
    assert_eq!(
        leg.evidence(),
        EvidenceGrade::ApplicationAck,
        "a 2xx that echoes the id is no person's word"
    );
    let delivery = admin.deliveries(id).await?.remove(0);

    let (address, ca) = (
        gateway.app()?.callback.expect("callbacks are taken"),
        gateway.ca()?,
    );
    let body = serde_json::json!({
        "type": "referral.status", "environment": "test", "referral": receipt.reference,
        "answers": delivery.wire_id, "state": "accepted", "source_version": 1, "accepted_by": "Ada Okoro",
    });
    let secret = gateway.secret("therapy-callback")?;
    let stranger = gateway.secret("therapy-webhook")?;
    let refused = callback(address, &ca, "therapy-webhook", &stranger, "msg_0", &body).await?;
    assert_eq!(refused, 401, "only the endpoint's own secret speaks for it");
    assert_eq!(
        callback(address, &ca, "therapy-webhook", &secret, "msg_1", &body).await?,
        200
    );
    let leg = school.leg(id).await?;
    assert_eq!(
        (leg.state(), leg.evidence()),
        (LegState::Accepted, EvidenceGrade::HumanAcceptance)
    );
    Ok(())
}

async fn a_caller_s_trace_reaches_the_far_side(engine: Engine) -> anyhow::Result<()> {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut therapy = Therapy::bind().await?;
    let area = Area {
        webhook: therapy.port(),
        ..Area::default()
    };
    let gateway = Gateway::start(engine, &area).await?;
    therapy.serve(
        &gateway.issue("waymark:test:agency:THER1")?,
        &gateway.secret("therapy-webhook")?,
    )?;
    let [school, team] = gateway.clients(["EE123456", "SPEC1"]).await?;
    for (n, pathway) in (24..).zip(["speech-language", "specialist-teaching"]) {
        let mut request = tonic::Request::new(v1::SubmitReferralRequest {
            request_id: pathway.to_owned(),
            referral: Some(serde_json::from_value(Child(n).referral(pathway))?),
            want_proof: false,
        });
        let metadata = request.metadata_mut();
        metadata.insert(
            "traceparent",
            format!("00-{TRACE}-00f067aa0ba902b7-01").parse()?,
        );
        metadata.insert("tracestate", "vendor=secret".parse()?);
        school.referrals().submit_referral(request).await?;
    }
    let hook = wait_until("the webhook has come", PATIENCE, || async {
        Ok(therapy.hooks().pop())
    })
    .await?;
    assert!(
        hook.traceparent
            .is_some_and(|parent| parent.contains(TRACE))
    );
    let post = wait_until("the post has come", PATIENCE, || async {
        Ok(team.fetch().await?.pop())
    })
    .await?;
    assert!(post.lent.traceparent.contains(TRACE));
    Ok(())
}

async fn a_service_names_the_role_that_acts_next(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, team] = gateway.clients(["EE123456", "SPEC1"]).await?;
    let content = Child(25).referral("specialist-teaching");
    let receipt = school.submit("role", &content).await?;
    let id = &receipt.referral_id;
    let report = |source_version, state: LegState, role: &str| v1::UpdateStatusRequest {
        key: Some(referral_key(id)),
        change: Some(v1::StatusChange {
            state: state.into(),
            source_version,
            owner_role: role.to_owned(),
            ..v1::StatusChange::default()
        }),
        ..v1::UpdateStatusRequest::default()
    };
    let owner = async || {
        let owner = school.leg(id).await?.owner.expect("an owner");
        anyhow::Ok((owner.agency_id, owner.role))
    };
    let is = |agency: &str, role: &str| (agency.to_owned(), role.to_owned());
    let update = |request| async { team.referrals().update_status(request).await };
    assert_eq!(owner().await?, is("SPEC1", "Team lead"));
    update(report(1, LegState::Accepted, "dyslexia-lead")).await?;
    assert_eq!(owner().await?, is("SPEC1", "dyslexia-lead"));
    // The same state again may name another; one that names none leaves it.
    update(report(2, LegState::Accepted, "Outreach desk")).await?;
    assert_eq!(owner().await?, is("SPEC1", "Outreach desk"));
    update(report(3, LegState::Booked, "")).await?;
    assert_eq!(owner().await?, is("SPEC1", "Outreach desk"));
    // It is the sender's turn, and then the service's own again.
    update(report(4, LegState::InfoNeeded, "")).await?;
    assert_eq!(owner().await?, is("EE123456", "referrer"));
    school.amend("answer", id, &content).await?;
    assert_eq!(owner().await?, is("SPEC1", "Team lead"));
    let refused = update(report(5, LegState::Accepted, &"x".repeat(101))).await;
    assert_eq!(
        field_violations(&refused.expect_err("too long")),
        ["change.owner_role"]
    );
    let stream = gateway.stream(&receipt.stream_id).await?;
    let roles: Vec<_> = stream.iter().filter_map(|e| e.fact("owner_role")).collect();
    assert_eq!(roles, ["dyslexia-lead"], "words stay out of the log");
    Ok(())
}

async fn an_amendment_answers_the_legs_that_it_names(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, team, care] = gateway.clients(["EE123456", "SPEC1", "SC882"]).await?;
    let content = Child(26).referral("ehc-advice");
    let receipt = school.submit("asked", &content).await?;
    let id = &receipt.referral_id;
    for client in [&team, &care] {
        client.status(id, 1, LegState::InfoNeeded).await?;
    }
    let record = school.referral(id).await?;
    let [health, education, social] = <[v1::Leg; 3]>::try_from(record.legs).expect("three legs");
    let amend = |answers: Vec<String>, version: u64| {
        anyhow::Ok(v1::AmendReferralRequest {
            request_id: "answer".to_owned(),
            key: Some(referral_key(id)),
            expected_version: version,
            referral: Some(serde_json::from_value(content.clone())?),
            answers_leg_ids: answers,
            ..v1::AmendReferralRequest::default()
        })
    };
    let refused = school
        .referrals()
        .amend_referral(amend(vec![health.leg_id], record.version)?)
        .await
        .expect_err("it asked for nothing");
    assert_eq!(field_violations(&refused), ["answers_leg_ids"]);
    let answers = amend(vec![education.leg_id.clone()], record.version)?;
    let first = school.referrals().amend_referral(answers.clone()).await?;
    let first = first.into_inner().receipt.expect("a receipt");
    assert_eq!(first.version, record.version + 1);
    let state = async |leg: &str| {
        let legs = school.referral(id).await?.legs;
        let leg = legs.iter().find(|l| l.leg_id == leg).map(v1::Leg::state);
        anyhow::Ok(leg.expect("the leg"))
    };
    assert_eq!(state(&education.leg_id).await?, LegState::InTriage);
    assert_eq!(state(&social.leg_id).await?, LegState::InfoNeeded);

    // The same message again has the same receipt, though the referral has moved on; another under its key is refused.
    team.status(id, 2, LegState::Accepted).await?;
    let again = school.referrals().amend_referral(answers).await?;
    let again = again.into_inner().receipt.expect("a receipt");
    assert!(again.duplicate);
    assert_eq!(
        (again.event_id, again.version),
        (first.event_id, first.version)
    );
    let other = amend(vec![social.leg_id.clone()], record.version + 2)?;
    let refused = school.referrals().amend_referral(other).await;
    assert_eq!(
        refused.expect_err("refused").code(),
        tonic::Code::AlreadyExists
    );
    // Where none is named, whoever asked is answered.
    school.amend("all", id, &content).await?;
    assert_eq!(state(&social.leg_id).await?, LegState::InTriage);
    Ok(())
}
