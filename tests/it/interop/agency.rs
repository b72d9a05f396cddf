//! An agency's gRPC server in Python, which signs its receipts.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use waymark_proto::v1;
use waymark_proto::v1::{AttemptOutcome, DeliveryState, EvidenceGrade};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway};
use waymark_tests::peer::{Peer, text};

use super::{Papers, changed, shown};

/// What the agency's certificate proves.
const AGENCY: &str = "waymark:test:agency:CAM01";
/// The seed of the key that it signs receipts with.
const SEED: [u8; 32] = [3; 32];

/// Submits, and waits until the agency has it.
async fn delivered(
    gateway: &Gateway,
    n: u32,
) -> anyhow::Result<(v1::Delivery, Vec<AttemptOutcome>)> {
    let (school, admin): (Client, Client) = (
        gateway.client("EE123456").await?,
        gateway.client("admin-LA882").await?,
    );
    let receipt = school
        .submit(&format!("agency-{n}"), &Child(n).referral("mental-health"))
        .await?;
    let queued = admin.deliveries(&receipt.referral_id).await?.remove(0);
    admin
        .delivery_is(&queued.delivery_id, DeliveryState::Done)
        .await?;
    let (delivery, attempts) = admin.delivery(&queued.delivery_id).await?;
    Ok((
        delivery,
        attempts.iter().map(v1::Attempt::outcome).collect(),
    ))
}

/// The agency's server, and the directory that leads to it and knows its key.
pub(super) async fn agency(gateway: &Gateway, script: &str) -> anyhow::Result<Peer> {
    let papers = Papers::of(gateway, AGENCY)?;
    let seed = papers.folder.path().join("seed");
    std::fs::write(&seed, hex::encode(SEED))?;
    let (cert, key, ca, seed) = (
        papers.path("cert"),
        papers.path("key"),
        papers.path("ca"),
        shown(&seed),
    );
    let args = [
        "--tls",
        &cert,
        &key,
        &ca,
        "--sign-key",
        &seed,
        "--key-id",
        "2026",
        "--script",
        script,
    ];
    let peer = Peer::start("grpc_agency.py", &args).await?;
    let public = Ed25519KeyPair::from_seed_unchecked(&SEED).map_err(|e| anyhow::anyhow!("{e}"))?;
    let public = STANDARD.encode(public.public_key().as_ref());
    // The agency's hint counts up to the cap.
    let pushing = Area::default()
        .pushing
        .replace("cap = \"60ms\"", "cap = \"5s\"");
    let mut files = Area {
        grpc: peer.port(),
        pushing,
        ..Area::default()
    }
    .files();
    let identity = format!("peer_identity = \"{AGENCY}\"");
    changed(
        &mut files,
        &identity,
        &format!("{identity}\nreceipt_keys = [{{ id = \"2026\", ed25519 = \"{public}\" }}]"),
    );
    gateway.apply(&files).await?;
    Ok(peer)
}

/// Checks what the agency wrote down, of which all is told apart by three wire ids.
fn arrived(records: &[Value], [one, two, three]: [&str; 3]) -> anyhow::Result<()> {
    let ids: Vec<&str> = records.iter().map(|r| text(r, "wire_id")).collect();
    assert_eq!(
        ids,
        [one, one, one, two, two, three],
        "one id for each delivery, whatever becomes of its attempts"
    );
    for (place, first) in [(1, 0), (2, 0), (4, 3)] {
        assert_eq!(
            records[place]["body_b64"], records[first]["body_b64"],
            "and the same bytes"
        );
    }
    let at = |place: usize| text(&records[place], "at").parse::<Timestamp>();
    let waited = at(2)?.as_millisecond() - at(1)?.as_millisecond();
    assert!(
        waited >= 700,
        "RetryInfo of 700 ms was honoured, not {waited} ms"
    );
    for record in records {
        assert_eq!(record["body_digest_matches"], true);
        assert_eq!(
            record["dispatch"]["sender_agency_id"], "EE123456",
            "a foreign reader reads it"
        );
        assert_eq!(
            record["client_names"],
            serde_json::json!(["waymark:test:gateway:southmere"])
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_agency_signs_for_what_it_gets_and_gets_it_again_under_one_id()
-> anyhow::Result<()> {
    let gateway = Gateway::start(Engine::Sqlite, &Area::default()).await?;
    let script = "UNAVAILABLE,RESOURCE_EXHAUSTED:700,OK,DROP,ALREADY_EXISTS,BADSIG";
    let peer = agency(&gateway, script).await?;

    let (signed, attempts) = delivered(&gateway, 220).await?;
    let tried = [
        AttemptOutcome::Unknown,
        AttemptOutcome::Retry,
        AttemptOutcome::Delivered,
    ];
    assert_eq!(
        attempts, tried,
        "what is unavailable may have it, and what has no room says when to come again"
    );
    assert_eq!(signed.evidence(), EvidenceGrade::SignedReceipt);
    let (repeated, attempts) = delivered(&gateway, 221).await?;
    assert_eq!(
        attempts,
        [AttemptOutcome::Unknown, AttemptOutcome::Delivered],
        "its answer was lost, and it has it"
    );
    assert_eq!(
        repeated.evidence(),
        EvidenceGrade::ApplicationAck,
        "that it has it is no signature"
    );
    let (spoilt, attempts) = delivered(&gateway, 222).await?;
    assert_eq!(attempts, [AttemptOutcome::Delivered]);
    assert_eq!(
        spoilt.evidence(),
        EvidenceGrade::ApplicationAck,
        "a signature that does not fit signs nothing"
    );

    let ids = [&signed, &repeated, &spoilt].map(|delivery| delivery.wire_id.as_str());
    arrived(&peer.has(6).await?, ids)
}
