//! Checkpoints, C2SP tlog-checkpoint v1.0.0: the signed size and root of a log.

use std::fmt;

use crate::encoding::from_decimal;
use crate::hash::Hash;
use crate::note::{self, NoteError, SigningKey, VerifierKey};
use crate::tile::TREE_SIZE_MAX;

/// Longest origin line.
pub const ORIGIN_BYTES_MAX: usize = note::NAME_BYTES_MAX;

/// Size and root of the log with this origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
}

/// Why a checkpoint is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointError {
    /// The origin is empty, too long, or has a control character.
    BadOrigin,
    /// The size is above [`TREE_SIZE_MAX`].
    TooLarge,
    /// The tree is empty and the root is not that of the empty tree.
    BadEmptyRoot,
    /// The text is not origin, size and root on lines of their own.
    Malformed,
    /// The log's key does not bear the origin as its name.
    OriginMismatch,
    /// The note around the checkpoint is refused.
    Note(NoteError),
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadOrigin => out.write_str("the origin is not allowed"),
            Self::TooLarge => out.write_str("the tree size is beyond the limit"),
            Self::BadEmptyRoot => out.write_str("the root of the empty tree is wrong"),
            Self::Malformed => out.write_str("the checkpoint is malformed"),
            Self::OriginMismatch => out.write_str("the origin is not the name of the signing key"),
            Self::Note(_) => out.write_str("the checkpoint's note is refused"),
        }
    }
}

impl std::error::Error for CheckpointError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Note(error) => Some(error),
            Self::BadOrigin
            | Self::TooLarge
            | Self::BadEmptyRoot
            | Self::Malformed
            | Self::OriginMismatch => None,
        }
    }
}

impl From<NoteError> for CheckpointError {
    fn from(error: NoteError) -> Self {
        Self::Note(error)
    }
}

impl Checkpoint {
    /// Makes a checkpoint whose text can be read back as itself and as nothing else.
    pub fn new(origin: &str, size: u64, root: Hash) -> Result<Self, CheckpointError> {
        let long = origin.is_empty() || origin.len() > ORIGIN_BYTES_MAX;
        if long || origin.chars().any(char::is_control) {
            return Err(CheckpointError::BadOrigin);
        }
        if size > TREE_SIZE_MAX {
            return Err(CheckpointError::TooLarge);
        }
        if size == 0 && root != Hash::EMPTY_ROOT {
            return Err(CheckpointError::BadEmptyRoot);
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }

    /// Which log this is.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root of the tree.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, self.root)
    }

    /// Reads the text of a note. Extension lines are allowed, and ignored.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let body = text.strip_suffix('\n').ok_or(CheckpointError::Malformed)?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Malformed);
        };
        if lines.any(str::is_empty) {
            return Err(CheckpointError::Malformed);
        }
        let size = from_decimal(size).ok_or(CheckpointError::Malformed)?;
        let root = Hash::from_base64(root).ok_or(CheckpointError::Malformed)?;
        Self::new(origin, size, root)
    }

    /// Signs the checkpoint with the log's key, whose name is the origin.
    pub fn sign(&self, key: &SigningKey) -> Result<String, CheckpointError> {
        if key.name() != self.origin {
            return Err(CheckpointError::OriginMismatch);
        }
        Ok(note::sign(&self.text(), &[key])?)
    }

    /// Verifies a signed checkpoint of the log whose key this is.
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, CheckpointError> {
        Self::open_any(note, std::slice::from_ref(key))
    }

    /// Verifies a signed checkpoint by any of a log's keys, as there are while a key is replaced.
    pub fn open_any(note: &str, keys: &[VerifierKey]) -> Result<Self, CheckpointError> {
        let verified = note::open(note, keys)?;
        let checkpoint = Self::parse(&verified.text)?;
        if verified
            .signers
            .iter()
            .any(|signer| signer.name == checkpoint.origin)
        {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::OriginMismatch)
        }
    }
}
