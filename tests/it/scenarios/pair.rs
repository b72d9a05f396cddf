//! Two instances on one database, which `PostgreSQL` allows and `SQLite` refuses.

use std::collections::BTreeSet;
use std::time::Duration;

use waymark::app::{App, Duty};
use waymark::lifecycle::Lifecycle;
use waymark::telemetry::Telemetry;
use waymark_proto::v1::DeliveryState;
use waymark_tests::actors::{Hospital, Play};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, wait_until};

/// The longest that a release may take to every instance (ruling 21).
const FOLLOWED_WITHIN: Duration = Duration::from_secs(5);
/// Two lease times, and the time to make the attempt.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(6);

async fn two_instances_share_the_work_and_the_directory() -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let area = Area::hospital(hospital.port());
    let one = Gateway::start(Engine::Postgres, &area).await?;
    let other = one.beside().await?;
    let (school, elsewhere) = (
        one.client("EE123456").await?,
        other.client("EE123456").await?,
    );
    for n in 600..620 {
        let client = if n % 2 == 0 { &school } else { &elsewhere };
        client
            .submit(
                &format!("shared-{n}"),
                &Child(n).referral("adhd-assessment"),
            )
            .await?;
    }
    wait_until("everything has arrived", PATIENCE, || async {
        Ok((hospital.applied().len() == 20).then_some(()))
    })
    .await?;
    let references: BTreeSet<String> = hospital
        .applied()
        .into_iter()
        .map(|f| f.reference)
        .collect();
    assert_eq!(
        references.len(),
        20,
        "each once, whichever instance took and sent it"
    );
    // The same message to the other instance is the same message.
    let again = elsewhere
        .submit("shared-600", &Child(600).referral("adhd-assessment"))
        .await?;
    assert!(again.duplicate);

    let mut files = area.files();
    for file in &mut files {
        file.text = file
            .text
            .replace("Community paediatrics", "Paediatrics, both sites");
    }
    let number = one.apply(&files).await?;
    wait_until("the other instance follows", FOLLOWED_WITHIN, || async {
        Ok((other.service()?.in_force().number == number).then_some(()))
    })
    .await?;
    Ok(())
}

async fn a_dead_instance_s_work_is_taken_over() -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let area = Area::hospital(hospital.port());
    let mut dying = Gateway::start(Engine::Postgres, &area).await?;
    let school = dying.client("EE123456").await?;
    // The message arrives, and its instance dies before the answer does.
    hospital.play(&[Play::Silent]);
    let receipt = school
        .submit("orphan", &Child(621).referral("adhd-assessment"))
        .await?;
    wait_until("the message is on the wire", PATIENCE, || async {
        Ok((hospital.frames().len() == 1).then_some(()))
    })
    .await?;
    dying.crash();
    let heir = dying.beside().await?;
    let school = heir.client("EE123456").await?;
    wait_until("the heir has finished it", TAKEN_OVER_WITHIN, || async {
        let leg = school.leg(&receipt.referral_id).await?;
        Ok((leg.delivery_state() == DeliveryState::Done).then_some(()))
    })
    .await?;
    let frames = hospital.frames();
    assert_eq!(frames.len(), 2);
    assert_eq!(frames.first(), frames.last(), "the same id and bytes");
    assert_eq!(hospital.applied().len(), 1, "one record at the provider");
    Ok(())
}

/// A second writer on one file would be two truths: it does not start, and says why.
async fn a_second_instance_on_sqlite_is_refused() -> anyhow::Result<()> {
    let gateway = Gateway::start(Engine::Sqlite, &Area::default()).await?;
    let (lifecycle, telemetry) = (
        Lifecycle::new(Duration::from_secs(1)),
        Telemetry::metrics_only()?,
    );
    let second = App::start(
        &gateway.config,
        Duty::Serve,
        &lifecycle,
        telemetry.metrics(),
    )
    .await;
    let why = second
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    assert!(why.contains("another process"), "it says why: {why:?}");
    Ok(())
}

mod postgres {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_instances_share_the_work_and_the_directory() -> anyhow::Result<()> {
        super::two_instances_share_the_work_and_the_directory().await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dead_instance_s_work_is_taken_over() -> anyhow::Result<()> {
        super::a_dead_instance_s_work_is_taken_over().await
    }
}

mod sqlite {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_second_instance_on_sqlite_is_refused() -> anyhow::Result<()> {
        super::a_second_instance_on_sqlite_is_refused().await
    }
}
