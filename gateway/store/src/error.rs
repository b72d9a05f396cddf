//! What the database's errors mean to the gateway.

use waymark_core::port::StoreError;

/// A fault that the store finds in itself or in its keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// A log entry is longer than its format allows.
    #[error("a log entry of {0} bytes is over the limit")]
    EntryTooLong(usize),
    /// Salts without a subject whose key could seal them.
    #[error("a log entry without a subject came with salts")]
    OpeningsWithoutSubject,
    /// A number does not fit its column.
    #[error("{0} does not fit its column")]
    Number(&'static str),
    /// A row that a transaction relies on was not there.
    #[error("{0} was not there")]
    Missing(&'static str),
    /// The batch that this item was in failed.
    #[error("{0}")]
    Batch(String),
    /// The committer panicked.
    #[error("the committer panicked on this item")]
    Panicked,
    /// The store is closing.
    #[error("the store is closing")]
    Closing,
}

/// A defect.
pub(crate) fn internal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Internal(error.into())
}

/// A passing fault.
pub(crate) fn unavailable(
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Unavailable(error.into())
}

/// Sorts an error of a statement: passing faults may be repeated, all others are defects.
pub(crate) fn sql(error: sqlx::Error) -> StoreError {
    if is_full(&error) {
        return StoreError::Exhausted {
            limit: "disk_space",
        };
    }
    if is_passing(&error) {
        unavailable(error)
    } else {
        internal(error)
    }
}

/// An error of COMMIT: its outcome is not known unless the database says that it refused.
pub(crate) fn commit(error: sqlx::Error) -> StoreError {
    if is_full(&error) {
        StoreError::Exhausted {
            limit: "disk_space",
        }
    } else {
        unavailable(error)
    }
}

/// Whether the transaction lost against another and may simply be run again.
pub(crate) fn lost_race(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else {
        return false;
    };
    source
        .downcast_ref::<sqlx::Error>()
        .and_then(code)
        .is_some_and(|code| matches!(code.as_ref(), "40001" | "40P01"))
}

fn code(error: &sqlx::Error) -> Option<std::borrow::Cow<'_, str>> {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
}

/// SQLite's primary result code: the low byte of the extended one.
fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    let sqlx::Error::Database(inner) = error else {
        return None;
    };
    inner.try_downcast_ref::<sqlx::sqlite::SqliteError>()?;
    code(error)?
        .parse::<i32>()
        .ok()
        .map(|extended| extended & 0xff)
}

fn is_full(error: &sqlx::Error) -> bool {
    const SQLITE_FULL: i32 = 13;
    sqlite_code(error) == Some(SQLITE_FULL)
        || (sqlite_code(error).is_none() && code(error).as_deref() == Some("53100"))
}

fn is_passing(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    const SQLITE_BUSY: i32 = 5;
    const SQLITE_LOCKED: i32 = 6;
    const SQLITE_IOERR: i32 = 10;
    if let Some(code) = sqlite_code(error) {
        return matches!(code, SQLITE_BUSY | SQLITE_LOCKED | SQLITE_IOERR);
    }
    match error {
        E::Io(_)
        | E::Tls(_)
        | E::Protocol(_)
        | E::PoolTimedOut
        | E::PoolClosed
        | E::WorkerCrashed
        | E::BeginFailed => true,
        // Connection faults, lost races, lock and statement timeouts, a server that stops or lacks resources, and a
        // server that turned read-only because another took over.
        E::Database(_) => code(error).is_some_and(|c| {
            ["08", "40", "53", "57", "58"]
                .iter()
                .any(|class| c.starts_with(class))
                || matches!(c.as_ref(), "55P03" | "25006" | "25P03")
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_may_be_repeated_and_a_wrong_statement_may_not() {
        let lost = sql(sqlx::Error::Io(std::io::Error::other("gone")));
        assert!(matches!(lost, StoreError::Unavailable(_)));
        assert!(matches!(
            sql(sqlx::Error::RowNotFound),
            StoreError::Internal(_)
        ));
        assert!(matches!(
            sql(sqlx::Error::PoolTimedOut),
            StoreError::Unavailable(_)
        ));
    }

    #[test]
    fn an_error_of_commit_may_always_be_repeated() {
        assert!(matches!(
            commit(sqlx::Error::RowNotFound),
            StoreError::Unavailable(_)
        ));
        assert!(!lost_race(&commit(sqlx::Error::RowNotFound)));
    }
}
