//! What administrators do to stuck work: parked lanes, what waits behind them, and another way to the same agency.

use waymark_core::audit::EntryKind;
use waymark_proto::v1;
use waymark_proto::v1::{DeliveryState, MessageKind, park_lane_request, resume_lane_request};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway};

waymark_tests::both_engines! {
    an_amendment_waits_behind_a_parked_referral_whichever_came_first,
    a_lane_is_parked_and_resumed_as_a_whole_and_no_other,
    a_redirect_within_the_agency_keeps_the_leg_and_takes_what_waits_along,
    the_digest_of_a_body_is_for_readers_and_each_read_is_logged,
    deliveries_are_listed_oldest_first_page_by_page,
}

const REASON: &str = "for the test";

async fn park(admin: &Client, target: park_lane_request::Target) -> anyhow::Result<u32> {
    let request = v1::ParkLaneRequest {
        target: Some(target),
        reason: REASON.to_owned(),
    };
    let answer = admin.admin().park_lane(request).await?.into_inner();
    assert_eq!(answer.deliveries.len(), usize::try_from(answer.parked)?);
    Ok(answer.parked)
}

async fn resume(admin: &Client, target: resume_lane_request::Target) -> anyhow::Result<u32> {
    let request = v1::ResumeLaneRequest {
        target: Some(target),
        reason: REASON.to_owned(),
    };
    Ok(admin
        .admin()
        .resume_lane(request)
        .await?
        .into_inner()
        .resumed)
}

/// Takes all the post that comes until a mailbox is empty; answers what it was.
async fn emptied(team: &Client) -> anyhow::Result<Vec<(MessageKind, u64)>> {
    let mut taken = Vec::new();
    loop {
        let post = team.fetch().await?;
        if post.is_empty() {
            return Ok(taken);
        }
        for one in post {
            team.acknowledge(&one).await?;
            taken.push((one.dispatch.kind(), one.dispatch.version));
        }
    }
}

async fn an_amendment_waits_behind_a_parked_referral_whichever_came_first(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, admin, team] = gateway
        .clients(["EE123456", "admin-LA882", "SPEC1"])
        .await?;
    let content = Child(340).referral("specialist-teaching");
    let receipt = school.submit("parked", &content).await?;
    let id = &receipt.referral_id;
    let first = admin.deliveries(id).await?.remove(0).delivery_id;
    park(&admin, park_lane_request::Target::DeliveryId(first.clone())).await?;
    school.amend("first-change", id, &content).await?;
    school.amend("second-change", id, &content).await?;
    let waiting = admin.deliveries(id).await?;
    assert!(waiting.iter().all(|d| d.state() == DeliveryState::Parked));
    let reasons: Vec<String> = waiting
        .iter()
        .filter_map(|d| d.park.as_ref().map(|park| park.reason_code.clone()))
        .collect();
    assert_eq!(reasons, ["operator", "behind", "behind"]);
    assert!(team.fetch().await?.is_empty(), "nothing overtakes");
    assert_eq!(
        admin.alarms("parked").await?.len(),
        3,
        "somebody is told of each"
    );
    assert!(admin.conservation().await?.balanced);
    let preview = v1::PreviewResendRequest {
        delivery_id: first.clone(),
    };
    let preview = admin.admin().preview_resend(preview).await?.into_inner();
    assert_eq!(preview.waiting_behind, 2);

    let resumed = resume(&admin, resume_lane_request::Target::DeliveryId(first)).await?;
    assert_eq!(resumed, 3, "they are resumed with it");
    let taken = emptied(&team).await?;
    assert_eq!(
        taken,
        [
            (MessageKind::New, 1),
            (MessageKind::Amend, 2),
            (MessageKind::Amend, 3)
        ],
        "in order"
    );
    assert!(admin.alarms("parked").await?.is_empty());

    // The other order: what waits behind a delivery when it is parked is parked with it.
    school.amend("third-change", id, &content).await?;
    school.amend("fourth-change", id, &content).await?;
    let all = admin.deliveries(id).await?;
    let queued = all.iter().find(|d| d.state() == DeliveryState::Queued);
    let third = queued.expect("an amendment waits").delivery_id.clone();
    let parked = park(&admin, park_lane_request::Target::DeliveryId(third.clone())).await?;
    assert_eq!(parked, 2);
    school.amend("fifth-change", id, &content).await?;
    assert!(team.fetch().await?.is_empty());
    resume(&admin, resume_lane_request::Target::DeliveryId(third)).await?;
    let versions: Vec<u64> = emptied(&team).await?.iter().map(|t| t.1).collect();
    assert_eq!(versions, [4, 5, 6]);
    assert!(admin.conservation().await?.balanced);
    Ok(())
}

async fn a_lane_is_parked_and_resumed_as_a_whole_and_no_other(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, admin, team] = gateway
        .clients(["EE123456", "admin-LA882", "SPEC1"])
        .await?;
    let mut ids = Vec::new();
    for (key, child) in [("one", 341), ("two", 341), ("other", 342)] {
        let content = Child(child).referral("specialist-teaching");
        ids.push(school.submit(key, &content).await?.referral_id);
    }
    let mut deliveries = Vec::new();
    for id in &ids {
        deliveries.push(admin.deliveries(id).await?.remove(0));
    }
    let lanes: Vec<&str> = deliveries.iter().map(|d| d.lane_id.as_str()).collect();
    assert_eq!(lanes.first(), lanes.get(1), "one child, one lane");
    assert_ne!(lanes.first(), lanes.get(2), "another child, another lane");
    let lane = deliveries.remove(0).lane_id;

    let listed = v1::ListDeliveriesRequest {
        lane_id: lane.clone(),
        ..v1::ListDeliveriesRequest::default()
    };
    let listed = admin.admin().list_deliveries(listed).await?.into_inner();
    assert_eq!(listed.deliveries.len(), 2);
    let target = park_lane_request::Target::LaneId(lane.clone());
    assert_eq!(park(&admin, target.clone()).await?, 2);
    let again = v1::ParkLaneRequest {
        target: Some(target),
        reason: REASON.to_owned(),
    };
    let refused = admin.admin().park_lane(again).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let post = team.fetch().await?;
    assert_eq!(post.len(), 1, "the other child's post goes on");
    assert_eq!(
        post.first().map(|p| p.dispatch.referral_id.as_str()),
        ids.get(2).map(String::as_str)
    );

    let resumed = resume(&admin, resume_lane_request::Target::LaneId(lane)).await?;
    assert_eq!(resumed, 2);
    assert_eq!(emptied(&team).await?.len(), 2);
    gateway.sequenced().await?;
    let acts = gateway.entries().await?;
    let acts = acts
        .iter()
        .filter_map(|bytes| waymark_core::audit::LogEntry::decode(bytes).ok())
        .filter(|entry| entry.kind == EntryKind::AdminAction && entry.fact("action").is_some())
        .filter(|entry| matches!(entry.fact("action"), Some("park" | "resume")))
        .count();
    assert_eq!(acts, 4, "each delivery's park and resume is in the log");
    assert!(admin.conservation().await?.balanced);
    Ok(())
}

async fn a_redirect_within_the_agency_keeps_the_leg_and_takes_what_waits_along(
    engine: Engine,
) -> anyhow::Result<()> {
    let second = "[[endpoint]]\nid = \"spec1-second\"\nagency = \"SPEC1\"\nadapter = \"mailbox\"\n";
    let gateway = Gateway::start(engine, &Area::with(second)).await?;
    let [school, admin, team] = gateway
        .clients(["EE123456", "admin-LA882", "SPEC1"])
        .await?;
    let content = Child(343).referral("specialist-teaching");
    let receipt = school.submit("elsewhere", &content).await?;
    let id = &receipt.referral_id;
    let first = admin.deliveries(id).await?.remove(0);
    let target = park_lane_request::Target::DeliveryId(first.delivery_id.clone());
    park(&admin, target).await?;
    school.amend("change", id, &content).await?;
    let leg = school.leg(id).await?.leg_id;
    let parked = admin.delivery(&first.delivery_id).await?.0;
    let redirect = |endpoint: &str| v1::RedirectRequest {
        delivery_id: parked.delivery_id.clone(),
        reason: REASON.to_owned(),
        expected_version: parked.version,
        target: Some(v1::redirect_request::Target::EndpointId(
            endpoint.to_owned(),
        )),
    };
    for wrong in ["sc882-mailbox", "spec1-mailbox", "nowhere"] {
        let refused = admin.admin().redirect(redirect(wrong)).await;
        let code = refused.expect_err("refused").code();
        assert_eq!(code, tonic::Code::InvalidArgument, "{wrong}");
    }
    let moved = admin.admin().redirect(redirect("spec1-second")).await?;
    let moved = moved.into_inner();
    let (old, new) = (
        moved.superseded.expect("the old one"),
        moved.delivery.expect("the new one"),
    );
    assert_eq!(old.state(), DeliveryState::Superseded);
    assert_eq!(old.replaced_by_delivery_id, new.delivery_id);
    assert_eq!(
        (new.endpoint_id.as_str(), new.leg_id.as_str()),
        ("spec1-second", leg.as_str())
    );
    assert_ne!(new.wire_id, old.wire_id);
    let legs = school.referral(id).await?.legs;
    assert_eq!(legs.len(), 1, "no other leg");
    assert_eq!(
        emptied(&team).await?,
        [(MessageKind::New, 1), (MessageKind::Amend, 2)],
        "what waited behind it goes there with it"
    );
    assert!(admin.alarms("parked").await?.is_empty());
    assert!(admin.conservation().await?.balanced);
    let stream = gateway.stream(&receipt.stream_id).await?;
    let act = stream
        .iter()
        .find(|e| e.fact("action") == Some("redirect"))
        .expect("the redirect is in the log");
    assert_eq!(
        (act.fact("from_endpoint"), act.fact("to_endpoint")),
        (Some("spec1-mailbox"), Some("spec1-second"))
    );
    Ok(())
}

async fn the_digest_of_a_body_is_for_readers_and_each_read_is_logged(
    engine: Engine,
) -> anyhow::Result<()> {
    let both = "[[identity]]\nname = \"waymark:test:admin:SC882\"\nagency = \"SC882\"\n\
                roles = [\"admin\", \"body_reader\"]\n";
    let gateway = Gateway::start(engine, &Area::with(both)).await?;
    let issued = gateway.issue("waymark:test:admin:SC882")?;
    let reader = gateway
        .client_with(issued.cert_pem.as_bytes(), issued.key_pem.as_bytes())
        .await?;
    let [school, admin, team] = gateway
        .clients(["EE123456", "admin-LA882", "SPEC1"])
        .await?;
    let receipt = school
        .submit("digest", &Child(344).referral("specialist-teaching"))
        .await?;
    let post = team.fetch_one(&receipt.referral_id).await?;
    let ask = |purpose: v1::AccessPurpose| v1::GetDeliveryRequest {
        delivery_id: post.lent.delivery_id.clone(),
        include_body_sha256: true,
        purpose: purpose.into(),
    };
    let (_, attempts) = reader.delivery(&post.lent.delivery_id).await?;
    assert!(attempts.iter().all(|a| a.body_sha256.is_empty()));
    let refused = admin
        .admin()
        .get_delivery(ask(v1::AccessPurpose::Operations))
        .await;
    assert_eq!(
        refused.expect_err("no reader").code(),
        tonic::Code::PermissionDenied
    );
    let refused = reader
        .admin()
        .get_delivery(ask(v1::AccessPurpose::Unspecified))
        .await;
    assert_eq!(
        refused.expect_err("no purpose").code(),
        tonic::Code::InvalidArgument
    );
    let answer = reader
        .admin()
        .get_delivery(ask(v1::AccessPurpose::Operations))
        .await?;
    let attempts = answer.into_inner().attempts;
    assert_eq!(
        attempts.first().map(|a| a.body_sha256.clone()),
        Some(post.lent.body_sha256)
    );
    let stream = gateway.stream(&receipt.stream_id).await?;
    let reads = stream.iter().filter(|e| e.kind == EntryKind::AdminRead);
    assert_eq!(reads.count(), 1, "the one that was answered");
    Ok(())
}

async fn deliveries_are_listed_oldest_first_page_by_page(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let mut sent = Vec::new();
    for n in 345..350 {
        let content = Child(n).referral("specialist-teaching");
        sent.push(
            school
                .submit(&format!("listed-{n}"), &content)
                .await?
                .referral_id,
        );
    }
    for states in [Vec::new(), vec![DeliveryState::Queued.into()]] {
        let mut request = v1::ListDeliveriesRequest {
            page_size: 2,
            states,
            ..v1::ListDeliveriesRequest::default()
        };
        let mut listed = Vec::new();
        loop {
            let page = admin.admin().list_deliveries(request.clone()).await?;
            let page = page.into_inner();
            assert!(page.deliveries.len() <= 2);
            listed.extend(page.deliveries.into_iter().map(|d| d.referral_id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(listed, sent);
    }
    Ok(())
}
