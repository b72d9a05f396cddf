//! Directory releases: applied and listed.

use std::collections::BTreeSet;

use waymark_core::access::Principal;
use waymark_core::directory::{self, Finding, Severity, SourceFile};
use waymark_core::error::Violation;
use waymark_proto::v1;

use super::super::cursor::Kind;
use super::super::page::Page;
use super::super::referral::page_scope;
use super::super::status::{field, fields};
use super::super::write;
use super::Admin;
use crate::service::{ApplyDirectory, ServiceError};

/// Files of one directory.
const FILES_MAX: usize = 500;
/// Bytes of all files of one directory.
const BYTES_MAX: usize = 3 * 1024 * 1024;
/// Characters in a path.
const PATH_MAX: usize = 200;
/// Characters in a comment.
const COMMENT_MAX: usize = 1_000;
/// The reason with which files that have errors are refused.
const REFUSED: &str = "DIRECTORY_REFUSED";

impl Admin {
    pub(super) async fn apply(
        &self,
        principal: &Principal,
        ask: v1::ApplyDirectoryRequest,
    ) -> Result<v1::ApplyDirectoryResponse, ServiceError> {
        let service = &self.face.service;
        let comment = ask.comment.trim();
        let count = comment.chars().count();
        if count > COMMENT_MAX || (count == 0 && !ask.dry_run) {
            return Err(field(
                "comment",
                format!("is required, at most {COMMENT_MAX} characters"),
            ));
        }
        let files = files(&ask.files)?;
        // Who may read it says nothing yet of who may apply it: that is the use case's to decide.
        let current = service.read_directory(principal)?.number;
        let expected = match ask.expected_release {
            0 if current > 0 && !ask.dry_run => {
                return Err(field(
                    "expected_release",
                    format!("is required: the release in use is {current}"),
                ));
            }
            0 => None,
            number => Some(number),
        };
        let apply = ApplyDirectory {
            files: files.clone(),
            expected,
            note: comment.to_owned(),
            dry_run: ask.dry_run,
        };
        let applied = match service.apply_directory(principal, apply).await {
            Ok(applied) => applied,
            Err(refused) if refused.reason == REFUSED => {
                // The use case refuses with words; the contract wants each finding with its file and line.
                let findings = self.errors(&files);
                if findings.is_empty() {
                    return Err(refused);
                }
                return Ok(v1::ApplyDirectoryResponse {
                    release: None,
                    findings,
                    changes: Vec::new(),
                });
            }
            Err(refused) => return Err(refused),
        };
        let release = match applied.number {
            None => None,
            Some(number) => {
                let listed = service.releases(principal).await?;
                listed
                    .iter()
                    .find(|release| release.number == number)
                    .map(|release| write::release(release, number))
            }
        };
        Ok(v1::ApplyDirectoryResponse {
            release,
            findings: applied.findings.iter().map(write::finding).collect(),
            changes: applied.changes.iter().map(write::change).collect(),
        })
    }

    /// What a check finds in files that have errors.
    fn errors(&self, files: &[SourceFile]) -> Vec<v1::DirectoryFinding> {
        let findings: Vec<Finding> = match directory::Directory::load(files) {
            Err(findings) => findings,
            Ok(loaded) => directory::check(&loaded, self.face.service.now().london_date()),
        };
        if findings
            .iter()
            .all(|finding| finding.severity != Severity::Error)
        {
            return Vec::new();
        }
        findings.iter().map(write::finding).collect()
    }

    pub(super) async fn releases(
        &self,
        principal: &Principal,
        ask: &v1::ListReleasesRequest,
    ) -> Result<v1::ListReleasesResponse, ServiceError> {
        let scope = page_scope(principal, &v1::ListReleasesRequest::default());
        let page = Page::read(Kind::Releases, scope, ask.page_size, &ask.page_token)?;
        let listed = self.face.service.releases(principal).await?;
        let current = self.face.service.in_force().number;
        let below = page.number().unwrap_or(u64::MAX);
        let rest = listed.iter().filter(|release| release.number < below);
        let (shown, next_page_token) =
            page.cut(rest, |release| release.number.to_be_bytes().to_vec());
        Ok(v1::ListReleasesResponse {
            releases: shown
                .iter()
                .map(|release| write::release(release, current))
                .collect(),
            next_page_token,
        })
    }
}

/// Reads the files of a directory within their limits.
fn files(files: &[v1::DirectoryFile]) -> Result<Vec<SourceFile>, ServiceError> {
    if files.is_empty() || files.len() > FILES_MAX {
        return Err(field("files", format!("are 1 to {FILES_MAX}")));
    }
    if files.iter().map(|file| file.content.len()).sum::<usize>() > BYTES_MAX {
        return Err(field(
            "files",
            format!("are at most {BYTES_MAX} bytes in all"),
        ));
    }
    let (mut read, mut paths, mut violations) = (Vec::new(), BTreeSet::new(), Vec::new());
    for (file, at) in files.iter().zip(0..) {
        if !is_path(&file.path) {
            let why = format!(
                "is a path of 1 to {PATH_MAX} characters with `/`, without `..`, that ends in `.toml`"
            );
            violations.push(Violation::new(format!("files[{at}].path"), why));
        } else if !paths.insert(&file.path) {
            violations.push(Violation::new(
                format!("files[{at}].path"),
                "is there twice",
            ));
        }
        match std::str::from_utf8(&file.content) {
            Ok(text) => read.push(SourceFile {
                path: file.path.clone(),
                text: text.to_owned(),
            }),
            Err(_) => violations.push(Violation::new(
                format!("files[{at}].content"),
                "is not UTF-8",
            )),
        }
    }
    if violations.is_empty() {
        Ok(read)
    } else {
        Err(fields(violations))
    }
}

fn is_path(path: &str) -> bool {
    let parts = || path.split('/');
    path.chars().count() <= PATH_MAX
        && path
            .strip_suffix(".toml")
            .is_some_and(|rest| !rest.is_empty() && !rest.ends_with('/'))
        && parts().all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.chars().any(|c| c.is_control() || c == '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &[u8]) -> v1::DirectoryFile {
        v1::DirectoryFile {
            path: path.to_owned(),
            content: content.to_vec(),
        }
    }

    fn wrong(given: &[v1::DirectoryFile]) -> String {
        files(given)
            .err()
            .map(|e| e.violations[0].field.clone())
            .unwrap_or_default()
    }

    #[test]
    fn a_path_stays_within_the_folder() {
        for path in ["area.toml", "rules/autism.toml", "a/b/..c.toml"] {
            assert!(is_path(path), "{path}");
        }
        for path in [
            "",
            ".toml",
            "a/.toml",
            "/a.toml",
            "../a.toml",
            "a/../b.toml",
            "a//b.toml",
            "a\\b.toml",
            "a.txt",
        ] {
            assert!(!is_path(path), "{path}");
        }
        let stem = "a".repeat(PATH_MAX - ".toml".len());
        assert!(is_path(&format!("{stem}.toml")));
        assert!(!is_path(&format!("{stem}a.toml")));
    }

    #[test]
    fn files_keep_their_limits() {
        let named = |count: usize| {
            (0..count)
                .map(|n| file(&format!("{n}.toml"), b""))
                .collect::<Vec<_>>()
        };
        assert_eq!(wrong(&[]), "files");
        assert_eq!(wrong(&named(FILES_MAX)), "");
        assert_eq!(wrong(&named(FILES_MAX + 1)), "files");
        assert_eq!(wrong(&[file("a.toml", &vec![b' '; BYTES_MAX])]), "");
        assert_eq!(
            wrong(&[file("a.toml", &vec![b' '; BYTES_MAX]), file("b.toml", b" ")]),
            "files"
        );
        assert_eq!(
            wrong(&[file("a.toml", b""), file("a.toml", b"")]),
            "files[1].path"
        );
        assert_eq!(wrong(&[file("a.toml", &[0xff])]), "files[0].content");
    }
}
