//! Names of files: letters, digits, `.`, `_` and `-`, so that no name leads anywhere but into its own folder.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most characters of a name.
pub const NAME_CHARS_MAX: usize = 100;

/// The name of a file, without any folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name has 1 to {NAME_CHARS_MAX} letters, digits, '.', '_' and '-', and does not begin with '.' or '-'"
)]
pub struct NotAName;

impl Name {
    /// Reads a name.
    ///
    /// # Errors
    /// [`NotAName`] when it could be anything but a file's own name.
    pub fn parse(text: &str) -> Result<Self, NotAName> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let good = (1..=NAME_CHARS_MAX).contains(&text.len())
            && text.bytes().all(plain)
            && !text.starts_with(['.', '-']);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAName)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without this ending, if it has it.
    pub(super) fn without(&self, ending: &str) -> Option<&str> {
        self.0.strip_suffix(ending).filter(|stem| !stem.is_empty())
    }
}

impl TryFrom<String> for Name {
    type Error = NotAName;
    fn try_from(text: String) -> Result<Self, NotAName> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_but_into_its_folder() {
        for good in ["WM1.json", "a", "referral_2026-03-02.csv", "WM1-d1.pdf"] {
            assert_eq!(Name::parse(good).map(String::from), Ok(good.to_owned()));
        }
        let long = "x".repeat(NAME_CHARS_MAX + 1);
        for bad in [
            "", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-rf", "a b", "a\0", "é", "C:x", &long,
        ] {
            assert_eq!(Name::parse(bad), Err(NotAName), "{bad:?}");
        }
    }
}
