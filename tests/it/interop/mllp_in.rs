//! A sender that we did not write brings every kind of message to our listener, over mutual TLS and on one connection.

use anyhow::Context as _;
use waymark::app::Duty;
use waymark_adapters::contract::sample;
use waymark_adapters::hl7v2::build::Version;
use waymark_adapters::hl7v2::map::outward;
use waymark_core::delivery::Kind;
use waymark_proto::v1::LegState;
use waymark_tests::actors::{rri, siu};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway};
use waymark_tests::peer::run;

use super::{Papers, changed, shown, strict};

const SENDER: &str = "mllp_python_send.py";
const HOSPITAL: &str = "waymark:test:agency:R1L";
/// The hospital's own reference of the referral that it sends: it might be a gateway's of another area.
const OWN: &str = "WM-AAAAA-AAAAA-AAAAA";

/// A gateway whose listener asks for a certificate, and whose directory knows what the hospital calls itself.
async fn secured() -> anyhow::Result<Gateway> {
    let area = Area::default();
    let mut gateway = Gateway::make(Engine::Sqlite, &area, Duty::Serve).await?;
    for listener in &mut gateway.config.listen.mllp {
        listener.tls = true;
    }
    gateway.restart().await?;
    let mut files = area.files();
    let identity = format!("name = \"{HOSPITAL}\"\nagency = \"R1L\"\n");
    let known = format!("{identity}hl7_senders = [\"EPR|R1L\"]\n");
    changed(&mut files, &identity, &known);
    gateway.apply(&files).await?;
    Ok(gateway)
}

/// A referral message of the hospital's own, as its system writes it.
fn own(kind: Kind, version: Version, id: &str) -> anyhow::Result<String> {
    let settings = strict::hospital(version);
    let mut source = sample::source(kind);
    if let Some(content) = &mut source.content {
        content.pathway = "adhd-assessment".parse()?;
    }
    let text = outward::render(&source, &settings)?;
    let text = text.replacen(source.wire_id.as_str(), id, 1);
    Ok(text.replace(source.reference.as_str(), OWN))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_hl7_sends_every_kind_over_mutual_tls_on_one_connection() -> anyhow::Result<()> {
    let gateway = secured().await?;
    let school = gateway.client("EE123456").await?;
    let receipt = school
        .submit("theirs", &Child(301).referral("adhd-assessment"))
        .await?;
    let ours = receipt.reference.as_str();
    let ask = |id: &str, reference: &str| -> anyhow::Result<String> {
        let text = own(Kind::Cancel, Version::V25, id)?;
        let text = text.replacen("REF^I14", "REF^I15", 1);
        Ok(text.replace(OWN, reference))
    };
    let messages = [
        (own(Kind::New, Version::V231, "N1")?, "\r", "|ACK^I12^ACK|"),
        (ask("Q1", OWN)?, "\n", "|RRI^I15^RRI_I12|"),
        (
            own(Kind::Amend, Version::V251, "A1")?,
            "\r\n",
            "|ACK^I13^ACK|",
        ),
        (
            own(Kind::Cancel, Version::V24, "C1")?,
            "\r",
            "|ACK^I14^ACK|",
        ),
        (rri("R1", ours, "A"), "\n", "|ACK^I12^ACK|"),
        (siu("S1", "S12", ours, "20260504"), "\r\n", "|ACK^S12^ACK|"),
        (siu("S2", "S14", ours, "20260511"), "\r", "|ACK^S14^ACK|"),
        (siu("S3", "S26", ours, "20260511"), "\r", "|ACK^S26^ACK|"),
        (siu("S4", "S15", ours, "20260518"), "\r", "|ACK^S15^ACK|"),
        (ask("Q2", ours)?, "\r", "|RRI^I15^RRI_I12|"),
    ];
    let papers = Papers::of(&gateway, HOSPITAL)?;
    let folder = tempfile::tempdir()?;
    let listener = gateway.app()?.mllp.get("r1l").context("the listener")?;
    let mut args = vec![listener.port().to_string(), "--tls".to_owned()];
    args.extend(["cert", "key", "ca"].map(|name| papers.path(name)));
    for (place, (text, ending, _)) in messages.iter().enumerate() {
        let path = folder.path().join(place.to_string());
        std::fs::write(&path, text.replace('\r', ending))?;
        args.push(shown(&path));
    }
    let said = run(SENDER, &args).await?;
    assert!(said.ok, "{}{}", said.out, said.errors);
    let said = said.json()?;
    let answers = said["answers"].as_array().context("answers")?;
    assert_eq!(answers.len(), messages.len());
    for (answer, (_, _, kind)) in answers.iter().zip(&messages) {
        let answer = answer.as_str().context("an answer")?;
        assert!(answer.contains(kind), "{kind}: {answer}");
        assert!(answer.contains("\rMSA|AA|"), "{kind}: {answer}");
    }
    let leg = school.leg(&receipt.referral_id).await?;
    assert_eq!(leg.state(), LegState::AppointmentCancelled);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_without_a_certificate_of_the_area_is_not_heard() -> anyhow::Result<()> {
    let gateway = secured().await?;
    let other = Gateway::start(Engine::Sqlite, &Area::default()).await?;
    let (rogue, trust) = (
        Papers::of(&other, HOSPITAL)?,
        Papers::of(&gateway, HOSPITAL)?,
    );
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("message");
    std::fs::write(&path, own(Kind::New, Version::V25, "N9")?)?;
    let listener = gateway.app()?.mllp.get("r1l").context("the listener")?;
    let args = [
        listener.port().to_string(),
        "--tls".to_owned(),
        rogue.path("cert"),
        rogue.path("key"),
        trust.path("ca"),
        shown(&path),
    ];
    assert!(!run(SENDER, &args).await?.ok);
    Ok(())
}
