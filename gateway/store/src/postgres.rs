//! The server engine: many gateway instances over one database.

use std::str::FromStr as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Pool, Transaction};
use waymark_core::port::StoreError;

use crate::open::{Mode, OpenError, Wal};

/// The engine.
pub(crate) type Db = sqlx::Postgres;

/// Entries of one sequencer round, at most.
pub(crate) const ROUND_MAX: u32 = 4_096;

/// Writes go side by side: a group of them would hold locks of several out of their order.
pub(crate) const ONE_WRITER: bool = false;

/// Locks the rows that a query reads until the transaction ends.
macro_rules! locked {
    ($sql:literal) => {
        concat!($sql, " FOR UPDATE")
    };
}

/// As [`locked!`], passing over rows that others hold.
macro_rules! skip_locked {
    ($sql:literal) => {
        concat!($sql, " FOR UPDATE SKIP LOCKED")
    };
}

#[expect(
    clippy::duplicate_mod,
    reason = "SQL and logic stand once and are compiled for each engine"
)]
#[path = "queries.rs"]
pub(crate) mod queries;

pub(crate) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/postgres");

/// Connections of one process, the committer's apart.
const CONNECTIONS_MAX: u32 = 16;
/// How long a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);
/// Statements kept prepared on each connection.
const STATEMENTS_MAX: usize = 512;
/// Settings of each connection: nothing waits without end.
const SETTINGS: [(&str, &str); 3] = [
    ("lock_timeout", "10s"),
    ("statement_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "60s"),
];
/// What durability rests on: none may be off.
const DURABILITY: [&str; 3] = [
    "SHOW fsync",
    "SHOW full_page_writes",
    "SHOW synchronous_commit",
];

/// The three ways to a connection.
pub(crate) struct Pools {
    /// The committer's own.
    pub(crate) committer: Pool<Db>,
    /// For all other writes.
    pub(crate) writer: Pool<Db>,
    /// For reads.
    pub(crate) reader: Pool<Db>,
}

/// What only this engine keeps: nothing.
pub(crate) struct Engine;

/// The server's disk is its operator's to watch.
pub(crate) const fn free_disk(_engine: &Engine) -> Option<u64> {
    None
}

/// Any number of processes may write.
pub(crate) struct Guard;

/// Writes go side by side, and those that commit together share a flush by themselves.
pub(crate) struct Turn;

/// No write waits for another's turn.
pub(crate) async fn turn(_engine: &Engine, _accepts_came: &AtomicBool) -> Turn {
    Turn
}

/// Opens the database's connections.
pub(crate) async fn connect(url: &str, mode: Mode) -> Result<(Pools, Engine, Guard), OpenError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(OpenError::Url)?
        .application_name("waymark")
        .statement_cache_capacity(STATEMENTS_MAX)
        .options(SETTINGS);
    let options = match mode {
        Mode::Write => options,
        Mode::ReadOnly => options.options([("default_transaction_read_only", "on")]),
    };
    let pool = |connections| {
        PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
    };
    let shared = pool(CONNECTIONS_MAX).connect_with(options.clone()).await;
    let shared = shared.map_err(OpenError::Connect)?;
    let committer = pool(1).connect_lazy_with(options);
    Ok((
        Pools {
            committer,
            writer: shared.clone(),
            reader: shared,
        },
        Engine,
        Guard,
    ))
}

/// Refuses a server that may lose what it said it had kept.
pub(crate) async fn check_durability(pools: &Pools) -> Result<(), OpenError> {
    for show in DURABILITY {
        let value: String = sqlx::query_scalar(show)
            .fetch_one(&pools.writer)
            .await
            .map_err(OpenError::Connect)?;
        if value == "off" {
            return Err(OpenError::NotDurable {
                setting: show.trim_start_matches("SHOW ").to_owned(),
            });
        }
    }
    Ok(())
}

/// Begins a transaction that may write.
pub(crate) async fn begin(pool: &Pool<Db>) -> sqlx::Result<Transaction<'static, Db>> {
    pool.begin().await
}

/// The server folds its own log.
pub(crate) async fn fold_wal(_pools: &Pools, _engine: &Engine) -> Result<(), StoreError> {
    Ok(())
}

/// The server folds its own log.
pub(crate) async fn fold_wal_beside(_pools: &Pools, _engine: &Engine) -> Result<(), StoreError> {
    Ok(())
}

/// The server folds its own log.
pub(crate) async fn truncate_wal(_pools: &Pools, _engine: &Engine) -> Result<(), StoreError> {
    Ok(())
}

/// The server's log is its own care.
pub(crate) fn wal(_engine: &Engine) -> Wal {
    Wal::Short
}
