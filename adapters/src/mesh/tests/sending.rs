//! Sending, and what became of a message whose answer was lost (DOMAIN scenario 3).

use flate2::read::GzDecoder;
use waymark_core::delivery::ParkReason;
use waymark_core::port::Reconciliation;

use super::*;
use crate::stand_in::mesh::Stage;

/// A message of the sample, and a hub's worth of faults.
struct Sending {
    ground: Ground,
    endpoint: Endpoint,
    source: Source,
    rendered: Rendered,
}

impl Sending {
    async fn new(more: &str) -> Self {
        let ground = Ground::new().await;
        let endpoint = ground.endpoint(more);
        let source = sample::source(Kind::New);
        let rendered = ground.adapter.render(&source, &endpoint).unwrap();
        Self {
            ground,
            endpoint,
            source,
            rendered,
        }
    }

    fn message(&self) -> Outbound<'_> {
        sample::outbound(&self.source, &self.rendered, &self.endpoint, 1)
    }

    async fn deliver(&self) -> Outcome {
        self.ground.adapter.deliver(&self.message(), PATIENCE).await
    }

    async fn reconcile(&self) -> Reconciliation {
        self.ground
            .adapter
            .reconcile(&self.message(), PATIENCE)
            .await
    }

    fn stages(&self) -> Vec<Stage> {
        self.ground.hub.held().iter().map(|h| h.stage).collect()
    }

    /// What the receiver would read of the only message.
    fn arrived(&self) -> Vec<u8> {
        let held = self.ground.hub.held();
        let [held] = held.as_slice() else {
            panic!("{} messages", held.len());
        };
        let mut whole = Vec::new();
        for chunk in held.chunks.iter().map(|chunk| chunk.as_ref().unwrap()) {
            if held.headers.contains_key("content-encoding") {
                GzDecoder::new(chunk.as_slice())
                    .read_to_end(&mut whole)
                    .unwrap();
            } else {
                whole.extend_from_slice(chunk);
            }
        }
        whole
    }
}

fn sent(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Delivered {
            grade: Evidence::Sent,
            awaiting: Some(Evidence::TransportAck),
            receiver_reference: None,
            receipt: Some(_),
        }
    )
}

#[tokio::test]
async fn a_message_names_its_mailboxes_workflow_and_id_and_nobody() {
    let sending = Sending::new("").await;
    let outcome = sending.deliver().await;
    assert!(sent(&outcome), "{outcome:?}");
    let held = sending.ground.hub.held().remove(0);
    let wire = sending.source.wire_id.as_str();
    for (name, value) in [
        ("mex-from", OURS),
        ("mex-to", THEIRS),
        ("mex-workflowid", WORKFLOW),
        ("mex-localid", wire),
        ("mex-filename", &format!("{wire}.json")),
        ("mex-subject", &format!("Waymark new {wire}")),
        ("mex-content-type", "application/json"),
        (
            "mex-content-checksum",
            &envelope::checksum(sending.rendered.bytes.expose()),
        ),
    ] {
        assert_eq!(held.headers.get(name).map(String::as_str), Some(value));
    }
    assert_eq!(sending.arrived(), sending.rendered.bytes.expose());
    assert!(!held.headers.contains_key("mex-chunk-range"));
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_our_own_id_and_the_message_is_not_sent_again() {
    for fault in [Fault::DropTaken, Fault::Garbled] {
        let sending = Sending::new("").await;
        sending.ground.hub.play(&[fault]);
        let outcome = sending.deliver().await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
        match sending.reconcile().await {
            Reconciliation::Settled(outcome) => assert!(sent(&outcome), "{outcome:?}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(sending.stages(), [Stage::Accepted]);
        let posts = format!("POST /messageexchange/{OURS}/outbox");
        assert_eq!(sending.ground.asked(&posts), 1);
    }
}

#[tokio::test]
async fn whatever_ended_the_first_attempt_a_later_one_asks_before_it_sends() {
    let mut sending = Sending::new("").await;
    sending.ground.hub.play(&[Fault::DropTaken]);
    assert!(matches!(sending.deliver().await, Outcome::Unknown { .. }));
    // While the directory was wrong nothing was found out.
    let bound = sending.endpoint.agency.clone();
    sending.endpoint.agency = "X9X".parse().unwrap();
    let unclear = sending.reconcile().await;
    assert!(matches!(unclear, Reconciliation::StillUnknown(_)));
    sending.endpoint.agency = bound;
    // As when a person had resumed it.
    let again = sample::outbound(&sending.source, &sending.rendered, &sending.endpoint, 2);
    let outcome = sending.ground.adapter.deliver(&again, PATIENCE).await;
    assert!(sent(&outcome), "{outcome:?}");
    assert_eq!(sending.stages(), [Stage::Accepted]);
    let id = sending.ground.hub.held().remove(0).id;
    sending.ground.hub.expire(&id);
    let outcome = sending.ground.adapter.deliver(&again, PATIENCE).await;
    assert_eq!(outcome.word(), "park", "{outcome:?}");
    let ours = |held: &crate::stand_in::mesh::Held| held.to == THEIRS;
    let held = sending.ground.hub.held();
    assert_eq!(
        held.iter().filter(|h| ours(h)).count(),
        1,
        "one message of one id"
    );
}

#[tokio::test]
async fn a_message_that_the_hub_does_not_have_may_be_sent_again() {
    for fault in [Fault::DropUntaken, Fault::Unavailable] {
        let sending = Sending::new("").await;
        sending.ground.hub.play(&[fault]);
        let outcome = sending.deliver().await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
        assert_eq!(sending.reconcile().await, Reconciliation::NotReceived);
        assert!(sent(&sending.deliver().await));
        assert_eq!(sending.stages(), [Stage::Accepted]);
    }
}

#[tokio::test]
async fn what_was_sent_twice_asks_a_person_and_what_was_collected_meanwhile_is_known() {
    let sending = Sending::new("").await;
    sending.deliver().await;
    let id = sending.ground.hub.held().remove(0).id;
    sending.ground.hub.collect(&id);
    match sending.reconcile().await {
        Reconciliation::Settled(Outcome::Delivered {
            grade: Evidence::TransportAck,
            awaiting: None,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    sending.deliver().await;
    match sending.reconcile().await {
        Reconciliation::Settled(Outcome::Park { reason, .. }) => {
            assert_eq!(reason, ParkReason::IdCollision);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_given_back_is_parked_and_a_hub_that_does_not_say_leaves_it_unknown() {
    let sending = Sending::new("").await;
    sending.deliver().await;
    let id = sending.ground.hub.held().remove(0).id;
    sending.ground.hub.expire(&id);
    match sending.reconcile().await {
        Reconciliation::Settled(Outcome::Park { .. }) => {}
        other => panic!("{other:?}"),
    }
    sending.ground.hub.password("another");
    match sending.reconcile().await {
        Reconciliation::StillUnknown(why) => assert_eq!(why.code, "mesh.tracking"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_long_message_goes_in_packed_chunks_and_comes_out_the_same() {
    let sending = Sending::new("chunk_bytes = 1024").await;
    let parts = sending.rendered.bytes.expose().len().div_ceil(1024);
    assert!(parts > 2);
    let outcome = sending.deliver().await;
    assert!(sent(&outcome), "{outcome:?}");
    let held = sending.ground.hub.held().remove(0);
    assert_eq!(held.chunks.len(), parts);
    assert_eq!(held.headers["content-encoding"], "gzip");
    assert_eq!(held.headers["mex-chunk-range"], format!("1:{parts}"));
    assert_eq!(held.stage, Stage::Accepted);
    assert_eq!(sending.arrived(), sending.rendered.bytes.expose());
}

#[tokio::test]
async fn a_chunk_that_was_lost_goes_again_and_a_last_one_that_was_not_is_seen() {
    let sending = Sending::new("chunk_bytes = 2048").await;
    // The second of three is lost twice; the answer to the last is lost, so that it is locked when it comes again.
    let untaken = [Fault::DropUntaken, Fault::Unavailable];
    let parts = sending.rendered.bytes.expose().len().div_ceil(2048);
    sending.ground.hub.play_chunks(&untaken);
    let outcome = sending.deliver().await;
    assert!(sent(&outcome), "{outcome:?}");
    assert_eq!(sending.arrived(), sending.rendered.bytes.expose());

    let sending = Sending::new(&format!(
        "chunk_bytes = {}",
        sending.rendered.bytes.expose().len() - 1
    ))
    .await;
    sending.ground.hub.play_chunks(&[Fault::DropTaken]);
    let outcome = sending.deliver().await;
    assert!(sent(&outcome), "{outcome:?} of {parts}");
    assert_eq!(sending.stages(), [Stage::Accepted]);
    assert_eq!(sending.arrived(), sending.rendered.bytes.expose());
}

#[tokio::test]
async fn a_message_that_the_hub_has_in_part_is_completed_and_not_sent_again() {
    let sending = Sending::new("chunk_bytes = 1024").await;
    sending.ground.hub.play_chunks(&[Fault::DropUntaken; 3]);
    let outcome = sending.deliver().await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    assert_eq!(sending.stages(), [Stage::Uploading]);
    match sending.reconcile().await {
        Reconciliation::Settled(outcome) => assert!(sent(&outcome), "{outcome:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(sending.stages(), [Stage::Accepted]);
    assert_eq!(sending.arrived(), sending.rendered.bytes.expose());
}

#[tokio::test]
async fn a_header_is_taken_once_and_within_two_hours_alone() {
    let sending = Sending::new("").await;
    for _ in 0..5 {
        assert!(sent(&sending.deliver().await));
    }
    assert_eq!(sending.ground.hub.refused(), Vec::<String>::new());
    let late = NOW.plus(Duration::from_hours(3));
    sending
        .ground
        .clock
        .0
        .store(late.as_ms(), Ordering::Relaxed);
    match sending.deliver().await {
        Outcome::Retry { why, .. } => assert_eq!(why.code, "mesh.403"),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        sending.ground.hub.refused(),
        ["the time is not within two hours"]
    );
    assert_eq!(sending.stages().len(), 5);
}

#[tokio::test]
async fn the_strict_hub_refuses_a_header_that_comes_again() {
    let ground = Ground::new().await;
    let credentials = auth::Credentials {
        mailbox: OURS,
        password: PASSWORD.as_bytes(),
        shared_key: SHARED_KEY.as_bytes(),
    };
    let header = credentials.header("n", 0, NOW).unwrap();
    let url = format!(
        "http://127.0.0.1:{}/messageexchange/{OURS}/inbox",
        ground.hub.port()
    );
    let settings = Settings::read(&ground.endpoint(""), EgressPolicy::AsFlagged).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    let client = https::client(&settings.address, tls).unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let request = client.get(&url).header("authorization", header.clone());
        answers.push(request.send().await.unwrap().status().as_u16());
    }
    assert_eq!(answers, [200, 403]);
}

#[tokio::test]
async fn without_its_secrets_nothing_is_sent_and_the_secret_is_named() {
    let sending = Sending::new("").await;
    let missing = Some("secret:gone".into());
    let endpoint = far_side::with(&sending.endpoint, "password", missing).0;
    let message = sample::outbound(&sending.source, &sending.rendered, &endpoint, 1);
    match sending.ground.adapter.deliver(&message, PATIENCE).await {
        Outcome::Retry { why, .. } => {
            assert_eq!(why.code, "mesh.secret");
            assert!(why.text.contains("gone"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(sending.ground.hub.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_deployment_that_may_not_leave_the_internet_refuses_the_flags() {
    let ground = Ground::new().await;
    let context = AdapterContext {
        egress: EgressPolicy::PublicOnly,
        ..ground.context.clone()
    };
    let strict = crate::Adapters::new(&context).unwrap();
    let faults = strict.validate(&ground.endpoint(""));
    assert_eq!(faults.first().map(|f| &*f.field), Some("settings.plain"));
}
