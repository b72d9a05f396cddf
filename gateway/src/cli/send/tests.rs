use std::path::Path;
use std::time::Duration;

use clap::Parser;
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
        let root = tempfile::tempdir().unwrap();
        let ports = InitOptions {
            ports: Ports::FREE,
            ..InitOptions::default()
        };
        let made = init_deployment(&root.path().join("area"), &ports).unwrap();
        let config = Config::load(&made.config).unwrap();
        let lifecycle = Lifecycle::new(Duration::from_secs(1));
        let metrics = Telemetry::metrics_only().unwrap().metrics();
        let app = App::start(&config, Duty::Faces, &lifecycle, metrics)
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
        Line::try_parse_from(line)
            .unwrap()
            .options
            .send()
            .await
            .unwrap()
    }
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
