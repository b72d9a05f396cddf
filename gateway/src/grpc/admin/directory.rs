//! Releases of the directory: applied as a whole, listed by number.

use waymark_core::directory::{Directory, FILE_BYTES_MAX, FILES_MAX, Finding, SourceFile, check};
use waymark_proto::v1;

use super::super::cursor::Kind;
use super::super::face::{Caller, Face};
use super::super::page::Page;
use super::super::referral::page_scope;
use super::super::status::field;
use super::super::write;
use crate::service::{ApplyDirectory, ServiceError};

/// Bytes of all files together: what one message may hold.
const TOTAL_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Characters in a path.
const PATH_MAX: usize = 200;

/// Applies files as a release, or says what would happen.
pub(super) async fn apply(
    face: &Face,
    caller: &Caller,
    ask: v1::ApplyDirectoryRequest,
) -> Result<v1::ApplyDirectoryResponse, ServiceError> {
    let files = files(ask.files)?;
    let comment = ask.comment.trim().to_owned();
    if comment.is_empty() && !ask.dry_run {
        return Err(field("comment", "is required: say why"));
    }
    let apply = ApplyDirectory {
        files: files.clone(),
        expected: (ask.expected_release > 0).then_some(ask.expected_release),
        note: comment,
        dry_run: ask.dry_run,
    };
    let applied = match face.service.apply_directory(&caller.principal, apply).await {
        Ok(applied) => applied,
        // The caller may apply, and the files are wrong: say where, every fault at once.
        Err(refused) if refused.reason == "DIRECTORY_REFUSED" => {
            let findings = findings(face, &files).iter().map(write::finding).collect();
            return Ok(v1::ApplyDirectoryResponse { findings, ..v1::ApplyDirectoryResponse::default() });
        }
        Err(refused) => return Err(refused),
    };
    let release = match applied.number {
        None => None,
        Some(number) => {
            let release = face.service.release(&caller.principal, Some(number)).await?;
            Some(write::release(&release, face.service.in_force().number))
        }
    };
    Ok(v1::ApplyDirectoryResponse {
        release,
        findings: applied.findings.iter().map(write::finding).collect(),
        changes: applied.changes.iter().map(write::change).collect(),
    })
}

fn findings(face: &Face, files: &[SourceFile]) -> Vec<Finding> {
    match Directory::load(files) {
        Err(findings) => findings,
        Ok(directory) => check(&directory, face.service.now().london_date()),
    }
}

fn files(files: Vec<v1::DirectoryFile>) -> Result<Vec<SourceFile>, ServiceError> {
    if !(1..=FILES_MAX).contains(&files.len()) {
        return Err(field("files", format!("is 1 to {FILES_MAX}")));
    }
    let total: usize = files.iter().map(|file| file.content.len()).sum();
    if total > TOTAL_BYTES_MAX {
        return Err(field("files", format!("at most {TOTAL_BYTES_MAX} bytes in all")));
    }
    let files = files.into_iter().zip(0..).map(|(file, at)| {
        let name = |part: &str| format!("files[{at}].{part}");
        let is_toml = std::path::Path::new(&file.path).extension().is_some_and(|e| e == "toml");
        let inside = file.path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !is_toml || !inside || file.path.contains('\\') || file.path.chars().count() > PATH_MAX {
            return Err(field(name("path"), "is a path within the directory's folder that ends .toml"));
        }
        if file.content.len() > FILE_BYTES_MAX {
            return Err(field(name("content"), format!("at most {FILE_BYTES_MAX} bytes")));
        }
        let text = String::from_utf8(file.content).map_err(|_| field(name("content"), "is not UTF-8"))?;
        Ok(SourceFile { path: file.path, text })
    });
    files.collect()
}

/// Lists releases, newest first.
pub(super) async fn releases(
    face: &Face,
    caller: &Caller,
    ask: &v1::ListReleasesRequest,
) -> Result<v1::ListReleasesResponse, ServiceError> {
    let scope = page_scope(&caller.principal, &v1::ListReleasesRequest::default());
    let page = Page::read(Kind::Releases, scope, ask.page_size, &ask.page_token)?;
    let in_force = face.service.in_force().number;
    let all = face.service.releases(&caller.principal).await?;
    let mut older = all.iter().filter(|release| page.number().is_none_or(|before| release.number < before));
    let shown: Vec<_> = older.by_ref().take(page.len()).collect();
    let next_page_token = match shown.last() {
        Some(last) if older.next().is_some() => page.token(&last.number.to_be_bytes()),
        _ => String::new(),
    };
    let releases = shown.into_iter().map(|release| write::release(release, in_force)).collect();
    Ok(v1::ListReleasesResponse { releases, next_page_token })
}
