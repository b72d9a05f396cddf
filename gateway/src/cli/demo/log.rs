//! The delivery log, fetched by an auditor over gRPC, written as a static tree and verified offline.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tonic::transport::Channel;
use waymark_audit::export::TreeWriter;
use waymark_audit::verify::{Exhibit, Options, verify_tree};
use waymark_audit::{Report, Verdict};
use waymark_core::audit::{EntryKind, LogEntry, leaf_hash};
use waymark_proto::v1;
use waymark_proto::v1::audit_service_client::AuditServiceClient;
use waymark_tlog::note::VerifierKey;

use super::wait::until;
use crate::cli::failure::Refusal;

/// Where the tree is written, within the deployment.
pub(super) const FOLDER: &str = "log";
/// Entries asked for in one page.
const PAGE: u32 = 200;
/// The most entries that the demo exports.
const ENTRIES_MAX: u64 = 200_000;
/// How long the log may take to hold everything.
const COMPLETE_WITHIN: Duration = Duration::from_secs(20);

/// What the log was found to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Verified {
    /// Entries that the verified checkpoint covers.
    pub(super) size: u64,
    /// Whether the whole tree verified under the pinned key, and holds everything that the school was promised.
    pub(super) holds: bool,
    /// What does not hold.
    pub(super) faults: Vec<String>,
    /// Where the tree is.
    pub(super) tree: PathBuf,
}

/// The log at one size.
struct Snapshot {
    note: String,
    entries: Vec<Vec<u8>>,
}

/// Exports the log and verifies it with the key that `init` gave out. `receipts` are the school's own.
///
/// # Errors
/// When the log cannot be fetched or written.
pub(super) async fn verify(
    channel: Channel,
    vkey: &str,
    dir: &Path,
    receipts: &[v1::Receipt],
) -> anyhow::Result<Verified> {
    let key = VerifierKey::parse(vkey).context("read the log's public key")?;
    let client = AuditServiceClient::new(channel);
    let promised: BTreeSet<&[u8]> = receipts.iter().map(|r| r.leaf_hash.as_slice()).collect();
    let complete = until(COMPLETE_WITHIN, async || {
        let snapshot = fetch(client.clone()).await?;
        let held: BTreeSet<[u8; 32]> = snapshot
            .entries
            .iter()
            .map(|entry| leaf_hash(entry))
            .collect();
        let all = promised
            .iter()
            .all(|leaf| <[u8; 32]>::try_from(*leaf).is_ok_and(|leaf| held.contains(&leaf)));
        Ok(all.then_some(snapshot))
    });
    let Some(snapshot) = complete.await? else {
        bail!("the log does not hold everything that receipts promise");
    };
    let mut faults = accepted_faults(&snapshot, receipts)?;
    let exhibits = exhibits(receipts);
    if exhibits.len() != receipts.len() {
        faults.push(format!(
            "{} receipts came without a proof",
            receipts.len() - exhibits.len()
        ));
    }
    let tree = dir.join(FOLDER);
    let size = u64::try_from(snapshot.entries.len())?;
    let report = {
        let (tree, key) = (tree.clone(), key.clone());
        tokio::task::spawn_blocking(move || write_and_verify(&tree, &key, &snapshot, exhibits))
            .await??
    };
    let covers = report.size == Some(size) && report.keys_pinned;
    if report.verdict != Verdict::Ok || !covers {
        faults.push(format!(
            "the log's verdict is {:?} for {:?} of {size} entries",
            report.verdict, report.size
        ));
        faults.extend(
            report
                .findings
                .iter()
                .map(|f| format!("log: {} {:?}: {}", f.file, f.what, f.detail)),
        );
    }
    Ok(Verified {
        size,
        holds: faults.is_empty(),
        faults,
        tree,
    })
}

async fn fetch(mut client: AuditServiceClient<Channel>) -> anyhow::Result<Snapshot> {
    let answer = client
        .get_checkpoint(v1::GetCheckpointRequest {})
        .await
        .map_err(Refusal::from);
    let checkpoint = answer
        .context("ask for a checkpoint")?
        .into_inner()
        .checkpoint
        .context("no checkpoint")?;
    let note = String::from_utf8(checkpoint.note).context("read a checkpoint")?;
    ensure!(
        checkpoint.tree_size <= ENTRIES_MAX,
        "the log has more than {ENTRIES_MAX} entries"
    );
    let wanted = usize::try_from(checkpoint.tree_size)?;
    let mut entries = Vec::with_capacity(wanted);
    let mut page_token = String::new();
    while entries.len() < wanted {
        let ask = v1::ListEntriesRequest {
            page_size: PAGE,
            page_token,
            ..v1::ListEntriesRequest::default()
        };
        let page = client
            .list_entries(ask)
            .await
            .map_err(Refusal::from)
            .context("list the log")?
            .into_inner();
        ensure!(
            !page.entries.is_empty(),
            "the log ends before its checkpoint"
        );
        for entry in page.entries {
            ensure!(
                entry.index == u64::try_from(entries.len())?,
                "the log skips entry {}",
                entries.len()
            );
            entries.push(entry.entry);
            if entries.len() == wanted {
                break;
            }
        }
        page_token = page.next_page_token;
    }
    Ok(Snapshot { note, entries })
}

/// Compares the accepts in the log with the receipts, one for one.
fn accepted_faults(snapshot: &Snapshot, receipts: &[v1::Receipt]) -> anyhow::Result<Vec<String>> {
    let mut logged = BTreeSet::new();
    for bytes in &snapshot.entries {
        let entry = LogEntry::decode(bytes).context("read an entry")?;
        if entry.kind == EntryKind::Accepted {
            logged.insert(entry.event.to_string());
        }
    }
    let promised: BTreeSet<String> = receipts.iter().map(|r| r.event_id.clone()).collect();
    if logged == promised {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "the log has {} accepts, the school {} receipts",
        logged.len(),
        promised.len()
    )])
}

fn exhibits(receipts: &[v1::Receipt]) -> Vec<Exhibit> {
    let proof = |receipt: &v1::Receipt| {
        let text = String::from_utf8(receipt.tlog_proof.clone())
            .ok()
            .filter(|text| !text.is_empty())?;
        Some(Exhibit {
            name: format!("receipt of {}", receipt.reference),
            text,
        })
    };
    receipts.iter().filter_map(proof).collect()
}

fn write_and_verify(
    tree: &Path,
    key: &VerifierKey,
    snapshot: &Snapshot,
    receipts: Vec<Exhibit>,
) -> anyhow::Result<Report> {
    let mut writer = TreeWriter::create(tree)?;
    writer.key(key)?;
    for entry in &snapshot.entries {
        writer.append(entry)?;
    }
    writer
        .checkpoint(&snapshot.note)
        .context("the log's checkpoint")?;
    writer.finish()?;
    Ok(verify_tree(
        tree,
        &Options {
            keys: vec![key.clone()],
            receipts,
            ..Options::default()
        },
    ))
}
