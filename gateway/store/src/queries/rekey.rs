//! Subjects' keys under the newest key-encryption key (KEK): bodies are never touched.
//!
//! Upkeep walks all subjects in pages, round after round. What it finds under an older epoch it wraps anew, so that the
//! older key can be destroyed and every backup of the database with it loses what was erased before.

use std::sync::{Mutex, PoisonError};

use waymark_core::audit::EntryDraft;
use waymark_core::id::SubjectId;
use waymark_core::port::{KeyEpoch, KeyEpochs, StoreError};

use super::row::{Fields, Row};
use super::subject::wrapped_key;
use super::write::append_entry;
use super::{Backend, Db};
use crate::error::{internal, sql};

/// Subjects of one page, which is one transaction where there is something to wrap.
pub(super) const PAGE: usize = 500;
/// Pages of one round of upkeep in which something is found, at most.
const PAGES_MAX: usize = 50;

/// Where the walk is: the subject seen last.
#[derive(Debug, Default)]
pub(super) struct Walk(Mutex<Option<SubjectId>>);

impl Walk {
    fn at(&self) -> Option<SubjectId> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go_to(&self, subject: Option<SubjectId>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = subject;
    }
}

const SUBJECTS: &str =
    "SELECT id, wrapped_key, kek_epoch FROM subject WHERE id > $1 ORDER BY id LIMIT $2";
// The same key stays under the epoch that it was read under, or somebody else was here.
const WRAP: &str =
    "UPDATE subject SET wrapped_key = $3, kek_epoch = $4 WHERE id = $1 AND kek_epoch = $2";
const EPOCHS: &str =
    "SELECT kek_epoch, COUNT(*) AS subjects FROM subject GROUP BY kek_epoch ORDER BY kek_epoch";
const IN_USE: &str = "SELECT key, CAST(value AS BIGINT) AS value FROM meta WHERE key = 'kek_epoch'";
// Nothing where another instance was first.
const TAKE: &str = "UPDATE meta SET value = $1 WHERE key = 'kek_epoch' AND CAST(value AS BIGINT) < CAST($1 AS BIGINT)";

/// Walks on: one page, and more while there is something to wrap anew.
pub(super) async fn walk(store: &Backend) -> Result<(), StoreError> {
    for _ in 0..PAGES_MAX {
        let rows = page(store).await?;
        let newest = i64::from(store.seal().epoch());
        let old: Vec<&Row> = older(&rows, newest)?;
        if !old.is_empty() {
            wrap_anew(store, &old).await?;
        }
        let last = rows.last().map(|row| Fields::new(row, "subject", "id"));
        let last = last
            .map(|row| row.id("id", SubjectId::from_bytes))
            .transpose()?;
        store.rekeyed.go_to(last.filter(|_| rows.len() == PAGE));
        if old.is_empty() || rows.len() < PAGE {
            break;
        }
    }
    Ok(())
}

async fn page(store: &Backend) -> Result<Vec<Row>, StoreError> {
    let after = store.rekeyed.at();
    sqlx::query(SUBJECTS)
        .bind(
            after
                .as_ref()
                .map_or(&[] as &[u8], |id| id.as_bytes().as_slice()),
        )
        .bind(i64::try_from(PAGE).map_err(internal)?)
        .fetch_all(&mut *store.read().await?)
        .await
        .map_err(sql)
}

fn older(rows: &[Row], newest: i64) -> Result<Vec<&Row>, StoreError> {
    let mut old = Vec::new();
    for row in rows {
        if Fields::new(row, "subject", "id").int::<i64>("kek_epoch")? < newest {
            old.push(row);
        }
    }
    Ok(old)
}

async fn wrap_anew(store: &Backend, old: &[&Row]) -> Result<(), StoreError> {
    let mut w = store.begin().await?;
    for row in old {
        let (id, key) = wrapped_key(row)?;
        let anew = store.seal().wrap_anew(id, &key)?;
        sqlx::query(WRAP)
            .bind(id.as_bytes().as_slice())
            .bind(key.epoch)
            .bind(anew.wrapped)
            .bind(anew.epoch)
            .execute(w.conn())
            .await
            .map_err(sql)?;
    }
    w.commit().await
}

/// How many subjects each epoch wraps.
pub(super) async fn epochs(store: &Backend) -> Result<KeyEpochs, StoreError> {
    let rows = sqlx::query(EPOCHS)
        .fetch_all(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    let mut epochs = Vec::with_capacity(rows.len());
    for row in &rows {
        let row = Fields::new(row, "subject", "kek_epoch");
        epochs.push(KeyEpoch {
            epoch: row.int("kek_epoch")?,
            subjects: row.int("subjects")?,
        });
    }
    let row = sqlx::query(IN_USE)
        .fetch_one(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    let in_use = Fields::new(&row, "meta", "key").int("value")?;
    Ok(KeyEpochs { in_use, epochs })
}

/// Notes that the keyring's newest epoch is in use, with its entry; answers `false` when it was noted before.
pub(super) async fn take(store: &Backend, entry: EntryDraft) -> Result<bool, StoreError> {
    let mut w = store.begin().await?;
    let taken = sqlx::query::<Db>(TAKE)
        .bind(store.seal().epoch().to_string())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    if taken.rows_affected() == 0 {
        return Ok(false);
    }
    append_entry(&mut w, entry, &[], None).await?;
    w.commit().await?;
    Ok(true)
}
