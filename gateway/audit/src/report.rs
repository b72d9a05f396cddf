//! What a verification found: a verdict, and each thing that is wrong with its place.

use serde::Serialize;

use crate::entry_view::EntryView;
use crate::tree::ReadError;

/// Most findings that a report lists; more are counted.
pub const FINDINGS_MAX: usize = 1000;

/// The answer, from best to worst but for what cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything was checked and holds.
    Ok,
    /// Something needed for the check could not be had.
    CannotTell,
    /// Something is not as it was signed.
    Tampered,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A file that the tree must have is not there.
    FileMissing,
    /// A file is there that does not belong to the tree.
    FileUnexpected,
    /// A file has more or fewer bytes than it must have.
    FileLength,
    /// A file could not be read.
    FileUnreadable,
    /// The directory is not an exported tree.
    NotATree,
    /// A public key is malformed or not under its name.
    KeyRefused,
    /// There is no public key to verify with.
    KeyMissing,
    /// A checkpoint is malformed, wrongly signed or not under its name.
    CheckpointRefused,
    /// No known key has signed.
    SignerUnknown,
    /// The latest checkpoint is older than another one.
    CheckpointBehind,
    /// The entries do not lead to a root that the log has signed.
    HistoryDiffers,
    /// A tile of hashes was altered.
    TileAltered,
    /// Entries were altered, removed or moved.
    EntryAltered,
    /// There are entries beyond the end of the tree.
    EntryExtra,
    /// A tile and what lies below it disagree, and neither can be shown to be the true one.
    Undecided,
    /// An entry is not in the one form that the log writes.
    EntryMalformed,
    /// An event is in the log more than once.
    EventRepeated,
    /// A stream has a gap, a repetition or a broken link.
    StreamBroken,
    /// The stream asked for has no entry in the tree.
    StreamAbsent,
    /// A receipt stands alone, without the entry that it is for.
    EntryMissing,
    /// A receipt does not hold.
    ReceiptRefused,
    /// An opening does not fit its commitment.
    OpeningRefused,
}

impl What {
    /// Whether this shows tampering or only leaves the question open.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::FileUnreadable
            | Self::NotATree
            | Self::KeyMissing
            | Self::SignerUnknown
            | Self::EntryMissing
            | Self::StreamAbsent => Verdict::CannotTell,
            Self::FileMissing
            | Self::FileUnexpected
            | Self::FileLength
            | Self::KeyRefused
            | Self::CheckpointRefused
            | Self::CheckpointBehind
            | Self::HistoryDiffers
            | Self::TileAltered
            | Self::EntryAltered
            | Self::EntryExtra
            | Self::Undecided
            | Self::EntryMalformed
            | Self::EventRepeated
            | Self::StreamBroken
            | Self::ReceiptRefused
            | Self::OpeningRefused => Verdict::Tampered,
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub what: What,
    /// File, relative to the root of the tree.
    pub file: String,
    /// Index of the first entry concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// First byte concerned, from the beginning of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte: Option<u64>,
    /// The rest, for a reader.
    pub detail: String,
}

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Entries.
    pub entries: u64,
    /// Tiles of hashes.
    pub tiles: u64,
    /// Checkpoints, the latest one and given ones included.
    pub checkpoints: u64,
    /// Receipts.
    pub receipts: u64,
    /// Openings.
    pub openings: u64,
    /// Streams.
    pub streams: u64,
}

/// An entry of the stream asked for, with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamEntry {
    /// Index in the log.
    pub index: u64,
    /// Leaf hash, hexadecimal.
    pub leaf: String,
    /// What the entry says.
    #[serde(flatten)]
    pub entry: EntryView,
}

/// Everything that the log holds of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamReport {
    /// The stream.
    pub stream: String,
    /// Whether this is the whole stream up to the checkpoint, and as it was written.
    pub complete_and_unaltered: bool,
    /// Its entries in order.
    pub entries: Vec<StreamEntry>,
}

/// Result of verifying a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The answer.
    pub verdict: Verdict,
    /// Which log this is, by its checkpoint.
    pub origin: Option<String>,
    /// Entries that the checkpoint covers.
    pub size: Option<u64>,
    /// Signed root, base64.
    pub root: Option<String>,
    /// Keys that were trusted, and whether the caller named them or the tree did.
    pub keys: Vec<String>,
    /// Whether the caller named the keys: else whoever wrote the tree chose them.
    pub keys_pinned: bool,
    /// How much was checked.
    pub checked: Checked,
    /// What is wrong, in the order found.
    pub findings: Vec<Finding>,
    /// Findings beyond [`FINDINGS_MAX`].
    pub findings_omitted: u64,
    /// What the reader must know besides.
    pub notes: Vec<String>,
    /// The stream asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamReport>,
}

/// Findings as they come in.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) list: Vec<Finding>,
    pub(crate) omitted: u64,
    worst: Option<Verdict>,
}

/// Where a finding is: a file, and as far as known an entry and a byte.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    file: String,
    entry: Option<u64>,
    byte: Option<u64>,
}

impl Place {
    pub(crate) fn file(file: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            ..Self::default()
        }
    }

    pub(crate) fn entry(self, entry: u64) -> Self {
        Self {
            entry: Some(entry),
            ..self
        }
    }

    pub(crate) fn byte(self, byte: usize) -> Self {
        Self {
            byte: u64::try_from(byte).ok(),
            ..self
        }
    }
}

impl Findings {
    pub(crate) fn add(&mut self, what: What, place: Place, detail: impl Into<String>) {
        self.worst = self.worst.max(Some(what.verdict()));
        if self.list.len() == FINDINGS_MAX {
            self.omitted += 1;
            return;
        }
        let Place { file, entry, byte } = place;
        self.list.push(Finding {
            what,
            file,
            entry,
            byte,
            detail: detail.into(),
        });
    }

    pub(crate) fn append(&mut self, later: Self) {
        for Finding {
            what,
            file,
            entry,
            byte,
            detail,
        } in later.list
        {
            self.add(what, Place { file, entry, byte }, detail);
        }
        self.omitted += later.omitted;
    }

    pub(crate) fn unread(&mut self, file: &str, error: &ReadError) {
        let what = match error {
            ReadError::Missing => What::FileMissing,
            ReadError::NotAFile | ReadError::NotText => What::FileUnexpected,
            ReadError::TooLong { .. } => What::FileLength,
            ReadError::TooManyNames | ReadError::Io(_) => What::FileUnreadable,
        };
        self.add(what, Place::file(file), error.to_string());
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.worst.unwrap_or(Verdict::Ok)
    }
}

/// An error and all its causes in one line.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
