//! Scenario 26, as far as adapters go: a far side that is dead and one that does not answer keep nobody else waiting.

use std::collections::BTreeMap;

use waymark_tests::actors::mesh::Fault;

use super::*;

waymark_tests::both_engines! {
    a_dead_and_a_silent_far_side_keep_nobody_else_waiting,
}

/// Children of their own, each with a message to everybody.
const CHILDREN: std::ops::Range<u8> = 160..180;
const DEAD: &str = "r1l-mllp";
const SILENT: &str = "comm1-mesh";

async fn arrived(everybody: &Everybody) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut arrived = BTreeMap::new();
    for delivery in everybody.all().await? {
        let there = delivery.evidence() != EvidenceGrade::None;
        let count: &mut usize = arrived.entry(delivery.endpoint_id).or_default();
        *count += usize::from(there);
    }
    Ok(arrived)
}

async fn a_dead_and_a_silent_far_side_keep_nobody_else_waiting(
    engine: Engine,
) -> anyhow::Result<()> {
    let mut everybody = Everybody::new(engine).await?;
    everybody.hospital.down().await?;
    everybody.hub.always(Some(Fault::Silent));
    for n in CHILDREN {
        everybody.sends("grpc", n, None).await?.taken()?;
    }
    let team = everybody.gateway.client("SPEC1").await?;
    let mut fetched = 0;
    let all = CHILDREN.len();
    wait_until("everybody else has everything", PATIENCE, || async {
        let arrived = arrived(&everybody).await?;
        let has = |endpoint: &&str| arrived.get(*endpoint).is_some_and(|n| *n == all);
        let others = ["cam01-grpc", "fhr-fhir", "sens1-files", "therapy-webhook"];
        Ok(others.iter().all(has).then_some(()))
    })
    .await?;
    while fetched < all {
        let posts = team.fetch().await?;
        anyhow::ensure!(!posts.is_empty(), "{fetched} of {all} in the mailbox");
        for post in &posts {
            team.acknowledge(post).await?;
        }
        fetched += posts.len();
    }
    let stuck = arrived(&everybody).await?;
    assert_eq!(stuck.get(DEAD), Some(&0));
    // What the silent one took is found by asking it, once an attempt has waited its time; it may have begun to be.
    assert!(stuck.get(SILENT).is_some_and(|n| *n < all));
    // And once they are back they get everything, once.
    everybody.hospital.up()?;
    everybody.hub.always(None);
    wait_until("the two have everything", PATIENCE, || async {
        let arrived = arrived(&everybody).await?;
        let has = |endpoint: &&str| arrived.get(*endpoint).is_some_and(|n| *n == all);
        Ok([DEAD, SILENT].iter().all(has).then_some(()))
    })
    .await?;
    assert_eq!(everybody.hospital.applied().len(), all);
    assert_eq!(
        everybody.hub.held().len(),
        all,
        "no second message at the hub"
    );
    assert!(everybody.admin.conservation().await?.balanced);
    Ok(())
}
