//! A probe asks the application too, and names what is wrong there.

use super::*;

/// The clock of the tests, as HTTP writes it.
pub(super) const DATE: &str = "Mon, 02 Mar 2026 10:00:00 GMT";

/// What a server says of itself that takes what we send.
pub(super) fn statement() -> Value {
    json!({"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1",
        "messaging": [{"supportedMessage": [{"mode": "receiver",
            "definition": "MessageDefinition/bars-message-servicerequest-request-referral"}]}],
        "rest": [{"mode": "server", "resource": [{"type": "ServiceRequest"}, {"type": "Task"}]}]})
}

pub(super) async fn metadata(State(play): State<Arc<Play>>, headers: HeaderMap) -> Response {
    let date = [("date", *play.date.lock().unwrap())];
    if !admitted(&play, &headers) {
        return (date, outcome(401, "SEND_UNAUTHORIZED", "expired", "")).into_response();
    }
    let statement = play.statement.lock().unwrap().to_string();
    (date, statement).into_response()
}

/// Whether the last stage passed, and its words.
async fn application(adapter: &dyn Adapter, endpoint: &Endpoint) -> (Option<bool>, String) {
    let within = Duration::from_secs(10);
    let probe = adapter.probe(endpoint, Deadline { within }).await;
    let last = probe.stages.last().unwrap();
    assert_eq!(last.stage, "application");
    (last.passed, last.detail.clone())
}

#[tokio::test]
async fn a_server_that_does_not_take_what_we_send_fails_the_last_stage_by_name() {
    let pki = Pki::new();
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    let changed = |element: &str, value: Value| {
        let mut statement = statement();
        statement[element] = value;
        statement
    };
    let no_task = json!([{"resource": [{"type": "ServiceRequest"}]}]);
    for (mode, statement, said) in [
        ("bars", statement(), None),
        ("plain", statement(), None),
        ("bars", changed("rest", json!([])), None),
        ("plain", changed("messaging", json!([])), None),
        (
            "bars",
            changed("messaging", json!([])),
            Some("names no message of servicerequest-request"),
        ),
        ("plain", changed("rest", no_task), Some("names no Task")),
        (
            "bars",
            changed("fhirVersion", json!("3.0.2")),
            Some("does not serve FHIR R4"),
        ),
        (
            "plain",
            changed("resourceType", json!("Bundle")),
            Some("no CapabilityStatement"),
        ),
        (
            "bars",
            changed("messaging", json!({})),
            Some("CapabilityStatement.messaging: is a list"),
        ),
    ] {
        let far = Far::start(&pki, mode).await;
        *far.play.statement.lock().unwrap() = statement;
        let (passed, words) = application(&*adapter, &far.endpoint()).await;
        assert_eq!(passed, Some(said.is_none()), "{mode}: {words}");
        assert!(words.contains(said.unwrap_or_default()), "{mode}: {words}");
        assert_eq!(far.received().len(), 0, "nothing is sent");
    }
}

#[tokio::test]
async fn a_wrong_key_a_token_that_is_not_taken_and_a_wrong_clock_are_told_apart() {
    let pki = Pki::new();
    let far = Far::start(&pki, "bars").await;
    let (adapter, endpoint, _) = tokens::with_token(&pki, &far);
    assert_eq!(application(&*adapter, &endpoint).await.0, Some(true));

    *far.play.date.lock().unwrap() = "Mon, 02 Mar 2026 10:00:29 GMT";
    assert_eq!(application(&*adapter, &endpoint).await.0, Some(true));
    *far.play.date.lock().unwrap() = "Mon, 02 Mar 2026 09:59:29 GMT";
    let (passed, words) = application(&*adapter, &endpoint).await;
    assert_eq!(passed, Some(false));
    assert!(words.contains("clock and ours are 31 s apart"), "{words}");
    let without = far.endpoint();
    *far.play.token.lock().unwrap() = None;
    assert_eq!(
        application(&*adapter, &without).await.0,
        Some(true),
        "no token, no matter"
    );

    *far.play.date.lock().unwrap() = DATE;
    *far.play.token.lock().unwrap() = Some("another".to_owned());
    let (passed, words) = application(&*adapter, &without).await;
    assert_eq!(passed, Some(false));
    assert!(
        words.contains("refuses our token or certificate: metadata was answered 401"),
        "{words}"
    );

    let (fresh, endpoint, _) = tokens::with_token(&pki, &far);
    *far.play.no_tokens.lock().unwrap() = Some(StatusCode::UNAUTHORIZED);
    let (passed, words) = application(&*fresh, &endpoint).await;
    assert_eq!(passed, Some(false));
    assert!(
        words.contains("the token endpoint answered 401 (invalid_client)"),
        "{words}"
    );
}
