//! `kill -9` of the real `waymark serve` at random moments under load, again and again, on both stores.
//!
//! Nothing acknowledged is lost, nothing is delivered under two ids, the log never forks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child as Process, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use waymark::app::Duty;
use waymark_audit::Verdict;
use waymark_audit::verify::{Exhibit, Options, verify_tree};
use waymark_proto::v1;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway};
use waymark_tlog::note::VerifierKey;

/// Times that the process is killed.
const KILLS: usize = 50;
/// Calls in flight.
const CALLERS: usize = 8;
/// The longest wait for the process to be ready, or for an acknowledgement.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was acknowledged: request id to (referral, event, leaf).
type Acknowledged = Arc<Mutex<BTreeMap<String, (String, String, Vec<u8>)>>>;

/// The real binary, which `tests/run` builds first.
fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own
        .parent()
        .and_then(|p| p.parent())
        .context("tests run beneath the target folder")?
        .join("waymark");
    if !beside.exists() {
        bail!(
            "{} is not built: run `cargo build --bins`, or tests/run, which does",
            beside.display()
        );
    }
    Ok(beside)
}

/// Starts the process and waits until it says where it listens.
async fn serve(gateway: &Gateway) -> anyhow::Result<(Process, SocketAddr)> {
    let mut process = Command::new(binary()?)
        .arg("serve")
        .arg("--config")
        .arg(&gateway.deployment.config)
        .env("WAYMARK_TELEMETRY_LOG_FORMAT", "json")
        .env("WAYMARK_DELIVERY_LEASE", "2s")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(process.stderr.take().context("its log")?).lines();
    let mut seen = String::new();
    let address = loop {
        let next = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let Ok(Ok(Some(line))) = next else {
            bail!("the process never was ready:\n{seen}")
        };
        if let Ok(value) = serde_json::from_str::<serde_json::Value>(&line)
            && let Some(address) = value
                .pointer("/fields/grpc")
                .and_then(serde_json::Value::as_str)
        {
            break address.parse()?;
        }
        seen.push_str(&line);
        seen.push('\n');
    };
    // Its log goes on being read, so that a full pipe never stops it.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's reader ends with the process that it reads"
    )]
    tokio::spawn(async move { while let Ok(Some(_line)) = lines.next_line().await {} });
    Ok((process, address))
}

async fn client(gateway: &Gateway, address: SocketAddr, name: &str) -> anyhow::Result<Client> {
    let folder = gateway
        .deployment
        .clients
        .get(name)
        .with_context(|| format!("a client {name}"))?;
    let read = |name: &str| std::fs::read(folder.join(name));
    Client::connect(
        address,
        &gateway.ca()?,
        &read("cert.pem")?,
        &read("key.pem")?,
    )
    .await
}

/// Submits until the connection breaks.
async fn submit(
    client: Client,
    round: usize,
    caller: usize,
    acknowledged: Acknowledged,
    counted: Arc<Notify>,
) {
    for n in 0.. {
        let id = format!("{round}-{caller}-{n}");
        let child = Child(u32::try_from((round * CALLERS + caller) % 97).unwrap_or(0));
        match client
            .try_submit(&id, &child.referral("specialist-teaching"))
            .await
        {
            Ok(receipt) => {
                let proof = (
                    receipt.referral_id,
                    receipt.event_id,
                    receipt.leaf_hash.clone(),
                );
                acknowledged
                    .lock()
                    .expect("no panic holds it")
                    .insert(id, proof);
                counted.notify_one();
            }
            Err(_) => return,
        }
    }
}

async fn newest_checkpoint(auditor: &Client) -> anyhow::Result<Option<String>> {
    let answer = auditor
        .audit()
        .get_checkpoint(v1::GetCheckpointRequest {})
        .await;
    let note = answer
        .ok()
        .and_then(|a| a.into_inner().checkpoint)
        .map(|c| c.note);
    Ok(note.map(String::from_utf8).transpose()?)
}

async fn killed_again_and_again(engine: Engine) -> anyhow::Result<()> {
    let mut gateway = Gateway::make(engine, &Area::default(), Duty::Serve).await?;
    let acknowledged: Acknowledged = Arc::default();
    let mut checkpoints = Vec::new();
    let mut chance = StdRng::seed_from_u64(20_261_123);
    for round in 0..KILLS {
        let (mut process, address) = serve(&gateway).await?;
        let school = client(&gateway, address, "EE123456").await?;
        let auditor = client(&gateway, address, "auditor-LA882").await?;
        let counted = Arc::new(Notify::new());
        let before = acknowledged.lock().expect("no panic holds it").len();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(submit(
                school.clone(),
                round,
                caller,
                Arc::clone(&acknowledged),
                Arc::clone(&counted),
            ));
        }
        let enough = before + chance.random_range(1..120);
        let look = chance.random_bool(0.5);
        let until = async {
            while acknowledged.lock().expect("no panic holds it").len() < enough {
                counted.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, until)
            .await
            .context("acknowledgements in time")?;
        if look && let Some(note) = newest_checkpoint(&auditor).await? {
            checkpoints.push(Exhibit {
                name: format!("round {round}"),
                text: note,
            });
        }
        process.start_kill()?;
        process.wait().await?;
        while callers.join_next().await.is_some() {}
    }
    gateway.restart().await?;
    let acknowledged = std::mem::take(&mut *acknowledged.lock().expect("no panic holds it"));
    assert!(acknowledged.len() > KILLS, "there was load");
    nothing_acknowledged_is_lost(&gateway, &acknowledged).await?;
    nothing_is_delivered_under_two_ids(&gateway, &acknowledged).await?;
    let folder = tempfile::tempdir()?;
    let tree = gateway.export(folder.path()).await?;
    let options = Options {
        keys: vec![VerifierKey::parse(&gateway.vkey)?],
        old_checkpoints: checkpoints,
        ..Options::default()
    };
    let report = verify_tree(&tree, &options);
    assert_eq!(
        report.verdict,
        Verdict::Ok,
        "the log forked or lost something: {report:?}"
    );
    let conservation = gateway
        .service()?
        .check_conservation(None)
        .await
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    assert!(conservation.holds, "{conservation:?}");
    Ok(())
}

/// The same message again has the receipt that was acknowledged.
async fn nothing_acknowledged_is_lost(
    gateway: &Gateway,
    acknowledged: &BTreeMap<String, (String, String, Vec<u8>)>,
) -> anyhow::Result<()> {
    let school = gateway.client("EE123456").await?;
    for (id, (referral, event, leaf)) in acknowledged {
        let mut parts = id.split('-').filter_map(|n| n.parse::<usize>().ok());
        let (round, caller) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        let child = Child(u32::try_from((round * CALLERS + caller) % 97).unwrap_or(0));
        let again = school
            .submit(id, &child.referral("specialist-teaching"))
            .await?;
        assert!(again.duplicate, "{id} was acknowledged and lost");
        assert_eq!(
            (&again.referral_id, &again.event_id, &again.leaf_hash),
            (referral, event, leaf),
            "{id}"
        );
    }
    Ok(())
}

/// Everything accepted waits in the mailbox, each referral as one delivery.
async fn nothing_is_delivered_under_two_ids(
    gateway: &Gateway,
    acknowledged: &BTreeMap<String, (String, String, Vec<u8>)>,
) -> anyhow::Result<()> {
    let team = gateway.client("SPEC1").await?;
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    loop {
        let posts = team.fetch().await?;
        if posts.is_empty() {
            break;
        }
        for post in posts {
            seen.entry(post.dispatch.referral_id.clone())
                .or_default()
                .insert(post.lent.delivery_id.clone());
            team.acknowledge(&post).await?;
        }
    }
    for (referral, ids) in &seen {
        assert_eq!(ids.len(), 1, "{referral} came under several ids");
    }
    for (id, (referral, ..)) in acknowledged {
        assert!(
            seen.contains_key(referral),
            "{id} was accepted and not delivered"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_again_and_again_on_sqlite() {
    killed_again_and_again(Engine::Sqlite)
        .await
        .expect("survives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_again_and_again_on_postgres() {
    killed_again_and_again(Engine::Postgres)
        .await
        .expect("survives");
}
