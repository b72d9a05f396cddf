//! Nothing of a child in logs, traces, metrics or the delivery log: the real process runs the whole job with names and
//! numbers that stand nowhere else, under the most talkative filter, and everything it says is searched for them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child as Process, Command};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use waymark::app::Duty;
use waymark_proto::v1;
use waymark_proto::v1::DeliveryState;
use waymark_tests::actors::{Hospital, MentalHealth, Play, Therapy, callback, send};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, RawCodec};

waymark_tests::both_engines! {
    nothing_of_a_child_is_in_what_the_process_says_or_keeps_in_clear,
}

/// How long the process may take to be ready, and to end.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(60);
/// The children of the flow; a number in the middle is only ever sent wrong.
const CHILDREN: std::ops::Range<u32> = 800..812;

type Kept = Arc<Mutex<Vec<Vec<u8>>>>;

/// An OTLP collector that keeps what is sent to one of its services.
#[derive(Clone)]
struct Collector<const METRICS: bool>(Kept);

impl<const METRICS: bool> NamedService for Collector<METRICS> {
    const NAME: &'static str = if METRICS {
        "opentelemetry.proto.collector.metrics.v1.MetricsService"
    } else {
        "opentelemetry.proto.collector.trace.v1.TraceService"
    };
}

struct Keep(Kept);

impl tonic::server::UnaryService<Vec<u8>> for Keep {
    type Response = Vec<u8>;
    type Future = std::future::Ready<Result<Response<Vec<u8>>, Status>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.into_inner());
        std::future::ready(Ok(Response::new(Vec::new())))
    }
}

impl<const METRICS: bool> tonic::codegen::Service<http::Request<tonic::body::Body>>
    for Collector<METRICS>
{
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let kept = Keep(Arc::clone(&self.0));
        Box::pin(async move {
            Ok(tonic::server::Grpc::new(RawCodec)
                .unary(kept, request)
                .await)
        })
    }
}

/// The real binary, which `tests/run` builds first.
fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own
        .parent()
        .and_then(|p| p.parent())
        .context("tests run beneath the target folder")?
        .join("waymark");
    if !beside.exists() {
        bail!(
            "{} is not built: run `cargo build --bins`, or tests/run, which does",
            beside.display()
        );
    }
    Ok(beside)
}

/// A running process and all that it says.
struct Running {
    process: Process,
    addresses: Addresses,
    log: Arc<Mutex<String>>,
    reading: JoinSet<()>,
}

/// Where the process listens.
#[derive(Clone, Default)]
struct Addresses {
    grpc: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    webhook: Option<SocketAddr>,
    mllp: Option<SocketAddr>,
}

impl Addresses {
    fn read(&mut self, line: &str) {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            return;
        };
        let fields = &value["fields"];
        let address = |name: &str| fields[name].as_str().and_then(|text| text.parse().ok());
        if fields["listener"] == "r1l" {
            self.mllp = address("address");
        } else if let Some(grpc) = address("grpc") {
            self.grpc = Some(grpc);
            self.metrics = address("metrics");
            self.webhook = address("webhook");
        }
    }
}

async fn serve(gateway: &Gateway, collector: SocketAddr) -> anyhow::Result<Running> {
    let mut process = Command::new(binary()?)
        .arg("serve")
        .arg("--config")
        .arg(&gateway.deployment.config)
        .env("WAYMARK_TELEMETRY_LOG_FORMAT", "json")
        .env("WAYMARK_TELEMETRY_LOG_FILTER", "trace")
        .env("WAYMARK_TELEMETRY_SAMPLE_RATIO", "1.0")
        .env(
            "WAYMARK_TELEMETRY_OTLP_ENDPOINT",
            format!("http://{collector}"),
        )
        .env("WAYMARK_DELIVERY_LEASE", "2s")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(process.stderr.take().context("its log")?).lines();
    let log = Arc::new(Mutex::new(String::new()));
    let keep = |log: &Mutex<String>, line: &str| {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_str(line);
        log.push('\n');
    };
    let mut addresses = Addresses::default();
    let ready = async {
        while let Some(line) = lines.next_line().await? {
            keep(&log, &line);
            addresses.read(&line);
            if addresses.grpc.is_some() && addresses.mllp.is_some() {
                return Ok(());
            }
        }
        bail!(
            "the process ended before it was ready:\n{}",
            log.lock().unwrap_or_else(PoisonError::into_inner)
        )
    };
    tokio::time::timeout(PROCESS_TIMEOUT, ready)
        .await
        .context("ready in time")??;
    let mut reading = JoinSet::new();
    let kept = Arc::clone(&log);
    reading.spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            keep(&kept, &line);
        }
    });
    Ok(Running {
        process,
        addresses,
        log,
        reading,
    })
}

impl Running {
    async fn client(&self, gateway: &Gateway, name: &str) -> anyhow::Result<Client> {
        let folder = gateway
            .deployment
            .clients
            .get(name)
            .with_context(|| format!("a client {name}"))?;
        let read = |file: &str| std::fs::read(folder.join(file));
        let address = self.addresses.grpc.context("a listener")?;
        Client::connect(
            address,
            &gateway.ca()?,
            &read("cert.pem")?,
            &read("key.pem")?,
        )
        .await
    }

    /// Ends it as an operator does, so that everything it still has to say is said.
    async fn end(mut self) -> anyhow::Result<String> {
        let id = self.process.id().context("it runs")?.to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().await?;
        assert!(asked.success());
        let ending = tokio::time::timeout(PROCESS_TIMEOUT, self.process.wait())
            .await
            .context("an end in time")??;
        assert!(ending.success(), "it drained: {ending}");
        while self.reading.join_next().await.is_some() {}
        Ok(std::mem::take(
            &mut *self.log.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

/// Every word and number that may stand nowhere.
fn secrets() -> Vec<String> {
    let mut all: Vec<String> = CHILDREN.flat_map(|n| Child(n).secrets()).collect();
    all.extend(["Adeyemi", "Marisol", "Larkspur", "96000", "Heliotrope"].map(str::to_owned));
    // A number with a wrong check digit is a child's all the same.
    all.push(wrong_number());
    all
}

fn wrong_number() -> String {
    let good = Child(CHILDREN.start).nhs();
    let (head, last) = good.split_at(good.len() - 1);
    let next = (last.parse::<u8>().unwrap_or_default() + 1) % 10;
    format!("{head}{next}")
}

/// What of the secrets, and which possible NHS number, stands in a text.
fn found_in(text: &str) -> Vec<String> {
    let mut found: Vec<String> = secrets()
        .into_iter()
        .filter(|secret| text.contains(secret))
        .collect();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let numbers = words.filter(|word| word.len() == 10 && word.bytes().all(|b| b.is_ascii_digit()));
    found.extend(
        numbers
            .filter(|n| waymark_core::identifier::NhsNumber::parse(n).is_ok())
            .map(str::to_owned),
    );
    found
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let child = Child(CHILDREN.start);
    for secret in child.secrets() {
        assert!(
            !found_in(&format!("{{\"field\":\"{secret}\"}}")).is_empty(),
            "{secret}"
        );
    }
    assert!(
        !found_in("nhs=9434765870 ").is_empty(),
        "a number of nobody's is found by its check digit"
    );
    assert!(found_in("9434765871 0199b2c4-7d3e-7000-8000-943476587012 WM9434765870AB").is_empty());
    assert!(!found_in(&wrong_number()).is_empty());
}

fn key(receipt: &v1::Receipt) -> Option<v1::ReferralKey> {
    Some(v1::ReferralKey {
        key: Some(v1::referral_key::Key::ReferralId(
            receipt.referral_id.clone(),
        )),
    })
}

/// Everything that a day may bring, wrong turns included.
async fn flow(
    gateway: &Gateway,
    running: &Running,
    hospital: &Hospital,
    therapy: &Therapy,
) -> anyhow::Result<()> {
    let (school, admin) = (
        running.client(gateway, "EE123456").await?,
        running.client(gateway, "admin-LA882").await?,
    );
    let (team, provider) = (
        running.client(gateway, "SPEC1").await?,
        running.client(gateway, "R1L").await?,
    );
    let mut children = CHILDREN.map(Child);
    let mut child = || children.next().expect("children enough");

    // Refused: a wrong number, a field too long, an unknown word, another's key.
    let mut wrong = child().referral("adhd-assessment");
    wrong["child"]["nhsNumber"] = wrong_number().into();
    assert!(school.try_submit("wrong", &wrong).await.is_err());
    let someone = child();
    let mut long = someone.referral("adhd-assessment");
    long["child"]["name"]["family"] = someone.family().repeat(20).into();
    assert!(school.try_submit("long", &long).await.is_err());
    assert!(
        school
            .try_submit("pathway", &someone.referral("heliotrope"))
            .await
            .is_err()
    );
    assert!(
        school
            .try_submit(
                &format!("bad key of {}", someone.family()),
                &someone.referral("adhd-assessment")
            )
            .await
            .is_err()
    );

    // Sent by every adapter, with a failure, a lost answer and a refusal on the way.
    hospital.play(&[Play::Later, Play::ApplyAndDrop]);
    therapy.play(&[http::StatusCode::SERVICE_UNAVAILABLE]);
    let first = child();
    let mut careful = first.referral("adhd-assessment");
    careful["safeguardingFlags"] = json!([{ "system": "http://snomed.info/sct", "code": "836881000000105", "text": format!("{} sees Heliotrope House", first.given()) }]);
    careful["senderReference"] = format!("{}-1", first.family()).into();
    let adhd = school.submit("adhd", &careful).await?;
    school
        .leg_shows(&adhd.referral_id, DeliveryState::Done)
        .await?;
    let again = school
        .try_submit("adhd", &first.referral("speech-language"))
        .await;
    assert!(again.is_err(), "the same key for other content");
    hospital.play(&[Play::Refuse]);
    let refused = school
        .submit("refused", &child().referral("adhd-assessment"))
        .await?;
    let speech = school
        .submit("speech", &child().referral("speech-language"))
        .await?;
    let minds = school
        .submit("minds", &child().referral("mental-health"))
        .await?;
    let post_for = child();
    let teaching = school
        .submit("teaching", &post_for.referral("specialist-teaching"))
        .await?;
    for receipt in [&speech, &minds] {
        school
            .leg_shows(&receipt.referral_id, DeliveryState::Done)
            .await?;
    }
    school
        .leg_shows(&refused.referral_id, DeliveryState::Parked)
        .await?;

    // Amended, cancelled with words, withdrawn.
    let mut more = first.referral("adhd-assessment");
    more["narrative"] = format!("{} now lives with an aunt", first.given()).into();
    school.amend("adhd-more", &adhd.referral_id, &more).await?;
    let cancel = v1::CancelReferralRequest {
        request_id: "speech-no".to_owned(),
        key: key(&speech),
        cancellation: Some(v1::Cancellation {
            reason: v1::CancelReason::Other.into(),
            text: format!("{} moved", first.family()),
        }),
        want_proof: false,
    };
    school.referrals().cancel_referral(cancel).await?;

    // Answered with words: by call, by MLLP, by callback, by mailbox.
    let change = v1::StatusChange {
        state: v1::LegState::Accepted.into(),
        source_version: 1,
        text_for_family: format!("{} is on our list", first.given()),
        ..v1::StatusChange::default()
    };
    let status = v1::UpdateStatusRequest {
        key: key(&adhd),
        change: Some(change),
        ..v1::UpdateStatusRequest::default()
    };
    provider.referrals().update_status(status).await?;
    let mllp = running.addresses.mllp.context("an MLLP listener")?;
    let named = format!(
        "NTE|1|P|{} {} was seen at Heliotrope House",
        first.given(),
        first.family()
    );
    let rri = format!(
        "{}{named}\r",
        waymark_tests::actors::rri("R1", &adhd.reference, "A")
    );
    assert!(send(mllp, &rri).await?.contains("MSA|"));
    let broken = format!(
        "MSH|^~\\&|EPR|R1L|WAYMARK|SOUTHMERE|20260302||REF^I12|B1|T|2.5\rPID|1||{}^^^NHS^NH||{}\r",
        first.nhs(),
        first.family()
    );
    assert!(send(mllp, &broken).await?.contains("MSA|A"));
    let webhook = running.addresses.webhook.context("a callback listener")?;
    let body = json!({ "type": "referral.status", "environment": "test", "referral": minds.reference, "state": "on_its_way", "text": first.family() });
    let secret = gateway.secret("therapy-callback")?;
    assert_eq!(
        callback(
            webhook,
            &gateway.ca()?,
            "therapy-webhook",
            &secret,
            "m1",
            &body
        )
        .await?,
        400
    );
    let post = team.fetch_one(&teaching.referral_id).await?;
    let reject = v1::RejectRequest {
        delivery_id: post.lent.delivery_id.clone(),
        lease_token: post.lent.lease_token.clone(),
        reason_code: "not-ours".to_owned(),
        reason: "not our area".to_owned(),
        fault: v1::Fault::Sender.into(),
    };
    team.mailbox().reject(reject).await?;

    // Looked up, and operated on with a reason that names somebody.
    let by_number = v1::ChildIdentifier {
        nhs_number: first.nhs(),
        nhs_number_verification: v1::NhsNumberVerification::PresentAndVerified.into(),
        ..v1::ChildIdentifier::default()
    };
    let list = v1::ListReferralsRequest {
        child: Some(by_number),
        ..v1::ListReferralsRequest::default()
    };
    assert_eq!(
        school
            .referrals()
            .list_referrals(list)
            .await?
            .into_inner()
            .referrals
            .len(),
        1
    );
    let content = v1::GetReferralRequest {
        key: key(&adhd),
        include_content: true,
        purpose: v1::AccessPurpose::DirectCare.into(),
    };
    assert!(
        school
            .referrals()
            .get_referral(content)
            .await?
            .into_inner()
            .referral
            .is_some_and(|r| r.content.is_some())
    );
    let stuck = admin.deliveries(&refused.referral_id).await?.remove(0);
    let resend = v1::ResendRequest {
        delivery_id: stuck.delivery_id.clone(),
        reason: format!("the hospital rang about {}", first.family()),
        expected_version: admin.delivery(&stuck.delivery_id).await?.0.version,
    };
    admin.admin().resend(resend).await?;
    admin
        .delivery_is(&stuck.delivery_id, DeliveryState::Done)
        .await?;
    Ok(())
}

async fn nothing_of_a_child_is_in_what_the_process_says_or_keeps_in_clear(
    engine: Engine,
) -> anyhow::Result<()> {
    let (traces, otlp_metrics) = (Kept::default(), Kept::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let collector = listener.local_addr()?;
    let server = tonic::transport::Server::builder()
        .add_service(Collector::<false>(Arc::clone(&traces)))
        .add_service(Collector::<true>(Arc::clone(&otlp_metrics)));
    let mut collecting = JoinSet::new();
    collecting.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let hospital = Hospital::open()?;
    let (mut therapy, mut camhs) = (Therapy::bind().await?, MentalHealth::bind().await?);
    let area = Area {
        mllp: hospital.port(),
        webhook: therapy.port(),
        grpc: camhs.port(),
        ..Area::default()
    };
    let mut gateway = Gateway::make(engine, &area, Duty::Serve).await?;
    therapy.serve(
        &gateway.issue("waymark:test:agency:THER1")?,
        &gateway.secret("therapy-webhook")?,
    )?;
    camhs.serve(&gateway.issue("waymark:test:agency:CAM01")?, &gateway.ca()?)?;
    let running = serve(&gateway, collector).await?;
    flow(&gateway, &running, &hospital, &therapy).await?;
    let metrics = running.addresses.metrics.context("a metrics listener")?;
    let scraped = scrape(metrics).await?;
    let log = running.end().await?;

    // What the search goes through is all there.
    assert!(
        log.lines().count() > 100 && log.contains("\"level\":\"DEBUG\""),
        "a talkative log"
    );
    assert!(log.contains("delivery.attempt"), "with its spans");
    assert!(
        scraped.contains("waymark_attempts") && scraped.contains("waymark_accepts"),
        "{scraped}"
    );
    let spans = lossy(&traces);
    for name in ["delivery.attempt", "SubmitReferral", "endpoint.id"] {
        assert!(spans.contains(name), "no exported span holds {name}");
    }
    let exported = lossy(&otlp_metrics);
    assert!(exported.contains("waymark.attempts"));

    // Of a metric only the name and labels are words; a value may look like anybody's number.
    let labels: Vec<&str> = scraped
        .lines()
        .filter_map(|l| l.rsplit_once(' '))
        .map(|(labels, _)| labels)
        .collect();
    let mut leaks: Vec<String> = Vec::new();
    for (place, text) in [
        ("metrics", labels.join("\n")),
        ("spans", spans),
        ("exported metrics", exported),
    ] {
        leaks.extend(
            found_in(&text)
                .into_iter()
                .map(|secret| format!("{place}: {secret}")),
        );
    }
    for line in log.lines() {
        leaks.extend(
            found_in(line)
                .into_iter()
                .map(|secret| format!("{secret} in the log: {line}")),
        );
    }

    // The delivery log, which is published; and what is kept on disk.
    gateway.restart().await?;
    gateway.sequenced().await?;
    let entries = gateway.entries().await?;
    assert!(entries.len() > 20, "only {} entries", entries.len());
    for entry in entries {
        let text = String::from_utf8_lossy(&entry).into_owned();
        leaks.extend(
            found_in(&text)
                .into_iter()
                .map(|secret| format!("delivery log: {secret}")),
        );
    }
    let alarms = gateway
        .store()?
        .alarms(waymark_core::port::OpenOnly::No, 100)
        .await?;
    assert!(!alarms.is_empty());
    leaks.extend(
        found_in(&format!("{alarms:?}"))
            .into_iter()
            .map(|secret| format!("alarms: {secret}")),
    );
    gateway.stop().await?;
    for (place, text) in at_rest(engine, gateway.database_url()).await? {
        let named = secrets()
            .into_iter()
            .filter(|s| text.contains(s.as_str()) || text.contains(&hex::encode(s)));
        leaks.extend(named.map(|secret| format!("{place}: {secret}")));
    }
    assert!(leaks.is_empty(), "{leaks:#?}");
    Ok(())
}

/// Everything that the database holds: its files, or the rows of its tables as text.
async fn at_rest(engine: Engine, url: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    if engine == Engine::Sqlite {
        let path = url.strip_prefix("sqlite://").context("a file")?;
        for file in [path.to_owned(), format!("{path}-wal")] {
            if let Ok(bytes) = std::fs::read(&file) {
                all.push((file, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await?;
        let list =
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename";
        for table in sqlx::query_scalar::<_, String>(list)
            .fetch_all(&mut connection)
            .await?
        {
            let rows = format!("SELECT t::text FROM \"{table}\" t");
            let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(rows))
                .fetch_all(&mut connection)
                .await?;
            all.push((table, rows.join("\n")));
        }
    }
    let (count, bytes) = (
        all.len(),
        all.iter().map(|(_, text)| text.len()).sum::<usize>(),
    );
    assert!(
        count > 0 && bytes > 10_000,
        "{count} places with {bytes} bytes are not the database"
    );
    Ok(all)
}

fn lossy(kept: &Kept) -> String {
    let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&kept.concat()).into_owned()
}

async fn scrape(address: SocketAddr) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
