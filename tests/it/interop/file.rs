//! Files: the adapter contract against OpenSSH's own SFTP server, and a school with a spreadsheet whose referral goes to
//! a team over SFTP and comes back as a status.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use serde_json::json;
use tempfile::TempDir;
use waymark::app::Duty;
use waymark::clock::SystemClock;
use waymark_adapters::contract;
use waymark_adapters::contract::folder::{FolderSide, endpoint};
use waymark_adapters::file::{MANIFEST_SUFFIX, Manifest};
use waymark_adapters::{AdapterContext, Adapters, EgressPolicy, Peers, Secrets};
use waymark_core::delivery::{DeliveryState, Evidence, Kind, ParkReason};
use waymark_core::directory::{AdapterKind, Environment};
use waymark_core::id::{AgencyId, Reference, ReferralId};
use waymark_core::port::{Deadline, DeliveryView, Inbound, Intake, IntakeAnswer, IntakeError};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, wait_until};
use waymark_tests::peer::Peer;
use zeroize::Zeroizing;

waymark_tests::both_engines! {
    a_spreadsheet_school_refers_to_a_team_over_sftp_and_hears_back,
}

/// OpenSSH's server, with the folder that it shows.
pub(super) struct Server {
    peer: Peer,
    ground: TempDir,
}

impl Server {
    async fn start() -> anyhow::Result<Self> {
        let ground = tempfile::tempdir()?;
        let home = ground.path().join("home");
        fs::create_dir_all(home.join("waymark"))?;
        let peer = Peer::start("sftp.sh", &[&home]).await?;
        Ok(Self { peer, ground })
    }

    fn folder(&self) -> PathBuf {
        self.ground.path().join("home/waymark")
    }

    fn beside(&self, ending: &str) -> anyhow::Result<String> {
        let path = self.ground.path().join(format!("home.{ending}"));
        Ok(fs::read_to_string(path)?.trim().to_owned())
    }

    /// Settings that lead there, expecting a host key.
    fn settings(&self, host_key: &str) -> anyhow::Result<String> {
        let user = std::process::Command::new("id").arg("-un").output()?;
        let user = String::from_utf8(user.stdout)?;
        Ok(format!(
            "transport = \"sftp\"\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{}\"\nkey = \"secret:sftp\"\n\
             host_keys = [\"{host_key}\"]\nprivate_network = true\ndirectory = \"waymark\"",
            self.peer.port(),
            user.trim(),
        ))
    }
}

/// The one secret there is.
struct OneKey(String);

impl Secrets for OneKey {
    fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        (name == "sftp").then(|| Zeroizing::new(format!("{}\n", self.0).into_bytes()))
    }
}

struct Nobody;

impl Peers for Nobody {
    fn agency_of(&self, _identity: &str) -> Option<AgencyId> {
        None
    }
}

fn adapters(key: String) -> anyhow::Result<Adapters> {
    let _chosen: Result<(), _> = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Ok(Adapters::new(&AdapterContext {
        profiles: BTreeMap::new(),
        secrets: Arc::new(OneKey(key)),
        peers: Arc::new(Nobody),
        environment: Environment::Test,
        egress: EgressPolicy::AsFlagged,
        clock: Arc::new(SystemClock),
        intake: None,
        files_root: None,
    })?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_adapter_keeps_its_contract_over_sftp() -> anyhow::Result<()> {
    let server = Server::start().await?;
    let good = server.settings(&server.beside("fingerprint")?)?;
    let impostor = server.settings(&format!("SHA256:{}", "A".repeat(43)))?;
    let nobody = good.replace(&format!("port = {}", server.peer.port()), "port = 1");
    let far = FolderSide::new(&server.folder(), &good, Some(&impostor), &nobody);
    let adapter = adapters(server.beside("key")?)?.adapter(AdapterKind::File);
    assert_eq!(contract::broken(&*adapter, &far).await, []);
    let left: Vec<_> = fs::read_dir(server.folder().join("outbox"))?.collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Takes whatever comes.
struct Taking;

#[async_trait]
impl Intake for Taking {
    async fn take(&self, _message: Inbound) -> Result<IntakeAnswer, IntakeError> {
        let referral = ReferralId::from_bytes([1; 16]);
        Ok(IntakeAnswer {
            referral,
            reference: Reference::of(referral),
            repeated: false,
            state: None,
        })
    }
}

/// Leaves a file that is so many days old.
fn leave_old(path: &Path, days: u64) -> anyhow::Result<()> {
    fs::write(path, "{}")?;
    let file = fs::File::options().write(true).open(path)?;
    let old = file.metadata()?.modified()? - Duration::from_hours(24 * days);
    Ok(file.set_modified(old)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_long_enough_is_removed_over_sftp_by_the_time_of_its_move()
-> anyhow::Result<()> {
    let server = Server::start().await?;
    let adapter = adapters(server.beside("key")?)?.adapter(AdapterKind::File);
    let endpoint = endpoint(&server.settings(&server.beside("fingerprint")?)?);
    let deadline = Deadline {
        within: Duration::from_secs(20),
    };
    let side = Side(server.folder());
    adapter.collect(&endpoint, &[], &Taking, deadline).await;
    for (sub, name, days) in [
        ("done", "old.json", 8),
        ("done", "young.json", 6),
        ("failed", "old.error.json", 8),
        ("outbox", "old.json", 8),
        // Written long ago, and taken now: it is kept from now on.
        ("receipts", "WM1.receipt.json", 30),
    ] {
        leave_old(&server.folder().join(sub).join(name), days)?;
    }
    for _ in 0..2 {
        let collected = adapter.collect(&endpoint, &[], &Taking, deadline).await;
        assert_eq!(collected.stopped, None);
        let mut done = side.names("done");
        done.sort();
        assert_eq!(done, ["WM1.receipt.json", "young.json"]);
    }
    assert_eq!(side.names("failed"), Vec::<String>::new());
    assert_eq!(side.names("outbox"), ["old.json"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_names_the_stage_at_which_sftp_fails() -> anyhow::Result<()> {
    let server = Server::start().await?;
    let adapter = adapters(server.beside("key")?)?.adapter(AdapterKind::File);
    let strangers = adapters(fs::read_to_string(server.ground.path().join("home.host"))?)?;
    let strangers = strangers.adapter(AdapterKind::File);
    let deadline = Deadline {
        within: Duration::from_secs(20),
    };
    let good = server.settings(&server.beside("fingerprint")?)?;
    let other_host = server.settings(&format!("SHA256:{}", "A".repeat(43)))?;
    for (adapter, settings, failed) in [
        (&adapter, good.clone(), None),
        (&adapter, other_host, Some("identity")),
        (
            &adapter,
            good.replace("\"waymark\"", "\"elsewhere\""),
            Some("application"),
        ),
        (
            &adapter,
            good.replace("private_network = true", "private_network = false"),
            Some("name"),
        ),
        (&strangers, good.clone(), Some("application")),
    ] {
        let probe = adapter.probe(&endpoint(&settings), deadline).await;
        let at = probe
            .stages
            .iter()
            .find(|s| s.passed == Some(false))
            .map(|s| s.stage);
        assert_eq!(at, failed, "{probe:?}");
    }
    Ok(())
}

const TABLES: &str = r#"
[[agency]]
id = "EE222222"
name = "Spreadsheet School"
sector = "education"
return_endpoint = "school-files"

[[identity]]
name = "file:school-files"
agency = "EE222222"

[[endpoint]]
id = "school-files"
agency = "EE222222"
adapter = "file"
[endpoint.settings]
transport = "folder"
directory = "agencies/school"
payload = "csv"
every_s = 1
bare_csv_after_s = 1

[[agency]]
id = "SENS1"
name = "Sensory team"
sector = "education"

[[identity]]
name = "file:sens1-files"
agency = "SENS1"

[[service]]
id = "sensory"
name = "Sensory support"
agency = "SENS1"
pathways = ["sensory-support"]
endpoint = "sens1-files"
owner_role = "Team lead"

[[rule]]
id = "sensory"
pathway = "sensory-support"
to = ["sensory"]

[[endpoint]]
id = "sens1-files"
agency = "SENS1"
adapter = "file"
[endpoint.settings]
payload = "csv"
every_s = 1
"#;

/// The school's spreadsheet, as a spreadsheet in England may save it.
fn sheet(child: Child, reason: &str) -> String {
    let cells = [
        ("message.environment", "test".to_owned()),
        ("child.name.family", child.family()),
        ("child.name.given", child.given()),
        ("child.date_of_birth", "2016-03-14".to_owned()),
        ("child.nhs_number", child.nhs()),
        ("child.nhs_verification", "verified".to_owned()),
        ("referrer.name", "Ruth Adeyemi".to_owned()),
        ("referrer.role", "SENCO".to_owned()),
        ("setting.kind", "primary".to_owned()),
        ("pathway", "sensory-support".to_owned()),
        ("priority", "routine".to_owned()),
        ("reason.code", "REQ".to_owned()),
        ("reason.text", format!("\"{reason}\"")),
        ("allergies", "Penicillin".to_owned()),
        ("safeguarding.1.system", "http://snomed.info/sct".to_owned()),
        ("safeguarding.1.code", "836881000000105".to_owned()),
        (
            "reasonable_adjustments.1.system",
            "https://fhir.nhs.uk/CodeSystem/flag-categories-bars".to_owned(),
        ),
        (
            "reasonable_adjustments.1.code",
            "requiresinformationineasyread".to_owned(),
        ),
        ("consent.status", "given".to_owned()),
        ("consent.role", "parent_with_pr".to_owned()),
        ("consent.scope", "\"referral; share_education\"".to_owned()),
        ("consent.given_by", child.parent()),
        ("consent.date", "2026-01-12".to_owned()),
        ("lawful_basis", "public_task_care".to_owned()),
        ("sender_reference.value", format!("S-{}", child.0)),
    ];
    let (header, row): (Vec<_>, Vec<_>) = cells.into_iter().unzip();
    format!("\u{feff}{}\r\n{}\r\n", header.join(";"), row.join(";"))
}

/// One side's folder.
struct Side(PathBuf);

impl Side {
    fn leave(&self, sub: &str, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let folder = self.0.join(sub);
        fs::create_dir_all(&folder)?;
        let part = folder.join(format!("{name}.part"));
        fs::write(&part, bytes)?;
        Ok(fs::rename(part, folder.join(name))?)
    }

    fn names(&self, sub: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(sub))
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter_map(|e| e.file_name().into_string().ok())
            .collect()
    }

    /// Waits for a message of a kind in the outbox, and takes it away with its data.
    async fn takes(&self, kind: Kind) -> anyhow::Result<(Manifest, String)> {
        let outbox = self.0.join("outbox");
        wait_until(
            &format!("a message {kind} in {}", outbox.display()),
            PATIENCE,
            || async {
                for name in self.names("outbox") {
                    if !name.ends_with(MANIFEST_SUFFIX) {
                        continue;
                    }
                    let manifest: Manifest =
                        serde_json::from_slice(&fs::read(outbox.join(&name))?)?;
                    if manifest.kind != kind {
                        continue;
                    }
                    let data = manifest.data().context("its data")?;
                    let bytes = fs::read(outbox.join(data.name.as_str()))?;
                    assert_eq!(data.sha256, sha256_hex(&bytes));
                    fs::remove_file(outbox.join(&name))?;
                    return Ok(Some((manifest, String::from_utf8(bytes)?)));
                }
                Ok(None)
            },
        )
        .await
    }

    async fn has(&self, sub: &str, name: &str) -> anyhow::Result<()> {
        wait_until(&format!("{name} in {sub}"), PATIENCE, || async {
            Ok(self.names(sub).iter().any(|n| n == name).then_some(()))
        })
        .await
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

async fn comes_to(
    gateway: &Gateway,
    wire: &str,
    state: DeliveryState,
) -> anyhow::Result<DeliveryView> {
    wait_until(&format!("{wire} is {state}"), PATIENCE, || async {
        let view = gateway.store()?.delivery_by_wire_id(&wire.parse()?).await?;
        Ok(view.filter(|view| view.state == state))
    })
    .await
}

/// A gateway, the server of a team whose files it writes over SFTP, and the ground of a school's own folder.
pub(super) async fn over_sftp(engine: Engine) -> anyhow::Result<(Gateway, Server, TempDir)> {
    let server = Server::start().await?;
    let tables = format!(
        "{TABLES}{}\n",
        server.settings(&server.beside("fingerprint")?)?
    );
    let ground = tempfile::tempdir()?;
    fs::create_dir_all(ground.path().join("agencies/school"))?;
    let mut gateway = Gateway::make(engine, &Area::with(tables), Duty::Serve).await?;
    gateway.config.files.root = Some(ground.path().to_owned());
    fs::write(
        gateway.deployment.dir.join("secrets/sftp"),
        format!("{}\n", server.beside("key")?),
    )?;
    gateway.restart().await?;
    Ok((gateway, server, ground))
}

async fn a_spreadsheet_school_refers_to_a_team_over_sftp_and_hears_back(
    engine: Engine,
) -> anyhow::Result<()> {
    let (gateway, server, ground) = over_sftp(engine).await?;
    let (school, team) = (
        Side(ground.path().join("agencies/school")),
        Side(server.folder()),
    );
    let admin = gateway.client("admin-LA882").await?;

    // There: nothing that matters to safety is lost on the way, and the receipt is the team's word.
    school.leave(
        "inbox",
        "one.csv",
        sheet(Child(410), "=cannot bear; noise").as_bytes(),
    )?;
    let (referral, csv) = team.takes(Kind::New).await?;
    for word in [
        "836881000000105",
        "requiresinformationineasyread",
        "Penicillin",
        "'=cannot bear; noise",
    ] {
        assert!(csv.contains(word), "{word}");
    }
    let id = referral.id.as_str();
    let sent = comes_to(&gateway, id, DeliveryState::AwaitingEvidence).await?;
    assert_eq!(sent.evidence, Evidence::Sent, "written is not received");
    team.leave("receipts", &format!("{id}.receipt"), b"")?;
    let done = comes_to(&gateway, id, DeliveryState::Done).await?;
    assert_eq!(done.evidence, Evidence::ApplicationAck);
    school.has("done", "one.csv").await?;

    // The same sheet once more, under another name, is no second referral.
    school.leave(
        "inbox",
        "one again.csv".replace(' ', "_").as_str(),
        sheet(Child(410), "=cannot bear; noise").as_bytes(),
    )?;
    school.has("done", "one_again.csv").await?;
    assert!(
        team.names("outbox")
            .iter()
            .all(|name| !name.ends_with(MANIFEST_SUFFIX))
    );

    // And back: the team's status reaches the school's folder.
    let status =
        json!({"type": "referral.status", "environment": "test", "referral": referral.reference,
        "answers": id, "state": "accepted"})
        .to_string();
    let manifest = json!({"version": 1, "environment": "test", "id": "S1", "kind": "status",
        "created": "2026-03-02T10:00:00Z", "format": "canonical", "files": [{"name": "S1.json", "role": "data",
        "size": status.len(), "media_type": "application/json", "sha256": sha256_hex(status.as_bytes())}]});
    team.leave("inbox", "S1.json", status.as_bytes())?;
    team.leave("inbox", "S1.manifest.json", manifest.to_string().as_bytes())?;
    let (told, csv) = school.takes(Kind::Status).await?;
    assert!(csv.contains("accepted"), "{csv}");
    assert_eq!(told.reference, referral.reference);
    school.leave("receipts", &format!("{}.receipt", told.id), b"")?;
    comes_to(&gateway, told.id.as_str(), DeliveryState::Done).await?;
    team.has("done", "S1.manifest.json").await?;

    // What the team will not take waits for a person.
    school.leave(
        "inbox",
        "two.csv",
        sheet(Child(411), "cannot see the board").as_bytes(),
    )?;
    let (refused, _) = team.takes(Kind::New).await?;
    comes_to(
        &gateway,
        refused.id.as_str(),
        DeliveryState::AwaitingEvidence,
    )
    .await?;
    team.leave(
        "rejected",
        &format!("{}.rejected.json", refused.id),
        br#"{"code":"NOT_OURS"}"#,
    )?;
    let parked = comes_to(&gateway, refused.id.as_str(), DeliveryState::Parked).await?;
    assert_eq!(parked.parked, Some(ParkReason::Refused));
    assert!(admin.conservation().await?.balanced);
    Ok(())
}
