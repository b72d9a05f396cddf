//! The adapter against a real server over mutual TLS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};
use waymark_core::delivery::{Evidence, Kind, ParkReason};
use waymark_core::directory::AdapterKind;
use waymark_proto::v1::agency_service_server::{AgencyService, AgencyServiceServer};

use super::receipt::signed_bytes;
use super::*;
use crate::contract::{self, FarSide, HINT, Received, Script, sample};
use crate::far_side::{self, AGENCY, Book, GATEWAY, NOW, Notes, OTHER_SYSTEM, Pki};

/// An agency that does as it is told.
struct Agency {
    notes: Arc<Notes>,
    signs_with: Option<Ed25519KeyPair>,
}

impl Agency {
    fn receipt(&self, request: &v1::DeliverRequest) -> v1::AgencyReceipt {
        let mut receipt = v1::AgencyReceipt {
            received_at: Some(convert::timestamp_to_proto(NOW)),
            receiver_reference: "R1L/88".to_owned(),
            ..v1::AgencyReceipt::default()
        };
        if let Some(pair) = &self.signs_with {
            let wire_id = request.wire_id.parse().unwrap();
            let of = Receipted {
                delivery: request.delivery_id.parse().unwrap(),
                wire_id: &wire_id,
                body: &request.body,
            };
            receipt.signature = pair
                .sign(&signed_bytes(&of, &receipt).unwrap())
                .as_ref()
                .to_vec();
            receipt.key_id = "2026".to_owned();
        }
        receipt
    }
}

fn later() -> Status {
    let delay = pbjson_types::Duration {
        seconds: i64::try_from(HINT.as_secs()).unwrap(),
        nanos: 0,
    };
    let info = wire::RetryInfo {
        retry_delay: Some(delay),
    };
    let detail = pbjson_types::Any {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
        value: info.encode_to_vec().into(),
    };
    let rich = v1::Status {
        code: 8,
        message: String::new(),
        details: vec![detail],
    };
    Status::with_details(Code::ResourceExhausted, "", rich.encode_to_vec().into())
}

#[tonic::async_trait]
impl AgencyService for Agency {
    async fn deliver(
        &self,
        request: Request<v1::DeliverRequest>,
    ) -> Result<Response<v1::DeliverResponse>, Status> {
        let mut envelope = BTreeMap::new();
        for key in ["traceparent", ENVIRONMENT_KEY, "grpc-timeout"] {
            if let Some(value) = request.metadata().get(key) {
                envelope.insert(key.to_owned(), value.to_str().unwrap().to_owned());
            }
        }
        let request = request.into_inner();
        assert_eq!(request.body_sha256, digest(&SHA256, &request.body).as_ref());
        envelope.insert("attempt".to_owned(), request.attempt.to_string());
        self.notes.note(&request.wire_id, &request.body, envelope);
        match self.notes.script() {
            Script::Take => {
                let receipt = Some(self.receipt(&request));
                Ok(Response::new(v1::DeliverResponse { receipt }))
            }
            Script::Duplicate => Err(Status::already_exists("")),
            Script::Later => Err(later()),
            Script::Refuse => Err(Status::invalid_argument(sample::PERSONAL_WORDS.join(" "))),
            Script::Silent => std::future::pending().await,
        }
    }
}

struct Far {
    notes: Arc<Notes>,
    address: SocketAddr,
    nobody: SocketAddr,
    server: Mutex<JoinSet<()>>,
    end: CancellationToken,
}

impl Far {
    async fn start(pki: &Pki, identity: &str, signs_with: Option<Ed25519KeyPair>) -> Self {
        let (listener, address) = far_side::listener().await;
        let notes = Notes::new();
        let agency = Agency {
            notes: Arc::clone(&notes),
            signs_with,
        };
        let issued = pki.issue(identity);
        let end = CancellationToken::new();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(issued.chain, issued.key))
            .client_ca_root(Certificate::from_pem(pki.root()));
        let serve = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(AgencyServiceServer::new(agency))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener),
                end.clone().cancelled_owned(),
            );
        let mut server = JoinSet::new();
        server.spawn(async move { serve.await.unwrap() });
        let nobody = far_side::nobody().await;
        Self {
            notes,
            address,
            nobody,
            server: Mutex::new(server),
            end,
        }
    }

    /// Ends the server and every connection to it.
    async fn stop(&self) {
        self.end.cancel();
        let server = std::mem::take(&mut *self.server.lock().unwrap());
        server.join_all().await;
    }

    fn at(address: SocketAddr) -> Endpoint {
        let settings = format!(
            "url = \"https://{address}\"\npeer_identity = \"{AGENCY}\"\nprivate_network = true"
        );
        far_side::endpoint(AdapterKind::Grpc, &settings)
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
        let key = |text: &str| {
            let key = toml::Table::from_iter([
                ("id".to_owned(), toml::Value::from("k")),
                ("ed25519".to_owned(), toml::Value::from(text)),
            ]);
            toml::Value::from(vec![toml::Value::Table(key)])
        };
        let mut wrong = vec![
            far_side::with(&good, "url", None),
            far_side::with(&good, "url", Some("http://127.0.0.1:1".into())),
            far_side::with(&good, "url", Some("https://127.0.0.1:1/path".into())),
            far_side::with(&good, "peer_identity", None),
            far_side::with(&good, "peer_identity", Some("R1L".into())),
            far_side::with(&good, "tls_profile", Some("none".into())),
            far_side::with(&good, "urll", Some("x".into())),
        ];
        let short = far_side::with(&good, "receipt_keys", Some(key("c2hvcnQ="))).0;
        wrong.push((short, "settings.receipt_keys.ed25519".to_owned()));
        // An address of this machine without the flag that allows it.
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
    let message = sample::outbound(&source, &rendered, endpoint, 2);
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
    let far = Far::start(&pki, AGENCY, None).await;
    let adapter = pki.adapters().adapter(AdapterKind::Grpc);
    assert_eq!(contract::broken(&*adapter, &far).await, []);
}

#[tokio::test]
async fn a_receipt_signed_with_a_listed_key_is_a_signed_receipt() {
    let pki = Pki::new();
    let pair = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap();
    let public = STANDARD.encode(pair.public_key().as_ref());
    let far = Far::start(&pki, AGENCY, Some(pair)).await;
    let adapter = pki.adapters().adapter(AdapterKind::Grpc);
    let unlisted = deliver(&*adapter, &far.endpoint()).await;
    assert!(
        matches!(
            &unlisted,
            Outcome::Delivered {
                grade: Evidence::ApplicationAck,
                ..
            }
        ),
        "{unlisted:?}"
    );
    let keys: toml::Table = format!("receipt_keys = [{{ id = \"2026\", ed25519 = \"{public}\" }}]")
        .parse()
        .unwrap();
    let mut endpoint = far.endpoint();
    endpoint.settings.extend(keys);
    assert_eq!(adapter.validate(&endpoint), []);
    match deliver(&*adapter, &endpoint).await {
        Outcome::Delivered {
            grade,
            receiver_reference,
            receipt,
            ..
        } => {
            assert_eq!(grade, Evidence::SignedReceipt);
            assert_eq!(receiver_reference.as_deref(), Some("R1L/88"));
            let kept = v1::AgencyReceipt::decode(receipt.unwrap().expose()).unwrap();
            assert_eq!(kept.key_id, "2026");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_envelope_says_where_from_which_attempt_and_how_long() {
    let pki = Pki::new();
    let far = Far::start(&pki, AGENCY, None).await;
    let adapter = pki.adapters().adapter(AdapterKind::Grpc);
    deliver(&*adapter, &far.endpoint()).await;
    let envelope = far.notes.envelope();
    assert_eq!(
        envelope.get("traceparent").map(String::as_str),
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    );
    assert_eq!(
        envelope.get(ENVIRONMENT_KEY).map(String::as_str),
        Some("test")
    );
    assert_eq!(envelope.get("attempt").map(String::as_str), Some("2"));
    assert!(envelope.contains_key("grpc-timeout"));
}

#[tokio::test]
async fn a_server_that_went_away_is_a_retry_on_a_kept_channel_too() {
    let pki = Pki::new();
    let far = Far::start(&pki, AGENCY, None).await;
    let adapter = pki.adapters().adapter(AdapterKind::Grpc);
    let first = deliver(&*adapter, &far.endpoint()).await;
    assert!(matches!(first, Outcome::Delivered { .. }), "{first:?}");
    far.stop().await;
    let gone = deliver(&*adapter, &far.endpoint()).await;
    assert!(matches!(gone, Outcome::Retry { .. }), "{gone:?}");
    assert_eq!(far.received().len(), 1);
}

#[tokio::test]
async fn a_revoked_identity_gets_nothing_even_on_a_kept_channel() {
    let pki = Pki::new();
    let far = Far::start(&pki, AGENCY, None).await;
    let book = Arc::new(Book::default());
    let context = AdapterContext {
        peers: Arc::clone(&book) as Arc<dyn Peers>,
        ..pki.context()
    };
    let adapter = crate::Adapters::new(&context)
        .unwrap()
        .adapter(AdapterKind::Grpc);
    deliver(&*adapter, &far.endpoint()).await;
    book.revoke(AGENCY);
    let refused = deliver(&*adapter, &far.endpoint()).await;
    assert!(
        matches!(
            refused,
            Outcome::Park {
                reason: ParkReason::WrongRecipient,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(far.received().len(), 1);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_trusted_and_gets_nothing() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let far = Far::start(&stranger, AGENCY, None).await;
    let adapter = pki.adapters().adapter(AdapterKind::Grpc);
    match deliver(&*adapter, &far.endpoint()).await {
        Outcome::Retry { why, .. } => assert_eq!(why.code, "grpc.untrusted"),
        other => panic!("{other:?}"),
    }
    assert_eq!(far.received(), []);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_the_wrong_recipient() {
    let pki = Pki::new();
    let far = Far::start(&pki, AGENCY, None).await;
    let adapter = pki.adapters().adapter(AdapterKind::Grpc);
    let url = format!("https://[::ffff:7f00:1]:{}", far.address.port());
    let endpoint = far_side::with(&far.endpoint(), "url", Some(url.into())).0;
    let outcome = deliver(&*adapter, &endpoint).await;
    assert!(
        matches!(
            &outcome,
            Outcome::Park {
                reason: ParkReason::WrongRecipient,
                ..
            }
        ),
        "{outcome:?}"
    );
    assert_eq!(far.received(), []);
}

#[tokio::test]
async fn an_agency_that_does_not_know_our_certificate_read_nothing() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let far = Far::start(&pki, AGENCY, None).await;
    // A gateway that trusts the agency's authority and holds a certificate of another one.
    let mut context = pki.context();
    let own = stranger.issue(GATEWAY);
    let profile = context.profiles.get_mut(crate::DEFAULT_PROFILE).unwrap();
    profile.chain_pem = own.chain.into_bytes();
    profile.key_pem = own.key.into_bytes().into();
    let adapter = crate::Adapters::new(&context)
        .unwrap()
        .adapter(AdapterKind::Grpc);
    match deliver(&*adapter, &far.endpoint()).await {
        Outcome::Retry { why, .. } => assert_eq!(why.code, "grpc.refused_us"),
        // The connection may close under our writing before the alert is read.
        Outcome::Unknown { why } => assert_eq!(why.code, "grpc.unknown"),
        other => panic!("{other:?}"),
    }
    assert_eq!(far.received(), []);
}

#[test]
fn a_refusal_is_known_by_its_words_alone() {
    let seen = |text: &'static str| {
        Failure::in_chain(&std::io::Error::new(std::io::ErrorKind::InvalidData, text))
    };
    assert_eq!(
        seen("received fatal alert: UnknownCA"),
        Some(Failure::RefusedUs)
    );
    assert_eq!(
        seen("received fatal alert: CertificateRequired"),
        Some(Failure::RefusedUs)
    );
    assert_eq!(seen("received fatal alert: InternalError"), None);
    assert_eq!(seen("connection reset"), None);
    let typed = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
    let words = typed.to_string();
    assert_eq!(
        Failure::in_chain(&std::io::Error::other(typed)),
        Some(Failure::RefusedUs)
    );
    assert_eq!(
        Failure::in_chain(&std::io::Error::other(words)),
        Some(Failure::RefusedUs)
    );
}

#[tokio::test]
async fn a_probe_says_at_which_stage_it_fails() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let adapter = pki.adapters().adapter(AdapterKind::Grpc);
    let far = Far::start(&pki, AGENCY, None).await;
    let other = Far::start(&stranger, AGENCY, None).await;
    let nowhere = far_side::with(
        &far.endpoint(),
        "url",
        Some("https://nowhere.invalid".into()),
    )
    .0;
    for (endpoint, stage) in [
        (nowhere, "name"),
        (far.unreachable(), "tcp"),
        (other.endpoint(), "tls"),
        (far.impostor().unwrap(), "identity"),
    ] {
        let probe = adapter
            .probe(
                &endpoint,
                Deadline {
                    within: Duration::from_secs(10),
                },
            )
            .await;
        let failed: Vec<&str> = probe
            .stages
            .iter()
            .filter(|s| s.passed == Some(false))
            .map(|s| s.stage)
            .collect();
        assert_eq!(failed, [stage]);
    }
    let good = adapter
        .probe(
            &far.endpoint(),
            Deadline {
                within: Duration::from_secs(10),
            },
        )
        .await;
    assert!(
        good.stages.iter().all(|s| s.passed == Some(true)),
        "{good:?}"
    );
}

#[test]
fn a_profile_that_does_not_fit_together_is_refused_by_name() {
    let pki = Pki::new();
    let broken = |change: fn(&mut crate::TlsProfile, &Pki)| {
        let mut context = pki.context();
        change(
            context.profiles.get_mut(crate::DEFAULT_PROFILE).unwrap(),
            &pki,
        );
        crate::Adapters::new(&context).unwrap_err().to_string()
    };
    assert!(broken(|p, _| p.roots_pem.clear()).contains("default"));
    assert!(broken(|p, _| p.key_pem.clear()).contains("default"));
    let other_key = broken(|p, pki| p.key_pem = pki.issue(GATEWAY).key.into_bytes().into());
    assert!(other_key.contains("refused"), "{other_key}");
}
