use super::*;
use crate::app::open_store;
use crate::cli::{Deployment, InitOptions, init_deployment};
use crate::config::Config;

fn made() -> (tempfile::TempDir, Deployment) {
    let root = tempfile::tempdir().unwrap();
    let made = init_deployment(&root.path().join("area"), &InitOptions::default()).unwrap();
    (root, made)
}

/// A deployment whose database exists and is empty.
async fn migrated() -> (tempfile::TempDir, Deployment) {
    let (root, made) = made();
    let config = Config::load(&made.config).unwrap();
    let store = open_store(
        &config,
        waymark_store::Mode::Write,
        waymark_store::Schema::Migrate,
    )
    .await
    .unwrap();
    drop(store);
    (root, made)
}

async fn look(made: &Deployment) -> Diagnosis {
    Diagnosis::of(stage::look(&made.config).await)
}

fn health(diagnosis: &Diagnosis, name: &str) -> Health {
    diagnosis
        .stages
        .iter()
        .find(|s| s.name == name)
        .unwrap()
        .health
}

#[tokio::test]
async fn a_new_deployment_lacks_only_its_first_start() {
    let (_root, made) = migrated().await;
    let diagnosis = look(&made).await;
    for name in [
        "configuration",
        "keyring",
        "log key",
        "certificates",
        "database",
        "log",
        "outbox",
        "conservation",
        "alarms",
    ] {
        assert_eq!(health(&diagnosis, name), Health::Ok, "{}", diagnosis.text());
    }
    assert_eq!(
        health(&diagnosis, "directory"),
        Health::Fail,
        "{}",
        diagnosis.text()
    );
    assert!(!diagnosis.ok);
}

#[tokio::test]
async fn without_a_database_the_stages_after_it_are_skipped_and_it_is_not_made() {
    let (_root, made) = made();
    let diagnosis = look(&made).await;
    assert_eq!(health(&diagnosis, "database"), Health::Fail);
    assert_eq!(health(&diagnosis, "conservation"), Health::Skipped);
    assert!(!made.dir.join("waymark.db").exists());
}

#[tokio::test]
async fn a_wrong_configuration_a_lost_key_and_an_open_key_are_each_named() {
    let (_root, made) = migrated().await;
    std::fs::remove_file(made.dir.join("keys/log.key")).unwrap();
    let keyring = made.dir.join("keys/keyring");
    std::fs::set_permissions(
        &keyring,
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let diagnosis = look(&made).await;
    assert_eq!(health(&diagnosis, "log key"), Health::Fail);
    assert_eq!(health(&diagnosis, "keyring"), Health::Warn);
    std::fs::write(&made.config, "[gateway]\nenviroment = \"test\"\n").unwrap();
    let diagnosis = look(&made).await;
    assert_eq!(health(&diagnosis, "configuration"), Health::Fail);
    assert!(
        diagnosis.text().contains("enviroment"),
        "{}",
        diagnosis.text()
    );
}

#[test]
fn warnings_alone_do_not_fail() {
    let mut stage = Stage::ok("alarms", "1 open");
    stage.add(Health::Warn, "parked");
    assert!(Diagnosis::of(vec![stage.clone()]).ok);
    stage.add(Health::Fail, "lost");
    stage.add(Health::Ok, "found");
    assert!(!Diagnosis::of(vec![stage]).ok);
    assert!(!Diagnosis::of(vec![Stage::skipped("log")]).ok);
}
