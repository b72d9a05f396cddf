//! The delivery log: sequencer rounds and what is read of the log (AUDITLOG.md 3.2, 3.3).
//!
//! Nothing of the tree is kept in memory between rounds: its right edge is a few rows, so every round reads it under
//! the lock of `log_state` and checks it against the root. A round whose COMMIT has no answer leaves nothing to drop.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::QueryBuilder;
use waymark_core::audit::{CommitmentTag, EntryDraft, EntryKind};
use waymark_core::id::{EventId, SubjectId};
use waymark_core::port::{LogState, LogStore, Opening, Round, SignedCheckpoint, StoreError};
use waymark_core::time::Timestamp;
use waymark_tlog::note::SigningKey;
use waymark_tlog::{Checkpoint, Edge, Hash, TileId, leaf_hash, tiles_for_root};

use super::super::ROUND_MAX;
use super::insert::{insert, pieces};
use super::row::{Fields, Row};
use super::subject::load_subject;
use super::write::{Write, append_entry, opening_place, opening_row};
use super::{Backend, Db};
use crate::error::{Fault, internal, sql};

/// Entries or checkpoints of one page, at most.
pub(super) const PAGE_MAX: u32 = 10_000;

const LOCK_STATE: &str = locked!("SELECT size, root FROM log_state WHERE id = 1");
const TAKE: &str = "SELECT id, event_id, kind, entry FROM log_outbox ORDER BY id LIMIT $1";
const PUT_ENTRIES: (&str, &str) = ("INSERT INTO log_entry (idx, event_id, entry, leaf)", "");
const PUT_EVENTS: (&str, &str) = ("INSERT INTO log_event (event_id, idx)", "");
const PUT_TILES: (&str, &str) = (
    "INSERT INTO log_tile (level, n, data)",
    "ON CONFLICT (level, n) DO UPDATE SET data = excluded.data",
);
const CHECKPOINT_HEAD: &str = "SELECT MAX(size) FROM log_checkpoint";
const TILE: &str = "SELECT data FROM log_tile WHERE level = $1 AND n = $2";
const ADVANCE: &str = "UPDATE log_state SET size = $1, root = $2, accepted = accepted + $3
    WHERE id = 1 AND size = $4";
const PUT_CHECKPOINT: &str = "INSERT INTO log_checkpoint (size, note, at_ms) VALUES ($1, $2, $3)";

const STATE: &str = "SELECT s.size, s.root, s.accepted, c.note, c.at_ms FROM log_state s
    LEFT JOIN log_checkpoint c ON c.size = s.size WHERE s.id = 1";
const INDEX_OF: &str = "SELECT idx FROM log_event WHERE event_id = $1";
const WAITING_ENTRY: &str = "SELECT entry FROM log_outbox WHERE event_id = $1";
const SEQUENCED_ENTRY: &str = "SELECT l.entry FROM log_event e JOIN log_entry l ON l.idx = e.idx
    WHERE e.event_id = $1";
const ENTRIES: &str = "SELECT idx, entry FROM log_entry WHERE idx >= $1 ORDER BY idx LIMIT $2";
const CHECKPOINT: &str = "SELECT size, note, at_ms FROM log_checkpoint WHERE size = $1";
const CHECKPOINTS: &str = "SELECT size, note, at_ms FROM log_checkpoint WHERE size > $1
    ORDER BY size LIMIT $2";
const OPENINGS: &str = "SELECT event_id, tag, subject_id, sealed FROM log_opening
    WHERE event_id = $1 ORDER BY tag LIMIT $2";
/// Salts of one entry, at most.
const OPENINGS_MAX: i64 = 64;

#[async_trait]
impl LogStore for Backend {
    async fn sequence(
        &self,
        key: &SigningKey,
        max: u32,
        at: Timestamp,
    ) -> Result<Round, StoreError> {
        let mut w = self.begin().await?;
        let head = lock_head(&mut w).await?;
        let max = max.min(ROUND_MAX);
        let rows = take(&mut w, max).await?;
        if rows.is_empty() {
            return Ok(Round {
                added: 0,
                size: head.size,
                full: false,
            });
        }
        let size = append(&mut w, key, head, &rows, at).await?;
        // The note exists outside this transaction only once it is committed: a note that leaked from a round that
        // was rolled back would be a fork.
        w.commit().await?;
        Ok(Round {
            added: count(rows.len()),
            size,
            full: count(rows.len()) == u64::from(max),
        })
    }

    async fn log_state(&self) -> Result<LogState, StoreError> {
        let row = sqlx::query(STATE)
            .fetch_one(&mut *self.read().await?)
            .await
            .map_err(sql)?;
        let row = Fields::new(&row, "log_state", "root");
        Ok(LogState {
            size: row.int("size")?,
            root: row.fixed("root")?,
            checkpoint: if row.is_null("note")? {
                None
            } else {
                Some(signed(&row)?)
            },
            accepted: row.int("accepted")?,
        })
    }

    async fn append(&self, entry: EntryDraft) -> Result<(), StoreError> {
        let mut w = self.begin().await?;
        append_entry(&mut w, entry, &[], None).await?;
        w.commit().await
    }

    async fn log_index(&self, event: EventId) -> Result<Option<u64>, StoreError> {
        let row = one(self, INDEX_OF, event.as_bytes()).await?;
        row.map(|row| Fields::new(&row, "log_event", "idx").int("idx"))
            .transpose()
    }

    async fn entry_of(&self, event: EventId) -> Result<Option<Vec<u8>>, StoreError> {
        // In this order: a round between the two moves the entry from the first to the second, never back.
        let waiting = one(self, WAITING_ENTRY, event.as_bytes()).await?;
        let row = match waiting {
            Some(row) => Some(row),
            None => one(self, SEQUENCED_ENTRY, event.as_bytes()).await?,
        };
        row.map(|row| Fields::new(&row, "log_entry", "entry").bytes("entry"))
            .transpose()
    }

    async fn entries(&self, from: u64, limit: u32) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let rows = sqlx::query(ENTRIES)
            .bind(number(from)?)
            .bind(i64::from(limit.min(PAGE_MAX)))
            .fetch_all(&mut *self.read().await?)
            .await
            .map_err(sql)?;
        rows.iter()
            .map(|row| {
                let row = Fields::new(row, "log_entry", "entry");
                Ok((row.int("idx")?, row.bytes("entry")?))
            })
            .collect()
    }

    async fn tiles(&self, ids: &[TileId]) -> Result<Vec<(TileId, Vec<u8>)>, StoreError> {
        let mut tiles = Vec::with_capacity(ids.len());
        for id in ids {
            let row = sqlx::query(TILE)
                .bind(i64::from(id.level))
                .bind(number(id.index)?)
                .fetch_optional(&mut *self.read().await?)
                .await
                .map_err(sql)?;
            if let Some(row) = row {
                tiles.push((*id, Fields::new(&row, "log_tile", "data").bytes("data")?));
            }
        }
        Ok(tiles)
    }

    async fn checkpoint(&self, size: u64) -> Result<Option<SignedCheckpoint>, StoreError> {
        let row = sqlx::query(CHECKPOINT)
            .bind(number(size)?)
            .fetch_optional(&mut *self.read().await?)
            .await
            .map_err(sql)?;
        row.map(|row| signed(&Fields::new(&row, "log_checkpoint", "note")))
            .transpose()
    }

    async fn checkpoints(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<SignedCheckpoint>, StoreError> {
        let rows = sqlx::query(CHECKPOINTS)
            .bind(number(after)?)
            .bind(i64::from(limit.min(PAGE_MAX)))
            .fetch_all(&mut *self.read().await?)
            .await
            .map_err(sql)?;
        rows.iter()
            .map(|row| signed(&Fields::new(row, "log_checkpoint", "note")))
            .collect()
    }

    async fn openings(&self, event: EventId) -> Result<Vec<Opening>, StoreError> {
        openings(self, event).await
    }
}

fn signed(row: &Fields<'_>) -> Result<SignedCheckpoint, StoreError> {
    Ok(SignedCheckpoint {
        size: row.int("size")?,
        note: row.text("note")?,
        at: row.at("at_ms")?,
    })
}

/// The head of the log as the round found it.
struct Head {
    size: u64,
    edge: Edge,
}

/// One row of the outbox.
struct Waiting {
    id: i64,
    event: [u8; 16],
    kind: i64,
    entry: Vec<u8>,
    leaf: Hash,
}

/// Takes the log for this transaction and reads its right edge, which must give the stored root.
async fn lock_head(w: &mut Write) -> Result<Head, StoreError> {
    let row = sqlx::query(LOCK_STATE)
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?;
    let row = row.ok_or_else(|| internal(Fault::Missing("the log's state")))?;
    let row = Fields::new(&row, "log_state", "root");
    let (size, root) = (
        row.int::<u64>("size")?,
        Hash::from_bytes(row.fixed("root")?),
    );
    let signed: Option<i64> = sqlx::query_scalar(CHECKPOINT_HEAD)
        .fetch_one(w.conn())
        .await
        .map_err(sql)?;
    if signed.unwrap_or(0) != number(size)? {
        return Err(internal(Forked::Signed {
            size,
            signed: signed.unwrap_or(0),
        }));
    }
    let mut tiles = BTreeMap::new();
    for id in tiles_for_root(size).map_err(internal)? {
        let row = sqlx::query(TILE)
            .bind(i64::from(id.level))
            .bind(number(id.index)?)
            .fetch_optional(w.conn())
            .await
            .map_err(sql)?;
        if let Some(row) = row {
            tiles.insert(id, Fields::new(&row, "log_tile", "data").bytes("data")?);
        }
    }
    let edge = Edge::load(size, |id| {
        Ok::<_, std::convert::Infallible>(tiles.remove(&id))
    })
    .map_err(internal)?;
    if edge.root() == root {
        Ok(Head { size, edge })
    } else {
        Err(internal(Forked::Root { size }))
    }
}

/// Reads the oldest rows of the outbox. They are deleted by the ids read here: ids are given out of commit order,
/// so that a cursor would pass over a row that commits late.
async fn take(w: &mut Write, max: u32) -> Result<Vec<Waiting>, StoreError> {
    let rows = sqlx::query(TAKE)
        .bind(i64::from(max))
        .fetch_all(w.conn())
        .await
        .map_err(sql)?;
    rows.iter()
        .map(|row| {
            let row = Fields::new(row, "log_outbox", "event_id");
            let entry = row.bytes("entry")?;
            Ok(Waiting {
                id: row.int("id")?,
                event: row.fixed("event_id")?,
                kind: row.int("kind")?,
                leaf: leaf_hash(&entry),
                entry,
            })
        })
        .collect()
}

/// Moves rows into the tree, advances the head and signs it; answers the new size.
async fn append(
    w: &mut Write,
    key: &SigningKey,
    head: Head,
    rows: &[Waiting],
    at: Timestamp,
) -> Result<u64, StoreError> {
    let Head {
        size: before,
        mut edge,
    } = head;
    let mut placed = Vec::with_capacity(rows.len());
    for row in rows {
        placed.push((number(edge.size())?, row));
        edge.append(row.leaf);
    }
    insert(w.conn(), PUT_ENTRIES, &placed, |values, (index, row)| {
        values.push_bind(*index).push_bind(row.event.as_slice());
        values
            .push_bind(row.entry.as_slice())
            .push_bind(row.leaf.as_bytes().as_slice());
    })
    .await?;
    insert(w.conn(), PUT_EVENTS, &placed, |values, (index, row)| {
        values.push_bind(row.event.as_slice()).push_bind(*index);
    })
    .await?;
    insert(
        w.conn(),
        PUT_TILES,
        &changed(&mut edge)?,
        |values, (level, n, data)| {
            values
                .push_bind(*level)
                .push_bind(*n)
                .push_bind(data.as_slice());
        },
    )
    .await?;
    for piece in pieces(rows) {
        let mut delete = QueryBuilder::<Db>::new("DELETE FROM log_outbox WHERE id IN (");
        let mut ids = delete.separated(", ");
        for row in piece {
            ids.push_bind(row.id);
        }
        delete.push(")");
        let done = delete.build().execute(w.conn()).await.map_err(sql)?;
        if done.rows_affected() != count(piece.len()) {
            return Err(StoreError::Stale);
        }
    }
    let accepted = rows
        .iter()
        .filter(|row| row.kind == i64::from(EntryKind::Accepted.number()));
    let advanced = sqlx::query(ADVANCE)
        .bind(number(edge.size())?)
        .bind(edge.root().as_bytes().to_vec())
        .bind(number(count(accepted.count()))?)
        .bind(number(before)?)
        .execute(w.conn())
        .await
        .map_err(sql)?;
    if advanced.rows_affected() != 1 {
        return Err(StoreError::Stale);
    }
    let checkpoint = Checkpoint::new(key.name(), edge.size(), edge.root()).map_err(internal)?;
    sqlx::query(PUT_CHECKPOINT)
        .bind(number(edge.size())?)
        .bind(checkpoint.sign(key).map_err(internal)?)
        .bind(at.as_ms())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(edge.size())
}

/// The changed tiles as rows, each once: the edge gives a tile that filled up and then nothing else under its id.
fn changed(edge: &mut Edge) -> Result<Vec<(i64, i64, Vec<u8>)>, StoreError> {
    edge.take_changed()
        .into_iter()
        .map(|(id, data)| Ok((i64::from(id.level), number(id.index)?, data)))
        .collect()
}

/// The log in the database is not the log that was signed: no round may go on.
#[derive(Debug, thiserror::Error)]
enum Forked {
    /// The tiles do not give the root.
    #[error("the tiles of {size} entries do not give the log's root")]
    Root {
        /// Entries.
        size: u64,
    },
    /// The newest checkpoint is of another size.
    #[error("the log has {size} entries but its newest checkpoint was signed at {signed}")]
    Signed {
        /// Entries.
        size: u64,
        /// Size of the newest checkpoint.
        signed: i64,
    },
}

async fn one(store: &Backend, query: &'static str, key: &[u8]) -> Result<Option<Row>, StoreError> {
    sqlx::query(query)
        .bind(key)
        .fetch_optional(&mut *store.read().await?)
        .await
        .map_err(sql)
}

async fn openings(store: &Backend, event: EventId) -> Result<Vec<Opening>, StoreError> {
    let mut conn = store.read().await?;
    let rows = sqlx::query(OPENINGS)
        .bind(event.as_bytes().as_slice())
        .bind(OPENINGS_MAX)
        .fetch_all(&mut *conn)
        .await
        .map_err(sql)?;
    let mut openings = Vec::with_capacity(rows.len());
    for row in &rows {
        let row = Fields::new(row, "log_opening", "event_id");
        let tag: i64 = row.int("tag")?;
        let known = u32::try_from(tag).ok().and_then(CommitmentTag::from_number);
        let known = known.ok_or_else(|| row.corrupt("tag"))?;
        let subject = row.id("subject_id", SubjectId::from_bytes)?;
        // A subject whose keys were destroyed has no salts any more.
        let subject = load_subject(&mut conn, store.seal(), subject).await?;
        let Some(subject) = subject else { continue };
        let key = opening_row(event, tag);
        let salt = subject
            .key
            .open(opening_place(&key), &row.bytes("sealed")?)?;
        let salt = <[u8; 32]>::try_from(salt).map_err(|_| row.corrupt("sealed"))?;
        openings.push(Opening { tag: known, salt });
    }
    Ok(openings)
}

fn number(of: u64) -> Result<i64, StoreError> {
    i64::try_from(of).map_err(|_| internal(Fault::Number("a number of the log")))
}

fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}
