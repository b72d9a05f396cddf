//! The embedded engine: one file, one writer, no server.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Pool, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Interval, MissedTickBehavior};
use waymark_core::port::StoreError;

use crate::error::sql;
use crate::open::{Mode, OpenError, Wal};

/// The engine.
pub(crate) type Db = sqlx::Sqlite;

/// Entries of one sequencer round, at most: an accept waits for a round under way, so that it must be short.
pub(crate) const ROUND_MAX: u32 = 64;

/// All writes go through one connection: what shares a commit shares its flush.
pub(crate) const ONE_WRITER: bool = true;

/// One writer needs no row locks: the transaction has the whole database from its first statement.
macro_rules! locked {
    ($sql:literal) => {
        $sql
    };
}

/// As [`locked!`], passing over rows that others hold: with one writer there are none.
macro_rules! skip_locked {
    ($sql:literal) => {
        $sql
    };
}

#[path = "queries.rs"]
pub(crate) mod queries;

pub(crate) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// Connections that read beside the writer.
const READERS_MAX: u32 = 4;
/// How long a statement waits for a lock: with one writer, only a truncation ever waits, for readers.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);
/// Statements kept prepared on each connection.
const STATEMENTS_MAX: usize = 512;
/// Page cache of each connection, in the engine's own way: so many KiB. The engine's default of 2 MiB makes a large
/// transaction write its pages more than once.
const CACHE_SIZE: &str = "-32768";
/// Bytes of write-ahead log above which the writer itself folds it into the database and truncates it.
pub(crate) const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Time from one write that is no accept to the next, while accepts come.
const PACE: Duration = Duration::from_millis(5);
/// Bytes by which the write-ahead log grows before it is folded beside the writer.
const WAL_FOLD_BYTES: u64 = 8 * 1024 * 1024;

/// The three ways to a connection.
pub(crate) struct Pools {
    /// The committer's own.
    pub(crate) committer: Pool<Db>,
    /// For all other writes.
    pub(crate) writer: Pool<Db>,
    /// For reads.
    pub(crate) reader: Pool<Db>,
}

/// What only this engine needs to know: where its file is, unless it is in memory, and whose turn it is to write.
pub(crate) struct Engine {
    path: Option<PathBuf>,
    turn: Arc<Mutex<Interval>>,
    /// Bytes of write-ahead log above which it is long.
    long_at: AtomicU64,
    /// Its bytes when it was last folded.
    folded_at: AtomicU64,
}

impl Engine {
    fn new(path: Option<PathBuf>) -> Self {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (long_at, folded_at) = (AtomicU64::new(WAL_BYTES_MAX), AtomicU64::new(0));
        Self {
            path,
            turn: Arc::new(Mutex::new(pace)),
            long_at,
            folded_at,
        }
    }
}

/// The turn to write beside the committer, held as long as this lives.
pub(crate) type Turn = OwnedMutexGuard<Interval>;

/// Waits for the turn of a write that is no accept. There is one connection to write with, and whoever waits for it is
/// served in order: as all other writes wait here and not there, an accept waits for the one under way at most, and
/// they for one batch of accepts. While accepts come, other writes begin no closer than [`PACE`] to one another, so that
/// most accepts find the connection free.
pub(crate) async fn turn(engine: &Engine, accepts_came: &AtomicBool) -> Turn {
    let mut turn = Arc::clone(&engine.turn).lock_owned().await;
    if accepts_came.swap(false, Ordering::Relaxed) {
        turn.tick().await;
    }
    turn
}

/// Bytes free on the file system of the database's file.
pub(crate) fn free_disk(engine: &Engine) -> Option<u64> {
    let folder = engine.path.as_ref()?.parent()?;
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let system = rustix::fs::statvfs(folder).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

/// The writer lock, held as long as this lives.
pub(crate) struct Guard {
    _lock: Option<File>,
}

/// Opens the database's connections; as a writer, after taking the writer lock.
pub(crate) async fn connect(url: &str, mode: Mode) -> Result<(Pools, Engine, Guard), OpenError> {
    let options = SqliteConnectOptions::from_str(url).map_err(OpenError::Url)?;
    let memory = url.contains(":memory:") || url.contains("mode=memory");
    let options = options
        .create_if_missing(mode == Mode::Write)
        .busy_timeout(BUSY_TIMEOUT)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(false)
        .pragma("wal_autocheckpoint", "0")
        .pragma("cache_size", CACHE_SIZE)
        .statement_cache_capacity(STATEMENTS_MAX);
    if memory {
        if mode == Mode::ReadOnly {
            return Err(OpenError::Memory);
        }
        let one = pool(1)
            .connect_with(options)
            .await
            .map_err(OpenError::Connect)?;
        let pools = Pools {
            committer: one.clone(),
            writer: one.clone(),
            reader: one,
        };
        return Ok((pools, Engine::new(None), Guard { _lock: None }));
    }
    let path = options.get_filename().to_owned();
    let readers = options.clone().pragma("query_only", "1");
    if mode == Mode::ReadOnly {
        if !path.is_file() {
            return Err(OpenError::NoDatabase { path });
        }
        let reader = pool(READERS_MAX)
            .connect_with(readers)
            .await
            .map_err(OpenError::Connect)?;
        let pools = Pools {
            committer: reader.clone(),
            writer: reader.clone(),
            reader,
        };
        return Ok((pools, Engine::new(Some(path)), Guard { _lock: None }));
    }
    let lock = take_writer_lock(&path)?;
    let options = options.journal_mode(SqliteJournalMode::Wal);
    let writer = pool(1)
        .connect_with(options)
        .await
        .map_err(OpenError::Connect)?;
    let reader = pool(READERS_MAX)
        .connect_with(readers)
        .await
        .map_err(OpenError::Connect)?;
    let pools = Pools {
        committer: writer.clone(),
        writer,
        reader,
    };
    Ok((pools, Engine::new(Some(path)), Guard { _lock: Some(lock) }))
}

/// Nothing of this engine's durability can be switched off from outside.
pub(crate) async fn check_durability(_pools: &Pools) -> Result<(), OpenError> {
    Ok(())
}

/// Begins a transaction that may write.
pub(crate) async fn begin(pool: &Pool<Db>) -> sqlx::Result<Transaction<'static, Db>> {
    // Taking the write lock first: a transaction that reads before it writes would else fail as busy.
    pool.begin_with("BEGIN IMMEDIATE").await
}

/// Folds the write-ahead log into the database as far as readers allow; truncates it above [`WAL_BYTES_MAX`].
pub(crate) async fn fold_wal(pools: &Pools, engine: &Engine) -> Result<(), StoreError> {
    match wal(engine) {
        Wal::Long => truncate_wal(pools, engine).await,
        Wal::Short | Wal::Grown => fold_wal_beside(pools, engine).await,
    }
}

/// Folds the write-ahead log on a connection beside the writer's, which goes on writing.
pub(crate) async fn fold_wal_beside(pools: &Pools, engine: &Engine) -> Result<(), StoreError> {
    if engine.path.is_none() {
        return Ok(());
    }
    sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
        .execute(&pools.reader)
        .await
        .map_err(sql)?;
    Ok(())
}

/// Folds the write-ahead log and begins it anew, on the writer's own connection: under steady load it never becomes
/// short otherwise. A reader that holds on to it makes this give up until it has grown by as much again.
pub(crate) async fn truncate_wal(pools: &Pools, engine: &Engine) -> Result<(), StoreError> {
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&pools.writer)
        .await
        .map_err(sql)?;
    engine
        .long_at
        .store(wal_bytes(engine) + WAL_BYTES_MAX, Ordering::Relaxed);
    engine.folded_at.store(wal_bytes(engine), Ordering::Relaxed);
    Ok(())
}

/// Whether the write-ahead log wants folding.
pub(crate) fn wal(engine: &Engine) -> Wal {
    let bytes = wal_bytes(engine);
    if bytes > engine.long_at.load(Ordering::Relaxed) {
        Wal::Long
    } else if bytes > engine.folded_at.load(Ordering::Relaxed) + WAL_FOLD_BYTES {
        engine.folded_at.store(bytes, Ordering::Relaxed);
        Wal::Grown
    } else {
        Wal::Short
    }
}

fn wal_bytes(engine: &Engine) -> u64 {
    let path = engine.path.as_ref().map(|path| beside(path, "-wal"));
    path.and_then(|path| std::fs::metadata(path).ok())
        .map_or(0, |wal| wal.len())
}

fn pool(connections: u32) -> SqlitePoolOptions {
    // Connections of this engine do not go stale: no test on acquire, no age.
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn take_writer_lock(database: &Path) -> Result<File, OpenError> {
    let path = beside(database, ".writer-lock");
    let io = |source| OpenError::Lock {
        path: path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::WriterHeld { path }),
        Err(std::fs::TryLockError::Error(source)) => Err(OpenError::Lock { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use waymark_core::directory::Environment;
    use waymark_core::time::Timestamp;

    use super::*;
    use crate::open::{OpenOptions, Schema, open};
    use crate::seal::Keyring;

    fn options(url: &str, keyring: Keyring, mode: Mode) -> OpenOptions {
        let environment = Environment::Test;
        let now = Timestamp::from_ms(1_795_392_000_000);
        OpenOptions {
            url: url.to_owned(),
            keyring,
            environment,
            mode,
            schema: Schema::Migrate,
            now,
            free_disk_min: 0,
        }
    }

    #[tokio::test]
    async fn a_second_writer_is_refused_and_told_which_file_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.db");
        let ring = dir.path().join("keyring");
        Keyring::generate().unwrap().save_new(&ring).unwrap();
        let url = format!("sqlite://{}", path.display());
        let with = |mode| options(&url, Keyring::load(&ring).unwrap(), mode);
        let first = open(with(Mode::Write)).await.unwrap();
        let refused = open(with(Mode::Write)).await.map(drop).unwrap_err();
        let OpenError::WriterHeld { path } = &refused else {
            panic!("{refused:?}")
        };
        assert_eq!(path, &dir.path().join("w.db.writer-lock"));
        assert!(matches!(
            crate::migrate(&url).await,
            Err(OpenError::WriterHeld { .. })
        ));
        open(with(Mode::ReadOnly))
            .await
            .unwrap()
            .ping()
            .await
            .unwrap();
        drop(first);
        open(with(Mode::Write)).await.unwrap().ping().await.unwrap();
    }

    #[tokio::test]
    async fn there_is_nothing_to_read_where_nothing_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("w.db").display());
        let reading = options(&url, Keyring::generate().unwrap(), Mode::ReadOnly);
        let refused = open(reading).await.map(drop);
        assert!(matches!(refused, Err(OpenError::NoDatabase { .. })));
        assert!(!dir.path().join("w.db").exists());
    }

    #[tokio::test]
    async fn a_database_in_memory_has_one_process() {
        let keyring = || Keyring::generate().unwrap();
        let store = open(options("sqlite::memory:", keyring(), Mode::Write))
            .await
            .unwrap();
        store.ping().await.unwrap();
        let refused = open(options("sqlite::memory:", keyring(), Mode::ReadOnly))
            .await
            .map(drop);
        assert!(matches!(refused, Err(OpenError::Memory)));
    }

    #[tokio::test]
    async fn a_long_write_ahead_log_is_truncated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.db");
        let url = format!("sqlite://{}", path.display());
        let (pools, engine, _guard) = connect(&url, Mode::Write).await.unwrap();
        let run = |sql: &'static str| sqlx::query(sql).execute(&pools.writer);
        run("CREATE TABLE t (x BLOB)").await.unwrap();
        fold_wal(&pools, &engine).await.unwrap();
        assert_eq!(wal(&engine), Wal::Short);
        let rows = i64::try_from(WAL_BYTES_MAX / 1_000_000 + 2).unwrap();
        for _ in 0..rows {
            run("INSERT INTO t VALUES (zeroblob(1000000))")
                .await
                .unwrap();
        }
        assert_eq!(wal(&engine), Wal::Long);
        // A reader that holds on to it puts the truncation off; it is not tried again at once.
        let mut reading = pools.reader.begin().await.unwrap();
        sqlx::query("SELECT COUNT(*) FROM t")
            .execute(&mut *reading)
            .await
            .unwrap();
        run("INSERT INTO t VALUES (zeroblob(10))").await.unwrap();
        fold_wal(&pools, &engine).await.unwrap();
        assert_ne!(wal(&engine), Wal::Long);
        reading.rollback().await.unwrap();
        truncate_wal(&pools, &engine).await.unwrap();
        assert_eq!(std::fs::metadata(beside(&path, "-wal")).unwrap().len(), 0);
    }
}
