//! Nothing of a child in logs, traces, metrics or the delivery log: the real process runs the whole job with names and
//! numbers that stand nowhere else, under the most talkative filter, and everything it says is searched for them.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use anyhow::Context as _;
use sqlx::Connection as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use waymark::app::Duty;
use waymark_tests::actors::{Hospital, MentalHealth, Therapy};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway};

use self::collector::{Collector, Kept};
use self::process::serve;

mod collector;
mod day;
mod process;

waymark_tests::both_engines! {
    nothing_of_a_child_is_in_what_the_process_says_or_keeps_in_clear,
}

/// The children of the flow; a number in the middle is only ever sent wrong.
const CHILDREN: std::ops::Range<u32> = 800..812;

/// The telephone numbers of the flow, however they are written: with their area code, for a few digits alone are in many
/// times of day.
const PHONES: [&str; 3] = ["1632 96000", "163296000", "1632-96000"];

/// Every word and number that may stand nowhere.
fn secrets() -> Vec<String> {
    let mut all: Vec<String> = CHILDREN.flat_map(|n| Child(n).secrets()).collect();
    all.extend(["Adeyemi", "Marisol", "Larkspur", "Heliotrope"].map(str::to_owned));
    all.extend(PHONES.map(str::to_owned));
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
    for phone in ["01632 960001", "+441632960009", "+44 1632 960001"] {
        assert!(!found_in(phone).is_empty(), "{phone}");
    }
    assert!(found_in("2026-11-26T01:09:45.960007Z").is_empty());
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
    day::run(&gateway, &running, &hospital, &therapy).await?;
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
