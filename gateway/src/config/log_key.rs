//! The file of the key that signs checkpoints: one line, in the form that Go's `note` package writes, so that
//! foreign tools read it too: `PRIVATE+KEY+<origin>+<key id>+<base64 of algorithm and seed>`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use waymark_tlog::note::{NoteError, SigningKey};
use zeroize::Zeroizing;

/// Bytes of the longest key file.
pub const LOG_KEY_BYTES_MAX: u64 = 4 * 1024;

const PREFIX: &str = "PRIVATE+KEY+";
/// The algorithm byte of Ed25519 in signed notes.
const ED25519: u8 = 1;
const SEED_BYTES: usize = 32;

/// Why a key file cannot be used. No message repeats the file.
#[derive(Debug, thiserror::Error)]
pub enum LogKeyError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is not such a file.
    #[error("{path} is not a log key: one line `PRIVATE+KEY+<origin>+<key id>+<key>`")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The key id is not that of the key: the line was damaged or put together from two.
    #[error("the key id in {path} is not that of its key")]
    KeyId {
        /// The file.
        path: PathBuf,
    },
    /// The origin cannot be a log's name.
    #[error("the origin cannot be a log's name")]
    Origin(#[source] NoteError),
}

/// Reads the key that signs checkpoints.
///
/// # Errors
/// [`LogKeyError`] names the file at fault.
pub fn load_log_key(path: &Path) -> Result<SigningKey, LogKeyError> {
    let unreadable = |source| LogKeyError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let malformed = || LogKeyError::Malformed {
        path: path.to_owned(),
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = Zeroizing::new(String::new());
    file.take(LOG_KEY_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let line = text.trim_end().strip_prefix(PREFIX).ok_or_else(malformed)?;
    // The key's base64 may itself hold a plus sign; the origin may not.
    let mut parts = line.splitn(3, '+');
    let (Some(origin), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(malformed());
    };
    let bytes = Zeroizing::new(STANDARD.decode(key).map_err(|_| malformed())?);
    let (algorithm, seed) = bytes.split_first().ok_or_else(malformed)?;
    let seed: Zeroizing<[u8; SEED_BYTES]> =
        Zeroizing::new(seed.try_into().map_err(|_| malformed())?);
    if *algorithm != ED25519 {
        return Err(malformed());
    }
    let key = SigningKey::from_seed(origin, *seed).map_err(LogKeyError::Origin)?;
    if format!("{:08x}", key.verifier().id()) != id {
        return Err(LogKeyError::KeyId {
            path: path.to_owned(),
        });
    }
    Ok(key)
}

/// The text of a key file.
///
/// # Errors
/// [`LogKeyError::Origin`] when the origin cannot be a log's name.
pub fn log_key_text(
    origin: &str,
    seed: &[u8; SEED_BYTES],
) -> Result<Zeroizing<String>, LogKeyError> {
    let key = SigningKey::from_seed(origin, *seed).map_err(LogKeyError::Origin)?;
    let mut bytes = Zeroizing::new(vec![ED25519]);
    bytes.extend_from_slice(seed);
    let encoded = Zeroizing::new(STANDARD.encode(&*bytes));
    Ok(Zeroizing::new(format!(
        "{PREFIX}{origin}+{:08x}+{}\n",
        key.verifier().id(),
        *encoded
    )))
}
