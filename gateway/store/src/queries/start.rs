//! Opening one engine's database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize};

use sqlx::migrate::MigrateError;
use tokio::sync::{Notify, mpsc};
use waymark_core::port::{Store, UpkeepStore as _};

use super::super::{MIGRATIONS, ONE_WRITER, check_durability, connect};
use super::bare::Bare;
use super::{Backend, Db, Shared, committer, group, rekey};
use crate::bare::BareStore;
use crate::open::{Mode, OpenError, OpenOptions, Schema};
use crate::seal::Seal;

const NEWEST: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success";
const NOTE: &str = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING";
const READ: &str = "SELECT value FROM meta WHERE key = $1";

/// Opens the database; see [`crate::open()`].
pub(crate) async fn open(options: OpenOptions, seal: Seal) -> Result<Arc<dyn Store>, OpenError> {
    let backend = Arc::new(start(&options, seal).await?);
    if options.mode == Mode::Write {
        backend
            .upkeep(options.now)
            .await
            .map_err(OpenError::Store)?;
    }
    Ok(backend)
}

/// Opens the database for measuring; see [`crate::open_bare`].
pub(crate) async fn open_bare(
    options: OpenOptions,
    seal: Seal,
) -> Result<Arc<dyn BareStore>, OpenError> {
    let backend = start(&options, seal).await?;
    backend
        .upkeep(options.now)
        .await
        .map_err(OpenError::Store)?;
    Ok(Arc::new(Bare::new(backend)))
}

/// Opens the database without upkeep.
pub(super) async fn start(options: &OpenOptions, seal: Seal) -> Result<Backend, OpenError> {
    let (pools, engine, guard) = connect(&options.url, options.mode).await?;
    let pool = &pools.writer;
    match (options.mode, options.schema) {
        (Mode::Write, Schema::Migrate) => {
            check_durability(&pools).await?;
            run_migrations(pool).await?;
        }
        (Mode::Write, Schema::Expect) => {
            check_durability(&pools).await?;
            expect_schema(pool).await?;
        }
        (Mode::ReadOnly, _) => expect_schema(pool).await?,
    }
    let fingerprint = hex::encode(seal.keyed("meta.keyring", &[]));
    let environment = options.environment.as_str();
    if let Some(found) = fact(pool, options.mode, "environment", environment).await? {
        return Err(OpenError::Environment {
            found,
            asked: environment,
        });
    }
    if fact(pool, options.mode, "keyring", &fingerprint)
        .await?
        .is_some()
    {
        return Err(OpenError::Keyring);
    }
    let epoch = i64::from(seal.epoch());
    if let Some(found) = fact(pool, options.mode, "kek_epoch", &epoch.to_string()).await? {
        // A newer one is taken with an entry in the log, once there is somebody to write it.
        if found.parse::<i64>().map_or(true, |found| found > epoch) {
            return Err(OpenError::KeyringOlder {
                found,
                asked: epoch,
            });
        }
    }
    let (queue, jobs) = mpsc::channel(committer::QUEUE_MAX);
    let wake = Notify::new();
    let shared = Arc::new(Shared {
        pools,
        engine,
        seal,
        wake,
        turn: AtomicI64::new(0),
        accepts: AtomicUsize::new(0),
        accepts_came: AtomicBool::new(false),
        rekeyed: rekey::Walk::default(),
        free_disk_min: options.free_disk_min,
        low_disk: AtomicBool::new(false),
    });
    shared.look_at_disk();
    committer::start(Arc::clone(&shared), jobs);
    let steps = ONE_WRITER.then(|| group::start(Arc::clone(&shared)));
    Ok(Backend {
        shared,
        queue,
        steps,
        _guard: guard,
    })
}

/// Brings the schema up to date; see [`crate::migrate`].
pub(crate) async fn migrate(url: &str) -> Result<(), OpenError> {
    let (pools, _engine, _guard) = connect(url, Mode::Write).await?;
    run_migrations(&pools.writer).await
}

async fn run_migrations(pool: &sqlx::Pool<Db>) -> Result<(), OpenError> {
    MIGRATIONS.run(pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => OpenError::SchemaNewer { found },
        other => OpenError::Migrate(other),
    })
}

async fn expect_schema(pool: &sqlx::Pool<Db>) -> Result<(), OpenError> {
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    let found: i64 = match sqlx::query_scalar(NEWEST).fetch_one(pool).await {
        Ok(found) => found,
        Err(sqlx::Error::Database(_)) => return Err(OpenError::SchemaOlder),
        Err(error) => return Err(OpenError::Connect(error)),
    };
    match found.cmp(&known) {
        std::cmp::Ordering::Less => Err(OpenError::SchemaOlder),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(OpenError::SchemaNewer { found }),
    }
}

/// Compares a fact of the deployment, written by the first writer; answers what it is when it is not `value`.
async fn fact(
    pool: &sqlx::Pool<Db>,
    mode: Mode,
    key: &str,
    value: &str,
) -> Result<Option<String>, OpenError> {
    if mode == Mode::Write {
        sqlx::query(NOTE)
            .bind(key)
            .bind(value)
            .execute(pool)
            .await
            .map_err(OpenError::Connect)?;
    }
    let found: Option<String> = sqlx::query_scalar(READ)
        .bind(key)
        .fetch_optional(pool)
        .await
        .map_err(OpenError::Connect)?;
    Ok(found.filter(|found| found != value))
}
