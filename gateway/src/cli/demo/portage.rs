//! The portage team: a program that knows a folder. It takes messages from the outbox, checks and stores them, writes
//! receipts and statuses back, and leaves a referral of its own in the inbox.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use waymark_adapters::file::send::{INBOX, OUTBOX, RECEIPTS, SentAs, message_of};
use waymark_adapters::file::{Format, MANIFEST_SUFFIX, Manifest, Name};
use waymark_core::delivery::Kind;
use waymark_core::directory::Environment;
use waymark_core::time::Clock as _;

use super::event;
use super::ledger::{Ledger, Taken};
use crate::cli::send::folder::put;
use crate::clock::SystemClock;
use crate::lifecycle::{FailureEffect, Lifecycle};

/// The team's code in the directory.
pub(super) const AGENCY: &str = "PORT1";

/// The pause between two looks into the folder.
const LOOK: Duration = Duration::from_millis(200);

/// The running team.
pub(super) struct Portage {
    /// What it took.
    pub(super) ledger: Arc<Ledger>,
    folder: PathBuf,
}

struct Desk {
    ledger: Arc<Ledger>,
    folder: PathBuf,
}

impl Portage {
    /// Begins to look into its folder.
    pub(super) fn open(folder: PathBuf, lifecycle: &Lifecycle) -> Self {
        let ledger = Arc::new(Ledger::new(AGENCY));
        let desk = Desk {
            ledger: Arc::clone(&ledger),
            folder: folder.clone(),
        };
        let stop = lifecycle.stopping();
        lifecycle.spawn(
            "demo portage team",
            FailureEffect::EndProcess,
            desk.run(stop),
        );
        Self { ledger, folder }
    }

    /// Refers a child: what the gateway makes of it is seen later.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(super) fn refer(&self, referral: &[u8]) -> anyhow::Result<()> {
        leave(&self.folder, referral)
    }
}

/// Leaves a message of canonical JSON in the inbox.
fn leave(folder: &Path, data: &[u8]) -> anyhow::Result<()> {
    let left = message_of(
        Format::Canonical,
        data,
        SentAs::New,
        Environment::Test,
        SystemClock.now(),
    );
    let left = left.map_err(|fault| anyhow::anyhow!("{fault}"))?;
    let inbox = folder.join(INBOX);
    put(&inbox, &left.data_name, data)
        .and_then(|()| put(&inbox, &left.manifest_name, &left.manifest))
        .context("leave a message in the inbox")
}

impl Desk {
    async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        while !stop.is_cancelled() {
            if let Err(why) = self.look() {
                self.ledger
                    .fault(format!("its folder could not be read: {why:#}"));
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        Ok(())
    }

    fn look(&self) -> anyhow::Result<()> {
        let outbox = self.folder.join(OUTBOX);
        // The gateway makes the folders when it first looks.
        if !outbox.is_dir() || !self.folder.join(RECEIPTS).is_dir() {
            return Ok(());
        }
        let mut manifests = Vec::new();
        for entry in fs::read_dir(&outbox)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.ends_with(MANIFEST_SUFFIX)) {
                manifests.push(path);
            }
        }
        // Ids begin with the time of their making.
        manifests.sort();
        for manifest in manifests {
            self.take(&outbox, &manifest)?;
        }
        Ok(())
    }

    fn take(&self, outbox: &Path, path: &Path) -> anyhow::Result<()> {
        let manifest: Manifest = serde_json::from_slice(&fs::read(path)?)?;
        let file = manifest.data().context("a manifest without data")?;
        let data_path = outbox.join(file.name.as_str());
        let data = fs::read(&data_path)?;
        let sum = hex::encode(digest(&SHA256, &data));
        ensure!(sum == file.sha256, "the digest is not the file's");
        let arrival = event::read(&data)?;
        ensure!(
            arrival.wire_id == manifest.id.as_str() && arrival.kind == manifest.kind,
            "the manifest and the message differ"
        );
        let (wire_id, reference) = (arrival.wire_id.clone(), arrival.reference.clone());
        let is_new = self.ledger.take(arrival, &data) == Taken::First && manifest.kind == Kind::New;
        let own = format!("{AGENCY}/{wire_id}");
        let receipt = json!({ "id": wire_id, "receiver_reference": own });
        let name = Name::parse(&format!("{wire_id}.receipt.json"))?;
        put(
            &self.folder.join(RECEIPTS),
            &name,
            receipt.to_string().as_bytes(),
        )?;
        if is_new {
            let status = json!({
                "type": "referral.status", "environment": "test", "referral": reference,
                "answers": wire_id, "state": "accepted", "source_version": 1, "receiver_reference": own,
            });
            leave(&self.folder, status.to_string().as_bytes())?;
        }
        // Taken: the manifest goes first, so that what is left of an interrupted look is no message.
        fs::remove_file(path)?;
        fs::remove_file(data_path)?;
        Ok(())
    }
}
