//! The adapter against a hub that is stricter than the sandbox.

use std::io::Read as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use serde_json::json;
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::directory::AdapterKind;
use waymark_core::error::ErrorKind;
use waymark_core::id::{AgencyId, Reference, ReferralId};
use waymark_core::leg::LegState;
use waymark_core::port::{Channel, Inbound, InboundBody, IntakeAnswer, IntakeError};
use waymark_core::time::Timestamp;
use zeroize::Zeroizing;

use super::*;
use crate::contract::{self, Answers, FarSide, HINT, Received, Script, sample};
use crate::far_side::{self, NOW, Pki};
use crate::stand_in::mesh::{Fault, Hub, OURS, PASSWORD, SHARED_KEY, STRANGE, THEIRS, WORKFLOW};

mod answering;
mod collecting;
mod sending;

const PATIENCE: Deadline = Deadline {
    within: Duration::from_secs(10),
};

/// A clock that is set by hand.
struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::Relaxed))
    }
}

struct Drawer;

impl Secrets for Drawer {
    fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        let secret = match name {
            "mesh-password" => PASSWORD,
            "mesh-key" => SHARED_KEY,
            _ => return None,
        };
        // As a file has it.
        Some(Zeroizing::new(format!("{secret}\n").into_bytes()))
    }
}

struct Book;

impl Peers for Book {
    fn agency_of(&self, identity: &str) -> Option<AgencyId> {
        (identity == identity_of(THEIRS)).then(sample::recipient)
    }
}

/// An adapter, its clock and the hub.
struct Ground {
    hub: Hub,
    clock: Arc<Hands>,
    context: AdapterContext,
    adapter: Arc<dyn Adapter>,
    intake: Desk,
}

impl Ground {
    async fn new() -> Self {
        let clock = Arc::new(Hands(AtomicI64::new(NOW.as_ms())));
        let mut context = Pki::new().context();
        context.secrets = Arc::new(Drawer);
        context.peers = Arc::new(Book);
        context.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let adapters = crate::Adapters::new(&context).unwrap();
        let hub = Hub::open(Arc::new(Hands(AtomicI64::new(NOW.as_ms()))));
        Self {
            hub: hub.await.unwrap(),
            clock,
            adapter: adapters.adapter(AdapterKind::Mesh),
            context,
            intake: Desk::default(),
        }
    }

    fn endpoint(&self, more: &str) -> Endpoint {
        endpoint(self.hub.port(), more)
    }

    async fn collect(&self, endpoint: &Endpoint) -> Collected {
        self.collect_with(endpoint, &[]).await
    }

    async fn collect_with(&self, endpoint: &Endpoint, sent: &[Sent]) -> Collected {
        self.adapter
            .collect(endpoint, sent, &self.intake, PATIENCE)
            .await
    }

    /// Time goes by, for us and not for the hub.
    fn later(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap();
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    fn taken(&self) -> Vec<Inbound> {
        self.intake.taken.lock().unwrap().clone()
    }

    fn asked(&self, what: &str) -> usize {
        let requests = self.hub.requests();
        requests.iter().filter(|r| r.as_str() == what).count()
    }
}

fn endpoint(port: u16, more: &str) -> Endpoint {
    let settings = format!(
        "url = \"http://127.0.0.1:{port}\"\nplain = true\nmailbox = \"{OURS}\"\nto = \"{THEIRS}\"\n\
         password = \"secret:mesh-password\"\nshared_key = \"secret:mesh-key\"\nworkflow = \"{WORKFLOW}\"\n{more}"
    );
    let mut endpoint = far_side::endpoint(AdapterKind::Mesh, &settings);
    endpoint.releases_at = Evidence::TransportAck;
    endpoint
}

/// An intake that takes what comes, unless it was told to refuse it.
#[derive(Default)]
struct Desk {
    taken: Mutex<Vec<Inbound>>,
    refuse: Mutex<Option<ErrorKind>>,
}

#[async_trait]
impl Intake for Desk {
    async fn take(&self, message: Inbound) -> Result<IntakeAnswer, IntakeError> {
        if let Some(kind) = *self.refuse.lock().unwrap() {
            return Err(IntakeError {
                kind,
                violations: Vec::new(),
                reason: "TOLD_SO",
            });
        }
        self.taken.lock().unwrap().push(message);
        let referral = ReferralId::from_bytes([1; 16]);
        Ok(IntakeAnswer {
            referral,
            reference: Reference::of(referral),
            repeated: false,
            state: None,
        })
    }
}

/// The hub as the contract sees it.
struct Far<'a>(&'a Hub);

#[async_trait]
impl FarSide for Far<'_> {
    fn endpoint(&self) -> Endpoint {
        endpoint(self.0.port(), "ods = \"R1L\"")
    }

    fn impostor(&self) -> Option<Endpoint> {
        let to = Some(toml::Value::from(STRANGE));
        Some(far_side::with(&self.endpoint(), "to", to).0)
    }

    fn unreachable(&self) -> Endpoint {
        endpoint(1, "")
    }

    fn wrong_settings(&self) -> Vec<(Endpoint, String)> {
        let own = self.endpoint();
        let mut sent_is_enough = own.clone();
        sent_is_enough.releases_at = Evidence::Sent;
        let wrong: Vec<(&str, Option<toml::Value>)> = vec![
            ("url", Some("nowhere".into())),
            ("url", Some("https://127.0.0.1/".into())),
            ("mailbox", Some("x26abc1".into())),
            ("mailbox", None),
            ("to", Some("X26/ABC2".into())),
            ("to", Some(OURS.into())),
            ("workflow", Some("SEND REFERRAL".into())),
            ("accepts", Some(Vec::<String>::new().into())),
            ("accepts", Some(vec!["SEND_REFERRAL_ACK"].into())),
            ("password", Some("open".into())),
            ("shared_key", None),
            ("tls_profile", Some("none".into())),
            ("ods", Some("R 1L".into())),
            ("payload", Some("xml".into())),
            ("poll_seconds", Some(0.into())),
            ("left_after_seconds", Some(0.into())),
            ("chunk_bytes", Some(1.into())),
            ("colour", Some("red".into())),
        ];
        let mut all: Vec<(Endpoint, String)> = wrong
            .into_iter()
            .map(|(key, value)| far_side::with(&own, key, value))
            .collect();
        let payload = |payload: &str| far_side::with(&own, "payload", Some(payload.into())).0;
        all.push((payload("hl7v2"), "settings.hl7v2".to_owned()));
        all.push((payload("fhir"), "settings.fhir".to_owned()));
        let table: toml::Table = "host = \"elsewhere\"".parse().unwrap();
        let hosted = far_side::with(&own, "hl7v2", Some(table.into())).0;
        all.push((hosted, "settings.hl7v2.host".to_owned()));
        let table: toml::Table = "url = \"https://elsewhere/\"".parse().unwrap();
        let served = far_side::with(&own, "fhir", Some(table.into())).0;
        all.push((served, "settings.fhir.url".to_owned()));
        all.push((sent_is_enough, "releases_at".to_owned()));
        let mut hasty = far_side::with(&own, "url", Some("https://msg.example/".into())).0;
        hasty.settings.remove("plain");
        all.push((hasty, "retry.first".to_owned()));
        all
    }

    fn hints(&self) -> bool {
        true
    }

    fn answers(&self) -> Answers {
        Answers::Relayed
    }

    fn play(&self, script: Script) {
        self.0.always(match script {
            Script::Take | Script::Duplicate => None,
            Script::Later => Some(Fault::Later(HINT.as_secs())),
            Script::Refuse => Some(Fault::Refuse("06")),
            Script::Silent => Some(Fault::Silent),
        });
    }

    fn received(&self) -> Vec<Received> {
        let held = self.0.held().into_iter();
        held.map(|held| Received {
            wire_id: held.headers["mex-localid"].clone(),
            bytes: held.chunks.into_iter().flatten().flatten().collect(),
        })
        .collect()
    }
}

#[tokio::test]
async fn the_adapter_keeps_the_contract_and_the_strict_hub_turns_nothing_away() {
    let ground = Ground::new().await;
    let broken = contract::broken(&*ground.adapter, &Far(&ground.hub)).await;
    assert_eq!(broken, []);
    assert_eq!(ground.hub.refused(), Vec::<String>::new());
}

#[tokio::test]
async fn whatever_the_payload_the_contract_of_rendering_holds() {
    let ground = Ground::new().await;
    let hl7 = "payload = \"hl7v2\"\n[hl7v2]\nversion = \"2.5\"\nack_mode = \"original\"\nsending_app = \"WAYMARK\"\n\
        sending_facility = \"GW\"\nreceiving_app = \"EPR\"\nreceiving_facility = \"R1L\"";
    let fhir = "payload = \"fhir\"\n[fhir]\ntarget = { value = \"2000011147\" }\nsource = { value = \"2000099999\" }";
    for payload in ["", hl7, fhir] {
        let endpoint = ground.endpoint(payload);
        assert_eq!(ground.adapter.validate(&endpoint), [], "{payload}");
        let broken = contract::rendering(&*ground.adapter, &endpoint);
        assert_eq!(broken, [], "{payload}");
    }
}

#[tokio::test]
async fn a_probe_validates_the_mailbox_and_compares_the_endpoint_lookup() {
    let ground = Ground::new().await;
    let last = async |endpoint: &Endpoint| {
        let probe = ground.adapter.probe(endpoint, PATIENCE).await;
        let stage = probe.stages.last().cloned().unwrap();
        (stage.passed, stage.detail)
    };
    let (passed, detail) = last(&ground.endpoint("")).await;
    assert_eq!((passed, &*detail), (Some(true), "validated"));
    let (passed, detail) = last(&ground.endpoint("ods = \"R1L\"")).await;
    assert_eq!(passed, Some(true));
    assert!(
        detail.contains("the endpoint lookup names X26ABC2"),
        "{detail}"
    );
    let (passed, detail) = last(&ground.endpoint("ods = \"R1Z\"")).await;
    assert_eq!(passed, Some(false));
    assert!(detail.contains("X26ABC2 is none of them"), "{detail}");
    ground.hub.password("another");
    let (passed, detail) = last(&ground.endpoint("")).await;
    assert_eq!(passed, Some(false));
    assert!(detail.contains("not validated"), "{detail}");
    assert_eq!(ground.hub.held().len(), 0);
}
