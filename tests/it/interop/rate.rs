//! Referrals of many children arrive end to end, adapter by adapter, at software that we did not write; and how fast, which
//! `tests/bench` shows of a release build.
//!
//! The limit of the same run is how fast the same gateway accepts the same referrals from one sender, one after another:
//! nothing arrives that was not accepted.

use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;
use waymark_proto::v1;
use waymark_proto::v1::EvidenceGrade;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, wait_until};

use super::{agency, fhir, file, mesh, mllp, webhook};

/// Referrals of children of their own: enough to measure in a release build, and to see that all arrive in any other.
const CHILDREN: std::ops::Range<u32> = if cfg!(debug_assertions) {
    1_000..1_012
} else {
    1_000..1_200
};
/// The longest that they may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// One adapter's figures.
struct Rate {
    accepted: f64,
    arrived: f64,
}

async fn there(admin: &Client, endpoint: &str) -> anyhow::Result<usize> {
    let mut count = 0;
    let mut token = String::new();
    loop {
        let page = admin
            .admin()
            .list_deliveries(v1::ListDeliveriesRequest {
                page_size: 200,
                page_token: token,
                endpoint_id: endpoint.to_owned(),
                ..v1::ListDeliveriesRequest::default()
            })
            .await?
            .into_inner();
        let arrived = |d: &&v1::Delivery| d.evidence() != EvidenceGrade::None;
        count += page.deliveries.iter().filter(arrived).count();
        if page.next_page_token.is_empty() {
            return Ok(count);
        }
        token = page.next_page_token;
    }
}

async fn measure(gateway: &Gateway, pathway: &str, endpoint: &str) -> anyhow::Result<Rate> {
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    // The first makes the connections.
    school.submit("rate", &Child(999).referral(pathway)).await?;
    let one = || async { Ok((there(&admin, endpoint).await? == 1).then_some(())) };
    wait_until("the first has arrived", PATIENCE, one).await?;
    let begun = Instant::now();
    for n in CHILDREN {
        let referral = Child(n).referral(pathway);
        school.submit(&format!("rate-{n}"), &referral).await?;
    }
    let accepted = begun.elapsed();
    let all = CHILDREN.len() + 1;
    let every = || async { Ok((there(&admin, endpoint).await? == all).then_some(())) };
    wait_until("all have arrived", PATIENCE, every).await?;
    let arrived = begun.elapsed();
    let count = f64::from(CHILDREN.end - CHILDREN.start);
    Ok(Rate {
        accepted: count / accepted.as_secs_f64(),
        arrived: count / arrived.as_secs_f64(),
    })
}

fn say(adapter: &str, peer: &str, rate: &Rate) -> anyhow::Result<()> {
    let (arrived, accepted) = (rate.arrived, rate.accepted);
    writeln!(
        std::io::stdout(),
        "rate: {adapter:<8} {peer:<28} arrived {arrived:>7.1}/s  limit (accepted) {accepted:>7.1}/s  ratio {:.2}",
        arrived / accepted
    )?;
    Ok(())
}

/// The second limit of a slow peer: what it takes in where one client sends it the same messages without a gateway.
fn alone(adapter: &str, rate: &Rate, alone: f64) -> anyhow::Result<()> {
    let ratio = rate.arrived / alone;
    writeln!(
        std::io::stdout(),
        "rate: {adapter:<8} {:<28} limit (the peer alone) {alone:>7.1}/s  ratio {ratio:.2}",
        "the same, without us"
    )?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_hl7v2_all_arrive() -> anyhow::Result<()> {
    let (gateway, _peer) = mllp::hospital("mllp_python_hl7.py", true, &[]).await?;
    let rate = measure(&gateway, "adhd-assessment", "r1l-mllp").await?;
    say("hl7v2", "python-hl7, mutual TLS", &rate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_grpc_all_arrive() -> anyhow::Result<()> {
    let gateway = Gateway::start(Engine::Sqlite, &Area::default()).await?;
    let _peer = agency::agency(&gateway, "OK").await?;
    let rate = measure(&gateway, "mental-health", "cam01-grpc").await?;
    say("grpc", "grpcio, mutual TLS", &rate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_webhook_all_arrive() -> anyhow::Result<()> {
    let (service, _peer) = webhook::Service::serving().await?;
    let rate = measure(&service.gateway, "speech-language", "therapy-webhook").await?;
    say("webhook", "standardwebhooks, TLS", &rate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_fhir_messages_all_arrive() -> anyhow::Result<()> {
    let place = fhir::Place::new("bars", "").await?;
    let rate = measure(&place.gateway, fhir::PATHWAY, "fhr-fhir").await?;
    say("fhir", "Medplum, bars, mutual TLS", &rate)?;
    alone("fhir", &rate, place.alone().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_fhir_transactions_all_arrive() -> anyhow::Result<()> {
    // Asking for the tasks meanwhile would measure how fast the peer searches its memory.
    let place = fhir::Place::asking("plain", "", 3_600).await?;
    let rate = measure(&place.gateway, fhir::PATHWAY, "fhr-fhir").await?;
    say("fhir", "Medplum, plain, mutual TLS", &rate)?;
    alone("fhir", &rate, place.alone().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_mesh_all_arrive() -> anyhow::Result<()> {
    let ground = mesh::Ground::new(true, "", &[]).await?;
    let rate = measure(&ground.gateway, "autism-assessment", "comm1-mesh").await?;
    say("mesh", "mesh-sandbox, mutual TLS", &rate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_file_all_arrive() -> anyhow::Result<()> {
    let (gateway, _server, _folder) = file::over_sftp(Engine::Sqlite).await?;
    let rate = measure(&gateway, "sensory-support", "sens1-files").await?;
    say("file", "OpenSSH, SFTP", &rate)
}
