//! What opening a database refuses.

use std::sync::atomic::Ordering;

use sqlx::{AssertSqlSafe, Database as _};
use waymark_core::audit::EntryKind;
use waymark_core::delivery::{DeliveryState, Evidence};
use waymark_core::directory::Environment;
use waymark_core::port::{
    DeliveryStore as _, Disk, FeedQuery, LOW_DISK, LogStore as _, ReferralStore as _, StoreError,
    UpkeepStore as _, WorkClass,
};
use waymark_tlog::note::SigningKey;

use super::fixture::{bench, ms, next, url as database};
use super::start::start;
use super::{Backend, Db};
use crate::open::{Mode, OpenError, OpenOptions, Schema};
use crate::seal::{Keyring, Seal};

fn options(url: &str, mode: Mode) -> OpenOptions {
    OpenOptions {
        url: url.to_owned(),
        keyring: Keyring::generate().unwrap(),
        environment: Environment::Test,
        mode,
        schema: Schema::Migrate,
        now: ms(0),
        free_disk_min: 0,
    }
}

async fn opened(options: OpenOptions) -> Result<Backend, OpenError> {
    let seal = Seal::new(&options.keyring).unwrap();
    start(&options, seal).await
}

fn error(result: Result<Backend, OpenError>) -> OpenError {
    result.map(drop).unwrap_err()
}

async fn run(url: &str, sql: &str) {
    let pool = sqlx::Pool::<Db>::connect(url).await.unwrap();
    sqlx::query(AssertSqlSafe(sql.to_owned()))
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
}

#[tokio::test]
async fn a_database_belongs_to_one_keyring_and_one_environment() {
    let Some((url, _dir)) = database().await else {
        return;
    };
    let other = error_after_first(&url, options(&url, Mode::Write)).await;
    assert!(matches!(other, OpenError::Keyring), "{other:?}");
    let mut live = options(&url, Mode::ReadOnly);
    live.environment = Environment::Live;
    let mixed = error(opened(live).await);
    assert!(matches!(&mixed, OpenError::Environment { found, asked: "live" } if found == "test"));
}

/// The fault of a second opening, after a first one that ended.
async fn error_after_first(url: &str, second: OpenOptions) -> OpenError {
    drop(opened(options(url, Mode::Write)).await.unwrap());
    error(opened(second).await)
}

#[tokio::test]
async fn an_older_schema_is_migrated_only_when_asked_and_a_newer_one_is_refused() {
    let Some((url, _dir)) = database().await else {
        return;
    };
    let expecting = || OpenOptions {
        schema: Schema::Expect,
        ..options(&url, Mode::Write)
    };
    assert!(matches!(
        error(opened(expecting()).await),
        OpenError::SchemaOlder
    ));
    super::migrate(&url).await.unwrap();
    drop(opened(expecting()).await.unwrap());
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         SELECT 99, description, success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1";
    run(&url, newer).await;
    for options in [
        expecting(),
        options(&url, Mode::Write),
        options(&url, Mode::ReadOnly),
    ] {
        let refused = error(opened(options).await);
        assert!(
            matches!(refused, OpenError::SchemaNewer { found: 99 }),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_reader_reads_beside_the_writer_and_cannot_write() {
    let Some((url, _dir)) = database().await else {
        return;
    };
    let keyring = Keyring::generate().unwrap();
    let text = std::env::temp_dir().join(hex::encode(crate::seal::random::<8>().unwrap()));
    keyring.save_new(&text).unwrap();
    let with = |mode| OpenOptions {
        keyring: Keyring::load(&text).unwrap(),
        ..options(&url, mode)
    };
    let writer = opened(with(Mode::Write)).await.unwrap();
    let reader = opened(with(Mode::ReadOnly)).await.unwrap();
    std::fs::remove_file(&text).unwrap();
    reader.ping().await.unwrap();
    writer.ping().await.unwrap();
    let draft = bench().await.unwrap().draft("9434765919", &["ep-a"]);
    assert!(reader.accept(draft.clone()).await.is_err());
    writer.accept(draft.clone()).await.unwrap();
    assert!(reader.referral(draft.referral).await.unwrap().is_some());
}

#[tokio::test]
async fn one_connection_in_memory_is_enough_for_every_call() {
    if Db::NAME != "SQLite" {
        return;
    }
    let store = opened(options("sqlite::memory:", Mode::Write))
        .await
        .unwrap();
    let Some(bench) = bench().await else { return };
    let work = async {
        store.upkeep(ms(0)).await.unwrap();
        let draft = bench.draft("9434765919", &["ep-a"]);
        let first = store.accept(draft.clone()).await.unwrap();
        assert!(store.accept(draft.clone()).await.unwrap().repeated);
        let view = store.referral(first.referral).await.unwrap().unwrap();
        let entry = bench.entry(EntryKind::AdminRead, first.stream, ms(1));
        assert!(
            store
                .read_body(view.content, entry)
                .await
                .unwrap()
                .is_some()
        );
        let key = SigningKey::from_seed("waymark.test/log", [9; 32]).unwrap();
        assert_eq!(store.sequence(&key, 10, ms(1)).await.unwrap().size, 2);
        let (agencies, from, window) = (vec![draft.sender.clone()], 0, 10);
        let page = store
            .feed(&FeedQuery {
                agencies,
                from,
                window,
            })
            .await
            .unwrap();
        assert_eq!(page.events.len(), 1);
        assert_eq!(store.openings(first.event).await.unwrap(), draft.openings);
        assert_eq!(store.timeline(first.referral, 9).await.unwrap().len(), 1);
        let delivery = store.delivery(draft.deliveries[0].id).await.unwrap();
        assert_eq!(delivery.unwrap().sender, draft.sender);
        assert!(store.check_page(None, 10).await.unwrap().faults.is_empty());
        assert_eq!(store.counters().await.unwrap().referrals, 1);
        store.ping().await.unwrap();
    };
    // A call that waited for a second connection would wait for good.
    tokio::time::timeout(std::time::Duration::from_secs(10), work)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_server_that_may_lose_what_it_kept_is_refused() {
    if Db::NAME == "SQLite" {
        return;
    }
    let Some((url, _dir)) = database().await else {
        return;
    };
    let (_, name) = url.rsplit_once('/').unwrap();
    run(
        &url,
        &format!("ALTER DATABASE {name} SET synchronous_commit = off"),
    )
    .await;
    let refused = error(opened(options(&url, Mode::Write)).await);
    assert!(
        matches!(&refused, OpenError::NotDurable { setting } if setting == "synchronous_commit"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn below_the_mark_nothing_new_is_accepted_and_what_was_goes_on() {
    let Some(bench) = bench().await else { return };
    if bench.is_postgres() {
        assert_eq!(
            bench.store.disk(),
            None,
            "the server's disk is its operator's"
        );
        return;
    }
    let sent = bench.send("1", &["mllp"]).await;
    let disk = bench.store.disk().unwrap();
    assert!(!disk.is_low() && disk.free > 0);
    let at = |min| Disk { free: 10, min };
    assert!(
        !at(10).is_low() && at(11).is_low(),
        "the mark itself is enough"
    );
    // As found by a look at a full disk.
    bench.store.low_disk.store(true, Ordering::Relaxed);
    let refused = bench.store.accept(bench.draft("2", &["mllp"])).await;
    assert!(matches!(
        refused,
        Err(StoreError::Exhausted { limit: LOW_DISK })
    ));
    let head = bench.head(WorkClass::Fresh, "mllp", 1).await;
    let done = next(DeliveryState::Done, Evidence::ApplicationAck);
    bench.attempt(&head, done, 1).await;
    assert_eq!(bench.state(sent.deliveries[0]).await, DeliveryState::Done);
    // The next look finds room.
    bench.store.disk().unwrap();
    bench.send("3", &["mllp"]).await;
}
