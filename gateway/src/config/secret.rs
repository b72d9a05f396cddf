//! Secrets by name: from the environment, else from a file of that name (ruling 21).

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use waymark_core::directory::SECRET_NAME_LENGTH_MAX;
use zeroize::Zeroizing;

/// Bytes of the longest secret.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A secret, which is never shown and is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret, for code that signs or opens with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The name is not one that a secret may have.
    #[error(
        "`{name}` is not a secret's name: 1 to {SECRET_NAME_LENGTH_MAX} letters, digits or any of - _ ."
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Neither a variable nor a file holds it.
    #[error("no secret `{name}`: set {variable} or write it to {path}")]
    Missing {
        /// Its name.
        name: String,
        /// The variable that may hold it.
        variable: String,
        /// The file that may hold it.
        path: PathBuf,
    },
    /// Its file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Its file is empty or larger than [`SECRET_BYTES_MAX`].
    #[error("{path} is empty or larger than {SECRET_BYTES_MAX} bytes")]
    Size {
        /// The file.
        path: PathBuf,
    },
}

/// Where secrets are found.
#[derive(Clone, Debug)]
pub struct Secrets {
    dir: PathBuf,
    variables: BTreeMap<String, Secret>,
}

impl Secrets {
    /// Looks among variables first, then in a folder.
    pub fn new(dir: PathBuf, variables: BTreeMap<String, Secret>) -> Self {
        Self { dir, variables }
    }

    /// Finds a secret; its file is read anew each time, so that a rotated secret is used at once.
    ///
    /// # Errors
    /// [`SecretError`] says where it was looked for, never what was found.
    pub fn find(&self, name: &str) -> Result<Secret, SecretError> {
        let ok = (1..=SECRET_NAME_LENGTH_MAX).contains(&name.len())
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !ok {
            return Err(SecretError::Name {
                name: name.to_owned(),
            });
        }
        let variable = variable(name);
        if let Some(secret) = self.variables.get(&variable) {
            return Ok(secret.clone());
        }
        let path = self.dir.join(name);
        match read(&path) {
            Err(SecretError::Unreadable { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                let variable = format!("WAYMARK_SECRET_{variable}");
                Err(SecretError::Missing {
                    name: name.to_owned(),
                    variable,
                    path,
                })
            }
            other => other,
        }
    }
}

fn variable(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect()
}

/// Reads a secret from a file; a line feed at its end is not part of it.
pub(super) fn read(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |source| SecretError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = Zeroizing::new(String::new());
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() || u64::try_from(text.len()).unwrap_or(u64::MAX) > SECRET_BYTES_MAX {
        return Err(SecretError::Size {
            path: path.to_owned(),
        });
    }
    Ok(Secret::new(secret))
}
