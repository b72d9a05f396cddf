//! The directory: read the release in force, apply a new one as a numbered, logged release.

use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::audit::EntryKind;
use waymark_core::directory::{
    Change, Directory, Finding, Severity, SourceFile, bundle, check, diff,
};
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::id::StreamId;
use waymark_core::port::{NewRelease, Release, StoreError};

use super::document::sha256_hex;
use super::{InForce, Service, ServiceError};

/// The directory's own stream in the log.
pub const DIRECTORY_STREAM: StreamId = StreamId::from_bytes(*b"waymark/directry");
/// Releases listed at most.
const RELEASES_MAX: u32 = 200;
/// Characters in a note.
const NOTE_MAX: usize = 1_000;

/// A release to apply.
#[derive(Clone, Debug)]
pub struct ApplyDirectory {
    /// Its files.
    pub files: Vec<SourceFile>,
    /// The release it was compared with; `None` takes the newest.
    pub expected: Option<u64>,
    /// Why.
    pub note: String,
    /// Whether only to say what would happen.
    pub dry_run: bool,
}

/// What applying did, or would do.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The new release's number; `None` for a dry run, or when nothing differs.
    pub number: Option<u64>,
    /// Warnings.
    pub findings: Vec<Finding>,
    /// What differs.
    pub changes: Vec<Change>,
}

impl Service {
    /// The release in force, for callers who may read the directory.
    ///
    /// # Errors
    /// `Denied` otherwise.
    pub fn read_directory(
        &self,
        caller: &Principal,
    ) -> Result<std::sync::Arc<InForce>, ServiceError> {
        permit(caller, Action::ReadDirectory, Relationship::None)?;
        Ok(self.in_force())
    }

    /// One release, with its files for an administrator or auditor.
    ///
    /// # Errors
    /// `NotFound` when there is none of that number.
    pub async fn release(
        &self,
        caller: &Principal,
        number: Option<u64>,
    ) -> Result<Release, ServiceError> {
        permit(caller, Action::ReadDeliveries, Relationship::None)?;
        let release = match number {
            Some(n) => self.parts.store.release_by_number(n).await?,
            None => self.parts.store.latest_release().await?,
        };
        release.ok_or_else(|| ServiceError::new(ErrorKind::NotFound, "NO_SUCH_RELEASE"))
    }

    /// Releases, newest first.
    ///
    /// # Errors
    /// `Denied` for callers who may not read the directory.
    pub async fn releases(&self, caller: &Principal) -> Result<Vec<Release>, ServiceError> {
        permit(caller, Action::ReadDirectory, Relationship::None)?;
        Ok(self.parts.store.releases(RELEASES_MAX).await?)
    }

    /// Checks files as a release and applies them; running instances pick it up without a restart.
    ///
    /// # Errors
    /// `Invalid` names every error with file and line; `Precondition` when another release came first.
    pub async fn apply_directory(
        &self,
        caller: &Principal,
        ask: ApplyDirectory,
    ) -> Result<Applied, ServiceError> {
        let permit = permit(caller, Action::ApplyDirectory, Relationship::None)?;
        if ask.note.chars().count() > NOTE_MAX {
            return Err(ServiceError::field(
                "comment",
                format!("at most {NOTE_MAX} characters"),
            ));
        }
        let now = self.now();
        let newest = self.parts.store.latest_release().await?;
        let number = newest.as_ref().map(|r| r.number);
        if ask.expected.is_some() && ask.expected != number {
            return Err(ServiceError::new(ErrorKind::Precondition, "RELEASE_MOVED")
                .with_violation(
                    "expected_release",
                    format!(
                        "the newest release is {}: compare with that one",
                        number.unwrap_or(0)
                    ),
                ));
        }
        let (directory, findings) = self.checked(&ask.files)?;
        let before = newest.as_ref().map(Self::loaded).transpose()?;
        let changes = before
            .as_ref()
            .map(|b| diff(b, &directory))
            .unwrap_or_default();
        let text = bundle(&ask.files).map_err(|e| ServiceError {
            cause: Some(Box::new(e)),
            ..ServiceError::new(ErrorKind::Internal, "ENCODE")
        })?;
        let sha256 = digest_of(&ask.files);
        let same = newest.as_ref().is_some_and(|r| r.sha256 == sha256);
        if ask.dry_run || same {
            return Ok(Applied {
                number: None,
                findings,
                changes,
            });
        }
        let entry = self
            .drafter()
            .entry(
                EntryKind::AdminAction,
                DIRECTORY_STREAM,
                permit.principal(),
                now,
            )
            .code("action", "directory_apply")
            .code("release", (number.unwrap_or(0) + 1).to_string())
            .code("sha256", &sha256);
        let release = NewRelease {
            expected: number,
            bundle: text,
            sha256,
            at: now,
            by: permit.principal().identity.clone(),
            note: ask.note,
            entry,
        };
        let number = self
            .parts
            .store
            .apply_release(release)
            .await
            .map_err(|e| match e {
                StoreError::Stale => ServiceError::new(ErrorKind::Precondition, "RELEASE_MOVED"),
                other => other.into(),
            })?;
        self.parts
            .in_force
            .store(std::sync::Arc::new(InForce { number, directory }));
        Ok(Applied {
            number: Some(number),
            findings,
            changes,
        })
    }

    /// Loads files, runs every check, and refuses errors.
    fn checked(&self, files: &[SourceFile]) -> Result<(Directory, Vec<Finding>), ServiceError> {
        let directory = Directory::load(files).map_err(|f| refused(&f))?;
        let mut findings = check(&directory, self.now().london_date());
        if directory.area.environment != self.parts.environment {
            return Err(ServiceError::field(
                "area.environment",
                format!(
                    "is not this deployment's, which is {}",
                    self.parts.environment.as_str()
                ),
            ));
        }
        let mut violations = Vec::new();
        for endpoint in directory.endpoints.values() {
            for fault in (self.parts.validate_endpoint)(endpoint) {
                violations.push(Violation::new(
                    format!("endpoint {}: {}", endpoint.id, fault.field),
                    fault.why,
                ));
            }
        }
        if !violations.is_empty() {
            return Err(ServiceError::invalid(violations));
        }
        let errors: Vec<Finding> = findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .cloned()
            .collect();
        if !errors.is_empty() {
            return Err(refused(&errors));
        }
        findings.retain(|f| f.severity != Severity::Error);
        Ok((directory, findings))
    }

    /// A stored release, loaded.
    fn loaded(release: &Release) -> Result<Directory, ServiceError> {
        load_release(release).map_err(|f| ServiceError {
            violations: refused(&f).violations,
            ..ServiceError::new(ErrorKind::Corrupt, "STORED_RELEASE")
        })
    }
}

/// SHA-256 over the files by ascending path, each as 8-byte big-endian length and bytes of its path, then of its content;
/// lower-case hex.
fn digest_of(files: &[SourceFile]) -> String {
    let mut sorted: Vec<&SourceFile> = files.iter().collect();
    sorted.sort();
    let mut input = Vec::new();
    for part in sorted.iter().flat_map(|file| [&file.path, &file.text]) {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        input.extend_from_slice(&length.to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    sha256_hex(&input)
}

/// Loads a stored release.
///
/// # Errors
/// What is wrong with it; a release was checked before it was stored, so this means damage or a newer format.
pub fn load_release(release: &Release) -> Result<Directory, Vec<Finding>> {
    let files = waymark_core::directory::unbundle(&release.bundle).map_err(|_| Vec::new())?;
    Directory::load(&files)
}

fn refused(findings: &[Finding]) -> ServiceError {
    let violations = findings.iter().map(|f| {
        Violation::new(
            format!("{} {}", f.place, f.code),
            format!("{}: {}", f.message, f.remedy),
        )
    });
    ServiceError {
        violations: violations.collect(),
        ..ServiceError::new(ErrorKind::Invalid, "DIRECTORY_REFUSED")
    }
}
