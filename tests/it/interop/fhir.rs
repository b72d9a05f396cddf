//! FHIR against software that we did not write: validators, an R4 server, and a sender that checks what we answer.

use anyhow::Context as _;
use serde_json::{Value, json};
use waymark::app::Duty;
use waymark::config::{FhirListener, MllpAssumptions};
use waymark_core::referral::LawfulBasis;
use waymark_proto::v1;
use waymark_proto::v1::{AttemptOutcome, DeliveryState, EvidenceGrade, LegState};
use waymark_tests::engine::{Engine, root};
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, wait_until};
use waymark_tests::peer::{Peer, bytes, run, text};

use super::{Papers, shown};

mod corpus;
mod matrix;
mod server;

const SERVER: &str = "fhir_medplum.js";
const SENDER: &str = "fhir_send.py";
const TARGET: &str = "https://fhir.nhs.uk/Id/dos-service-id|2000011147";
pub(super) const PATHWAY: &str = "neurodevelopment";
const FAR_SIDE: &str = "waymark:test:agency:FHR01";

/// A service that is reached by FHIR, in one of its two modes.
fn area(mode: &str, poll_seconds: u32, port: u16) -> Area {
    let pushing = Area::default().pushing;
    let more = format!(
        r#"
[[agency]]
id = "FHR01"
name = "Southmere Neurodevelopment"
sector = "health"
return_endpoint = "fhr-fhir"

[[identity]]
name = "{FAR_SIDE}"
agency = "FHR01"

[[service]]
id = "neurodevelopment"
name = "Neurodevelopmental team"
agency = "FHR01"
pathways = ["{PATHWAY}"]
endpoint = "fhr-fhir"
owner_role = "Team lead"

[[rule]]
id = "neurodevelopment"
pathway = "{PATHWAY}"
to = ["neurodevelopment"]

[[endpoint]]
id = "fhr-fhir"
agency = "FHR01"
adapter = "fhir"
{pushing}
[endpoint.settings]
url = "https://127.0.0.1:{port}/fhir"
mode = "{mode}"
auth = "mtls"
peer_identity = "{FAR_SIDE}"
private_network = true
target = {{ value = "2000011147" }}
source = {{ value = "2000099999" }}
poll_seconds = {poll_seconds}
"#
    );
    Area {
        more,
        ..Area::default()
    }
}

/// A gateway that serves FHIR and delivers to a Medplum server.
pub(super) struct Place {
    pub(super) gateway: Gateway,
    papers: Papers,
    peer: Peer,
    client: reqwest::Client,
}

impl Place {
    pub(super) async fn new(mode: &str, script: &str) -> anyhow::Result<Self> {
        Self::asking(mode, script, 1).await
    }

    /// One that asks for the tasks of a plain server every so many seconds.
    pub(super) async fn asking(
        mode: &str,
        script: &str,
        poll_seconds: u32,
    ) -> anyhow::Result<Self> {
        let made = area(mode, poll_seconds, 1);
        let mut gateway = Gateway::make(Engine::Sqlite, &made, Duty::Serve).await?;
        gateway.config.listen.fhir = Some(FhirListener {
            address: ([127, 0, 0, 1], 0).into(),
            targets: vec![
                TARGET.to_owned(),
                TARGET.replace("2000011147", "2000099999"),
                TARGET.replace("2000011147", "111111111"),
            ],
            assume: MllpAssumptions {
                pathway: PATHWAY.parse()?,
                pathways: std::collections::BTreeMap::new(),
                lawful_basis: LawfulBasis::PublicTaskCare,
                consent_scope: Vec::new(),
            },
        });
        gateway.restart().await?;
        let papers = Papers::of(&gateway, FAR_SIDE)?;
        let (cert, key, ca) = (papers.path("cert"), papers.path("key"), papers.path("ca"));
        let mut args = vec!["--tls", &cert, &key, &ca];
        if !script.is_empty() {
            args.extend(["--script", script]);
        }
        let peer = Peer::start(SERVER, &args).await?;
        let found = area(mode, poll_seconds, peer.port());
        gateway.apply(&found.files()).await?;
        let pem = [std::fs::read(&cert)?, std::fs::read(&key)?].concat();
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&std::fs::read(&ca)?)?])
            .identity(reqwest::Identity::from_pem(&pem)?)
            .build()?;
        Ok(Self {
            gateway,
            papers,
            peer,
            client,
        })
    }

    /// Submits, and waits until the delivery comes into a state.
    async fn comes_to(
        &self,
        n: u32,
        state: DeliveryState,
    ) -> anyhow::Result<(v1::Receipt, v1::Delivery)> {
        let school = self.gateway.client("EE123456").await?;
        let admin = self.gateway.client("admin-LA882").await?;
        let mut referral = Child(n).referral(PATHWAY);
        referral["safeguardingFlags"] =
            json!([{ "code": "836881000000105", "text": "see the plan" }]);
        referral["reasonableAdjustments"] = json!([{ "code": "requiresinformationineasyread" }]);
        referral["contacts"][0]["preferredFormat"] = "CONTACT_FORMAT_EASY_READ".into();
        let receipt = school.submit(&format!("fhir-{n}"), &referral).await?;
        let queued = admin.deliveries(&receipt.referral_id).await?.remove(0);
        Ok((
            receipt,
            admin.delivery_is(&queued.delivery_id, state).await?,
        ))
    }

    /// What the server holds.
    async fn held(&self, query: &str) -> anyhow::Result<Value> {
        let url = format!("https://127.0.0.1:{}/fhir/{query}", self.peer.port());
        let body = body_of(self.client.get(url).send().await?).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// The provider changes a resource of the server.
    async fn changed(
        &self,
        mut resource: Value,
        element: &str,
        value: Value,
    ) -> anyhow::Result<()> {
        resource[element] = value;
        let at = format!(
            "{}/{}",
            text(&resource, "resourceType"),
            text(&resource, "id")
        );
        let url = format!("https://127.0.0.1:{}/fhir/{at}", self.peer.port());
        let request = self
            .client
            .put(url)
            .header("content-type", "application/fhir+json");
        let answer = request.body(resource.to_string()).send().await?;
        anyhow::ensure!(answer.status().is_success(), "{at}: {}", answer.status());
        Ok(())
    }

    /// How many of the messages that came a server like this one takes in a second where nobody but one client is at it.
    pub(super) async fn alone(&self) -> anyhow::Result<f64> {
        let (cert, key, ca) = (
            self.papers.path("cert"),
            self.papers.path("key"),
            self.papers.path("ca"),
        );
        let peer = Peer::start(SERVER, &["--tls", &cert, &key, &ca]).await?;
        let records = self.peer.records()?;
        let begun = tokio::time::Instant::now();
        let mut count = 0.0;
        for record in &records {
            let url = format!("https://127.0.0.1:{}{}", peer.port(), text(record, "path"));
            let request = self.client.post(url).body(bytes(record, "body_b64")?);
            let mut request = request.header("content-type", "application/fhir+json");
            for id in ["x-request-id", "x-correlation-id"] {
                if let Some(sent) = record["headers"][id].as_str() {
                    request = request.header(id, sent);
                }
            }
            let answer = request.send().await?;
            anyhow::ensure!(answer.status().is_success(), "{}", answer.status());
            body_of(answer).await?;
            count += 1.0;
        }
        Ok(count / begun.elapsed().as_secs_f64())
    }

    /// The only resource that a search finds.
    async fn only(&self, query: &str) -> anyhow::Result<Value> {
        let bundle = self.held(query).await?;
        let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
        anyhow::ensure!(entries.len() == 1, "{} found by {query}", entries.len());
        Ok(entries[0]["resource"].clone())
    }

    /// The id that the receiver gave the request.
    async fn minted(&self, sent: &v1::Delivery) -> anyhow::Result<String> {
        let store = self.gateway.store()?;
        let view = store.delivery_by_wire_id(&sent.wire_id.parse()?).await?;
        view.and_then(|view| view.receiver_reference)
            .context("the receiver's id is kept")
    }

    async fn leg_is(&self, receipt: &v1::Receipt, state: LegState) -> anyhow::Result<()> {
        let school = self.gateway.client("EE123456").await?;
        wait_until(state.as_str_name(), PATIENCE, || async {
            let leg = school.leg(&receipt.referral_id).await?;
            Ok((leg.state() == state).then_some(()))
        })
        .await
    }

    fn url(&self, path: &str) -> anyhow::Result<String> {
        let address = self.gateway.app()?.fhir.context("FHIR is served")?;
        Ok(format!("https://{address}{path}"))
    }

    /// Sends to the gateway as somebody; answers status, body and the headers sent.
    async fn sends(
        &self,
        papers: &Papers,
        method: &str,
        path: &str,
        more: &[&str],
    ) -> anyhow::Result<Value> {
        let url = self.url(path)?;
        let (ca, cert, key) = (papers.path("ca"), papers.path("cert"), papers.path("key"));
        let args = [method, &url, "--ca", &ca, "--cert", &cert, "--key", &key];
        let said = run(SENDER, &[&args[..], more].concat()).await?;
        let said = said.json()?;
        anyhow::ensure!(said["valid"] == true, "not valid R4: {said}");
        Ok(said)
    }

    /// Writes a message into a file of the papers' folder.
    fn file(&self, name: &str, message: &Value) -> anyhow::Result<String> {
        let path = self.papers.folder.path().join(name);
        std::fs::write(&path, message.to_string())?;
        Ok(shown(&path))
    }
}

/// Bytes of one answer of the server.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

async fn body_of(mut answer: reqwest::Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        anyhow::ensure!(
            body.len() + chunk.len() <= ANSWER_BYTES_MAX,
            "too long an answer"
        );
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A golden message of the adapter, for a pathway of this area.
fn golden(name: &str) -> anyhow::Result<Value> {
    let path = root().join("adapters/src/fhir/fixtures").join(name);
    let text = std::fs::read_to_string(path)?;
    Ok(serde_json::from_str(
        &text.replace("autism-assessment", PATHWAY),
    )?)
}

fn request_of(message: &mut Value) -> anyhow::Result<&mut Value> {
    let entries = message["entry"].as_array_mut().context("entries")?;
    let mut resources = entries.iter_mut().map(|entry| &mut entry["resource"]);
    resources
        .find(|r| r["resourceType"] == "ServiceRequest")
        .context("a ServiceRequest")
}

/// The code of an `OperationOutcome` and the path of its fault.
fn refusal(said: &Value) -> (i64, String, String) {
    let issue = &said["body"]["issue"][0];
    let code = text(&issue["details"]["coding"][0], "code").to_owned();
    let path = issue["expression"][0]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    (said["status"].as_i64().unwrap_or_default(), code, path)
}

#[tokio::test]
async fn two_foreign_validators_find_every_golden_message_valid() -> anyhow::Result<()> {
    let folder = root().join("adapters/src/fhir/fixtures");
    let files: Vec<String> = std::fs::read_dir(folder)?
        .map(|entry| Ok(shown(&entry?.path())))
        .collect::<anyhow::Result<_>>()?;
    assert!(
        files.len() >= 42,
        "every kind and every state, in both modes"
    );
    let validate = ["--validate".to_owned()];
    for said in [
        run("fhir_validate.py", &files).await?,
        run(SERVER, &[&validate[..], &files].concat()).await?,
    ] {
        let said = said.json()?;
        for file in &files {
            assert_eq!(said[file], json!([]), "{file}");
        }
    }
    // The validators do find what is wrong.
    let broken = tempfile::tempdir()?;
    let path = broken.path().join("broken.json");
    let mut message = golden("bars-new.json")?;
    request_of(&mut message)?["status"] = json!(["active"]);
    std::fs::write(&path, message.to_string())?;
    let path = shown(&path);
    assert_ne!(
        run("fhir_validate.py", &[&path]).await?.json()?[&path],
        json!([])
    );
    assert_ne!(
        run(SERVER, &["--validate", &path]).await?.json()?[&path],
        json!([])
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_server_holds_one_referral_after_a_lost_answer_and_its_task_moves_the_leg()
-> anyhow::Result<()> {
    let place = Place::new("plain", "408").await?;
    let (receipt, delivery) = place.comes_to(300, DeliveryState::Done).await?;
    assert_eq!(delivery.evidence(), EvidenceGrade::ApplicationAck);
    let records = place.peer.records()?;
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["body_b64"], records[1]["body_b64"]);
    for record in &records {
        assert_eq!(
            record["faults"],
            json!([]),
            "Medplum finds every resource valid"
        );
    }
    let body = String::from_utf8(bytes(&records[0], "body_b64")?)?;
    assert!(
        body.contains("requiresinformationineasyread") && body.contains("\"SG\""),
        "{body}"
    );
    for kind in ["Task", "ServiceRequest", "Patient", "Practitioner"] {
        place.only(kind).await?;
    }
    let by_id = format!(
        "Task?identifier=urn:waymark:id:delivery%7C{}",
        delivery.wire_id
    );
    let task = place.only(&by_id).await?;
    place
        .changed(task.clone(), "status", json!("accepted"))
        .await?;
    place.leg_is(&receipt, LegState::Accepted).await?;
    let declined = json!({"coding": [{"system": "https://fhir.nhs.uk/CodeSystem/rejected-reasons-bars", "code": "RRNA"}]});
    let mut task = place.only(&by_id).await?;
    task["statusReason"] = declined;
    place.changed(task, "status", json!("rejected")).await?;
    place.leg_is(&receipt, LegState::Declined).await?;
    assert_eq!(
        place.only("ServiceRequest").await?["status"],
        "active",
        "ruling 24"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_server_is_told_of_a_cancel_only_while_nobody_works_on_the_task()
-> anyhow::Result<()> {
    let place = Place::new("plain", "").await?;
    let (school, admin) = (
        place.gateway.client("EE123456").await?,
        place.gateway.client("admin-LA882").await?,
    );
    let (receipt, _) = place.comes_to(310, DeliveryState::Done).await?;
    school.cancel("cancel-310", &receipt.referral_id).await?;
    let cancel = admin.deliveries(&receipt.referral_id).await?;
    let cancel = cancel
        .iter()
        .find(|d| d.kind() == v1::MessageKind::Cancel)
        .context("a cancel")?;
    admin
        .delivery_is(&cancel.delivery_id, DeliveryState::Done)
        .await?;
    assert_eq!(place.only("Task").await?["status"], "cancelled");
    assert_eq!(place.only("ServiceRequest").await?["status"], "revoked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_then_too_early_then_a_duplicate_is_received_with_the_same_bytes_and_ids()
-> anyhow::Result<()> {
    // Scenario 5.
    let place = Place::new("bars", "408,425").await?;
    let (_, delivery) = place.comes_to(320, DeliveryState::Done).await?;
    assert_eq!(delivery.evidence(), EvidenceGrade::ApplicationAck);
    let records = place.peer.records()?;
    assert_eq!(records.len(), 3);
    for record in &records {
        assert_eq!(record["faults"], json!([]));
        assert_eq!(record["body_b64"], records[0]["body_b64"]);
        for id in ["x-request-id", "x-correlation-id"] {
            assert_eq!(record["headers"][id], records[0]["headers"][id]);
        }
    }
    let admin = place.gateway.client("admin-LA882").await?;
    let (_, attempts) = admin.delivery(&delivery.delivery_id).await?;
    let outcomes: Vec<AttemptOutcome> = attempts.iter().map(v1::Attempt::outcome).collect();
    assert_eq!(
        outcomes,
        [
            AttemptOutcome::Unknown,
            AttemptOutcome::Retry,
            AttemptOutcome::Delivered
        ]
    );
    assert_eq!(
        place.held("ServiceRequest").await?["entry"]
            .as_array()
            .map(Vec::len),
        Some(1),
        "one record"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_goes_to_what_is_active_and_is_refused_with_its_reason_by_what_is_not()
-> anyhow::Result<()> {
    // Scenario 6.
    let place = Place::new("bars", "").await?;
    let (school, admin) = (
        place.gateway.client("EE123456").await?,
        place.gateway.client("admin-LA882").await?,
    );
    for (n, active) in [(330, true), (331, false)] {
        let (receipt, sent) = place.comes_to(n, DeliveryState::Done).await?;
        let id = place.minted(&sent).await?;
        let request = place.held(&format!("ServiceRequest/{id}")).await?;
        assert_eq!(request["status"], "active");
        if !active {
            place.changed(request, "status", json!("completed")).await?;
        }
        school
            .cancel(&format!("cancel-{n}"), &receipt.referral_id)
            .await?;
        let all = admin.deliveries(&receipt.referral_id).await?;
        let cancel = all
            .iter()
            .find(|d| d.kind() == v1::MessageKind::Cancel)
            .context("a cancel")?;
        let (state, status) = if active {
            (DeliveryState::Done, "revoked")
        } else {
            (DeliveryState::Rejected, "completed")
        };
        admin.delivery_is(&cancel.delivery_id, state).await?;
        assert_eq!(
            place.held(&format!("ServiceRequest/{id}")).await?["status"],
            status
        );
        let (_, attempts) = admin.delivery(&cancel.delivery_id).await?;
        let why = attempts
            .last()
            .map(|a| a.reason_code.clone())
            .unwrap_or_default();
        assert_eq!(why == "fhir.not_active", !active, "{why}");
    }
    Ok(())
}
