//! Writes the static tree that [`crate::verify`] and foreign tlog-tiles readers check.
//!
//! ```text
//! checkpoint                     latest signed checkpoint, written last
//! checkpoints/<size>             every checkpoint given
//! tile/<level>/<n>[.p/<width>]   hashes
//! tile/entries/<n>[.p/<width>]   entries
//! keys/<key id>.vkey             public keys
//! receipts/<event>.tlog-proof    receipts, optional
//! openings/<event>.<tag>         32 bytes of salt, then the committed bytes, optional
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use waymark_core::audit::CommitmentTag;
use waymark_core::id::EventId;
use waymark_tlog::note::VerifierKey;
use waymark_tlog::{
    BundleError, Checkpoint, CheckpointError, Edge, HASH_BYTES, Hash, TILE_WIDTH, TlogProof,
    bundle_path, encode_bundle, leaf_hash,
};

use crate::layout::{
    CHECKPOINT, SALT_BYTES, checkpoint_path, key_path, opening_path, receipt_path,
};

/// Why a tree cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The directory to write to has something in it.
    #[error("the export directory is not empty")]
    NotEmpty,
    /// A checkpoint is not one that the given keys have signed.
    #[error("the checkpoint is refused")]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint's size or root is not that of the entries so far: the log itself is damaged.
    #[error("the checkpoint at {signed_size} does not fit the {size} entries written")]
    CheckpointMismatch {
        /// Size by the checkpoint.
        signed_size: u64,
        /// Entries written so far.
        size: u64,
    },
    /// The last checkpoint does not cover the last entry.
    #[error("no checkpoint covers the last entry")]
    NotCovered,
    /// An entry does not fit a bundle.
    #[error("an entry does not fit a bundle")]
    Bundle(#[from] BundleError),
    /// A file could not be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Entries.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
}

/// Writes a tree file by file, in constant memory; each file appears under its name only when whole.
#[derive(Debug)]
pub struct TreeWriter {
    root: PathBuf,
    edge: Edge,
    /// Entries of the bundle that is not full yet.
    bundle: Vec<Vec<u8>>,
    keys: Vec<VerifierKey>,
    latest: Option<(u64, String)>,
}

impl TreeWriter {
    /// Starts a tree in a directory that is empty or not there yet.
    pub fn create(dir: &Path) -> Result<Self, ExportError> {
        let failed = |source| ExportError::Write {
            path: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        if fs::read_dir(dir).map_err(failed)?.next().is_some() {
            return Err(ExportError::NotEmpty);
        }
        Ok(Self {
            root: dir.to_owned(),
            edge: Edge::empty(),
            bundle: Vec::new(),
            keys: Vec::new(),
            latest: None,
        })
    }

    /// Writes a public key of the log; at least one comes before the first checkpoint.
    pub fn key(&mut self, key: &VerifierKey) -> Result<(), ExportError> {
        self.write(&key_path(key), format!("{key}\n").as_bytes())?;
        self.keys.push(key.clone());
        Ok(())
    }

    /// Appends the verbatim bytes of the next entry and gives its leaf hash.
    pub fn append(&mut self, entry: &[u8]) -> Result<Hash, ExportError> {
        let leaf = leaf_hash(entry);
        self.edge.append(leaf);
        self.bundle.push(entry.to_vec());
        if self.bundle.len() == TILE_WIDTH {
            self.write_bundle()?;
            self.write_full_tiles()?;
        }
        Ok(leaf)
    }

    /// Writes a signed checkpoint; it must cover exactly the entries so far.
    pub fn checkpoint(&mut self, note: &str) -> Result<(), ExportError> {
        let checkpoint = Checkpoint::open_any(note, &self.keys)?;
        let size = self.edge.size();
        if checkpoint.size() != size || checkpoint.root() != self.edge.root() {
            let signed_size = checkpoint.size();
            return Err(ExportError::CheckpointMismatch { signed_size, size });
        }
        self.write(&checkpoint_path(size), note.as_bytes())?;
        self.latest = Some((size, note.to_owned()));
        Ok(())
    }

    /// Writes the receipt of an event. Its extra data is left out or is the entry's bytes.
    pub fn receipt(&mut self, event: EventId, proof: &TlogProof) -> Result<(), ExportError> {
        self.write(&receipt_path(event), proof.encode().as_bytes())
    }

    /// Writes the salt and bytes behind a commitment of an event: personal data, never by default.
    pub fn opening(
        &mut self,
        event: EventId,
        tag: CommitmentTag,
        salt: &[u8; SALT_BYTES],
        bytes: &[u8],
    ) -> Result<(), ExportError> {
        self.write(&opening_path(event, tag), &[salt, bytes].concat())
    }

    /// Writes the right edge and, last of all, the latest checkpoint.
    pub fn finish(mut self) -> Result<Exported, ExportError> {
        let size = self.edge.size();
        let (_, note) = self
            .latest
            .take()
            .filter(|(signed, _)| *signed == size)
            .ok_or(ExportError::NotCovered)?;
        if !self.bundle.is_empty() {
            self.write_bundle()?;
        }
        for (id, bytes) in self.edge.partial_tiles() {
            self.write(&id.path(bytes.len() / HASH_BYTES), &bytes)?;
        }
        self.write(CHECKPOINT, note.as_bytes())?;
        Ok(Exported {
            size,
            root: self.edge.root(),
        })
    }

    fn write_bundle(&mut self) -> Result<(), ExportError> {
        let bytes = encode_bundle(&self.bundle)?;
        let width = u64::try_from(TILE_WIDTH).unwrap_or(u64::MAX);
        let index = self.edge.size().saturating_sub(1) / width;
        self.write(&bundle_path(index, self.bundle.len()), &bytes)?;
        self.bundle.clear();
        Ok(())
    }

    /// Partial tiles are left for [`TreeWriter::finish`]: they would soon be overtaken.
    fn write_full_tiles(&mut self) -> Result<(), ExportError> {
        for (id, bytes) in self.edge.take_changed() {
            if bytes.len() == TILE_WIDTH * HASH_BYTES {
                self.write(&id.path(TILE_WIDTH), &bytes)?;
            }
        }
        Ok(())
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
        let path = self.root.join(path);
        let write = || {
            let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            fs::create_dir_all(folder)?;
            let mut name = std::ffi::OsString::from(".");
            name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
            name.push(".tmp");
            let temporary = folder.join(name);
            fs::write(&temporary, bytes)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|source| ExportError::Write {
            path: path.clone(),
            source,
        })
    }
}
