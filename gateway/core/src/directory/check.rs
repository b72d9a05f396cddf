//! What is wrong with a directory that loads: all of it, each with file and line.

use std::fmt;

use jiff::civil::Date;
use serde::Serialize;

use super::{Directory, Place};

mod codes;
mod cover;
mod links;
mod rules;
mod templates;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The directory cannot be released.
    Error,
    /// It can; somebody should look.
    Warning,
}

impl Severity {
    /// The severity as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Stable code, e.g. `unreachable-rule`.
    pub code: &'static str,
    /// Where it stands.
    pub place: Place,
    /// What is wrong; secrets are never shown.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    pub(super) fn error(
        code: &'static str,
        place: Place,
        message: String,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            code,
            place,
            message,
            remedy: remedy.into(),
        }
    }

    pub(super) fn warning(
        code: &'static str,
        place: Place,
        message: String,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            code,
            place,
            message,
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = self.severity.as_str();
        write!(
            f,
            "{}: {severity} {}: {}: {}",
            self.place, self.code, self.message, self.remedy
        )
    }
}

/// Finds everything that is wrong with a directory on a day: errors first, then in the order of files and lines.
pub fn check(directory: &Directory, today: Date) -> Vec<Finding> {
    let mut findings = links::findings(directory, today);
    findings.extend(rules::findings(directory, today));
    findings.extend(codes::findings(directory));
    findings.extend(templates::findings(directory));
    findings.sort_by(|a, b| (a.severity, &a.place, a.code).cmp(&(b.severity, &b.place, b.code)));
    findings
}

#[cfg(test)]
mod tests;
