//! Values of the configuration that TOML has no word for.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A positive length of time written as `72h`, `30s`, `250ms` or `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lasting(Duration);

impl Lasting {
    /// Wraps a length of time.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// The length of time.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SignedDuration::try_from(self.0) {
            Ok(signed) => write!(f, "{signed:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

impl Serialize for Lasting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lasting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let signed: Option<SignedDuration> = text.parse().ok();
        let length = signed
            .and_then(|d| Duration::try_from(d).ok())
            .filter(|d| !d.is_zero());
        length
            .map(Self)
            .ok_or_else(|| D::Error::custom("not a length of time such as 30s, 250ms or 72h"))
    }
}

/// A database's URL, whose password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Wraps a URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL, for whoever opens the database.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it holds a password.
    pub fn has_password(&self) -> bool {
        self.password().is_some()
    }

    /// Whether it names an engine that there is.
    pub(super) fn is_known(&self) -> bool {
        ["sqlite:", "postgres://", "postgresql://"]
            .iter()
            .any(|scheme| self.0.starts_with(scheme))
    }

    /// Takes a relative path of a SQLite file as beside `folder`.
    pub(super) fn resolve(&mut self, folder: &Path) {
        if let Some(path) = self.0.strip_prefix("sqlite://")
            && !path.is_empty()
            && !path.starts_with('/')
            && !path.starts_with(':')
        {
            let beside = folder.join(path);
            let absolute = std::path::absolute(&beside).unwrap_or(beside);
            self.0 = format!("sqlite://{}", absolute.display());
        }
    }

    fn password(&self) -> Option<&str> {
        let (_, rest) = self.0.split_once("://")?;
        let (authority, _) = rest.split_once(['/', '?']).unwrap_or((rest, ""));
        let (user_info, _) = authority.rsplit_once('@')?;
        user_info
            .split_once(':')
            .map(|(_, password)| password)
            .filter(|password| !password.is_empty())
    }
}

impl fmt::Display for DatabaseUrl {
    /// The URL, its password and parameters masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (url, parameters) = self
            .0
            .split_once('?')
            .map_or((self.0.as_str(), ""), |(url, _)| (url, "?…"));
        match self.password() {
            Some(password) => write!(
                f,
                "{}{parameters}",
                url.replacen(&format!(":{password}@"), ":…@", 1)
            ),
            None => write!(f, "{url}{parameters}"),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}
