//! The delivery log: its stored edge leads to its root, and its newest checkpoint has signed that root.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use waymark_core::port::Store;
use waymark_tlog::note::VerifierKey;
use waymark_tlog::{Checkpoint, Hash, root_from_tiles, tiles_for_root};

use super::{Health, Stage};

/// Looks at the log's edge, root and newest checkpoint; `audit verify` looks at every entry.
pub(super) async fn check(store: &dyn Store, key: Option<&VerifierKey>) -> anyhow::Result<Stage> {
    let state = store.log_state().await.context("read the log's state")?;
    let tiles: BTreeMap<_, _> = store
        .tiles(&tiles_for_root(state.size)?)
        .await
        .context("read the log's edge")?
        .into_iter()
        .collect();
    let root = root_from_tiles(state.size, &tiles).context("the log's edge is not whole")?;
    if root != Hash::from_bytes(state.root) {
        bail!(
            "the stored edge leads to root {root}, and the stored root is {}",
            Hash::from_bytes(state.root)
        );
    }
    let mut stage = Stage::ok("log", format!("{} entries, root {root}", state.size));
    match (&state.checkpoint, key) {
        (None, _) if state.size == 0 => stage.add(Health::Ok, "no checkpoint yet"),
        (None, _) => stage.add(Health::Fail, "it has entries and no checkpoint"),
        (Some(_), None) => stage.add(
            Health::Warn,
            "its checkpoint is not verified: there is no log key",
        ),
        (Some(newest), Some(key)) => {
            let signed = Checkpoint::open(&newest.note, key)
                .context("the newest checkpoint is not this deployment's key's")?;
            if (signed.size(), signed.root()) != (state.size, root) {
                bail!(
                    "the newest checkpoint signs {} entries with root {}",
                    signed.size(),
                    signed.root()
                );
            }
            stage.add(
                Health::Ok,
                format!("checkpoint of {} signed", signed.origin()),
            );
        }
    }
    Ok(stage)
}
