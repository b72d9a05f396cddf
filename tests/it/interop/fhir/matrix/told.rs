//! A sender that is told how its referral stands is told of it by the reference that it knows it by, on every wire.

use waymark_core::directory::SourceFile;

use super::everybody::{CASE, message};
use super::*;

waymark_tests::both_engines! {
    a_status_names_the_referral_as_its_sender_does_whatever_it_goes_by,
}

/// The directory in which the school is told by FHIR.
pub(super) fn school_is_told_by_fhir(everybody: &Everybody, port: u16) -> Vec<SourceFile> {
    let mut files = everybody.files.clone();
    let name = "name = \"Hillside Primary School\"";
    let told = format!("{name}\nreturn_endpoint = \"school-fhir\"");
    changed(&mut files, name, &told);
    let before = "[[endpoint]]\nid = \"sens1-files\"";
    changed(&mut files, before, &school_by_fhir(port));
    files
}

/// How the school is told.
fn school_by_fhir(port: u16) -> String {
    format!(
        r#"[[endpoint]]
id = "school-fhir"
agency = "EE123456"
adapter = "fhir"
[endpoint.settings]
url = "https://127.0.0.1:{port}/fhir"
mode = "bars"
auth = "mtls"
peer_identity = "waymark:test:agency:EE123456"
private_network = true
target = {{ value = "2000055555" }}
source = {{ value = "2000099999" }}

[[endpoint]]
id = "sens1-files""#
    )
}

/// Everywhere, and here alone: a sender's own endpoint would else wait for an answer to the referral itself.
const TO: [&str; 2] = [
    r#"to = ["paediatrics", "therapy", "mental-health", "specialist-teaching", "neurodevelopment", "community", "sensory"]"#,
    r#"to = ["specialist-teaching"]"#,
];

/// The referral that came last.
async fn newest(everybody: &Everybody, known: &[String]) -> anyhow::Result<String> {
    wait_until("a referral is taken in", PATIENCE, || async {
        let request = v1::ListDeliveriesRequest {
            page_size: 200,
            ..v1::ListDeliveriesRequest::default()
        };
        let all = everybody.admin.admin().list_deliveries(request).await?;
        let mut ids = all
            .into_inner()
            .deliveries
            .into_iter()
            .map(|d| d.referral_id);
        Ok(ids.find(|id| !known.contains(id)))
    })
    .await
}

/// The bytes that the sender of a referral is told by, once they are on their way.
async fn told(everybody: &Everybody, id: &str) -> anyhow::Result<String> {
    let wire_id = wait_until("its sender is told", PATIENCE, || async {
        let all = everybody.admin.deliveries(id).await?;
        let mut told = all
            .into_iter()
            .filter(|d| d.kind() == v1::MessageKind::Status && d.state() != DeliveryState::Queued);
        Ok(told.next().map(|d| d.wire_id))
    })
    .await?;
    let store = everybody.gateway.store()?;
    let bytes = Bodies::new().of(store, &wire_id).await?;
    Ok(String::from_utf8(bytes)?)
}

async fn a_status_names_the_referral_as_its_sender_does_whatever_it_goes_by(
    engine: Engine,
) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let mut files = school_is_told_by_fhir(&everybody, everybody.peer.port());
    for (agency, endpoint) in [
        ("Southmere Hospital", "r1l-mllp"),
        ("Southmere Therapies", "therapy-webhook"),
        ("Sensory team", "sens1-files"),
    ] {
        let name = format!("name = \"{agency}\"");
        changed(
            &mut files,
            &name,
            &format!("{name}\nreturn_endpoint = \"{endpoint}\""),
        );
    }
    changed(&mut files, TO[0], TO[1]);
    everybody.gateway.apply(&files).await?;
    let team = everybody.gateway.client("SPEC1").await?;
    let bundle = Everybody::fhir(241, None)?;
    let mut known = Vec::new();
    for (n, way) in (240..).zip(["hl7v2", "fhir", "mesh", "file", "webhook"]) {
        match way {
            "fhir" => everybody.by_fhir(bundle.to_string()).await?.taken()?,
            "webhook" => {
                let mut referral = Child(u32::from(n)).referral(EVERYWHERE);
                referral["senderReference"] = json!("MATRIX-244^EPIC");
                let therapy = everybody.gateway.client("THER1").await?;
                therapy.submit("told", &referral).await?;
            }
            _ => everybody.sends(way, n, None).await?.taken()?,
        }
        let id = newest(&everybody, &known).await?;
        team.status(&id, 1, LegState::Accepted).await?;
        let said = told(&everybody, &id).await?;
        let own = message(n, None)?.reference;
        match way {
            "hl7v2" => {
                let rf1 = said.split('\r').find(|line| line.starts_with("RF1|"));
                let originating = rf1.and_then(|rf1| rf1.split('|').nth(6));
                let value = originating.and_then(|id| id.split('^').next());
                assert_eq!(value, Some(own.as_str()), "{said}");
            }
            "fhir" => {
                let mut status: Value = serde_json::from_str(&said)?;
                let response = &status["entry"][0]["resource"]["response"];
                assert_eq!(response["identifier"], bundle["id"], "{said}");
                let identifiers = request_of(&mut status)?["identifier"].clone();
                let of = |system: &str, kind: Option<&str>| {
                    let all = identifiers.as_array().into_iter().flatten();
                    let mut found = all.filter(|id| {
                        id["system"] == system && id["type"]["coding"][0]["code"].as_str() == kind
                    });
                    found.next().map(|id| id["value"].clone())
                };
                let placer = of("urn:waymark:id:reference", Some("PLAC"));
                assert_eq!(placer, Some(json!(own.as_str())), "{said}");
                assert_eq!(
                    of("urn:waymark:id:exchange", None),
                    Some(json!(CASE)),
                    "{said}"
                );
            }
            _ => {
                let reference = format!(
                    "\"sender_reference\":{{\"value\":\"MATRIX-{n}\",\"namespace\":\"EPIC\"}}"
                );
                assert!(said.contains(&reference), "by {way}: {said}");
            }
        }
        for of_the_child in ["Quillfeather", "836881000000105", "grandmother"] {
            assert!(!said.contains(of_the_child), "{of_the_child} by {way}");
        }
        known.push(id);
    }
    Ok(())
}
