//! What an agency without a server is lent: its own post, whatever else waits in the same mailbox.

use waymark_proto::v1;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway};

waymark_tests::both_engines! {
    a_service_s_post_is_lent_though_more_of_another_service_waits_before_it,
}

/// A second service behind the team's mailbox.
const MUSIC: &str = "[[service]]\nid = \"music\"\nname = \"Music therapy\"\nagency = \"SPEC1\"\n\
    pathways = [\"music-therapy\"]\nendpoint = \"spec1-mailbox\"\nowner_role = \"Lead\"\n\n\
    [[rule]]\nid = \"music\"\npathway = \"music-therapy\"\nto = [\"music\"]\n";
/// More than two batches of what one stream takes out of the store at a time.
const OTHERS: u32 = 17;

/// What a stream for one service lends before it ends for want of more.
async fn drained(client: &Client, service: &str) -> anyhow::Result<Vec<v1::ReceiveResponse>> {
    let request = v1::ReceiveRequest {
        service_ids: vec![service.to_owned()],
        credit: 100,
        lease_seconds: 60,
        drain: true,
    };
    let mut stream = client.mailbox().receive(request).await?.into_inner();
    let mut lent = Vec::new();
    while let Some(post) = stream.message().await? {
        lent.push(post);
    }
    Ok(lent)
}

async fn a_service_s_post_is_lent_though_more_of_another_service_waits_before_it(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::with(MUSIC)).await?;
    let [school, admin, team] = gateway
        .clients(["EE123456", "admin-LA882", "SPEC1"])
        .await?;
    for n in 0..OTHERS {
        let referral = Child(400 + n).referral("specialist-teaching");
        school.submit(&format!("other-{n}"), &referral).await?;
    }
    let music = Child(430).referral("music-therapy");
    let receipt = school.submit("music", &music).await?;
    let own = admin.deliveries(&receipt.referral_id).await?.remove(0);

    let lent = drained(&team, "music").await?;
    let lent: Vec<&str> = lent.iter().map(|post| post.delivery_id.as_str()).collect();
    assert_eq!(lent, [own.delivery_id.as_str()]);
    assert!(drained(&team, "music").await?.is_empty(), "it is lent");
    let others = drained(&team, "specialist-teaching").await?;
    assert_eq!(others.len(), usize::try_from(OTHERS)?);
    assert!(
        others.iter().all(|post| post.attempt == 1),
        "whoever asked for the one service took none of the other's"
    );
    Ok(())
}
