//! Bounded reading of an exported tree: regular files only, never more bytes than expected.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most names that one directory may hold.
pub(crate) const NAMES_MAX: usize = 1_000_000;

/// The directory that a tree was exported to.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the file is missing")]
    Missing,
    #[error("this is not a regular file")]
    NotAFile,
    #[error("the file is longer than {max} bytes")]
    TooLong { max: usize },
    #[error("the file is not text")]
    NotText,
    #[error("the directory holds more than {NAMES_MAX} names")]
    TooManyNames,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A name in a directory, and what it names.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) kind: ItemKind,
}

/// What a name in a directory names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ItemKind {
    File,
    Directory,
    /// A link, a device, or a name that is not text.
    Other,
}

impl Tree {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(crate) fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, ReadError> {
        read_bounded(&self.root.join(path), max)
    }

    pub(crate) fn read_text(&self, path: &str, max: usize) -> Result<String, ReadError> {
        String::from_utf8(self.read(path, max)?).map_err(|_| ReadError::NotText)
    }

    /// Lists a directory in order of name; an absent one is empty.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Item>, ReadError> {
        self.list_bounded(path, NAMES_MAX)
    }

    fn list_bounded(&self, path: &str, max: usize) -> Result<Vec<Item>, ReadError> {
        let entries = match fs::read_dir(self.root.join(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut items = Vec::new();
        for entry in entries {
            if items.len() == max {
                return Err(ReadError::TooManyNames);
            }
            let entry = entry?;
            let kind = entry.file_type()?;
            let (name, text) = match entry.file_name().into_string() {
                Ok(name) => (name, true),
                Err(name) => (name.to_string_lossy().into_owned(), false),
            };
            let kind = match (text, kind.is_file(), kind.is_dir()) {
                (true, true, _) => ItemKind::File,
                (true, _, true) => ItemKind::Directory,
                _ => ItemKind::Other,
            };
            items.push(Item { name, kind });
        }
        items.sort();
        Ok(items)
    }
}

/// Reads a regular file of at most `max` bytes.
pub(crate) fn read_bounded(path: &Path, max: usize) -> Result<Vec<u8>, ReadError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::Missing),
        // A file where the path needs a directory.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(ReadError::Missing);
        }
        Err(error) => return Err(error.into()),
    };
    if !metadata.is_file() {
        return Err(ReadError::NotAFile);
    }
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        Err(ReadError::TooLong { max })
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{ItemKind, ReadError, Tree};

    #[test]
    fn reading_stops_at_its_bound_and_at_anything_but_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("four"), b"four").expect("written");
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("endless")).expect("linked");
        let tree = Tree::new(dir.path());
        assert_eq!(tree.read("four", 4).expect("fits"), b"four");
        assert!(matches!(
            tree.read("four", 3),
            Err(ReadError::TooLong { max: 3 })
        ));
        assert!(matches!(tree.read("none", 3), Err(ReadError::Missing)));
        assert!(matches!(tree.read("four/none", 3), Err(ReadError::Missing)));
        assert!(matches!(tree.read("endless", 3), Err(ReadError::NotAFile)));
        let kinds: Vec<_> = tree
            .list("")
            .expect("listed")
            .into_iter()
            .map(|item| item.kind)
            .collect();
        assert_eq!(kinds, [ItemKind::Other, ItemKind::File]);
        assert_eq!(tree.list("none").expect("absent"), []);
        assert_eq!(tree.list_bounded("", 2).expect("two names").len(), 2);
        assert!(matches!(
            tree.list_bounded("", 1),
            Err(ReadError::TooManyNames)
        ));
    }
}
