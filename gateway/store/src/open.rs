//! Opening a database: schema, environment, keys, durability and the writer's lock are checked before anything runs.

use std::path::PathBuf;
use std::sync::Arc;

use waymark_core::directory::Environment;
use waymark_core::port::{Store, StoreError};
use waymark_core::time::Timestamp;

use crate::bare::BareStore;
use crate::seal::{Keyring, Seal};
use crate::{postgres, sqlite};

/// What a process may do with the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything. On SQLite one process alone.
    Write,
    /// Read beside a running gateway.
    ReadOnly,
}

/// How a write-ahead log of our own stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wal {
    /// Leave it.
    Short,
    /// Worth folding into the database, beside the writer.
    Grown,
    /// The writer itself must fold it and begin it anew.
    Long,
}

/// What to do with a schema that is older than this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Bring it up to date.
    Migrate,
    /// Refuse.
    Expect,
}

/// How to open a database.
#[derive(Debug)]
pub struct OpenOptions {
    /// `sqlite:///path/to/file.db`, `sqlite::memory:` or `postgres://…`.
    pub url: String,
    /// The keys.
    pub keyring: Keyring,
    /// Test or live: a database belongs to one of them for good.
    pub environment: Environment,
    /// What this process may do.
    pub mode: Mode,
    /// What to do with an older schema.
    pub schema: Schema,
    /// Now, for the first upkeep.
    pub now: Timestamp,
    /// Bytes of free disk below which nothing new is accepted, on an engine of one machine's own (ruling 16).
    pub free_disk_min: u64,
}

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL names no engine.
    #[error("a database URL begins with `sqlite:` or `postgres://`")]
    Engine,
    /// The URL cannot be read.
    #[error("the database URL cannot be read")]
    Url(#[source] sqlx::Error),
    /// No connection.
    #[error("the database does not answer")]
    Connect(#[source] sqlx::Error),
    /// There is no database to read.
    #[error("there is no database at {path}")]
    NoDatabase {
        /// Where it should be.
        path: PathBuf,
    },
    /// A database in memory cannot be shared.
    #[error(
        "a database in memory is seen by its own process alone, and cannot be opened for reading"
    )]
    Memory,
    /// Another process writes.
    #[error("another process holds the writer lock {path}: stop it, or use a command that reads")]
    WriterHeld {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file cannot be made.
    #[error("the writer lock {path} cannot be taken")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The server may lose what it said it had kept.
    #[error("the server has {setting} off: it may lose what it said it had kept")]
    NotDurable {
        /// The setting.
        setting: String,
    },
    /// The schema is newer than this program.
    #[error(
        "the database's schema {found} is newer than this program knows: run the newer program"
    )]
    SchemaNewer {
        /// The version found.
        found: i64,
    },
    /// The schema is older than this program.
    #[error("the database's schema is older than this program: run `waymark migrate`")]
    SchemaOlder,
    /// A migration failed.
    #[error("the schema could not be brought up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// Test met live.
    #[error("the database is `{found}` and this process is `{asked}`")]
    Environment {
        /// What the database is.
        found: String,
        /// What this process is.
        asked: &'static str,
    },
    /// The keyring is another database's.
    #[error("the keyring does not belong to this database")]
    Keyring,
    /// The keyring was read from before a rotation.
    #[error(
        "the keyring's newest epoch is {asked}, and the database is at epoch {found}: give it the newest keyring file"
    )]
    KeyringOlder {
        /// The database's epoch.
        found: String,
        /// The keyring's.
        asked: i64,
    },
    /// The first reads or writes failed.
    #[error("the database failed at its first use")]
    Store(#[source] StoreError),
}

enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    fn of(url: &str) -> Result<Self, OpenError> {
        if url.starts_with("sqlite:") {
            Ok(Self::Sqlite)
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            Ok(Self::Postgres)
        } else {
            Err(OpenError::Engine)
        }
    }
}

/// Opens a database. As a writer it starts the committer, which ends when the store is dropped.
///
/// # Errors
/// [`OpenError::WriterHeld`] when another process writes to the same SQLite database.
pub async fn open(options: OpenOptions) -> Result<Arc<dyn Store>, OpenError> {
    let seal = Seal::new(&options.keyring).map_err(OpenError::Store)?;
    match Engine::of(&options.url)? {
        Engine::Sqlite => Ok(sqlite::queries::open(options, seal).await?),
        Engine::Postgres => Ok(postgres::queries::open(options, seal).await?),
    }
}

/// Opens a database to measure the limit of grouped commits on it; its rows are of no use afterwards.
///
/// # Errors
/// As [`open`].
pub async fn open_bare(options: OpenOptions) -> Result<Arc<dyn BareStore>, OpenError> {
    let seal = Seal::new(&options.keyring).map_err(OpenError::Store)?;
    match Engine::of(&options.url)? {
        Engine::Sqlite => Ok(sqlite::queries::open_bare(options, seal).await?),
        Engine::Postgres => Ok(postgres::queries::open_bare(options, seal).await?),
    }
}

/// Brings a database's schema up to date, making the database where the engine can.
pub async fn migrate(url: &str) -> Result<(), OpenError> {
    match Engine::of(url)? {
        Engine::Sqlite => sqlite::queries::migrate(url).await,
        Engine::Postgres => postgres::queries::migrate(url).await,
    }
}
