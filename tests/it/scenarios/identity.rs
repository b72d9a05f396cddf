//! Scenario 19: no child is taken for another.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that reaches beside its own JSON fails, as it should"
)]

use serde_json::Value;
use waymark_proto::v1;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, field_violations, referral_key, upn};

waymark_tests::both_engines! {
    an_impossible_number_is_refused_by_its_field,
    children_of_one_name_and_birthday_stay_two_and_a_person_looks,
    an_unverified_number_matches_nobody,
    a_temporary_upn_matches_nobody,
    a_verified_number_finds_every_referral_of_the_child,
    a_conflict_between_number_and_upn_is_recorded_and_nothing_is_merged,
    an_amendment_never_makes_one_child_s_referral_another_s,
}

async fn listed(client: &Client, child: v1::ChildIdentifier) -> anyhow::Result<Vec<String>> {
    let request = v1::ListReferralsRequest {
        child: Some(child),
        ..v1::ListReferralsRequest::default()
    };
    let found = client
        .referrals()
        .list_referrals(request)
        .await?
        .into_inner();
    let mut ids: Vec<String> = found.referrals.into_iter().map(|r| r.referral_id).collect();
    ids.sort();
    Ok(ids)
}

fn by_number(number: &str) -> v1::ChildIdentifier {
    v1::ChildIdentifier {
        nhs_number: number.to_owned(),
        nhs_number_verification: v1::NhsNumberVerification::PresentAndVerified.into(),
        ..v1::ChildIdentifier::default()
    }
}

fn by_upn(upn: &str, born: &str) -> v1::ChildIdentifier {
    v1::ChildIdentifier {
        upn: upn.to_owned(),
        date_of_birth: born.to_owned(),
        ..v1::ChildIdentifier::default()
    }
}

fn with(child: Child, change: impl FnOnce(&mut Value)) -> Value {
    let mut referral = child.referral("specialist-teaching");
    change(&mut referral["child"]);
    referral
}

/// Two neighbouring digits that differ, the other way round.
fn swapped(number: &str) -> String {
    let mut digits: Vec<char> = number.chars().collect();
    let at = digits
        .windows(2)
        .position(|pair| pair.first() != pair.last())
        .unwrap_or_default();
    digits.swap(at, at + 1);
    digits.into_iter().collect()
}

async fn an_impossible_number_is_refused_by_its_field(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let school = gateway.client("EE123456").await?;
    let good = Child(90).nhs();
    // The booking and referral standard's own example fails its check digit.
    let wrong = [
        "4857773456".to_owned(),
        swapped(&good),
        "0000000000".to_owned(),
        "99912".to_owned(),
    ];
    for (n, number) in wrong.iter().enumerate() {
        let referral = with(Child(90), |c| c["nhsNumber"] = number.as_str().into());
        let refused = school
            .try_submit(&format!("bad-{n}"), &referral)
            .await
            .expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert_eq!(field_violations(&refused), ["referral.child.nhs_number"]);
        let told = format!("{refused:?}{}", String::from_utf8_lossy(refused.details()));
        assert!(
            !told.contains(number.as_str()),
            "a refusal does not repeat the number"
        );
    }
    let referral = with(Child(90), |c| c["upn"] = "A801200005001".into());
    let refused = school
        .try_submit("bad-upn", &referral)
        .await
        .expect_err("refused");
    assert_eq!(field_violations(&refused), ["referral.child.upn"]);
    // As people write it.
    let (area, rest) = good.split_at(3);
    let (middle, end) = rest.split_at(3);
    let spaced = format!("{area} {middle}-{end}");
    school
        .submit("good", &with(Child(90), |c| c["nhsNumber"] = spaced.into()))
        .await?;
    Ok(())
}

async fn children_of_one_name_and_birthday_stay_two_and_a_person_looks(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let (one, other) = (Child(91), Child(92));
    let first = school.submit("one", &with(one, |_| {})).await?;
    let twin = with(other, |c| {
        c["name"]["family"] = one.family().into();
        c["name"]["given"] = one.given().into();
    });
    let second = school.submit("other", &twin).await?;
    assert_eq!(
        listed(&school, by_number(&one.nhs())).await?,
        [first.referral_id]
    );
    assert_eq!(
        listed(&school, by_number(&other.nhs())).await?,
        std::slice::from_ref(&second.referral_id)
    );
    let alarms = admin.alarms("identity_conflict").await?;
    assert_eq!(
        alarms
            .iter()
            .map(|a| a.subject.as_str())
            .collect::<Vec<_>>(),
        [second.referral_id.as_str()]
    );
    // The same child again is no conflict.
    school.submit("one-again", &with(one, |_| {})).await?;
    assert_eq!(admin.alarms("identity_conflict").await?.len(), 1);
    Ok(())
}

async fn an_unverified_number_matches_nobody(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let school = gateway.client("EE123456").await?;
    let child = Child(93);
    let known = school.submit("known", &with(child, |_| {})).await?;
    let claimed = with(child, |c| {
        c["nhsNumberVerification"] = "NHS_NUMBER_VERIFICATION_PRESENT_NOT_TRACED".into();
        c["upn"] = "".into();
    });
    school.submit("claimed", &claimed).await?;
    assert_eq!(
        listed(&school, by_number(&child.nhs())).await?,
        [known.referral_id]
    );
    Ok(())
}

async fn a_temporary_upn_matches_nobody(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let school = gateway.client("EE123456").await?;
    let temporary = upn(94, Some('A'));
    let known_by_upn = |number: &str| {
        with(Child(94), |c| {
            c["upn"] = number.into();
            c["nhsNumber"] = "".into();
            c["nhsNumberVerification"] = "NHS_NUMBER_VERIFICATION_UNSPECIFIED".into();
        })
    };
    school.submit("first", &known_by_upn(&temporary)).await?;
    school.submit("second", &known_by_upn(&temporary)).await?;
    assert!(
        listed(&school, by_upn(&temporary, "2016-03-14"))
            .await?
            .is_empty(),
        "a temporary number finds nobody"
    );
    // The lasting one that replaces it does, and takes nothing of the temporary one along.
    let lasting = upn(94, None);
    let third = school.submit("third", &known_by_upn(&lasting)).await?;
    assert_eq!(
        listed(&school, by_upn(&lasting, "2016-03-14")).await?,
        [third.referral_id]
    );
    assert!(
        listed(&school, by_upn(&lasting, "2016-03-15"))
            .await?
            .is_empty(),
        "not without the right birthday"
    );
    Ok(())
}

async fn a_verified_number_finds_every_referral_of_the_child(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, stranger] = gateway.clients(["EE123456", "THER1"]).await?;
    let child = Child(95);
    let mut made = Vec::new();
    for n in 0..3 {
        made.push(
            school
                .submit(&format!("again-{n}"), &with(child, |_| {}))
                .await?
                .referral_id,
        );
    }
    made.sort();
    assert_eq!(listed(&school, by_number(&child.nhs())).await?, made);
    assert!(
        listed(&stranger, by_number(&child.nhs())).await?.is_empty(),
        "of another agency nothing is told"
    );
    Ok(())
}

async fn a_conflict_between_number_and_upn_is_recorded_and_nothing_is_merged(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let (one, other) = (Child(96), Child(97));
    let first = school.submit("first", &with(one, |_| {})).await?;
    assert!(admin.alarms("identity_conflict").await?.is_empty());
    // Another verified number beside the same UPN and birthday: one of the two records is wrong.
    let second = school
        .submit("second", &with(other, |c| c["upn"] = one.upn().into()))
        .await?;
    let alarms = admin.alarms("identity_conflict").await?;
    assert_eq!(alarms.len(), 1, "a person must look");
    let alarm = alarms.first().expect("one");
    assert_eq!(alarm.subject, second.referral_id);
    assert!(alarm.owner.is_some());
    assert!(
        one.secrets()
            .iter()
            .chain(&other.secrets())
            .all(|s| !alarm.message.contains(s))
    );
    assert_eq!(
        listed(&school, by_number(&one.nhs())).await?,
        [first.referral_id],
        "nothing is merged"
    );
    assert_eq!(
        listed(&school, by_number(&other.nhs())).await?,
        [second.referral_id]
    );
    Ok(())
}

async fn an_amendment_never_makes_one_child_s_referral_another_s(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, team] = gateway.clients(["EE123456", "SPEC1"]).await?;
    let mut sent = Vec::new();
    for n in [360, 361] {
        let content = Child(n).referral("specialist-teaching");
        sent.push(school.submit(&format!("of-{n}"), &content).await?);
    }
    let [one, _other] = <[_; 2]>::try_from(sent).expect("two");
    let other = Child(361).referral("specialist-teaching");
    let refused = school.amend("swapped", &one.referral_id, &other).await;
    let refused = refused.expect_err("refused");
    let refused: &tonic::Status = refused.downcast_ref().expect("the gateway's refusal");
    assert_eq!(
        (refused.code(), field_violations(refused)),
        (
            tonic::Code::FailedPrecondition,
            vec!["referral.child".to_owned()]
        )
    );
    assert_eq!(school.referral(&one.referral_id).await?.version, 1);
    // The words of a status are content: shown with it, to whoever may read it and says why.
    let change = v1::StatusChange {
        state: v1::LegState::Accepted.into(),
        source_version: 1,
        text_for_family: "We will write to you".to_owned(),
        ..v1::StatusChange::default()
    };
    let status = v1::UpdateStatusRequest {
        key: Some(referral_key(&one.referral_id)),
        change: Some(change),
        ..v1::UpdateStatusRequest::default()
    };
    team.referrals().update_status(status).await?;
    assert_eq!(school.leg(&one.referral_id).await?.text_for_family, "");
    let read = v1::GetReferralRequest {
        key: Some(referral_key(&one.referral_id)),
        include_content: true,
        purpose: v1::AccessPurpose::DirectCare.into(),
    };
    let read = school.referrals().get_referral(read).await?.into_inner();
    let legs = read.referral.expect("the referral").legs;
    assert_eq!(
        legs.first().map(|l| l.text_for_family.as_str()),
        Some("We will write to you")
    );
    Ok(())
}
