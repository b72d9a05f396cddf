//! The keyring file: key-encryption keys by epoch, and the key of keyed hashes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::KEY_BYTES;

/// Bytes of the longest keyring file.
pub const KEYRING_BYTES_MAX: u64 = 64 * 1024;

const FIRST_LINE: &str = "waymark-keyring v1";

type Key = Zeroizing<[u8; KEY_BYTES]>;

/// Why a keyring cannot be used. No message repeats a line of the file.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file cannot be read or written.
    #[error("keyring file {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is longer than any keyring.
    #[error("the keyring file is longer than {KEYRING_BYTES_MAX} bytes")]
    TooLong,
    /// The file does not begin with its version.
    #[error("a keyring file begins with the line `{FIRST_LINE}`")]
    Version,
    /// A line is not `index KEY` or `kek EPOCH KEY`.
    #[error(
        "line {0} of the keyring is not `index KEY` or `kek EPOCH KEY` with a key of 64 hex digits"
    )]
    Line(usize),
    /// The index key or an epoch stands twice.
    #[error("line {0} of the keyring repeats an earlier one")]
    Twice(usize),
    /// A part is missing.
    #[error("the keyring has no {0}")]
    Missing(&'static str),
    /// A row needs a KEK that is not here.
    #[error("the keyring has no key of epoch {0}")]
    NoEpoch(i64),
    /// What the newest key wraps could not be read any more.
    #[error("epoch {0} is the newest, and new keys are wrapped by it: rotate first")]
    Newest(u32),
    /// The keyring takes no more.
    #[error("the keyring has no room for another epoch: destroy old ones first")]
    Full,
    /// The system gave no random bytes.
    #[error("no random bytes")]
    Random,
}

/// The keys of a deployment: without them the database cannot be read.
pub struct Keyring {
    keks: BTreeMap<u32, Key>,
    index: Key,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("epochs", &self.keks.keys())
            .finish_non_exhaustive()
    }
}

impl Keyring {
    /// Makes a keyring of random keys at epoch 1.
    pub fn generate() -> Result<Self, KeyringError> {
        Ok(Self {
            keks: BTreeMap::from([(1, random_key()?)]),
            index: random_key()?,
        })
    }

    /// Reads a keyring file.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        let failed = |source| KeyringError::Io {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut text = Zeroizing::new(String::new());
        file.take(KEYRING_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        Self::parse(&text)
    }

    /// Reads a keyring's text.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > KEYRING_BYTES_MAX {
            return Err(KeyringError::TooLong);
        }
        let mut lines = text.lines().zip(1..);
        if lines.next().map(|(line, _)| line.trim_end()) != Some(FIRST_LINE) {
            return Err(KeyringError::Version);
        }
        let (mut keks, mut index) = (BTreeMap::new(), None);
        for (line, number) in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            let repeated = match words.as_slice() {
                [] => false,
                [comment, ..] if comment.starts_with('#') => false,
                ["index", key] => index
                    .replace(key_of(key).ok_or(KeyringError::Line(number))?)
                    .is_some(),
                ["kek", epoch, key] => {
                    let epoch: u32 = epoch.parse().map_err(|_| KeyringError::Line(number))?;
                    let key = key_of(key).ok_or(KeyringError::Line(number))?;
                    keks.insert(epoch, key).is_some()
                }
                _ => return Err(KeyringError::Line(number)),
            };
            if repeated {
                return Err(KeyringError::Twice(number));
            }
        }
        if keks.is_empty() {
            return Err(KeyringError::Missing("kek"));
        }
        Ok(Self {
            keks,
            index: index.ok_or(KeyringError::Missing("index key"))?,
        })
    }

    /// Adds a random key of the next epoch, which becomes the newest. Answers the epoch.
    pub fn rotate(&mut self) -> Result<u32, KeyringError> {
        let next = self.newest().checked_add(1).ok_or(KeyringError::Full)?;
        self.keks.insert(next, random_key()?);
        if u64::try_from(self.text().len()).unwrap_or(u64::MAX) > KEYRING_BYTES_MAX {
            return Err(KeyringError::Full);
        }
        Ok(next)
    }

    /// Takes an epoch's key out; the newest one stays. Answers whether it was there.
    pub fn destroy(&mut self, epoch: u32) -> Result<bool, KeyringError> {
        if epoch == self.newest() {
            return Err(KeyringError::Newest(epoch));
        }
        Ok(self.keks.remove(&epoch).is_some())
    }

    /// Writes the keyring in place of the one at `path`: whoever opens it reads the old one or the new one, whole.
    pub fn replace(&self, path: &Path) -> Result<(), KeyringError> {
        let failed = |source| KeyringError::Io {
            path: path.to_owned(),
            source,
        };
        let mut beside = path.to_owned().into_os_string();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        self.save_new(&beside)?;
        std::fs::rename(&beside, path).map_err(failed)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = std::fs::File::open(folder).map_err(failed)?;
        folder.sync_all().map_err(failed)
    }

    /// Writes the keyring to a new file that its owner alone can read; an existing file is never touched.
    pub fn save_new(&self, path: &Path) -> Result<(), KeyringError> {
        let failed = |source| KeyringError::Io {
            path: path.to_owned(),
            source,
        };
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(failed)?;
        file.write_all(self.text().as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)
    }

    /// The keyring as its file says it.
    fn text(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::with_capacity(256));
        out.push_str(FIRST_LINE);
        out.push_str("\nindex ");
        out.push_str(&Zeroizing::new(hex::encode(self.index.as_slice())));
        out.push('\n');
        for (epoch, key) in &self.keks {
            out.push_str("kek ");
            out.push_str(&epoch.to_string());
            out.push(' ');
            out.push_str(&Zeroizing::new(hex::encode(key.as_slice())));
            out.push('\n');
        }
        out
    }

    pub(super) fn keks(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.keks
            .iter()
            .map(|(epoch, key)| (*epoch, key.as_slice()))
    }

    pub(super) fn index(&self) -> &[u8] {
        self.index.as_slice()
    }

    /// The epochs, oldest first.
    pub fn epochs(&self) -> impl Iterator<Item = u32> {
        self.keks.keys().copied()
    }

    /// The newest epoch, which new keys are wrapped under.
    pub fn newest(&self) -> u32 {
        self.keks.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }
}

fn random_key() -> Result<Key, KeyringError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(key.as_mut_slice()).map_err(|_| KeyringError::Random)?;
    Ok(key)
}

fn key_of(text: &str) -> Option<Key> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    hex::decode_to_slice(text, key.as_mut_slice()).ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn parse(lines: &[&str]) -> Result<Keyring, KeyringError> {
        Keyring::parse(&format!("{FIRST_LINE}\n{}\n", lines.join("\n")))
    }

    #[test]
    fn a_saved_keyring_reads_back_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        let made = Keyring::generate().unwrap();
        made.save_new(&path).unwrap();
        assert_eq!(*Keyring::load(&path).unwrap().text(), *made.text());
        assert!(matches!(made.save_new(&path), Err(KeyringError::Io { .. })));
    }

    #[test]
    fn a_rotated_keyring_replaces_its_file_whole_and_keeps_the_older_keys_until_they_are_destroyed()
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        let mut ring = Keyring::generate().unwrap();
        ring.save_new(&path).unwrap();
        assert_eq!(ring.rotate().unwrap(), 2);
        ring.replace(&path).unwrap();
        let mut read = Keyring::load(&path).unwrap();
        assert_eq!(*read.text(), *ring.text());
        assert_eq!(read.epochs().collect::<Vec<_>>(), [1, 2]);
        assert!(matches!(read.destroy(2), Err(KeyringError::Newest(2))));
        assert!(read.destroy(1).unwrap());
        assert!(!read.destroy(1).unwrap());
        let files = std::fs::read_dir(dir.path()).unwrap();
        assert_eq!(files.count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_keyring_rotates_as_long_as_its_file_can_be_read() {
        let mut ring =
            parse(&[&format!("index {KEY}"), &format!("kek {} {KEY}", u32::MAX)]).unwrap();
        assert!(matches!(ring.rotate(), Err(KeyringError::Full)));
        let mut ring = Keyring::generate().unwrap();
        while ring.rotate().is_ok() {}
        let last = ring.newest() - 1;
        ring.keks.remove(&ring.newest());
        assert!(
            Keyring::parse(&ring.text()).is_ok(),
            "{last} epochs are read"
        );
    }

    #[test]
    fn the_newest_epoch_is_the_current_one() {
        let ring = parse(&[
            &format!("index {KEY}"),
            &format!("kek 7 {KEY}"),
            &format!("kek 2 {KEY}"),
        ])
        .unwrap();
        assert_eq!(ring.newest(), 7);
        assert_eq!(ring.keks().count(), 2);
    }

    #[test]
    fn a_keyring_with_a_fault_is_refused_and_the_fault_is_named() {
        let index = format!("index {KEY}");
        let kek = format!("kek 1 {KEY}");
        assert!(matches!(
            Keyring::parse("waymark-keyring v2\n"),
            Err(KeyringError::Version)
        ));
        assert!(matches!(
            parse(&[&index]),
            Err(KeyringError::Missing("kek"))
        ));
        assert!(matches!(
            parse(&[&kek]),
            Err(KeyringError::Missing("index key"))
        ));
        assert!(matches!(
            parse(&[&index, &kek, &kek]),
            Err(KeyringError::Twice(4))
        ));
        assert!(matches!(
            parse(&[&index, "kek 1 abcd"]),
            Err(KeyringError::Line(3))
        ));
        assert!(matches!(
            parse(&["# why", "", &index, "what"]),
            Err(KeyringError::Line(5))
        ));
        let long = format!(
            "{FIRST_LINE}\n{}",
            "#".repeat(usize::try_from(KEYRING_BYTES_MAX).unwrap())
        );
        assert!(matches!(Keyring::parse(&long), Err(KeyringError::TooLong)));
    }

    #[test]
    fn debug_shows_epochs_alone() {
        let ring = parse(&[&format!("index {KEY}"), &format!("kek 3 {KEY}")]).unwrap();
        assert_eq!(format!("{ring:?}"), "Keyring { epochs: [3], .. }");
    }
}
