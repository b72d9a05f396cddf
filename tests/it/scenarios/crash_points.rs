//! Scenario 16: the process ends at any moment, many times, and nothing that was accepted is lost, doubled or forked.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use waymark_audit::Verdict;
use waymark_audit::verify::{Options, verify_tree};
use waymark_proto::v1;
use waymark_proto::v1::DeliveryState;
use waymark_tests::actors::Hospital;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, wait_until};

waymark_tests::both_engines! {
    an_end_at_any_moment_loses_nothing_and_doubles_nothing,
}

/// Times that the process ends.
const ENDS: u32 = 8;
/// Senders at work at the same time.
const SENDERS: u32 = 4;
/// Referrals that each tries to send between two ends.
const EACH: u32 = 12;
/// The seed of the moments at which it ends.
const SEED: u64 = 16;

async fn an_end_at_any_moment_loses_nothing_and_doubles_nothing(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let mut gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let mut chance = StdRng::seed_from_u64(SEED);
    let mut acknowledged: BTreeMap<u32, String> = BTreeMap::new();
    for round in 0..ENDS {
        let mut sending = JoinSet::new();
        let (told, mut answers) = tokio::sync::mpsc::channel(64);
        for sender in 0..SENDERS {
            let (school, told) = (gateway.client("EE123456").await?, told.clone());
            sending.spawn(async move {
                for n in 0..EACH {
                    let number = (round * SENDERS + sender) * EACH + n;
                    let referral = Child(number).referral("adhd-assessment");
                    let Ok(receipt) = school.try_submit(&format!("c-{number}"), &referral).await
                    else {
                        return;
                    };
                    if told.send((number, receipt.referral_id)).await.is_err() {
                        return;
                    }
                }
            });
        }
        drop(told);
        // It ends after a random number of answers: somewhere between one accept and another, or within.
        let until = chance.random_range(1..SENDERS * EACH);
        let mut seen = 0;
        while seen < until
            && let Some((number, id)) = answers.recv().await
        {
            acknowledged.insert(number, id);
            seen += 1;
        }
        gateway.crash();
        while let Some((number, id)) = answers.recv().await {
            acknowledged.insert(number, id);
        }
        while sending.join_next().await.is_some() {}
        gateway.restart().await?;
    }

    the_acknowledged_is_kept(&gateway, &acknowledged).await?;
    everything_arrives_once(&gateway, &hospital, acknowledged.len()).await?;
    the_log_never_forked(&gateway).await
}

/// Every acknowledged message is still the same referral.
async fn the_acknowledged_is_kept(
    gateway: &Gateway,
    acknowledged: &BTreeMap<u32, String>,
) -> anyhow::Result<()> {
    let school = gateway.client("EE123456").await?;
    assert!(acknowledged.len() >= usize::try_from(ENDS)?);
    for (number, id) in acknowledged {
        let again = school
            .submit(
                &format!("c-{number}"),
                &Child(*number).referral("adhd-assessment"),
            )
            .await?;
        assert!(
            again.duplicate,
            "message {number} was acknowledged and is gone"
        );
        assert_eq!(again.referral_id, *id);
    }
    Ok(())
}

/// Under one id, and accounted for.
async fn everything_arrives_once(
    gateway: &Gateway,
    hospital: &Hospital,
    acknowledged: usize,
) -> anyhow::Result<()> {
    let admin = gateway.client("admin-LA882").await?;
    wait_until("everything has arrived", 2 * PATIENCE, || async {
        for state in [
            DeliveryState::Queued,
            DeliveryState::Attempting,
            DeliveryState::RetryWait,
            DeliveryState::Unknown,
            DeliveryState::Held,
        ] {
            let request = v1::ListDeliveriesRequest {
                states: vec![state.into()],
                ..Default::default()
            };
            if !admin
                .admin()
                .list_deliveries(request)
                .await?
                .into_inner()
                .deliveries
                .is_empty()
            {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    let mut by_reference: BTreeMap<String, usize> = BTreeMap::new();
    for frame in hospital.applied() {
        *by_reference.entry(frame.reference).or_default() += 1;
    }
    assert!(
        by_reference.values().all(|count| *count == 1),
        "applied twice: {by_reference:?}"
    );
    let conservation = admin.conservation().await?;
    assert!(conservation.balanced, "{:?}", conservation.differences);
    assert_eq!(
        usize::try_from(conservation.accepted_counted)?,
        by_reference.len()
    );
    assert!(by_reference.len() >= acknowledged);
    Ok(())
}

/// One tree, every stream without a gap, every checkpoint on the one history.
async fn the_log_never_forked(gateway: &Gateway) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let tree = gateway.export(folder.path()).await?;
    let options = Options {
        keys: vec![gateway.verifier()?],
        ..Options::default()
    };
    let report = verify_tree(&tree, &options);
    assert_eq!(report.verdict, Verdict::Ok, "{:#?}", report.findings);
    Ok(())
}
