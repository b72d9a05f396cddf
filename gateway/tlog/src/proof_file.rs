//! The `.tlog-proof` file of C2SP tlog-proof (untagged draft): a receipt that verifies offline.

use std::fmt;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::encoding::{base64, from_base64, from_decimal};
use crate::hash::Hash;
use crate::note::{NOTE_BYTES_MAX, VerifierKey};
use crate::verify::{VerifyError, verify_inclusion};

/// Most hashes in an inclusion proof.
pub const PROOF_HASHES_MAX: usize = 63;
/// Longest extra data.
pub const EXTRA_BYTES_MAX: usize = 128 * 1024;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// An inclusion proof with the checkpoint that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// Place of the entry in the log.
    pub index: u64,
    /// The inclusion proof, leaf's sibling first.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint, verbatim.
    pub checkpoint_note: String,
    /// Data that nothing authenticates.
    pub extra: Option<Vec<u8>>,
}

/// Why a proof file is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofFileError {
    /// A line is not what the format says.
    Malformed {
        /// Number of the line, from 1.
        line: usize,
    },
    /// There are more than [`PROOF_HASHES_MAX`] hashes.
    TooManyHashes,
    /// The extra data or the checkpoint is too long.
    TooLong,
    /// The checkpoint is refused.
    Checkpoint(CheckpointError),
    /// The entry is not where the proof says.
    Inclusion(VerifyError),
}

impl fmt::Display for ProofFileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { line } => write!(out, "line {line} of the proof file is malformed"),
            Self::TooManyHashes => out.write_str("the proof file has too many hashes"),
            Self::TooLong => out.write_str("the proof file is too long"),
            Self::Checkpoint(_) => out.write_str("the proof file's checkpoint is refused"),
            Self::Inclusion(_) => out.write_str("the proof does not hold for this entry"),
        }
    }
}

impl std::error::Error for ProofFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Checkpoint(error) => Some(error),
            Self::Inclusion(error) => Some(error),
            Self::Malformed { .. } | Self::TooManyHashes | Self::TooLong => None,
        }
    }
}

impl TlogProof {
    /// Writes the file.
    pub fn encode(&self) -> String {
        let mut text = format!("{HEADER}\n");
        if let Some(extra) = &self.extra {
            text.push_str("extra ");
            text.push_str(&base64(extra));
            text.push('\n');
        }
        text.push_str("index ");
        text.push_str(&self.index.to_string());
        text.push('\n');
        for hash in &self.hashes {
            text.push_str(&hash.to_string());
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.checkpoint_note);
        text
    }

    /// Reads the file; only [`TlogProof::verify`] looks into the checkpoint.
    pub fn parse(text: &str) -> Result<Self, ProofFileError> {
        if text.len() > EXTRA_BYTES_MAX * 2 + NOTE_BYTES_MAX {
            return Err(ProofFileError::TooLong);
        }
        let mut lines = Lines {
            rest: text,
            number: 0,
        };
        if lines.next()? != HEADER {
            return Err(lines.malformed());
        }
        let mut line = lines.next()?;
        let mut extra = None;
        if let Some(data) = line.strip_prefix("extra ") {
            let data = from_base64(data).ok_or_else(|| lines.malformed())?;
            if data.len() > EXTRA_BYTES_MAX {
                return Err(ProofFileError::TooLong);
            }
            extra = Some(data);
            line = lines.next()?;
        }
        let index = line.strip_prefix("index ").and_then(from_decimal);
        let index = index.ok_or_else(|| lines.malformed())?;
        let mut hashes = Vec::new();
        loop {
            line = lines.next()?;
            if line.is_empty() {
                break;
            }
            if hashes.len() == PROOF_HASHES_MAX {
                return Err(ProofFileError::TooManyHashes);
            }
            hashes.push(Hash::from_base64(line).ok_or_else(|| lines.malformed())?);
        }
        if lines.rest.len() > NOTE_BYTES_MAX {
            return Err(ProofFileError::TooLong);
        }
        Ok(Self {
            index,
            hashes,
            checkpoint_note: lines.rest.to_owned(),
            extra,
        })
    }

    /// Verifies that the checkpoint is the log's and that the leaf is in its tree at `index`.
    pub fn verify(&self, leaf: &Hash, key: &VerifierKey) -> Result<Checkpoint, ProofFileError> {
        self.verify_any(leaf, std::slice::from_ref(key))
    }

    /// As [`TlogProof::verify`], by any of a log's keys.
    ///
    /// Size and root come from the one verified checkpoint: a proof also holds for other sizes.
    pub fn verify_any(
        &self,
        leaf: &Hash,
        keys: &[VerifierKey],
    ) -> Result<Checkpoint, ProofFileError> {
        let checkpoint = Checkpoint::open_any(&self.checkpoint_note, keys)
            .map_err(ProofFileError::Checkpoint)?;
        let (size, root) = (checkpoint.size(), checkpoint.root());
        verify_inclusion(leaf, self.index, size, &self.hashes, &root)
            .map_err(ProofFileError::Inclusion)?;
        Ok(checkpoint)
    }
}

/// Lines with their numbers, leaving the rest of the text verbatim.
struct Lines<'text> {
    rest: &'text str,
    number: usize,
}

impl<'text> Lines<'text> {
    fn next(&mut self) -> Result<&'text str, ProofFileError> {
        self.number += 1;
        let (line, rest) = self.rest.split_once('\n').ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(line)
    }

    fn malformed(&self) -> ProofFileError {
        ProofFileError::Malformed { line: self.number }
    }
}
