use std::path::Path;
use std::time::Duration;

use clap::Parser;
use waymark_adapters::stand_in::mesh::{Hub, OURS, PASSWORD, SHARED_KEY, THEIRS, WORKFLOW};
use waymark_core::referral::Referral;

use super::*;
use crate::app::{App, Duty};
use crate::cli::{Deployment, InitOptions, Ports, init_deployment};
use crate::config::Config;
use crate::lifecycle::Lifecycle;
use crate::telemetry::Telemetry;

/// A message of our own, as another hospital system would send it.
const MESSAGE: &str = include_str!("../../../../adapters/src/hl7v2/fixtures/ref-i12-v25.hl7");

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// A gateway of a new deployment, within this process.
struct Running {
    root: tempfile::TempDir,
    made: Deployment,
    app: App,
    lifecycle: Lifecycle,
}

impl Running {
    async fn start() -> Self {
        Self::with(Duty::Faces, |_| ()).await
    }

    /// Starts with a duty, once the deployment was changed.
    async fn with(duty: Duty, change: impl FnOnce(&Deployment)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let ports = InitOptions {
            ports: Ports::FREE,
            ..InitOptions::default()
        };
        let made = init_deployment(&root.path().join("area"), &ports).unwrap();
        change(&made);
        let config = Config::load(&made.config).unwrap();
        let lifecycle = Lifecycle::new(Duration::from_secs(1));
        let metrics = Telemetry::metrics_only().unwrap().metrics();
        let app = App::start(&config, duty, &lifecycle, metrics)
            .await
            .unwrap();
        Self {
            root,
            made,
            app,
            lifecycle,
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let folder = self.root.path().join("outbox");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn send(&self, arguments: &[&str]) -> SendReport {
        let config = self.made.config.to_str().unwrap().to_owned();
        let target = self.app.grpc.unwrap().to_string();
        let mut line = vec!["send", "--config", &config, "--target", &target];
        line.extend(arguments);
        parsed(&line).send().await.unwrap()
    }
}

fn parsed(line: &[&str]) -> Options {
    Line::try_parse_from(line).unwrap().options
}

/// Puts something in place of a line of the directory's services.
fn edit(made: &Deployment, line: &str, by: &str) {
    let path = made.dir.join("directory/services.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(line), "{line}");
    std::fs::write(&path, text.replacen(line, by, 1)).unwrap();
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lifecycle.stop();
    }
}

fn words(report: &SendReport) -> Vec<&'static str> {
    let word = |item: &Item| match item.outcome {
        Outcome::Accepted(_) => "accepted",
        Outcome::Repeated(_) => "repeated",
        Outcome::Refused(_) => "refused",
        Outcome::Unanswered { .. } => "unanswered",
    };
    report.items.iter().map(word).collect()
}

fn refused<'r>(report: &'r SendReport, file: &str) -> &'r Refused {
    let item = report
        .items
        .iter()
        .find(|item| item.file.ends_with(file))
        .unwrap();
    match &item.outcome {
        Outcome::Refused(refused) => refused,
        other => panic!("{file}: {other:?}"),
    }
}

#[test]
fn the_example_is_a_valid_referral() {
    let referral = Referral::from_canonical(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(referral.violations(jiff::civil::date(2026, 3, 2)), []);
}

#[test]
fn items_in_flight_have_a_limit() {
    assert_eq!(in_flight("1024"), Ok(1024));
    assert!(in_flight("1025").is_err() && in_flight("0").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_accepted_once_repeated_after_and_refused_by_field() {
    let running = Running::start().await;
    let good = running.write("a.json", EXAMPLE);
    running.write(
        "b.json",
        &EXAMPLE
            .replace("EXAMPLE-0001", "EXAMPLE-0002")
            .replace("\"pathway\": \"autism", "\"pathway\": \"no"),
    );
    running.write(
        "c.json",
        &EXAMPLE.replace("Differences", "Other differences"),
    );
    let receipts = running.root.path().join("receipts");
    let folder = good.parent().unwrap().to_str().unwrap();
    let report = running
        .send(&[
            "--receipts",
            receipts.to_str().unwrap(),
            "--in-flight",
            "1",
            folder,
        ])
        .await;
    assert_eq!(
        words(&report),
        ["accepted", "refused", "refused"],
        "{report:?}"
    );
    assert!(!report.ok);
    let unknown = refused(&report, "b.json").violations.first().unwrap();
    assert!(
        unknown.field.ends_with("pathway") && unknown.why.contains("autism-assessment"),
        "{unknown}"
    );
    let taken = refused(&report, "c.json");
    assert_eq!(taken.reason, "REFERENCE_IN_USE");
    assert!(
        taken
            .violations
            .first()
            .unwrap()
            .why
            .contains("amend or cancel"),
        "{taken}"
    );
    let Outcome::Accepted(first) = &report.items.first().unwrap().outcome else {
        panic!("not accepted")
    };
    assert!(first.receipt.as_ref().unwrap().verified);
    let event = first.event_id.as_deref().unwrap();
    assert!(
        receipts.join(format!("{event}.entry")).is_file()
            && receipts.join(format!("{event}.1.opening")).is_file()
    );

    let again = running.send(&[good.to_str().unwrap()]).await;
    let Outcome::Repeated(repeated) = &again.items.first().unwrap().outcome else {
        panic!("not repeated")
    };
    assert_eq!(
        (&repeated.event_id, &repeated.leaf_hash),
        (&first.event_id, &first.leaf_hash)
    );
    assert!(again.ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_files_are_all_answered_with_few_in_flight() {
    const FILES: usize = 40;
    let running = Running::start().await;
    let mut folder = PathBuf::new();
    for number in 0..FILES {
        let text = EXAMPLE.replace("EXAMPLE-0001", &format!("MANY-{number}"));
        folder = running
            .write(&format!("{number:03}.json"), &text)
            .parent()
            .unwrap()
            .to_owned();
    }
    let report = running
        .send(&["--in-flight", "3", folder.to_str().unwrap()])
        .await;
    assert_eq!(
        (report.accepted, report.items.len()),
        (FILES, FILES),
        "{}",
        report.summary()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_over_mllp_whatever_ends_its_lines_and_is_refused_by_segment_and_field() {
    let running = Running::start().await;
    let listener = running.app.mllp.get("r1l").unwrap().to_string();
    let ours = MESSAGE
        .replace("SCHOOLMIS|EE123456", "EPR|R1L")
        .replace("|P|2.5", "|T|2.5")
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    running.write("a.hl7", &ours.replace('\n', "\r\n"));
    running.write(
        "b.hl7",
        &ours
            .replace("SM0000000001", "SM0000000002")
            .replace("PID|", "PID|9"),
    );
    running.write(
        "c.hl7",
        &ours
            .replace("EPR|R1L", "EPR|OTHER")
            .replace("SM0000000001", "SM0000000003"),
    );
    let last = running.write(
        "d.hl7",
        &ours
            .replace("RF1|", "ZZ1|")
            .replace("SM0000000001", "SM0000000004"),
    );
    let folder = last.parent().map(Path::to_str).unwrap().unwrap();
    let report = running
        .send(&["--mllp", &listener, "--mllp-plain", folder])
        .await;
    assert_eq!(
        words(&report),
        ["accepted", "refused", "refused", "refused"],
        "{report:?}"
    );
    assert_eq!(
        refused(&report, "b.hl7").violations.first().unwrap().field,
        "RF1-6"
    );
    assert_eq!(
        refused(&report, "c.hl7").violations.first().unwrap().field,
        "MSH-3"
    );
    assert_eq!(
        refused(&report, "d.hl7").violations.first().unwrap().field,
        "RF1-6"
    );

    // The same file again is the same message: the gateway recognises it and says so by accepting it.
    let again = running
        .send(&[
            "--mllp",
            &listener,
            "--mllp-plain",
            &format!("{folder}/a.hl7"),
        ])
        .await;
    assert_eq!(words(&again), ["accepted"]);
    let proven = running.root.path().join("receipts");
    let with_receipt = running
        .send(&[
            "--mllp",
            &listener,
            "--mllp-plain",
            "--as",
            "R1L",
            "--receipts",
            proven.to_str().unwrap(),
            &format!("{folder}/a.hl7"),
        ])
        .await;
    let Outcome::Accepted(accepted) = &with_receipt.items.first().unwrap().outcome else {
        panic!("not accepted")
    };
    assert!(
        accepted.receipt.as_ref().is_some_and(|r| r.verified),
        "{accepted:?}"
    );
}

/// A table of one referral, by its name in the folder's order.
fn table(pathway: &str) -> String {
    format!(
        "child.name.family,child.name.given,child.date_of_birth,child.local_ids.1.system,child.local_ids.1.value,referrer.name,referrer.role,pathway,priority,reason.code,\
         consent.status,consent.role,consent.scope,lawful_basis,sender_reference.value,sender_reference.namespace\r\n\
         Table,Ada,2023-02-03,PORTAGE,7,Bryn Hale,Portage home visitor,{pathway},routine,motor-delay,\
         given,parent_with_pr,referral;share_health,public_task_care,TABLE-1,PORTAGE\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_in_a_folder_is_accepted_repeated_or_refused_by_field() {
    let running = Running::with(Duty::Serve, |made| {
        let line = "directory = \"portage\"";
        edit(made, line, &format!("{line}\nevery_s = 1"));
    })
    .await;
    let place = running.made.dir.join("files/portage");
    while !place.join("failed").is_dir() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.write("a.json", EXAMPLE);
    running.write(
        "b.json",
        &EXAMPLE.replace("\"pathway\": \"autism", "\"pathway\": \"no"),
    );
    running.write("c.csv", &table("hearing-assessment"));
    running.write(
        "d.csv",
        &table("nothing-known").replace("TABLE-1", "TABLE-2"),
    );
    running.write("e.hl7", MESSAGE);
    let last = running.write("f.xml", "<Bundle/>");
    let (folder, outbox) = (
        place.to_str().unwrap(),
        last.parent().unwrap().to_str().unwrap(),
    );
    let report = running.send(&["--folder", folder, outbox]).await;
    let of = |file: &str| refused(&report, file).violations.first().unwrap().clone();
    assert_eq!((report.accepted, report.refused), (2, 4), "{report:?}");
    assert!(of("b.json").field.ends_with("pathway"), "{report:?}");
    assert!(of("d.csv").field.ends_with("pathway"), "{report:?}");
    assert!(of("e.hl7").why.contains("not agreed"), "{report:?}");
    assert_eq!(refused(&report, "f.xml").reason, "NOT_BY_FILE");
    assert_eq!(std::fs::read_dir(place.join("inbox")).unwrap().count(), 0);

    let again = running
        .send(&["--folder", folder, &format!("{outbox}/c.csv")])
        .await;
    assert_eq!(words(&again), ["repeated"]);
    // What was refused before is refused for what it is now, and not for what was written then.
    let again = running
        .send(&["--folder", folder, &format!("{outbox}/d.csv")])
        .await;
    assert_eq!(words(&again), ["refused"]);

    let amended = EXAMPLE.replace("\"routine\"", "\"soon\"");
    let amended = running.write("g.json", &amended);
    let withdrawn = r#"{"sender_reference": {"value": "EXAMPLE-0001", "namespace": "HILLSIDE"}, "withdrawal":
        {"scopes": [], "by": "Alex Example", "role": "parent_with_pr", "date": "2026-03-02"}}"#;
    let withdrawn = running.write("h.json", withdrawn);
    for (file, more, is) in [
        (&amended, "--environment=test", "refused"),
        (&amended, "--amend", "accepted"),
        (&withdrawn, "--environment=test", "accepted"),
    ] {
        let file = file.to_str().unwrap();
        let report = running.send(&["--folder", folder, more, file]).await;
        assert_eq!(words(&report), [is], "{report:?}");
    }
}

#[tokio::test]
async fn a_folder_that_no_gateway_looks_into_is_named_and_one_it_does_not_look_into_in_time_is_waited_out()
 {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("a.json");
    std::fs::write(&file, EXAMPLE).unwrap();
    let (folder, file) = (root.path().to_str().unwrap(), file.to_str().unwrap());
    let line = ["send", "--wait", "1", "--folder", folder, file];
    let refused = parsed(&line).send().await.unwrap_err().to_string();
    assert!(
        refused.contains("--folder") && refused.contains("inbox"),
        "{refused}"
    );
    for sub in ["inbox", "done", "failed"] {
        std::fs::create_dir(root.path().join(sub)).unwrap();
    }
    let report = parsed(&line).send().await.unwrap();
    assert_eq!(words(&report), ["unanswered"]);
    let mut left: Vec<String> = std::fs::read_dir(root.path().join("inbox"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert!(
        left.len() == 2 && left[1].ends_with(".manifest.json"),
        "{left:?}"
    );
}

/// TLS of a hub, under the deployment's own authority.
fn hub_tls(made: &Deployment) -> std::sync::Arc<rustls::ServerConfig> {
    use rustls_pki_types::pem::PemObject as _;
    let ask = crate::cli::CertificateAsk {
        common_name: "hub".to_owned(),
        uris: vec!["urn:test:hub".to_owned()],
        names: vec!["127.0.0.1".to_owned()],
        days: 1,
    };
    let today = waymark_core::time::Clock::now(&crate::clock::SystemClock).london_date();
    let issued = crate::cli::Authority::load(&made.dir)
        .unwrap()
        .issue(&ask, today)
        .unwrap();
    let chain = rustls_pki_types::CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes());
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key);
    std::sync::Arc::new(config.unwrap())
}

/// A gateway, and a hub that it looks into every second.
async fn beside_a_hub() -> (Running, Hub, String) {
    let reserved = crate::cli::https::Reserved::take().await.unwrap();
    let url = format!("https://{}", reserved.address().unwrap());
    let hub = Hub::new(std::sync::Arc::new(crate::clock::SystemClock));
    let running = Running::with(Duty::Serve, |made| {
        edit(
            made,
            "url = \"https://127.0.0.1:9445\"",
            &format!("url = \"{url}\"\npoll_seconds = 1"),
        );
        for (name, secret) in [("mesh-password", PASSWORD), ("mesh-key", SHARED_KEY)] {
            std::fs::write(made.dir.join("secrets").join(name), secret).unwrap();
        }
    })
    .await;
    reserved.serve(
        "hub",
        hub_tls(&running.made),
        hub.routes(),
        &running.lifecycle,
    );
    (running, hub, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_has_counts_as_accepted_only_once_the_gateway_acknowledged_it() {
    let (running, hub, url) = beside_a_hub().await;
    let secret = |name: &str| {
        running
            .made
            .dir
            .join("secrets")
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    };
    let (password, key) = (secret("mesh-password"), secret("mesh-key"));
    let send = |workflow: &'static str, password: String, file: PathBuf| {
        let (url, key, running) = (&url, &key, &running);
        async move {
            let config = running.made.config.to_str().unwrap();
            let line = [
                "send",
                "--config",
                config,
                "--as",
                "AUD01",
                "--wait",
                "8",
                "--mesh",
                url,
                "--mailbox",
                THEIRS,
                "--to",
                OURS,
                "--workflow",
                workflow,
                "--password-file",
                &password,
                "--shared-key-file",
                key,
                file.to_str().unwrap(),
            ];
            parsed(&line).send().await
        }
    };
    let good = running.write("a.json", EXAMPLE);
    let report = send(WORKFLOW, password.clone(), good.clone())
        .await
        .unwrap();
    assert_eq!(words(&report), ["accepted"], "{report:?}");
    let report = send(WORKFLOW, password.clone(), good.clone())
        .await
        .unwrap();
    assert_eq!(words(&report), ["repeated"], "{report:?}");
    assert_eq!(
        hub.held().len(),
        1,
        "the hub was asked before it was sent again"
    );

    let table = running.write("c.csv", &table("portage"));
    let report = send(WORKFLOW, password.clone(), table).await.unwrap();
    assert_eq!(refused(&report, "c.csv").reason, "NOT_BY_MESH");
    let other = running.write("d.json", &EXAMPLE.replace("EXAMPLE-0001", "EXAMPLE-0003"));
    let report = send("OTHER", password, other.clone()).await.unwrap();
    assert!(
        refused(&report, "d.json")
            .message
            .contains("not taken by the hub"),
        "{report:?}"
    );
    let wrong = running.write("password", "wrong");
    let error = send(WORKFLOW, wrong.to_str().unwrap().to_owned(), other)
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("handshake"), "{error:#}");
    // The gateway takes in nothing that names no pathway of the area: the hub has it, and that is all that is said.
    let unknown = running.write(
        "e.json",
        &EXAMPLE.replace("\"pathway\": \"autism", "\"pathway\": \"no"),
    );
    let report = send(WORKFLOW, secret("mesh-password"), unknown)
        .await
        .unwrap();
    let Outcome::Unanswered { why } = &report.items.first().unwrap().outcome else {
        panic!("{report:?}")
    };
    assert!(why.contains("has not acknowledged"), "{why}");
}

#[test]
fn a_mailbox_without_its_papers_is_a_mistake_on_the_command_line() {
    let line = [
        "send",
        "--mesh",
        "https://hub.example",
        "--mailbox",
        "X1",
        "a.json",
    ];
    let error = Line::try_parse_from(line).err().unwrap().to_string();
    assert!(
        error.contains("--password-file") && error.contains("--to"),
        "{error}"
    );
    let both = ["send", "--folder", "f", "--mllp", "127.0.0.1:1", "a.json"];
    assert!(Line::try_parse_from(both).is_err());
}
