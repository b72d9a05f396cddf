//! Other people's referral messages, and ours of the same shapes: in by `waymark send`, out at foreign receivers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;
use waymark::app::{App, Duty};
use waymark::cli::{Deployment, InitOptions, Ports, init_deployment};
use waymark::config::{Config, Lasting};
use waymark::lifecycle::Lifecycle;
use waymark::telemetry::Telemetry;
use waymark_core::delivery::{DeliveryState, Evidence, Kind};
use waymark_core::directory::{Environment, SourceFile};
use waymark_core::leg::LegState;
use waymark_core::port::{ReferralKey, ReferralView};
use waymark_core::referral::SenderReference;
use waymark_tests::actors::send;
use waymark_tests::engine::root;
use waymark_tests::gateway::{PATIENCE, wait_until};
use waymark_tests::peer::{Peer, Said, bytes, ended, text};

use super::{Bodies, unframed};

/// The area that the messages belong to: live, as they say of themselves, with the receiver as its triage.
const AREA: &str = r#"
[area]
id = "corpus"
name = "The corpus's area"
environment = "live"
triage = "triage"

[[agency]]
id = "GHH"
name = "The sending hospital"
sector = "health"

[[identity]]
name = "waymark:live:agency:GHH"
agency = "GHH"

[[identity]]
name = "mllp:ghh"
agency = "GHH"
hl7_senders = ["GHH|GHHSFacility", "NORTHMIS|NorthSchool"]

[[agency]]
id = "RHH"
name = "The receiving hospital"
sector = "health"

[[identity]]
name = "waymark:live:admin:RHH"
agency = "RHH"
roles = ["admin"]

[[service]]
id = "triage"
name = "Triage"
agency = "RHH"
pathways = []
endpoint = "rhh-mllp"
owner_role = "Triage coordinator"

[[service]]
id = "early-years"
name = "Early years"
agency = "RHH"
pathways = ["autism-assessment"]
endpoint = "rhh-mllp"
owner_role = "Coordinator"

[[rule]]
id = "under-5"
pathway = "autism-assessment"
age = { max = 4 }
to = ["early-years"]

[[endpoint]]
id = "rhh-mllp"
agency = "RHH"
adapter = "hl7v2"
retry = { first = "20ms", cap = "60ms", soft_rejects_max = 3, panics_max = 3 }
attempt_timeout = "5s"
deadline = "1h"
[endpoint.settings]
host = "127.0.0.1"
port = PORT
transport = "plain"
interface = "127.0.0.1"
version = "2.5"
sending_app = "WAYMARK"
sending_facility = "CORPUS"
receiving_app = "RHH"
receiving_facility = "RHHFacility"
ack_mode = "original"
"#;

/// Three messages: a referral, another new one under its reference, and its cancel.
struct Set {
    files: [PathBuf; 3],
    reference: (&'static str, &'static str),
    born: &'static str,
    triage: &'static str,
}

/// The shared corpus: a person born in 1961. None where it is not there.
fn shared() -> Option<Set> {
    let folder = root().join("../shared/corpus/hl7v2");
    let file = |name: &str| folder.join(format!("ms_REF-{name}.hl7"));
    let files = [file("I12-01"), file("I12-02"), file("I14-01")];
    let there = files.iter().all(|f| f.exists());
    there.then_some(Set {
        files,
        reference: ("226839", "EPIC"),
        born: "19610615",
        triage: "age_out_of_range",
    })
}

/// Messages of our own making with the same shapes: a child whom no rule takes.
fn own() -> Set {
    let folder = root().join("adapters/src/hl7v2/fixtures");
    let files = ["ref-i12-v28-wide", "ref-i12-v28-again", "ref-i14-v28-wide"]
        .map(|n| folder.join(format!("{n}.hl7")));
    Set {
        files,
        reference: ("710042", "NORTH"),
        born: "20140615",
        triage: "no_rule",
    }
}

/// `file | what becomes of it`, in the order of names: the shared corpus, then messages of our own making.
const TABLE: &str = include_str!("corpus.txt");

/// The gateway of that area.
struct Live {
    app: App,
    deployment: Deployment,
    lifecycle: Lifecycle,
    running: JoinSet<()>,
    _telemetry: Telemetry,
    folder: TempDir,
}

impl Live {
    async fn start(receiver: u16) -> anyhow::Result<Self> {
        let _chosen: Result<(), _> =
            rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir()?;
        let text = AREA.replace("PORT", &receiver.to_string());
        let options = InitOptions {
            environment: Environment::Live,
            ports: Ports::FREE,
            directory: vec![SourceFile {
                path: "area.toml".to_owned(),
                text,
            }],
            ..InitOptions::default()
        };
        let deployment = init_deployment(&folder.path().join("area"), &options)?;
        let mut config = Config::load(&deployment.config)?;
        config.delivery.poll = Lasting::new(Duration::from_millis(20));
        config.delivery.lease = Lasting::new(Duration::from_secs(2));
        config.log.interval = Lasting::new(Duration::from_millis(20));
        let (telemetry, lifecycle) = (
            Telemetry::metrics_only()?,
            Lifecycle::new(Duration::from_secs(10)),
        );
        let app = App::start(&config, Duty::Serve, &lifecycle, telemetry.metrics()).await?;
        let (mut running, watched) = (JoinSet::new(), lifecycle.clone());
        running.spawn(async move {
            let _ending: std::io::Result<_> = watched.run().await;
        });
        Ok(Self {
            app,
            deployment,
            lifecycle,
            running,
            _telemetry: telemetry,
            folder,
        })
    }

    fn listener(&self) -> SocketAddr {
        *self.app.mllp.get("ghh").expect("the listener of mllp:ghh")
    }

    /// Runs the real `waymark send`.
    async fn send(&self, files: &[PathBuf]) -> anyhow::Result<(Said, Vec<Value>)> {
        let mut command = Command::new(binary()?);
        command.args([
            "--output",
            "json",
            "send",
            "--as",
            "GHH",
            "--mllp-plain",
            "--mllp",
        ]);
        command
            .arg(self.listener().to_string())
            .arg("--config")
            .arg(&self.deployment.config)
            .args(files);
        let said = ended(command).await?;
        let report: Value = serde_json::from_str(&said.out)
            .with_context(|| format!("{}{}", said.out, said.errors))?;
        let items = report["items"].as_array().cloned().context("items")?;
        Ok((said, items))
    }

    /// The referral under a sender's reference.
    async fn referral(&self, (value, namespace): (&str, &str)) -> anyhow::Result<ReferralView> {
        let reference = SenderReference {
            value: value.to_owned(),
            namespace: namespace.to_owned(),
        };
        let store = self.app.service.store();
        let id = store
            .resolve(&ReferralKey::Sender("GHH".parse()?, reference))
            .await?
            .context("the referral")?;
        store.referral(id).await?.context("the referral")
    }

    /// Waits until so many deliveries of it are done.
    async fn done(&self, reference: (&str, &str), count: usize) -> anyhow::Result<ReferralView> {
        wait_until(
            &format!("{count} deliveries are done"),
            PATIENCE,
            || async {
                let view = self.referral(reference).await?;
                let done = view
                    .deliveries
                    .iter()
                    .filter(|d| d.state == DeliveryState::Done)
                    .count();
                Ok((done == count).then_some(view))
            },
        )
        .await
    }

    /// A copy of a message with other line ends.
    fn copy(&self, file: &Path, ending: &str) -> anyhow::Result<PathBuf> {
        let text = std::fs::read_to_string(file)?
            .replace("\r\n", "\n")
            .replace('\r', "\n");
        let name = file
            .file_name()
            .context("a file name")?
            .to_string_lossy()
            .into_owned();
        let copy = self.folder.path().join(format!(
            "{}-{name}",
            ending.len() + usize::from(ending == "\r") * 10
        ));
        std::fs::write(&copy, text.replace('\n', ending))?;
        Ok(copy)
    }

    async fn stop(mut self) {
        self.lifecycle.stop();
        while self.running.join_next().await.is_some() {}
    }
}

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
            "{} is not built: run `cargo build -p waymark --bins`, or tests/run, which does",
            beside.display()
        );
    }
    Ok(beside)
}

/// Stamps one test of the shared corpus for each receiver, with the line ends that the files get.
macro_rules! corpus {
    ($($name:ident: $script:literal, $ending:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() -> anyhow::Result<()> {
                let Some(set) = shared() else {
                    eprintln!("../shared/corpus/hl7v2 is absent: our own messages alone were tried");
                    return Ok(());
                };
                goes_in_and_comes_out(&set, $script, $ending).await
            }
        )*
    };
}

corpus! {
    the_corpus_comes_out_at_simple_hl7: "mllp_simple_hl7.js", "\n";
    the_corpus_with_crlf_comes_out_at_node_hl7_server: "mllp_node_hl7_server.js", "\r\n";
    the_corpus_with_cr_comes_out_at_hl7apy: "mllp_hl7apy.py", "\r";
    the_corpus_with_crlf_comes_out_at_python_hl7: "mllp_python_hl7.py", "\r\n";
    the_corpus_with_cr_comes_out_at_medplum: "mllp_medplum.js", "\r";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_messages_of_the_same_shapes_come_out_at_simple_hl7() -> anyhow::Result<()> {
    goes_in_and_comes_out(&own(), "mllp_simple_hl7.js", "\n").await
}

/// What an item's refusal says.
fn refusal(item: &Value) -> (&str, &str) {
    assert_eq!(item["outcome"], "refused", "{item}");
    (
        item["reason"].as_str().unwrap_or_default(),
        item["violations"][0]["field"].as_str().unwrap_or_default(),
    )
}

/// A field of a segment of a message.
fn field<'a>(message: &'a str, segment: &str, nth: usize) -> &'a str {
    let found = message
        .split('\r')
        .find(|s| s.starts_with(segment))
        .and_then(|s| s.split('|').nth(nth));
    found.unwrap_or_default()
}

async fn goes_in_and_comes_out(set: &Set, script: &str, ending: &str) -> anyhow::Result<()> {
    // The first acknowledgement is lost.
    let peer = Peer::start(script, &["--script", "DROP"]).await?;
    let live = Live::start(peer.port()).await?;
    let mut files = Vec::new();
    for file in &set.files {
        files.push(live.copy(file, ending)?);
    }
    let [new, again, cancel] = files.as_slice() else {
        bail!("three files")
    };

    let (said, items) = live.send(std::slice::from_ref(new)).await?;
    assert!(said.ok, "{}{}", said.out, said.errors);
    assert_eq!(
        (&items[0]["outcome"], &items[0]["acknowledgement"]),
        (&"accepted".into(), &"AA".into())
    );
    let view = live.done(set.reference, 1).await?;
    let leg = view.legs.first().context("a leg")?;
    assert_eq!(
        leg.leg.triage.as_deref(),
        Some(set.triage),
        "no rule takes this person: triage has it"
    );
    assert_eq!(leg.owner.agency.as_str(), "RHH");

    let (said, items) = live.send(std::slice::from_ref(again)).await?;
    assert!(!said.ok);
    assert_eq!(
        refusal(&items[0]),
        ("HL7_205", "RF1-6"),
        "a second new under one reference is refused by name"
    );
    let (said, _) = live.send(std::slice::from_ref(cancel)).await?;
    assert!(said.ok, "{}{}", said.out, said.errors);
    let view = live.done(set.reference, 2).await?;
    assert_eq!(
        view.legs.first().map(|leg| leg.state),
        Some(LegState::Cancelled)
    );
    let kinds: Vec<Kind> = view.deliveries.iter().map(|d| d.kind).collect();
    assert_eq!(kinds, [Kind::New, Kind::Cancel]);
    assert!(
        view.deliveries
            .iter()
            .all(|d| d.evidence == Evidence::ApplicationAck)
    );

    // All three again, with other line ends: they are the same messages, and are answered as before.
    let other = if ending == "\r\n" { "\r" } else { "\r\n" };
    let mut repeats = Vec::new();
    for file in &set.files {
        repeats.push(live.copy(file, other)?);
    }
    let (_, items) = live.send(&repeats).await?;
    let outcomes: Vec<&str> = items
        .iter()
        .map(|i| i["outcome"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(outcomes, ["accepted", "refused", "accepted"]);
    assert_eq!(
        live.referral(set.reference).await?.deliveries.len(),
        2,
        "nothing more is sent"
    );

    let records = peer.records()?;
    let ids: Vec<&str> = records.iter().map(|r| text(r, "control_id")).collect();
    let of = |place: usize| {
        view.deliveries
            .get(place)
            .map_or("", |d| d.wire_id.as_str())
    };
    assert_eq!(
        ids,
        [of(0), of(0), of(1)],
        "once each and in order, but for the lost answer"
    );
    let mut bodies = Bodies::new();
    for record in &records {
        let stored = bodies
            .of(&**live.app.service.store(), text(record, "control_id"))
            .await?;
        let came = bytes(record, "bytes_b64")?;
        assert_eq!(
            came,
            unframed(&stored),
            "every attempt carries the stored bytes"
        );
        let came = String::from_utf8(came)?;
        assert!(field(&came, "PID", 7).starts_with(set.born), "{came}");
        assert_eq!(
            field(&came, "RF1", 6).split('^').next(),
            Some(view.reference.as_str())
        );
        assert_eq!(field(&came, "MSH", 10), "P");
    }
    live.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_without_provider_or_reference_is_refused_by_segment_and_field()
-> anyhow::Result<()> {
    let live = Live::start(1).await?;
    let good = std::fs::read_to_string(&own().files[0])?
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let lines = || good.lines().filter(|line| !line.is_empty());
    let no_provider: Vec<&str> = lines().filter(|line| !line.starts_with("PRD")).collect();
    let no_reference: Vec<String> = lines()
        .map(|line| {
            if line.starts_with("RF1") {
                line.replace("710042^NORTH", "")
            } else {
                line.to_owned()
            }
        })
        .collect();
    for (text, place, located) in [
        (no_provider.join("\r"), "PRD", "|PRD"),
        (no_reference.join("\r"), "RF1-6", "|RF1^1^6"),
    ] {
        let file = live.folder.path().join("broken.hl7");
        std::fs::write(&file, &text)?;
        let (said, items) = live.send(&[file]).await?;
        assert!(!said.ok);
        assert_eq!(refusal(&items[0]).1, place);
        // The listener itself says so as well, to whoever sends by other means.
        let answer = send(live.listener(), &format!("{text}\r")).await?;
        assert!(
            answer.contains("MSA|AE|NM00112") && answer.contains(located),
            "{answer}"
        );
    }
    live.stop().await;
    Ok(())
}

/// What becomes of one message: taken and routed where, or refused at which place by which rule.
async fn becomes(live: &Live, file: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(file)?;
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let text = text.replace("\r\n", "\r").replace('\n', "\r");
    let answer = send(live.listener(), text.trim_end_matches('\r')).await?;
    let code = field(&answer, "MSA", 1);
    if !matches!(code, "AA" | "CA") {
        // ERR-1 and MSA-3 before 2.5, ERR-3 and ERR-7 from then on; MSA-3 is cut at 80 characters.
        let number = |from: &str, component: usize| {
            let found = from.split('^').nth(component).unwrap_or_default();
            found.split('&').next().unwrap_or_default().to_owned()
        };
        let (old, new) = (field(&answer, "ERR", 1), field(&answer, "ERR", 3));
        let (number, rule) = if new.is_empty() {
            (number(old, 3), field(&answer, "MSA", 3))
        } else {
            (number(new, 0), field(&answer, "ERR", 7))
        };
        let rule = rule.split(" (HL7 error").next().unwrap_or_default();
        return Ok(format!("refused {code} {number}: {rule}"));
    }
    let kind: Vec<&str> = field(&text, "MSH", 8).split('^').take(2).collect();
    let mut reference = field(&text, "RF1", 6).split('^');
    let reference = (
        reference.next().unwrap_or_default(),
        reference.next().unwrap_or_default(),
    );
    let view = live.referral(reference).await?;
    let leg = view.legs.first().context("a leg")?;
    let (owner, state) = (&leg.owner.agency, leg.state);
    let why = leg.leg.triage.as_deref().unwrap_or("a rule");
    Ok(format!(
        "taken {code}: {} of {}, at {} by {why}, {state}, owned by {owner}",
        kind.join("^"),
        reference.0,
        leg.leg.service
    ))
}

fn folder_of(path: &str) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(root().join(path)) else {
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry?.path());
    }
    files.retain(|file| file.extension().is_some_and(|end| end == "hl7"));
    files.sort();
    Ok(files)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_of_the_corpus_becomes_what_the_table_says() -> anyhow::Result<()> {
    let lines = TABLE.lines().filter_map(|line| line.split_once(" | "));
    let expected: std::collections::BTreeMap<&str, &str> = lines.collect();
    let mut seen = Vec::new();
    for folder in ["../shared/corpus/hl7v2", "adapters/src/hl7v2/fixtures"] {
        let live = Live::start(1).await?;
        for file in folder_of(folder)? {
            let name = file.file_name().context("a name")?.to_string_lossy();
            let found = becomes(&live, &file).await?;
            println!("{name} | {found}");
            seen.push((name.into_owned(), found));
        }
        live.stop().await;
    }
    for (name, found) in &seen {
        assert_eq!(
            Some(&found.as_str()),
            expected.get(name.as_str()),
            "{name} has its line in corpus.txt"
        );
    }
    assert!(seen.iter().any(|(name, _)| name.starts_with("ref-")));
    Ok(())
}
