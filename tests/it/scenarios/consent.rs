//! Consent withdrawn in part: whom it no longer covers is sent nothing more, and the others go on.

use waymark_proto::v1;
use waymark_proto::v1::{CancelEffect, ConsentScope, DeliveryState, LegState, MessageKind};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, reason_of, referral_key};

waymark_tests::both_engines! {
    a_withdrawal_in_part_stops_whom_it_covered_and_no_other,
    whoever_had_it_is_told_what_was_withdrawn_and_by_whom,
    whoever_was_sent_nothing_reads_nothing_once_consent_is_withdrawn,
}

/// Withdraws some scopes; answers what it did to each service's leg.
async fn withdraw(
    school: &Client,
    referral: &str,
    scopes: &[ConsentScope],
) -> anyhow::Result<Vec<(String, CancelEffect)>> {
    let request = v1::WithdrawConsentRequest {
        request_id: format!("withdraw-{scopes:?}").replace(['[', ']', ' ', ','], "-"),
        key: Some(referral_key(referral)),
        withdrawal: Some(v1::ConsentWithdrawal {
            scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
            withdrawn_by: "Marisol".to_owned(),
            role: v1::ConsentGiverRole::ParentWithPr.into(),
            date: "2026-02-01".to_owned(),
            evidence: "by telephone".to_owned(),
        }),
        want_proof: false,
    };
    let answer = school.referrals().withdraw_consent(request).await?;
    let legs = school.referral(referral).await?.legs;
    let effects = answer.into_inner().legs.into_iter().map(|effect| {
        let leg = legs.iter().find(|leg| leg.leg_id == effect.leg_id);
        let service = leg.map(|leg| leg.service_id.clone()).unwrap_or_default();
        (service, effect.effect())
    });
    Ok(effects.collect())
}

async fn a_withdrawal_in_part_stops_whom_it_covered_and_no_other(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, admin, team, care] = gateway
        .clients(["EE123456", "admin-LA882", "SPEC1", "SC882"])
        .await?;
    let advice = Child(46).referral("ehc-advice");
    let receipt = school.submit("in-part", &advice).await?;
    let id = &receipt.referral_id;
    let effects = withdraw(&school, id, &[ConsentScope::ShareEducation]).await?;
    let of = |service: &str, effect| (service.to_owned(), effect);
    assert_eq!(
        effects,
        [
            of("paediatrics", CancelEffect::Unaffected),
            of("specialist-teaching", CancelEffect::NeverSent),
            of("social-care", CancelEffect::Unaffected),
        ]
    );
    let states: Vec<LegState> = school
        .referral(id)
        .await?
        .legs
        .iter()
        .map(v1::Leg::state)
        .collect();
    assert_eq!(
        states,
        [
            LegState::Submitted,
            LegState::Cancelled,
            LegState::Submitted
        ]
    );

    // The others go on, and an amendment reaches them alone.
    let post = care.fetch_one(id).await?;
    care.acknowledge(&post).await?;
    school.amend("more", id, &advice).await?;
    let amended = care.fetch_one(id).await?;
    assert_eq!(amended.dispatch.kind(), MessageKind::Amend);
    assert!(amended.dispatch.version > post.dispatch.version);
    assert!(team.fetch().await?.is_empty(), "what was not sent never is");

    // Nor does an operator share it by another way.
    let had = admin.delivery(&post.lent.delivery_id).await?.0;
    let redirect = v1::RedirectRequest {
        delivery_id: had.delivery_id,
        reason: "for the test".to_owned(),
        expected_version: had.version,
        target: Some(v1::redirect_request::Target::ServiceId(
            "specialist-teaching".to_owned(),
        )),
    };
    let refused = admin.admin().redirect(redirect).await.expect_err("refused");
    assert_eq!(reason_of(&refused), "CONSENT_WITHDRAWN");

    // What is left of it can be withdrawn too.
    let effects = withdraw(&school, id, &[]).await?;
    assert_eq!(
        effects.get(1),
        Some(&of("specialist-teaching", CancelEffect::AlreadyEnded))
    );
    assert_eq!(
        effects.get(2),
        Some(&of("social-care", CancelEffect::Queued))
    );
    assert!(school.amend("too-much", id, &advice).await.is_err());
    assert!(admin.conservation().await?.balanced);

    let stream = gateway.stream(&receipt.stream_id).await?;
    let logged: Vec<_> = stream.iter().filter_map(|e| e.fact("scopes")).collect();
    assert_eq!(logged, ["share_education", "referral"]);
    Ok(())
}

async fn whoever_had_it_is_told_what_was_withdrawn_and_by_whom(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, admin, team] = gateway
        .clients(["EE123456", "admin-LA882", "SPEC1"])
        .await?;
    let receipt = school
        .submit("told", &Child(47).referral("specialist-teaching"))
        .await?;
    let id = &receipt.referral_id;
    let post = team.fetch_one(id).await?;
    let leg = school.leg(id).await?;
    assert_eq!(
        (post.dispatch.leg_id.as_str(), post.dispatch.version),
        (leg.leg_id.as_str(), 1)
    );
    // What was to be sent next is not: it was not shared before.
    let mut more = Child(47).referral("specialist-teaching");
    if let Some(more) = more.as_object_mut() {
        more.insert("narrative".to_owned(), "said since".into());
    }
    school.amend("more", id, &more).await?;
    let effects = withdraw(&school, id, &[ConsentScope::FamilyMessages]).await?;
    assert_eq!(effects.first().map(|e| e.1), Some(CancelEffect::Unaffected));
    let effects = withdraw(&school, id, &[ConsentScope::ShareEducation]).await?;
    assert_eq!(effects.first().map(|e| e.1), Some(CancelEffect::Queued));
    team.acknowledge(&post).await?;
    let notice = team.fetch_one(id).await?;
    assert_eq!(notice.dispatch.kind(), MessageKind::Withdrawal);
    let said = notice.dispatch.withdrawal.clone().expect("what was said");
    assert_eq!(
        (
            said.scopes().collect::<Vec<_>>(),
            said.withdrawn_by.as_str()
        ),
        (vec![ConsentScope::ShareEducation], "Marisol")
    );
    assert_eq!(
        (said.role(), said.date.as_str(), said.evidence.as_str()),
        (
            v1::ConsentGiverRole::ParentWithPr,
            "2026-02-01",
            "by telephone"
        )
    );
    team.acknowledge(&notice).await?;

    // The same bytes are not sent again either, but the notice may be.
    let resend = |of: v1::Delivery| v1::ResendRequest {
        delivery_id: of.delivery_id,
        reason: "for the test".to_owned(),
        expected_version: of.version,
    };
    let all = admin.deliveries(id).await?;
    let states: Vec<DeliveryState> = all.iter().map(v1::Delivery::state).collect();
    let (done, aside) = (DeliveryState::Done, DeliveryState::Superseded);
    assert_eq!(states, [done, aside, done]);
    let [first, _, second] = <[v1::Delivery; 3]>::try_from(all).expect("three deliveries");
    let refused = admin.admin().resend(resend(first)).await;
    let refused = refused.expect_err("refused");
    assert_eq!(reason_of(&refused), "CONSENT_WITHDRAWN");
    admin.admin().resend(resend(second)).await?;
    let again = team.fetch_one(id).await?;
    assert_eq!(again.dispatch.kind(), MessageKind::Withdrawal);
    Ok(())
}

/// What a caller learns of a referral: whether it is listed, and what its key and its document answer.
async fn learns(
    client: &Client,
    referral: &str,
    document: &str,
) -> anyhow::Result<(bool, [tonic::Code; 3])> {
    let list = v1::ListReferralsRequest::default();
    let listed = client.referrals().list_referrals(list).await?.into_inner();
    let listed = listed.referrals.iter().any(|r| r.referral_id == referral);
    let get = |include_content| v1::GetReferralRequest {
        key: Some(referral_key(referral)),
        include_content,
        purpose: v1::AccessPurpose::DirectCare.into(),
    };
    let record = client.referrals().get_referral(get(false)).await;
    let content = client.referrals().get_referral(get(true)).await;
    let content = content.map(|answer| answer.into_inner().referral);
    if let Ok(record) = &content {
        assert!(record.as_ref().is_some_and(|r| r.content.is_some()));
    }
    let document = client.download(document).await;
    let code = |refused: Option<tonic::Status>| refused.map_or(tonic::Code::Ok, |s| s.code());
    Ok((
        listed,
        [
            code(record.err()),
            code(content.err()),
            code(document.err()),
        ],
    ))
}

async fn whoever_was_sent_nothing_reads_nothing_once_consent_is_withdrawn(
    engine: Engine,
) -> anyhow::Result<()> {
    use tonic::Code::{NotFound, Ok as Read};
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, team, care] = gateway.clients(["EE123456", "SPEC1", "SC882"]).await?;
    let report = b"a report";
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, report);
    let uploaded = school
        .upload("report", "application/pdf", report, sha256.as_ref())
        .await?;
    let document = uploaded.document.expect("a document");
    let mut advice = Child(48).referral("ehc-advice");
    if let Some(advice) = advice.as_object_mut() {
        advice.insert("documents".to_owned(), serde_json::json!([document]));
    }
    let id = school.submit("read-on", &advice).await?.referral_id;
    let document = document.document_id;
    let post = care.fetch_one(&id).await?;
    care.acknowledge(&post).await?;
    for receiver in [&team, &care] {
        let whole = learns(receiver, &id, &document).await?;
        assert_eq!(whole, (true, [Read; 3]), "consent stands");
    }

    withdraw(&school, &id, &[]).await?;
    let nothing = (false, [NotFound; 3]);
    assert_eq!(learns(&team, &id, &document).await?, nothing);
    let refused = team.status(&id, 1, LegState::Accepted).await;
    assert_eq!(refused.expect_err("a stranger").code(), NotFound);

    // Who had it sees that consent is withdrawn, and reads no more of it here; the sender's own stays its own.
    let told = (true, [Read, NotFound, NotFound]);
    assert_eq!(learns(&care, &id, &document).await?, told);
    let own = (true, [Read; 3]);
    assert_eq!(learns(&school, &id, &document).await?, own);

    // A page that is emptied by what may not be shown is not the last one for that.
    let later = Child(49).referral("specialist-teaching");
    let old = school.submit("older", &later).await?.referral_id;
    let later = Child(50).referral("specialist-teaching");
    let hidden = school.submit("hidden", &later).await?.referral_id;
    withdraw(&school, &hidden, &[ConsentScope::ShareEducation]).await?;
    let mut list = v1::ListReferralsRequest {
        page_size: 1,
        ..v1::ListReferralsRequest::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = team.referrals().list_referrals(list.clone()).await?;
        let page = page.into_inner();
        seen.extend(page.referrals.into_iter().map(|r| r.referral_id));
        list.page_token = page.next_page_token;
        if list.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [old]);
    Ok(())
}
