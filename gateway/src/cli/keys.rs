//! `waymark keys`: the keyring's epochs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use waymark_core::port::KeyEpochs;
use waymark_store::{Keyring, Mode, Schema};

use super::failure::Failure;
use super::output;
use crate::app::open_store;
use crate::config::Config;

/// Shows, rotates and destroys the keys that children's keys are wrapped by.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark keys list
  waymark keys rotate
  waymark keys destroy 1

Everything at rest is sealed under a key of its child, and that key is wrapped by the newest epoch of the keyring. To
retire an epoch, and with it all that backups still hold of children who were erased since:
  1. waymark keys rotate       a new epoch is added to the keyring file; back the file up apart from the database
  2. stop every gateway and worker, give each that file, then start them: one that runs with the older file cannot read
     what one with the newer has wrapped. As they run they wrap all older keys anew, some hundreds a second
  3. waymark keys list         until the old epoch wraps nothing
  4. waymark keys destroy 1    the old key leaves the file; delete its backups too")]
pub(super) struct Options {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        default_value = "waymark.toml",
        env = "WAYMARK_CONFIG"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the epochs, and how many children's keys each wraps.
    List,
    /// Adds a random key of a new epoch to the keyring file.
    Rotate,
    /// Takes an epoch that wraps nothing out of the keyring file.
    Destroy {
        /// The epoch.
        epoch: u32,
    },
}

impl Options {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&self.config)
            .with_context(|| format!("read {}", self.config.display()))?;
        match self.command {
            Command::List => list(&config).await?,
            Command::Rotate => rotate(&config)?,
            Command::Destroy { epoch } => destroy(&config, epoch).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What `keys` answers in JSON.
#[derive(Debug, Serialize)]
struct Shown {
    newest: u32,
    in_use: u32,
    epochs: Vec<ShownEpoch>,
}

#[derive(Debug, Serialize)]
struct ShownEpoch {
    epoch: u32,
    in_keyring: bool,
    subjects: u64,
}

#[derive(Debug, Serialize)]
struct Rotated {
    newest: u32,
}

#[derive(Debug, Serialize)]
struct Destroyed {
    destroyed: u32,
    newest: u32,
}

fn shown(keyring: &Keyring, wrapped: &KeyEpochs) -> Shown {
    let subjects = |epoch| {
        let found = wrapped.epochs.iter().find(|e| e.epoch == epoch);
        found.map_or(0, |e| e.subjects)
    };
    let mut epochs: Vec<ShownEpoch> = keyring
        .epochs()
        .map(|epoch| ShownEpoch {
            epoch,
            in_keyring: true,
            subjects: subjects(epoch),
        })
        .collect();
    let missing = wrapped
        .epochs
        .iter()
        .filter(|e| keyring.epochs().all(|has| has != e.epoch));
    epochs.extend(missing.map(|e| ShownEpoch {
        epoch: e.epoch,
        in_keyring: false,
        subjects: e.subjects,
    }));
    epochs.sort_by_key(|e| e.epoch);
    Shown {
        newest: keyring.newest(),
        in_use: wrapped.in_use,
        epochs,
    }
}

async fn wrapped(config: &Config) -> anyhow::Result<KeyEpochs> {
    let store = open_store(config, Mode::ReadOnly, Schema::Expect).await?;
    store.key_epochs().await.context("count the keys")
}

fn keyring(config: &Config) -> anyhow::Result<Keyring> {
    let path = &config.keys.keyring;
    Keyring::load(path).with_context(|| format!("read the keyring {}", path.display()))
}

async fn list(config: &Config) -> anyhow::Result<()> {
    let shown = shown(&keyring(config)?, &wrapped(config).await?);
    output::show(&shown, |shown| {
        let mut table = output::table(["epoch", "key", "wraps"]);
        for e in &shown.epochs {
            let key = match (e.in_keyring, e.epoch == shown.newest) {
                (true, true) => "newest",
                (true, false) => "older",
                (false, _) => "MISSING",
            };
            let children = format!("{} children's keys", e.subjects);
            table.add_row([e.epoch.to_string(), key.to_owned(), children]);
        }
        if shown.in_use < shown.newest {
            let (newest, in_use) = (shown.newest, shown.in_use);
            return format!(
                "{table}\nthe gateway still runs with epoch {in_use}: restart it to use epoch {newest}"
            );
        }
        table.to_string()
    })
}

fn rotate(config: &Config) -> anyhow::Result<()> {
    let path = &config.keys.keyring;
    let mut keyring = keyring(config)?;
    let epoch = keyring.rotate()?;
    keyring
        .replace(path)
        .with_context(|| format!("write the keyring {}", path.display()))?;
    output::show(&Rotated { newest: epoch }, |_| {
        format!(
            "{} has epoch {epoch} now: back it up apart from the database, then stop every gateway and worker, give each this file, and start them",
            path.display()
        )
    })
}

async fn destroy(config: &Config, epoch: u32) -> anyhow::Result<()> {
    let mut ring = keyring(config)?;
    let newest = ring.newest();
    let wrapped = wrapped(config).await?;
    if wrapped.in_use < newest {
        return Err(Failure::usage(format!(
            "epoch {newest} is not in use yet: restart every gateway and worker first, so that none wraps by an older one"
        )));
    }
    if let Some(found) = wrapped.epochs.iter().find(|e| e.epoch == epoch) {
        return Err(Failure::usage(format!(
            "epoch {epoch} still wraps {} children's keys: a running gateway wraps them anew, see `waymark keys list`",
            found.subjects
        )));
    }
    if !ring.destroy(epoch)? {
        return Err(Failure::usage(format!("the keyring has no epoch {epoch}")));
    }
    let path = &config.keys.keyring;
    ring.replace(path)
        .with_context(|| format!("write the keyring {}", path.display()))?;
    let destroyed = Destroyed {
        destroyed: epoch,
        newest,
    };
    output::show(&destroyed, |_| {
        format!(
            "epoch {epoch} is gone from {}: delete its backups too",
            path.display()
        )
    })
}
