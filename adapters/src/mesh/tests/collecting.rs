//! The inbox, reports and tracking (DOMAIN scenario 4).

use std::io::Write as _;
use waymark_core::delivery::ParkReason;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

/// A referral as the agency's own gateway would write it.
pub(super) fn referral() -> Vec<u8> {
    let mut referral = sample::referral();
    referral.documents.clear();
    json!({"type": "referral.new", "environment": "test", "data": {"referral": referral}})
        .to_string()
        .into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sent(wire_id: &str, evidence: Evidence) -> Sent {
    let source = sample::source(Kind::New);
    Sent {
        delivery: source.delivery,
        wire_id: wire_id.parse().unwrap(),
        kind: Kind::New,
        recipient: source.recipient,
        reference: source.reference,
        receiver_reference: None,
        evidence,
        queued: NOW,
    }
}

pub(super) fn code(collected: &Collected) -> Option<&str> {
    collected.stopped.as_ref().map(|why| &*why.code)
}

#[tokio::test]
async fn a_referral_is_taken_in_from_its_mailbox_and_then_acknowledged() {
    let ground = Ground::new().await;
    let body = referral();
    let id = ground.hub.put(THEIRS, OURS, WORKFLOW, &[], &[&body]);
    let endpoint = ground.endpoint("");
    let collected = ground.collect(&endpoint).await;
    assert_eq!(
        (collected.taken, collected.refused, collected.stopped),
        (1, 0, None)
    );
    let taken = ground.taken();
    let [inbound] = taken.as_slice() else {
        panic!("{} taken", taken.len());
    };
    assert_eq!(inbound.channel, Channel::Peer("mesh:X26ABC2".to_owned()));
    assert_eq!(inbound.message_key, id);
    assert_eq!(inbound.environment, Some(Environment::Test));
    assert!(matches!(&inbound.body, InboundBody::Submit(_)));
    assert_eq!(ground.hub.inbox(OURS), Vec::<String>::new());
    assert_eq!(ground.collect(&endpoint).await.taken, 0);
    assert_eq!(ground.hub.refused(), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_taken_in_now_stays_and_comes_again_under_the_same_key() {
    let ground = Ground::new().await;
    let id = ground.hub.put(THEIRS, OURS, WORKFLOW, &[], &[&referral()]);
    let endpoint = ground.endpoint("");
    for (kind, expected) in [
        (ErrorKind::Unavailable, "mesh.not_now"),
        (ErrorKind::Unauthenticated, "mesh.identity"),
        (ErrorKind::Invalid, "mesh.left"),
        (ErrorKind::Denied, "mesh.left"),
    ] {
        *ground.intake.refuse.lock().unwrap() = Some(kind);
        let collected = ground.collect(&endpoint).await;
        assert_eq!((collected.taken, code(&collected)), (0, Some(expected)));
        assert_eq!(ground.hub.inbox(OURS), std::slice::from_ref(&id));
        ground.later(left::PAUSE_FIRST * 2);
    }
    *ground.intake.refuse.lock().unwrap() = None;
    assert_eq!(ground.collect(&endpoint).await.taken, 1);
    assert_eq!(ground.hub.inbox(OURS), Vec::<String>::new());
}

/// An intake that takes a message while another instance acknowledges it.
struct Slow<'a>(&'a Ground);

#[async_trait]
impl Intake for Slow<'_> {
    async fn take(&self, message: Inbound) -> Result<IntakeAnswer, IntakeError> {
        self.0.hub.collect(&message.message_key);
        self.0.intake.take(message).await
    }
}

#[tokio::test]
async fn what_another_instance_acknowledged_meanwhile_is_taken_in_and_gone() {
    let ground = Ground::new().await;
    ground.hub.put(THEIRS, OURS, WORKFLOW, &[], &[&referral()]);
    let endpoint = ground.endpoint("");
    let collected = ground
        .adapter
        .collect(&endpoint, &[], &Slow(&ground), PATIENCE)
        .await;
    assert_eq!((collected.taken, collected.stopped), (1, None));
}

#[tokio::test]
async fn what_cannot_be_understood_stays_is_told_of_and_holds_nothing_up() {
    let ground = Ground::new().await;
    let wrong = ground
        .hub
        .put(THEIRS, OURS, WORKFLOW, &[], &[b"Quillfeather"]);
    ground.hub.put(THEIRS, OURS, WORKFLOW, &[], &[&referral()]);
    let endpoint = ground.endpoint("");
    for taken in [1, 0] {
        let collected = ground.collect(&endpoint).await;
        assert_eq!((collected.taken, collected.refused), (taken, taken));
        let why = collected.stopped.unwrap();
        assert_eq!(why.code, "mesh.left");
        assert!(why.text.contains(&wrong), "{}", why.text);
        assert!(!why.text.contains("Quillfeather"));
        assert_eq!(ground.hub.inbox(OURS), std::slice::from_ref(&wrong));
    }
}

#[tokio::test]
async fn chunks_are_put_together_and_a_sum_that_does_not_fit_is_refused() {
    let ground = Ground::new().await;
    let body = referral();
    let (one, other) = body.split_at(body.len() / 2);
    let sum = envelope::checksum(&body);
    let packed = [
        ("content-encoding", "gzip"),
        ("mex-content-checksum", &*sum),
    ];
    let chunks = [gzip(one), gzip(other)];
    let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
    ground.hub.put(THEIRS, OURS, WORKFLOW, &packed, &chunks);
    let wrong = envelope::checksum(b"something else");
    let plain = [("mex-content-checksum", &*wrong)];
    let damaged = ground.hub.put(THEIRS, OURS, WORKFLOW, &plain, &[&body]);
    let collected = ground.collect(&ground.endpoint("")).await;
    assert_eq!((collected.taken, collected.refused), (1, 1));
    assert_eq!(ground.taken().remove(0).original.expose(), body);
    assert_eq!(ground.hub.inbox(OURS), [damaged]);
}

#[tokio::test]
async fn a_message_longer_than_is_taken_in_is_never_unpacked_whole() {
    let ground = Ground::new().await;
    let bomb = gzip(&vec![b' '; wire::MESSAGE_BYTES_MAX + 1]);
    let packed = [("content-encoding", "gzip")];
    ground.hub.put(THEIRS, OURS, WORKFLOW, &packed, &[&bomb]);
    let collected = ground.collect(&ground.endpoint("")).await;
    assert_eq!(
        (collected.refused, code(&collected)),
        (1, Some("mesh.left"))
    );
}

#[tokio::test]
async fn a_message_that_the_hub_does_not_give_out_holds_up_no_other() {
    let ground = Ground::new().await;
    // Its second chunk is not there.
    let broken = ground.hub.put(THEIRS, OURS, WORKFLOW, &[], &[b"a", b"b"]);
    ground.hub.lose_chunk(&broken, 2);
    ground.hub.put(THEIRS, OURS, WORKFLOW, &[], &[&referral()]);
    let endpoint = ground.endpoint("");
    let collected = ground.collect(&endpoint).await;
    assert_eq!((collected.taken, code(&collected)), (1, Some("mesh.get")));
    assert_eq!(ground.hub.inbox(OURS), std::slice::from_ref(&broken));
    // A hub that answers so again and again is itself at fault.
    for _ in 0..3 {
        let id = ground.hub.put(THEIRS, OURS, WORKFLOW, &[], &[b"a", b"b"]);
        ground.hub.lose_chunk(&id, 2);
    }
    ground.hub.put(THEIRS, OURS, WORKFLOW, &[], &[&referral()]);
    assert_eq!(ground.collect(&endpoint).await.taken, 0);
}

#[tokio::test]
async fn what_is_for_nobody_is_left_and_told_of_once_it_is_old() {
    let ground = Ground::new().await;
    let other = ground.hub.put(STRANGE, OURS, WORKFLOW, &[], &[b"{}"]);
    ground.hub.put(THEIRS, OURS, "OTHER_WORK", &[], &[b"{}"]);
    let endpoint = ground.endpoint("");
    let collected = ground.collect(&endpoint).await;
    assert_eq!((collected.refused, collected.stopped), (0, None));
    let later = NOW.plus(Duration::from_hours(1));
    ground.clock.0.store(later.as_ms(), Ordering::Relaxed);
    let collected = ground.collect(&endpoint).await;
    assert_eq!(code(&collected), Some("mesh.nobodys"));
    assert!(collected.stopped.unwrap().text.contains(&other));
    assert_eq!(ground.hub.inbox(OURS).len(), 2);
    assert_eq!(ground.taken().len(), 0);
}

#[tokio::test]
async fn a_full_inbox_is_emptied_page_by_page_in_its_order() {
    let ground = Ground::new().await;
    let ids: Vec<String> = (0..25)
        .map(|_| ground.hub.put(THEIRS, OURS, WORKFLOW, &[], &[&referral()]))
        .collect();
    let endpoint = ground.endpoint("");
    let mut rounds = 0;
    while !ground.hub.inbox(OURS).is_empty() {
        let collected = ground.collect(&endpoint).await;
        assert_eq!(collected.stopped, None);
        rounds += 1;
        assert!(rounds < 10);
    }
    let taken = ground.taken().into_iter();
    let keys: Vec<String> = taken.map(|inbound| inbound.message_key).collect();
    assert_eq!(keys, ids);
}

#[tokio::test]
async fn a_report_says_that_our_message_did_not_arrive_and_is_acknowledged_once_that_is_known() {
    let ground = Ground::new().await;
    let headers = [("mex-localid", "WM000001")];
    let id = ground.hub.put(OURS, THEIRS, WORKFLOW, &headers, &[b"x"]);
    ground.hub.expire(&id);
    let report = ground.hub.inbox(OURS);
    let endpoint = ground.endpoint("");
    // Another endpoint of this mailbox asks first: it is not about a delivery of its own.
    *ground.intake.refuse.lock().unwrap() = Some(ErrorKind::NotFound);
    let collected = ground.collect(&endpoint).await;
    assert_eq!((collected.taken, collected.stopped), (0, None));
    assert_eq!(ground.hub.inbox(OURS), report);
    *ground.intake.refuse.lock().unwrap() = None;
    assert_eq!(ground.collect(&endpoint).await.taken, 1);
    assert_eq!(ground.hub.inbox(OURS), Vec::<String>::new());
    let inbound = ground.taken().remove(0);
    assert_eq!(inbound.channel, Channel::Endpoint(endpoint.id));
    let InboundBody::Undelivered(undelivered) = inbound.body else {
        panic!("no report");
    };
    assert_eq!(undelivered.answers, "WM000001");
    assert_eq!(undelivered.reason, ParkReason::Exhausted);
    assert_eq!(undelivered.why.code, "mesh.report_14");
}

#[tokio::test]
async fn an_acknowledgement_of_the_workflow_is_the_application_s_word() {
    let ground = Ground::new().await;
    let ack = format!("{WORKFLOW}_ACK");
    let headers = [("mex-localid", "WM000001")];
    ground.hub.put(
        THEIRS,
        OURS,
        &ack,
        &headers,
        &[br#"{"receiver_reference": "R1L/88"}"#],
    );
    let collected = ground.collect(&ground.endpoint("")).await;
    assert_eq!((collected.taken, collected.stopped), (1, None));
    let inbound = ground.taken().remove(0);
    assert_eq!(inbound.channel, Channel::Peer(identity_of(THEIRS)));
    let InboundBody::Status(status) = inbound.body else {
        panic!("no status");
    };
    assert_eq!(status.answers.as_deref(), Some("WM000001"));
    assert_eq!(status.grade, Evidence::ApplicationAck);
    assert_eq!(status.state, LegState::Submitted);
    assert_eq!(status.receiver_reference.as_deref(), Some("R1L/88"));
}

#[tokio::test]
async fn what_was_sent_is_asked_about_until_the_agency_has_it() {
    let ground = Ground::new().await;
    let wires = ["WM000001", "WM000002", "WM000003", "WM000004"];
    let ids: Vec<String> = wires
        .into_iter()
        .take(3)
        .map(|wire| {
            let headers = [("mex-localid", wire)];
            ground.hub.put(OURS, THEIRS, WORKFLOW, &headers, &[b"x"])
        })
        .collect();
    ground.hub.collect(&ids[0]);
    ground.hub.expire(&ids[1]);
    // The report is for the next test.
    for report in ground.hub.inbox(OURS) {
        ground.hub.collect(&report);
    }
    let page: Vec<Sent> = wires.map(|wire| sent(wire, Evidence::Sent)).into();
    let collected = ground.collect_with(&ground.endpoint(""), &page).await;
    assert_eq!((collected.taken, collected.stopped), (2, None));
    let found: Vec<(String, bool)> = ground
        .taken()
        .into_iter()
        .map(|inbound| {
            assert!(matches!(inbound.channel, Channel::Endpoint(_)));
            match inbound.body {
                InboundBody::Status(status) => {
                    assert_eq!(status.grade, Evidence::TransportAck);
                    (status.answers.unwrap(), true)
                }
                InboundBody::Undelivered(undelivered) => (undelivered.answers, false),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    assert_eq!(
        found,
        [
            ("WM000001".to_owned(), true),
            ("WM000002".to_owned(), false)
        ]
    );
    let known = [sent("WM000001", Evidence::TransportAck)];
    let asked = ground.hub.requests().len();
    ground.collect_with(&ground.endpoint(""), &known).await;
    let tracked = ground.hub.requests().split_off(asked);
    assert!(
        tracked.iter().all(|r| !r.contains("tracking")),
        "{tracked:?}"
    );
}

#[tokio::test]
async fn the_mailbox_is_validated_before_the_first_look_and_a_hub_that_refuses_stops_the_round() {
    let ground = Ground::new().await;
    let endpoint = ground.endpoint("");
    ground.collect(&endpoint).await;
    ground.collect(&endpoint).await;
    let handshake = format!("POST /messageexchange/{OURS}");
    assert_eq!(ground.asked(&handshake), 1);
    assert_eq!(
        ground.adapter.collect_every(&endpoint),
        Some(Duration::from_mins(5))
    );
    ground.hub.password("another");
    let collected = ground.collect(&ground.endpoint("poll_seconds = 60")).await;
    assert_eq!(code(&collected), Some("mesh.handshake"));
}
