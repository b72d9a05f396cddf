//! Releases of the directory.

use async_trait::async_trait;
use waymark_core::id::EventId;
use waymark_core::port::{DirectoryStore, NewRelease, Release, StoreError};

use super::Backend;
use super::row::{Fields, Row};
use super::write::append_entry;
use crate::error::{Fault, internal, sql};

/// Releases of one list, at most.
pub(super) const LIST_MAX: u32 = 1_000;

const LATEST: &str =
    "SELECT number, bundle, sha256, at_ms, applied_by, note, event_id FROM directory_release
    ORDER BY number DESC LIMIT 1";
const BY_NUMBER: &str = "SELECT number, bundle, sha256, at_ms, applied_by, note, event_id FROM directory_release WHERE number = $1";
const LIST: &str =
    "SELECT number, '' AS bundle, sha256, at_ms, applied_by, note, event_id FROM directory_release
    ORDER BY number DESC LIMIT $1";
const NEWEST: &str = "SELECT MAX(number) FROM directory_release";
const APPLY: &str =
    "INSERT INTO directory_release (number, bundle, sha256, at_ms, applied_by, note, event_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (number) DO NOTHING";

#[async_trait]
impl DirectoryStore for Backend {
    async fn latest_release(&self) -> Result<Option<Release>, StoreError> {
        let row = sqlx::query(LATEST)
            .fetch_optional(&mut *self.read().await?)
            .await
            .map_err(sql)?;
        row.as_ref().map(read).transpose()
    }

    async fn latest_release_number(&self) -> Result<Option<u64>, StoreError> {
        let newest: Option<i64> = sqlx::query_scalar(NEWEST)
            .fetch_one(&mut *self.read().await?)
            .await
            .map_err(sql)?;
        newest
            .map(u64::try_from)
            .transpose()
            .map_err(|_| internal(Fault::Number("number")))
    }

    async fn release_by_number(&self, number: u64) -> Result<Option<Release>, StoreError> {
        let Ok(number) = i64::try_from(number) else {
            return Ok(None);
        };
        let row = sqlx::query(BY_NUMBER)
            .bind(number)
            .fetch_optional(&mut *self.read().await?)
            .await;
        row.map_err(sql)?.as_ref().map(read).transpose()
    }

    async fn apply_release(&self, release: NewRelease) -> Result<u64, StoreError> {
        let event = release.entry.event;
        let mut w = self.begin().await?;
        append_entry(&mut w, release.entry, &[], None).await?;
        let newest: Option<i64> = sqlx::query_scalar(NEWEST)
            .fetch_one(w.conn())
            .await
            .map_err(sql)?;
        let expected = release.expected.map(i64::try_from).transpose();
        if expected.map_err(|_| StoreError::Stale)? != newest {
            return Err(StoreError::Stale);
        }
        let number = newest.unwrap_or(0).saturating_add(1);
        // Where another wins between the look and the insert, its row is there and this one is not made.
        let made = sqlx::query(APPLY)
            .bind(number)
            .bind(release.bundle.as_str())
            .bind(release.sha256.as_str())
            .bind(release.at.as_ms())
            .bind(release.by.as_str())
            .bind(release.note.as_str())
            .bind(event.as_bytes().as_slice())
            .execute(w.conn())
            .await
            .map_err(sql)?;
        if made.rows_affected() != 1 {
            return Err(StoreError::Stale);
        }
        w.commit().await?;
        u64::try_from(number).map_err(|_| internal(Fault::Number("number")))
    }

    async fn releases(&self, limit: u32) -> Result<Vec<Release>, StoreError> {
        let rows = sqlx::query(LIST)
            .bind(i64::from(limit.min(LIST_MAX)))
            .fetch_all(&mut *self.read().await?)
            .await
            .map_err(sql)?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &Row) -> Result<Release, StoreError> {
    let row = Fields::new(row, "directory_release", "sha256");
    Ok(Release {
        number: row.int("number")?,
        bundle: row.text("bundle")?,
        sha256: row.text("sha256")?,
        at: row.at("at_ms")?,
        by: row.text("applied_by")?,
        note: row.text("note")?,
        event: row.id("event_id", EventId::from_bytes)?,
    })
}
