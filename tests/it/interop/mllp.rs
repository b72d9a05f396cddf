//! MLLP receivers of five makers as the hospital.

use anyhow::Context as _;
use waymark_proto::v1;
use waymark_proto::v1::{AttemptOutcome, CancelEffect, DeliveryState, EvidenceGrade, MessageKind};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway};
use waymark_tests::peer::{Peer, bytes, text};

use super::{Bodies, Papers, changed, unframed};

/// What the hospital's certificate proves.
const HOSPITAL: &str = "waymark:test:agency:R1L";

/// Stamps one test for each receiver.
macro_rules! receivers {
    ($($name:ident: $script:literal, $tls:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() -> anyhow::Result<()> {
                gets_everything_once_and_in_order($script, $tls).await
            }
        )*
    };
}

receivers! {
    simple_hl7_gets_everything_once_and_in_order: "mllp_simple_hl7.js", false;
    node_hl7_server_gets_everything_once_and_in_order: "mllp_node_hl7_server.js", false;
    node_hl7_server_over_mutual_tls_gets_everything_once_and_in_order: "mllp_node_hl7_server.js", true;
    hl7apy_gets_everything_once_and_in_order: "mllp_hl7apy.py", false;
    python_hl7_gets_everything_once_and_in_order: "mllp_python_hl7.py", false;
    python_hl7_over_mutual_tls_gets_everything_once_and_in_order: "mllp_python_hl7.py", true;
    medplum_gets_everything_once_and_in_order: "mllp_medplum.js", false;
}

/// A gateway whose hospital is a peer.
pub(super) async fn hospital(
    script: &str,
    tls: bool,
    args: &[&str],
) -> anyhow::Result<(Gateway, Peer)> {
    if !tls {
        let peer = Peer::start(script, args).await?;
        let area = Area::hospital(peer.port());
        return Ok((Gateway::start(Engine::Sqlite, &area).await?, peer));
    }
    let gateway = Gateway::start(Engine::Sqlite, &Area::default()).await?;
    let papers = Papers::of(&gateway, HOSPITAL)?;
    let files = ["cert", "key", "ca"].map(|name| papers.path(name));
    let mut all: Vec<&str> = args.to_vec();
    all.push("--tls");
    all.extend(files.iter().map(String::as_str));
    let peer = Peer::start(script, &all).await?;
    let mut files = Area::hospital(peer.port()).files();
    let secured = format!("transport = \"tls\"\npeer_uri = \"{HOSPITAL}\"");
    changed(
        &mut files,
        "transport = \"plain\"\ninterface = \"127.0.0.1\"",
        &secured,
    );
    gateway.apply(&files).await?;
    Ok((gateway, peer))
}

async fn outcomes(admin: &Client, delivery: &str) -> anyhow::Result<Vec<AttemptOutcome>> {
    let (_, attempts) = admin.delivery(delivery).await?;
    Ok(attempts.iter().map(v1::Attempt::outcome).collect())
}

async fn gets_everything_once_and_in_order(script: &str, tls: bool) -> anyhow::Result<()> {
    // The first acknowledgement is lost.
    let (gateway, peer) = hospital(script, tls, &["--script", "DROP"]).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let (one, other) = (
        Child(201).referral("adhd-assessment"),
        Child(202).referral("adhd-assessment"),
    );
    let first = school.submit("first", &one).await?;
    peer.has(1).await?;
    let second = school.submit("second", &one).await?;
    let third = school.submit("third", &other).await?;
    let cancelled = school.cancel("first-no-more", &first.referral_id).await?;
    assert_eq!(
        cancelled.legs.first().map(v1::LegEffect::effect),
        Some(CancelEffect::Queued)
    );

    let mut all = Vec::new();
    for receipt in [&first, &second, &third] {
        for delivery in admin.deliveries(&receipt.referral_id).await? {
            all.push(
                admin
                    .delivery_is(&delivery.delivery_id, DeliveryState::Done)
                    .await?,
            );
        }
    }
    let kinds: Vec<MessageKind> = all.iter().map(v1::Delivery::kind).collect();
    assert_eq!(
        kinds,
        [
            MessageKind::New,
            MessageKind::Cancel,
            MessageKind::New,
            MessageKind::New
        ]
    );
    let records = peer.records()?;
    let mut bodies = Bodies::new();
    for (place, delivery) in all.iter().enumerate() {
        assert_eq!(
            delivery.evidence(),
            EvidenceGrade::ApplicationAck,
            "{:?}",
            delivery.kind()
        );
        let mine: Vec<_> = records
            .iter()
            .filter(|r| text(r, "control_id") == delivery.wire_id)
            .collect();
        let expected: &[AttemptOutcome] = match place {
            0 => &[AttemptOutcome::Unknown, AttemptOutcome::Delivered],
            _ => &[AttemptOutcome::Delivered],
        };
        assert_eq!(outcomes(&admin, &delivery.delivery_id).await?, expected);
        assert_eq!(
            mine.len(),
            expected.len(),
            "each attempt arrived and nothing else did"
        );
        let stored = bodies.of(gateway.store()?, &delivery.wire_id).await?;
        for record in mine {
            assert_eq!(
                bytes(record, "bytes_b64")?,
                unframed(&stored),
                "every attempt carries the stored bytes"
            );
        }
    }
    assert_eq!(records.len(), 5, "four messages, one of them twice");
    // The lane of one child: its referral, the next referral, then the cancel of the first.
    let mut order: Vec<&str> = records.iter().map(|r| text(r, "control_id")).collect();
    order.dedup();
    let of = |place: usize| all.get(place).map(|d: &v1::Delivery| d.wire_id.as_str());
    let lane: Vec<&str> = order.into_iter().filter(|id| Some(*id) != of(3)).collect();
    let mut lane_once = lane.clone();
    lane_once.dedup();
    assert_eq!(
        lane_once,
        [of(0), of(2), of(1)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    );
    assert!(admin.conservation().await?.balanced);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ascii_receiver_never_answers_is_unknown_and_kept_until_it_is_answered()
-> anyhow::Result<()> {
    let script = "mllp_python_hl7.py";
    let deaf = Peer::start(script, &["--encoding", "ascii"]).await?;
    let pushing = Area::default()
        .pushing
        .replace("attempt_timeout = \"5s\"", "attempt_timeout = \"1s\"");
    let area = Area {
        mllp: deaf.port(),
        pushing,
        ..Area::default()
    };
    let gateway = Gateway::start(Engine::Sqlite, &area).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let mut referral = Child(203).referral("adhd-assessment");
    referral["child"]["name"]["family"] = "Łuczak-Ngũgĩ".into();
    let receipt = school.submit("not-ascii", &referral).await?;
    let heard = deaf.has(2).await?;
    let delivery = admin
        .deliveries(&receipt.referral_id)
        .await?
        .pop()
        .context("the delivery")?;
    let first = outcomes(&admin, &delivery.delivery_id).await?;
    assert_eq!(
        first.first(),
        Some(&AttemptOutcome::Unknown),
        "no acknowledgement is no refusal"
    );
    assert!(admin.conservation().await?.balanced, "it is not lost");

    let port = deaf.port().to_string();
    deaf.stop().await?;
    let hearing = Peer::start(script, &["--port", &port]).await?;
    let done = admin
        .delivery_is(&delivery.delivery_id, DeliveryState::Done)
        .await?;
    assert_eq!(done.evidence(), EvidenceGrade::ApplicationAck);
    let stored = Bodies::new()
        .of(gateway.store()?, &delivery.wire_id)
        .await?;
    assert!(String::from_utf8_lossy(&stored).contains("Łuczak-Ngũgĩ"));
    let answered = hearing.has(1).await?;
    for record in heard.iter().chain(&answered) {
        assert_eq!(text(record, "control_id"), delivery.wire_id);
        assert_eq!(bytes(record, "bytes_b64")?, unframed(&stored));
    }
    assert_eq!(
        answered.len(),
        1,
        "and once it was answered, nothing more was sent"
    );
    Ok(())
}
