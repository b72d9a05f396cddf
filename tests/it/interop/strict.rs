//! What we emit is valid by hl7apy's strict rules, for the versions that it knows.

use waymark_proto::v1::DeliveryState;
use waymark_tests::actors::Hospital;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, wait_until};
use waymark_tests::peer::run;

use super::{changed, shown};

const VALIDATOR: &str = "hl7_strict.py";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_2_4_passes_strict_validation() -> anyhow::Result<()> {
    passes("2.4").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_2_5_passes_strict_validation() -> anyhow::Result<()> {
    passes("2.5").await
}

async fn passes(version: &str) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let area = Area::hospital(hospital.port());
    let gateway = Gateway::start(Engine::Sqlite, &area).await?;
    if version != "2.5" {
        let mut files = area.files();
        changed(
            &mut files,
            "version = \"2.5\"",
            &format!("version = \"{version}\""),
        );
        gateway.apply(&files).await?;
    }
    let school = gateway.client("EE123456").await?;
    let mut referral = Child(210).referral("adhd-assessment");
    // What has no field of its own travels in notes, in more than one line and with the separators in it.
    referral["narrative"] = "Likes trains | maps ^ atlases & lists.\nSleeps \\ eats ~ well.".into();
    referral["allergies"] = "Penicillin, severe".into();
    referral["safeguardingFlags"] =
        serde_json::json!([{ "system": "local", "code": "CP", "text": "ask first" }]);
    referral["reasonableAdjustments"] =
        serde_json::json!([{ "code": "quiet-room", "text": "a quiet room" }]);
    let receipt = school.submit("strict", &referral).await?;
    school
        .leg_shows(&receipt.referral_id, DeliveryState::Done)
        .await?;
    referral["priority"] = "PRIORITY_URGENT".into();
    referral["priorityReason"] = "it became worse".into();
    school
        .amend("strict-amended", &receipt.referral_id, &referral)
        .await?;
    school
        .cancel("strict-cancelled", &receipt.referral_id)
        .await?;
    wait_until("all three have arrived", PATIENCE, || async {
        Ok((hospital.applied().len() == 3).then_some(()))
    })
    .await?;
    let kinds: Vec<String> = hospital.applied().into_iter().map(|f| f.kind).collect();
    assert_eq!(kinds, ["REF^I12", "REF^I13", "REF^I14"]);

    let folder = tempfile::tempdir()?;
    let mut files = Vec::new();
    for frame in hospital.applied() {
        let path = folder.path().join(&frame.control_id);
        std::fs::write(&path, &frame.text)?;
        files.push(shown(&path));
    }
    let said = run(VALIDATOR, &files).await?;
    assert!(said.ok, "{}{}", said.out, said.errors);
    let said = said.json()?;
    let all = said["files"].as_array().expect("a verdict for each file");
    assert!(
        all.len() == 3 && all.iter().all(|f| f["version"] == version),
        "{said}"
    );

    // The validator is no rubber stamp: without its child a referral is refused.
    let broken = folder.path().join("broken");
    let first = hospital.applied().remove(0).text;
    let kept: Vec<&str> = first
        .split('\r')
        .filter(|s| !s.starts_with("PID"))
        .collect();
    std::fs::write(&broken, kept.join("\r"))?;
    assert!(!run(VALIDATOR, &[shown(&broken)]).await?.ok);
    Ok(())
}
