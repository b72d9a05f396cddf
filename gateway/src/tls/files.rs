//! Reads PEM files, capped, and tells whether they changed.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::TlsFiles;

/// Bytes of the largest PEM file that is read.
pub const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than [`FILE_BYTES_MAX`].
    #[error("{path} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not PEM.
    #[error("{path} is not PEM")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// It holds nothing of the kind that is looked for.
    #[error("{path} holds nothing that can be used here")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    some(path, found.map_err(|source| not_pem(path, source))?)
}

pub(super) fn revocation_lists(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    some(path, found.map_err(|source| not_pem(path, source))?)
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let bytes = zeroize::Zeroizing::new(read(path)?);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|source| not_pem(path, source))
}

/// Length and time of change of each file: enough to see a replaced file, a link that was moved included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<Option<(u64, SystemTime)>>);

impl Fingerprint {
    pub(super) fn of(files: &TlsFiles) -> Self {
        let paths = [
            Some(&files.cert),
            Some(&files.key),
            Some(&files.client_ca),
            files.crl.as_ref(),
        ];
        Self(
            paths
                .into_iter()
                .flatten()
                .map(|path| {
                    let about = std::fs::metadata(path).ok()?;
                    Some((about.len(), about.modified().ok()?))
                })
                .collect(),
        )
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let unreadable = |source| FileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(unreadable)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

fn some<T>(path: &Path, found: Vec<T>) -> Result<Vec<T>, FileError> {
    if found.is_empty() {
        Err(FileError::Empty {
            path: path.to_owned(),
        })
    } else {
        Ok(found)
    }
}

fn not_pem(path: &Path, source: rustls_pki_types::pem::Error) -> FileError {
    FileError::NotPem {
        path: path.to_owned(),
        source,
    }
}
