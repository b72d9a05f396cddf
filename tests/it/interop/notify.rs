//! The Notify adapter against a stand-in that GOV.UK Notify's own client takes for Notify.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use serde_json::{Value, json};
use waymark::cli::Authority;
use waymark::clock::SystemClock;
use waymark_adapters::contract::{self, Answers, FarSide, HINT, Received, Script, sample};
use waymark_adapters::{AdapterContext, Adapters, EgressPolicy, Peers, Secrets};
use waymark_core::delivery::{Evidence, Kind, Outcome};
use waymark_core::directory::{AdapterKind, Endpoint, Environment};
use waymark_core::id::AgencyId;
use waymark_core::port::{Adapter, Deadline};
use waymark_core::time::{Clock, Timestamp};
use waymark_tests::actors::{Answer, Notify};
use waymark_tests::peer::run;
use zeroize::Zeroizing;

const CLIENT: &str = "notify_client.py";
const SMS: &str = "e5d3b4a1-7a4b-4c8e-9d0e-2f6c1b0a9d8c";
const LETTER: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e8f7a6b5c4d";

/// The one secret there is.
struct Key(String);

impl Secrets for Key {
    fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        (name == "key").then(|| Zeroizing::new(self.0.clone().into_bytes()))
    }
}

struct Nobody;

impl Peers for Nobody {
    fn agency_of(&self, _identity: &str) -> Option<AgencyId> {
        None
    }
}

/// Our clock, some seconds off.
struct Off(i64);

impl Clock for Off {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(SystemClock.now().as_ms() + self.0 * 1_000)
    }
}

fn adapter() -> anyhow::Result<Arc<dyn Adapter>> {
    adapter_with(Notify::key(), 0)
}

/// The adapter with a key, and a clock that is some seconds off.
fn adapter_with(key: String, seconds: i64) -> anyhow::Result<Arc<dyn Adapter>> {
    let _chosen: Result<(), _> = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Plain HTTP needs none of its words, and the profile must be there all the same.
    let authority = Authority::generate("notify", SystemClock.now().london_date())?;
    let profile = waymark_adapters::TlsProfile {
        roots_pem: authority.cert_pem().as_bytes().to_vec(),
        chain_pem: Vec::new(),
        key_pem: Zeroizing::new(Vec::new()),
    };
    let adapters = Adapters::new(&AdapterContext {
        profiles: BTreeMap::from([(waymark_adapters::DEFAULT_PROFILE.to_owned(), profile)]),
        secrets: Arc::new(Key(key)),
        peers: Arc::new(Nobody),
        environment: Environment::Test,
        egress: EgressPolicy::AsFlagged,
        clock: Arc::new(Off(seconds)),
        intake: None,
        files_root: None,
    })?;
    Ok(adapters.adapter(AdapterKind::Notify))
}

fn endpoint(url: &str, more: &str) -> Endpoint {
    let settings = format!("url = \"{url}\"\nplain = true\napi_key = \"secret:key\"\n{more}");
    Endpoint {
        adapter: AdapterKind::Notify,
        settings: settings.parse().expect("settings are TOML"),
        releases_at: Evidence::TransportAck,
        ..sample::endpoint()
    }
}

struct Far(Notify);

impl Far {
    async fn start() -> anyhow::Result<Self> {
        let notify = Notify::start(Arc::new(SystemClock)).await?;
        let family = sample::family();
        let fields: Vec<&str> = family.fields.keys().copied().collect();
        notify.template(&family.remote, "email", &fields);
        notify.template(SMS, "sms", &["service"]);
        notify.template(LETTER, "letter", &[]);
        Ok(Self(notify))
    }
}

#[async_trait]
impl FarSide for Far {
    fn endpoint(&self) -> Endpoint {
        endpoint(&self.0.url(), "")
    }
    fn impostor(&self) -> Option<Endpoint> {
        // Over plain HTTP there is nothing to tell peers apart by; over HTTPS the name is.
        None
    }
    fn unreachable(&self) -> Endpoint {
        endpoint("http://127.0.0.1:1", "")
    }
    fn wrong_settings(&self) -> Vec<(Endpoint, String)> {
        let url = self.0.url();
        let wrong =
            |more: &str, setting: &str| (endpoint(&url, more), format!("settings.{setting}"));
        let mut all = vec![
            wrong(
                "callback_tokens = [\"secret:a\", \"secret:b\", \"secret:c\"]",
                "callback_tokens",
            ),
            wrong("callback_tokens = [\"a token\"]", "callback_tokens"),
            wrong("poll_seconds = 0", "poll_seconds"),
            wrong("give_up_hours = 169", "give_up_hours"),
            wrong("email_reply_to_id = \"us\"", "email_reply_to_id"),
            wrong("sms_sender_id = \"us\"", "sms_sender_id"),
            wrong("tls_profile = \"none\"", "tls_profile"),
            wrong("retries = 3", "retries"),
            (
                endpoint(&format!("{url}/?a=b"), ""),
                "settings.url".to_owned(),
            ),
            (endpoint("http://8.8.8.8/", ""), "settings.url".to_owned()),
        ];
        let grade = Endpoint {
            releases_at: Evidence::ApplicationAck,
            ..self.endpoint()
        };
        all.push((grade, "releases_at".to_owned()));
        for (key, path) in [("url", "settings.url"), ("api_key", "settings.api_key")] {
            let mut missing = self.endpoint();
            missing.settings.remove(key);
            all.push((missing, path.to_owned()));
        }
        all
    }
    fn hints(&self) -> bool {
        true
    }
    fn answers(&self) -> Answers {
        Answers::Later
    }
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Guidance]
    }
    fn play(&self, script: Script) {
        self.0.always(match script {
            Script::Take | Script::Duplicate => None,
            Script::Later => Some(Answer::RateLimit(Some(HINT.as_secs()))),
            Script::Refuse => Some(Answer::Refused("BadRequestError")),
            Script::Silent => Some(Answer::Silent),
        });
    }
    fn received(&self) -> Vec<Received> {
        let messages = self.0.messages().into_iter();
        let received = messages.map(|message| Received {
            wire_id: message.reference,
            bytes: message.bytes,
        });
        received.collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_adapter_keeps_its_contract_with_notify() -> anyhow::Result<()> {
    let far = Far::start().await?;
    assert_eq!(contract::broken(&*adapter()?, &far).await, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_tells_a_wrong_key_from_a_wrong_clock() -> anyhow::Result<()> {
    let far = Far::start().await?;
    let other = Notify::key().replace(Notify::secret(), "00000000-0000-4000-8000-000000000000");
    let unknown = format!("a-test-key-{SMS}-{}", Notify::secret());
    for (key, seconds, said) in [
        (Notify::key(), 0, None),
        (Notify::key(), 20, None),
        (Notify::key(), 40, Some("s apart")),
        (Notify::key(), -40, Some("s apart")),
        (other, 0, Some("its secret is not one of the service")),
        (unknown, 0, Some("does not know the service")),
        ("no key".to_owned(), 0, Some("missing or no API key")),
    ] {
        let adapter = adapter_with(key, seconds)?;
        let within = Duration::from_secs(10);
        let probe = adapter.probe(&far.endpoint(), Deadline { within }).await;
        let last = probe.stages.last().context("stages")?;
        assert_eq!(last.passed, Some(said.is_none()), "{last:?}");
        assert!(last.detail.contains(said.unwrap_or_default()), "{last:?}");
    }
    assert!(far.received().is_empty(), "nobody notices");
    Ok(())
}

async fn said(args: &[&str]) -> anyhow::Result<Value> {
    let said = run(CLIENT, args).await?;
    anyhow::ensure!(said.ok, "{}{}", said.out, said.errors);
    said.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notify_s_own_client_takes_the_stand_in_for_notify() -> anyhow::Result<()> {
    let far = Far::start().await?;
    let (url, key) = (far.0.url(), Notify::key());
    let email = "1a2b3c4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d";
    far.0.template(email, "email", &["service"]);
    let seen = said(&["send", &url, &key, email, SMS, LETTER]).await?;
    assert_eq!(
        seen["refused"],
        json!({
            "key": [403, "AuthError"], "address": [400, "ValidationError"], "number": [400, "ValidationError"],
            "template": [400, "BadRequestError"], "kind": [400, "BadRequestError"],
            "field": [400, "BadRequestError"], "home": [400, "ValidationError"], "id": [404, "NoResultFound"],
        })
    );
    assert_eq!(seen["template"]["type"], "email");
    let messages = far.0.messages();
    for (message, way) in messages.iter().zip(["email", "sms", "letter"]) {
        assert_eq!(
            (message.way.as_str(), &seen[way]["id"]),
            (way, &json!(message.id))
        );
        let got = said(&["get", &url, &key, &message.id]).await?;
        assert_eq!(
            (&got["reference"], &got["status"]),
            (&json!(message.reference), &json!("created"))
        );
    }
    assert_eq!(messages.len(), 3, "what is refused is not kept");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notify_s_own_client_finds_what_the_adapter_sent_and_takes_its_token() -> anyhow::Result<()>
{
    let far = Far::start().await?;
    let (adapter, endpoint) = (adapter()?, far.endpoint());
    let source = sample::source(Kind::Guidance);
    let rendered = adapter.render(&source, &endpoint)?;
    let message = sample::outbound(&source, &rendered, &endpoint, 1);
    let within = Duration::from_secs(10);
    let outcome = adapter.deliver(&message, Deadline { within }).await;
    let Outcome::Delivered {
        receiver_reference, ..
    } = outcome
    else {
        anyhow::bail!("{outcome:?}")
    };
    let token = said(&["token", &far.0.last_token(), Notify::secret()]).await?;
    assert_eq!(token["valid"], true);
    let (url, key) = (far.0.url(), Notify::key());
    let found = said(&["all", &url, &key, source.wire_id.as_str()]).await?;
    assert_eq!(
        found,
        json!([receiver_reference.context("the provider's id")?])
    );
    // More than one page is walked as Notify's is.
    for _ in 0..255 {
        adapter.deliver(&message, Deadline { within }).await;
    }
    let all = said(&["all", &url, &key]).await?;
    assert_eq!(all.as_array().map(Vec::len), Some(256));
    Ok(())
}
