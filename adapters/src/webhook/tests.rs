//! The adapter against a real HTTPS server.

use crate::egress::Reach;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use waymark_core::delivery::ParkReason;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use tokio::task::JoinSet;
use waymark_core::delivery::Kind;
use waymark_core::directory::AdapterKind;

use super::*;
use crate::contract::{self, FarSide, HINT, Received, Script, sample};
use crate::far_side::{
    self, AGENCY, Drawer, NOW, Notes, OTHER_SYSTEM, Pki, SECRETS, Secured, acceptor,
};
use crate::settings::Address;

async fn take(State(notes): State<Arc<Notes>>, headers: HeaderMap, body: Bytes) -> Response {
    let texts = headers
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_owned()));
    let envelope: BTreeMap<String, String> = texts.collect();
    let id = envelope.get(ID_HEADER).unwrap().clone();
    notes.note(&id, &body, envelope);
    match notes.script() {
        Script::Take => {
            format!("{{\"id\":\"{id}\",\"receiver_reference\":\"A/1\"}}").into_response()
        }
        Script::Duplicate => StatusCode::CONFLICT.into_response(),
        Script::Later => {
            let hint = HINT.as_secs().to_string();
            (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", hint)]).into_response()
        }
        Script::Refuse => (StatusCode::UNPROCESSABLE_ENTITY, body).into_response(),
        Script::Silent => std::future::pending().await,
    }
}

async fn elsewhere() -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [("location", "/in")]).into_response()
}

async fn endless() -> Response {
    vec![b'x'; ANSWER_BYTES_MAX + 1].into_response()
}

struct Far {
    notes: Arc<Notes>,
    address: SocketAddr,
    nobody: SocketAddr,
    _server: JoinSet<()>,
}

impl Far {
    async fn start(pki: Option<&Pki>) -> Self {
        let (listener, address) = far_side::listener().await;
        let notes = Notes::new();
        let router = Router::new()
            .route("/in", post(take))
            .route("/elsewhere", post(elsewhere))
            .route("/endless", post(endless))
            .with_state(Arc::clone(&notes));
        let mut server = JoinSet::new();
        match pki {
            Some(pki) => {
                let listener = Secured {
                    listener,
                    acceptor: acceptor(pki),
                };
                server.spawn(async move { axum::serve(listener, router).await.unwrap() });
            }
            None => {
                server.spawn(async move { axum::serve(listener, router).await.unwrap() });
            }
        }
        let nobody = far_side::nobody().await;
        Self {
            notes,
            address,
            nobody,
            _server: server,
        }
    }

    fn at(address: SocketAddr) -> Endpoint {
        let settings = format!(
            "url = \"https://{address}/in\"\npeer_identity = \"{AGENCY}\"\nprivate_network = true\n\
             signing_secrets = [\"secret:new\", \"secret:old\"]"
        );
        far_side::endpoint(AdapterKind::Webhook, &settings)
    }

    fn path(&self, path: &str) -> Endpoint {
        let url = format!("https://{}{path}", self.address);
        far_side::with(&self.endpoint(), "url", Some(url.into())).0
    }
}

#[async_trait]
impl FarSide for Far {
    fn endpoint(&self) -> Endpoint {
        Self::at(self.address)
    }
    fn impostor(&self) -> Option<Endpoint> {
        Some(far_side::with(&self.endpoint(), "peer_identity", Some(OTHER_SYSTEM.into())).0)
    }
    fn unreachable(&self) -> Endpoint {
        Self::at(self.nobody)
    }
    fn wrong_settings(&self) -> Vec<(Endpoint, String)> {
        let good = self.endpoint();
        let three = toml::Value::from(vec!["secret:a", "secret:b", "secret:c"]);
        let mut wrong = vec![
            far_side::with(&good, "url", None),
            far_side::with(&good, "url", Some("http://127.0.0.1:1/in".into())),
            far_side::with(&good, "url", Some("https://u:p@127.0.0.1:1/in".into())),
            far_side::with(&good, "peer_identity", Some("not a uri".into())),
            far_side::with(&good, "tls_profile", Some("none".into())),
            far_side::with(&good, "signing_secrets", None),
            far_side::with(
                &good,
                "signing_secrets",
                Some(toml::Value::Array(Vec::new())),
            ),
            far_side::with(&good, "signing_secrets", Some(three.clone())),
            far_side::with(&good, "signing_secrets", Some(vec!["whsec_abc"].into())),
            far_side::with(&good, "callback_secrets", Some(three)),
            far_side::with(&good, "inline_bytes", Some(10_485_761.into())),
            far_side::with(&good, "retries", Some(3.into())),
        ];
        let public = far_side::with(&good, "private_network", None).0;
        wrong.push((public, "settings.url".to_owned()));
        wrong
    }
    fn hints(&self) -> bool {
        true
    }
    fn play(&self, script: Script) {
        self.notes.play(script);
    }
    fn received(&self) -> Vec<Received> {
        self.notes.received()
    }
}

async fn deliver(adapter: &dyn Adapter, endpoint: &Endpoint) -> Outcome {
    let source = sample::source(Kind::New);
    let rendered = adapter.render(&source, endpoint).unwrap();
    let message = sample::outbound(&source, &rendered, endpoint, 1);
    adapter
        .deliver(
            &message,
            Deadline {
                within: Duration::from_secs(10),
            },
        )
        .await
}

#[tokio::test]
async fn the_adapter_keeps_the_contract() {
    let pki = Pki::new();
    let far = Far::start(Some(&pki)).await;
    let adapter = pki.adapters().adapter(AdapterKind::Webhook);
    assert_eq!(contract::broken(&*adapter, &far).await, []);
}

#[tokio::test]
async fn what_arrives_verifies_under_either_secret_and_carries_the_trace() {
    let pki = Pki::new();
    let far = Far::start(Some(&pki)).await;
    deliver(
        &*pki.adapters().adapter(AdapterKind::Webhook),
        &far.endpoint(),
    )
    .await;
    let got = far.received().pop().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in far.notes.envelope() {
        headers.insert(
            http::HeaderName::try_from(name).unwrap(),
            value.parse().unwrap(),
        );
    }
    for name in SECRETS {
        let secret = WebhookSecret::parse(&Drawer.secret(name).unwrap()).unwrap();
        assert_eq!(
            sign::check(&headers, &got.bytes, &[secret], NOW),
            Ok(got.wire_id.as_str())
        );
    }
    assert_eq!(headers.get("content-type").unwrap(), "application/json");
    assert_eq!(
        headers.get("traceparent").unwrap(),
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let pki = Pki::new();
    let far = Far::start(Some(&pki)).await;
    let adapter = pki.adapters().adapter(AdapterKind::Webhook);
    let outcome = deliver(&*adapter, &far.path("/elsewhere")).await;
    assert!(
        matches!(
            &outcome,
            Outcome::Park {
                reason: ParkReason::Refused,
                ..
            }
        ),
        "{outcome:?}"
    );
    assert_eq!(far.received(), []);
}

#[tokio::test]
async fn an_answer_longer_than_the_limit_is_no_more_than_the_transports() {
    let pki = Pki::new();
    let far = Far::start(Some(&pki)).await;
    let adapter = pki.adapters().adapter(AdapterKind::Webhook);
    match deliver(&*adapter, &far.path("/endless")).await {
        Outcome::Delivered { grade, receipt, .. } => {
            assert_eq!((grade, receipt), (Evidence::TransportAck, None));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_its_secret_nothing_is_sent_and_the_secret_is_named() {
    let pki = Pki::new();
    let far = Far::start(Some(&pki)).await;
    let adapter = pki.adapters().adapter(AdapterKind::Webhook);
    let missing = vec!["secret:new", "secret:gone"];
    let endpoint = far_side::with(&far.endpoint(), "signing_secrets", Some(missing.into())).0;
    match deliver(&*adapter, &endpoint).await {
        Outcome::Retry { why, .. } => {
            assert_eq!(why.code, "webhook.secret");
            assert!(why.text.contains("gone"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(far.received(), []);
}

#[tokio::test]
async fn a_certificate_of_another_authority_gets_nothing() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let far = Far::start(Some(&stranger)).await;
    let adapter = pki.adapters().adapter(AdapterKind::Webhook);
    match deliver(&*adapter, &far.endpoint()).await {
        Outcome::Retry { why, .. } => assert_eq!(why.code, "webhook.untrusted"),
        other => panic!("{other:?}"),
    }
    assert_eq!(far.received(), []);
}

#[tokio::test]
async fn a_name_that_leads_inward_is_not_connected_to() {
    let pki = Pki::new();
    let far = Far::start(Some(&pki)).await;
    let adapter = pki.adapters().webhook;
    // As if the name had passed for a public one: only what it resolves to shows where it leads.
    let mut settings = Settings::read(&far.endpoint(), EgressPolicy::AsFlagged).unwrap();
    let url = format!("https://localhost:{}/in", far.address.port());
    settings.address = Address {
        url: url.parse().unwrap(),
        reach: Reach::Public,
    };
    let (source, endpoint) = (sample::source(Kind::New), far.endpoint());
    let rendered = adapter.render(&source, &endpoint).unwrap();
    let message = sample::outbound(&source, &rendered, &endpoint, 1);
    let until = Instant::now() + Duration::from_secs(10);
    match adapter.attempt(&message, &settings, until).await {
        Outcome::Retry { why, .. } => assert_eq!(why.code, "webhook.egress"),
        other => panic!("{other:?}"),
    }
    assert_eq!(far.received(), []);
}

#[tokio::test]
async fn plain_http_reaches_this_machine_alone_and_proves_nothing() {
    let pki = Pki::new();
    let far = Far::start(None).await;
    let adapter = pki.adapters().adapter(AdapterKind::Webhook);
    let settings = format!(
        "url = \"http://{}/in\"\nplain = true\nsigning_secrets = [\"secret:new\"]",
        far.address
    );
    let endpoint = far_side::endpoint(AdapterKind::Webhook, &settings);
    assert_eq!(adapter.validate(&endpoint), []);
    assert_eq!(adapter.identification(&endpoint), Identification::Network);
    let outcome = deliver(&*adapter, &endpoint).await;
    assert!(
        matches!(
            outcome,
            Outcome::Delivered {
                grade: Evidence::ApplicationAck,
                ..
            }
        ),
        "{outcome:?}"
    );
    let strict = AdapterContext {
        egress: EgressPolicy::PublicOnly,
        ..pki.context()
    };
    let strict = crate::Adapters::new(&strict)
        .unwrap()
        .adapter(AdapterKind::Webhook);
    let faults = strict.validate(&endpoint);
    assert_eq!(
        faults.first().map(|f| f.field.as_str()),
        Some("settings.plain")
    );
    assert!(matches!(
        deliver(&*strict, &endpoint).await,
        Outcome::Park {
            reason: ParkReason::NoEndpoint,
            ..
        }
    ));
}

#[test]
fn callbacks_are_checked_with_the_endpoints_own_secrets() {
    let endpoint = |callback: &str| {
        let settings = format!(
            "url = \"https://agency.example/in\"\nsigning_secrets = [\"secret:new\"]\n{callback}"
        );
        far_side::endpoint(AdapterKind::Webhook, &settings)
    };
    let found = callback_secrets(&endpoint("callback_secrets = [\"secret:old\"]"), &Drawer);
    assert_eq!(found.unwrap().len(), 1);
    let missing = callback_secrets(&endpoint("callback_secrets = [\"secret:gone\"]"), &Drawer);
    assert_eq!(
        missing.unwrap_err(),
        CallbackSecretsError::Secret("gone".to_owned())
    );
    let none = callback_secrets(&endpoint(""), &Drawer).unwrap_err();
    assert_eq!(none, CallbackSecretsError::NotTaken("far-side".to_owned()));
}
