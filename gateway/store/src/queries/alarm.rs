//! Alarms: raised once, resolved once, listed.

use std::collections::BTreeSet;

use sqlx::QueryBuilder;
use waymark_core::alarm::{Alarm, AlarmKind, NewAlarm};
use waymark_core::port::{OpenOnly, StoreError};
use waymark_core::time::Timestamp;

use super::row::{Fields, Row};
use super::write::{open_alarms, resolve_alarms};
use super::{Backend, Db};
use crate::error::sql;

/// Alarms of one page, at most.
pub(super) const PAGE_MAX: u32 = 10_000;
/// Subjects asked for by one statement.
const SUBJECTS_MAX: usize = 200;

const OPEN: &str = "SELECT id, kind, subject, owner, role, text, opened_ms, resolved_ms FROM alarm
    WHERE resolved_ms IS NULL ORDER BY opened_ms DESC, id DESC LIMIT $1";
const RESOLVED: &str =
    "SELECT id, kind, subject, owner, role, text, opened_ms, resolved_ms FROM alarm
    WHERE resolved_ms IS NOT NULL ORDER BY opened_ms DESC, id DESC LIMIT $1";

/// Opens an alarm; answers whether it is new.
pub(super) async fn raise(
    store: &Backend,
    alarm: &NewAlarm,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let mut w = store.begin().await?;
    let opened = open_alarms(&mut w, &[(alarm, at)]).await?;
    w.commit().await?;
    Ok(opened == 1)
}

/// Resolves an alarm, if open.
pub(super) async fn resolve(
    store: &Backend,
    (kind, subject): (AlarmKind, &str),
    at: Timestamp,
) -> Result<(), StoreError> {
    let mut w = store.begin().await?;
    resolve_alarms(&mut w, &[(kind, subject.to_owned())], at).await?;
    w.commit().await
}

/// Alarms, open ones first, newest first.
pub(super) async fn list(
    store: &Backend,
    open_only: OpenOnly,
    limit: u32,
) -> Result<Vec<Alarm>, StoreError> {
    let limit = limit.min(PAGE_MAX);
    let mut alarms = page(store, OPEN, limit).await?;
    let left = limit.saturating_sub(u32::try_from(alarms.len()).unwrap_or(u32::MAX));
    if open_only == OpenOnly::No && left > 0 {
        alarms.extend(page(store, RESOLVED, left).await?);
    }
    Ok(alarms)
}

async fn page(store: &Backend, query: &'static str, limit: u32) -> Result<Vec<Alarm>, StoreError> {
    let rows = sqlx::query(query)
        .bind(i64::from(limit))
        .fetch_all(&mut *store.read().await?)
        .await;
    rows.map_err(sql)?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Alarm, StoreError> {
    let row = Fields::new(row, "alarm", "id");
    Ok(Alarm {
        alarm: NewAlarm {
            kind: row.word("kind", AlarmKind::parse)?,
            subject: row.text("subject")?,
            owner: row.code("owner")?,
            role: row.text("role")?,
            text: row.text("text")?,
        },
        opened: row.at("opened_ms")?,
        resolved: row.opt_at("resolved_ms")?,
    })
}

/// Which of the subjects have an open alarm of one of the kinds.
pub(super) async fn open_among(
    store: &Backend,
    kinds: &[AlarmKind],
    subjects: &[&str],
) -> Result<BTreeSet<String>, StoreError> {
    let mut open = BTreeSet::new();
    for piece in subjects.chunks(SUBJECTS_MAX) {
        let mut select = QueryBuilder::<Db>::new(
            "SELECT subject FROM alarm WHERE resolved_ms IS NULL AND kind IN (",
        );
        let mut list = select.separated(", ");
        for kind in kinds {
            list.push_bind(kind.as_str());
        }
        select.push(") AND subject IN (");
        let mut list = select.separated(", ");
        // Filled up to one size, so that one text is prepared.
        let fill = piece
            .last()
            .into_iter()
            .cycle()
            .take(SUBJECTS_MAX.saturating_sub(piece.len()));
        for subject in piece.iter().chain(fill) {
            list.push_bind(*subject);
        }
        select.push(")");
        let rows = select
            .build()
            .fetch_all(&mut *store.read().await?)
            .await
            .map_err(sql)?;
        for row in &rows {
            open.insert(Fields::new(row, "alarm", "subject").text("subject")?);
        }
    }
    Ok(open)
}
