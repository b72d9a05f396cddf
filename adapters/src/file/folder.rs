//! A folder of this machine. It is opened once; every later step is relative to it, and no link leads out of it.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use waymark_core::time::Timestamp;

use super::name::Name;
use super::place::{Entry, Listing, PART_SUFFIX, PlaceError, Sub};

/// An endpoint's folder.
#[derive(Clone)]
pub(super) struct Folder(Arc<Dir>);

impl Folder {
    /// Opens an endpoint's folder below the root, and makes its six folders where they are missing. The endpoint's
    /// folder itself must be there: one made by us would hide that the agency's share is not mounted.
    pub(super) async fn open(root: &Path, directory: &str) -> Result<Self, PlaceError> {
        let (root, directory) = (root.to_owned(), directory.to_owned());
        blocking(move || {
            let root = Dir::open_ambient_dir(root, ambient_authority())?;
            let own = root.open_dir(directory)?;
            for sub in Sub::ALL {
                match own.create_dir(sub.as_str()) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(Self(Arc::new(own)))
        })
        .await
    }

    async fn within<T: Send + 'static>(
        &self,
        sub: Sub,
        step: impl FnOnce(&Dir) -> Result<T, PlaceError> + Send + 'static,
    ) -> Result<T, PlaceError> {
        let own = Arc::clone(&self.0);
        blocking(move || step(&own.open_dir(sub.as_str())?)).await
    }

    pub(super) async fn list(&self, sub: Sub, most: usize) -> Result<Listing, PlaceError> {
        self.within(sub, move |dir| {
            let mut listing = Listing::default();
            for entry in dir.entries()? {
                if listing.files.len() + listing.unusable >= most {
                    listing.more = true;
                    break;
                }
                let entry = entry?;
                // The entry itself, not what a link would lead to.
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error.into()),
                };
                let name = entry.file_name().to_str().and_then(|n| Name::parse(n).ok());
                match name.filter(|_| metadata.is_file()) {
                    Some(name) => listing.files.push(Entry {
                        name,
                        size: metadata.len(),
                        modified: modified(&metadata),
                    }),
                    None => listing.unusable += 1,
                }
            }
            listing.files.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(listing)
        })
        .await
    }

    pub(super) async fn old(
        &self,
        sub: Sub,
        before: Timestamp,
        most: usize,
    ) -> Result<Vec<Name>, PlaceError> {
        self.within(sub, move |dir| {
            let mut old = Vec::new();
            for entry in dir.entries()? {
                let entry = entry?;
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error.into()),
                };
                let name = entry.file_name().to_str().and_then(|n| Name::parse(n).ok());
                let lies = metadata.is_file() && lies_since(&metadata) < before;
                old.extend(name.filter(|_| lies));
                if old.len() >= most {
                    break;
                }
            }
            Ok(old)
        })
        .await
    }

    pub(super) async fn read(
        &self,
        sub: Sub,
        name: &Name,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, PlaceError> {
        let name = name.clone();
        self.within(sub, move |dir| {
            let metadata = match dir.symlink_metadata(name.as_str()) {
                Ok(metadata) if metadata.is_file() => metadata,
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if metadata.len() > bytes_max {
                return Err(PlaceError::TooLarge);
            }
            let mut bytes = Vec::new();
            let file = dir.open(name.as_str())?;
            // It may have grown since it was looked at.
            file.take(bytes_max.saturating_add(1))
                .read_to_end(&mut bytes)?;
            let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if read > bytes_max {
                return Err(PlaceError::TooLarge);
            }
            Ok(Some(bytes))
        })
        .await
    }

    pub(super) async fn put(&self, sub: Sub, name: &Name, bytes: &[u8]) -> Result<(), PlaceError> {
        let (name, bytes) = (name.clone(), bytes.to_vec());
        self.within(sub, move |dir| {
            let part = format!("{name}{PART_SUFFIX}");
            // What an interrupted attempt left; a link of that name goes too, and is not written through.
            match dir.remove_file(&part) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            let mut file = dir.open_with(&part, OpenOptions::new().write(true).create_new(true))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            drop(file);
            dir.rename(&part, dir, name.as_str())?;
            durable(dir)
        })
        .await
    }

    pub(super) async fn shift(&self, from: Sub, to: Sub, name: &Name) -> Result<(), PlaceError> {
        let (own, name) = (Arc::clone(&self.0), name.clone());
        blocking(move || {
            let (from, to) = (own.open_dir(from.as_str())?, own.open_dir(to.as_str())?);
            match from.rename(name.as_str(), &to, name.as_str()) {
                Ok(()) => durable(&to),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    pub(super) async fn remove(&self, sub: Sub, name: &Name) -> Result<(), PlaceError> {
        let name = name.clone();
        self.within(sub, move |dir| match dir.remove_file(name.as_str()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        })
        .await
    }
}

/// Makes a folder's names durable: a renamed file is only then there after a power cut.
fn durable(dir: &Dir) -> Result<(), PlaceError> {
    dir.open(".")?.sync_all()?;
    Ok(())
}

fn modified(metadata: &cap_std::fs::Metadata) -> Timestamp {
    let since = metadata.modified().ok().and_then(|at| {
        at.into_std()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .ok()
    });
    let ms = since.and_then(|d| i64::try_from(d.as_millis()).ok());
    Timestamp::from_ms(ms.unwrap_or_default())
}

/// Since when a file lies where it does: what is moved keeps the time of its content, and has a time of its own for
/// the move.
fn lies_since(metadata: &cap_std::fs::Metadata) -> Timestamp {
    #[cfg(unix)]
    {
        use cap_std::fs::MetadataExt as _;
        let moved = Timestamp::from_ms(metadata.ctime().saturating_mul(1_000));
        modified(metadata).max(moved)
    }
    #[cfg(not(unix))]
    modified(metadata)
}

/// Runs a step that may wait for a disk where it holds up no other work.
async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, PlaceError> + Send + 'static,
) -> Result<T, PlaceError> {
    tokio::task::spawn_blocking(step)
        .await
        .unwrap_or(Err(PlaceError::Io(std::io::ErrorKind::Other)))
}
