//! The adapter against a real HTTPS server that plays both kinds of far side.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use tokio::task::JoinSet;
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::directory::AdapterKind;
use waymark_core::id::{Reference, ReferralId};
use waymark_core::leg::LegState;
use waymark_core::port::{Inbound, InboundBody, IntakeAnswer, IntakeError};
use zeroize::Zeroizing;

mod ending;
mod probing;
mod serving;
mod tokens;

use super::*;
use crate::contract::{self, FarSide, HINT, Received, Script, sample};
use crate::far_side::{self, AGENCY, Notes, OTHER_SYSTEM, Pki, Secured, acceptor};

/// What the far side holds and does beside its script.
struct Play {
    notes: Arc<Notes>,
    /// Answers before the script speaks: status, code, issue.
    answers: Mutex<VecDeque<(u16, &'static str, &'static str)>>,
    /// What a read of a request or a task says.
    status: Mutex<&'static str>,
    /// The token in force; none where no token is asked for.
    token: Mutex<Option<String>>,
    assertions: Mutex<Vec<String>>,
    tokens: AtomicU32,
    /// The token endpoint's refusal, while it refuses.
    no_tokens: Mutex<Option<StatusCode>>,
    searches: Mutex<Vec<String>>,
    /// What it says of itself, and by which clock.
    statement: Mutex<Value>,
    date: Mutex<&'static str>,
}

/// What a plain server's task says where there is none.
const NOTHING: &str = "nothing";

fn outcome(status: u16, code: &str, issue: &str, words: &str) -> Response {
    let body = json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": issue,
        "details": {"coding": [{"system": name::ERROR_CODES, "code": code}]}, "diagnostics": words}]});
    (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
}

fn admitted(play: &Play, headers: &HeaderMap) -> bool {
    let wanted = play.token.lock().unwrap().clone();
    let shown = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    wanted.is_none_or(|token| shown == Some(&format!("Bearer {token}")))
}

async fn process(State(play): State<Arc<Play>>, headers: HeaderMap, body: Bytes) -> Response {
    if !admitted(&play, &headers) {
        return outcome(401, "SEND_UNAUTHORIZED", "expired", "");
    }
    let envelope: BTreeMap<String, String> = headers
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_owned()))
        .collect();
    let bundle: Value = serde_json::from_slice(&body).unwrap();
    let wire_id = bundle["identifier"]["value"].as_str().unwrap();
    play.notes.note(wire_id, &body, envelope.clone());
    let next = play.answers.lock().unwrap().pop_front();
    if let Some((status, code, issue)) = next {
        return outcome(status, code, issue, "");
    }
    match play.notes.script() {
        Script::Take if bundle["type"] == "transaction" => {
            let answer = json!({"resourceType": "Bundle", "type": "transaction-response",
                "entry": [{"response": {"status": "201", "location": "Task/t-1/_history/1"}}]});
            answer.to_string().into_response()
        }
        Script::Take => {
            let mut answer = bundle.clone();
            for entry in answer["entry"].as_array_mut().unwrap() {
                if entry["resource"]["resourceType"] == "ServiceRequest" {
                    entry["resource"]["id"] = json!("236bb75d-90ef-461f-b71e-fde7f899802c");
                }
            }
            let ids =
                [header::REQUEST_ID, header::CORRELATION_ID].map(|h| (h, envelope[h].clone()));
            (ids, answer.to_string()).into_response()
        }
        Script::Duplicate => outcome(409, "REC_CONFLICT", "duplicate", ""),
        Script::Later => {
            let hint = [("retry-after", HINT.as_secs().to_string())];
            (
                hint,
                outcome(503, "REC_SERVICE_UNAVAILABLE", "transient", ""),
            )
                .into_response()
        }
        Script::Refuse => outcome(
            400,
            "REC_BAD_REQUEST",
            "value",
            &String::from_utf8_lossy(&body),
        ),
        Script::Silent => std::future::pending().await,
    }
}

async fn request(
    State(play): State<Arc<Play>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    assert!(
        headers.contains_key(header::TARGET),
        "a read is addressed too"
    );
    let status = *play.status.lock().unwrap();
    match status.split_once(' ') {
        Some(("404", "")) => return (StatusCode::NOT_FOUND, "<html>").into_response(),
        Some(("404", code)) => return outcome(404, code, "not-found", ""),
        _ => {}
    }
    json!({"resourceType": "ServiceRequest", "id": id, "status": status})
        .to_string()
        .into_response()
}

async fn tasks(State(play): State<Arc<Play>>, RawQuery(query): RawQuery) -> Response {
    play.searches
        .lock()
        .unwrap()
        .push(query.unwrap_or_default());
    let source = sample::source(Kind::New);
    let status = *play.status.lock().unwrap();
    let task = |wire: &str| {
        json!({"resource": {"resourceType": "Task", "id": "t-1", "status": status, "intent": "order",
        "meta": {"versionId": "7", "lastUpdated": "2026-03-05T10:30:00Z"},
        "identifier": [{"system": name::DELIVERY_ID, "value": wire}, {"system": name::REFERENCE, "value": source.reference.as_str()}]}})
    };
    let mut entries = vec![task(source.wire_id.as_str()), task("WMOTHER")];
    entries.retain(|_| status != NOTHING);
    json!({"resourceType": "Bundle", "type": "searchset", "entry": entries})
        .to_string()
        .into_response()
}

async fn token(State(play): State<Arc<Play>>, body: String) -> Response {
    let form: BTreeMap<String, String> = url::form_urlencoded::parse(body.as_bytes())
        .into_owned()
        .collect();
    play.assertions
        .lock()
        .unwrap()
        .push(form["client_assertion"].clone());
    if let Some(status) = *play.no_tokens.lock().unwrap() {
        let why = json!({"error": "invalid_client"}).to_string();
        return (status, [("retry-after", "7")], why).into_response();
    }
    let nth = play.tokens.fetch_add(1, Ordering::Relaxed) + 1;
    *play.token.lock().unwrap() = Some(format!("token-{nth}"));
    json!({"access_token": format!("token-{nth}"), "token_type": "Bearer", "expires_in": "600"})
        .to_string()
        .into_response()
}

struct Far {
    play: Arc<Play>,
    mode: &'static str,
    address: SocketAddr,
    nobody: SocketAddr,
    _server: JoinSet<()>,
}

impl Far {
    async fn start(pki: &Pki, mode: &'static str) -> Self {
        let (listener, address) = far_side::listener().await;
        let play = Arc::new(Play {
            notes: Notes::new(),
            answers: Mutex::default(),
            status: Mutex::new(if mode == "bars" {
                "active"
            } else {
                "requested"
            }),
            token: Mutex::default(),
            assertions: Mutex::default(),
            tokens: AtomicU32::new(0),
            no_tokens: Mutex::default(),
            searches: Mutex::default(),
            statement: Mutex::new(probing::statement()),
            date: Mutex::new(probing::DATE),
        });
        let router = Router::new()
            .route("/FHIR/R4", post(process))
            .route("/FHIR/R4/$process-message", post(process))
            .route("/FHIR/R4/metadata", get(probing::metadata))
            .route("/FHIR/R4/ServiceRequest/{id}", get(request))
            .route("/FHIR/R4/Task", get(tasks))
            .route("/token", post(token))
            .with_state(Arc::clone(&play));
        let listener = Secured {
            listener,
            acceptor: acceptor(pki),
        };
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let nobody = far_side::nobody().await;
        Self {
            play,
            mode,
            address,
            nobody,
            _server: server,
        }
    }

    fn at(&self, address: SocketAddr) -> Endpoint {
        let settings = format!(
            "url = \"https://{address}/FHIR/R4\"\nmode = \"{}\"\nauth = \"mtls\"\npeer_identity = \"{AGENCY}\"\n\
             private_network = true\ntarget = {{ value = \"2000011147\" }}\nsource = {{ value = \"2000099999\" }}",
            self.mode
        );
        far_side::endpoint(AdapterKind::Fhir, &settings)
    }
}

#[async_trait]
impl FarSide for Far {
    fn endpoint(&self) -> Endpoint {
        self.at(self.address)
    }
    fn impostor(&self) -> Option<Endpoint> {
        Some(far_side::with(&self.endpoint(), "peer_identity", Some(OTHER_SYSTEM.into())).0)
    }
    fn unreachable(&self) -> Endpoint {
        self.at(self.nobody)
    }
    fn wrong_settings(&self) -> Vec<(Endpoint, String)> {
        let good = self.endpoint();
        let with = |key: &str, value: Option<toml::Value>| far_side::with(&good, key, value);
        let mut wrong = vec![
            with("url", None),
            with("url", Some("http://127.0.0.1:1/in".into())),
            with("url", Some("https://u:p@127.0.0.1:1/in".into())),
            with("mode", Some("stu3".into())),
            with("mode", None),
            with("auth", Some("basic".into())),
            with("peer_identity", Some("not a uri".into())),
            with("tls_profile", Some("none".into())),
            with("use_case", Some("two words".into())),
            with("inline_bytes", Some(10_000_000.into())),
            with("poll_seconds", Some(0.into())),
            with("retries", Some(3.into())),
        ];
        if self.mode == "bars" {
            wrong.push(with("target", None));
            wrong.push(with("source", None));
        }
        let oauth = with("auth", Some("oauth2".into())).0;
        wrong.push((oauth, "settings.token".to_owned()));
        let public = with("private_network", None).0;
        wrong.push((public, "settings.url".to_owned()));
        wrong
    }
    fn hints(&self) -> bool {
        true
    }
    fn play(&self, script: Script) {
        self.play.notes.play(script);
    }
    fn received(&self) -> Vec<Received> {
        self.play.notes.received()
    }
}

/// Attempt number `attempt` of a message of a kind, which the receiver knows by an id.
async fn attempt(adapter: &dyn Adapter, endpoint: &Endpoint, kind: Kind, attempt: u32) -> Outcome {
    let mut source = sample::source(kind);
    source.receiver_reference = Some("236bb75d-90ef-461f-b71e-fde7f899802c".to_owned());
    let rendered = adapter.render(&source, endpoint).unwrap();
    let message = sample::outbound(&source, &rendered, endpoint, attempt);
    let within = Duration::from_secs(10);
    adapter.deliver(&message, Deadline { within }).await
}

#[tokio::test]
async fn the_adapter_keeps_the_contract_with_bars() {
    let pki = Pki::new();
    let far = Far::start(&pki, "bars").await;
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    assert_eq!(contract::broken(&*adapter, &far).await, []);
}

#[tokio::test]
async fn the_adapter_keeps_the_contract_with_a_plain_server() {
    let pki = Pki::new();
    let far = Far::start(&pki, "plain").await;
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    assert_eq!(contract::broken(&*adapter, &far).await, []);
}

#[tokio::test]
async fn a_message_goes_with_every_header_and_its_minted_id_is_kept() {
    let pki = Pki::new();
    let far = Far::start(&pki, "bars").await;
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    let outcome = attempt(&*adapter, &far.endpoint(), Kind::New, 1).await;
    let Outcome::Delivered {
        grade,
        receiver_reference,
        ..
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(grade, Evidence::ApplicationAck);
    assert_eq!(
        receiver_reference.as_deref(),
        Some("236bb75d-90ef-461f-b71e-fde7f899802c")
    );
    let headers = far.play.notes.envelope();
    let decoded = |header: &str| -> Value {
        serde_json::from_slice(&STANDARD.decode(&headers[header]).unwrap()).unwrap()
    };
    assert_eq!(
        decoded(header::TARGET),
        json!({"value": "2000011147", "system": DOS_SERVICE})
    );
    assert_eq!(
        decoded(header::ORGANISATION)["identifier"][0]["value"],
        "EE123456"
    );
    assert_eq!(decoded(header::SOFTWARE)["resourceType"], "Device");
    assert_eq!(headers["accept"], "application/fhir+json; version=1.4.0");
    assert_eq!(headers["content-type"], "application/fhir+json");
    assert_eq!(
        headers[header::USE_CONTEXT],
        "send-referral|referral|servicerequest-request|new"
    );
    assert_eq!(
        headers[header::CORRELATION_ID],
        sample::source(Kind::New).referral.to_string()
    );
    assert!(headers[header::REQUEST_ID].parse::<uuid::Uuid>().is_ok());
    assert!(headers.contains_key("traceparent"));
}

#[tokio::test]
async fn too_early_after_a_timeout_and_then_a_duplicate_send_the_same_bytes_and_ids() {
    let pki = Pki::new();
    let far = Far::start(&pki, "bars").await;
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    *far.play.answers.lock().unwrap() = [
        (408, "REC_TIMEOUT", "timeout"),
        (425, "REC_TOO_EARLY", "transient"),
        (409, "REC_CONFLICT", "duplicate"),
    ]
    .into();
    let mut words = Vec::new();
    let mut ids = Vec::new();
    for nth in 1..=3 {
        words.push(
            attempt(&*adapter, &far.endpoint(), Kind::New, nth)
                .await
                .word(),
        );
        let headers = far.play.notes.envelope();
        ids.push([
            headers[header::REQUEST_ID].clone(),
            headers[header::CORRELATION_ID].clone(),
        ]);
    }
    assert_eq!(words, ["unknown", "retry", "duplicate"]);
    let received = far.received();
    assert!(
        received
            .windows(2)
            .all(|pair| pair[0].bytes == pair[1].bytes)
    );
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn an_answer_that_echoes_no_ids_proves_nothing() {
    let pki = Pki::new();
    let far = Far::start(&pki, "plain").await;
    // A plain server's answer to a message: 200, and no ids.
    let endpoint = far_side::with(&far.endpoint(), "mode", Some("bars".into())).0;
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    *far.play.answers.lock().unwrap() = [(200, "OK", "informational")].into();
    assert_eq!(
        attempt(&*adapter, &endpoint, Kind::New, 1).await.word(),
        "unknown"
    );
}

/// An intake that notes what it takes.
#[derive(Default)]
struct Door(Mutex<Vec<Inbound>>);

#[async_trait]
impl Intake for Door {
    async fn take(&self, message: Inbound) -> Result<IntakeAnswer, IntakeError> {
        self.0.lock().unwrap().push(message);
        let referral = ReferralId::from_bytes([9; 16]);
        Ok(IntakeAnswer {
            referral,
            reference: Reference::of(referral),
            repeated: false,
            state: None,
        })
    }
}

#[tokio::test]
async fn tasks_are_asked_for_by_what_was_sent_and_nothing_else_is_taken() {
    let pki = Pki::new();
    let far = Far::start(&pki, "plain").await;
    *far.play.status.lock().unwrap() = "rejected";
    let adapter = pki.adapters().adapter(AdapterKind::Fhir);
    let endpoint = far.endpoint();
    assert_eq!(
        adapter.collect_every(&endpoint),
        Some(Duration::from_mins(1))
    );
    let bars = far_side::with(&endpoint, "mode", Some("bars".into())).0;
    assert_eq!(
        adapter.collect_every(&bars),
        None,
        "BaRS brings its responses itself"
    );
    let source = sample::source(Kind::New);
    let sent = [Sent {
        delivery: source.delivery,
        wire_id: source.wire_id.clone(),
        kind: Kind::New,
        recipient: sample::recipient(),
        reference: source.reference.clone(),
        receiver_reference: None,
        evidence: Evidence::ApplicationAck,
        queued: source.at,
    }];
    let door = Door::default();
    let deadline = Deadline {
        within: Duration::from_secs(10),
    };
    let collected = adapter.collect(&endpoint, &sent, &door, deadline).await;
    assert_eq!(
        (collected.taken, collected.refused, collected.stopped),
        (1, 1, None)
    );
    let taken = door.0.into_inner().unwrap().remove(0);
    let InboundBody::Status(status) = taken.body else {
        panic!("not a status")
    };
    assert_eq!(
        (status.state, taken.message_key.as_str()),
        (LegState::Declined, "Task/t-1/7")
    );
    let query = far.play.searches.lock().unwrap().join("");
    let plain: Vec<String> = url::form_urlencoded::parse(query.as_bytes())
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(
        plain,
        [
            format!("identifier={}|{}", name::DELIVERY_ID, source.wire_id),
            "_count=20".to_owned()
        ]
    );
}
