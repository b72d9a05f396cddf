//! SQL and logic, compiled once for each engine: `super` is the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};
use waymark_core::audit::EntryDraft;
use waymark_core::id::{AgencyId, BodyId, DocumentId, EventId, LegId, ReferralId};
use waymark_core::personal::Payload;
use waymark_core::port::{
    Accept, Accepted, Changed, Disk, DocumentView, EventView, FeedPage, FeedQuery, LOW_DISK,
    MessageKey, NewDocument, ReferralChange, ReferralKey, ReferralQuery, ReferralStore,
    ReferralView, StoreError, SubjectKey, Uploaded,
};

use super::{Db, Engine, Guard, Pools, begin, fold_wal, free_disk, turn};
use crate::error::sql;
use crate::seal::Seal;

#[path = "queries/accept.rs"]
mod accept;
#[path = "queries/bare.rs"]
mod bare;
#[path = "queries/change.rs"]
mod change;
#[path = "queries/claim.rs"]
mod claim;
#[path = "queries/committer.rs"]
mod committer;
#[path = "queries/document.rs"]
mod document;
#[path = "queries/group.rs"]
mod group;
#[path = "queries/insert.rs"]
mod insert;
#[path = "queries/keep.rs"]
mod keep;
#[path = "queries/keys.rs"]
mod keys;
#[path = "queries/likeness.rs"]
mod likeness;
#[path = "queries/read.rs"]
mod read;
#[path = "queries/rekey.rs"]
mod rekey;
#[path = "queries/row.rs"]
mod row;
#[path = "queries/start.rs"]
mod start;
#[path = "queries/subject.rs"]
mod subject;
#[path = "queries/write.rs"]
mod write;

#[cfg(test)]
#[path = "queries/accept_tests.rs"]
mod accept_tests;
#[cfg(test)]
#[path = "queries/change_tests.rs"]
mod change_tests;
#[cfg(test)]
#[path = "queries/cost_tests.rs"]
mod cost_tests;
#[cfg(test)]
#[path = "queries/read_tests.rs"]
mod read_tests;
#[cfg(test)]
#[path = "queries/rekey_tests.rs"]
mod rekey_tests;
#[cfg(test)]
#[path = "queries/start_tests.rs"]
mod start_tests;

// Store B's modules.
#[path = "queries/alarm.rs"]
mod alarm;
#[path = "queries/attempt.rs"]
mod attempt;
#[path = "queries/check.rs"]
mod check;
#[path = "queries/directory.rs"]
mod directory;
#[path = "queries/follow.rs"]
mod follow;
#[path = "queries/lane.rs"]
mod lane;
#[path = "queries/lease.rs"]
mod lease;
#[path = "queries/log.rs"]
mod log;
#[path = "queries/operate.rs"]
mod operate;
#[path = "queries/overdue.rs"]
mod overdue;
#[path = "queries/partition.rs"]
mod partition;
#[path = "queries/rule.rs"]
mod rule;
#[path = "queries/upkeep.rs"]
mod upkeep;
#[path = "queries/view.rs"]
mod view;
#[path = "queries/work.rs"]
mod work;

#[cfg(test)]
#[path = "queries/check_tests.rs"]
mod check_tests;
#[cfg(test)]
#[path = "queries/fixture.rs"]
mod fixture;
#[cfg(test)]
#[path = "queries/group_tests.rs"]
mod group_tests;
#[cfg(test)]
#[path = "queries/lane_tests.rs"]
mod lane_tests;
#[cfg(test)]
#[path = "queries/log_tests.rs"]
mod log_tests;
#[cfg(test)]
#[path = "queries/operate_tests.rs"]
mod operate_tests;

pub(crate) use start::{migrate, open, open_bare};
use write::Write;

/// Shards of each counter: transactions of one process take them in turn, so that few wait for one another.
pub(crate) const COUNTER_SHARDS: i64 = 16;

/// What requests and the committer share.
pub(crate) struct Shared {
    pools: Pools,
    engine: Engine,
    seal: Seal,
    wake: Notify,
    turn: AtomicI64,
    /// Accepts that were asked for and not answered yet.
    accepts: AtomicUsize,
    /// Whether one was asked for since the last other write.
    accepts_came: AtomicBool,
    /// How far upkeep has looked for keys of older epochs.
    rekeyed: rekey::Walk,
    free_disk_min: u64,
    /// Whether the disk was low when it was last looked at.
    low_disk: AtomicBool,
}

impl Shared {
    async fn begin_on(&self, pool: &sqlx::Pool<Db>) -> Result<Write, StoreError> {
        let tx = begin(pool).await.map_err(sql)?;
        Ok(Write::new(tx, self.turn.fetch_add(1, Ordering::Relaxed)))
    }

    /// Begins a write that is no accept, once it is its turn. Drop it to roll back.
    async fn begin_in_turn(&self) -> Result<Write, StoreError> {
        let turn = turn(&self.engine, &self.accepts_came).await;
        let write = self.begin_on(&self.pools.writer).await?;
        Ok(write.in_turn(turn))
    }

    /// Accepts that wait, for as long as another write is under way.
    fn accepts_waiting(&self) -> usize {
        self.accepts.load(Ordering::Relaxed)
    }

    /// Looks at the disk: what it finds holds until the next look.
    fn look_at_disk(&self) -> Option<Disk> {
        let free = free_disk(&self.engine)?;
        let disk = Disk {
            free,
            min: self.free_disk_min,
        };
        self.low_disk.store(disk.is_low(), Ordering::Relaxed);
        Some(disk)
    }

    /// Refuses what is new while the disk is low: the room that is left is for what was accepted (ruling 16).
    fn has_room(&self) -> Result<(), StoreError> {
        if self.low_disk.load(Ordering::Relaxed) {
            return Err(StoreError::Exhausted { limit: LOW_DISK });
        }
        Ok(())
    }

    /// Wakes all that wait for work, and leaves a permit for one that is about to.
    fn work_was_added(&self) {
        self.wake.notify_waiters();
        self.wake.notify_one();
    }
}

/// One open database.
///
/// Inside a [`Write`], never use a pool: in memory there is one connection, and the write has it.
pub(crate) struct Backend {
    shared: Arc<Shared>,
    queue: mpsc::Sender<committer::Job>,
    /// Where steps of attempts share commits.
    steps: Option<mpsc::Sender<group::Job>>,
    _guard: Guard,
}

impl std::ops::Deref for Backend {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Backend {
    /// Begins a write. Drop it to roll back.
    async fn begin(&self) -> Result<Write, StoreError> {
        self.shared.begin_in_turn().await
    }

    /// Where reads go.
    fn reader(&self) -> &sqlx::Pool<Db> {
        &self.shared.pools.reader
    }

    /// A connection to read with, for a read of several statements.
    async fn read(&self) -> Result<sqlx::pool::PoolConnection<Db>, StoreError> {
        self.reader().acquire().await.map_err(sql)
    }

    /// The keys.
    fn seal(&self) -> &Seal {
        &self.shared.seal
    }

    /// Wakes whoever waits for new work: call it after a commit that queued or freed deliveries.
    fn work_was_added(&self) {
        self.shared.work_was_added();
    }

    /// Resolves once this process has committed new work.
    async fn until_work_is_added(&self) {
        self.shared.wake.notified().await;
    }

    /// Folds SQLite's write-ahead log into the database: part of upkeep.
    async fn fold_wal(&self) -> Result<(), StoreError> {
        fold_wal(&self.shared.pools, &self.shared.engine).await
    }
}

#[async_trait]
impl ReferralStore for Backend {
    async fn accept(&self, accept: Accept) -> Result<Accepted, StoreError> {
        committer::accept(self, accept).await
    }

    async fn change(&self, change: ReferralChange) -> Result<Changed, StoreError> {
        change::change(self, change).await
    }

    async fn answered(
        &self,
        key: &MessageKey,
        referral: ReferralId,
    ) -> Result<Option<EventId>, StoreError> {
        change::answered(self, key, referral).await
    }

    async fn referral(&self, id: ReferralId) -> Result<Option<ReferralView>, StoreError> {
        read::referral(self, id).await
    }

    async fn resolve(&self, key: &ReferralKey) -> Result<Option<ReferralId>, StoreError> {
        read::resolve(self, key).await
    }

    async fn names_another(
        &self,
        referral: ReferralId,
        child: &SubjectKey,
    ) -> Result<bool, StoreError> {
        read::names_another(self, referral, child).await
    }

    async fn status_seen(
        &self,
        leg: LegId,
        source: &AgencyId,
        version: u64,
    ) -> Result<bool, StoreError> {
        read::status_seen(self, leg, source, version).await
    }

    async fn read_body(
        &self,
        body: BodyId,
        entry: EntryDraft,
    ) -> Result<Option<Payload>, StoreError> {
        document::read_body(self, body, entry).await
    }

    async fn list(&self, query: &ReferralQuery) -> Result<Vec<ReferralView>, StoreError> {
        read::list(self, query).await
    }

    async fn timeline(
        &self,
        referral: ReferralId,
        limit: u32,
    ) -> Result<Vec<EventView>, StoreError> {
        read::timeline(self, referral, limit).await
    }

    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage, StoreError> {
        read::feed(self, query).await
    }

    async fn put_document(&self, document: NewDocument) -> Result<Uploaded, StoreError> {
        document::put(self, document).await
    }

    async fn document(&self, id: DocumentId) -> Result<Option<DocumentView>, StoreError> {
        document::describe(self, id).await
    }
}
