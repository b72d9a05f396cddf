//! What is asked before a referral is updated or ends, and what its receiver is told then.

use super::*;

#[tokio::test]
async fn what_is_no_longer_active_is_not_cancelled_and_our_own_cancel_goes_again() {
    let pki = Pki::new();
    let far = Far::start(&pki, "bars").await;
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    for (status, nth, expected, arrived) in [
        ("completed", 1, "reject", 0),
        ("revoked", 1, "reject", 0),
        ("completed", 2, "reject", 0),
        ("active", 1, "delivered", 1),
        ("revoked", 2, "delivered", 2),
    ] {
        *far.play.status.lock().unwrap() = status;
        let outcome = attempt(&*adapter, &far.endpoint(), Kind::Cancel, nth).await;
        assert_eq!(outcome.word(), expected, "{status} {nth}");
        assert_eq!(far.received().len(), arrived, "{status} {nth}");
    }
    let plain = Far::start(&pki, "plain").await;
    for (status, expected) in [("in-progress", "reject"), ("accepted", "delivered")] {
        *plain.play.status.lock().unwrap() = status;
        let outcome = attempt(&*adapter, &plain.endpoint(), Kind::Cancel, 1).await;
        assert_eq!(outcome.word(), expected, "{status}");
    }
}

#[tokio::test]
async fn only_the_receiver_itself_ends_a_cancel_by_not_knowing_the_request() {
    let pki = Pki::new();
    let far = Far::start(&pki, "bars").await;
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    for (answer, expected) in [
        ("404 REC_NOT_FOUND", "reject"),
        ("404 PROXY_NOT_FOUND", "park"),
        ("404 NOT_FOUND", "park"),
        ("404 ", "retry"),
    ] {
        *far.play.status.lock().unwrap() = answer;
        for kind in [Kind::Cancel, Kind::Amend] {
            let outcome = attempt(&*adapter, &far.endpoint(), kind, 1).await;
            assert_eq!(outcome.word(), expected, "{answer} {kind:?}");
        }
        assert_eq!(far.received().len(), 0, "{answer}");
    }
}

/// One attempt of a message whose receiver never said by which id it knows the request.
async fn without_id(adapter: &dyn Adapter, endpoint: &Endpoint, kind: Kind) -> Outcome {
    let mut source = sample::source(kind);
    source.receiver_reference = None;
    let rendered = adapter.render(&source, endpoint).unwrap();
    let message = sample::outbound(&source, &rendered, endpoint, 1);
    let within = Duration::from_secs(10);
    adapter.deliver(&message, Deadline { within }).await
}

#[tokio::test]
async fn a_bars_receiver_is_told_that_consent_was_withdrawn_whatever_it_has_begun() {
    let pki = Pki::new();
    let far = Far::start(&pki, "bars").await;
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    for (nth, status) in ["active", "completed", "revoked", "on-hold"]
        .into_iter()
        .enumerate()
    {
        *far.play.status.lock().unwrap() = status;
        let outcome = attempt(&*adapter, &far.endpoint(), Kind::Withdraw, 1).await;
        assert_eq!(outcome.word(), "delivered", "{status}");
        let received = far.received();
        assert_eq!(received.len(), nth + 1, "{status}");
        let words = String::from_utf8(received[nth].bytes.clone()).unwrap();
        assert!(words.contains("CONSENT WITHDRAWN: stop work"), "{words}");
    }
    let outcome = without_id(&*adapter, &far.endpoint(), Kind::Withdraw).await;
    assert_eq!(outcome.word(), "delivered", "by our identifiers");
}

#[tokio::test]
async fn a_plain_server_is_told_of_a_withdrawal_by_request_and_task_alone_and_never_given_a_referral_by_it()
 {
    let pki = Pki::new();
    let far = Far::start(&pki, "plain").await;
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    *far.play.status.lock().unwrap() = NOTHING;
    let outcome = attempt(&*adapter, &far.endpoint(), Kind::Withdraw, 1).await;
    assert_eq!((outcome.word(), far.received().len()), ("park", 0));
    assert_eq!(outcome.why().unwrap().code, "fhir.not_there");
    for status in ["requested", "in-progress", "completed", "cancelled"] {
        *far.play.status.lock().unwrap() = status;
        let outcome = attempt(&*adapter, &far.endpoint(), Kind::Withdraw, 1).await;
        assert_eq!(outcome.word(), "delivered", "{status}");
    }
    let sent: Value = serde_json::from_slice(&far.received()[0].bytes).unwrap();
    let kinds: Vec<&Value> = sent["entry"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["resource"]["resourceType"])
        .collect();
    assert_eq!(kinds, ["ServiceRequest", "Task"]);
    for entry in sent["entry"].as_array().unwrap() {
        let notes = entry["resource"]["note"].to_string();
        assert!(notes.contains("CONSENT WITHDRAWN: stop work"), "{notes}");
        assert_eq!(entry["request"]["method"], "PUT");
    }
    let text = sent.to_string();
    for of_the_child in [
        "Tam",
        "9434765870",
        "2016-05-04",
        "Penicillin",
        "grandmother",
    ] {
        assert!(!text.contains(of_the_child), "{of_the_child}");
    }
}

#[tokio::test]
async fn an_update_goes_to_what_is_active_alone_and_where_no_id_is_known_unasked() {
    let pki = Pki::new();
    let far = Far::start(&pki, "bars").await;
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    for (status, nth, expected, arrived) in [
        ("completed", 1, "reject", 0),
        ("revoked", 2, "reject", 0),
        ("active", 1, "delivered", 1),
    ] {
        *far.play.status.lock().unwrap() = status;
        let outcome = attempt(&*adapter, &far.endpoint(), Kind::Amend, nth).await;
        assert_eq!(outcome.word(), expected, "{status}");
        assert_eq!(far.received().len(), arrived, "{status}");
    }
    let outcome = without_id(&*adapter, &far.endpoint(), Kind::Amend).await;
    assert_eq!(outcome.word(), "delivered");
}
