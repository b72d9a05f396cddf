//! Logs of our own making, written by the export writer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use waymark_audit::Report;
use waymark_audit::export::{Exported, TreeWriter};
use waymark_audit::verify::{Options, verify_tree};
use waymark_core::audit::{Code, Commitment, CommitmentTag, EntryKind, LogEntry};
use waymark_core::id::{EventId, StreamId};
use waymark_core::time::Timestamp;
use waymark_tlog::note::SigningKey;
use waymark_tlog::{
    Checkpoint, Edge, Hash, TileId, TlogProof, inclusion_proof, leaf_hash, root_from_tiles,
};

pub(crate) const ORIGIN: &str = "gateway.test/delivery/2026";
pub(crate) const SALT: [u8; 32] = [0x5A; 32];
pub(crate) const BODY: &[u8] = b"the exact bytes that were submitted";
/// Sizes at which the sample log was signed.
pub(crate) const SIGNED: [u64; 6] = [0, 1, 100, 256, 300, 600];
const STREAMS: u64 = 40;

/// An exported log in a directory of its own.
pub(crate) struct Sample {
    dir: TempDir,
    pub(crate) log: Log,
}

impl Sample {
    /// 600 entries in 40 streams, with receipts and an opening.
    pub(crate) fn new() -> Self {
        Self::of(Log::honest(600), &SIGNED)
    }

    pub(crate) fn of(log: Log, signed: &[u64]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        log.export(dir.path(), signed);
        Self { dir, log }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn verify(&self) -> Report {
        self.verify_with(&Options::default())
    }

    pub(crate) fn verify_with(&self, options: &Options) -> Report {
        verify_tree(self.path(), options)
    }

    /// Every file, relative to the root of the tree, in order.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![self.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for item in fs::read_dir(&folder).expect("listed") {
                let path = item.expect("listed").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let path = path
                        .strip_prefix(self.path())
                        .expect("below the root")
                        .to_owned();
                    files.push(path.into_os_string().into_string().expect("text"));
                }
            }
        }
        files.sort();
        files
    }

    pub(crate) fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path().join(file)).expect("there")
    }

    pub(crate) fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let path: PathBuf = self.path().join(file);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.path().join(file)).expect("removed");
    }
}

/// The entries of a log, and the key that signs for it.
pub(crate) struct Log {
    pub(crate) key: SigningKey,
    pub(crate) entries: Vec<LogEntry>,
    /// The bytes that go into the tree, from which tests may depart.
    pub(crate) bytes: Vec<Vec<u8>>,
}

impl Log {
    pub(crate) fn honest(size: u64) -> Self {
        let mut entries = Vec::new();
        let mut tips: BTreeMap<u64, (u32, [u8; 32])> = BTreeMap::new();
        for n in 0..size {
            let tip = tips.get(&(n % STREAMS)).copied();
            let entry = entry(n, n % STREAMS, tip);
            tips.insert(
                n % STREAMS,
                (entry.stream_seq, *leaf_hash(&entry.encode()).as_bytes()),
            );
            entries.push(entry);
        }
        Self::of(entries)
    }

    pub(crate) fn of(entries: Vec<LogEntry>) -> Self {
        let key = SigningKey::from_seed(ORIGIN, [3; 32]).expect("good name");
        let bytes = entries.iter().map(LogEntry::encode).collect();
        Self {
            key,
            entries,
            bytes,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.bytes.len()).expect("small")
    }

    pub(crate) fn export(&self, dir: &Path, signed: &[u64]) -> Exported {
        let mut writer = TreeWriter::create(dir).expect("an empty directory");
        writer.key(&self.key.verifier()).expect("written");
        for size in 0..=self.size() {
            if signed.contains(&size) || size == self.size() {
                writer.checkpoint(&self.note(size)).expect("own checkpoint");
            }
            if let Some(bytes) = self.bytes.get(usize::try_from(size).expect("small")) {
                writer.append(bytes).expect("short entry");
            }
        }
        for (index, size) in [(0, 1), (17, 300), (299, 300), (599, 600)] {
            if let (true, Some(entry)) = (size <= self.size(), self.entry(index)) {
                writer
                    .receipt(entry.event, &self.receipt(index, size))
                    .expect("written");
            }
        }
        if let Some(entry) = self.entry(17) {
            writer
                .opening(entry.event, CommitmentTag::Payload, &SALT, BODY)
                .expect("written");
        }
        writer.finish().expect("covered")
    }

    pub(crate) fn note(&self, size: u64) -> String {
        let root = root_from_tiles(size, &self.tiles(size)).expect("tiles");
        Checkpoint::new(ORIGIN, size, root)
            .expect("good origin")
            .sign(&self.key)
            .expect("own key")
    }

    pub(crate) fn receipt(&self, index: u64, size: u64) -> TlogProof {
        let entry = self
            .bytes
            .get(usize::try_from(index).expect("small"))
            .cloned();
        TlogProof {
            index,
            hashes: inclusion_proof(index, size, &self.tiles(size)).expect("tiles"),
            checkpoint_note: self.note(size),
            extra: entry.filter(|_| index % 2 == 1),
        }
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&LogEntry> {
        self.entries.get(usize::try_from(index).expect("small"))
    }

    fn tiles(&self, size: u64) -> BTreeMap<TileId, Vec<u8>> {
        let mut edge = Edge::empty();
        for bytes in self
            .bytes
            .iter()
            .take(usize::try_from(size).expect("small"))
        {
            edge.append(leaf_hash(bytes));
        }
        edge.take_changed().into_iter().collect()
    }
}

/// Entry `n` of the log, which continues its stream after `tip`.
pub(crate) fn entry(n: u64, stream: u64, tip: Option<(u32, [u8; 32])>) -> LogEntry {
    let code = |name: &str, value: String| Code {
        name: name.into(),
        value,
    };
    LogEntry {
        kind: if tip.is_none() {
            EntryKind::Accepted
        } else {
            EntryKind::Attempt
        },
        event: EventId::from_bytes(id(0xE0, n)),
        at: Timestamp::from_ms(1_790_000_000_000 + i64::try_from(n).expect("small") * 1000),
        stream: stream_id(stream),
        stream_seq: tip.map_or(0, |(seq, _)| seq + 1),
        prev_leaf: tip.map(|(_, leaf)| leaf),
        actor: id(0xA0, n % 7),
        org: "EE123456".parse().expect("good code"),
        codes: vec![
            code("rule", "asd-under-5".into()),
            code("endpoint", format!("ep-{}", n % 9)),
        ],
        commitments: vec![Commitment::to(CommitmentTag::Payload, &SALT, BODY)],
        reference: None,
    }
}

pub(crate) fn stream_id(stream: u64) -> StreamId {
    StreamId::from_bytes(id(0x50, stream))
}

pub(crate) fn leaf(bytes: &[u8]) -> Hash {
    leaf_hash(bytes)
}

fn id(kind: u8, n: u64) -> [u8; 16] {
    let mut bytes = [kind; 16];
    bytes
        .iter_mut()
        .rev()
        .zip(n.to_le_bytes())
        .for_each(|(byte, digit)| *byte = digit);
    bytes
}
