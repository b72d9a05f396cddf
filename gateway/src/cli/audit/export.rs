//! Writes the log as a static tree, from the gateway as an auditor or from the database, read-only.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use clap::Args;
use serde::Serialize;
use tonic::transport::Channel;
use waymark_audit::export::TreeWriter;
use waymark_core::port::Store;
use waymark_proto::v1;
use waymark_proto::v1::audit_service_client::AuditServiceClient;
use waymark_store::{Mode, Schema};
use waymark_tlog::Checkpoint;
use waymark_tlog::note::VerifierKey;

use super::super::client::{ClientArgs, ClientDuty};
use super::super::failure::{Failure, Refusal};
use super::super::output;
use super::parse_key;
use crate::app::open_store;
use crate::config::{Config, load_log_key};

/// Entries read in one page from the gateway: the most that it gives.
const GATEWAY_PAGE: u32 = 200;
/// Entries, or checkpoints, read in one page from the database.
const DATABASE_PAGE: u32 = 1_000;

/// Writes the log as a static tree.
#[derive(Args, Debug)]
pub(super) struct Export {
    /// Folder to write to; it must be empty or not exist.
    dir: PathBuf,
    /// Read the database that waymark.toml names, in place of the gateway.
    #[arg(long)]
    from_database: bool,
    /// The log's public key, as text or in a file, in place of the one in client.toml or keys/.
    #[arg(long, value_name = "KEY|FILE")]
    vkey: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Serialize)]
struct Exported {
    dir: PathBuf,
    size: u64,
    root: String,
    checkpoints: u64,
}

/// Where entries and checkpoints come from.
#[async_trait]
trait LogSource: Send {
    /// The newest checkpoint's signed note.
    async fn newest(&mut self) -> anyhow::Result<String>;
    /// Entries from an index on, in order; none at the end.
    async fn entries(&mut self, from: u64) -> anyhow::Result<Vec<Vec<u8>>>;
    /// Checkpoints after a size, in order; none at the end.
    async fn checkpoints(&mut self, after: u64) -> anyhow::Result<Vec<(u64, String)>>;
}

impl Export {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let given = self.vkey.as_deref().map(parse_key).transpose()?;
        let (key, mut source): (VerifierKey, Box<dyn LogSource>) = if self.from_database {
            let path = &self.client.config;
            let config = Config::load(path).with_context(|| format!("read {}", path.display()))?;
            let key = match given {
                Some(key) => key,
                None => load_log_key(&config.keys.log)
                    .context("find the log's public key (or give --vkey)")?
                    .verifier(),
            };
            let store = open_store(&config, Mode::ReadOnly, Schema::Expect).await?;
            (key, Box::new(Database(store)))
        } else {
            let Some(key) = given.map_or_else(|| self.client.log_vkey(), |key| Ok(Some(key)))?
            else {
                return Err(Failure::usage(
                    "give the log's public key: --vkey KEY|FILE, or log_vkey in client.toml",
                ));
            };
            let channel = self.client.connect(ClientDuty::Auditor).await?;
            (key, Box::new(Gateway(AuditServiceClient::new(channel))))
        };
        let exported = write(self.dir, &key, &mut *source).await?;
        output::show(&exported, |e| {
            format!(
                "wrote {} entries and {} checkpoints to {dir}\nroot {}\ncheck it: waymark audit verify {dir} --vkey KEY",
                e.size,
                e.checkpoints,
                e.root,
                dir = e.dir.display()
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes everything that the newest checkpoint covers; what comes meanwhile is left for the next export.
async fn write(
    dir: PathBuf,
    key: &VerifierKey,
    source: &mut dyn LogSource,
) -> anyhow::Result<Exported> {
    let newest = source.newest().await?;
    let size = Checkpoint::open(&newest, key)
        .context("the newest checkpoint is not this key's")?
        .size();
    let mut tree =
        TreeWriter::create(&dir).with_context(|| format!("write to {}", dir.display()))?;
    tree.key(key)?;
    let bar = output::progress(usize::try_from(size).unwrap_or(usize::MAX), "exporting");
    let (mut written, mut signed) = (0, 0);
    let mut checkpoints = Checkpoints {
        after: 0,
        page: VecDeque::new(),
    };
    while written < size {
        let page = source.entries(written).await?;
        ensure!(
            !page.is_empty(),
            "the log ends at {written}, before its checkpoint at {size}"
        );
        let left = usize::try_from(size - written).unwrap_or(usize::MAX);
        for entry in page.into_iter().take(left) {
            tree.append(&entry)?;
            written += 1;
            if written < size
                && let Some(note) = checkpoints.at(written, source).await?
            {
                tree.checkpoint(&note)?;
                signed += 1;
            }
        }
        bar.set_position(written);
    }
    tree.checkpoint(&newest)?;
    let exported = tree.finish()?;
    bar.finish_and_clear();
    Ok(Exported {
        dir,
        size: exported.size,
        root: exported.root.to_string(),
        checkpoints: signed + 1,
    })
}

/// Earlier checkpoints, read page by page as the tree grows past them.
struct Checkpoints {
    after: u64,
    page: VecDeque<(u64, String)>,
}

impl Checkpoints {
    async fn at(
        &mut self,
        size: u64,
        source: &mut dyn LogSource,
    ) -> anyhow::Result<Option<String>> {
        loop {
            match self.page.front() {
                Some((at, _)) if *at < size => bail!("the checkpoint at {at} came out of order"),
                Some((at, _)) if *at > size => return Ok(None),
                Some(_) => return Ok(self.page.pop_front().map(|(_, note)| note)),
                None => {
                    // Nothing is signed after u64::MAX: the source has given all that it keeps.
                    if self.after == u64::MAX {
                        return Ok(None);
                    }
                    self.page = source.checkpoints(self.after).await?.into();
                    self.after = self.page.back().map_or(u64::MAX, |(at, _)| *at);
                }
            }
        }
    }
}

struct Database(Arc<dyn Store>);

#[async_trait]
impl LogSource for Database {
    async fn newest(&mut self) -> anyhow::Result<String> {
        self.0
            .log_state()
            .await?
            .checkpoint
            .map(|newest| newest.note)
            .context("the log is empty")
    }

    async fn entries(&mut self, from: u64) -> anyhow::Result<Vec<Vec<u8>>> {
        let page = self.0.entries(from, DATABASE_PAGE).await?;
        in_order(from, page)
    }

    async fn checkpoints(&mut self, after: u64) -> anyhow::Result<Vec<(u64, String)>> {
        let page = self.0.checkpoints(after, DATABASE_PAGE).await?;
        Ok(page
            .into_iter()
            .map(|signed| (signed.size, signed.note))
            .collect())
    }
}

struct Gateway(AuditServiceClient<Channel>);

#[async_trait]
impl LogSource for Gateway {
    async fn newest(&mut self) -> anyhow::Result<String> {
        let answer = self
            .0
            .get_checkpoint(v1::GetCheckpointRequest {})
            .await
            .map_err(Refusal::from)?;
        let checkpoint = answer
            .into_inner()
            .checkpoint
            .context("the gateway answered without a checkpoint")?;
        String::from_utf8(checkpoint.note).context("the checkpoint is not text")
    }

    async fn entries(&mut self, from: u64) -> anyhow::Result<Vec<Vec<u8>>> {
        let ask = v1::ListEntriesRequest {
            page_size: GATEWAY_PAGE,
            start_index: from,
            ..Default::default()
        };
        let answer = self
            .0
            .list_entries(ask)
            .await
            .map_err(Refusal::from)?
            .into_inner();
        in_order(
            from,
            answer
                .entries
                .into_iter()
                .map(|e| (e.index, e.entry))
                .collect(),
        )
    }

    async fn checkpoints(&mut self, after: u64) -> anyhow::Result<Vec<(u64, String)>> {
        let ask = v1::ListCheckpointsRequest {
            page_size: GATEWAY_PAGE,
            after_size: after,
            ..Default::default()
        };
        let answer = self
            .0
            .list_checkpoints(ask)
            .await
            .map_err(Refusal::from)?
            .into_inner();
        let page = answer.checkpoints.into_iter().map(|signed| {
            let note = String::from_utf8(signed.note).context("a checkpoint is not text")?;
            Ok((signed.tree_size, note))
        });
        page.collect()
    }
}

/// The entries of a page, which must follow each other without a gap.
fn in_order(from: u64, page: Vec<(u64, Vec<u8>)>) -> anyhow::Result<Vec<Vec<u8>>> {
    for ((index, _), expected) in page.iter().zip(from..) {
        ensure!(
            *index == expected,
            "entry {expected} is missing from the log"
        );
    }
    Ok(page.into_iter().map(|(_, entry)| entry).collect())
}

#[cfg(test)]
mod tests {
    use waymark_audit::Verdict;
    use waymark_audit::verify::{Options, verify_tree};
    use waymark_tlog::note::SigningKey;
    use waymark_tlog::{Edge, leaf_hash};

    use super::*;

    /// A log with checkpoints at some sizes, given in pages of three.
    struct Pages {
        entries: Vec<Vec<u8>>,
        checkpoints: Vec<(u64, String)>,
    }

    impl Pages {
        fn new(size: u64, signed: &[u64], key: &SigningKey) -> Self {
            let mut edge = Edge::empty();
            let (mut entries, mut checkpoints) = (Vec::new(), Vec::new());
            for number in 1..=size {
                let entry = format!("entry {number}").into_bytes();
                edge.append(leaf_hash(&entry));
                entries.push(entry);
                if signed.contains(&number) || number == size {
                    let note = Checkpoint::new(key.name(), number, edge.root())
                        .unwrap()
                        .sign(key)
                        .unwrap();
                    checkpoints.push((number, note));
                }
            }
            Self {
                entries,
                checkpoints,
            }
        }
    }

    #[async_trait]
    impl LogSource for Pages {
        async fn newest(&mut self) -> anyhow::Result<String> {
            Ok(self.checkpoints.last().unwrap().1.clone())
        }
        async fn entries(&mut self, from: u64) -> anyhow::Result<Vec<Vec<u8>>> {
            Ok(self
                .entries
                .iter()
                .skip(usize::try_from(from).unwrap())
                .take(3)
                .cloned()
                .collect())
        }
        async fn checkpoints(&mut self, after: u64) -> anyhow::Result<Vec<(u64, String)>> {
            Ok(self
                .checkpoints
                .iter()
                .filter(|(at, _)| *at > after)
                .take(3)
                .cloned()
                .collect())
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_seed("waymark/test/x", [7; 32]).unwrap()
    }

    #[tokio::test]
    async fn every_checkpoint_is_written_where_it_was_signed() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Pages::new(11, &[1, 2, 5, 6, 7], &key());
        let out = dir.path().join("log");
        let exported = write(out.clone(), &key().verifier(), &mut log)
            .await
            .unwrap();
        assert_eq!((exported.size, exported.checkpoints), (11, 6));
        let mut names: Vec<u64> = std::fs::read_dir(out.join("checkpoints"))
            .unwrap()
            .map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, [1, 2, 5, 6, 7, 11]);
        let report = verify_tree(
            &out,
            &Options {
                keys: vec![key().verifier()],
                ..Options::default()
            },
        );
        assert_eq!(
            (report.size, report.checked.entries),
            (Some(11), 11),
            "{report:?}"
        );
        // These entries are not in the log's own form, which is all that may be found here.
        assert_ne!(report.verdict, Verdict::CannotTell);
    }

    #[tokio::test]
    async fn entries_after_the_newest_checkpoint_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Pages::new(4, &[], &key());
        log.entries.push(b"later".to_vec());
        let exported = write(dir.path().join("log"), &key().verifier(), &mut log)
            .await
            .unwrap();
        assert_eq!(exported.size, 4);
    }

    #[tokio::test]
    async fn a_log_that_is_shorter_than_its_checkpoint_or_of_another_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Pages::new(4, &[], &key());
        log.entries.pop();
        let short = write(dir.path().join("a"), &key().verifier(), &mut log)
            .await
            .unwrap_err();
        assert!(short.to_string().contains("ends at 3"), "{short}");
        let other = SigningKey::from_seed("waymark/test/x", [8; 32])
            .unwrap()
            .verifier();
        assert!(
            write(
                dir.path().join("b"),
                &other,
                &mut Pages::new(4, &[], &key())
            )
            .await
            .is_err()
        );
    }

    #[test]
    fn a_gap_in_a_page_is_found() {
        assert!(in_order(5, vec![(5, vec![1]), (6, vec![2])]).is_ok());
        assert!(
            in_order(5, vec![(5, vec![1]), (7, vec![2])])
                .unwrap_err()
                .to_string()
                .contains("entry 6")
        );
    }
}
