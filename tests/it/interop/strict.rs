//! What we emit is valid by hl7apy's strict rules, for the versions that it knows.

use anyhow::Context as _;
use waymark_adapters::contract::sample;
use waymark_adapters::hl7v2::ack::{Ack, AckCode};
use waymark_adapters::hl7v2::build::{Processing, Version};
use waymark_adapters::hl7v2::config::Settings;
use waymark_adapters::hl7v2::content::Envelope;
use waymark_adapters::hl7v2::fault::FieldFault;
use waymark_adapters::hl7v2::map::outward;
use waymark_adapters::hl7v2::map::status::Answering;
use waymark_adapters::hl7v2::message::{LineEndings, Message};
use waymark_core::delivery::Kind;
use waymark_core::directory::{CodeMap, Endpoint, WireCode};
use waymark_core::id::DocumentId;
use waymark_core::leg::LegState as State;
use waymark_core::personal::Payload;
use waymark_core::port::{Attachment, IntakeAnswer};
use waymark_core::referral::{DocumentRef, NeedType, SenderReference};
use waymark_proto::v1::DeliveryState;
use waymark_tests::actors::Hospital;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, wait_until};
use waymark_tests::peer::run;

use super::{changed, shown};

const VALIDATOR: &str = "hl7_strict.py";

/// The settings of a hospital that sends to the gateway.
pub(super) fn hospital(version: Version) -> Settings {
    let mut endpoint = endpoint(version, "");
    for (key, value) in [
        ("sending_app", "EPR"),
        ("sending_facility", "R1L"),
        ("receiving_app", "WAYMARK"),
        ("receiving_facility", "SOUTHMERE"),
        ("ack_mode", "original"),
    ] {
        endpoint.settings.insert(key.to_owned(), value.into());
    }
    Settings::read(&endpoint).expect("the settings are right")
}

/// Settings of an endpoint of a version.
pub(super) fn endpoint(version: Version, more: &str) -> Endpoint {
    let settings = format!(
        "host = \"127.0.0.1\"\nport = 2575\ntransport = \"plain\"\ninterface = \"127.0.0.1\"\n\
         version = \"{}\"\nack_mode = \"enhanced\"\nsending_app = \"WAYMARK\"\n\
         sending_facility = \"WM01\"\nreceiving_app = \"EPR\"\nreceiving_facility = \"R1L\"\n{more}",
        version.code()
    );
    let mut endpoint = sample::endpoint();
    endpoint.settings = settings.parse().expect("settings are TOML");
    let wire = WireCode {
        code: "N1".to_owned(),
        system: "LOCAL".to_owned(),
        display: "Need one".to_owned(),
    };
    for kind in NeedType::ALL {
        endpoint.codes.need.insert(*kind, wire.clone());
    }
    endpoint
}

/// Every message of one version that goes to a receiver, by a name.
fn messages(version: Version) -> anyhow::Result<Vec<(String, String)>> {
    let endpoint = endpoint(
        version,
        "status_as = \"siu\"\nextra_segments = [\"ZWM|1|SEND\"]",
    );
    let settings = Settings::read(&endpoint).expect("the settings are right");
    let mut all = Vec::new();
    for kind in [Kind::New, Kind::Amend, Kind::Cancel, Kind::Withdraw] {
        let mut source = sample::source(kind);
        let content = source.content.as_mut().context("content")?;
        let document = |nth: u8| DocumentRef {
            id: DocumentId::from_bytes([nth; 16]),
            sha256: "ab".repeat(32),
            media_type: "application/pdf".to_owned(),
            size_bytes: 3,
            title: Some("Report".into()),
            kind: None,
        };
        content.documents = vec![document(1), document(2)];
        source.attachments = vec![Attachment {
            document: document(1),
            bytes: Payload::new(b"ABC".to_vec()),
        }];
        all.push((format!("{kind}"), outward::render(&source, &settings)?));
    }
    for (state, due) in [
        (State::Booked, Some("2026-05-04".parse()?)),
        (State::AppointmentCancelled, None),
        (State::WasNotBrought, None),
        (State::Declined, None),
    ] {
        let mut source = sample::source(Kind::Status);
        let notice = source.status.as_mut().context("a status")?;
        (notice.state, notice.due) = (state, due);
        all.push((format!("{state}"), outward::render(&source, &settings)?));
    }
    let question = all
        .first()
        .context("a referral")?
        .1
        .replacen("REF^I12", "REF^I15", 1);
    let asked = Envelope::read(&Message::parse(question.as_bytes(), LineEndings::Cr)?)?;
    let (found, reference) = (
        IntakeAnswer {
            referral: sample::source(Kind::New).referral,
            reference: sample::source(Kind::New).reference,
            repeated: false,
            state: Some(State::Accepted),
        },
        SenderReference {
            value: "SM-7".to_owned(),
            namespace: "SCHOOLMIS".to_owned(),
        },
    );
    let answer = Answering {
        asked: &asked,
        reference: &reference,
        found: &found,
        control_id: "WA1",
        at: jiff::Timestamp::UNIX_EPOCH,
        processing: Processing::Training,
        codes: &CodeMap::default(),
    };
    all.push(("answer".to_owned(), answer.write()));
    all.push(("question".to_owned(), question));
    if version != Version::V23 {
        let fault = FieldFault::missing_field("RF1", 6);
        let ack = Ack {
            answers: &asked,
            control_id: "WA2",
            at: jiff::Timestamp::UNIX_EPOCH,
            processing: Processing::Training,
            code: AckCode::ApplicationError,
            fault: Some(&fault),
        };
        all.push(("ack".to_owned(), ack.write()));
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_in_every_version_passes_strict_validation() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut files = Vec::new();
    for version in Version::ALL {
        for (name, text) in messages(version)? {
            let path = folder.path().join(format!("{}-{name}", version.code()));
            std::fs::write(&path, text)?;
            files.push(shown(&path));
        }
    }
    let said = run(VALIDATOR, &files).await?;
    assert!(said.ok, "{}{}", said.out, said.errors);
    let said = said.json()?;
    let all = said["files"].as_array().expect("a verdict for each file");
    assert_eq!(all.len(), files.len());
    assert_eq!(
        files.len(),
        5 * 11 - 1,
        "eleven kinds, and no acknowledgement of 2.3"
    );
    Ok(())
}

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
