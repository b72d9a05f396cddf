//! Partitions by time, made ahead: on PostgreSQL alone. SQLite has one table of each.
//!
//! The first six bytes of a UUIDv7 are its time in milliseconds, so that a range of ids is a range of time. The log's
//! entries are cut by index.

use sqlx::{AssertSqlSafe, Database as _};
use tracing::warn;
use waymark_core::port::{LogStore as _, StoreError};
use waymark_core::time::Timestamp;

use super::{Backend, Db};
use crate::error::sql;

/// Tables cut by the time in the id that is their key.
const BY_TIME: [&str; 7] = [
    "body",
    "referral",
    "leg",
    "delivery",
    "attempt",
    "event",
    "log_opening",
];
/// Months made ahead of this one.
const MONTHS_AHEAD: i64 = 2;
/// Log entries of one partition.
const ENTRIES: u64 = 1 << 24;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// What two instances that make partitions at once take turns by: an arbitrary number.
const TURN: i64 = 0x77_6d_70_61_72_74;
/// What PostgreSQL says when rows of the new range are in the default partition already.
const ROWS_IN_DEFAULT: &str = "23514";

/// Makes the partitions of this month and the next ones, and of the log's next entries.
pub(super) async fn make_ahead(store: &Backend, now: Timestamp) -> Result<(), StoreError> {
    if Db::NAME != "PostgreSQL" {
        return Ok(());
    }
    let this = month_of(now);
    for month in this..=this.saturating_add(MONTHS_AHEAD) {
        let (from, to) = (
            id_prefix(month_start(month)),
            id_prefix(month_start(month + 1)),
        );
        for table in BY_TIME {
            let name = format!(
                "{table}_{:04}{:02}",
                month.div_euclid(12),
                month.rem_euclid(12) + 1
            );
            make(
                store,
                table,
                &name,
                &format!("('\\x{from}') TO ('\\x{to}')"),
            )
            .await?;
        }
    }
    let part = store.log_state().await?.size / ENTRIES;
    for part in part..=part.saturating_add(1) {
        let (from, to) = (
            part.saturating_mul(ENTRIES),
            part.saturating_add(1).saturating_mul(ENTRIES),
        );
        make(
            store,
            "log_entry",
            &format!("log_entry_{part}"),
            &format!("({from}) TO ({to})"),
        )
        .await?;
    }
    Ok(())
}

async fn make(store: &Backend, table: &str, name: &str, range: &str) -> Result<(), StoreError> {
    // Every name, bound and table here is this module's own: nothing from outside reaches these texts.
    let mut w = store.begin().await?;
    let known: Option<String> = sqlx::query_scalar("SELECT CAST(to_regclass($1) AS TEXT)")
        .bind(name)
        .fetch_one(w.conn())
        .await
        .map_err(sql)?;
    if known.is_some() {
        return Ok(());
    }
    sqlx::query(AssertSqlSafe(format!(
        "SELECT pg_advisory_xact_lock({TURN})"
    )))
    .execute(w.conn())
    .await
    .map_err(sql)?;
    let create =
        format!("CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table} FOR VALUES FROM {range}");
    match sqlx::query(AssertSqlSafe(create)).execute(w.conn()).await {
        Ok(_) => w.commit().await,
        // They stay where they are, whole and found; the next month has a partition of its own.
        Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some(ROWS_IN_DEFAULT) => {
            warn!(
                table,
                partition = name,
                "rows came before their partition was made"
            );
            Ok(())
        }
        Err(error) => Err(sql(error)),
    }
}

/// Months since year 0.
fn month_of(at: Timestamp) -> i64 {
    // Days to a civil date in the proleptic Gregorian calendar, by years that begin in March.
    let days = at.as_ms().div_euclid(DAY_MS) + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153 + 2;
    (year + era * 400) * 12 + month
}

/// The first instant of a month, in milliseconds.
fn month_start(month: i64) -> i64 {
    let from_march = month - 2;
    let (year, month) = (from_march.div_euclid(12), from_march.rem_euclid(12));
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day = year * 365 + year / 4 - year / 100 + (153 * month + 2) / 5;
    (era * 146_097 + day - 719_468) * DAY_MS
}

/// The first six bytes of the ids of an instant, lower-case hex.
fn id_prefix(ms: i64) -> String {
    format!("{:012x}", ms.clamp(0, 0xffff_ffff_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        let ms = [
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400_000),
            ("2000-03-01", 951_868_800_000),
            ("2026-11-01", 1_793_491_200_000),
            ("2026-12-01", 1_796_083_200_000),
            ("2027-01-01", 1_798_761_600_000),
        ];
        ms.iter()
            .find(|(day, _)| *day == text)
            .map(|(_, ms)| *ms)
            .unwrap()
    }

    #[test]
    fn a_month_ends_where_the_next_begins() {
        for (first, next) in [("2026-11-01", "2026-12-01"), ("2026-12-01", "2027-01-01")] {
            let month = month_of(Timestamp::from_ms(at(first)));
            assert_eq!(month_start(month), at(first), "{first}");
            assert_eq!(month_start(month + 1), at(next), "{first}");
            assert_eq!(month_of(Timestamp::from_ms(at(next) - 1)), month);
            assert_eq!(month_of(Timestamp::from_ms(at(next))), month + 1);
        }
        assert_eq!(
            month_of(Timestamp::from_ms(at("2000-02-29"))),
            2000 * 12 + 1
        );
        assert_eq!(
            month_of(Timestamp::from_ms(at("2000-03-01"))),
            2000 * 12 + 2
        );
        assert_eq!(month_of(Timestamp::from_ms(0)), 1970 * 12);
    }

    #[test]
    fn a_prefix_sorts_before_the_ids_of_its_instant_and_after_all_earlier_ones() {
        let ms = at("2026-12-01");
        let id = |ms: i64, fill: u8| {
            let ms = u64::try_from(ms).unwrap();
            *uuid::Builder::from_unix_timestamp_millis(ms, &[fill; 10])
                .into_uuid()
                .as_bytes()
        };
        let bound = hex::decode(id_prefix(ms)).unwrap();
        assert!(bound.as_slice() <= id(ms, 0).as_slice());
        assert!(id(ms - 1, 0xff).as_slice() < bound.as_slice());
    }
}
