//! The "test connection" that partners ask for: over the gateway's own interface and from the command line.

use std::path::PathBuf;

use anyhow::Context as _;
use tokio::process::Command;
use tonic::Code;
use tonic_types::StatusExt as _;
use waymark::service::DIRECTORY_STREAM;
use waymark_core::audit::EntryKind;
use waymark_proto::v1;
use waymark_proto::v1::ProbeResult;
use waymark_tests::actors::Hospital;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Client, Gateway};

waymark_tests::both_engines! {
    a_probe_names_the_stage_that_fails_is_logged_and_cannot_be_repeated_at_once,
    the_command_shows_the_stages_and_its_exit_code_says_whether_one_failed,
}

async fn probe(admin: &Client, id: &str) -> Result<v1::ProbeEndpointResponse, tonic::Status> {
    let ask = v1::ProbeEndpointRequest {
        endpoint_id: id.to_owned(),
    };
    Ok(admin.admin().probe_endpoint(ask).await?.into_inner())
}

fn results(answer: &v1::ProbeEndpointResponse) -> Vec<(&str, ProbeResult)> {
    let stages = answer.stages.iter();
    stages
        .map(|stage| (stage.stage.as_str(), stage.result()))
        .collect()
}

async fn a_probe_names_the_stage_that_fails_is_logged_and_cannot_be_repeated_at_once(
    engine: Engine,
) -> anyhow::Result<()> {
    use ProbeResult::{Failed, NotTried, Passed};
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let admin = gateway.client("admin-LA882").await?;

    let there = probe(&admin, "r1l-mllp").await?;
    assert!(there.reachable, "{there:?}");
    assert!(results(&there).contains(&("tcp", Passed)));

    let gone = probe(&admin, "therapy-webhook").await?;
    assert!(!gone.reachable);
    let stages = [
        ("name", Passed),
        ("tcp", Failed),
        ("tls", NotTried),
        ("identity", NotTried),
        ("application", NotTried),
    ];
    assert_eq!(results(&gone), stages);

    // What the agency fetches itself is not tried, and that is no failure.
    let fetched = probe(&admin, "spec1-mailbox").await?;
    assert!(fetched.reachable && results(&fetched).iter().all(|(_, r)| *r == NotTried));

    let again = probe(&admin, "therapy-webhook")
        .await
        .expect_err("a moment ago");
    assert_eq!(again.code(), Code::ResourceExhausted);
    assert!(again.get_details_retry_info().is_some());
    let none = probe(&admin, "nowhere")
        .await
        .expect_err("no such endpoint");
    assert_eq!(none.code(), Code::NotFound);

    let entries = gateway.stream(DIRECTORY_STREAM.as_bytes()).await?;
    let probed: Vec<_> = entries
        .iter()
        .filter(|e| e.kind == EntryKind::AdminAction)
        .filter(|e| e.codes.iter().any(|code| code.value == "probe"))
        .collect();
    assert_eq!(probed.len(), 3, "what was refused is no act");
    Ok(())
}

/// The real binary, which `tests/run` builds first.
fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(|p| p.parent());
    let beside = folder
        .context("tests run beneath the target folder")?
        .join("waymark");
    anyhow::ensure!(
        beside.exists(),
        "{} is not built: run `cargo build --bins`",
        beside.display()
    );
    Ok(beside)
}

async fn the_command_shows_the_stages_and_its_exit_code_says_whether_one_failed(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let target = gateway.app()?.grpc.context("a gRPC address")?.to_string();
    let run = async |endpoint: &str, format: &str| {
        let mut command = Command::new(binary()?);
        command.args(["probe", endpoint, "--as", "admin-LA882", "--output", format]);
        command
            .args(["--target", &target, "--config"])
            .arg(&gateway.deployment.config);
        let out = command.kill_on_drop(true).output().await?;
        let said = String::from_utf8(out.stdout)?;
        let erred = String::from_utf8_lossy(&out.stderr).into_owned();
        anyhow::Ok((out.status.code(), said, erred))
    };
    let (code, said, erred) = run("r1l-mllp", "json").await?;
    assert_eq!(code, Some(0), "{erred}");
    let answer: v1::ProbeEndpointResponse = serde_json::from_str(&said)?;
    assert!(answer.reachable && answer.stages.len() == 5);
    let (code, said, _) = run("therapy-webhook", "human").await?;
    assert_eq!(code, Some(1));
    assert!(
        said.contains("failed") && said.contains("therapy-webhook cannot be reached"),
        "{said}"
    );
    let (code, said, _) = run("spec1-mailbox", "human").await?;
    assert_eq!(code, Some(0));
    assert!(said.contains("spec1-mailbox was not tried"), "{said}");
    let (code, _, erred) = run("nowhere", "human").await?;
    assert_eq!(code, Some(1));
    assert!(erred.contains("NO_SUCH_ENDPOINT"), "{erred}");
    Ok(())
}
