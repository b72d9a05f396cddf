//! Alarms, checks, measures and upkeep.

use async_trait::async_trait;
use waymark_core::alarm::{Alarm, AlarmKind, NewAlarm};
use waymark_core::audit::{EntryDraft, EntryKind};
use waymark_core::id::{DocumentId, ReferralId, StreamId};
use waymark_core::port::{
    BACKLOG_COUNT_MAX, Backlog, CheckPage, Counters, Disk, KeyEpochs, OpenOnly, StoreError,
    UpkeepStore,
};
use waymark_core::time::Timestamp;

use super::row::Fields;
use super::write::{DELIVERIES, REFERRALS};
use super::{Backend, alarm, check, document, partition, rekey};
use crate::error::sql;

/// Days that a message key is kept: a message repeated later than that is a new one.
pub(crate) const MESSAGE_KEY_DAYS: i64 = 400;
/// Message keys pruned by one transaction.
pub(crate) const PRUNE_ROWS: i64 = 1_000;
/// Transactions that prune in one round of upkeep, at most.
const PRUNE_BATCHES: u32 = 50;
/// Outbox rows counted, at most; accepts are refused long before.
pub(crate) const OUTBOX_COUNT_MAX: i64 = 200_000;
/// Endpoints and counters answered, at most.
const ROWS_MAX: i64 = 10_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// The name under which accept entries are answered beside the counters.
const ACCEPTED_ENTRIES: &str = "accepted_entries";
const STATE_PREFIX: &str = "delivery.";

// One statement, so that the counters and the log are seen at one moment.
const COUNTERS: &str = "SELECT name, CAST(SUM(value) AS BIGINT) AS value FROM counter GROUP BY name
    UNION ALL SELECT 'accepted_entries', s.accepted + (SELECT COUNT(*) FROM log_outbox o WHERE o.kind = $1)
        FROM log_state s WHERE s.id = 1
    ORDER BY 1 LIMIT $2";
// One step of an index an endpoint, and a bounded count each.
const BACKLOG: &str = "WITH RECURSIVE e (endpoint_id) AS (
        SELECT (SELECT l.endpoint_id FROM lane l ORDER BY l.endpoint_id LIMIT 1)
        UNION ALL
        SELECT (SELECT l.endpoint_id FROM lane l WHERE l.endpoint_id > e.endpoint_id
            ORDER BY l.endpoint_id LIMIT 1)
        FROM e WHERE e.endpoint_id IS NOT NULL
    )
    SELECT e.endpoint_id,
        (SELECT COUNT(*) FROM (SELECT 1 AS one FROM lane l WHERE l.endpoint_id = e.endpoint_id
            ORDER BY l.queued_ms LIMIT $1) c) AS lanes,
        (SELECT l.queued_ms FROM lane l WHERE l.endpoint_id = e.endpoint_id ORDER BY l.queued_ms LIMIT 1) AS oldest_ms
    FROM e WHERE e.endpoint_id IS NOT NULL ORDER BY e.endpoint_id LIMIT $2";
const WAITING: &str = "SELECT COUNT(*) AS waiting, 'log_outbox' AS name,
        (SELECT o.at_ms FROM log_outbox o ORDER BY o.id LIMIT 1) AS oldest_ms
    FROM (SELECT 1 AS one FROM log_outbox LIMIT $1) c";
const PRUNE: &str = "DELETE FROM message_key WHERE hash IN
    (SELECT hash FROM message_key WHERE created_ms < $1 ORDER BY created_ms LIMIT $2)";

#[async_trait]
impl UpkeepStore for Backend {
    async fn raise_alarm(&self, raised: &NewAlarm, at: Timestamp) -> Result<bool, StoreError> {
        alarm::raise(self, raised, at).await
    }

    async fn resolve_alarm(
        &self,
        kind: AlarmKind,
        subject: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        alarm::resolve(self, (kind, subject), at).await
    }

    async fn alarms(&self, open_only: OpenOnly, limit: u32) -> Result<Vec<Alarm>, StoreError> {
        alarm::list(self, open_only, limit).await
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        let rows = sqlx::query(COUNTERS)
            .bind(i64::from(EntryKind::Accepted.number()))
            .bind(ROWS_MAX)
            .fetch_all(&mut *self.read().await?)
            .await
            .map_err(sql)?;
        let mut counters = Counters::default();
        for row in &rows {
            let row = Fields::new(row, "counter", "name");
            let name = row.text("name")?;
            if let Some(state) = name.strip_prefix(STATE_PREFIX) {
                counters
                    .by_state
                    .insert(state.to_owned(), row.int("value")?);
            } else if name == REFERRALS {
                counters.referrals = row.int("value")?;
            } else if name == DELIVERIES {
                counters.deliveries = row.int("value")?;
            } else if name == ACCEPTED_ENTRIES {
                counters.accepted_entries = row.int("value")?;
            }
        }
        Ok(counters)
    }

    fn disk(&self) -> Option<Disk> {
        self.look_at_disk()
    }

    async fn check_page(
        &self,
        after: Option<ReferralId>,
        limit: u32,
    ) -> Result<CheckPage, StoreError> {
        check::page(self, after, limit).await
    }

    async fn backlog(&self) -> Result<Vec<Backlog>, StoreError> {
        let rows = sqlx::query(BACKLOG)
            .bind(i64::from(BACKLOG_COUNT_MAX))
            .bind(ROWS_MAX)
            .fetch_all(&mut *self.read().await?)
            .await
            .map_err(sql)?;
        rows.iter()
            .map(|row| {
                let row = Fields::new(row, "lane", "endpoint_id");
                Ok(Backlog {
                    endpoint: row.code("endpoint_id")?,
                    lanes: row.int("lanes")?,
                    oldest: row.at("oldest_ms")?,
                })
            })
            .collect()
    }

    async fn outbox(&self, now: Timestamp) -> Result<(u64, u64), StoreError> {
        let row = sqlx::query(WAITING)
            .bind(OUTBOX_COUNT_MAX)
            .fetch_one(&mut *self.read().await?)
            .await
            .map_err(sql)?;
        let row = Fields::new(&row, "log_outbox", "name");
        let oldest = row.opt_at("oldest_ms")?;
        let age = oldest.map(|oldest| now.since(oldest).as_millis());
        Ok((
            row.int("waiting")?,
            u64::try_from(age.unwrap_or(0)).unwrap_or(u64::MAX),
        ))
    }

    async fn upkeep(&self, now: Timestamp) -> Result<(), StoreError> {
        partition::make_ahead(self, now).await?;
        prune_message_keys(self, now).await?;
        rekey::walk(self).await?;
        self.fold_wal().await
    }

    async fn key_epochs(&self) -> Result<KeyEpochs, StoreError> {
        rekey::epochs(self).await
    }

    fn key_epoch(&self) -> u32 {
        self.seal().epoch()
    }

    async fn take_key_epoch(&self, entry: EntryDraft) -> Result<bool, StoreError> {
        rekey::take(self, entry).await
    }

    async fn untaken_documents(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<(DocumentId, StreamId)>, StoreError> {
        document::untaken(self, before, limit).await
    }

    async fn forget_document(&self, id: DocumentId, entry: EntryDraft) -> Result<bool, StoreError> {
        document::forget(self, id, entry).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let one: Result<i64, _> = sqlx::query_scalar("SELECT CAST(1 AS BIGINT)")
            .fetch_one(&mut *self.read().await?)
            .await;
        one.map(drop).map_err(sql)
    }
}

async fn prune_message_keys(store: &Backend, now: Timestamp) -> Result<(), StoreError> {
    let before = now.as_ms().saturating_sub(MESSAGE_KEY_DAYS * DAY_MS);
    for _ in 0..PRUNE_BATCHES {
        let mut w = store.begin().await?;
        let pruned = sqlx::query(PRUNE)
            .bind(before)
            .bind(PRUNE_ROWS)
            .execute(w.conn())
            .await
            .map_err(sql)?;
        w.commit().await?;
        if pruned.rows_affected() < u64::try_from(PRUNE_ROWS).unwrap_or(u64::MAX) {
            break;
        }
    }
    Ok(())
}
