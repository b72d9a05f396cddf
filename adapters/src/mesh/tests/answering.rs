//! What we answer under a workflow's `_ACK`, and how often what cannot be taken in is looked at.

use super::collecting::{code, referral};
use waymark_core::directory::CodeMap;

use super::*;
use crate::stand_in::mesh::Held;

const ASKED: &str = "acknowledges = true";

/// What we sent under the `_ACK` of the workflow: whom it answers, and what it says.
fn answers(hub: &Hub) -> Vec<(String, Value)> {
    let own = |held: &Held| held.from == OURS && held.to == THEIRS;
    let read = |held: Held| {
        assert_eq!(held.headers["mex-workflowid"], format!("{WORKFLOW}_ACK"));
        let bytes: Vec<u8> = held.chunks.into_iter().flatten().flatten().collect();
        let said = serde_json::from_slice(&bytes).unwrap();
        (held.headers["mex-localid"].clone(), said)
    };
    hub.held().into_iter().filter(own).map(read).collect()
}

fn put(ground: &Ground, local_id: &str, body: &[u8]) -> String {
    let headers = [("mex-localid", local_id)];
    ground.hub.put(THEIRS, OURS, WORKFLOW, &headers, &[body])
}

#[tokio::test]
async fn what_is_taken_in_is_answered_where_that_was_agreed_as_we_read_an_answer() {
    let ground = Ground::new().await;
    put(&ground, "WM000011", &referral());
    ground.hub.put(THEIRS, OURS, WORKFLOW, &[], &[&referral()]);
    assert_eq!(ground.collect(&ground.endpoint(ASKED)).await.taken, 2);
    let reference = Reference::of(ReferralId::from_bytes([1; 16]));
    let said = json!({"id": "WM000011", "receiver_reference": reference.as_str()});
    assert_eq!(
        answers(&ground.hub),
        [("WM000011".to_owned(), said.clone())]
    );
    assert_eq!(ground.hub.inbox(OURS), Vec::<String>::new());
    // Another gateway reads it as the application's word.
    let bytes = said.to_string().into_bytes();
    let read = wire::acknowledgement(&bytes, Some("WM000011"), &CodeMap::default());
    let InboundBody::Status(status) = read.unwrap().body else {
        panic!("no status");
    };
    assert_eq!(status.grade, Evidence::ApplicationAck);
    assert_eq!(
        status.receiver_reference.as_deref(),
        Some(reference.as_str())
    );

    // An answer is not answered, and nobody is where it was not agreed.
    let ack = format!("{WORKFLOW}_ACK");
    let headers = [("mex-localid", "WM000012")];
    ground.hub.put(THEIRS, OURS, &ack, &headers, &[b" "]);
    assert_eq!(ground.collect(&ground.endpoint(ASKED)).await.taken, 1);
    put(&ground, "WM000013", &referral());
    assert_eq!(ground.collect(&ground.endpoint("")).await.taken, 1);
    assert_eq!(answers(&ground.hub).len(), 1);
    assert_eq!(ground.hub.refused(), Vec::<String>::new());
}

#[tokio::test]
async fn a_refusal_is_answered_with_its_reason_once_and_the_message_stays() {
    let ground = Ground::new().await;
    let endpoint = ground.endpoint(ASKED);
    *ground.intake.refuse.lock().unwrap() = Some(ErrorKind::Invalid);
    let refused = put(&ground, "WM000021", &referral());
    let unreadable = put(&ground, "WM000022", b"Quillfeather");
    for _ in 0..3 {
        let collected = ground.collect(&endpoint).await;
        assert_eq!(code(&collected), Some("mesh.left"));
        assert_eq!(
            ground.hub.inbox(OURS),
            [refused.clone(), unreadable.clone()]
        );
        let said: Vec<(String, String)> = answers(&ground.hub)
            .into_iter()
            .map(|(id, said)| (id, said["code"].as_str().unwrap().to_owned()))
            .collect();
        let named = |id: &str, code: &str| (id.to_owned(), code.to_owned());
        let expected = [
            named("WM000021", "TOLD_SO"),
            named("WM000022", "UNREADABLE"),
        ];
        assert_eq!(said, expected);
        ground.later(left::PAUSE_FIRST * 3);
    }
    for (id, said) in answers(&ground.hub) {
        let bytes = said.to_string().into_bytes();
        let read = wire::acknowledgement(&bytes, Some(&id), &CodeMap::default());
        let read = read.unwrap().body;
        assert!(matches!(read, InboundBody::Undelivered(_)), "{read:?}");
        assert!(!said.to_string().contains("Quillfeather"), "{said}");
    }
}

#[tokio::test]
async fn what_could_not_be_answered_is_taken_in_and_answered_once_more() {
    let ground = Ground::new().await;
    let endpoint = ground.endpoint(ASKED);
    let id = put(&ground, "WM000031", &referral());
    // The answer is taken by the hub, and we are not told so.
    ground.hub.play(&[Fault::DropTaken]);
    let collected = ground.collect(&endpoint).await;
    assert_eq!(
        (collected.taken, code(&collected)),
        (0, Some("mesh.answer"))
    );
    assert_eq!(ground.hub.inbox(OURS), [id]);
    assert_eq!(ground.collect(&endpoint).await.taken, 1);
    let said = answers(&ground.hub);
    assert_eq!(said.len(), 2);
    assert_eq!(said[0], said[1], "twice the same");
    let keys: Vec<String> = ground.taken().into_iter().map(|m| m.message_key).collect();
    assert_eq!(keys[0], keys[1], "and one message to the intake");

    // An answer that the hub never takes holds up nothing, and is told of.
    put(&ground, "WM000032", &referral());
    ground.hub.play(&[Fault::Refuse("17")]);
    let collected = ground.collect(&endpoint).await;
    assert_eq!(
        (collected.taken, code(&collected)),
        (1, Some("mesh.answer"))
    );
    assert_eq!(ground.hub.inbox(OURS), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_taken_in_is_fetched_again_after_a_pause_and_told_of_in_every_round() {
    let ground = Ground::new().await;
    let endpoint = ground.endpoint("");
    let id = put(&ground, "WM000041", b"nothing that we read");
    let fetch = format!("GET /messageexchange/{OURS}/inbox/{id}");
    let mut fetched = Vec::new();
    for _ in 0..10 {
        let collected = ground.collect(&endpoint).await;
        assert_eq!(code(&collected), Some("mesh.left"), "the alarm stays");
        fetched.push(ground.asked(&fetch));
        ground.later(Duration::from_mins(5));
    }
    // At 0, 10 and 30 minutes; the next time would be after 70.
    assert_eq!(fetched, [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
    ground.hub.collect(&id);
    assert_eq!(code(&ground.collect(&endpoint).await), None);
}

#[tokio::test]
async fn a_refusal_that_could_not_be_sent_is_sent_when_the_message_is_looked_at_again() {
    let ground = Ground::new().await;
    let endpoint = ground.endpoint(ASKED);
    put(&ground, "WM000051", b"nothing that we read");
    ground.hub.play(&[Fault::Unavailable]);
    let collected = ground.collect(&endpoint).await;
    assert_eq!(code(&collected), Some("mesh.answer"));
    assert_eq!(answers(&ground.hub).len(), 0);
    for _ in 0..3 {
        ground.later(left::PAUSE_FIRST * 5);
        ground.collect(&endpoint).await;
        assert_eq!(answers(&ground.hub).len(), 1, "once");
    }
}

#[tokio::test]
async fn a_report_of_an_answer_of_ours_is_no_news_of_a_delivery() {
    let ground = Ground::new().await;
    let headers = [("mex-localid", "WM000061")];
    let ack = format!("{WORKFLOW}_ACK");
    for workflow in [&ack, "OTHER_WORK"] {
        let id = ground.hub.put(OURS, THEIRS, workflow, &headers, &[b"x"]);
        ground.hub.expire(&id);
    }
    let reports = ground.hub.inbox(OURS);
    let collected = ground.collect(&ground.endpoint(ASKED)).await;
    assert_eq!((collected.taken, collected.stopped), (0, None));
    assert_eq!(ground.taken().len(), 0);
    // That of an answer is done with; the other is of another endpoint, or nobody's.
    assert_eq!(ground.hub.inbox(OURS), reports[1..]);
}
