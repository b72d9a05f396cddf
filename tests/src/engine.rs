//! The two engines: a fresh database for each test, on real servers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use waymark_core::directory::Environment;
use waymark_core::port::Store;
use waymark_core::time::Timestamp;
use waymark_store::{Keyring, Mode, OpenOptions, Schema};

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Embedded.
    Sqlite,
    /// A server.
    Postgres,
}

/// A fresh database, gone when dropped (on `PostgreSQL`: left to the server's end).
#[derive(Debug)]
pub struct Database {
    /// Its URL.
    pub url: String,
    /// Its keyring's file.
    pub keyring: PathBuf,
    _folder: TempDir,
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// What `tests/run` says of where things are, or its own default.
pub fn setting(name: &str, default: &str) -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "the test set-up tells by the environment where its peers are"
    )]
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// The URL of the test server, started on first use and shared by all tests of a run.
///
/// # Errors
/// When the server cannot be started; `tests/run --setup-only` installs it.
pub fn postgres_url() -> anyhow::Result<String> {
    // Beneath the system's temporary folder, because the server's own user must be able to reach it.
    let folder = setting("WAYMARK_TEST_PG_DIR", "/tmp/waymark-test-postgres");
    let script = root().join("tests/peers/postgres.sh");
    let out = Command::new(&script)
        .arg("start")
        .arg(&folder)
        .arg("0")
        .output()
        .context("run postgres.sh")?;
    if !out.status.success() {
        bail!(
            "PostgreSQL did not start: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

impl Database {
    /// Makes a fresh database with a keyring of its own.
    ///
    /// # Errors
    /// When the server does not answer or the folder cannot be made.
    #[expect(clippy::unused_async, reason = "a server's answer is waited for here")]
    pub async fn new(engine: Engine) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let keyring = folder.path().join("keyring");
        Keyring::generate()?.save_new(&keyring)?;
        let url = match engine {
            Engine::Sqlite => format!("sqlite://{}", folder.path().join("waymark.db").display()),
            Engine::Postgres => {
                let server = postgres_url()?;
                let name = format!("t{}", uuid::Uuid::new_v4().simple());
                let base = server
                    .rsplit_once('/')
                    .map_or(server.as_str(), |(base, _)| base)
                    .to_owned();
                let out = Command::new("psql")
                    .arg(&server)
                    .arg("-qc")
                    .arg(format!("CREATE DATABASE {name}"))
                    .output()?;
                if !out.status.success() {
                    bail!("no database: {}", String::from_utf8_lossy(&out.stderr));
                }
                format!("{base}/{name}")
            }
        };
        Ok(Self {
            url,
            keyring,
            _folder: folder,
        })
    }

    /// Opens it as a writer.
    ///
    /// # Errors
    /// When it does not open.
    pub async fn open(&self, now: Timestamp) -> anyhow::Result<Arc<dyn Store>> {
        let options = OpenOptions {
            url: self.url.clone(),
            keyring: Keyring::load(&self.keyring)?,
            environment: Environment::Test,
            mode: Mode::Write,
            schema: Schema::Migrate,
            now,
            free_disk_min: 0,
        };
        Ok(waymark_store::open(options).await?)
    }
}

/// The engine that a test module is named after.
pub fn named(name: &str) -> Engine {
    if name.contains("postgres") {
        Engine::Postgres
    } else {
        Engine::Sqlite
    }
}
