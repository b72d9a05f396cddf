//! Where an agency's files lie: a folder of this machine, or one on its SFTP server. Both offer the same few steps.

use waymark_core::time::Timestamp;

use super::folder::Folder;
use super::name::Name;
use super::sftp::Remote;

/// What a file is called while it is being written; readers pass it over.
pub(super) const PART_SUFFIX: &str = ".part";

/// The folders of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sub {
    /// From us to the agency.
    Outbox,
    /// The agency's receipts for what it took from the outbox.
    Receipts,
    /// What the agency would not take.
    Rejected,
    /// From the agency to us.
    Inbox,
    /// What we took in.
    Done,
    /// What we could not take in, each with a file that says why.
    Failed,
}

impl Sub {
    pub(super) const ALL: [Self; 6] = [
        Self::Outbox,
        Self::Receipts,
        Self::Rejected,
        Self::Inbox,
        Self::Done,
        Self::Failed,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Receipts => "receipts",
            Self::Rejected => "rejected",
            Self::Inbox => "inbox",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// A file as a listing shows it. Links, folders and whatever else is no file are never listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) size: u64,
    pub(super) modified: Timestamp,
}

/// What a folder holds, up to a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Its files, by name.
    pub(super) files: Vec<Entry>,
    /// Whether it holds more than was looked at.
    pub(super) more: bool,
    /// Entries that are no files, or whose names are none that a file here may have.
    pub(super) unusable: usize,
}

/// Why a step was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlaceError {
    /// The server could not be reached.
    #[error(transparent)]
    Connect(#[from] crate::connect::ConnectError),
    /// The server's key is not the one in the settings.
    #[error("the server's host key is not the one in the settings: it is not the bound recipient")]
    WrongHost,
    /// The server did not take our key.
    #[error("the server did not take this gateway's key")]
    RefusedUs,
    /// The secret that holds our key is missing or no private key.
    #[error("secret {0} is missing or no private key that SFTP can use")]
    Key(String),
    /// The endpoint's folder is not there.
    #[error("the folder is not there: is it mounted?")]
    NoFolder,
    /// Not allowed.
    #[error("access is denied")]
    Denied,
    /// The file is larger than may be read.
    #[error("a file is larger than may be read")]
    TooLarge,
    /// A name is taken by something else.
    #[error("a file of that name is there already")]
    Exists,
    /// Anything else.
    #[error("the folder cannot be used: {0}")]
    Io(std::io::ErrorKind),
    /// The server broke off or answered nonsense.
    #[error("the SFTP session failed")]
    Session,
}

impl From<std::io::Error> for PlaceError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::NoFolder,
            std::io::ErrorKind::PermissionDenied => Self::Denied,
            std::io::ErrorKind::AlreadyExists => Self::Exists,
            kind => Self::Io(kind),
        }
    }
}

/// An opened place.
pub(super) enum Place {
    Folder(Folder),
    Sftp(Box<Remote>),
}

impl Place {
    /// The files of a folder, at most `most` of them.
    pub(super) async fn list(&self, sub: Sub, most: usize) -> Result<Listing, PlaceError> {
        match self {
            Self::Folder(folder) => folder.list(sub, most).await,
            Self::Sftp(remote) => remote.list(sub, most).await,
        }
    }

    /// Files of a folder that have lain there since before a time, at most `most` of them; all of it is looked at.
    pub(super) async fn old(
        &self,
        sub: Sub,
        before: Timestamp,
        most: usize,
    ) -> Result<Vec<Name>, PlaceError> {
        match self {
            Self::Folder(folder) => folder.old(sub, before, most).await,
            Self::Sftp(remote) => remote.old(sub, before, most).await,
        }
    }

    /// The bytes of a file; `None` when there is no file of that name.
    pub(super) async fn read(
        &self,
        sub: Sub,
        name: &Name,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, PlaceError> {
        match self {
            Self::Folder(folder) => folder.read(sub, name, bytes_max).await,
            Self::Sftp(remote) => remote.read(sub, name, bytes_max).await,
        }
    }

    /// Writes a file beside its final name, makes it durable, and renames it into place.
    pub(super) async fn put(&self, sub: Sub, name: &Name, bytes: &[u8]) -> Result<(), PlaceError> {
        match self {
            Self::Folder(folder) => folder.put(sub, name, bytes).await,
            Self::Sftp(remote) => remote.put(sub, name, bytes).await,
        }
    }

    /// Moves a file between folders; one that is gone already was moved by another instance. A file of that name at
    /// the target is replaced: it is what an earlier, interrupted move left. From then on it lies there since `now`.
    pub(super) async fn shift(
        &self,
        from: Sub,
        to: Sub,
        name: &Name,
        now: Timestamp,
    ) -> Result<(), PlaceError> {
        match self {
            Self::Folder(folder) => folder.shift(from, to, name).await,
            Self::Sftp(remote) => remote.shift(from, to, name, now).await,
        }
    }

    /// Removes a file; one that is gone is removed.
    pub(super) async fn remove(&self, sub: Sub, name: &Name) -> Result<(), PlaceError> {
        match self {
            Self::Folder(folder) => folder.remove(sub, name).await,
            Self::Sftp(remote) => remote.remove(sub, name).await,
        }
    }
}
