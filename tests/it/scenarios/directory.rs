//! Scenario 22, and directory releases and the conservation check at work in a running instance.

use std::time::Duration;

use sqlx::Connection as _;
use waymark_core::audit::EntryKind;
use waymark_proto::v1;
use waymark_proto::v1::DeliveryState;
use waymark_tests::actors::Hospital;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, wait_until};

waymark_tests::both_engines! {
    a_release_reaches_another_instance_within_five_seconds_without_a_restart,
    a_directory_with_an_error_is_refused_with_its_place,
    a_merged_agency_s_post_is_sent_on_and_its_old_name_still_answers,
    an_endpoint_that_was_removed_parks_its_work,
    a_mailbox_that_changed_hands_keeps_its_post_from_the_new_hands,
    a_row_deleted_by_hand_trips_the_conservation_check,
}

/// The longest that a release may take to every instance (ruling 21).
const FOLLOWED_WITHIN: Duration = Duration::from_secs(5);

async fn a_release_reaches_another_instance_within_five_seconds_without_a_restart(
    engine: Engine,
) -> anyhow::Result<()> {
    let area = Area::default();
    let gateway = Gateway::start(engine, &area).await?;
    let school = gateway.client("EE123456").await?;
    let unknown = school
        .try_submit("before", &Child(220).referral("music-therapy"))
        .await
        .expect_err("unknown");
    assert_eq!(unknown.code(), tonic::Code::InvalidArgument);
    let number_before = gateway.service()?.in_force().number;

    // Made behind this instance's back, as another instance would: only the follower can bring it here.
    let more = Area {
        more: "[[service]]\nid = \"music\"\nname = \"Music therapy\"\nagency = \"SPEC1\"\n\
               pathways = [\"music-therapy\"]\nendpoint = \"spec1-mailbox\"\nowner_role = \"Lead\"\n\n\
               [[rule]]\nid = \"music\"\npathway = \"music-therapy\"\nto = [\"music\"]\n"
            .to_owned(),
        ..area
    };
    let service = gateway.service()?;
    let old = service.in_force();
    let number = gateway.apply(&more.files()).await?;
    assert_eq!(number, number_before + 1, "releases are numbered");
    service.take_release(waymark::service::InForce {
        number: old.number,
        directory: old.directory.clone(),
    });
    wait_until("the release is in force", FOLLOWED_WITHIN, || async {
        Ok((service.in_force().number == number).then_some(()))
    })
    .await?;
    let receipt = school
        .submit("after", &Child(220).referral("music-therapy"))
        .await?;
    assert_eq!(receipt.directory_release, number);
    assert_eq!(
        receipt.legs.first().map(|l| l.service_id.as_str()),
        Some("music")
    );

    // Applying is in the log.
    let stream = gateway
        .stream(waymark::service::DIRECTORY_STREAM.as_bytes())
        .await?;
    let last = stream
        .iter()
        .rfind(|e| e.kind == EntryKind::AdminAction)
        .expect("an entry");
    assert_eq!(last.fact("release"), Some(number.to_string().as_str()));
    Ok(())
}

async fn a_directory_with_an_error_is_refused_with_its_place(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let admin = gateway.client("admin-LA882").await?;
    let broken = Area {
        more: "[[rule]]\nid = \"nowhere\"\npathway = \"adhd-assessment\"\nto = [\"no-such-service\"]\n".to_owned(),
        ..Area::default()
    };
    let files = broken.files();
    let request = v1::ApplyDirectoryRequest {
        files: files
            .iter()
            .map(|f| v1::DirectoryFile {
                path: f.path.clone(),
                content: f.text.clone().into_bytes(),
            })
            .collect(),
        comment: "broken".to_owned(),
        expected_release: 1,
        dry_run: false,
    };
    let answer = admin.admin().apply_directory(request).await?.into_inner();
    assert!(answer.release.is_none(), "no release is made");
    let finding = answer.findings.first().expect("what is wrong");
    assert_eq!(finding.severity(), v1::FindingSeverity::Error);
    assert_eq!(
        (finding.code.as_str(), finding.path.as_str(), finding.line),
        ("unresolved", "zz-more.toml", 4)
    );
    assert_eq!(gateway.service()?.in_force().number, 1);
    Ok(())
}

/// An agency and the one that takes it over.
const MERGER: &str = "[[agency]]\nid = \"OLD01\"\nname = \"Westmere Autism Team\"\nsector = \"health\"\n\n\
     [[identity]]\nname = \"waymark:test:agency:OLD01\"\nagency = \"OLD01\"\n\n\
     [[agency]]\nid = \"NEW01\"\nname = \"Southmere Neurodiversity\"\nsector = \"health\"\n\n\
     [[identity]]\nname = \"waymark:test:agency:NEW01\"\nagency = \"NEW01\"\n\n\
     [[endpoint]]\nid = \"old01-mailbox\"\nagency = \"OLD01\"\nadapter = \"mailbox\"\n\n\
     [[endpoint]]\nid = \"new01-mailbox\"\nagency = \"NEW01\"\nadapter = \"mailbox\"\n\n";

/// The autism service as one of the two offers it.
fn autism(id: &str, agency: &str, endpoint: &str) -> String {
    format!(
        "[[service]]\nid = \"{id}\"\nname = \"Autism\"\nagency = \"{agency}\"\n\
             pathways = [\"autism-assessment\"]\nendpoint = \"{endpoint}\"\nowner_role = \"Lead\"\n\n\
             [[rule]]\nid = \"{id}\"\npathway = \"autism-assessment\"\nto = [\"{id}\"]\n\n"
    )
}

async fn a_merged_agency_s_post_is_sent_on_and_its_old_name_still_answers(
    engine: Engine,
) -> anyhow::Result<()> {
    let before = format!("{MERGER}{}", autism("autism-old", "OLD01", "old01-mailbox"));
    let gateway = Gateway::start(engine, &Area::with(before)).await?;
    let school = gateway.client("EE123456").await?;
    let [former, new] = gateway.clients(["OLD01", "NEW01"]).await?;
    let read = school
        .submit("read", &Child(221).referral("autism-assessment"))
        .await?;
    let post = former.fetch_one(&read.referral_id).await?;
    former.acknowledge(&post).await?;
    let pending = school
        .submit("pending", &Child(222).referral("autism-assessment"))
        .await?;
    let refused = new
        .status(&read.referral_id, 1, v1::LegState::Accepted)
        .await
        .expect_err("a stranger so far");
    assert_eq!(refused.code(), tonic::Code::NotFound);

    // The merger: the new agency answers for the old one from a day on, and not before.
    let merged = |on: &str| {
        let text = format!(
            "{MERGER}{}[[succession]]\nfrom = \"OLD01\"\nto = \"NEW01\"\non = {on}\n",
            autism("autism-new", "NEW01", "new01-mailbox")
        );
        Area::with(text).files()
    };
    gateway.apply(&merged("2099-01-01")).await?;
    let early = new
        .status(&read.referral_id, 1, v1::LegState::Accepted)
        .await
        .expect_err("not yet");
    assert_eq!(early.code(), tonic::Code::NotFound);
    gateway.apply(&merged("2026-01-01")).await?;

    the_heir_sees_its_predecessor_s_cases(&gateway, &[&pending, &read]).await?;
    // The old code still names the case: whoever took over may speak for it.
    new.status(&read.referral_id, 1, v1::LegState::Accepted)
        .await?;
    assert_eq!(
        school.leg(&read.referral_id).await?.state(),
        v1::LegState::Accepted
    );

    the_pending_is_sent_on(&gateway, &pending).await?;
    let next = school
        .submit("next", &Child(223).referral("autism-assessment"))
        .await?;
    assert_eq!(
        next.legs.first().map(|l| l.agency_id.as_str()),
        Some("NEW01")
    );
    Ok(())
}

/// By list, by watch and in its post, as by key: and nobody else does.
async fn the_heir_sees_its_predecessor_s_cases(
    gateway: &Gateway,
    cases: &[&v1::Receipt],
) -> anyhow::Result<()> {
    let [new, stranger] = gateway.clients(["NEW01", "THER1"]).await?;
    let ids: Vec<&str> = cases.iter().map(|c| c.referral_id.as_str()).collect();
    let list = v1::ListReferralsRequest::default();
    let listed = new.referrals().list_referrals(list.clone()).await?;
    let listed = listed.into_inner().referrals;
    let listed: Vec<&str> = listed.iter().map(|r| r.referral_id.as_str()).collect();
    assert_eq!(listed, ids, "newest first");
    let none = stranger.referrals().list_referrals(list).await?;
    assert!(none.into_inner().referrals.is_empty());

    gateway.sequenced().await?;
    let watch = v1::WatchReferralsRequest {
        start: v1::WatchStart::Oldest.into(),
        ..v1::WatchReferralsRequest::default()
    };
    let mut watching = new.referrals().watch_referrals(watch).await?.into_inner();
    let mut accepted = Vec::new();
    while accepted.len() < ids.len() {
        let step = watching.message().await?.expect("a watch does not end");
        let event = step.event;
        accepted.extend(
            event
                .filter(|e| e.kind() == v1::ReferralEventKind::Accepted)
                .map(|e| e.referral_id),
        );
    }
    accepted.reverse();
    assert_eq!(accepted, ids);
    Ok(())
}

/// What was bound to the old agency goes to the new one by an operator's act, and the log names both.
async fn the_pending_is_sent_on(gateway: &Gateway, pending: &v1::Receipt) -> anyhow::Result<()> {
    let [admin, new] = gateway.clients(["admin-LA882", "NEW01"]).await?;
    let delivery = admin.deliveries(&pending.referral_id).await?.remove(0);
    assert_eq!(
        (delivery.agency_id.as_str(), delivery.state()),
        ("OLD01", DeliveryState::Queued)
    );
    let request = v1::RedirectRequest {
        delivery_id: delivery.delivery_id.clone(),
        reason: "the teams have merged".to_owned(),
        expected_version: delivery.version,
        target: Some(v1::redirect_request::Target::ServiceId(
            "autism-new".to_owned(),
        )),
    };
    let moved = admin
        .admin()
        .redirect(request)
        .await?
        .into_inner()
        .delivery
        .expect("the new delivery");
    assert_eq!(
        (
            moved.agency_id.as_str(),
            moved.replaces_delivery_id.as_str()
        ),
        ("NEW01", delivery.delivery_id.as_str())
    );
    let post = new.fetch_one(&pending.referral_id).await?;
    new.acknowledge(&post).await?;
    assert_eq!(post.lent.wire_id, moved.wire_id);

    let stream = gateway.stream(&pending.stream_id).await?;
    let moved = stream
        .iter()
        .find(|e| e.fact("action") == Some("redirect"))
        .expect("the redirect is in the log");
    assert_eq!(
        (moved.fact("from"), moved.fact("to")),
        (Some("OLD01"), Some("NEW01")),
        "and names both"
    );
    assert_eq!(moved.fact("replaces"), Some(delivery.delivery_id.as_str()));
    Ok(())
}

async fn an_endpoint_that_was_removed_parks_its_work(engine: Engine) -> anyhow::Result<()> {
    let mut hospital = Hospital::closed()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let receipt = school
        .submit("removed", &Child(224).referral("adhd-assessment"))
        .await?;
    let delivery = admin.deliveries(&receipt.referral_id).await?.remove(0);
    let mut files = Area::hospital(hospital.port()).files();
    for file in &mut files {
        file.text = file.text.replace("r1l-mllp", "r1l-other");
    }
    gateway.apply(&files).await?;
    let parked = admin
        .delivery_is(&delivery.delivery_id, DeliveryState::Parked)
        .await?;
    assert_eq!(
        parked.park.map(|p| p.reason_code).as_deref(),
        Some("no_endpoint")
    );
    hospital.up()?;
    assert!(hospital.frames().is_empty());
    Ok(())
}

async fn a_mailbox_that_changed_hands_keeps_its_post_from_the_new_hands(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, admin, team, care] = gateway
        .clients(["EE123456", "admin-LA882", "SPEC1", "SC882"])
        .await?;
    let child = Child(225).referral("specialist-teaching");
    let receipt = school.submit("waits", &child).await?;
    let delivery = admin.deliveries(&receipt.referral_id).await?.remove(0);
    // More than a stream takes out of the store at a time.
    for n in 226..234 {
        let child = Child(n).referral("specialist-teaching");
        school.submit(&format!("waits-{n}"), &child).await?;
    }

    // The mailbox and its service are another agency's from now on, and nothing says that it took over the first one's cases.
    let mut files = Area::default().files();
    for file in &mut files {
        let own = "agency = \"SPEC1\"\n";
        if file.path == "services.toml" {
            file.text = file.text.replace(own, "agency = \"SC882\"\n");
        }
    }
    gateway.apply(&files).await?;
    let next = Child(234).referral("specialist-teaching");
    let next = school.submit("next", &next).await?;
    let mut post = care.fetch().await?;
    let about: Vec<&str> = post
        .iter()
        .map(|p| p.dispatch.referral_id.as_str())
        .collect();
    assert_eq!(
        about,
        [next.referral_id.as_str()],
        "what is bound to another agency is not handed over, and hides nothing behind it"
    );
    care.acknowledge(&post.remove(0)).await?;
    let (parked, attempts) = admin.delivery(&delivery.delivery_id).await?;
    assert_eq!(
        (
            parked.state(),
            parked.park.map(|p| p.reason_code).as_deref()
        ),
        (DeliveryState::Parked, Some("wrong_recipient"))
    );
    assert!(attempts.is_empty(), "nobody was handed it");
    assert_eq!(admin.alarms("wrong_recipient").await?.len(), 1);
    assert!(team.fetch().await?.is_empty(), "a person decides");
    assert!(admin.conservation().await?.balanced);

    let stream = gateway.stream(&receipt.stream_id).await?;
    let closed = stream
        .iter()
        .find(|e| e.fact("why") == Some("directory.moved"));
    assert!(closed.is_some(), "the log says why");
    Ok(())
}

async fn a_row_deleted_by_hand_trips_the_conservation_check(engine: Engine) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    for n in 230..233 {
        school
            .submit(
                &format!("kept-{n}"),
                &Child(n).referral("specialist-teaching"),
            )
            .await?;
    }
    gateway.sequenced().await?;
    let whole = admin.conservation().await?;
    assert!(whole.balanced, "{:?}", whole.differences);
    assert_eq!(
        (
            whole.accepted_counted,
            whole.accepted_in_log,
            whole.deliveries_made
        ),
        (3, 3, 3)
    );

    let delete = "DELETE FROM delivery WHERE id IN (SELECT id FROM delivery ORDER BY id LIMIT 1)";
    let url = gateway.database_url();
    let gone = match engine {
        Engine::Sqlite => {
            let mut connection = sqlx::SqliteConnection::connect(url).await?;
            sqlx::query(delete)
                .execute(&mut connection)
                .await?
                .rows_affected()
        }
        Engine::Postgres => {
            let mut connection = sqlx::PgConnection::connect(url).await?;
            sqlx::query(delete)
                .execute(&mut connection)
                .await?
                .rows_affected()
        }
    };
    assert_eq!(gone, 1);
    let broken = wait_until("the check trips", PATIENCE, || async {
        let report = admin.conservation().await?;
        Ok((!report.balanced).then_some(report))
    })
    .await?;
    assert!(!broken.differences.is_empty());
    assert_eq!(
        admin.alarms("conservation").await?.len(),
        1,
        "somebody is told"
    );
    Ok(())
}
