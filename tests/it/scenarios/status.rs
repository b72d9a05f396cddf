//! Scenario 21 and its kin: statuses that come late, twice or backwards are kept, flagged and harmless.

use waymark_core::leg::{LegState as State, Reception};
use waymark_core::port::EventKind;
use waymark_proto::v1;
use waymark_proto::v1::{DeliveryState, EvidenceGrade, LegState, UpdateEffect};
use waymark_tests::actors::{Hospital, Therapy, callback, rri, send};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, wait_until};

waymark_tests::both_engines! {
    an_acceptance_after_the_assessment_is_kept_and_moves_nothing,
    a_repeated_status_has_no_effect,
    a_signed_callback_raises_evidence_and_moves_the_leg,
    a_caller_s_trace_reaches_the_far_side,
}

async fn an_acceptance_after_the_assessment_is_kept_and_moves_nothing(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(
        engine,
        &Area {
            mllp: hospital.port(),
            ..Area::default()
        },
    )
    .await?;
    let (school, provider) = (
        gateway.client("EE123456").await?,
        gateway.client("R1L").await?,
    );
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
    let (school, team) = (
        gateway.client("EE123456").await?,
        gateway.client("SPEC1").await?,
    );
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
    let (school, admin) = (
        gateway.client("EE123456").await?,
        gateway.client("admin-LA882").await?,
    );
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
    let (school, team) = (
        gateway.client("EE123456").await?,
        gateway.client("SPEC1").await?,
    );
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
